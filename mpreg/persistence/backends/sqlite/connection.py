"""The driver seam: a thread that owns one SQLite connection and runs functions on it.

On asyncio the thread is aiosqlite's; on trio, where aiosqlite cannot run (it awaits asyncio
futures), it is mpreg's own. Nothing above this file knows which. The unit of work is a
whole function, never a statement: one hop to the thread and back costs as much as dozens of rows,
and an ``await`` inside a transaction is a place where it could be left open.

Both threads are daemons: whatever the program forgets to close, or crashes out of, the process
ends. That is safe at any moment, as `kill -9` is.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from typing import Any, Protocol, TypeVar

import aiosqlite
import anyio
import anyio.lowlevel
import outcome
import sniffio

from mpreg.persistence.backends.worker_thread import start_worker

__all__ = ["ConnectionThread", "Session", "start_thread"]

T = TypeVar("T")


class Session(Protocol):
    """What the thread owns: a connection and the functions that use it."""

    connection: sqlite3.Connection

    def close(self) -> None: ...


S = TypeVar("S", bound=Session)


class ConnectionThread(Protocol):
    """A thread with one open connection."""

    @property
    def abandoned(self) -> bool:
        """Whether a call was cancelled: what it began may still go on."""
        ...

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function on the thread; its result or its exception.

        Cancelled: the function goes on, nobody waits for it, and the thread can only be closed.
        """
        ...

    async def close(self, function: Callable[[], None]) -> None:
        """Run a last function, which closes the connection, and end the thread.

        Where a call was cancelled, this waits for nothing: the thread does it when it gets there.
        """
        ...


async def start_thread(open_session: Callable[[], S]) -> tuple[ConnectionThread, S]:
    """Start a thread and make its session there. Where that raises, the thread has ended.

    Cancelled: only before anything was done, since a connection opened for nobody would stay open.
    """
    if sniffio.current_async_library() == "trio":
        return await start_worker("mpreg-sqlite", open_session)
    await anyio.lowlevel.checkpoint_if_cancelled()
    thread: ConnectionThread
    with anyio.CancelScope(shield=True):
        thread, session = await _start_asyncio(open_session)
    return thread, session


# --- asyncio ---


class _DaemonConnection(aiosqlite.Connection):
    """aiosqlite's connection, whose thread does not keep the process alive."""

    def __init__(self, connector: Callable[[], sqlite3.Connection]) -> None:
        super().__init__(connector, iter_chunk_size=64)
        self._work = self._thread.run
        self._thread.run = self._work_to_the_end  # type: ignore[method-assign]
        self._thread.daemon = True

    def _work_to_the_end(self) -> None:
        """On the thread. aiosqlite's own work ends where a result finds its event loop closed."""
        try:
            self._work()
        except RuntimeError:
            while not self._tx.empty():
                _, function = self._tx.get()
                outcome.capture(function)

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        result: T = await self._execute(function, *arguments)  # type: ignore[no-untyped-call]
        return result

    def call_soon(self, function: Callable[[], None]) -> None:
        """Run a function on the thread, once it gets there. Nobody waits for it."""
        self._tx.put_nowait((None, function))

    async def end(self, *, wait: bool) -> None:
        """Close what is still open and end the thread, once it is done with what it is at."""
        ended = self.stop()
        if wait and ended is not None:
            with anyio.CancelScope(shield=True):
                await ended


class _AiosqliteThread:
    def __init__(self, connection: _DaemonConnection) -> None:
        self._connection = connection
        self.abandoned = False

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        try:
            return await self._connection.run(function, *arguments)
        except anyio.get_cancelled_exc_class():
            self.abandoned = True
            raise

    async def close(self, function: Callable[[], None]) -> None:
        try:
            if not self.abandoned:
                await self.run(function)
        finally:
            # Where a call was abandoned, nobody can say when the thread gets there. Again then:
            # closing twice does nothing.
            self._connection.call_soon(function)
            await self._connection.end(wait=not self.abandoned)


async def _start_asyncio(open_session: Callable[[], S]) -> tuple[ConnectionThread, S]:
    opened: list[outcome.Outcome[S]] = []

    def connect() -> sqlite3.Connection | None:
        opened.append(outcome.capture(open_session))
        return opened[0].value.connection if isinstance(opened[0], outcome.Value) else None

    # aiosqlite would not wait for its thread after an error: it could outlive the event loop.
    connection = _DaemonConnection(connect)  # type: ignore[arg-type]
    await connection
    if isinstance(opened[0], outcome.Error):
        await connection.end(wait=True)
    return _AiosqliteThread(connection), opened[0].unwrap()

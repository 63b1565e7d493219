"""A thread that owns one session of a backend and runs functions on it, on asyncio and on trio.

The unit of work is a whole function: one hop to the thread and back costs as much as dozens of
small steps. The thread is a daemon: whatever the program forgets to close, or crashes out of, the
process ends. That is safe at any moment, as `kill -9` is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import outcome

from mpreg.actors.parking import call_soon_from_anywhere
from mpreg.persistence.own_thread import Call, Job

__all__ = ["WorkerThread", "start_worker"]

T = TypeVar("T")


class WorkerThread:
    """See `start_worker`. To be used from the event loop that started it."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[Job | Call | None] = SimpleQueue()
        self._call_soon = call_soon_from_anywhere()
        self.abandoned = False
        """Whether a call was cancelled: what it began may still go on."""
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function on the thread; its result or its exception.

        Cancelled: the function goes on, nobody waits for it, and the thread can only be closed.
        """
        job = Job(lambda: function(*arguments), self._call_soon)
        self._jobs.put(job)
        try:
            result: T = await job.wait()
        except anyio.get_cancelled_exc_class():
            self.abandoned = True
            raise
        return result

    async def close(self, function: Callable[[], None]) -> None:
        """Run a last function, which closes the session, and end the thread.

        Where a call was cancelled, this waits for nothing: the thread does it when it gets there.
        """
        try:
            if not self.abandoned:
                await self.run(function)
        finally:
            # Again where a call was abandoned: closing twice does nothing.
            self._jobs.put(function)
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, Job):
                job.work()
            else:
                outcome.capture(job)


async def start_worker(name: str, open_session: Callable[[], T]) -> tuple[WorkerThread, T]:
    """Start a thread and make its session there. Where that raises, the thread has ended.

    Cancelled: only before anything was done, since a session opened for nobody would stay open.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    with anyio.CancelScope(shield=True):
        thread = WorkerThread(name)
        try:
            session = await thread.run(open_session)
        except BaseException:
            await thread.close(lambda: None)
            raise
    return thread, session

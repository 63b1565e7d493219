"""Queues of other packages on SQLite, fully synced, through worker threads.

Each is given what speaks for it: our page cache and checkpoint size, no search of an empty queue
(a semaphore counts what was sent, so that nobody polls or sleeps), its finished rows cleared every
now and then where it leaves that to its users, and no more threads than help it.
"""

from __future__ import annotations

import threading
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import anyio
import anyio.lowlevel
import anyio.to_thread

from benchmarks.queues.channel import Channel
from benchmarks.queues.workload import BODY, QUEUE, TEXT
from benchmarks.workload import options

#: Each does one thing at a time, behind a lock. Two threads keep it busy; forty fight for the lock.
THREADS = 2

#: Acknowledged rows after which they are cleared.
CLEARED = 200


class Peer(Protocol):
    """The blocking calls of a package, each durable when it returns."""

    def send(self) -> None: ...

    def receive(self) -> Any: ...

    def acknowledge(self, handle: Any) -> None: ...

    def close(self) -> None: ...


def tune(connection: Any) -> None:
    """What mpreg's own connection has: fsync, page cache, pages between checkpoints."""
    settings = options()
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute(f"PRAGMA cache_size = -{settings.cache_bytes // 1024}")
    connection.execute(f"PRAGMA wal_autocheckpoint = {settings.wal_checkpoint_pages}")
    assert connection.execute("PRAGMA journal_mode").fetchone()[0] == "wal"
    assert connection.execute("PRAGMA synchronous").fetchone()[0] == 2


class PersistQueue:
    """persist-queue. It marks rows as acknowledged, and looks through them at each receive."""

    def __init__(self, directory: Path) -> None:
        import persistqueue

        self._queue: Any = persistqueue.SQLiteAckQueue(
            str(directory), multithreading=True, auto_commit=True
        )
        tune(self._queue._putter)
        tune(self._queue._getter)
        self._acknowledged = 0

    def send(self) -> None:
        self._queue.put(BODY)

    def receive(self) -> Any:
        return self._queue.get(block=False, raw=True)

    def acknowledge(self, handle: Any) -> None:
        self._queue.ack(id=handle["pqid"])
        self._acknowledged += 1
        if self._acknowledged % CLEARED == 0:
            self._queue.clear_acked_data(max_delete=CLEARED, keep_latest=0)

    def close(self) -> None:
        self._queue.close()


class LiteQueue:
    """litequeue. It leaves locking to its users, and done rows as well."""

    def __init__(self, directory: Path) -> None:
        import litequeue

        self._queue: Any = litequeue.LiteQueue(directory / "litequeue.db", queue_name=QUEUE)
        tune(self._queue.conn)
        self._lock = threading.Lock()
        self._acknowledged = 0

    def send(self) -> None:
        with self._lock:
            self._queue.put(TEXT)

    def receive(self) -> Any:
        with self._lock:
            return self._queue.pop()

    def acknowledge(self, handle: Any) -> None:
        with self._lock:
            self._queue.done(handle.message_id)
            self._acknowledged += 1
            if self._acknowledged % CLEARED == 0:
                self._queue.prune()

    def close(self) -> None:
        self._queue.close()


class Huey:
    """huey's storage. Taking a message deletes it: there is nothing to acknowledge."""

    def __init__(self, directory: Path) -> None:
        from huey.storage import SqliteStorage

        self._storage: Any = SqliteStorage(QUEUE, str(directory / "huey.db"), fsync=True)
        tune(self._storage.conn)

    def send(self) -> None:
        self._storage.enqueue(BODY)

    def receive(self) -> Any:
        return self._storage.dequeue()

    def acknowledge(self, handle: Any) -> None: ...

    def close(self) -> None:
        self._storage.close()


@asynccontextmanager
async def _opened(make: Callable[[Path], Peer], directory: Path) -> AsyncIterator[Channel]:
    peer = make(directory)
    sent = anyio.Semaphore(0, fast_acquire=True)
    in_thread = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(THREADS))

    async def send() -> None:
        await in_thread(peer.send)
        sent.release()

    async def receive() -> Any:
        await sent.acquire()
        handle = await in_thread(peer.receive)
        assert handle is not None, "a message that was sent is not there"
        return handle

    async def acknowledge(handle: Any) -> None:
        if isinstance(peer, Huey):
            # A thread for nothing would be held against it.
            await anyio.lowlevel.checkpoint()
        else:
            await in_thread(peer.acknowledge, handle)

    yield Channel(send, receive, acknowledge)
    peer.close()


def opener(contender: str) -> Callable[[Path], AbstractAsyncContextManager[Channel]]:
    makers: dict[str, Callable[[Path], Peer]] = {
        "persist-queue": PersistQueue,
        "litequeue": LiteQueue,
        "huey": Huey,
    }
    return partial(_opened, makers[contender])

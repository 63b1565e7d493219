"""diskcache, and what one writes by oneself: cachetools before sqlite3.

Each is given what speaks for it: no more threads than help it, transactions while it is filled, and
sqlite3 by hand two connections, so that its reads need not wait for its fsyncs. diskcache's
`FanoutCache` is not faster here: its shards share one disk.
"""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread

from benchmarks.cache.load import Contender, DirectContender, Level
from benchmarks.cache.workload import (
    DISKCACHE_FULL,
    MEMORY_ENTRIES,
    NAIVE,
    wanted_values,
)
from benchmarks.workload import options

#: A write waits for the disk, and reads go on beside it. With more, no peer is clearly faster.
THREADS = 8

SELECT = "SELECT value FROM entries WHERE key = ?"
UPSERT = "INSERT INTO entries VALUES (?, ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value"


def _name(key: int) -> str:
    return f"key{key:07}"


def prepare(contender: str, directory: Path, entries: int) -> None:
    if contender == NAIVE:
        with contextlib.closing(_connect(directory)) as connection:
            connection.execute("BEGIN")
            rows = ((_name(key), value) for key, value in wanted_values(entries))
            connection.executemany(UPSERT, rows)
            connection.execute("COMMIT")
        return
    with contextlib.closing(_open_diskcache(contender, directory)) as cache, cache.transact():
        for key, value in wanted_values(entries):
            cache.set(_name(key), value)


# --- diskcache ---


def _open_diskcache(contender: str, directory: Path) -> Any:
    import diskcache

    settings = {"sqlite_synchronous": 2} if contender.startswith(DISKCACHE_FULL) else {}
    return diskcache.Cache(str(directory), **settings)


@contextlib.contextmanager
def _directly(contender: str, directory: Path) -> Iterator[DirectContender]:
    with contextlib.closing(_open_diskcache(contender, directory)) as cache:

        def get(key: int) -> Level:
            return None if cache.get(_name(key)) is None else "L2"

        def put(key: int, value: bytes) -> None:
            cache.set(_name(key), value)

        yield DirectContender(get, put)


def direct_opener(contender: str) -> Callable[[Path], AbstractContextManager[DirectContender]]:
    return partial(_directly, contender)


@contextlib.asynccontextmanager
async def _through_threads(contender: str, directory: Path) -> AsyncIterator[Contender]:
    in_thread = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(THREADS))
    with _directly(contender, directory) as cache:
        yield Contender(partial(in_thread, cache.get), partial(in_thread, cache.put))


# --- cachetools and sqlite3 ---


def _connect(directory: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(
        directory / "naive.db", isolation_level=None, check_same_thread=False
    )
    settings = options()
    for pragma in (
        "journal_mode = WAL",
        "synchronous = FULL",
        f"cache_size = -{settings.cache_bytes // 1024}",
        f"wal_autocheckpoint = {settings.wal_checkpoint_pages}",
    ):
        connection.execute(f"PRAGMA {pragma}")
    connection.execute(
        "CREATE TABLE IF NOT EXISTS entries (key TEXT PRIMARY KEY, value BLOB NOT NULL)"
        " WITHOUT ROWID"
    )
    return connection


@contextlib.asynccontextmanager
async def _naive(directory: Path) -> AsyncIterator[Contender]:
    import cachetools

    memory: cachetools.LRUCache[str, bytes] = cachetools.LRUCache(MEMORY_ENTRIES)
    in_thread = partial(anyio.to_thread.run_sync, limiter=anyio.CapacityLimiter(THREADS))
    reading, writing = threading.Lock(), threading.Lock()
    with (
        contextlib.closing(_connect(directory)) as reader,
        contextlib.closing(_connect(directory)) as writer,
    ):

        def select(name: str) -> bytes | None:
            with reading:
                row = reader.execute(SELECT, (name,)).fetchone()
            return None if row is None else row[0]

        def upsert(name: str, value: bytes) -> None:
            with writing:
                writer.execute(UPSERT, (name, value))

        async def get(key: int) -> Level:
            name = _name(key)
            if memory.get(name) is not None:
                return "L1"
            value = await in_thread(select, name)
            if value is None:
                return None
            memory[name] = value
            return "L2"

        async def put(key: int, value: bytes) -> None:
            name = _name(key)
            await in_thread(upsert, name, value)
            memory[name] = value

        yield Contender(get, put)


def opener(contender: str) -> Callable[[Path], AbstractAsyncContextManager[Contender]]:
    return _naive if contender == NAIVE else partial(_through_threads, contender)

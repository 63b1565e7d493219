"""Durable puts by each contender: so many callers, each awaiting its ack before its next put."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import sqlite3
import time
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import aiosqlite
import anyio
import anyio.to_thread

from benchmarks.workload import (
    GET,
    NAMESPACE,
    NAMESPACE_ID,
    PUT,
    VALUE,
    Result,
    Run,
    key,
    open_plain,
    row,
)
from mpreg.codec import encode_key, encode_name
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.file.format import FRAME_BYTES, FrameKind, fill_in_frame
from mpreg.persistence.backends.file.payload import encode_changes
from mpreg.persistence.commit_group import CommitPlan

#: One caller in so many measures its latencies: measuring all would itself be felt.
SAMPLED = 16

Operation = Callable[[str], Awaitable[object]]


def store_of(contender: str) -> str:
    """The backend in whose format a contender's directory is prepared."""
    return "file" if "file" in contender else "sqlite"


async def run_callers(run: Run, operation: Operation) -> tuple[float, list[float]]:
    """Seconds for all operations, after as many to warm up; and a sample of latencies."""
    latencies: list[float] = []
    seconds = 0.0
    for phase in range(2):
        latencies.clear()
        seconds = await _run_phase(run, operation, phase, latencies)
    return seconds, latencies


async def _run_phase(run: Run, operation: Operation, phase: int, latencies: list[float]) -> float:
    each = run.operations // run.callers
    go = anyio.Event()

    async def caller(number: int) -> None:
        generator = random.Random(f"{run.seed}:{phase}:{number}")
        await go.wait()
        for _ in range(each):
            await operation(key(generator, run.keys))

    async def sampled_caller(number: int) -> None:
        generator = random.Random(f"{run.seed}:{phase}:{number}")
        await go.wait()
        for _ in range(each):
            began = time.perf_counter()
            await operation(key(generator, run.keys))
            latencies.append(time.perf_counter() - began)

    async with anyio.create_task_group() as task_group:
        for number in range(run.callers):
            task_group.start_soon(caller if number % SAMPLED else sampled_caller, number)
        await anyio.wait_all_tasks_blocked()
        began = time.perf_counter()
        go.set()
    return time.perf_counter() - began


# --- mpreg ---


def configuration(run: Run) -> PersistenceConfig:
    return PersistenceConfig(data_dir=run.directory, backend=store_of(run.contender))


async def mpreg_puts(run: Run) -> Result:
    async with PersistenceRegistry(configuration(run)) as registry:
        store = registry.key_value_store(NAMESPACE)
        before = await registry.stats()
        seconds, latencies = await run_callers(run, lambda name: store.put(name, VALUE))
        after = await registry.stats()
    fsyncs = after.fsyncs - before.fsyncs
    detail = f"{(after.operations - before.operations) / fsyncs:.1f}"
    return Result(seconds, run.operations, latencies, detail)


async def mpreg_gets(run: Run) -> Result:
    async with PersistenceRegistry(configuration(run)) as registry:
        store = registry.key_value_store(NAMESPACE)
        seconds, latencies = await run_callers(run, store.get)
    return Result(seconds, run.operations, latencies)


# --- the limit: sqlite3 in one thread, no event loop, perfect group commit ---


def bare_puts(run: Run) -> Result:
    connection = open_plain(run.directory)
    # SQLite writes no page for a row that is there already: none is put twice with its version.
    generator = random.Random(f"{run.seed}:{run.callers}")
    version = run.keys
    latencies: list[float] = []
    seconds = 0.0
    for _phase in range(2):
        latencies.clear()
        began = time.perf_counter()
        for _group in range(run.operations // run.callers):
            begun = time.perf_counter()
            rows = [
                row(key(generator, run.keys), version + number) for number in range(run.callers)
            ]
            version += run.callers
            _commit(connection, rows)
            latencies.append(time.perf_counter() - begun)
        seconds = time.perf_counter() - began
    connection.close()
    return Result(seconds, run.operations, latencies)


def _commit(connection: sqlite3.Connection, rows: list[tuple[Any, ...]]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    if len(rows) == 1:
        connection.execute(PUT, rows[0])
    else:
        connection.executemany(PUT, rows)
    connection.execute("COMMIT")


# --- the limit of a journal: the same bytes, and nothing else ---


def append_puts(run: Run) -> Result:
    """The frames that the file backend would write, each synced: no state, no thread, no loop.

    They go over zeros that are on the disk already, which is what makes an fdatasync cheap.
    """
    generator = random.Random(run.seed)
    namespace, version = encode_name(NAMESPACE), run.keys
    groups = run.operations // run.callers
    frame = bytearray(FRAME_BYTES)
    latencies: list[float] = []
    seconds = 0.0
    with (run.directory / "appended").open("w+b", buffering=0) as file:
        file.write(bytes(2 * groups * (200 * run.callers + 200)))
        os.fsync(file.fileno())
        file.seek(0)
        for _phase in range(2):
            latencies.clear()
            began = time.perf_counter()
            for group in range(groups):
                begun = time.perf_counter()
                plan = CommitPlan([], version)
                for _ in range(run.callers):
                    plan.last_version = version = version + 1
                    name = encode_key(key(generator, run.keys))
                    plan.entries[namespace, name] = (version, None, VALUE)
                encode_changes(plan, frame)
                fill_in_frame(frame, 0, FrameKind.COMMIT, group, 0)
                file.write(frame)
                os.fdatasync(file.fileno())
                latencies.append(time.perf_counter() - begun)
            seconds = time.perf_counter() - began
    return Result(seconds, run.operations, latencies)


def bare_gets(run: Run) -> Result:
    connection = open_plain(run.directory)
    generator = random.Random(run.seed)
    seconds = 0.0
    for _phase in range(2):
        began = time.perf_counter()
        for _ in range(run.operations):
            encoded = encode_key(key(generator, run.keys))
            connection.execute(GET, (NAMESPACE_ID, encoded)).fetchone()
        seconds = time.perf_counter() - began
    connection.close()
    return Result(seconds, run.operations, [])


# --- peers ---


async def naive_aiosqlite_puts(run: Run) -> Result:
    """One commit a put behind a lock: what one writes without thinking of group commit."""
    versions = iter(range(run.keys, 1 << 62))
    lock = asyncio.Lock()
    async with aiosqlite.connect(run.directory / "mpreg.db", isolation_level=None) as connection:
        for pragma in ("journal_mode = WAL", "synchronous = FULL", "cache_size = -65536"):
            await connection.execute(f"PRAGMA {pragma}")

        async def put(name: str) -> None:
            async with lock:
                await connection.execute("BEGIN IMMEDIATE")
                await connection.execute(PUT, row(name, next(versions)))
                await connection.execute("COMMIT")

        seconds, latencies = await run_callers(run, put)
    return Result(seconds, run.operations, latencies)


async def diskcache_puts(run: Run) -> Result:
    """diskcache, synchronous=FULL, through a worker thread. It starts empty: its advantage."""
    import diskcache

    with contextlib.closing(
        diskcache.Cache(str(run.directory / "diskcache"), sqlite_synchronous=2)
    ) as cache:

        async def put(name: str) -> None:
            await anyio.to_thread.run_sync(cache.set, name, VALUE)

        seconds, latencies = await run_callers(run, put)
    return Result(seconds, run.operations, latencies)


def on(backend: str, function: Callable[[Run], Awaitable[Result]]) -> Callable[[Run], Result]:
    def run_there(run: Run) -> Result:
        loop, _, uvloop = backend.partition("+")
        return anyio.run(
            partial(function, run),
            backend=loop,
            backend_options={"use_uvloop": True} if uvloop else {},
        )

    return run_there


PUTS: dict[str, Callable[[Run], Result]] = {
    "bare sqlite3": bare_puts,
    "mpreg asyncio": on("asyncio", mpreg_puts),
    "mpreg uvloop": on("asyncio+uvloop", mpreg_puts),
    "mpreg trio": on("trio", mpreg_puts),
    "bare append": append_puts,
    "mpreg file asyncio": on("asyncio", mpreg_puts),
    "mpreg file uvloop": on("asyncio+uvloop", mpreg_puts),
    "mpreg file trio": on("trio", mpreg_puts),
    "naive aiosqlite": on("asyncio", naive_aiosqlite_puts),
    "diskcache": on("asyncio", diskcache_puts),
}
GETS: dict[str, Callable[[Run], Result]] = {
    "bare sqlite3": bare_gets,
    "mpreg asyncio": on("asyncio", mpreg_gets),
    "mpreg uvloop": on("asyncio+uvloop", mpreg_gets),
    "mpreg trio": on("trio", mpreg_gets),
    "mpreg file asyncio": on("asyncio", mpreg_gets),
    "mpreg file uvloop": on("asyncio+uvloop", mpreg_gets),
    "mpreg file trio": on("trio", mpreg_gets),
}
#: They commit each put by itself: fewer operations are enough, and more would take minutes.
ONE_COMMIT_A_PUT = frozenset({"naive aiosqlite", "diskcache"})

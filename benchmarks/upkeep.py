"""What upkeep costs those who write meanwhile, and what it leaves of a day's work in miniature."""

from __future__ import annotations

import random
import shutil
import time
from contextlib import suppress
from functools import partial
from pathlib import Path

import anyio
from attrs import define, field
from rich.table import Table

from benchmarks.figures import MIB, console, percentile
from mpreg.persistence import (
    Durability,
    KeyValueStore,
    LogRetention,
    PersistenceConfig,
    PersistenceRegistry,
)

PARTS = ("upkeep-latency", "upkeep-day")

CALLERS = 16
QUIET_SECONDS = 3.0
P99_RATIO_MAX = 2.0
SIZE_RATIO_MAX = 2.0

#: Of the day in miniature: a smaller log than usual, so that it does not hide what is behind it.
WAL_PAGES = 4_096
LOGS = 100
RECORDS_KEPT = 500
RECORD_BYTES = 200
LARGE_RECORD_BYTES = 1_100
"""Of each tenth log: a page of a database has room for three of them."""
#: Without a trace of upkeep. On a busy machine it leaves none for tens of seconds.
QUIET_AFTER_SECONDS = 60.0


def measure_upkeep(parts: set[str], directory: Path, scale: float) -> None:
    """Run these parts and print what they found."""
    if "upkeep-latency" in parts:
        _show_latencies(directory, scale)
    if "upkeep-day" in parts:
        _show_day(directory, scale)


# --- latency ---


@define
class _Callers:
    """Callers that put one key after the other, each waiting for its ack."""

    store: KeyValueStore
    latencies: list[float] = field(factory=list)
    numbers: random.Random = field(factory=lambda: random.Random(1))

    async def call(self) -> None:
        value = bytes(100)
        while True:
            began = time.perf_counter()
            await self.store.put(f"{self.numbers.randrange(100_000):06}", value)
            self.latencies.append(time.perf_counter() - began)

    def take(self) -> list[float]:
        taken, self.latencies = self.latencies, []
        return taken


async def latencies_beside_upkeep(
    directory: Path, entries: int
) -> tuple[list[float], list[float], float]:
    """Acks of the same callers in the same run: without upkeep, and while all of it is done. And
    how long it took."""
    config = PersistenceConfig(
        data_dir=directory,
        upkeep_interval_seconds=None,
        log_retention=(LogRetention(log="audit", records_max=100),),
    )
    async with PersistenceRegistry(config) as registry:
        await _fill(registry, entries)
        callers = _Callers(registry.key_value_store("busy"))
        async with anyio.create_task_group() as task_group:
            for _ in range(CALLERS):
                task_group.start_soon(callers.call)
            await anyio.sleep(QUIET_SECONDS)
            callers.take()
            await anyio.sleep(QUIET_SECONDS)
            quiet = callers.take()
            began = time.perf_counter()
            await registry.compact()
            took = time.perf_counter() - began
            busy = callers.take()
            await anyio.sleep(QUIET_SECONDS)
            quiet += callers.take()
            task_group.cancel_scope.cancel()
    return quiet, busy, took


async def _fill(registry: PersistenceRegistry, entries: int) -> None:
    """Entries that expire at once, and records beyond their log's limit."""
    store, log = registry.key_value_store("expiring"), registry.log_store("audit")
    step = 1_000
    for start in range(0, entries, step):
        async with registry.transaction(durability=Durability.RELAXED) as transaction:
            for number in range(start, start + step):
                name = f"{number * 7919 % entries:07}"
                store.put_nowait(name, bytes(100), ttl_seconds=0.001, transaction=transaction)
            log.append_many_nowait([bytes(100)] * step, transaction=transaction)


def _show_latencies(directory: Path, scale: float) -> None:
    entries = max(2_000, int(200_000 * scale) // 1_000 * 1_000)
    table = Table(
        title=f"Durable puts of {CALLERS} callers while {entries:,} entries and as many records go"
    )
    for column in ("loop", "", "a second", "p50 ms", "p99 ms", "worst ms", "p99 ratio", ""):
        table.add_column(column, justify="right")
    for loop in ("asyncio", "trio"):
        home = directory / f"upkeep-{loop}"
        shutil.rmtree(home, ignore_errors=True)
        quiet, busy, took = anyio.run(latencies_beside_upkeep, home, entries, backend=loop)
        shutil.rmtree(home)
        ratio = _p99(busy) / _p99(quiet)
        verdict = "met" if ratio <= P99_RATIO_MAX else "MISSED"
        table.add_row(loop, "without", *_row(quiet, 2 * QUIET_SECONDS), "", "")
        table.add_row(loop, "with", *_row(busy, took), f"{ratio:.2f}", verdict)
    console.print(table)


def _row(latencies: list[float], seconds: float) -> tuple[str, ...]:
    median = percentile(latencies, 50) or 0.0
    return (
        f"{len(latencies) / seconds:,.0f}",
        *(f"{value * 1000:.2f}" for value in (median, _p99(latencies), max(latencies))),
    )


def _p99(latencies: list[float]) -> float:
    return percentile(latencies, 99) or 0.0


# --- a day ---


@define
class _Day:
    """What is left at the end of the day, and the most that there was of it."""

    live_bytes: int = 0
    directory_bytes: int = 0
    """While it is still open, and at rest: its log counts."""
    closed_bytes: int = 0
    directory_bytes_most: int = 0
    wal_bytes_most: int = 0
    seconds: float = 0.0


async def live_through(directory: Path, keys: int) -> _Day:
    """Keys that expire, logs that are cut, snapshots that are replaced; a few things that stay."""
    config = PersistenceConfig(
        data_dir=directory,
        wal_checkpoint_pages=WAL_PAGES,
        upkeep_interval_seconds=0.5,
        log_retention=tuple(
            LogRetention(log=f"log{number}", records_max=RECORDS_KEPT) for number in range(LOGS)
        ),
    )
    day = _Day()
    began = time.perf_counter()
    async with PersistenceRegistry(config) as registry, anyio.create_task_group() as task_group:
        task_group.start_soon(_watch, directory, day)
        async with anyio.create_task_group() as workers:
            for worker in range(CALLERS * 4):
                workers.start_soon(_put_keys, registry, worker, keys // (CALLERS * 4))
            for number in range(LOGS):
                workers.start_soon(_append, registry, number, keys // 100)
            workers.start_soon(_replace_snapshots, registry, max(3, keys // 20_000))
        await _until_quiet(registry)
        day.directory_bytes = _bytes_in(directory)
        task_group.cancel_scope.cancel()
    day.closed_bytes = _bytes_in(directory)
    day.live_bytes = await _live_bytes(directory)
    day.seconds = time.perf_counter() - began
    return day


async def _put_keys(registry: PersistenceRegistry, worker: int, count: int) -> None:
    store = registry.key_value_store(f"space{worker % 10}")
    value = bytes(200)
    for number in range(count):
        ttl_seconds = None if number % 10 == 0 else 1.0 + number % 3
        await store.put(f"{worker}/{number * 7919 % count:06}", value, ttl_seconds=ttl_seconds)


async def _append(registry: PersistenceRegistry, number: int, count: int) -> None:
    log = registry.log_store(f"log{number}")
    record = bytes(RECORD_BYTES if number % 10 else LARGE_RECORD_BYTES)
    for _ in range(0, count, 50):
        await log.append_many([record] * 50)


async def _replace_snapshots(registry: PersistenceRegistry, times: int) -> None:
    for number in range(times):
        await registry.snapshot_store(f"state{number % 3}").save(bytes(4 * MIB))


async def _watch(directory: Path, day: _Day) -> None:
    while True:
        day.directory_bytes_most = max(day.directory_bytes_most, _bytes_in(directory))
        wal = directory / "mpreg.db-wal"
        day.wal_bytes_most = max(day.wal_bytes_most, wal.stat().st_size if wal.exists() else 0)
        await anyio.sleep(0.05)


async def _until_quiet(registry: PersistenceRegistry) -> None:
    """Return when upkeep has had nothing more to do for a while."""
    seen, since = (-1, -1, -1, -1), time.perf_counter()
    while time.perf_counter() - since < QUIET_AFTER_SECONDS:
        stats = await registry.stats()
        sizes = (stats.database_bytes, stats.wal_bytes)
        if (now := (stats.commits, stats.compactions, *sizes)) != seen:
            seen, since = now, time.perf_counter()
        await anyio.sleep(0.1)


async def _live_bytes(directory: Path) -> int:
    """Keys, values, records and snapshots that can still be read."""
    config = PersistenceConfig(data_dir=directory, upkeep_interval_seconds=None)
    total = 0
    async with PersistenceRegistry(config) as registry:
        for number in range(10):
            async for entry in registry.key_value_store(f"space{number}").scan():
                total += len(entry.key) + len(entry.value)
        for number in range(LOGS):
            async for record in registry.log_store(f"log{number}").read_range():
                total += len(record.data)
        for number in range(3):
            snapshot = await registry.snapshot_store(f"state{number}").load()
            total += 0 if snapshot is None else len(snapshot.data)
    return total


def _bytes_in(directory: Path) -> int:
    """Of all files, also where they go meanwhile."""
    total = 0
    for path in directory.rglob("*"):
        with suppress(FileNotFoundError):
            total += path.stat().st_size if path.is_file() else 0
    return total


def _show_day(directory: Path, scale: float) -> None:
    keys = max(20_000, int(1_000_000 * scale))
    for loop in ("asyncio", "trio"):
        home = directory / "upkeep-day"
        shutil.rmtree(home, ignore_errors=True)
        day = anyio.run(partial(live_through, home, keys), backend=loop)
        shutil.rmtree(home)
        logs = f"{LOGS} logs of {keys // 100:,} records"
        console.print(_day_table(f"A day in miniature, {loop}: {keys:,} keys, {logs}", day))
        console.print(f"It took {day.seconds:.0f} s.")


def _day_table(title: str, day: _Day) -> Table:
    table = Table(title=title)
    for column in ("what", "MiB", "bound", ""):
        table.add_column(column, justify="left" if column == "what" else "right")
    wal_bound = WAL_PAGES * 4_120 * 1.25 + 16 * MIB
    ratio = day.directory_bytes / day.live_bytes
    table.add_row("live data", f"{day.live_bytes / MIB:.1f}", "", "")
    table.add_row(
        "directory at rest",
        f"{day.directory_bytes / MIB:.1f}",
        f"{ratio:.2f} of {SIZE_RATIO_MAX:g} times live",
        "met" if ratio <= SIZE_RATIO_MAX else "MISSED",
    )
    table.add_row("directory when closed", f"{day.closed_bytes / MIB:.1f}")
    table.add_row("the most that the directory held", f"{day.directory_bytes_most / MIB:.1f}")
    table.add_row(
        "the most that the write-ahead log held",
        f"{day.wal_bytes_most / MIB:.1f}",
        f"{wal_bound / MIB:.1f}",
        "met" if day.wal_bytes_most <= wal_bound else "MISSED",
    )
    return table

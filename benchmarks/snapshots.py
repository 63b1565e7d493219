"""Snapshots against copying a file: how fast they are saved and loaded, in how much memory, and
how long small puts wait beside a save.

Each measurement runs in a process of its own: ``python -m benchmarks.snapshots WORK …``.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
import zlib
from collections.abc import AsyncIterator, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from rich.table import Table

from benchmarks.figures import MIB, console, peak_mib, percentile
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.snapshots import CHUNK_BYTES

PARTS = ("snapshots",)

FULL_MIB = 1_024
#: The page caches would hide what a save itself needs.
CACHE_BYTES = 4 * MIB
WAL_PAGES = 16_384

RATIO_MIN = 0.4
PEAK_MIB_MAX = 64

Figures = dict[str, float]


def measure_snapshots(parts: set[str], directory: Path, scale: float, rounds: int) -> None:
    """Run this part and print what it found."""
    if "snapshots" not in parts:
        return
    home = directory / "snapshots"
    shutil.rmtree(home, ignore_errors=True)
    home.mkdir(parents=True)
    size_mib = max(8, int(FULL_MIB * scale))
    _write_source(home / "source", size_mib)
    _show_speed(home, size_mib, rounds)
    _show_puts(home)
    shutil.rmtree(home)


def _write_source(path: Path, size_mib: int) -> None:
    block = random.Random(1).randbytes(16 * MIB)
    with path.open("wb") as file:
        for number in range(size_mib):
            start = number % 16 * MIB
            file.write(block[start : start + MIB - 8] + number.to_bytes(8, "big"))
        _sync(file.fileno())


def _sync(descriptor: int) -> None:
    os.fsync(descriptor)


# --- speed ---


BARE = ("cp + fsync", "cp again + fsync", "bare sqlite3")
WORKS = (*BARE, "save", "save again", "load", "load + fsync")
NOTE = (
    "A save again replaces a version, so it is held against a copy that replaces one: to a new\n"
    "name, synced, renamed over the old one, the directory synced. Both free the blocks of what\n"
    "they replace. All others are held against cp + fsync."
)


def _show_speed(home: Path, size_mib: int, rounds: int) -> None:
    measured: dict[str, list[Figures]] = {work: [] for work in WORKS}
    for number in range(rounds):
        for work in WORKS:
            if work in ("cp + fsync", "bare sqlite3", "save"):
                _clear(home)
            os.sync()
            figures = _in_own_process(work, home)
            measured[work].append(figures)
            rate = size_mib / figures["seconds"]
            console.print(f"  round {number + 1}, {work}: {rate:,.0f} MiB a second")
    table = Table(title=f"A snapshot of {size_mib:,} MiB from and to a file", caption=NOTE)
    for column in ("", "MiB a second", *(f"of {work}" for work in BARE), "peak MiB", ""):
        table.add_column(column, justify="left" if not column else "right")
    for work in WORKS:
        rates = [size_mib / one["seconds"] for one in measured[work]]
        peak = max(one["peak_mib"] for one in measured[work])
        limit = "cp again + fsync" if work == "save again" else "cp + fsync"
        table.add_row(
            work,
            f"{statistics.median(rates):,.0f}",
            *(f"{_ratio(measured, work, to):.2f}" for to in BARE),
            f"{peak:.0f}",
            _verdict(work, _ratio(measured, work, limit), peak),
        )
    console.print(table)


def _clear(home: Path) -> None:
    shutil.rmtree(home / "data", ignore_errors=True)
    for path in home.glob("copy*"):
        path.unlink()


def _ratio(measured: dict[str, list[Figures]], work: str, to: str) -> float:
    """Of rounds, each of which ran within the same minute."""
    pairs = zip(measured[work], measured[to], strict=True)
    return statistics.median(other["seconds"] / one["seconds"] for one, other in pairs)


def _verdict(work: str, ratio: float, peak: float) -> str:
    if work in BARE:
        return ""
    missed = [
        *(["speed"] if ratio < RATIO_MIN else []),
        *(["memory"] if peak >= PEAK_MIB_MAX else []),
    ]
    return f"MISSED: {' and '.join(missed)}" if missed else "met"


def _in_own_process(work: str, home: Path) -> Figures:
    command = [sys.executable, "-m", "benchmarks.snapshots", work, str(home)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    figures: Figures = json.loads(done.stdout)
    return figures


def copy(home: Path) -> None:
    with (home / "source").open("rb") as source, (home / "copy").open("wb") as target:
        shutil.copyfileobj(source, target, MIB)
        target.flush()
        _sync(target.fileno())


def copy_again(home: Path) -> None:
    """As a program replaces a file by a newer one that is there as a whole, or not."""
    with (home / "source").open("rb") as source, (home / "copy.new").open("wb") as target:
        shutil.copyfileobj(source, target, MIB)
        target.flush()
        _sync(target.fileno())
    (home / "copy.new").rename(home / "copy")
    directory = os.open(home, os.O_RDONLY)
    _sync(directory)
    os.close(directory)


def save_bare(home: Path) -> None:
    """The same rows in the same transactions, with the same pragmas; no event loop."""
    connection = sqlite3.connect(home / "copy.db", isolation_level=None)
    for pragma in (*schema.CREATION_PRAGMAS, *schema.WRITER_PRAGMAS):
        connection.execute(pragma)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute(f"PRAGMA cache_size = -{CACHE_BYTES // 1024}")
    for statement in schema.CREATE:
        connection.execute(statement)
    pages = 0
    with (home / "source").open("rb") as source:
        for number, chunk in enumerate(iter(lambda: source.read(CHUNK_BYTES), b"")):
            connection.execute("BEGIN IMMEDIATE")
            key = number.to_bytes(16, "big")
            connection.execute("INSERT INTO large_values VALUES (?, 1, ?, ?)", (number, key, chunk))
            row = (1, key, number, None, zlib.crc32(chunk), number)
            connection.execute("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)", row)
            connection.execute("COMMIT")
            pages += CHUNK_BYTES // 4096
            if pages >= WAL_PAGES:
                connection.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
                pages = 0
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    connection.close()


def config(home: Path) -> PersistenceConfig:
    return PersistenceConfig(data_dir=home / "data", cache_bytes=CACHE_BYTES)


async def save(home: Path) -> None:
    async with PersistenceRegistry(config(home)) as registry:
        await registry.snapshot_store("state").save(_pieces(home / "source"))


async def _pieces(path: Path) -> AsyncIterator[bytes]:
    with path.open("rb") as source:
        while piece := source.read(MIB):
            yield piece


async def load(home: Path) -> None:
    async with (
        PersistenceRegistry(config(home)) as registry,
        registry.snapshot_store("state").open() as reader,
    ):
        async for _ in reader:
            pass


async def load_to_file(home: Path) -> None:
    async with PersistenceRegistry(config(home)) as registry:
        with (home / "copy").open("wb") as target:
            async with registry.snapshot_store("state").open() as reader:
                async for chunk in reader:
                    target.write(chunk)
            target.flush()
            _sync(target.fileno())


DOING: dict[str, Callable[[Path], Any]] = {
    "cp + fsync": copy,
    "cp again + fsync": copy_again,
    "bare sqlite3": save_bare,
    "save": lambda home: anyio.run(save, home),
    "save again": lambda home: anyio.run(save, home),
    "load": lambda home: anyio.run(load, home),
    "load + fsync": lambda home: anyio.run(load_to_file, home),
}


# --- small puts beside it ---


QUIET_SECONDS = 3.0


async def latencies_beside_a_save(home: Path) -> tuple[list[float], list[float]]:
    """Acks of one caller in the same run: alone, and while a snapshot is saved."""
    async with PersistenceRegistry(PersistenceConfig(data_dir=home / "data")) as registry:
        store = registry.key_value_store("small")
        latencies: list[float] = []

        async def put_on() -> None:
            while True:
                began = time.perf_counter()
                await store.put("key", bytes(100))
                latencies.append(time.perf_counter() - began)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(put_on)
            await anyio.sleep(QUIET_SECONDS)
            quiet, latencies = latencies, []
            await registry.snapshot_store("state").save(_pieces(home / "source"))
            task_group.cancel_scope.cancel()
    return quiet, latencies


def _show_puts(home: Path) -> None:
    table = Table(title="Durable puts of one caller while a snapshot is saved")
    for column in ("loop", "", "puts", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right")
    for loop in ("asyncio", "trio"):
        _clear(home)
        found = anyio.run(partial(latencies_beside_a_save, home), backend=loop)
        for name, latencies in zip(("without", "with"), found, strict=True):
            figures = [*(percentile(latencies, p) or 0.0 for p in (50, 99)), max(latencies)]
            shown = (f"{figure * 1000:.2f}" for figure in figures)
            table.add_row(loop, name, f"{len(latencies):,}", *shown)
    console.print(table)


@click.command()
@click.argument("work", type=click.Choice(WORKS))
@click.argument("home", type=click.Path(path_type=Path))
def main(work: str, home: Path) -> None:
    """One measurement; the result as JSON."""
    began = time.perf_counter()
    DOING[work](home)
    seconds = time.perf_counter() - began
    click.echo(json.dumps({"seconds": seconds, "peak_mib": peak_mib()}))


if __name__ == "__main__":
    main()

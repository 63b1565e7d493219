"""How fast a store is verified and backed up, against reading its files."""

from __future__ import annotations

import random
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import anyio
from rich.table import Table

from benchmarks.figures import MIB, console
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.maintenance import backup, verify

PARTS = ("maintenance",)

FULL_MIB = 256
VALUE_BYTES = 1_024
#: Entries written in one transaction.
CHUNK = 1_000


def measure_maintenance(parts: set[str], directory: Path, scale: float, rounds: int) -> None:
    """Run this part and print what it found."""
    if "maintenance" not in parts:
        return
    entries = max(CHUNK, int(FULL_MIB * scale) * MIB // VALUE_BYTES)
    table = Table(title=f"Looking after a store of {entries:,} values of {VALUE_BYTES:,} bytes")
    for column in ("backend", "what", "MB/s", "of reading"):
        table.add_column(column, justify="left" if column in ("backend", "what") else "right")
    for backend in ("sqlite", "file"):
        store = directory / f"maintained-{backend}"
        anyio.run(_fill, store, backend, entries)
        for row in _measure(store, rounds):
            table.add_row(backend, *row)
        table.add_section()
        shutil.rmtree(store)
    console.print(table)
    console.print(
        "  Files are in the system's page cache. A backup writes, syncs and verifies what it wrote."
    )


async def _fill(store: Path, backend: str, entries: int) -> None:
    rng = random.Random(1)
    async with PersistenceRegistry(PersistenceConfig(data_dir=store, backend=backend)) as registry:
        values = registry.key_value_store("values")
        for start in range(0, entries, CHUNK):
            async with registry.transaction() as transaction:
                for number in range(start, start + CHUNK):
                    values.put_nowait(
                        b"%08d" % number, rng.randbytes(VALUE_BYTES), transaction=transaction
                    )


def _measure(store: Path, rounds: int) -> list[tuple[str, str, str]]:
    size = sum(file.stat().st_size for file in store.iterdir()) / 1e6
    place = store.with_name("copied")
    steps: dict[str, Callable[[], object]] = {
        "read": lambda: _read(store),
        "verify": lambda: anyio.run(_verify, store),
        "backup": lambda: anyio.run(backup, store, place),
    }
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            shutil.rmtree(place, ignore_errors=True)
            began = time.perf_counter()
            step()
            seconds[name].append(time.perf_counter() - began)
    shutil.rmtree(place, ignore_errors=True)
    return [
        (
            name,
            f"{size / statistics.median(took):,.0f}",
            f"{statistics.median(r / t for r, t in zip(seconds['read'], took, strict=True)):.3f}",
        )
        for name, took in seconds.items()
    ]


def _read(store: Path) -> None:
    for file in store.iterdir():
        with file.open("rb", buffering=0) as opened:
            while opened.read(MIB):
                pass


async def _verify(store: Path) -> None:
    report = await verify(store)
    assert not report.findings, report.findings

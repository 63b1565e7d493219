"""What a put costs, and a key takes, in a small and in a large file backend. A process for each."""

from __future__ import annotations

import gc
import json
import os
import random
import resource
import shutil
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import anyio
from attrs import asdict, frozen
from rich.table import Table

from benchmarks.figures import console
from benchmarks.workload import NAMESPACE, VALUE, key
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

__all__ = ["GROWTH_KEYS_MAX", "compare_growth", "sizes_up_to"]

GROWTH_KEYS_MAX = 5_000_000
CALLERS = 256
PUTS_EACH = 200


@frozen
class Growth:
    """Of one store with so many keys."""

    keys: int
    open_seconds: float
    bytes_per_key: float
    """Of memory, beyond that of an empty store."""
    over_us: float
    """CPU of the process for a put over a random key."""
    over_per_second: float
    new_us: float
    """The same for a put under a new key, anywhere between the others."""
    new_per_second: float
    disk_bytes_per_key: float


def sizes_up_to(keys_max: int) -> list[int]:
    return [keys for keys in (10_000, 1_000_000, 5_000_000) if keys < keys_max] + [keys_max]


def compare_growth(directory: Path, sizes: list[int]) -> None:
    table = Table(title=f"File backend, {CALLERS} callers, 100-byte values")
    for column in (
        "keys", "open s", "memory a key", "disk a key", "CPU µs a put", "a second",
        "CPU µs, new key", "a second", "growth",
    ):  # fmt: skip
        table.add_column(column, justify="right")
    first: Growth | None = None
    for keys in sizes:
        found = _in_own_process(directory / f"growth-{keys}", keys)
        first = first or found
        table.add_row(
            f"{found.keys:,}",
            f"{found.open_seconds:.1f}",
            f"{found.bytes_per_key:.0f} B",
            f"{found.disk_bytes_per_key:.0f} B",
            f"{found.over_us:.1f}",
            f"{found.over_per_second:,.0f}",
            f"{found.new_us:.1f}",
            f"{found.new_per_second:,.0f}",
            f"{found.over_us / first.over_us:.2f}, {found.new_us / first.new_us:.2f}",
        )
    console.print(table)


def _in_own_process(directory: Path, keys: int) -> Growth:
    command = [sys.executable, "-m", "benchmarks.growth", str(directory), str(keys)]
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise RuntimeError(finished.stderr)
    return Growth(**json.loads(finished.stdout))


async def measure(directory: Path, keys: int) -> Growth:
    config = PersistenceConfig(data_dir=directory, backend="file")
    before, began = _resident_bytes(), time.perf_counter()
    async with PersistenceRegistry(config) as registry:
        open_seconds = time.perf_counter() - began
        gc.collect()
        bytes_per_key = (_resident_bytes() - before) / keys
        disk_bytes = sum(path.stat().st_size for path in directory.iterdir())
        await _puts(registry, keys, "")
        over_us, over_per_second = await _puts(registry, keys, "")
        new_us, new_per_second = await _puts(registry, keys, "/")
    return Growth(
        keys, open_seconds, bytes_per_key, over_us, over_per_second, new_us, new_per_second,
        disk_bytes / keys,
    )  # fmt: skip


async def _puts(registry: PersistenceRegistry, keys: int, ending: str) -> tuple[float, float]:
    """CPU in µs of a put, and puts a second. With an ending, each is under a new key."""
    store = registry.key_value_store(NAMESPACE)

    async def caller(number: int) -> None:
        generator = random.Random(f"{number}{ending}")
        for count in range(PUTS_EACH):
            name = key(generator, keys)
            await store.put(f"{name}{ending}{number}.{count}" if ending else name, VALUE)

    cpu, began = _cpu_seconds(), time.perf_counter()
    async with anyio.create_task_group() as task_group:
        for number in range(CALLERS):
            task_group.start_soon(caller, number)
    puts = CALLERS * PUTS_EACH
    return (_cpu_seconds() - cpu) / puts * 1e6, puts / (time.perf_counter() - began)


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def _resident_bytes() -> int:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def main() -> None:
    directory, keys = Path(sys.argv[1]), int(sys.argv[2])
    # Filled by another process, so that this one has the memory of an opened store alone.
    fill = "import sys, pathlib, benchmarks.workload as w; "
    fill += "w.prefill_journal(pathlib.Path(sys.argv[1]), int(sys.argv[2]))"
    subprocess.run([sys.executable, "-c", fill, str(directory), str(keys)], check=True)
    try:
        print(json.dumps(asdict(anyio.run(partial(measure, directory, keys)))))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()

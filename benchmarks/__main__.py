"""``python -m benchmarks``: every contender in turn, round after round, and a table with ratios.

Each measurement runs in a process of its own. Ratios are taken within a round, between runs that
are seconds apart, and the median over the rounds is shown: these machines are noisy, and a figure
from another minute says little.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import click
from rich.table import Table

from benchmarks.cache.report import PARTS as CACHE_PARTS
from benchmarks.cache.report import compare_caches
from benchmarks.contenders import GETS, ONE_COMMIT_A_PUT, PUTS, store_of
from benchmarks.figures import console, peak_mib, percentile, print_machine
from benchmarks.growth import GROWTH_KEYS_MAX, compare_growth, sizes_up_to
from benchmarks.http.report import PARTS as HTTP_PARTS
from benchmarks.http.report import compare_http
from benchmarks.maintenance import PARTS as MAINTENANCE_PARTS
from benchmarks.maintenance import measure_maintenance
from benchmarks.processes import Plan
from benchmarks.queues.report import PARTS as QUEUE_PARTS
from benchmarks.queues.report import compare_queues
from benchmarks.responsiveness import Saturation, idleness, latencies_under_load
from benchmarks.snapshots import PARTS as SNAPSHOT_PARTS
from benchmarks.snapshots import measure_snapshots
from benchmarks.upkeep import PARTS as UPKEEP_PARTS
from benchmarks.upkeep import measure_upkeep
from benchmarks.workload import KEYS, OPERATIONS, Result, Run, prefill, prefill_journal
from mpreg.persistence import PersistenceConfig

BASELINE = "bare sqlite3"
Measurement = dict[str, Any]
PARTS = (
    "puts",
    "gets",
    "growth",
    "saturated",
    "idle",
    *UPKEEP_PARTS,
    *SNAPSHOT_PARTS,
    *MAINTENANCE_PARTS,
    *QUEUE_PARTS,
    *CACHE_PARTS,
    *HTTP_PARTS,
)
GROUPS: dict[str, Collection[str]] = {
    "cache": CACHE_PARTS,
    "http": HTTP_PARTS,
    "queues": QUEUE_PARTS,
    "upkeep": UPKEEP_PARTS,
}
#: The SQLite backend beside its own limit, in small and in large databases.
GROWTH_PUTS = {
    name: put
    for name, put in PUTS.items()
    if store_of(name) == "sqlite" and name not in ONE_COMMIT_A_PUT and "append" not in name
}
DEFAULT_INTERVAL = PersistenceConfig(backend="memory").switch_interval_seconds


@click.group(invoke_without_command=True)
@click.option("--rounds", default=3, show_default=True, help="How often each pair is measured.")
@click.option("--keys", default=KEYS, show_default=True, help="Keys in the database beforehand.")
@click.option("--scale", default=1.0, show_default=True, help="Factor on operations per run.")
@click.option(
    "--data-dir", type=click.Path(path_type=Path), help="Where; default: a temporary one."
)
@click.option(
    "--only",
    type=click.Choice([*PARTS, *GROUPS]),
    multiple=True,
    help=f"Parts to run; default: all. {', '.join(GROUPS)}: all parts about these.",
)
@click.option("--short", is_flag=True, help="A smoke test: one round, a twentieth of everything.")
@click.pass_context
def main(
    context: click.Context,
    rounds: int,
    keys: int,
    scale: float,
    data_dir: Path | None,
    only: tuple[str, ...],
    *,
    short: bool,
) -> None:
    """Durable puts, point reads, queues, caches and a node against the raw limit and peers."""
    if context.invoked_subcommand is not None:
        return
    wanted = set(only or PARTS)
    for group, parts in GROUPS.items():
        if group in wanted:
            wanted.update(parts)
    if short:
        rounds, keys, scale = 1, keys // 20, scale / 20
    print_machine()
    with working_directory(data_dir) as directory:
        if wanted & {"puts", "gets"}:
            console.print(f"filling a database and a journal with {keys:,} keys …")
            prefill(directory / "base-sqlite", keys)
            prefill_journal(directory / "base-file", keys)
        if "puts" in wanted:
            compare("Durable puts, 100-byte values", "puts", PUTS, (1, 16, 256, 4096), directory,
                    rounds=rounds, keys=keys, scale=scale)  # fmt: skip
        if "gets" in wanted:
            compare("Point reads", "gets", GETS, (1, 256), directory,
                    rounds=rounds, keys=keys, scale=scale)  # fmt: skip
        if "growth" in wanted:
            sizes = sizes_up_to(GROWTH_KEYS_MAX // (20 if short else 1))
            compare_growth(directory, sizes)
            for size in sizes:
                prefill(directory / "base-sqlite", size)
                compare("Durable puts, 100-byte values", "puts", GROWTH_PUTS, (256,), directory,
                        rounds=rounds, keys=size, scale=scale)  # fmt: skip
        if "saturated" in wanted:
            saturated(directory)
        if "idle" in wanted:
            idle(directory)
        measure_upkeep(wanted, directory, scale)
        measure_snapshots(wanted, directory, scale, rounds)
        measure_maintenance(wanted, directory, scale, rounds)
        compare_queues(wanted, Plan(directory / "queues", rounds, scale))
        compare_caches(wanted, Plan(directory / "cache", rounds, scale))
        compare_http(wanted, Plan(directory / "http", rounds, scale))


@contextmanager
def working_directory(given: Path | None) -> Iterator[Path]:
    """The given directory, or a temporary one that is removed."""
    if given is not None:
        given.mkdir(parents=True, exist_ok=True)
        yield given
        return
    with tempfile.TemporaryDirectory(prefix="mpreg-bench-") as temporary:
        yield Path(temporary)


# --- comparisons ---


def compare(
    title: str,
    kind: str,
    contenders: dict[str, Callable[[Run], Result]],
    callers: tuple[int, ...],
    directory: Path,
    *,
    rounds: int,
    keys: int,
    scale: float,
) -> None:
    for name in contenders:
        shutil.rmtree(_home(directory, name), ignore_errors=True)
        shutil.copytree(directory / f"base-{store_of(name)}", _home(directory, name))
    os.sync()
    table = Table(title=f"{title}, {keys:,} keys")
    for column in (
        "callers",
        "contender",
        "per second",
        "of bare",
        "p50 ms",
        "p99 ms",
        "peak MiB",
        "per fsync",
    ):
        table.add_column(column, justify="left" if column == "contender" else "right")
    for count in callers:
        measured: dict[str, list[Measurement]] = {name: [] for name in contenders}
        for round_number in range(rounds):
            for name in contenders:
                operations = _operations(name, count, scale)
                run = Run(name, count, _home(directory, name), round_number, keys, operations)
                measured[name].append(_in_own_process(kind, run))
                console.print(f"  {count} callers, round {round_number + 1}, {name}: "
                              f"{measured[name][-1]['per_second']:,.0f} a second")  # fmt: skip
        for name in contenders:
            table.add_row(*_row(count, name, measured))
        table.add_section()
    console.print(table)


def _home(directory: Path, name: str) -> Path:
    return directory / name.replace(" ", "-")


def _operations(name: str, callers: int, scale: float) -> int:
    operations = OPERATIONS[callers]
    if name in ONE_COMMIT_A_PUT:
        operations = min(operations, 3 * max(OPERATIONS[1], callers))
    return max(callers, int(operations * scale) // callers * callers)


def _row(callers: int, name: str, measured: dict[str, list[Measurement]]) -> Iterator[str]:
    own = measured[name]
    ratios = [
        one["per_second"] / base["per_second"]
        for one, base in zip(own, measured[BASELINE], strict=True)
    ]
    yield str(callers)
    yield name
    yield f"{statistics.median(one['per_second'] for one in own):,.0f}"
    yield f"{statistics.median(ratios):.2f}"
    for quantile in ("p50", "p99"):
        values = [one[quantile] for one in own if one[quantile] is not None]
        yield f"{statistics.median(values) * 1000:.2f}" if values else ""
    yield f"{max(one['peak_mib'] for one in own):.0f}"
    yield own[-1]["detail"]


def _in_own_process(kind: str, run: Run) -> Measurement:
    command = [
        sys.executable, "-m", "benchmarks", "measure", kind, run.contender, str(run.callers),
        str(run.directory), str(run.seed), str(run.keys), str(run.operations),
    ]  # fmt: skip
    finished = subprocess.run(command, capture_output=True, text=True, check=False)
    if finished.returncode:
        raise click.ClickException(f"{run.contender} failed:\n{finished.stderr}")
    measurement: Measurement = json.loads(finished.stdout)
    return measurement


@main.command(hidden=True)
@click.argument("kind")
@click.argument("contender")
@click.argument("callers", type=int)
@click.argument("directory", type=click.Path(path_type=Path))
@click.argument("seed", type=int)
@click.argument("keys", type=int)
@click.argument("operations", type=int)
def measure(
    kind: str,
    contender: str,
    callers: int,
    directory: Path,
    seed: int,
    keys: int,
    operations: int,
) -> None:
    """One measurement; the result as JSON."""
    run = Run(contender, callers, directory, seed, keys, operations)
    read_files(directory)
    result = (PUTS if kind == "puts" else GETS)[contender](run)
    measurement: Measurement = {
        "per_second": result.operations / result.seconds,
        "p50": percentile(result.latencies, 50),
        "p99": percentile(result.latencies, 99),
        "peak_mib": peak_mib(),
        "detail": result.detail,
    }
    click.echo(json.dumps(measurement))


def read_files(directory: Path) -> None:
    """So that the system has them in memory, however long ago their contender's turn was: some give
    up what was not used for a minute, also where memory is free, and a put then reads the disk."""
    for path in directory.iterdir():
        if path.is_file():
            with path.open("rb", buffering=0) as file:
                while file.read(1 << 20):
                    pass


# --- responsiveness ---


def saturated(directory: Path) -> None:
    """One put after the other beside a loop that is never idle."""
    table = Table(title="Durable puts beside a saturated event loop")
    for column in ("loop", "turn ms", "switch interval", "p50 ms", "p99 ms", "worst ms"):
        table.add_column(column, justify="right")
    for backend in ("asyncio", "trio"):
        for turn in (0.0002, 0.001):
            for interval in (DEFAULT_INTERVAL, None):
                # With Python's own interval a put can take seconds: a few are enough to see it.
                puts = 400 if interval is not None else 30
                case = Saturation(backend, turn, interval, puts, directory / f"busy-{backend}")
                latencies = anyio.run(partial(latencies_under_load, case), backend=backend)
                table.add_row(
                    backend,
                    f"{turn * 1000:g}",
                    "Python's own" if interval is None else f"{interval * 1e6:g} µs",
                    *(f"{(percentile(latencies, p) or 0) * 1000:.1f}" for p in (50, 99)),
                    f"{max(latencies) * 1000:.1f}",
                )
    console.print(table)


def idle(directory: Path) -> None:
    """Nothing happens: nothing should."""
    for backend in ("asyncio", "trio"):
        seen = anyio.run(partial(idleness, directory / f"idle-{backend}", 3.0), backend=backend)
        console.print(
            f"idle for {seen.seconds:g} s on {backend}: {seen.wake_ups} wake-ups, "
            f"{seen.cpu_seconds * 1000:.1f} ms of CPU"
        )


if __name__ == "__main__":
    main()

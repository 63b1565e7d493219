"""Nine reads to a write, misses filled, memory in front of the disk: requests a second."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.table import Table

from benchmarks.cache.processes import measure, run
from benchmarks.cache.targets import judge_mixed
from benchmarks.cache.workload import (
    DURABLE_DISKCACHES,
    KEYS,
    MEMORY_ENTRIES,
    MIXED_CONTENDERS,
    NAIVE,
    NOTES,
    PREFILLED,
    RELAXED_DISKCACHES,
    STORES,
    THROUGH,
    WORKERS,
    MixedResult,
    requests,
    store_of,
)
from benchmarks.figures import console
from benchmarks.processes import Plan, fresh
from benchmarks.verdicts import Verdict, ratio

COLUMNS = (
    "P",
    "contender",
    "per second",
    "of durable",
    "of default",
    "of naive",
    "memory",
    "hits",
    "peak MiB",
    "puts per fsync",
)

Rounds = Mapping[str, Sequence[MixedResult]]


def compare_mixed_loads(plan: Plan) -> Iterator[Verdict]:
    """Every contender in turn, round after round, at each number of workers."""
    prefilled = plan.count(PREFILLED, least=1_000)
    table = Table(
        title=f"Mixed load by P workers: Zipf over {KEYS:,} keys, {prefilled:,} on disk "
        f"beforehand, {MEMORY_ENTRIES:,} in memory"
    )
    for column in COLUMNS:
        name = column == "contender"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    verdicts: list[Verdict] = []
    with ExitStack() as stack:
        for store in STORES:
            run("prepare", store, stack.enter_context(fresh(_base(plan, store))), prefilled)
        for workers in WORKERS:
            rounds = _measure_rounds(plan, workers)
            for contender in MIXED_CONTENDERS:
                table.add_row(*_row(workers, contender, rounds))
            table.add_section()
            verdicts.extend(_judge(workers, rounds))
    console.print(table)
    console.print(
        "  Ratios within a round. 'of durable', 'of default': of diskcache with synchronous=FULL "
        "and with its\n  defaults, called in whichever way was faster; 'memory', 'hits': parts of "
        "the reads."
    )
    for contender, note in NOTES.items():
        console.print(f"  {contender}: {note}.")
    yield from verdicts


def _base(plan: Plan, store: str) -> Path:
    return plan.path(f"base {store}")


def _measure_rounds(plan: Plan, workers: int) -> Rounds:
    rounds: dict[str, list[MixedResult]] = {name: [] for name in MIXED_CONTENDERS}
    for number in range(plan.rounds):
        for name in MIXED_CONTENDERS:
            count = requests(name, workers, plan.scale)
            with fresh(plan.path(name), _base(plan, store_of(name))) as directory:
                result = MixedResult(**measure("mixed", name, directory, workers, count))
            rounds[name].append(result)
            console.print(
                f"  P = {workers}, round {number + 1}, {name}: {result.per_second:,.0f} a second"
            )
    return rounds


def _row(workers: int, contender: str, rounds: Rounds) -> Iterator[str]:
    own, per_second = rounds[contender], _rates(rounds, contender)
    yield str(workers)
    yield contender
    yield f"{statistics.median(per_second):,.0f}"
    yield f"{ratio(per_second, _fastest(rounds, DURABLE_DISKCACHES)):.2f}"
    yield f"{ratio(per_second, _fastest(rounds, RELAXED_DISKCACHES)):.2f}"
    yield f"{ratio(per_second, _rates(rounds, NAIVE)):.2f}"
    yield f"{statistics.median(result.memory_ratio for result in own):.2f}"
    yield f"{statistics.median(result.hit_ratio for result in own):.2f}"
    yield f"{max(result.peak_mib for result in own):.0f}"
    per_fsync = own[-1].puts_per_fsync
    yield f"{per_fsync:.0f}" if per_fsync is not None else ""


def _judge(workers: int, rounds: Rounds) -> Iterator[Verdict]:
    base = _fastest(rounds, DURABLE_DISKCACHES)
    for contender in THROUGH:
        yield judge_mixed(contender, workers, ratio(_rates(rounds, contender), base))


def _rates(rounds: Rounds, contender: str) -> list[float]:
    return [result.per_second for result in rounds[contender]]


def _fastest(rounds: Rounds, contenders: Sequence[str]) -> list[float]:
    """Whichever was fastest, round by round."""
    return [max(rates) for rates in zip(*(_rates(rounds, one) for one in contenders), strict=True)]

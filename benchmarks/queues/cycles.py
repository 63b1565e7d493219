"""Life cycles a second: sent, received, acknowledged, each on disk before the call returns."""

from __future__ import annotations

import statistics
from collections.abc import Iterator

from rich.table import Table

from benchmarks.figures import console, median_ms
from benchmarks.processes import Plan, fresh, measure_rounds
from benchmarks.queues.processes import measure
from benchmarks.queues.targets import Rounds, best_peer, judge_cycles, rates
from benchmarks.queues.workload import (
    BARE,
    BODY,
    CONTENDERS,
    NOTES,
    WORKERS,
    CycleResult,
    cycles,
)
from benchmarks.verdicts import Verdict, ratio

COLUMNS = (
    "P",
    "contender",
    "per second",
    "of bare",
    "of peers",
    "send p50 ms",
    "p99 ms",
    "peak MiB",
    "fsyncs",
)


def compare_cycles(plan: Plan) -> Iterator[Verdict]:
    """Every contender in turn, round after round, at each number of workers."""
    title = f"Life cycles of {len(BODY)}-byte messages: P producers and P consumers at once"
    table = Table(title=title)
    for column in COLUMNS:
        name = column == "contender"
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    verdicts: list[Verdict] = []
    for workers in WORKERS:
        rounds = _measure_rounds(plan, workers)
        for contender in CONTENDERS:
            table.add_row(*_row(workers, contender, rounds))
        table.add_section()
        verdicts.extend(judge_cycles(workers, rounds))
    console.print(table)
    console.print(
        "  Ratios within a round; 'of peers': of whichever peer was fastest in it. 'fsyncs': "
        "durable commits\n  for each life cycle, counted in the WAL's index."
    )
    for contender, note in NOTES.items():
        console.print(f"  {contender}: {note}.")
    yield from verdicts


def _measure_rounds(plan: Plan, workers: int) -> Rounds:
    def measure_one(name: str) -> CycleResult:
        count = cycles(name, workers, plan.scale)
        with fresh(plan.path(name)) as directory:
            return CycleResult(**measure("cycles", name, directory, workers, count))

    return measure_rounds(plan.rounds, workers, CONTENDERS, measure_one)


def _row(workers: int, contender: str, rounds: Rounds) -> Iterator[str]:
    own, per_second = rounds[contender], rates(rounds, contender)
    yield str(workers)
    yield contender
    yield f"{statistics.median(per_second):,.0f}"
    yield f"{ratio(per_second, rates(rounds, BARE)):.3f}"
    yield f"{ratio(per_second, best_peer(rounds)):.2f}"
    yield median_ms(result.send_p50 for result in own)
    yield median_ms(result.send_p99 for result in own)
    yield f"{max(result.peak_mib for result in own):.0f}"
    yield f"{statistics.median(result.fsyncs_per_cycle for result in own):.3f}"

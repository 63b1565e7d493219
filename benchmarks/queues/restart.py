"""A start on many pending messages, against a start on an empty queue."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Final

from attrs import frozen
from rich.table import Table

from benchmarks.figures import console, median_ms
from benchmarks.processes import Plan, fresh
from benchmarks.queues.processes import measure, run
from benchmarks.queues.targets import judge_restart
from benchmarks.queues.workload import RestartResult
from benchmarks.verdicts import Verdict, ratio

PENDING: Final = (100_000, 1_000_000)
LOOPS: Final = ("mpreg asyncio", "mpreg trio")

#: Starts of each case in a round: one takes milliseconds, of which a few fsyncs are most.
STARTS: Final = 3

COLUMNS: Final = (
    "loop",
    "pending",
    "open",
    "received",
    "of empty",
    "acked",
    "of empty",
    "of one",
    "peak",
    "growth",
)


@frozen
class Case:
    """What an earlier process has left."""

    pending: int
    killed: bool = False
    """It was killed, so its last commits are still in the WAL."""

    @property
    def name(self) -> str:
        ending = "killed" if self.killed else "closed"
        return f"{self.pending:,}, {ending}" if self.pending else "none"


EMPTY: Final = Case(0)
#: Shows what receiving and acknowledging cost at all.
ONE: Final = Case(1)

Starts = dict[Case, list[RestartResult]]


def compare_restarts(plan: Plan) -> Iterator[Verdict]:
    """Every case in turn, round after round, on each event loop."""
    cases = _cases(plan)
    verdicts: list[Verdict] = []
    table = Table(title="Restart: from opening to the first message (ms; memory in MiB)")
    for column in COLUMNS:
        name = column in {"loop", "pending"}
        table.add_column(column, justify="left" if name else "right", no_wrap=name)
    with ExitStack() as stack:
        for case in cases:
            _fill(stack.enter_context(fresh(plan.path(f"base {case.name}"))), case)
        for loop in LOOPS:
            starts = _measure_rounds(plan, loop, cases)
            for case in cases:
                table.add_row(loop, case.name, *_row(starts, case))
            table.add_section()
            verdicts.extend(_judge(loop, starts, cases))
    console.print(table)
    console.print(
        "  Files are in the system's page cache. 'of empty': of opening an empty queue, which "
        "commits nothing\n  of the queue's, while to receive and to acknowledge a message is a "
        "commit each; 'of one': of the\n  first message where no other is."
    )
    yield from verdicts


def _cases(plan: Plan) -> Sequence[Case]:
    few, many = (plan.count(count, least=1_000) for count in PENDING)
    return EMPTY, ONE, Case(few), Case(many), Case(many, killed=True)


def _fill(directory: Path, case: Case) -> None:
    console.print(f"filling a queue with {case.pending:,} messages …")
    run("fill", directory, case.pending, *(["--killed"] if case.killed else []))


def _measure_rounds(plan: Plan, loop: str, cases: Sequence[Case]) -> Starts:
    starts: Starts = {case: [] for case in cases}
    for _ in range(plan.rounds * STARTS):
        for case in cases:
            with fresh(plan.path("restart"), plan.path(f"base {case.name}")) as directory:
                pending = ["--pending"] if case.pending else []
                starts[case].append(RestartResult(**measure("restart", loop, directory, *pending)))
    return starts


def _row(starts: Starts, case: Case) -> Iterator[str]:
    own = starts[case]
    yield median_ms(result.opened_seconds for result in own)
    yield median_ms(result.received_seconds for result in own)
    yield f"{ratio(_received(starts, case), _whole(starts, EMPTY)):.2f}"
    yield median_ms(result.first_seconds for result in own)
    yield f"{ratio(_whole(starts, case), _whole(starts, EMPTY)):.2f}"
    yield f"{ratio(_whole(starts, case), _whole(starts, ONE)):.2f}"
    yield f"{statistics.median(result.peak_mib for result in own):.1f}"
    yield f"{_growth(starts, case):.1f}"


def _judge(loop: str, starts: Starts, cases: Sequence[Case]) -> Iterator[Verdict]:
    largest = max((case for case in cases if not case.killed), key=lambda case: case.pending)
    of_empty = ratio(_whole(starts, largest), _whole(starts, EMPTY))
    received = ratio(_received(starts, largest), _whole(starts, EMPTY))
    yield from judge_restart(loop, largest.pending, received, of_empty, _growth(starts, largest))


def _whole(starts: Starts, case: Case) -> list[float]:
    """Until the first message is acknowledged; where there is none, until all is open."""
    return [result.first_seconds or result.opened_seconds for result in starts[case]]


def _received(starts: Starts, case: Case) -> list[float]:
    """Until the first message is received; where there is none, until all is open."""
    return [result.received_seconds or result.opened_seconds for result in starts[case]]


def _growth(starts: Starts, case: Case) -> float:
    """The worst of the rounds."""
    pairs = zip(starts[case], starts[EMPTY], strict=True)
    return max(own.peak_mib - base.peak_mib for own, base in pairs)

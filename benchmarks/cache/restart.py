"""From opening the registry until memory is warm."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from attrs import frozen
from rich.table import Table

from benchmarks.cache.processes import measure, run
from benchmarks.cache.targets import judge_restart
from benchmarks.cache.workload import BARE, LOOPS, RESTART_ENTRIES, BareResult, RestartResult
from benchmarks.figures import console, median_ms
from benchmarks.processes import Plan, fresh
from benchmarks.verdicts import Verdict, ratio

#: Starts in a round: one takes less than a second.
STARTS: Final = 3

COLUMNS: Final = (
    "contender",
    "open ms",
    "first get ms",
    "warm ms",
    "of bare",
    "CPU ms",
    "of bare's",
    "peak MiB",
)


@frozen
class _Rounds:
    ours: Mapping[str, Sequence[RestartResult]]
    bare: Sequence[BareResult]

    def of_bare(self, loop: str) -> float:
        warm = [result.warm_seconds for result in self.ours[loop]]
        return ratio(warm, [result.seconds for result in self.bare])

    def cpu_of_bare(self, loop: str) -> float:
        cpu = [result.cpu_seconds for result in self.ours[loop]]
        return ratio(cpu, [result.cpu_seconds for result in self.bare])


def compare_warm_ups(plan: Plan) -> Iterator[Verdict]:
    """Every event loop and bare sqlite3 in turn, round after round."""
    entries = plan.count(RESTART_ENTRIES, least=1_000)
    table = Table(title=f"Restart until {entries:,} entries are in memory")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column == "contender" else "right")
    rounds = _measure_rounds(plan, entries)
    table.add_row(BARE, *_bare_row(rounds))
    for loop in LOOPS:
        table.add_row(f"mpreg {loop}", *_row(rounds, loop))
    console.print(table)
    console.print(
        "  Files are in the system's page cache. bare sqlite3: the same rows by key, in the same "
        "order, in\n  one transaction, kept as they are. 'first get': of the entry that is warmed "
        "last, asked for as soon\n  as all is open."
    )
    for loop in LOOPS:
        yield judge_restart(f"mpreg {loop}", entries, rounds.of_bare(loop))


def _measure_rounds(plan: Plan, entries: int) -> _Rounds:
    ours: dict[str, list[RestartResult]] = {loop: [] for loop in LOOPS}
    bare: list[BareResult] = []
    with fresh(plan.path("base restart")) as base:
        console.print(f"filling a cache with {entries:,} entries …")
        run("fill", base, entries)
        for _ in range(plan.rounds * STARTS):
            with fresh(plan.path("restart"), base) as directory:
                bare.append(BareResult(**measure("bare", directory, entries)))
            for loop in LOOPS:
                with fresh(plan.path("restart"), base) as directory:
                    result = RestartResult(**measure("restart", loop, directory, entries))
                ours[loop].append(result)
    return _Rounds(ours, bare)


def _bare_row(rounds: _Rounds) -> Iterator[str]:
    yield from ("", "", median_ms(result.seconds for result in rounds.bare), "1.00")
    yield from (median_ms(result.cpu_seconds for result in rounds.bare), "1.00")
    yield f"{max(result.peak_mib for result in rounds.bare):.0f}"


def _row(rounds: _Rounds, loop: str) -> Iterator[str]:
    own = rounds.ours[loop]
    yield median_ms(result.opened_seconds for result in own)
    yield median_ms(result.first_seconds for result in own)
    yield median_ms(result.warm_seconds for result in own)
    yield f"{rounds.of_bare(loop):.2f}"
    yield median_ms(result.cpu_seconds for result in own)
    yield f"{rounds.cpu_of_bare(loop):.2f}"
    yield f"{max(result.peak_mib for result in own):.0f}"

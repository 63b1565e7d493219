"""Hits in memory, in nanoseconds."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence

from rich.table import Table

from benchmarks.cache.processes import measure
from benchmarks.cache.targets import judge_lookup
from benchmarks.cache.workload import LOOKED_UP_ENTRIES, LOOPS, POLICIES, LookupResult
from benchmarks.figures import console
from benchmarks.processes import Plan
from benchmarks.verdicts import Verdict

PASSES = 500

COLUMNS = ("loop", "policy", "await get ns", "MemoryCache ns", "cachetools ns", "ratio", "memory's")


def compare_lookups(plan: Plan) -> Iterator[Verdict]:
    """Every policy in turn on every loop, round after round."""
    table = Table(title=f"A hit in memory, {LOOKED_UP_ENTRIES:,} entries looked up by Zipf")
    for column in COLUMNS:
        table.add_column(column, justify="left" if column in {"loop", "policy"} else "right")
    passes = plan.count(PASSES, least=100)
    cases = [(loop, policy) for loop in LOOPS for policy in POLICIES]
    rounds: dict[tuple[str, str], list[LookupResult]] = {case: [] for case in cases}
    for _ in range(plan.rounds):
        for loop, policy in cases:
            rounds[loop, policy].append(LookupResult(**measure("lookups", loop, policy, passes)))
    for (loop, policy), results in rounds.items():
        table.add_row(loop, policy, *_row(results))
    console.print(table)
    console.print(
        "  CPU time, the least of the passes of each. cachetools: LFUCache for lfu, LRUCache for "
        "the others,\n  with the same keys. 'ratio': await get, of cachetools; 'memory's': "
        "MemoryCache.get, of cachetools."
    )
    for loop, policy in cases:
        # cachetools has only these.
        if policy in {"lru", "lfu"}:
            yield judge_lookup(f"mpreg {policy} {loop}", _ratio(rounds[loop, policy]))


def _row(results: Sequence[LookupResult]) -> Iterator[str]:
    yield f"{statistics.median(result.awaited for result in results):,.0f}"
    yield f"{statistics.median(result.memory for result in results):,.0f}"
    yield f"{statistics.median(result.cachetools for result in results):,.0f}"
    yield f"{_ratio(results):.2f}"
    yield f"{statistics.median(result.memory / result.cachetools for result in results):.2f}"


def _ratio(results: Sequence[LookupResult]) -> float:
    return statistics.median(result.awaited / result.cachetools for result in results)

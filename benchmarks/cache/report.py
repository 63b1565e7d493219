"""The parts of the cache benchmark, and its figures beside their targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from benchmarks.cache.hit_ratios import compare_hit_ratios
from benchmarks.cache.lookups import compare_lookups
from benchmarks.cache.mixed_load import compare_mixed_loads
from benchmarks.cache.restart import compare_warm_ups
from benchmarks.figures import console
from benchmarks.processes import Plan
from benchmarks.verdicts import Verdict, verdict_table

PARTS: Final[dict[str, Callable[[Plan], Iterator[Verdict]]]] = {
    "cache-hits": compare_hit_ratios,
    "cache-lookups": compare_lookups,
    "cache-mixed": compare_mixed_loads,
    "cache-restart": compare_warm_ups,
}


def compare_caches(parts: set[str], plan: Plan) -> None:
    """Run these parts, print their tables, and what became of the targets."""
    verdicts: list[Verdict] = []
    for name, compare in PARTS.items():
        if name in parts:
            verdicts.extend(compare(plan))
    if verdicts:
        console.print(verdict_table(verdicts))

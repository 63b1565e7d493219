"""Hit ratios of every policy, beside cachetools and the optimum."""

from __future__ import annotations

from collections.abc import Iterator

from rich.table import Table

from benchmarks.cache.processes import measure
from benchmarks.cache.targets import judge_scan
from benchmarks.cache.workload import (
    ENTRIES,
    HIT_CONTENDERS,
    OPTIMAL,
    S4LRU,
    HitResult,
    scaled,
)
from benchmarks.figures import console
from benchmarks.processes import Plan
from benchmarks.verdicts import Verdict

COLUMNS = (
    "entries",
    "contender",
    "all",
    "of optimal",
    "before scan",
    "through scan",
    "after scan",
    "kept",
)


def compare_hit_ratios(plan: Plan) -> Iterator[Verdict]:
    """Each contender once at each size: they only count, and the trace is always the same."""
    shape = scaled(plan.scale)
    table = Table(
        title=f"Hit ratios: Zipf {shape.exponent:g} over {shape.keys:,} keys, "
        f"{shape.write_share:.0%} writes, a scan of {shape.scan_keys:,}"
    )
    for column in COLUMNS:
        is_name = column == "contender"
        table.add_column(column, justify="left" if is_name else "right", no_wrap=is_name)
    verdicts: list[Verdict] = []
    for full in ENTRIES:
        entries = int(full * plan.scale)
        results = {name: _measure(plan, name, entries) for name in HIT_CONTENDERS}
        for name in HIT_CONTENDERS:
            table.add_row(*_row(entries, name, results))
        table.add_section()
        verdicts.append(judge_scan(S4LRU, entries, results[S4LRU].kept))
    console.print(table)
    console.print(
        "  Of all reads. Misses are filled; only the number of entries is bounded. Before, through "
        "and after\n  the scan: Zipf's reads alone, half of the requests during the scan; "
        "'kept': through, of before.\n  ttl_first: every entry has the same time to live, and none "
        "expires."
    )
    yield from verdicts


def _measure(plan: Plan, name: str, entries: int) -> HitResult:
    result = HitResult(**measure("hits", name, entries, plan.scale))
    console.print(f"  {entries:,} entries, {name}: {result.all:.4f} ({result.seconds:.1f} s)")
    return result


def _row(entries: int, name: str, results: dict[str, HitResult]) -> Iterator[str]:
    own = results[name]
    yield f"{entries:,}"
    yield name
    yield f"{own.all:.4f}"
    yield f"{own.all / results[OPTIMAL].all:.3f}"
    yield f"{own.before:.4f}"
    yield f"{own.through:.4f}"
    yield f"{own.after:.4f}"
    yield f"{own.kept:.3f}"

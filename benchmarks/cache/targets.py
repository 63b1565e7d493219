"""What the figures are held against."""

from __future__ import annotations

from typing import Final

from benchmarks.verdicts import Verdict, at_least, at_most

#: Of the hit ratio before a scan, through it.
KEPT_THROUGH_SCAN: Final = 0.95

#: An awaited hit in memory, of a lookup in cachetools.
LOOKUP_OF_CACHETOOLS: Final = 2.0

#: Requests a second, of diskcache with the same promise: through worker threads, as an event loop
#: has to call it, and in direct calls one after the other, as no server with an event loop can.
#: Where each put waits for its own fsync nothing may reach that: the bound is beside the figure.
OF_DISKCACHE: Final = 5.0

#: Until memory is warm, of reading the same rows with bare sqlite3.
WARM_OF_BARE: Final = 2.0


def shown(bound: float) -> str:
    return f"{bound:,.0f}" if bound >= 100 else f"{bound:.3g}"


def judge_scan(contender: str, entries: int, kept: float) -> Verdict:
    return at_least(
        f"hit ratio through a scan, of before: {entries:,} entries",
        contender,
        kept,
        KEPT_THROUGH_SCAN,
    )


def judge_lookup(contender: str, of_cachetools: float) -> Verdict:
    return at_most(
        "hit in memory: of a lookup in cachetools", contender, of_cachetools, LOOKUP_OF_CACHETOOLS
    )


def judge_mixed(
    contender: str, workers: int, promise: str, way: str, of_diskcache: float, bound: float | None
) -> Verdict:
    """``promise``: what diskcache is set to keep. ``way``: diskcache and how it is called.
    ``bound``: what the figure would be if nothing took time but fsyncs; None: it waits for none.
    """
    beside = "" if bound is None else f" (bound {shown(bound)}x)"
    return at_least(
        f"mixed load, P = {workers}: of {promise} {way}{beside}",
        contender,
        of_diskcache,
        OF_DISKCACHE,
    )


def judge_restart(contender: str, entries: int, of_bare: float) -> Verdict:
    return at_most(
        f"memory warm with {entries:,} entries: of bare sqlite3", contender, of_bare, WARM_OF_BARE
    )

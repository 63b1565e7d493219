"""Replaying a trace and counting what was there: no time, no disk."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from itertools import islice

from benchmarks.cache.optimal import optimal_hits
from benchmarks.cache.trace import Trace, make_trace, size_of_value
from benchmarks.cache.workload import OPTIMAL, SEED, HitResult, scaled

Get = Callable[[int, int], object]
"""With a key, and the number of the request as a clock; None is a miss."""
Put = Callable[[int, int], object]


def count_hits(contender: str, entries: int, scale: float) -> HitResult:
    """The hit ratios of a contender with room for so many entries."""
    trace = make_trace(SEED, scaled(scale))
    began = time.perf_counter()
    if contender == OPTIMAL:
        hits = optimal_hits(trace.requests, entries)
    elif contender.startswith("cachetools"):
        hits = replay(trace, *_cachetools(contender.split()[1], entries))
    else:
        hits = replay(trace, *_memory(contender.split()[1], entries, len(trace.requests)))
    return _ratios(trace, hits, time.perf_counter() - began)


def replay(trace: Trace, get: Get, put: Put) -> bytearray:
    """For each request 1 if it was a hit. A miss is filled; a write is never a hit."""
    hits = bytearray(len(trace.requests))
    for now, request in enumerate(trace.requests):
        key = request >> 1
        if request & 1:
            put(key, now)
        elif get(key, now) is not None:
            hits[now] = 1
        else:
            put(key, now)
    return hits


def _memory(policy: str, entries: int, ttl: int) -> tuple[Get, Put]:
    """mpreg's memory alone. Every entry has the same time to live, and none expires meanwhile."""
    from mpreg.cache.memory import HeldEntry, MemoryCache

    memory: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=entries, bytes_max=1 << 62, policy=policy
    )

    def put(key: int, now: int) -> None:
        memory.put(HeldEntry(key, key, size_of_value(key), float(now + ttl)))

    return memory.get, put


def _cachetools(policy: str, entries: int) -> tuple[Get, Put]:
    import cachetools

    cache = getattr(cachetools, f"{policy}Cache")(entries)

    def get(key: int, _now: int) -> object:
        return cache.get(key)

    return get, cache.__setitem__


def _ratios(trace: Trace, hits: bytearray, seconds: float) -> HitResult:
    before, scan, after = trace.phases
    half = (before.start + before.stop) // 2
    return HitResult(
        all=_ratio(trace, hits, 0, after.stop),
        before=_ratio(trace, hits, half, before.stop),
        through=_ratio(trace, hits, scan.start, scan.stop, scanned=False),
        after=_ratio(trace, hits, after.start, after.stop),
        seconds=seconds,
    )


def _ratio(trace: Trace, hits: bytearray, start: int, stop: int, *, scanned: bool = True) -> float:
    """Hits of the reads between two requests; ``scanned``: those of the scan count as well."""
    served = reads = 0
    for request, hit in zip(
        islice(trace.requests, start, stop), islice(hits, start, stop), strict=True
    ):
        if not request & 1 and (scanned or trace.is_zipf(request)):
            reads += 1
            served += hit
    return served / reads if reads else math.nan

"""The most reads that any cache of so many entries could serve: it would have to know the future.

Pure.
"""

from __future__ import annotations

import heapq
from array import array
from collections.abc import Sequence
from typing import Final

#: Stands for a key that is not read again before it is written, or ever.
NEVER: Final = 0


def optimal_hits(requests: Sequence[int], entries: int) -> bytearray:
    """For each request 1 if it is a read that the optimal cache serves, else 0. O(n log n).

    Requests are those of a `Trace`. A write, and the read that missed, leave the key in the cache.
    Keeping a key pays where its next request is a read, and takes one place from now until
    then. Where there are more such stretches than places, the one that ends last is given up
    (L. A. Belady: A study of replacement algorithms for a virtual-storage computer. IBM Systems
    Journal 5 (1966), 78-101), be it the one that begins now: no policy is forced upon the optimum.

    Raises:
        ValueError: ``entries`` is below 1.
    """
    if entries < 1:
        raise ValueError(f"a cache of {entries} entries")
    next_reads = _next_reads(requests)
    hits = bytearray(len(requests))
    ends: list[int] = []  # negative: the last is on top; those of the past sink to the bottom
    kept = 0
    for now, then in enumerate(next_reads):
        kept -= hits[now]
        if then == NEVER:
            continue
        heapq.heappush(ends, -then)
        hits[then] = 1
        kept += 1
        if kept > entries:
            hits[-heapq.heappop(ends)] = 0
            kept -= 1
    return hits


def _next_reads(requests: Sequence[int]) -> array[int]:
    """For each request, where the next one of its key is, if that is a read."""
    next_reads = array("I", bytes(4 * len(requests)))
    last_seen: dict[int, int] = {}
    for now, request in enumerate(requests):
        key = request >> 1
        before = last_seen.get(key)
        if before is not None and not request & 1:
            next_reads[before] = now
        last_seen[key] = now
    return next_reads

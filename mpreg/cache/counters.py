"""What a cache counts while it runs."""

from __future__ import annotations

from collections import Counter

from attrs import define, field

from mpreg.cache.memory import EvictionCause

__all__ = ["Counters"]


@define(eq=False)
class Counters:
    """Hits and misses are counted with their namespaces: see `mpreg.cache.invalidation.Space`."""

    puts: int = 0
    deletions: int = 0
    invalidations: int = 0
    evicted_from_memory: Counter[EvictionCause] = field(factory=Counter)
    evicted_from_disk: int = 0
    damaged: int = 0
    failed_behind: int = 0
    """Batches that were written behind and did not come to the disk."""
    computations: int = 0
    computations_failed: int = 0
    computing_seconds: float = 0.0
    stampedes_avoided: int = 0
    """Callers who got what another one had computed."""
    served_stale: int = 0
    disk_reads: int = 0
    disk_read_seconds: float = 0.0

"""What a cache tells of itself."""

from __future__ import annotations

import enum
from collections.abc import Mapping

from attrs import frozen

from mpreg.cache.memory import EvictionCause

__all__ = ["CacheStatistics", "NamespaceStatistics", "WarmUpState"]


class WarmUpState(enum.Enum):
    NOT_BEGUN = "not begun"
    WARMING = "warming"
    """The most used entries are read into L1. Followed by COUNTING."""
    COUNTING = "counting"
    """What L2 holds is counted; L1 is warm. Followed by DONE."""
    DONE = "done"


@frozen(kw_only=True)
class NamespaceStatistics:
    """Of reads since the registry was opened."""

    memory_hits: int
    disk_hits: int
    misses: int


@frozen(kw_only=True)
class CacheStatistics:
    """Counts since the registry was opened, and sizes as they are. Times are in seconds."""

    memory_entries: int
    memory_bytes: int
    disk_entries: int
    """Known so far, until `warm_up` is done."""
    disk_bytes: int
    writing_behind: int
    """Keys whose last write is still on its way."""

    memory_hits: int
    disk_hits: int
    misses: int
    namespaces: Mapping[str, NamespaceStatistics]
    """In the order in which they were used first. The first 1,024 always; of the others those that
    are in use, and perhaps more."""

    puts: int
    deletions: int
    invalidations: int
    barriers: int
    """Invalidations whose entries are not all removed yet."""
    evicted_from_memory: Mapping[EvictionCause, int]
    evicted_from_disk: int
    damaged: int
    """Entries that were read and are not what was written: they count as missing."""
    failed_behind: int
    """Batches written behind that did not come to the disk."""

    computations: int
    computations_failed: int
    computing_seconds: float
    """Of all computations together."""
    stampedes_avoided: int
    """Calls that got what another one had computed."""
    served_stale: int
    """Calls that were given a stale value, while a new one was computed."""
    disk_reads: int
    disk_read_seconds: float
    """Of all reads from L2 together."""

    warm_up: WarmUpState
    warmed_entries: int
    to_be_warmed: int | None
    """As many entries as the list of the most used ones names; None while it is not read."""
    warm_up_seconds: float | None
    """From the opening until L1 was warm."""
    counting_seconds: float | None
    """From there until all of L2 was counted."""

"""Segmented LRU with four segments."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain
from typing import Final

from mpreg.cache.eviction.policy import Evictable

__all__ = ["S4LruPolicy"]

_SEGMENTS: Final = 4


class _Segment:
    __slots__ = ("entries", "size_bytes")

    def __init__(self) -> None:
        self.entries: OrderedDict[Hashable, Evictable] = OrderedDict()
        self.size_bytes = 0

    def add(self, entry: Evictable) -> None:
        self.entries[entry.key] = entry
        self.size_bytes += entry.size_bytes

    def remove(self, key: Hashable) -> Evictable:
        entry = self.entries.pop(key)
        self.size_bytes -= entry.size_bytes
        return entry


class S4LruPolicy:
    """Q. Huang et al., "An Analysis of Facebook Photo Caching" (SOSP 2013), section 6.2.

    A new entry begins in the lowest segment; each use moves it to the recent end of the segment
    above. What a segment has beyond its quota, a quarter of the entries and of the bytes, goes
    from its old end to the recent end of the segment below, and out of the cache below the lowest.
    A scan passes through the lowest segment alone.

    Other than in the paper, the lowest segment also has what the others leave free, so that a
    young cache can be filled. An entry larger than a quarter of the bytes stays in the lowest: it
    would drive out all others of a segment.
    """

    # A call may demote many entries, but each was promoted by a use before: amortised, O(1).

    __slots__ = ("_bytes_quota", "_entries_quota", "_levels", "_segments")

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_quota = entries_max // _SEGMENTS
        self._bytes_quota = bytes_max // _SEGMENTS
        self._segments = [_Segment() for _ in range(_SEGMENTS)]
        self._levels: dict[Hashable, int] = {}

    def add(self, entry: Evictable) -> None:
        self._place(entry, 0)

    def touch(self, key: Hashable) -> None:
        level = self._levels[key]
        if level == _SEGMENTS - 1:
            self._segments[level].entries.move_to_end(key)
        else:
            self._promote(self._segments[level].remove(key), level)

    def update(self, entry: Evictable) -> None:
        level = self._levels[entry.key]
        self._segments[level].remove(entry.key)
        self._promote(entry, level)

    def remove(self, key: Hashable) -> None:
        self._segments[self._levels.pop(key)].remove(key)

    def evict(self, spared: Hashable) -> Hashable:
        victim = next(key for key in self if key != spared)
        self.remove(victim)
        return victim

    def clear(self) -> None:
        self._segments = [_Segment() for _ in range(_SEGMENTS)]
        self._levels.clear()

    def _promote(self, entry: Evictable, level: int) -> None:
        fits = self._entries_quota > 0 and entry.size_bytes <= self._bytes_quota
        level = min(level + 1, _SEGMENTS - 1) if fits else 0
        self._place(entry, level)
        for full in range(level, 0, -1):
            self._demote_excess(full)

    def _demote_excess(self, level: int) -> None:
        segment = self._segments[level]
        while len(segment.entries) > self._entries_quota or segment.size_bytes > self._bytes_quota:
            self._place(segment.remove(next(iter(segment.entries))), level - 1)

    def _place(self, entry: Evictable, level: int) -> None:
        self._segments[level].add(entry)
        self._levels[entry.key] = level

    def __len__(self) -> int:
        return len(self._levels)

    def __iter__(self) -> Iterator[Hashable]:
        return chain.from_iterable(segment.entries for segment in self._segments)

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
    """Some of the entries, the one used longest ago first."""

    __slots__ = ("above", "below", "entries", "size_bytes")

    def __init__(self, below: _Segment | None) -> None:
        self.below = below
        self.above = self
        """Above the highest there is the highest again."""
        if below is not None:
            below.above = self
        self.entries: OrderedDict[Hashable, Evictable] = OrderedDict()
        self.size_bytes = 0

    def remove(self, key: Hashable) -> Evictable:
        entry = self.entries.pop(key)
        self.size_bytes -= entry.size_bytes
        return entry

    def clear(self) -> None:
        self.entries.clear()
        self.size_bytes = 0


class S4LruPolicy:
    """Q. Huang et al., "An Analysis of Facebook Photo Caching" (SOSP 2013).

    A new entry begins in the lowest segment; each use moves it to the recent end of the segment
    above. What a segment has beyond its quota, a quarter of the entries and of the bytes, goes
    from its old end to the recent end of the segment below, and out of the cache below the lowest.
    A scan passes through the lowest segment alone.

    Other than in the paper, the lowest segment also has what the others leave free, so that a
    young cache can be filled. An entry larger than a quarter of the bytes stays in the lowest: it
    would drive out all others of a segment.
    """

    # A call may demote many entries, but each was promoted by a use before: amortised, O(1).

    __slots__ = ("_bytes_quota", "_entries_quota", "_homes", "_lowest", "_segments")

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self._entries_quota = entries_max // _SEGMENTS
        self._bytes_quota = bytes_max // _SEGMENTS
        self._lowest = _Segment(None)
        self._segments = [self._lowest]
        for _ in range(_SEGMENTS - 1):
            self._segments.append(_Segment(self._segments[-1]))
        self._homes: dict[Hashable, _Segment] = {}

    def add(self, entry: Evictable) -> None:
        self._place(entry, self._lowest)

    def touch(self, key: Hashable) -> None:
        home = self._homes[key]
        if home.above is home:
            home.entries.move_to_end(key)
        else:
            self._promote(home.remove(key), home)

    def update(self, entry: Evictable) -> None:
        home = self._homes[entry.key]
        home.remove(entry.key)
        self._promote(entry, home)

    def remove(self, key: Hashable) -> None:
        self._homes.pop(key).remove(key)

    def evict(self, spared: Hashable) -> Hashable:
        victim = next(key for key in self if key != spared)
        self.remove(victim)
        return victim

    def clear(self) -> None:
        for segment in self._segments:
            segment.clear()
        self._homes.clear()

    def _promote(self, entry: Evictable, home: _Segment) -> None:
        if entry.size_bytes > self._bytes_quota or not self._entries_quota:
            self._place(entry, self._lowest)
            return
        full = home.above
        self._place(entry, full)
        while (below := full.below) is not None:
            entries = full.entries
            while len(entries) > self._entries_quota or full.size_bytes > self._bytes_quota:
                self._place(full.remove(next(iter(entries))), below)
            full = below

    def _place(self, entry: Evictable, home: _Segment) -> None:
        key = entry.key
        home.entries[key] = entry
        home.size_bytes += entry.size_bytes
        self._homes[key] = home

    def __len__(self) -> int:
        return len(self._homes)

    def __iter__(self) -> Iterator[Hashable]:
        return chain.from_iterable(segment.entries for segment in self._segments)

"""A bounded cache that looks at everything each time: what `MemoryCache` is compared with."""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

from attrs import define

from mpreg.cache import EvictionCause, EvictionPolicyName, HeldEntry

Order = list[Hashable]


@define(eq=False)
class Seen:
    """An entry, and what a policy may want to remember of it."""

    entry: HeldEntry
    uses: int
    put_at: int
    used_at: int
    priority: float


class NaiveOrder:
    """Sorts all entries by what the policy says of each."""

    def __init__(self, policy: EvictionPolicyName) -> None:
        self.policy = policy
        self.seen: dict[Hashable, Seen] = {}
        self.turn = 0
        self.age = 0.0

    def put(self, entry: HeldEntry) -> None:
        self.turn += 1
        before = self.seen.get(entry.key)
        uses = 1 if before is None else before.uses + 1
        self.seen[entry.key] = Seen(entry, uses, self.turn, self.turn, self._priority(entry, uses))

    def touch(self, key: Hashable) -> None:
        self.turn += 1
        seen = self.seen[key]
        seen.uses += 1
        seen.used_at = self.turn
        seen.priority = self._priority(seen.entry, seen.uses)

    def _priority(self, entry: HeldEntry, uses: int) -> float:
        return self.age + uses * (entry.cost / max(entry.size_bytes, 1))

    def remove(self, key: Hashable) -> None:
        del self.seen[key]

    def evict(self, key: Hashable) -> None:
        self.age = self.seen.pop(key).priority

    def coldest_first(self) -> Order:
        return sorted(self.seen, key=lambda key: self._rank(self.seen[key]))

    def _rank(self, seen: Seen) -> tuple[Any, ...]:
        match self.policy:
            case EvictionPolicyName.LRU:
                return (seen.used_at,)
            case EvictionPolicyName.LFU:
                return seen.uses, seen.used_at
            case EvictionPolicyName.TTL_FIRST:
                lasts = seen.entry.expires_at == math.inf
                return seen.entry.expires_at, seen.used_at if lasts else seen.put_at
            case EvictionPolicyName.COST:
                return seen.priority, seen.used_at
            case EvictionPolicyName.S4LRU:
                raise AssertionError("a policy with an order of its own")


class NaiveSegments:
    """Four lists, the recent end last."""

    def __init__(self, entries_max: int, bytes_max: int) -> None:
        self.quotas = entries_max // 4, bytes_max // 4
        self.segments: list[list[HeldEntry]] = [[], [], [], []]

    def put(self, entry: HeldEntry) -> None:
        level = self._take(entry.key)
        self._promote(entry, level)

    def touch(self, key: Hashable) -> None:
        (entry,) = (held for segment in self.segments for held in segment if held.key == key)
        self._promote(entry, self._take(key))

    def _take(self, key: Hashable) -> int:
        """Take it out; return where it was, below all where it was nowhere."""
        for level, segment in enumerate(self.segments):
            for entry in segment:
                if entry.key == key:
                    segment.remove(entry)
                    return level
        return -1

    def _promote(self, entry: HeldEntry, level: int) -> None:
        fits = entry.size_bytes <= self.quotas[1] and self.quotas[0] > 0
        self.segments[min(level + 1, 3) if fits else 0].append(entry)
        for above in (3, 2, 1):
            while self._is_over_quota(self.segments[above]):
                self.segments[above - 1].append(self.segments[above].pop(0))

    def _is_over_quota(self, segment: list[HeldEntry]) -> bool:
        size_bytes = sum(entry.size_bytes for entry in segment)
        return len(segment) > self.quotas[0] or size_bytes > self.quotas[1]

    def remove(self, key: Hashable) -> None:
        self._take(key)

    evict = remove

    def coldest_first(self) -> Order:
        return [entry.key for segment in self.segments for entry in segment]


class NaiveCache:
    def __init__(self, entries_max: int, bytes_max: int, policy: EvictionPolicyName) -> None:
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.entries: dict[Hashable, HeldEntry] = {}
        self.told: list[tuple[HeldEntry, EvictionCause]] = []
        self.order: NaiveOrder | NaiveSegments = (
            NaiveSegments(entries_max, bytes_max)
            if policy is EvictionPolicyName.S4LRU
            else NaiveOrder(policy)
        )

    @property
    def size_bytes(self) -> int:
        return sum(entry.size_bytes for entry in self.entries.values())

    def get(self, key: Hashable, now: float) -> HeldEntry | None:
        entry = self.entries.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._lose(key, EvictionCause.EXPIRED)
            return None
        self.order.touch(key)
        return entry

    def put(self, entry: HeldEntry) -> bool:
        key = entry.key
        if entry.size_bytes > self.bytes_max:
            if key in self.entries:
                self._lose(key, EvictionCause.TOO_LARGE)
            return False
        while self._size_with(entry) > self.bytes_max:
            self._evict(key, EvictionCause.BYTES)
        while len(self.entries.keys() | {key}) > self.entries_max:
            self._evict(key, EvictionCause.ENTRIES)
        self.entries.pop(key, None)  # so that they stay in the order of their puts
        self.entries[key] = entry
        self.order.put(entry)
        return True

    def _size_with(self, entry: HeldEntry) -> int:
        others = (held.size_bytes for held in self.entries.values() if held.key != entry.key)
        return entry.size_bytes + sum(others)

    def _evict(self, spared: Hashable, cause: EvictionCause) -> None:
        victim = next(key for key in self.order.coldest_first() if key != spared)
        self.order.evict(victim)
        self.told.append((self.entries.pop(victim), cause))

    def _lose(self, key: Hashable, cause: EvictionCause) -> None:
        self.order.remove(key)
        self.told.append((self.entries.pop(key), cause))

    def discard(self, key: Hashable) -> HeldEntry | None:
        if key in self.entries:
            self.order.remove(key)
        return self.entries.pop(key, None)

    def expire(self, now: float, count_max: int) -> int:
        """Drop what has expired, the ``count_max`` soonest."""
        expired = [entry for entry in self.entries.values() if entry.expires_at <= now]
        expired.sort(key=lambda entry: entry.expires_at)
        for entry in expired[:count_max]:
            self._lose(entry.key, EvictionCause.EXPIRED)
        return len(expired[:count_max])

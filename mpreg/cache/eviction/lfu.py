"""Least frequently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain

from mpreg.cache.eviction.policy import Evictable

__all__ = ["LfuPolicy"]


class _Bucket:
    """The keys that were used equally often, the one used longest ago first."""

    __slots__ = ("after", "before", "keys", "uses")

    def __init__(self, uses: int) -> None:
        self.uses = uses
        self.keys: OrderedDict[Hashable, None] = OrderedDict()
        self.before = self.after = self

    def insert_after(self, other: _Bucket) -> None:
        self.before, self.after = other, other.after
        other.after.before = self
        other.after = self

    def unlink(self) -> None:
        self.before.after, self.after.before = self.after, self.before


class LfuPolicy:
    """Buckets of keys in a ring, by number of uses, so that every call takes O(1) steps: K. Shah,
    A. Mitra, D. Matani, "An O(1) algorithm for implementing the LFU cache eviction scheme" (2010).
    """

    # cachetools.LFUCache (O(1) since 6.1) orders keys in the same way, but tells its victim only
    # by removing it and its order not at all: it could neither spare an entry that grows without
    # forgetting its uses, nor say what is hottest.

    __slots__ = ("_buckets", "_ring")

    def __init__(self) -> None:
        self._ring = _Bucket(0)
        self._buckets: dict[Hashable, _Bucket] = {}

    def add(self, entry: Evictable) -> None:
        self._move(entry.key, self._ring)

    def touch(self, key: Hashable) -> None:
        bucket = self._buckets[key]
        if len(bucket.keys) == 1 and bucket.after.uses != bucket.uses + 1:
            bucket.uses += 1
        else:
            self._move(key, bucket)
            self._take_from(bucket, key)

    def update(self, entry: Evictable) -> None:
        self.touch(entry.key)

    def remove(self, key: Hashable) -> None:
        self._take_from(self._buckets.pop(key), key)

    def evict(self, spared: Hashable) -> Hashable:
        victim = next(key for key in self if key != spared)
        self.remove(victim)
        return victim

    def clear(self) -> None:
        self._ring = _Bucket(0)
        self._buckets.clear()

    def _move(self, key: Hashable, bucket: _Bucket) -> None:
        """Into the bucket of one more use than ``bucket``."""
        target = bucket.after
        if target.uses != bucket.uses + 1:
            target = _Bucket(bucket.uses + 1)
            target.insert_after(bucket)
        target.keys[key] = None
        self._buckets[key] = target

    @staticmethod
    def _take_from(bucket: _Bucket, key: Hashable) -> None:
        del bucket.keys[key]
        if not bucket.keys:
            bucket.unlink()

    def __len__(self) -> int:
        return len(self._buckets)

    def __iter__(self) -> Iterator[Hashable]:
        return chain.from_iterable(bucket.keys for bucket in self.buckets())

    def buckets(self) -> Iterator[_Bucket]:
        """Those with the fewest uses first."""
        bucket = self._ring.after
        while bucket is not self._ring:
            yield bucket
            bucket = bucket.after

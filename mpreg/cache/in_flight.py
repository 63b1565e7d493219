"""What is on its way to the writer: which keys, which links, and what may be seen of it already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from attrs import define, field

from mpreg.cache.entry import CachedEntry
from mpreg.cache.index import DiskIndex
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.memory import MemoryCache
from mpreg.cache.records import Link
from mpreg.cache.writes import Change, Write

__all__ = ["InFlight", "entry_in"]

K = TypeVar("K")
V = TypeVar("V")


@define(eq=False)
class InFlight:
    index: DiskIndex
    memory: MemoryCache[CachedEntry]
    behind: dict[GlobalCacheKey, Write] = field(factory=dict)
    """Keys that are written behind, each with the last write that is on its way."""
    invalidating: list[Write] = field(factory=list)
    linking: dict[Link, int] = field(factory=dict)
    """How many entries on their way have a tag, or depend on a key."""
    links: dict[bytes, list[tuple[Link, ...]]] = field(factory=dict)
    """Those of what is on its way of each key, where it has some."""
    count: int = 0
    """Writes that are sent and not settled."""
    _writing: dict[bytes, int] = field(factory=dict)
    """How many changes of a key are on their way."""
    _tidying: dict[bytes, int] = field(factory=dict)
    """How many of them only remove what is dead."""
    _evicting: set[bytes] = field(factory=set)
    """Keys on their way with a write that makes room."""

    def begin(self, write: Write) -> None:
        """It is about to be sent: right after this, or `forget` it."""
        for change in write.changes:
            encoded = change.encoded
            self._writing[encoded] = self._writing.get(encoded, 0) + 1
            if write.is_tidying:
                self._tidying[encoded] = self._tidying.get(encoded, 0) + 1
            if change.entry is not None:
                self.index.expect(encoded, change.size_bytes)
                if change.entry.links:
                    self._link(encoded, change.entry.links)
            if write.is_behind:
                write.before.append(self.behind.get(change.key))
                self.behind[change.key] = write
        if write.raised:
            self.invalidating.append(write)

    def sent(self, write: Write) -> None:
        self.count += 1
        if write.victims:
            self._evicting.update(one.encoded for one in write.changes)

    def settled(self, write: Write) -> None:
        """What was sent is not on its way any more. `end` it then."""
        self.count -= 1
        if write.victims:
            self._evicting.difference_update([one.encoded for one in write.changes])

    def forget(self, write: Write) -> None:
        """It was not sent: all is as it was before `begin`."""
        self.index.stay(write.victims)
        write.victims = []
        self.end(write)
        for change, before in zip(write.changes, write.before, strict=False):
            if before is not None:
                self.behind[change.key] = before
        write.before = []

    def end(self, write: Write) -> None:
        """Take back what `begin` has noted."""
        for change in write.changes:
            _count_down(self._writing, change.encoded)
            if write.is_tidying:
                _count_down(self._tidying, change.encoded)
            if change.entry is not None:
                self.index.arrive(change.encoded, change.size_bytes)
                if change.entry.links:
                    self._unlink(change.encoded, change.entry.links)
            if self.behind.get(change.key) is write:
                del self.behind[change.key]
        self.index.no_longer_expect(write.more)
        write.more = (0, 0)
        if write.raised:
            self.invalidating.remove(write)

    def _link(self, encoded: bytes, links: tuple[Link, ...]) -> None:
        self.links.setdefault(encoded, []).append(links)
        for link in links:
            self.linking[link] = self.linking.get(link, 0) + 1

    def _unlink(self, encoded: bytes, links: tuple[Link, ...]) -> None:
        _take(self.links, encoded, links)
        for link in links:
            _count_down(self.linking, link)

    def are_undecided(self, changes: Sequence[Change]) -> bool:
        """Whether an eviction that may fail decides what any of these adds to L2."""
        evicting, index = self._evicting, self.index
        if not evicting and not index.is_any_leaving:
            return False
        return any(one.encoded in evicting or index.is_leaving(one.encoded) for one in changes)

    def is_written(self, encoded: bytes) -> bool:
        """Whether a change of it is on its way."""
        return encoded in self._writing

    def is_changing(self, encoded: bytes) -> bool:
        """Whether a change of it is on its way that readers will see."""
        return self._writing.get(encoded, 0) > self._tidying.get(encoded, 0)

    def on_its_way(self, key: GlobalCacheKey, encoded: bytes) -> Write | None:
        """A write that is not settled and may change whether, and how, a key is seen."""
        if (write := self.behind.get(key)) is not None:
            return write
        for write in self.invalidating:
            if any(self._may_concern(target, key, encoded) for target in write.raised):
                return write
        return None

    def _may_concern(self, target: Target, key: GlobalCacheKey, encoded: bytes) -> bool:
        """Where it is not known yet what a key has, it may have any tag. A key that is there for
        all tags would never be counted while others are invalidated all the time."""
        known = self.memory.peek(key) or self.index.stored.get(encoded)
        if isinstance(target, Prefix) and target.concerns(encoded, known.links if known else ()):
            return True
        if known is None:
            return not self.index.is_complete
        return target in known.links

    def is_known(self, encoded: bytes) -> bool:
        """Whether there may be something of a key on the disk, or on its way there."""
        return (
            encoded in self.index.stored
            or encoded in self._writing
            or self.index.is_leaving(encoded)
        )


def entry_in(write: Write, key: GlobalCacheKey) -> CachedEntry | None:
    """What a write makes of a key: where it names it twice, the last one counts."""
    return next(change.entry for change in reversed(write.changes) if change.key == key)


def _take(lists: dict[K, list[V]], key: K, item: V) -> None:
    lists[key].remove(item)
    if not lists[key]:
        del lists[key]


def _count_down(counts: dict[K, int], key: K) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1

"""Entries in memory, as many and as large as there is room for."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable, Hashable, Iterable, Iterator
from typing import Generic, TypeVar

import msgspec

from mpreg.cache.eviction import EvictionPolicyName, make_policy
from mpreg.cache.eviction.ranking import Ranking
from mpreg.errors import InvalidArgumentError
from mpreg.validation import found

__all__ = ["EvictionCause", "HeldEntry", "MemoryCache"]


class EvictionCause(enum.Enum):
    """Why an entry left that nobody had removed."""

    ENTRIES = "entries"
    """Another one needed its place."""
    BYTES = "bytes"
    """Another one needed its bytes."""
    EXPIRED = "expired"
    TOO_LARGE = "too_large"
    """What should have replaced it is larger than the whole cache."""

    # Each is one object. The hash of an `Enum` is two calls of Python, for each entry that leaves.
    __hash__ = object.__hash__


class HeldEntry(msgspec.Struct, eq=False):
    """What is held for a key. Its fields do not change while it is held: put another one."""

    key: Hashable
    value: object
    size_bytes: int
    """What it counts for; at least 0."""
    expires_at: float = math.inf
    """The first instant at which it is not there any more; `math.inf`: never."""
    cost: float = 1.0
    """Of computing it again, in any unit; finite and at least 0."""
    version: int = 0


E = TypeVar("E", bound=HeldEntry)


def _no_size(entry: HeldEntry) -> InvalidArgumentError:
    return InvalidArgumentError(
        f"size_bytes is a whole number, at least 0, not {entry.size_bytes!r:.80}"
    )


class MemoryCache(Generic[E]):
    """A bounded mapping of keys to entries.

    Both bounds hold at every moment, also while ``on_evicted`` runs. That is called with each
    entry that leaves by itself (not with one that is replaced, discarded or cleared), once it is
    gone. It must neither raise nor change this cache.

    Raises:
        ConfigurationError: a bound is no whole number or below 1, or there is no such policy.
    """

    __slots__ = (
        "_entries", "_expiries", "_on_evicted", "_policy",
        "bytes_max", "entries_max", "peek", "size_bytes", "touch",
    )  # fmt: skip

    def __init__(
        self,
        *,
        entries_max: int,
        bytes_max: int,
        policy: EvictionPolicyName | str = EvictionPolicyName.LRU,
        on_evicted: Callable[[E, EvictionCause], None] | None = None,
    ) -> None:
        for name, bound in (("entries_max", entries_max), ("bytes_max", bytes_max)):
            if type(bound) is not int or bound < 1:
                raise found(name, "a whole number, at least 1,", bound)
        self.entries_max = entries_max
        self.bytes_max = bytes_max
        self.size_bytes = 0
        """Of all entries together."""
        self._entries: dict[Hashable, E] = {}
        self._expiries = Ranking()
        self._policy = make_policy(policy, entries_max, bytes_max)
        # Attributes and not methods: a hit pays for no further Python call.
        self.peek: Callable[[Hashable], E | None] = self._entries.get
        """The entry of a key, expired or not, without a use of it."""
        self.touch: Callable[[Hashable], None] = self._policy.touch
        """An entry that `peek` gave has been used."""
        self._on_evicted = on_evicted

    def get(self, key: Hashable, now: float) -> E | None:
        """The entry of a key, which counts as a use; None, and it is dropped, if it expires at
        ``now`` or earlier."""
        entry = self._entries.get(key)
        if entry is None:
            return None
        if entry.expires_at <= now:
            self._evict(entry, EvictionCause.EXPIRED)
            return None
        self.touch(key)
        return entry

    def put(self, entry: E) -> bool:
        """Hold an entry instead of the one that its key has, which counts as a use; make room.

        False where it is larger than the whole cache: then nothing is held for its key.

        Raises:
            InvalidArgumentError: its size is no whole number, or below 0; nothing has changed.
        """
        key, size_bytes = entry.key, entry.size_bytes
        if type(size_bytes) is not int or size_bytes < 0:
            raise _no_size(entry)
        before = self._entries.get(key)
        if size_bytes > self.bytes_max:
            if before is not None:
                self._evict(before, EvictionCause.TOO_LARGE)
            return False
        if before is None:
            self._make_room(key, 1, size_bytes)
            self._policy.add(entry)
        else:
            size_bytes -= before.size_bytes
            self._make_room(key, 0, size_bytes)
            self._policy.update(entry)
        self._entries[key] = entry
        self.size_bytes += size_bytes
        if entry.expires_at != math.inf:
            self._expiries.set(key, entry.expires_at)
        elif before is not None:
            self._expiries.discard(key)
        return True

    def offer(self, entry: E, bytes_max: int) -> bool | None:
        """Hold an entry whose key has none, if nothing must leave for it and all together have at
        most ``bytes_max``. None where its key has one; else whether it is held now. Raises as `put`
        does.
        """
        key, entries = entry.key, self._entries
        if type(entry.size_bytes) is not int or entry.size_bytes < 0:
            raise _no_size(entry)
        size_bytes = self.size_bytes + entry.size_bytes
        if key in entries:
            return None
        is_full = size_bytes > bytes_max or size_bytes > self.bytes_max
        if is_full or len(entries) >= self.entries_max:
            return False
        self._policy.add(entry)
        entries[key] = entry
        self.size_bytes = size_bytes
        if entry.expires_at != math.inf:
            self._expiries.set(key, entry.expires_at)
        return True

    def discard(self, key: Hashable) -> E | None:
        """Remove what is held for a key, and return it."""
        entry = self._entries.get(key)
        if entry is not None:
            self._policy.remove(key)
            self._forget(entry)
        return entry

    def clear(self) -> None:
        self._entries.clear()
        self._expiries.clear()
        self._policy.clear()
        self.size_bytes = 0

    def expire(self, now: float, count_max: int) -> int:
        """Drop up to ``count_max`` entries that expire at ``now`` or earlier, the soonest first;
        return how many."""
        if not self._expiries:
            return 0
        for count in range(count_max):
            first = self._expiries.first()
            if first is None or first[0] > now:
                return count
            self._evict(self._entries[first[1]], EvictionCause.EXPIRED)
        return count_max

    def coldest_first(self) -> Iterator[Hashable]:
        """The keys in the order of eviction, if nothing were used any more. Not to be gone on with
        once the cache has changed."""
        return iter(self._policy)

    def held(self) -> Iterable[E]:
        """All entries, expired or not. Not to be gone on with once the cache has changed."""
        return self._entries.values()

    def __len__(self) -> int:
        return len(self._entries)

    def __contains__(self, key: object) -> bool:
        return key in self._entries

    def _make_room(self, key: Hashable, entries: int, size_bytes: int) -> None:
        while self.size_bytes + size_bytes > self.bytes_max:
            self._evict_one(key, EvictionCause.BYTES)
        if len(self._entries) + entries > self.entries_max:
            self._evict_one(key, EvictionCause.ENTRIES)

    def _evict_one(self, spared: Hashable, cause: EvictionCause) -> None:
        entry = self._entries[self._policy.evict(spared)]
        self._forget(entry)
        self._tell(entry, cause)

    def _evict(self, entry: E, cause: EvictionCause) -> None:
        self._policy.remove(entry.key)
        self._forget(entry)
        self._tell(entry, cause)

    def _forget(self, entry: E) -> None:
        del self._entries[entry.key]
        self.size_bytes -= entry.size_bytes
        if entry.expires_at != math.inf:
            self._expiries.discard(entry.key)

    def _tell(self, entry: E, cause: EvictionCause) -> None:
        if self._on_evicted is not None:
            self._on_evicted(entry, cause)

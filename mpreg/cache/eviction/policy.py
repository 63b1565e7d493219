"""The contract between a bounded cache and what decides which entry it gives up."""

from __future__ import annotations

import enum
from collections.abc import Hashable, Iterator
from typing import Protocol

__all__ = ["Evictable", "EvictionPolicy", "EvictionPolicyName"]


class EvictionPolicyName(enum.Enum):
    LRU = "lru"
    """What was used longest ago leaves first."""
    LFU = "lfu"
    """What was used least often leaves first; of those, what was used longest ago."""
    S4LRU = "s4lru"
    """Four LRU segments, each entered by another use: what is read once displaces nothing that is
    read often."""
    TTL_FIRST = "ttl_first"
    """What expires soonest leaves first, what never expires last."""
    COST = "cost"
    """What is cheap to compute, large, and seldom used leaves first."""


class Evictable(Protocol):
    """What a policy may ask of an entry. None of it changes while the policy has the entry."""

    @property
    def key(self) -> Hashable: ...
    @property
    def size_bytes(self) -> int: ...
    @property
    def expires_at(self) -> float: ...
    @property
    def cost(self) -> float: ...


class EvictionPolicy(Protocol):
    """An order of keys, from the one to be evicted first to the one to be evicted last.

    It knows no bounds of the whole: the cache asks for a victim whenever it needs room, before it
    adds what the room is for. Each call takes O(1) or O(log n) steps, amortised over the calls
    before it where the policy says so; only iterating takes more.

    `add` is only called with a key that is not there; all others, with a key that is.
    """

    def add(self, entry: Evictable, /) -> None: ...

    def touch(self, key: Hashable, /) -> None:
        """The entry has been used."""

    def update(self, entry: Evictable, /) -> None:
        """A new entry has taken the place of its key's old one, which is a use as well."""

    def remove(self, key: Hashable, /) -> None: ...

    def evict(self, spared: Hashable, /) -> Hashable:
        """Take out the first key that is not ``spared``, and return it. There must be one.

        An entry that is about to replace its older self must not be a victim of its own growth.
        """

    def clear(self) -> None: ...

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Hashable]:
        """In the order of eviction. Not to be gone on with once the policy has changed."""

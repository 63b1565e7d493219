"""What a cache is, in a few lines: a dict, and what goes out of it with what.

It is told every operation in the order in which it was committed, and knows of each value when it
came and when it went. What a reader may see, and what nobody may see any more, follows from that.
"""

from __future__ import annotations

import math
from collections.abc import Iterable

from attrs import define, field

from mpreg.cache import ChangeKind, GlobalCacheKey
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import decode_key, encode_key

__all__ = ["Event", "Model", "Value"]


@define(eq=False)
class Value:
    """One that was put."""

    key: GlobalCacheKey
    payload: object
    version: int
    fresh_until: float
    expires_at: float
    tags: tuple[str, ...]
    dependencies: tuple[bytes, ...]
    born: int
    """The number of the event."""
    before: Value | None = field(repr=False)
    """What it replaced."""
    died: float = math.inf
    why: str = ""
    claimed: set[int] = field(factory=set)
    """Sums that callers got of it."""


@define(eq=False)
class Event:
    """One operation that was committed, as those who watch are told of it."""

    number: int
    sequence: int
    """Of its commit group."""
    kind: ChangeKind | None
    """None: nobody is told."""
    version: int | None = None
    key: GlobalCacheKey | None = None
    target: Target | None = None
    killed: set[GlobalCacheKey] = field(factory=set)
    """What went with it."""
    origin: object = None

    def concerns(
        self, key: GlobalCacheKey, tags: Iterable[str], dependencies: Iterable[GlobalCacheKey]
    ) -> bool:
        """Whether what is computed for a key may be another value after it."""
        depended_on = set(dependencies)
        if self.kind in (ChangeKind.PUT, ChangeKind.DELETED) and (
            self.key == key or self.key in depended_on
        ):
            return True
        if self.kind is ChangeKind.EVICTED:
            return False
        target = self.target
        if isinstance(target, Prefix):
            return encode_key(key).startswith(target.encoded)
        if isinstance(target, str):
            return target in tags
        return any(target == encode_key(one) for one in depended_on)


@define(eq=False)
class Model:
    alive: dict[GlobalCacheKey, Value] = field(factory=dict)
    events: list[Event] = field(factory=list)
    by_version: dict[int, Value] = field(factory=dict)
    by_token: dict[int, Value] = field(factory=dict)
    together: set[GlobalCacheKey] = field(factory=set)
    """Keys that the batch has put which is being told. What one call puts is put at one moment:
    nothing of it is older than the rest."""
    latest: float = -math.inf
    """The latest time that any clock has shown: what had expired then may be forgotten."""

    def add(self, sequence: int, kind: ChangeKind | None, **facts: object) -> Event:
        event = Event(len(self.events), sequence, kind, **facts)  # type: ignore[arg-type]
        self.events.append(event)
        return event

    def put(self, event: Event, value: Value) -> None:
        self._change(event, value.key, "overwritten")
        self.alive[value.key] = self.by_version[value.version] = value
        self.together.add(value.key)
        if (token := token_of(value.payload)) is not None:
            self.by_token[token] = value

    def delete(self, event: Event, key: GlobalCacheKey) -> None:
        self._change(event, key, "deleted")

    def remove(self, event: Event, key: GlobalCacheKey, why: str) -> None:
        """Of this one alone."""
        if (value := self.alive.pop(key, None)) is not None:
            value.died, value.why = event.number, why

    def invalidate(self, event: Event, target: Target) -> None:
        for value in list(self.alive.values()):
            if _is_target(value, target) and value.key in self.alive:
                self._kill(event, value.key)
        if isinstance(target, bytes):
            self._kill_those_that_depend(event, target)
        elif isinstance(target, Prefix):
            for value in list(self.alive.values()):
                depends = any(one.startswith(target.encoded) for one in value.dependencies)
                if depends and value.key in self.alive:
                    self._kill(event, value.key)

    def _change(self, event: Event, key: GlobalCacheKey, why: str) -> None:
        self.remove(event, key, why)
        self._kill_those_that_depend(event, encode_key(key))

    def _kill_those_that_depend(self, event: Event, dependency: bytes) -> None:
        for value in list(self.alive.values()):
            if value.key in self.together:
                continue
            if dependency in value.dependencies and value.key in self.alive:
                self._kill(event, value.key)

    def _kill(self, event: Event, key: GlobalCacheKey) -> None:
        value = self.alive[key]
        event.killed.add(key)
        self.remove(event, key, "invalidated")
        if value.expires_at > self.latest:
            # Of what has expired nobody need know any more what depended on it.
            self._kill_those_that_depend(event, encode_key(key))


def token_of(payload: object) -> int | None:
    """What tells one value from all others; None where nothing does."""
    if isinstance(payload, list):
        return int(payload[0])
    return payload if isinstance(payload, int) and payload % 1_000 == 0 else None


def _is_target(value: Value, target: Target) -> bool:
    if isinstance(target, Prefix):
        return encode_key(value.key).startswith(target.encoded)
    return target in value.tags or target in value.dependencies


def key_of(encoded: bytes) -> GlobalCacheKey:
    return decode_key(encoded)

"""Counters: what many callers add to one key at the same time is written once for all of them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from functools import partial
from typing import Final, TypeAlias

from attrs import define, field

from mpreg.cache.entry import CachedEntry
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.writes import OvertakenError
from mpreg.errors import (
    CommitUnknownError,
    InvalidArgumentError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import Ack, Durability, PersistenceRegistry

__all__ = ["Counting", "Increment", "ReadNumber", "WriteNumber"]

_MIN: Final = -(2**63)
_MAX: Final = 2**63 - 1


@define(eq=False)
class Increment:
    """One caller's."""

    by: int
    initial: int
    ttl_seconds: float | None
    given_at: float
    """Wall clock: its time to live counts from there."""
    durability: Durability
    ack: Ack[int] = field(factory=Ack)


ReadNumber: TypeAlias = Callable[[GlobalCacheKey, bool], Awaitable[tuple[CachedEntry | None, int]]]
"""See `mpreg.cache.physical.physical`: (key, afresh)."""

WriteNumber: TypeAlias = Callable[
    [GlobalCacheKey, int, int, CachedEntry | None, Increment, Durability], Awaitable[None]
]
"""Put (key, number, expected version, the entry that it replaces, or else who says how long it
lives, durability). Raises `VersionConflictError`, `OvertakenError`."""


@define(eq=False)
class Counting:
    _registry: PersistenceRegistry
    _read: ReadNumber
    _write: WriteNumber
    _waiting: dict[GlobalCacheKey, list[Increment]] = field(factory=dict)
    """For a key that is there a task runs, which takes all that wait, again and again."""

    def add(self, key: GlobalCacheKey, increment: Increment) -> None:
        """Raises `WriterStoppedError` where the registry is not open (any more)."""
        if key in self._waiting:
            self._waiting[key].append(increment)
        else:
            self._registry.start_soon(partial(self._count, key))
            self._waiting[key] = [increment]

    async def _count(self, key: GlobalCacheKey) -> None:
        taken: list[Increment] = []
        try:
            while self._waiting[key]:
                taken, self._waiting[key] = self._waiting[key], []
                try:
                    await self._apply(key, taken)
                except Exception as error:
                    _reject(taken, error)
        finally:
            # What was taken may have been sent: it is committed then, before the files are closed.
            _reject(taken, CommitUnknownError(f"{key!r:.200}: the registry closed meanwhile"))
            left = self._waiting.pop(key)
            _reject(left, WriterStoppedError(f"{key!r:.200}: the registry closed meanwhile"))

    async def _apply(self, key: GlobalCacheKey, increments: list[Increment]) -> None:
        damaged_version, is_afresh = 0, False
        while True:
            entry, version = await self._read(key, is_afresh)
            value = None if entry is None else entry.give().value
            if entry is not None and type(value) is not int:
                raise InvalidArgumentError(
                    f"{key!r} is no number but {type(value).__name__}; nothing was changed"
                )
            assert value is None or isinstance(value, int)
            results = _sums(value, increments)
            counted = [(increment, one) for increment, one in results if one is not None]
            if not counted:
                break
            # Who began the number says how long it lives; the last sum is what it is.
            first, number = counted[0][0], counted[-1][1]
            durability = _strictest(increment for increment, _ in counted)
            try:
                await self._write(key, number, version or damaged_version, entry, first, durability)
            except OvertakenError:
                continue
            except VersionConflictError as conflict:
                # Somebody put another value meanwhile: add to that. Or it cannot be read.
                damaged_version, is_afresh = conflict.found_version, True
                continue
            break
        for increment, result in results:
            if result is None:
                increment.ack.reject(
                    InvalidArgumentError(f"{key!r} would not fit in 64 bits; it was not changed")
                )
            else:
                increment.ack.resolve(result)


def _sums(value: int | None, increments: list[Increment]) -> list[tuple[Increment, int | None]]:
    """What each caller gets, one after the other; None: it would not fit, and does not count."""
    results: list[tuple[Increment, int | None]] = []
    for increment in increments:
        sum = (increment.initial if value is None else value) + increment.by
        if _MIN <= sum <= _MAX:
            value = sum
            results.append((increment, sum))
        else:
            results.append((increment, None))
    return results


def _strictest(increments: Iterable[Increment]) -> Durability:
    """What is written as one is as durable as any of them asks."""
    durable = any(one.durability is Durability.DURABLE for one in increments)
    return Durability.DURABLE if durable else Durability.RELAXED


def _reject(increments: list[Increment], error: Exception) -> None:
    for increment in increments:
        if not increment.ack.done:
            increment.ack.reject(error)

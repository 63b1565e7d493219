"""Reads of L2 that are under way: what they are given may be older than what is known by then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

import msgspec
from attrs import define, field

__all__ = ["Reading", "Reads"]


class Reading(msgspec.Struct, eq=False):
    """Reads of one key from L2 that are under way: each a block."""

    key: bytes
    under_way: dict[bytes, Reading]
    count: int = 0
    is_overtaken: bool = False
    """The key was changed since they began."""

    def __enter__(self) -> Self:
        self.count += 1
        return self

    def __exit__(self, *_: object) -> None:
        self.count -= 1
        if not self.count and self.under_way.get(self.key) is self:
            del self.under_way[self.key]


@define(eq=False)
class Reads:
    _reading: dict[bytes, Reading] = field(factory=dict)
    _noting: dict[int, set[bytes]] = field(factory=dict)
    """What was changed since each of those who read many began."""

    def reading(self, encoded: bytes) -> Reading:
        """Notes that a key is being read, while the block of it runs."""
        if (reading := self._reading.get(encoded)) is None:
            reading = self._reading[encoded] = Reading(encoded, self._reading)
        return reading

    @contextmanager
    def noting_changes(self) -> Iterator[set[bytes]]:
        """The keys that are changed while the block runs: for who reads many at once."""
        changed: set[bytes] = set()
        self._noting[id(changed)] = changed
        try:
            yield changed
        finally:
            del self._noting[id(changed)]

    def overtake(self, encoded: bytes) -> None:
        """Whoever is reading the key may be given what was there before."""
        if (reading := self._reading.pop(encoded, None)) is not None:
            reading.is_overtaken = True
        for changed in self._noting.values():
            changed.add(encoded)

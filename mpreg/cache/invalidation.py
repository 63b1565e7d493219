"""What was invalidated: barriers.

An invalidation is one small row in the store, whatever it concerns. The row gets a version as every
write does, and versions only grow, store-wide. So it says all there is to say: entries that it
concerns and whose version is below it are dead; those that were written after it are not. It takes
effect as a whole when it is committed, in the one order of the writer, also for entries that are
not in memory and for those that nobody has counted yet.

The dead entries are removed later, at leisure. When none is left, the barrier goes.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec
from attrs import define, field

from mpreg.cache.keys import decode_namespace, namespace_of
from mpreg.cache.records import Link

__all__ = ["Barriers", "Prefix", "Space", "Target", "dependency_row", "target_row"]


class Prefix(msgspec.Struct, frozen=True):
    """All keys whose bytes begin so: a namespace, or a part of one."""

    encoded: bytes


Target: TypeAlias = Prefix | str | bytes
"""What an invalidation concerns: keys by their beginning, or entries by a tag (`str`) or by a key
that they depend on (`bytes`)."""


def dependency_row(dependency: bytes) -> bytes:
    """The key of the row that says that something depends on a key. It is no barrier."""
    return b"r" + dependency


def target_row(target: Target) -> bytes:
    """The key of its row."""
    if isinstance(target, Prefix):
        return b"p" + target.encoded
    if isinstance(target, str):
        return b"t" + target.encode("utf-8", "surrogatepass")
    return b"d" + target


@define(eq=False)
class Space:
    """A namespace: the barriers over its keys. There is one object for each, so that an entry in
    memory is held against them by looking at a few attributes."""

    name: str
    encoded: bytes
    barrier: int = 0
    """Of all of it."""
    prefixes: dict[bytes, int] = field(factory=dict)
    """Of parts of it."""
    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0

    def kills(self, encoded: bytes, version: int) -> bool:
        if version < self.barrier:
            return True
        if self.prefixes:
            for prefix, barrier in self.prefixes.items():
                if version < barrier and encoded.startswith(prefix):
                    return True
        return False


@define(eq=False)
class Barriers:
    """All barriers of a cache, in memory."""

    spaces: dict[bytes, Space] = field(factory=dict)
    """By the encoded namespace."""
    links: dict[Link, int] = field(factory=dict)
    """Of tags, and of keys that others depend on."""
    depended_on: set[bytes] = field(factory=set)
    """Keys that others depend on, or did: each change of one of them raises its barrier. That is
    stored, too, with the first entry that depends on it."""

    def restore(self, row: bytes, version: int) -> None:
        """Take in a row as it was stored. Raises `ValueError` for one that is none."""
        kind, rest = row[:1], row[1:]
        if kind == b"r":
            self.depended_on.add(rest)
        elif kind == b"p":
            encoded = namespace_of(rest)
            self.raise_to(Prefix(rest), version, self.space(encoded, decode_namespace(encoded)))
        elif kind == b"t":
            self.raise_to(rest.decode("utf-8", "surrogatepass"), version, None)
        elif kind == b"d":
            self.raise_to(rest, version, None)
        else:
            raise ValueError(f"no invalidation is stored under {row!r:.80}")

    def space(self, encoded: bytes, name: str) -> Space:
        found = self.spaces.get(encoded)
        if found is None:
            found = self.spaces[encoded] = Space(name, encoded)
        return found

    def link_kills(self, links: Iterable[Link], version: int) -> bool:
        barriers = self.links
        return any(version < barriers.get(link, 0) for link in links)

    def raise_to(self, target: Target, version: int, space: Space | None) -> None:
        """It was committed. ``space`` is that of a prefix."""
        if isinstance(target, Prefix):
            assert space is not None
            if target.encoded == space.encoded:
                space.barrier = max(space.barrier, version)
            else:
                space.prefixes[target.encoded] = max(
                    version, space.prefixes.get(target.encoded, 0)
                )
        else:
            self.links[target] = max(version, self.links.get(target, 0))

    def lower(self, target: Target, version: int, space: Space | None) -> None:
        """Nothing that it concerns is left. Not where it was raised again meanwhile."""
        if isinstance(target, Prefix):
            assert space is not None
            if target.encoded == space.encoded:
                space.barrier = 0 if space.barrier == version else space.barrier
            elif space.prefixes.get(target.encoded) == version:
                del space.prefixes[target.encoded]
        elif self.links.get(target) == version:
            del self.links[target]

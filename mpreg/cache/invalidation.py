"""What was invalidated: barriers.

An invalidation is one small row in the store, whatever it concerns. The row gets a version as every
write does, and versions only grow, store-wide. So it says all there is to say: entries that it
concerns and whose version is below it are dead; those that were written after it are not. It takes
effect as a whole when it is committed, in the one order of the writer, also for entries that are
not in memory and for those that nobody has counted yet.

What is invalidated takes along what depends on it, and nobody has to be looked for: an entry has
the tags and dependencies of what it depends on, too, so it is held against the same barriers.

The dead entries are removed later, at leisure. When none is left, the barrier goes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Final, TypeAlias

import msgspec
from attrs import define, field

from mpreg.cache.keys import KeyPart, decode_namespace, encode_prefix, namespace_of
from mpreg.cache.records import Link

__all__ = ["Barriers", "DependedOn", "Prefix", "Space", "Target", "dependency_row", "target_row"]


class Prefix(msgspec.Struct, frozen=True):
    """A namespace, or the keys of it that begin so: see `mpreg.cache.keys.encode_prefix`."""

    encoded: bytes
    namespace: str
    prefix: KeyPart | tuple[KeyPart, ...] | None = None

    @classmethod
    def of(cls, namespace: str, prefix: KeyPart | tuple[KeyPart, ...] | None) -> Prefix:
        return cls(encode_prefix(namespace, prefix), namespace, prefix)

    def concerns(self, encoded: bytes, links: Iterable[Link]) -> bool:
        """A key of it, or what depends on one."""
        return encoded.startswith(self.encoded) or any(
            isinstance(link, bytes) and link.startswith(self.encoded) for link in links
        )


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


#: Namespaces that are counted by themselves although nothing was ever put there.
MISSED_NAMESPACES_MAX: Final = 1_024

#: The first ones that were used are never forgotten: what is told of each of them only grows.
NAMESPACES_KEPT_MIN: Final = 1_024

#: Of so many entries in memory there may be one namespace more, before they are looked through for
#: those that are in use: so that this costs little for each new one.
ENTRIES_PER_NAMESPACE: Final = 16


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
    _lengths: dict[int, int] = field(factory=dict)
    """How many prefixes have that many bytes. They are many where each user has one, and their
    lengths are few."""
    memory_hits: int = 0
    disk_hits: int = 0
    misses: int = 0
    is_forgotten: bool = False
    """Another one stands for the namespace now, or none: no entry in memory may have this one."""

    def kills(self, encoded: bytes, version: int) -> bool:
        if version < self.barrier:
            return True
        prefixes = self.prefixes
        if prefixes:
            for length in self._lengths:
                if version < prefixes.get(encoded[:length], 0):
                    return True
        return False

    def raise_prefix(self, prefix: bytes, version: int) -> None:
        if (known := self.prefixes.get(prefix)) is None:
            self._lengths[len(prefix)] = self._lengths.get(len(prefix), 0) + 1
        self.prefixes[prefix] = max(version, known or 0)

    def lower_prefix(self, prefix: bytes) -> None:
        del self.prefixes[prefix]
        self._lengths[len(prefix)] -= 1
        if not self._lengths[len(prefix)]:
            del self._lengths[len(prefix)]


@define(eq=False)
class DependedOn:
    """Keys on which others depend, in the order in which that was noted: of a set it would be
    another one in each process."""

    keys: dict[bytes, None] = field(factory=dict)
    _counts: Counter[bytes] = field(factory=Counter)
    """How many of each namespace, by its bytes."""

    def update(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key not in self.keys:
                self.keys[key] = None
                self._counts[namespace_of(key)] += 1

    def difference_update(self, keys: Iterable[bytes]) -> None:
        for key in keys:
            if key in self.keys:
                del self.keys[key]
                namespace = namespace_of(key)
                self._counts[namespace] -= 1
                if not self._counts[namespace]:
                    del self._counts[namespace]

    def has_any_of(self, namespace: str) -> bool:
        return bool(self._counts) and encode_prefix(namespace, None) in self._counts

    def __contains__(self, key: bytes) -> bool:
        return key in self.keys

    def __len__(self) -> int:
        return len(self.keys)


@define(eq=False)
class Barriers:
    """All barriers of a cache, in memory."""

    spaces: dict[str, Space] = field(factory=dict)
    """By namespace."""
    links: dict[Link, int] = field(factory=dict)
    """Of tags, and of keys that others depend on."""
    held: Callable[[], Sequence[Space]] = tuple
    """Those of the entries in memory, one for each entry."""
    memory_hits_elsewhere: int = 0
    disk_hits_elsewhere: int = 0
    misses_elsewhere: int = 0
    """In namespaces of which nothing is known, or nothing any more."""
    raised: int = 0
    """How often any of them was: what was alive then, and nothing was raised since, is alive."""
    depended_on: DependedOn = field(factory=DependedOn)
    """Keys that others depend on, or did: each change of one of them raises its barrier. That is
    stored, too, with the first entry that depends on it."""
    _barred: dict[bytes, Space] = field(factory=dict)
    """The namespaces over whose keys barriers stand, by their bytes."""
    _crowded_at: int = 2 * NAMESPACES_KEPT_MIN
    """With so many namespaces it is looked which ones can be forgotten."""

    @property
    def are_keys_barred(self) -> bool:
        """Whether entries may be dead by the beginning of a key: any may be."""
        return bool(self._barred)

    def restore(self, row: bytes, version: int) -> None:
        """Take in a row as it was stored. Raises `ValueError` for one that is none."""
        kind, rest = row[:1], row[1:]
        if kind == b"r":
            self.depended_on.update([rest])
        elif kind == b"p":
            namespace = decode_namespace(namespace_of(rest))
            self.raise_to(Prefix(rest, namespace), version)
        elif kind == b"t":
            self.raise_to(rest.decode("utf-8", "surrogatepass"), version)
        elif kind == b"d":
            self.raise_to(rest, version)
        else:
            raise ValueError(f"no invalidation is stored under {row!r:.80}")

    def space(self, namespace: str) -> Space:
        found = self.spaces.get(namespace)
        if found is None:
            if len(self.spaces) >= self._crowded_at:
                self._forget()
            found = self.spaces[namespace] = Space(namespace, encode_prefix(namespace, None))
        return found

    def _forget(self) -> None:
        """Namespaces of which no entry is in memory, and over which no barrier stands."""
        held = self.held()
        used = set(held)
        for space in list(self.spaces.values())[NAMESPACES_KEPT_MIN:]:
            if space not in used and space.encoded not in self._barred:
                del self.spaces[space.name]
                space.is_forgotten = True
                self.memory_hits_elsewhere += space.memory_hits
                self.disk_hits_elsewhere += space.disk_hits
                self.misses_elsewhere += space.misses
        left = max(NAMESPACES_KEPT_MIN, len(self.spaces))
        self._crowded_at = max(2 * left, len(held) // ENTRIES_PER_NAMESPACE)

    def found_in_memory(self, space: Space) -> None:
        """For what may not be among the entries in memory: it is written behind, say."""
        if space.is_forgotten:
            self.memory_hits_elsewhere += 1
        else:
            space.memory_hits += 1

    def found_on_disk(self, space: Space) -> None:
        """Also where it had to make room in memory since, for what was read together with it."""
        if space.is_forgotten:
            self.disk_hits_elsewhere += 1
        else:
            space.disk_hits += 1

    def missed(self, namespace: str) -> None:
        """Something was asked for and is not there: perhaps in a namespace that never was. Of such
        ones only so many are remembered."""
        if namespace in self.spaces or len(self.spaces) < MISSED_NAMESPACES_MAX:
            self.space(namespace).misses += 1
        else:
            self.misses_elsewhere += 1

    def link_kills(self, links: Iterable[Link], version: int) -> bool:
        barriers = self.links
        if any(version < barriers.get(link, 0) for link in links):
            return True
        return bool(self._barred) and any(
            isinstance(link, bytes) and self._key_kills(link, version) for link in links
        )

    def _key_kills(self, encoded: bytes, version: int) -> bool:
        space = self._barred.get(namespace_of(encoded))
        return space is not None and space.kills(encoded, version)

    def kills(self, encoded: bytes, links: Sequence[Link], version: int) -> bool:
        """Whether an entry that is not in memory is dead."""
        if self._barred and self._key_kills(encoded, version):
            return True
        # No call where there is none: nearly always, and a million may be looked through.
        return bool(links) and self.link_kills(links, version)

    def raise_to(self, target: Target, version: int) -> None:
        """It was committed."""
        self.raised += 1
        if not isinstance(target, Prefix):
            self.links[target] = max(version, self.links.get(target, 0))
            return
        space = self.space(target.namespace)
        self._barred[space.encoded] = space
        if target.encoded == space.encoded:
            space.barrier = max(version, space.barrier)
        else:
            space.raise_prefix(target.encoded, version)

    def lower(self, target: Target, version: int) -> None:
        """Nothing that it concerns is left. Not where it was raised again meanwhile."""
        if not isinstance(target, Prefix):
            if self.links.get(target) == version:
                del self.links[target]
            return
        space = self.space(target.namespace)
        if target.encoded == space.encoded:
            space.barrier = 0 if space.barrier == version else space.barrier
        elif space.prefixes.get(target.encoded) == version:
            space.lower_prefix(target.encoded)
        if not space.barrier and not space.prefixes:
            self._barred.pop(space.encoded, None)

    def standing(self) -> list[tuple[Target, int]]:
        """All of them."""
        found: list[tuple[Target, int]] = list(self.links.items())
        for space in self._barred.values():
            if space.barrier:
                found.append((Prefix(space.encoded, space.name), space.barrier))
            found += [(Prefix(one, space.name), version) for one, version in space.prefixes.items()]
        return found

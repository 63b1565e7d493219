"""An entry in memory, and what a reader is given of it."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from typing import Final, Literal, TypeAlias

import msgspec

from mpreg.cache.invalidation import Space
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.memory import HeldEntry
from mpreg.cache.records import NO_LINKS, CachedRecord, Link
from mpreg.codec import decode_value

__all__ = [
    "ENTRY_OVERHEAD_BYTES",
    "CacheLevel",
    "CachedEntry",
    "Found",
    "links_bytes",
    "make_entry",
]

#: What an entry in L1 counts for beside its key and its value: the objects that hold it.
ENTRY_OVERHEAD_BYTES: Final = 640

#: What each tag or key on which it depends counts for there, beside its own bytes.
LINK_OVERHEAD_BYTES: Final = 64

#: What a text may take beside its bytes as stored, and be held as one: of the above.
TEXT_OVERHEAD_BYTES: Final = 256

CacheLevel: TypeAlias = Literal["L1", "L2"]

#: Values of these types cannot be changed by whoever gets them: all may have the same object.
_SHARED: Final = frozenset({str, bytes, int, float, bool, type(None)})


class Found(msgspec.Struct, frozen=True):
    """A value that a cache had."""

    value: object
    """As it was put; where it can be changed, a copy of the reader's own."""
    level: CacheLevel
    """``"L1"``: it was in memory. ``"L2"``: it was read from the store, and is in memory now."""
    version: int | None
    """Given by the write, as versions of keys are. None: it is on its way to the disk."""
    expires_at: float | None
    """Wall clock, in seconds since 1970; None: until it is evicted."""


class CachedEntry(HeldEntry, eq=False, kw_only=True, gc=False):
    """What L1 holds for a key. ``value`` is the encoded value, until `found` has it.

    ``gc=False``: there are many, and nothing that they hold refers to them.
    """

    key: GlobalCacheKey
    encoded: bytes
    """The key as bytes."""
    space: Space
    links: tuple[Link, ...]
    fresh_until: float
    """Wall clock; `math.inf`: as long as it is there."""
    checked_at: int = -1
    """`Barriers.raised` when it was last held against them."""
    found: Found | None = None
    """What every reader is given, where its value cannot be changed: from the first read on. A text
    of wide characters is made anew for each."""

    def give(self, level: CacheLevel = "L1") -> Found:
        if self.found is None:
            assert isinstance(self.value, bytes)
            value = decode_value(self.value)
            if type(value) not in _SHARED or _is_wide(value, len(self.value)):
                return self._found(level, value)
            self.value, self.found = None, self._found("L1", value)
        return self.found if level == "L1" else self._found(level, self.found.value)

    def written(self, version: int) -> None:
        """It is on disk, by this version."""
        self.version = version
        if self.found is not None:
            self.found = self._found("L1", self.found.value)

    def _found(self, level: CacheLevel, value: object) -> Found:
        expires_at = None if self.fresh_until == math.inf else self.fresh_until
        return Found(value, level, self.version or None, expires_at)


def _is_wide(value: object, size_bytes: int) -> bool:
    """Whether it is a text that would take much more memory than it counts for: one wide character
    makes all of them wide."""
    if type(value) is not str or value.isascii():
        return False
    return sys.getsizeof(value) > size_bytes + TEXT_OVERHEAD_BYTES


def links_bytes(links: Sequence[Link]) -> int:
    """What these count for in L1."""
    return LINK_OVERHEAD_BYTES * len(links) + sum(map(len, links))


def make_entry(
    key: GlobalCacheKey,
    encoded: bytes,
    space: Space,
    record: CachedRecord,
    *,
    expires_at: float | None,
    version: int = 0,
) -> CachedEntry:
    """What is held of a record. Version 0: it is not on disk yet."""
    payload = bytes(record.value)
    # No call where there is none: nearly always, and there may be many entries to make.
    links = record.links if record.tags or record.dependencies else NO_LINKS
    size_bytes = ENTRY_OVERHEAD_BYTES + len(encoded) + len(payload)
    return CachedEntry(
        key=key,
        value=payload,
        size_bytes=size_bytes + links_bytes(links) if links else size_bytes,
        expires_at=math.inf if expires_at is None else expires_at,
        cost=record.cost,
        version=version,
        encoded=encoded,
        space=space,
        links=links,
        fresh_until=math.inf if record.fresh_until is None else record.fresh_until,
    )

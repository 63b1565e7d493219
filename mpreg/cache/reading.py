"""What is read where: L1 first, then L2, and from there into L1.

A read that misses L1 asks L2 and puts what it finds into L1. Where its key was changed meanwhile,
it looks again: what it was given may be older.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from attrs import define

from mpreg.cache.counters import Counters
from mpreg.cache.entry import CachedEntry, make_entry
from mpreg.cache.in_flight import InFlight, entry_in
from mpreg.cache.index import DiskIndex
from mpreg.cache.invalidation import Barriers
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.memory import MemoryCache
from mpreg.cache.reads import Reads
from mpreg.cache.records import decode_record
from mpreg.cache.storage import CacheStorage
from mpreg.errors import CorruptDataError
from mpreg.persistence import Entry

__all__ = ["CacheReader", "log"]

log: Final = logging.getLogger("mpreg.cache")


@define(eq=False)
class CacheReader:
    _wall: Callable[[], float]
    _storage: CacheStorage
    _memory: MemoryCache[CachedEntry]
    _index: DiskIndex
    _barriers: Barriers
    _in_flight: InFlight
    _counters: Counters
    _taken_in: Callable[[], None]
    """Called when something has come from L2 into L1."""
    _reads: Reads
    loop_time: Callable[[], float] = anyio.current_time
    """Set to that of the event loop, which looks around less, once there is one."""

    def is_alive(self, entry: CachedEntry) -> bool:
        """Whether nothing has invalidated it. What is not on disk yet is always later."""
        barriers, version = self._barriers, entry.version
        if entry.checked_at == barriers.raised or version == 0:
            return True
        space = entry.space
        if space.is_forgotten:
            # It is in the hand of somebody, and not in memory any more.
            if barriers.kills(entry.encoded, (), version):
                return False
        elif (space.barrier or space.prefixes) and space.kills(entry.encoded, version):
            return False
        if entry.links and barriers.link_kills(entry.links, version):
            return False
        entry.checked_at = barriers.raised
        return True

    def look(self, key: GlobalCacheKey, now: float) -> CachedEntry | None:
        """What is in memory. That it is fresh is for the caller to see."""
        if self._in_flight.behind and (write := self._in_flight.behind.get(key)) is not None:
            entry = entry_in(write, key)
            return None if entry is None or entry.expires_at <= now else entry
        entry = self._memory.get(key, now)
        if entry is None or self.is_alive(entry):
            return entry
        self._memory.discard(key)
        return None

    async def find(self, key: GlobalCacheKey, encoded: bytes) -> CachedEntry | None:
        """The entry of a key in L1 or L2, perhaps not fresh any more.

        Raises:
            ReaderStoppedError: not open (any more), and it is not in L1.
        """
        while True:
            entry = self.look(key, self._wall())
            if entry is not None or key in self._in_flight.behind:
                return entry
            if self._index.is_complete and encoded not in self._index.stored:
                # Also where it is being evicted: that has been decided.
                return None
            entry, is_overtaken = await self._read(key, encoded)
            if not is_overtaken:
                return entry

    async def _read(self, key: GlobalCacheKey, encoded: bytes) -> tuple[CachedEntry | None, bool]:
        """From L2 into L1; whether the key was changed meanwhile."""
        counters, now = self._counters, self.loop_time
        with self._reads.reading(encoded) as reading:
            began = now()
            try:
                stored = await self._storage.entries.get(encoded)
            except CorruptDataError as error:
                self.damaged(error)
                stored = None
            counters.disk_reads += 1
            counters.disk_read_seconds += now() - began
            if reading.is_overtaken:
                return None, True
            return None if stored is None else self.take_in(key, encoded, stored), False

    async def find_many(
        self, keys: Mapping[GlobalCacheKey, bytes]
    ) -> dict[GlobalCacheKey, CachedEntry | None]:
        """`find` for several; L2 is asked for them together. Raises as `find` does."""
        if self._index.is_complete:
            asked = {key: one for key, one in keys.items() if one in self._index.stored}
        else:
            asked = dict(keys)
        found: dict[GlobalCacheKey, CachedEntry | None] = {}
        encoded = list(asked.values())
        with self._reads.noting_changes() as changed:
            answers = await self._storage.read_many(encoded, self.damaged)
        for key, stored in zip(asked, answers, strict=True):
            if asked[key] not in changed and key not in self._in_flight.behind:
                found[key] = None if stored is None else self.take_in(key, asked[key], stored)
        for key, one in keys.items():
            if key not in found:
                found[key] = await self.find(key, one)
        return found

    def take_in(self, key: GlobalCacheKey, encoded: bytes, stored: Entry) -> CachedEntry | None:
        """What was read, into L1; None where it is dead."""
        entry = self.decode(key, encoded, stored)
        if entry is None or not self.is_alive(entry):
            return None
        if (known := self._index.stored.get(encoded)) is not None:
            known.used = True
        self._memory.put(entry)
        self._taken_in()
        return entry

    def decode(self, key: GlobalCacheKey, encoded: bytes, stored: Entry) -> CachedEntry | None:
        """None where it is no record, which is told."""
        try:
            record = decode_record(stored.value)
        except ValueError as error:
            self.damaged(CorruptDataError(f"not a cached value: {error}", None, repr(key)))
            return None
        space = self._barriers.space(key.namespace)
        return make_entry(
            key, encoded, space, record, expires_at=stored.expires_at, version=stored.version
        )

    def damaged(self, error: CorruptDataError) -> None:
        """It is never served. What is stored stays as it is, until it is put again or mended."""
        self._counters.damaged += 1
        log.error("a cached entry is damaged and counts as missing: %s", error)

"""What L2 holds, in memory: how much, and what goes first.

What was written first is removed first, but is passed over once where it was read since (CLOCK,
after Corbató 1968), and as long as it is in L1: what is read all the time is read there, and
L2 would not know. Pure: what is removed is only chosen here.
"""

from __future__ import annotations

import heapq
import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from attrs import define, field

from mpreg.cache.records import NO_LINKS, Link

__all__ = ["ENTRY_OVERHEAD_BYTES", "DiskIndex", "Stored"]

#: What an entry counts for beside its key and its value, as the writer counts.
ENTRY_OVERHEAD_BYTES: Final = 64

#: Entries that are passed over for one that is removed, at most: beyond that everything is in use.
PASSED_OVER_MAX: Final = 32

#: Entries removed in one batch.
VICTIMS_MAX: Final = 1_024

_HEAP_MIN: Final = 64


class Stored(msgspec.Struct, gc=False):
    """An entry of L2, without its value. ``gc=False``: it holds nothing that could refer to it."""

    version: int
    size_bytes: int
    expires_at: float
    links: tuple[Link, ...] = NO_LINKS
    used: bool = False
    """Read since it was passed over last."""


@define(eq=False)
class DiskIndex:
    entries_max: int
    bytes_max: int
    stored: OrderedDict[bytes, Stored] = field(factory=OrderedDict)
    """By encoded key, the next to go first."""
    size_bytes: int = 0
    by_link: dict[Link, set[bytes]] = field(factory=dict)
    removed: set[bytes] | None = field(factory=set)
    """Keys that were removed while what is there is still being read, page by page: a page may be
    older. None: everything is known, and what is not here is not on disk."""
    _coming_entries: int = 0
    _coming_bytes: int = 0
    """Of puts on their way, as if none of them replaced anything that is not known yet."""
    _leaving: dict[bytes, Stored] = field(factory=dict)
    """Entries whose removal is on its way, with a put that it makes room for."""
    _leaving_bytes: int = 0
    _expiries: list[tuple[float, bytes]] = field(factory=list)

    @property
    def is_complete(self) -> bool:
        return self.removed is None

    def __len__(self) -> int:
        return len(self.stored) + len(self._leaving)

    # --- room ---

    def expect(self, key: bytes, size_bytes: int) -> tuple[int, int]:
        """A put is about to be sent. What it takes is given back by `arrive`."""
        known = self.stored.get(key)
        share = (0, max(0, size_bytes - known.size_bytes)) if known else (1, size_bytes)
        self._coming_entries += share[0]
        self._coming_bytes += share[1]
        return share

    def arrive(self, share: tuple[int, int]) -> None:
        self._coming_entries -= share[0]
        self._coming_bytes -= share[1]

    def make_room(
        self, is_written: Callable[[bytes], bool], is_held: Callable[[bytes], bool]
    ) -> list[bytes]:
        """What has to go for all that is coming, out of the order already: `leave`, or `stay`.

        What ``is_written`` is being written and does not go. What ``is_held`` is in L1, and only
        goes where nothing else is near. It `is_over` afterwards where nothing may go, or where more
        would have to go at once than `VICTIMS_MAX`: that is left to the next time.
        """
        victims: list[bytes] = []
        while self.is_over and len(victims) < VICTIMS_MAX:
            if (victim := self._next_victim(is_written, is_held)) is None:
                break
            stored = self.stored.pop(victim)
            self._leaving[victim] = stored
            self._leaving_bytes += stored.size_bytes
            self.size_bytes -= stored.size_bytes
            victims.append(victim)
        return victims

    @property
    def is_over(self) -> bool:
        """Whether more is there, with what is coming, than there may be."""
        return (
            len(self.stored) + self._coming_entries > self.entries_max
            or self.size_bytes + self._coming_bytes > self.bytes_max
        )

    def _next_victim(
        self, is_written: Callable[[bytes], bool], is_held: Callable[[bytes], bool]
    ) -> bytes | None:
        held: bytes | None = None
        for _ in range(min(PASSED_OVER_MAX, len(self.stored))):
            key, stored = next(iter(self.stored.items()))
            if not is_written(key):
                if not stored.used and not is_held(key):
                    return key
                held = held or key
            stored.used = False
            self.stored.move_to_end(key)
        return held

    def is_leaving(self, key: bytes) -> bool:
        """Whether its removal is on its way, to make room."""
        return key in self._leaving

    def leave(self, victims: list[bytes]) -> None:
        """They were removed."""
        for key in victims:
            stored = self._leaving.pop(key)
            self._leaving_bytes -= stored.size_bytes
            self._unlink(key, stored)
            if self.removed is not None and key not in self.stored:
                self.removed.add(key)

    def stay(self, victims: list[bytes]) -> None:
        """Their removal was not committed: they go first the next time."""
        for key in reversed(victims):
            stored = self._leaving.pop(key)
            self._leaving_bytes -= stored.size_bytes
            if key not in self.stored:
                self.stored[key] = stored
                self.stored.move_to_end(key, last=False)
                self.size_bytes += stored.size_bytes
                # It may have expired meanwhile, and have been passed over.
                self._will_expire(key, stored)

    # --- what is there ---

    def put(self, key: bytes, stored: Stored) -> None:
        """It was committed, or read where nothing newer is known."""
        if (old := self.stored.pop(key, None)) is not None:
            self.size_bytes -= old.size_bytes
            self._unlink(key, old)
        self.stored[key] = stored
        self.size_bytes += stored.size_bytes
        for link in stored.links:
            self.by_link.setdefault(link, set()).add(key)
        self._will_expire(key, stored)
        if self.removed:
            self.removed.discard(key)

    def found(self, key: bytes, stored: Stored) -> None:
        """Read from the disk: it may be older than what is known."""
        if key in self.stored or key in self._leaving:
            return
        if self.removed is None or key in self.removed:
            return
        self.put(key, stored)

    def remove(self, key: bytes) -> None:
        if (stored := self.stored.pop(key, None)) is not None:
            self.size_bytes -= stored.size_bytes
            self._unlink(key, stored)
        if self.removed is not None:
            self.removed.add(key)

    def complete(self) -> None:
        """Everything that is on disk was `found`."""
        self.removed = None

    def expire(self, now: float, count_max: int) -> None:
        """Forget what has expired, at most so many: the store removes it by itself."""
        while count_max and self._expiries and self._expiries[0][0] <= now:
            expires_at, key = heapq.heappop(self._expiries)
            count_max -= 1
            stored = self.stored.get(key)
            if stored is not None and stored.expires_at == expires_at:
                self.remove(key)

    def keys(self) -> list[bytes]:
        """Of all that is on disk, also of what is leaving: that may fail. In no order: to go
        through a million in their order would take the event loop for seconds."""
        return [*dict.keys(self.stored), *self._leaving]

    def killed(
        self, keys: Iterable[bytes], kills: Callable[[bytes, int], bool]
    ) -> list[tuple[bytes, int]]:
        """Of some keys, those whose version ``kills`` says is dead, each with that."""
        return [(key, at) for key in keys if (at := self._version(key)) and kills(key, at)]

    def linked(self, link: Link, version: int) -> list[tuple[bytes, int]]:
        """The keys of entries with this link that are of an older version, each with that."""
        return [
            (key, at)
            for key in self.by_link.get(link, ())
            if (at := self._version(key)) and at < version
        ]

    def _version(self, key: bytes) -> int:
        """0: it is gone."""
        stored = self.stored.get(key) or self._leaving.get(key)
        return 0 if stored is None else stored.version

    def _unlink(self, key: bytes, stored: Stored) -> None:
        current = self.stored.get(key)
        for link in stored.links:
            if current is not None and link in current.links:
                continue
            keys = self.by_link.get(link)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self.by_link[link]

    def _will_expire(self, key: bytes, stored: Stored) -> None:
        if stored.expires_at != math.inf:
            heapq.heappush(self._expiries, (stored.expires_at, key))
            if len(self._expiries) > max(_HEAP_MIN, 2 * len(self.stored)):
                self._rebuild_expiries()

    def _rebuild_expiries(self) -> None:
        self._expiries = [
            (stored.expires_at, key)
            for key, stored in dict.items(self.stored)
            if stored.expires_at != math.inf
        ]
        heapq.heapify(self._expiries)

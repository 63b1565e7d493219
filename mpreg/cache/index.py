"""What L2 holds, in memory: how much, and what goes first.

What was written first is removed first, but is passed over once where it was read since (CLOCK,
after Corbató 1968), and as long as it is in L1: what is read all the time is read there, and
L2 would not know. Pure: what is removed is only chosen here.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Final

import msgspec
from attrs import define, field

from mpreg.cache.expiries import Expiries
from mpreg.cache.records import NO_LINKS, Link

__all__ = ["ENTRY_OVERHEAD_BYTES", "DiskIndex", "Stored"]

#: What an entry counts for beside its key and its value, as the writer counts.
ENTRY_OVERHEAD_BYTES: Final = 64

#: Entries that are passed over for one that is removed, at most: beyond that everything is in use.
PASSED_OVER_MAX: Final = 32

#: Entries removed in one batch where the bounds were overrun before: they were lowered.
VICTIMS_MAX: Final = 1_024


class Stored(msgspec.Struct, gc=False):
    """An entry of L2, without its value. ``gc=False``: it holds nothing that could refer to it."""

    version: int
    size_bytes: int
    expires_at: float
    links: tuple[Link, ...] = NO_LINKS
    used: bool = False
    """Read since it was passed over last."""


class _Coming(msgspec.Struct, eq=False, gc=False):
    """Puts of one key that are on their way."""

    sizes: list[int] = msgspec.field(default_factory=list)
    """Of each."""
    more_entries: int = 0
    more_bytes: int = 0
    """Beyond what is there of the key: any of them may be the one that is committed."""


@define(eq=False)
class DiskIndex:
    entries_max: int
    bytes_max: int
    stored: OrderedDict[bytes, Stored] = field(factory=OrderedDict)
    """By encoded key, the next to go first."""
    size_bytes: int = 0
    by_link: dict[Link, dict[bytes, None]] = field(factory=dict)
    """Keys in the order in which they came: of a set it would be another one in each process."""
    deserted: dict[bytes, None] = field(factory=dict)
    """Keys on which nothing depended any more at some time, until that is noted elsewhere."""
    removed: set[bytes] | None = field(factory=set)
    """Keys that were removed while what is there is still being read, page by page: a page may be
    older. None: everything is known, and what is not here is not on disk."""
    _coming: dict[bytes, _Coming] = field(factory=dict)
    """Puts on their way, by key."""
    _coming_entries: int = 0
    _coming_bytes: int = 0
    _leaving: dict[bytes, Stored] = field(factory=dict)
    """Entries whose removal is on its way, with a put that it makes room for."""
    _leaving_bytes: int = 0
    _expiries: Expiries = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._expiries = Expiries(self._expires)

    @property
    def is_complete(self) -> bool:
        return self.removed is None

    def __len__(self) -> int:
        return len(self.stored) + len(self._leaving)

    # --- room ---

    def expect(self, key: bytes, size_bytes: int) -> None:
        """A put is about to be sent. `arrive` once it is settled."""
        if (coming := self._coming.get(key)) is None:
            coming = self._coming[key] = _Coming()
        coming.sizes.append(size_bytes)
        self._recount(key)

    def arrive(self, key: bytes, size_bytes: int) -> None:
        coming = self._coming[key]
        coming.sizes.remove(size_bytes)
        if coming.sizes:
            # What was not sent after all must not count on beside the others.
            self._recount(key)
        else:
            self._coming_entries -= coming.more_entries
            self._coming_bytes -= coming.more_bytes
            del self._coming[key]

    def _recount(self, key: bytes) -> None:
        """What is there of a key has changed, or what is coming."""
        if (coming := self._coming.get(key)) is None:
            return
        stored = self.stored.get(key)
        entries = 0 if stored else 1
        size = max(0, max(coming.sizes) - (stored.size_bytes if stored else 0))
        self._coming_entries += entries - coming.more_entries
        self._coming_bytes += size - coming.more_bytes
        coming.more_entries, coming.more_bytes = entries, size

    @property
    def coming(self) -> tuple[int, int]:
        """(entries, bytes) by which there may be more when all that is on its way has come."""
        return self._coming_entries, self._coming_bytes

    def make_room(
        self,
        is_written: Callable[[bytes], bool],
        is_held: Callable[[bytes], bool],
        now: float = -math.inf,
        victims_max: float = VICTIMS_MAX,
    ) -> list[bytes]:
        """What has to go for all that is coming, out of the order already: `leave`, or `stay`.

        What has expired by ``now`` goes first. What ``is_written`` is being written and does not
        go. What ``is_held`` is in L1, and only goes where nothing else is near. It `is_over`
        afterwards where nothing may go, or where more would have to go at once than
        ``victims_max``: that is left to the next time.
        """
        victims: list[bytes] = []
        while self.is_over and len(victims) < victims_max:
            victim = self._first_expired(now, is_written) or self._next_victim(is_written, is_held)
            if victim is None:
                break
            stored = self.stored.pop(victim)
            self._leaving[victim] = stored
            self._leaving_bytes += stored.size_bytes
            self.size_bytes -= stored.size_bytes
            victims.append(victim)
        return victims

    def expect_to_stay(self, victims: list[bytes], taken: tuple[int, int]) -> tuple[int, int]:
        """A write is about to be sent, with these victims. If it fails they stay, and nobody may
        have relied on their room: that is what this counts, beyond what the write takes itself.
        Given back by `no_longer_expect`."""
        leaving = sum(self._leaving[key].size_bytes for key in victims)
        more = (max(0, len(victims) - taken[0]), max(0, leaving - taken[1]))
        self._coming_entries += more[0]
        self._coming_bytes += more[1]
        return more

    def no_longer_expect(self, more: tuple[int, int]) -> None:
        self._coming_entries -= more[0]
        self._coming_bytes -= more[1]

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
        passed_over = 0
        for _ in range(len(self.stored)):
            key, stored = next(iter(self.stored.items()))
            if not is_written(key):
                if not stored.used and not is_held(key):
                    return key
                held = held or key
                passed_over += 1
            stored.used = False
            self.stored.move_to_end(key)
            if passed_over >= PASSED_OVER_MAX:
                break
        return held

    @property
    def is_any_leaving(self) -> bool:
        return bool(self._leaving)

    def is_leaving(self, key: bytes) -> bool:
        """Whether its removal is on its way, to make room."""
        return key in self._leaving

    def _first_expired(self, now: float, is_written: Callable[[bytes], bool]) -> bytes | None:
        """Nobody misses what has expired."""
        key = self._expiries.first(now)
        return None if key is None or is_written(key) else key

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
                self._recount(key)
                # It may have expired meanwhile, and have been passed over.
                self._will_expire(key, stored)

    # --- what is there ---

    def put(self, key: bytes, stored: Stored) -> None:
        """It was committed, or read where nothing newer is known."""
        old = self.stored.pop(key, None)
        self.stored[key] = stored
        self.size_bytes += stored.size_bytes
        for link in stored.links:
            self.by_link.setdefault(link, {})[key] = None
        if old is not None:
            # After the new ones: what it still depends on is not deserted in between.
            self.size_bytes -= old.size_bytes
            self._unlink(key, old)
        self._will_expire(key, stored)
        if self.removed:
            self.removed.discard(key)
        self._recount(key)

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
        self._recount(key)

    def complete(self) -> None:
        """Everything that is on disk was `found`."""
        self.removed = None

    def take_expired(self, now: float, items_max: int) -> list[bytes]:
        """What has expired, to be removed from the disk, or to be expected again: as long as it is
        there it is known, since a clock may be set back. Of so many at once; there may be more as
        long as `next_expiry` is not above ``now``."""
        return self._expiries.take(now, items_max)

    def expect_again(self, keys: Iterable[bytes]) -> None:
        """They were taken by `take_expired`: those that are there are to be taken once more."""
        for key in keys:
            stored = self.stored.get(key)
            if stored is not None:
                self._will_expire(key, stored)

    @property
    def next_expiry(self) -> float:
        return self._expiries.next

    def keys(self) -> list[bytes]:
        """Of all that is on disk, also of what is leaving: that may fail. In no order: to go
        through a million in their order would take the event loop for seconds."""
        return [*dict.keys(self.stored), *self._leaving]

    def linked(self, link: Link) -> list[bytes]:
        """The keys of entries with this link, also of those that are leaving."""
        return list(self.by_link.get(link, ()))

    def killed(
        self, keys: Iterable[bytes], kills: Callable[[bytes, tuple[Link, ...], int], bool]
    ) -> list[tuple[bytes, int]]:
        """Of some keys, those of which ``kills`` says that the entry is dead, each with its
        version."""
        found = ((key, self.stored.get(key) or self._leaving.get(key)) for key in keys)
        return [
            (key, one.version)
            for key, one in found
            if one is not None and kills(key, one.links, one.version)
        ]

    def links(self, key: bytes) -> tuple[Link, ...]:
        """Of `all_of` a key."""
        return tuple(link for stored in self.all_of(key) for link in stored.links)

    def all_of(self, key: bytes) -> list[Stored]:
        """What is on disk, also what is leaving: as long as that is not committed it is read, from
        memory too."""
        found = (self.stored.get(key), self._leaving.get(key))
        return [stored for stored in found if stored is not None]

    def _unlink(self, key: bytes, stored: Stored) -> None:
        current = self.stored.get(key)
        for link in stored.links:
            if current is not None and link in current.links:
                continue
            keys = self.by_link.get(link)
            if keys is not None:
                keys.pop(key, None)
                if not keys:
                    del self.by_link[link]
                    if isinstance(link, bytes):
                        self.deserted[link] = None

    def _will_expire(self, key: bytes, stored: Stored) -> None:
        if stored.expires_at != math.inf:
            self._expiries.add(stored.expires_at, key, len(self.stored))

    def _expires(self, expires_at: float, key: bytes) -> bool:
        stored = self.stored.get(key)
        return stored is not None and stored.expires_at == expires_at

"""One cache: what is read where, and how memory follows the commits.

A change goes to the writer first. When it is known that it was committed, and before any task runs,
L1, the index of L2, the barriers and whoever watches take it in: all in the order of the commits.
So L1 never shows what L2 refused, and nobody sees an older value after a newer one.

A read that misses L1 asks L2 and puts what it finds into L1. Where its key was changed meanwhile,
it looks again: what it was given may be older.

What is written behind can be read before it is committed: it stands in `CacheCore.behind` until
then, and is never evicted from there; the bound of the mailbox is its bound.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
import msgspec
from attrs import define, field

from mpreg.cache.configuration import CacheConfiguration
from mpreg.cache.counters import Counters
from mpreg.cache.entry import CachedEntry, make_entry
from mpreg.cache.index import DiskIndex, Stored
from mpreg.cache.invalidation import Barriers, Prefix, Target
from mpreg.cache.keys import GlobalCacheKey, decode_key
from mpreg.cache.memory import EvictionCause, MemoryCache
from mpreg.cache.records import Link, decode_record
from mpreg.cache.storage import CacheStorage
from mpreg.cache.watching import ChangeKind, Watchers
from mpreg.cache.writes import Change, Write
from mpreg.errors import CommitUnknownError, CorruptDataError, MailboxFullError
from mpreg.persistence import Ack, Durability, Entry, PersistenceRegistry
from mpreg.persistence.operations import Operation

__all__ = ["CacheCore", "log"]

log: Final = logging.getLogger("mpreg.cache")

#: What has expired and is dropped beside each put: more than one, so that it does not pile up.
EXPIRED_PER_PUT: Final = 4


_NO_KEYS: Final[set[bytes]] = set()


class _Reading(msgspec.Struct, eq=False, gc=False):
    """Reads of one key from L2 that are under way."""

    count: int = 0
    is_overtaken: bool = False
    """The key was changed since they began."""


@define(eq=False)
class CacheCore:
    registry: PersistenceRegistry
    configuration: CacheConfiguration
    storage: CacheStorage = field(init=False)
    memory: MemoryCache[CachedEntry] = field(init=False)
    index: DiskIndex = field(init=False)
    barriers: Barriers = field(factory=Barriers)
    counters: Counters = field(factory=Counters)
    watchers: Watchers = field(init=False)
    behind: dict[GlobalCacheKey, Write] = field(factory=dict)
    """Keys that are written behind, each with the last write that is on its way."""
    on_changing: list[Callable[[Write], None]] = field(factory=list)
    """Told of every write before it is sent, and again when it was committed."""
    until_counted: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    """Waits until it is known what L2 holds, and so who depends on whom."""
    ask_for_upkeep: Callable[[], None] = lambda: None
    """Called when there is something to be done at leisure."""
    is_anything_left: bool = False
    """Whether upkeep has passed over what was being written: it looks again when that is done."""
    is_heat_old: bool = False
    """Whether other entries may be the most used ones than was written down."""
    invalidating: list[Write] = field(factory=list)
    """On their way."""
    _writing: dict[bytes, int] = field(factory=dict)
    """How many changes of a key are on their way."""
    _tidying: dict[bytes, int] = field(factory=dict)
    """How many of them only remove what is dead."""
    _linking: dict[Link, list[bytes]] = field(factory=dict)
    """The keys of entries on their way, by tags and by keys on which they depend."""
    _reading: dict[bytes, _Reading] = field(factory=dict)
    _room: anyio.Event = field(factory=anyio.Event)
    """Set, and made anew, when a write is settled for which somebody waits."""
    _waiting_for_room: int = 0

    def __attrs_post_init__(self) -> None:
        configuration = self.configuration
        self.storage = CacheStorage(self.registry, configuration.name)
        self.memory = MemoryCache(
            entries_max=configuration.memory_entries_max,
            bytes_max=configuration.memory_bytes_max,
            policy=configuration.policy,
            on_evicted=self._evicted,
        )
        self.index = DiskIndex(configuration.disk_entries_max, configuration.disk_bytes_max)
        self.watchers = Watchers(configuration.watch_changes_max)

    # --- reading ---

    def wall(self) -> float:
        return self.registry.clock.wall()

    def is_alive(self, entry: CachedEntry) -> bool:
        """Whether nothing has invalidated it. What is not on disk yet is always later."""
        barriers, version = self.barriers, entry.version
        if entry.checked_at == barriers.raised or version == 0:
            return True
        if entry.space.kills(entry.encoded, version):
            return False
        if entry.links and barriers.link_kills(entry.links, version):
            return False
        entry.checked_at = barriers.raised
        return True

    def look(self, key: GlobalCacheKey, now: float) -> CachedEntry | None:
        """What is in memory. That it is fresh is for the caller to see."""
        if self.behind and (write := self.behind.get(key)) is not None:
            return _entry_in(write, key)
        entry = self.memory.get(key, now)
        if entry is None or self.is_alive(entry):
            return entry
        self.memory.discard(key)
        return None

    def is_deleted_behind(self, key: GlobalCacheKey) -> bool:
        write = self.behind.get(key)
        return write is not None and _entry_in(write, key) is None

    async def find(self, key: GlobalCacheKey, encoded: bytes) -> CachedEntry | None:
        """The entry of a key in L1 or L2, perhaps not fresh any more.

        Raises:
            ReaderStoppedError: not open (any more), and it is not in L1.
        """
        while True:
            entry = self.look(key, self.wall())
            if entry is not None or self.is_deleted_behind(key):
                return entry
            if self.index.is_complete and encoded not in self.index.stored:
                # Also where it is being evicted: that has been decided.
                return None
            entry, is_overtaken = await self._read(key, encoded)
            if not is_overtaken:
                return entry

    async def _read(self, key: GlobalCacheKey, encoded: bytes) -> tuple[CachedEntry | None, bool]:
        """From L2 into L1; whether the key was changed meanwhile."""
        with self.reading([encoded]) as (reading,):
            began = anyio.current_time()
            (stored,) = await self.storage.read_many([encoded], self.damaged)
            self.counters.disk_reads += 1
            self.counters.disk_read_seconds += anyio.current_time() - began
            if reading.is_overtaken:
                return None, True
            return None if stored is None else self.take_in(key, encoded, stored), False

    async def find_many(
        self, keys: Mapping[GlobalCacheKey, bytes]
    ) -> dict[GlobalCacheKey, CachedEntry | None]:
        """`find` for several; L2 is asked for them together. Raises as `find` does."""
        if self.index.is_complete:
            asked = {key: one for key, one in keys.items() if one in self.index.stored}
        else:
            asked = dict(keys)
        found: dict[GlobalCacheKey, CachedEntry | None] = {}
        encoded = list(asked.values())
        with self.reading(encoded) as readings:
            answers = await self.storage.read_many(encoded, self.damaged)
            for key, reading, stored in zip(asked, readings, answers, strict=True):
                if not reading.is_overtaken and key not in self.behind:
                    found[key] = None if stored is None else self.take_in(key, asked[key], stored)
        for key, one in keys.items():
            if key not in found:
                found[key] = await self.find(key, one)
        return found

    def reading(self, keys: Sequence[bytes]) -> _ReadingKeys:
        return _ReadingKeys(self._reading, keys)

    def take_in(self, key: GlobalCacheKey, encoded: bytes, stored: Entry) -> CachedEntry | None:
        """What was read, into L1; None where it is dead."""
        entry = self.decode(key, encoded, stored)
        if entry is None or not self.is_alive(entry):
            return None
        if (known := self.index.stored.get(encoded)) is not None:
            known.used = True
        self.memory.put(entry)
        self._warmed()
        return entry

    def _warmed(self) -> None:
        """What is in L1 is not what was written down."""
        if not self.is_heat_old:
            self.is_heat_old = True
            self.ask_for_upkeep()

    def decode(self, key: GlobalCacheKey, encoded: bytes, stored: Entry) -> CachedEntry | None:
        """None where it is no record, which is told."""
        try:
            record = decode_record(stored.value)
        except ValueError as error:
            self.damaged(CorruptDataError(f"not a cached value: {error}", None, repr(key)))
            return None
        return make_entry(
            key,
            encoded,
            self.barriers.space(key.namespace),
            record,
            expires_at=stored.expires_at,
            version=stored.version,
        )

    def damaged(self, error: CorruptDataError) -> None:
        """It is never served. What is stored stays as it is, until it is put again or mended."""
        self.counters.damaged += 1
        log.error("a cached entry is damaged and counts as missing: %s", error)

    # --- writing ---

    async def write(
        self,
        changes: Sequence[Change],
        operations: Sequence[Operation],
        durability: Durability,
        *,
        is_behind: bool = False,
        origin: object = None,
    ) -> Sequence[Ack[Any]]:
        """Send changes, an operation for each, with what goes along: those who depend on what is
        changed are invalidated, those who are depended on from now on are noted.

        Returns an ack for each change, answered already unless ``is_behind``; raises what they
        raise. Cancelled while it waits for room, nothing was sent; later, it may still happen.
        """
        raised: Sequence[Target] = ()
        if concerned := [one.encoded for one in changes if self.is_depended_on(one.encoded)]:
            if not self.index.is_complete:
                await self.until_counted()
            raised = self.cascade(concerned)
        dependencies = self._new_dependencies(changes)
        write = Write(raised, dependencies, changes, is_behind=is_behind, origin=origin)
        if raised or dependencies:
            write.operations += [self.storage.invalidate(target) for target in raised]
            write.operations += [self.storage.depend(one) for one in dependencies]
        write.operations += operations
        await self.send(write, durability)
        acks = write.acks[write.first_change : write.first_change + len(changes)]
        if not is_behind:
            await acks[-1]
        return acks

    def _new_dependencies(self, changes: Sequence[Change]) -> list[bytes]:
        """Also those that a write on its way will note: that one may fail."""
        known = self.barriers.depended_on
        return [
            link
            for change in changes
            if change.entry is not None and change.entry.links
            for link in change.entry.links
            if isinstance(link, bytes) and link not in known
        ]

    def inherited(self, dependencies: Iterable[bytes]) -> tuple[Link, ...]:
        """What invalidates the entries of these keys, and so whatever depends on them: also when
        they are gone by then, evicted or expired. Complete where the index is."""
        found: dict[Link, None] = {}
        for dependency in dependencies:
            if (stored := self.index.stored.get(dependency)) is not None:
                found.update(dict.fromkeys(stored.links))
            if self.behind and (key := decode_key(dependency)) in self.behind:
                entry = _entry_in(self.behind[key], key)
                found.update(dict.fromkeys(() if entry is None else entry.links))
        return tuple(found)

    def cascade(self, targets: Iterable[Target]) -> list[Target]:
        """What is invalidated, with the keys on which others depend that are invalidated by that,
        and so on. Complete where the index is."""
        found: dict[Target, None] = dict.fromkeys(targets)
        left = list(found)
        while left:
            target = left.pop()
            if isinstance(target, Prefix):
                known = (*self.barriers.depended_on, *self._linking)
                concerned: Iterable[bytes] = [
                    one
                    for one in known
                    if isinstance(one, bytes) and one.startswith(target.encoded)
                ]
            else:
                concerned = self._depended_on_with(target)
            for one in concerned:
                if one not in found:
                    found[one] = None
                    left.append(one)
        return list(found)

    def _depended_on_with(self, link: Link) -> Iterable[bytes]:
        """Keys on which others depend, of the entries with a link: those may be all there are."""
        linked = self.index.by_link.get(link, _NO_KEYS)
        found = linked & self.barriers.depended_on
        found.update(one for one in self._linking if isinstance(one, bytes) and one in linked)
        found.update(filter(self.is_depended_on, self._linking.get(link, ())))
        return found

    async def send(self, write: Write, durability: Durability) -> None:
        """Send a batch. Waits for room only: its acks tell what became of it.

        Where this raises, also cancelled, nothing was sent and nothing has changed.
        """
        self._begin(write)
        try:
            if self.index.is_over:
                await self._make_room(write)
            settled = partial(self._settle, write)
            try:
                write.acks = self.storage.send_nowait(write.operations, settled, durability)
            except MailboxFullError:
                write.acks = await self.storage.send(write.operations, settled, durability)
        except BaseException:
            self._end(write)
            self.index.stay(write.victims)
            raise

    def _begin(self, write: Write) -> None:
        for told in self.on_changing:
            told(write)
        for change in write.changes:
            encoded = change.encoded
            self._writing[encoded] = self._writing.get(encoded, 0) + 1
            if write.is_tidying:
                self._tidying[encoded] = self._tidying.get(encoded, 0) + 1
            if change.entry is not None:
                change.share = self.index.expect(encoded, change.size_bytes)
            if write.is_behind:
                self.behind[change.key] = write
        for link, encoded in _links(write):
            self._linking.setdefault(link, []).append(encoded)
        if write.raised:
            self.invalidating.append(write)

    def _end(self, write: Write) -> None:
        """What `_begin` has noted."""
        write.is_settled = True
        for change in write.changes:
            _count_down(self._writing, change.encoded)
            if write.is_tidying:
                _count_down(self._tidying, change.encoded)
            self.index.arrive(change.share)
            if self.behind.get(change.key) is write:
                del self.behind[change.key]
        for link, encoded in _links(write):
            keys = self._linking[link]
            keys.remove(encoded)
            if not keys:
                del self._linking[link]
        if write.raised:
            self.invalidating.remove(write)
        if write.settled is not None:
            write.settled.set()
        if self.is_anything_left and not write.is_tidying:
            self.is_anything_left = False
            self.ask_for_upkeep()
        if self._waiting_for_room:
            self._room.set()
            self._room = anyio.Event()

    async def _make_room(self, write: Write) -> None:
        """Choose what goes; where all that could go is being written itself, wait until it is."""
        index = self.index
        while index.is_over and not write.is_tidying:
            write.victims += index.make_room(self.is_written, self._is_held)
            if write.victims or len(self._writing) <= len(write.changes):
                break
            self._waiting_for_room += 1
            try:
                await self._room.wait()
            finally:
                self._waiting_for_room -= 1
        write.operations += [self.storage.delete(victim) for victim in write.victims]

    def is_written(self, encoded: bytes) -> bool:
        """Whether a change of it is on its way."""
        return encoded in self._writing

    def is_changing(self, encoded: bytes) -> bool:
        """Whether a change of it is on its way that readers will see."""
        return self._writing.get(encoded, 0) > self._tidying.get(encoded, 0)

    def _is_held(self, encoded: bytes) -> bool:
        return decode_key(encoded) in self.memory

    def on_its_way(self, key: GlobalCacheKey, encoded: bytes) -> Write | None:
        """A write that is not settled and may change whether, and how, a key is seen."""
        if (write := self.behind.get(key)) is not None:
            return write
        for write in self.invalidating:
            if any(self._may_concern(target, key, encoded) for target in write.raised):
                return write
        return None

    def _may_concern(self, target: Target, key: GlobalCacheKey, encoded: bytes) -> bool:
        """Where it is not known yet what a key has, it may have any tag. A key that is there for
        all tags would never be counted while others are invalidated all the time."""
        if isinstance(target, Prefix):
            return encoded.startswith(target.encoded)
        known = self.memory.peek(key) or self.index.stored.get(encoded)
        if known is None:
            return not self.index.is_complete
        return target in known.links

    def is_becoming_depended_on(self, encoded: bytes) -> bool:
        return encoded in self._linking

    def is_known(self, encoded: bytes) -> bool:
        """Whether there may be something of a key on the disk, or on its way there."""
        return (
            encoded in self.index.stored
            or encoded in self._writing
            or self.index.is_leaving(encoded)
        )

    def is_depended_on(self, encoded: bytes) -> bool:
        return encoded in self.barriers.depended_on or encoded in self._linking

    # --- what became of it ---

    def _settle(self, write: Write, results: Sequence[object] | None) -> None:
        self._end(write)
        if results is None:
            self._not_written(write)
            return
        for told in self.on_changing:
            told(write)
        for target, version in zip(write.raised, results, strict=False):
            assert isinstance(version, int)
            self._raise(target, version)
        self.barriers.depended_on.update(write.dependencies)
        for change, result in zip(write.changes, results[write.first_change :], strict=False):
            self._written(change, result, write.is_tidying)
        self.index.leave(write.victims)
        for victim in write.victims:
            self._gone(victim)

    def _written(self, change: Change, result: object, is_tidying: bool) -> None:
        if (reading := self._reading.pop(change.encoded, None)) is not None:
            reading.is_overtaken = True
        entry, key = change.entry, change.key
        if entry is None:
            self.memory.discard(key)
            self.index.remove(change.encoded)
            if result and not is_tidying:
                self.counters.deletions += 1
                self.watchers.tell(ChangeKind.DELETED, key, change.encoded)
            return
        assert isinstance(result, int)
        entry.written(result)
        # Whatever was raised until now was raised by an earlier version.
        entry.checked_at = self.barriers.raised
        known = self.memory.peek(key)
        if known is None or known.version < result:
            self.memory.put(entry)
        self.index.put(
            change.encoded, Stored(result, change.size_bytes, entry.expires_at, entry.links)
        )
        now = self.wall()
        self.memory.expire(now, EXPIRED_PER_PUT)
        self.index.expire(now, EXPIRED_PER_PUT)
        self.counters.puts += 1
        self._warmed()
        self.watchers.tell(ChangeKind.PUT, key, change.encoded, result)

    def _gone(self, victim: bytes) -> None:
        """It was evicted from L2, also what was put there by a batch that got ahead of this one.
        What comes after it is told later."""
        key = decode_key(victim)
        self.index.remove(victim)
        self.memory.discard(key)
        if (reading := self._reading.pop(victim, None)) is not None:
            reading.is_overtaken = True
        self.counters.evicted_from_disk += 1
        self.watchers.tell(ChangeKind.EVICTED, key, victim)

    def _raise(self, target: Target, version: int) -> None:
        self.barriers.raise_to(target, version)
        self.counters.invalidations += 1
        self.watchers.tell_invalidated(target, version)
        self.ask_for_upkeep()

    def _not_written(self, write: Write) -> None:
        self.index.stay(write.victims)
        error = next((ack.error for ack in write.acks if ack.error is not None), None)
        if error is None or isinstance(error, CommitUnknownError):
            # Whatever is on disk: L1 must not say anything else.
            for change in write.changes:
                self.memory.discard(change.key)
        if write.is_behind:
            self.counters.failed_behind += 1
            log.error(
                "%d keys were not written, and are as they were before (the first: %.200r): %s",
                len(write.changes),
                write.changes[0].key,
                error,
            )

    def _evicted(self, _entry: CachedEntry, cause: EvictionCause) -> None:
        self.counters.evicted_from_memory[cause] += 1


class _ReadingKeys:
    """Notes that keys are being read, while the block runs."""

    __slots__ = ("_all", "_keys", "_mine")

    def __init__(self, all_readings: dict[bytes, _Reading], keys: Sequence[bytes]) -> None:
        self._all = all_readings
        self._keys = keys

    def __enter__(self) -> list[_Reading]:
        self._mine = [self._all.setdefault(key, _Reading()) for key in self._keys]
        for reading in self._mine:
            reading.count += 1
        return self._mine

    def __exit__(self, *_: object) -> None:
        for key, reading in zip(self._keys, self._mine, strict=True):
            reading.count -= 1
            if not reading.count and self._all.get(key) is reading:
                del self._all[key]


def _entry_in(write: Write, key: GlobalCacheKey) -> CachedEntry | None:
    """What a write makes of a key: where it names it twice, the last one counts."""
    return next(change.entry for change in reversed(write.changes) if change.key == key)


def _links(write: Write) -> Iterable[tuple[Link, bytes]]:
    """Of its entries, each with the key."""
    for change in write.changes:
        if change.entry is not None:
            for link in change.entry.links:
                yield link, change.encoded


def _count_down(counts: dict[bytes, int], key: bytes) -> None:
    if counts[key] == 1:
        del counts[key]
    else:
        counts[key] -= 1

"""One cache: what it is made of, and how memory follows the commits.

A change goes to the writer first. When it is known that it was committed, and before any task runs,
L1, the index of L2, the barriers and whoever watches take it in: all in the order of the commits.
So L1 never shows what L2 refused, and nobody sees an older value after a newer one.

What is written behind can be read before it is committed: it stands in `InFlight.behind` until
then, and is never evicted from there; the bound of the mailbox is its bound.
"""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache.configuration import CacheConfiguration
from mpreg.cache.counters import Counters
from mpreg.cache.dependents import Dependents
from mpreg.cache.entry import CachedEntry
from mpreg.cache.in_flight import InFlight
from mpreg.cache.index import VICTIMS_MAX, DiskIndex, Stored
from mpreg.cache.invalidation import Barriers, Prefix, Target
from mpreg.cache.keys import GlobalCacheKey, decode_key
from mpreg.cache.memory import EvictionCause, MemoryCache
from mpreg.cache.reading import CacheReader, log
from mpreg.cache.reads import Reads
from mpreg.cache.storage import CacheStorage
from mpreg.cache.watching import ChangeKind, Watchers
from mpreg.cache.writes import Change, OvertakenError, Write, linked
from mpreg.errors import CommitUnknownError, ValueTooLargeError
from mpreg.persistence import Ack, Durability, PersistenceRegistry
from mpreg.persistence.batch import OPERATION_OVERHEAD_BYTES, operation_bytes
from mpreg.persistence.operations import Operation, Put

__all__ = ["CacheCore", "log"]

#: Notes that others depend on a key, of which so many may be needed no more, are not left to lie
#: until there is something else to be done.
DESERTED_MAX: Final = 256

#: What has expired and is dropped beside each put: more than one, so that it does not pile up.
EXPIRED_PER_PUT: Final = 4


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
    in_flight: InFlight = field(init=False)
    dependents: Dependents = field(init=False)
    reads: Reads = field(factory=Reads)
    reader: CacheReader = field(init=False)
    on_changing: list[Callable[[Write], None]] = field(factory=list)
    """Told of every write when it is sent, and when it is committed: what is read between the two
    is what was there before it."""
    until_counted: Callable[[], Awaitable[None]] = anyio.lowlevel.checkpoint
    """Waits until it is known what L2 holds, and so who depends on whom."""
    wall: Callable[[], float] = field(init=False)
    ask_for_upkeep: Callable[[], None] = lambda: None
    """Called when there is something to be done at leisure."""
    is_anything_left: bool = False
    """Whether upkeep has passed over what was being written: it looks again when that is done."""
    is_heat_old: bool = False
    """Whether other entries may be the most used ones than was written down."""
    _settled: anyio.Event | None = None
    """Set, and made anew, when a write is settled. None: nobody waits for that."""

    def __attrs_post_init__(self) -> None:
        configuration = self.configuration
        self.wall = self.registry.clock.wall
        self.storage = CacheStorage(self.registry, configuration.name)
        self.memory = MemoryCache(
            entries_max=configuration.memory_entries_max,
            bytes_max=configuration.memory_bytes_max,
            policy=configuration.policy,
            on_evicted=self._evicted,
        )
        self.barriers.held = lambda: [entry.space for entry in self.memory.held()]
        self.index = DiskIndex(configuration.disk_entries_max, configuration.disk_bytes_max)
        self.watchers = Watchers(configuration.watch_changes_max, self.registry.check_thread)
        self.in_flight = InFlight(self.index, self.memory)
        self.dependents = Dependents(self.index, self.barriers, self.in_flight)
        self.reader = CacheReader(
            wall=self.wall,
            storage=self.storage,
            memory=self.memory,
            index=self.index,
            barriers=self.barriers,
            in_flight=self.in_flight,
            counters=self.counters,
            taken_in=self._warmed,
            reads=self.reads,
        )

    def _warmed(self) -> None:
        """What is in L1 is not what was written down."""
        if not self.is_heat_old:
            self.is_heat_old = True
            self.ask_for_upkeep()

    # --- writing ---

    async def write(
        self,
        changes: Sequence[Change],
        operations: Sequence[Operation],
        durability: Durability,
        *,
        is_behind: bool = False,
        origin: object = None,
        is_wanted: Callable[[], bool] | None = None,
    ) -> Sequence[Ack[Any]]:
        """Send changes, an operation for each, with what goes along: those who depend on what is
        changed are invalidated, those who are depended on from now on are noted.

        Returns an ack for each change, answered already unless ``is_behind``; raises what they
        raise, and what `send` does. Cancelled while it waits for room, nothing was sent; later, it
        may still happen.
        """
        write = Write(
            own=operations,
            changes=changes,
            is_behind=is_behind,
            origin=origin,
            is_wanted=is_wanted,
        )
        await self.send(write, durability)
        acks = write.acks[write.first_change : write.first_change + len(changes)]
        if not is_behind:
            await acks[-1]
        return acks

    async def send(self, write: Write, durability: Durability) -> None:
        """Send a batch. Waits for room only: its acks tell what became of it.

        What goes along with it is decided when there is room, and in the moment in which it is
        sent: so no other write comes between the two. Nothing is sent where there is nothing to be
        done.

        Where this raises, also cancelled, nothing was sent and nothing has changed: but what has to
        make room for it may have gone already, where that is more than one batch holds.

        Raises:
            OvertakenError: it is not wanted any more.
            CommitFailedError, CommitUnknownError, WriterStoppedError: of what has to make room.
        """
        size = sum(map(operation_bytes, write.own))
        while True:
            if not self.storage.reserve_nowait(size):
                await self.storage.reserve(size)
            try:
                ready = self._prepare(write)
                is_sent = ready is not None and bool(ready.operations)
                if ready is not None and is_sent:
                    # What goes before a write is as durable as that makes it.
                    self._send(ready, durability if ready is write else Durability.RELAXED, size)
            except BaseException:
                self.storage.give_back(size)
                raise
            if not is_sent:
                self.storage.give_back(size)
            if ready is None:
                await self._until_settled()
            elif ready is not write:
                await ready.acks[0]
            else:
                if not is_sent:
                    self._end(write)
                return

    def _prepare(self, write: Write) -> Write | None:
        """Decide all that goes along with a write, and note that it is on its way. None where
        another one must be settled first: then nothing is noted. Another write than this one: that
        has to be settled first, and is not sent yet."""
        if write.is_wanted is not None and not write.is_wanted():
            raise OvertakenError
        self._inherit(write)
        write.raised = self.dependents.invalidated_by(write)
        write.dependencies = self.dependents.new_dependencies(write.changes)
        if self.in_flight.are_undecided(write.changes):
            return None
        was_over = self.index.is_over
        victims_max = self._victims_max(write) if was_over else math.inf
        before = self.index.coming
        self.in_flight.begin(write)
        try:
            if not write.is_tidying and not self._make_room(write, victims_max, before):
                self.in_flight.forget(write)
                return None
            self._gather(write)
        except BaseException:
            self.in_flight.forget(write)
            raise
        if write.victims and not was_over and self._is_too_much(write):
            return self._evict_before(write)
        return write

    def _inherit(self, write: Write) -> None:
        """What invalidates that on which its entries depend may be more than when they were made:
        that may have been put while they waited for room. Raises `ValueTooLargeError`."""
        more: dict[int, tuple[Change, Put]] = {}
        for place, change in enumerate(write.changes):
            if change.entry is not None and change.entry.links:
                put = write.own[place]
                assert isinstance(put, Put)
                linked_one = self.inherit(change, put)
                if linked_one[0] is not change:
                    more[place] = linked_one
        if more:
            changes, own = list(write.changes), list(write.own)
            for place, (change, put) in more.items():
                changes[place], own[place] = change, put
            # Each fits alone.
            self.check_together(changes)
            write.changes, write.own = changes, own

    def inherit(self, change: Change, put: Put) -> tuple[Change, Put]:
        """The same with all that now invalidates that on which its entry depends. Raises
        `ValueTooLargeError`."""
        assert change.entry is not None
        links = change.entry.links
        known = {change.encoded, *links}
        inherited = self.dependents.inherited(one for one in links if isinstance(one, bytes))
        new = [one for one in inherited if one not in known]
        if not new:
            return change, put
        change, data = linked(change, put.value, new)
        self.check_fits(change.key, change.size_bytes)
        return change, self.storage.put(change.encoded, data, put.expires_at, put.expected_version)

    def check_fits(self, key: GlobalCacheKey, size_bytes: int) -> None:
        """Raises `ValueTooLargeError` for an entry that L2 could not hold alone."""
        if size_bytes > self.configuration.disk_bytes_max:
            raise ValueTooLargeError(
                f"{key!r:.200} takes {size_bytes} bytes in the cache; "
                f"at most {self.configuration.disk_bytes_max} (disk_bytes_max)"
            )

    def check_together(self, changes: Sequence[Change]) -> None:
        """Raises `ValueTooLargeError` where L2 could not hold them at the same time."""
        entries_max = self.configuration.disk_entries_max
        bytes_max = self.configuration.disk_bytes_max
        if len(changes) > entries_max:
            raise ValueTooLargeError(
                f"{len(changes)} entries in one batch; "
                f"the cache holds {entries_max} (disk_entries_max)"
            )
        size = sum(change.size_bytes for change in changes)
        if size > bytes_max:
            raise ValueTooLargeError(
                f"entries of {size} bytes in one batch; "
                f"the cache holds {bytes_max} (disk_bytes_max)"
            )

    def _gather(self, write: Write) -> None:
        """Its operations."""
        if write.raised or write.dependencies or write.victims:
            write.operations = [
                *map(self.storage.invalidate, write.raised),
                *map(self.storage.depend, write.dependencies),
                *write.own,
                *map(self.storage.delete, write.victims),
            ]
        else:
            write.operations = write.own

    def _send(self, write: Write, durability: Durability, size: int) -> None:
        try:
            write.acks = self.storage.send_reserved(
                write.operations, partial(self._settle, write), size, durability
            )
        except BaseException:
            self.in_flight.forget(write)
            raise
        self.in_flight.sent(write)
        self.tell(write)

    def tell(self, write: Write) -> None:
        """Something changes: what is being computed from it is outdated."""
        for told in self.on_changing:
            told(write)

    def _end(self, write: Write) -> None:
        """It is not on its way any more."""
        write.is_settled = True
        write.before = []
        self.in_flight.end(write)
        if write.settled is not None:
            write.settled.set()
        if self.is_anything_left and not write.is_tidying:
            self.is_anything_left = False
            self.ask_for_upkeep()
        if self._settled is not None:
            self._settled.set()
            self._settled = None

    async def _until_settled(self) -> None:
        """Until any write is."""
        if self._settled is None:
            self._settled = anyio.Event()
        await self._settled.wait()

    def _victims_max(self, write: Write) -> int:
        """Where the bounds were lowered: a few at a time, and no more than its batch has room for,
        or it would be refused whenever it is sent."""
        self._gather(write)
        left = self.registry.config.batch_bytes_max - sum(map(operation_bytes, write.operations))
        return max(0, min(VICTIMS_MAX, left // OPERATION_OVERHEAD_BYTES))

    def _is_too_much(self, write: Write) -> bool:
        """Whether its batch has no room for all that has to go. Where it is too large without that,
        it will be refused, and nothing has to go."""
        size = sum(map(operation_bytes, write.operations))
        without = size - len(write.victims) * OPERATION_OVERHEAD_BYTES
        return size > self.registry.config.batch_bytes_max >= without

    def _evict_before(self, write: Write) -> Write:
        """What has to go for a write, in one of its own; nothing is noted of the other one. That
        has room for it: the removal of an entry counts for less than the entry did."""
        first, write.victims = Write(victims=write.victims), []
        self.in_flight.forget(write)
        first.more = self.index.expect_to_stay(first.victims, (0, 0))
        self._gather(first)
        return first

    def _make_room(self, write: Write, victims_max: float, before: tuple[int, int]) -> bool:
        """Choose what goes; False where what could go is being written itself. ``before``: what
        was coming without this write."""
        index = self.index
        if index.is_over:
            taken = (index.coming[0] - before[0], index.coming[1] - before[1])
            write.victims = index.make_room(
                self.in_flight.is_written, self._is_held, self.wall(), victims_max
            )
            if self.in_flight.count and self.index.is_over and len(write.victims) < victims_max:
                return False
            write.more = index.expect_to_stay(write.victims, taken)
        return True

    def _is_held(self, encoded: bytes) -> bool:
        return decode_key(encoded) in self.memory

    # --- what became of it ---

    def _settle(self, write: Write, results: Sequence[object] | None) -> None:
        self.in_flight.settled(write)
        self._end(write)
        if results is None:
            self._not_written(write)
            return
        self.tell(write)
        for target, version in zip(write.raised, results, strict=False):
            assert isinstance(version, int)
            self._raise(target, version)
        self.barriers.depended_on.update(write.dependencies)
        for change, result in zip(write.changes, results[write.first_change :], strict=False):
            self._written(change, result, write.is_tidying)
        self.index.leave(write.victims)
        for victim in write.victims:
            self._gone(victim)
        if len(self.index.deserted) >= DESERTED_MAX:
            self.ask_for_upkeep()

    def _written(self, change: Change, result: object, is_tidying: bool) -> None:
        self.reads.overtake(change.encoded)
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
        if entry.space.is_forgotten:
            # Since the entry was made.
            entry.space = self.barriers.space(key.namespace)
        known = self.memory.peek(key)
        if known is None or known.version < result:
            self.memory.put(entry)
        self.index.put(
            change.encoded, Stored(result, change.size_bytes, entry.expires_at, entry.links)
        )
        self.memory.expire(self.wall(), EXPIRED_PER_PUT)
        self.counters.puts += 1
        self._warmed()
        self.watchers.tell(ChangeKind.PUT, key, change.encoded, result)

    def _gone(self, victim: bytes) -> None:
        """It was evicted from L2, also what was put there by a batch that got ahead of this one.
        What comes after it is told later."""
        key = decode_key(victim)
        self.index.remove(victim)
        self.memory.discard(key)
        self.reads.overtake(victim)
        self.counters.evicted_from_disk += 1
        self.watchers.tell(ChangeKind.EVICTED, key, victim)

    def _raise(self, target: Target, version: int) -> None:
        self.barriers.raise_to(target, version)
        self.counters.invalidations += 1
        has_dependents = isinstance(target, Prefix) and self.barriers.depended_on.has_any_of(
            target.namespace
        )
        self.watchers.tell_invalidated(target, version, has_dependents=has_dependents)
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

"""What happens in the background so that a store stays as large as what is in it.

The compactor sleeps until something was written, or something expires. Then it goes round: expired
entries, logs with a limit, versions of snapshots, the write-ahead log, unused space. It decides by
`upkeep_policy`, `log_retention` and `snapshots.retention`, and has the writer do it in steps that
are small by the time they take; after each it rests for as long as the step took, so that the
writer is at least half of the time for others.

Whatever cuts it off, what was done is done, and the rest is done the next time. Where something is
damaged, that is told and passed over; where something fails, it is tried again after all the rest.
Neither keeps anything else from being done.
"""

from __future__ import annotations

import logging
import math
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Final, TypeVar

import anyio
import msgspec
from attrs import define, field, frozen

from mpreg.codec import encode_name, encode_reserved_name, shown_name
from mpreg.errors import (
    CommitUnknownError,
    CorruptDataError,
    MpregError,
    ReaderStoppedError,
    WriterStoppedError,
)
from mpreg.persistence.activity import Activity
from mpreg.persistence.backend import (
    BackendStatistics,
    Checkpoint,
    GetLogBounds,
    GiveBackSpace,
    ListNamespaces,
    NamespaceExpiry,
    NamespacesPage,
    ReadRecords,
    RecordsPage,
    RefreshStatistics,
    StoredRecord,
    UpkeepResult,
)
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import LogBounds
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.kv_store import KeyValueStore
from mpreg.persistence.log_retention import (
    CLOCK_SET_SECONDS,
    LogMarks,
    LogRetention,
    Mark,
    counted_before,
    is_clock_ahead,
    kept_from,
    marks_of,
    next_due,
    with_mark,
)
from mpreg.persistence.operations import Operation, SweepExpired, TruncateBefore
from mpreg.persistence.snapshots import Remover, SnapshotEntries, SnapshotSharing, Tidied
from mpreg.persistence.upkeep_policy import SpacePolicy, StepSize, seconds_until

__all__ = ["CompactionReport", "Compactor"]

T = TypeVar("T")

_log = logging.getLogger("mpreg.persistence")

#: After these nothing more can be done.
ENDING: Final = (WriterStoppedError, ReaderStoppedError, CommitUnknownError)

#: Between two times that the planner's statistics are looked at. They hardly ever change.
STATISTICS_SECONDS: Final = 3_600.0

#: After opening, until upkeep begins where nothing is written.
START_SECONDS_MAX: Final = 0.1

#: While nobody writes, between two looks whether the wall clock was set.
CLOCK_LOOK_SECONDS: Final = 60.0

#: The writer waits a moment for whoever reads the log that is to be cut. Not more often than this
#: while others write.
HELD_LOG_SECONDS: Final = 600.0

PAGE_BYTES: Final = 4_096


@frozen(kw_only=True)
class CompactionReport:
    """What `PersistenceRegistry.compact` has removed and given back."""

    expired_entries: int = 0
    log_records: int = 0
    """Beyond the limits of their logs."""
    snapshot_versions: int = 0
    """Beyond the retention of their snapshots."""
    snapshot_bytes: int = 0
    """Of the data of these versions."""
    snapshot_chunks: int = 0
    """Removed: of these versions, of others that were dropped before, and of saves cut short."""
    damaged: int = 0
    """Parts that were passed over since something in them is damaged. The log tells which."""
    freed_bytes: int = 0
    """Given back to the file system, by the database and by its log."""
    free_bytes: int = 0
    """Still unused inside the database: later writes use it."""
    database_bytes_before: int = 0
    database_bytes: int = 0
    wal_bytes_before: int = 0
    wal_bytes: int = 0


@define
class _Tally:
    """What one round has removed so far."""

    expired_entries: int = 0
    log_records: int = 0
    snapshots: Tidied = field(factory=Tidied)
    damaged: int = 0
    failures: list[MpregError] = field(factory=list)
    """Of parts that are to be tried again."""
    freed_bytes: int = 0
    free_bytes: int = 0

    def check(self) -> None:
        """Raises the first failure."""
        if self.failures:
            raise self.failures[0]


@define(eq=False)
class Compactor:
    _gateway: StoreGateway
    _snapshots: SnapshotSharing
    _activity: Activity
    _sizes: Callable[[], BackendStatistics]
    _sweep_size: StepSize = field(factory=StepSize)
    _truncate_size: StepSize = field(factory=StepSize)
    # So few pages take a millisecond at most, where the thread gets its turn at once. With fewer,
    # a busy machine would have nothing but turns to wait for.
    _space_size: StepSize = field(factory=lambda: StepSize(least=32, size=32))
    _logs: dict[str, LogMarks] = field(factory=dict)
    """Of the logs with a limit that were looked at."""
    _counted: dict[str, float] = field(factory=dict)
    """By such a log, by how much its counted time is ahead of the monotonic clock."""
    _logs_due: float = math.inf
    """When records of such a log become too old (monotonic clock)."""
    _wall_ahead: float = math.inf
    """By how much the wall clock was ahead of the monotonic one when the logs were last looked at;
    infinite where no age is to be counted."""
    _unsettled: bool = False
    """Whether to go round once more where nothing is written meanwhile."""
    _looks_again: bool = False
    """Whether, after the next write, to look once more for what expires next."""
    _cut_due: float = -math.inf
    """When to cut the log again beside others who write, after somebody who reads has kept it."""
    _statistics_due: float = -math.inf
    _damage: dict[str, str] = field(factory=dict)
    """What was told of parts that are passed over."""
    rounds: int = 0
    seconds: float = 0.0
    """Of all rounds together."""
    ended_at: float | None = None
    """When the last round ended (wall clock)."""
    _working: anyio.Lock = field(factory=anyio.Lock)
    """Held during a round."""

    # --- the background task ---

    async def run(self) -> None:
        """Keep the store small until cancelled. Sleeps while there is nothing to do."""
        interval = self._gateway.config.upkeep_interval_seconds
        if interval is None:
            return
        # Who opens the store waits for what is in it: that comes before what there is to remove.
        with anyio.move_on_after(min(interval, START_SECONDS_MAX)):
            await self._activity.wait()
        await self._try(self._begin, interval)
        while True:
            await self._sleep()
            # More comes, as a rule, and is done with it.
            await anyio.sleep(interval)
            await self._try(self._go_round, interval)

    async def _begin(self, tally: _Tally) -> None:
        """With what the last process left: time has gone by since."""
        await self._tidy_all_snapshots(tally)
        await self._apart("what has expired", self._sweep(self._gateway.clock.wall(), tally), tally)
        if tally.failures:
            # It begins anew until it succeeds: that must not keep from their turn those that are
            # no part of it.
            await self._go_round(tally)

    async def _sleep(self) -> None:
        """Until something was written, or is due, or the wall clock was set."""
        left = self._seconds_to_next()
        while left > 0 and not self._is_clock_set():
            seconds = left if self._wall_ahead == math.inf else min(left, CLOCK_LOOK_SECONDS)
            with anyio.move_on_after(seconds):
                await self._activity.wait()
                return
            left -= seconds

    def _is_clock_set(self) -> bool:
        """Whether that may have to be written down: the next process cannot tell."""
        ahead = self._gateway.clock.wall() - anyio.current_time()
        return ahead - self._wall_ahead > CLOCK_SET_SECONDS

    def _seconds_to_next(self) -> float:
        due = min(self._gateway.earliest_expiry, self._snapshots.earliest_due)
        seconds = min(
            seconds_until(due, self._gateway.clock.wall()),
            seconds_until(self._logs_due, anyio.current_time()),
        )
        interval = self._gateway.config.upkeep_interval_seconds
        return min(seconds, interval) if self._unsettled and interval is not None else seconds

    async def _try(self, work: Callable[[_Tally], Awaitable[None]], pause_seconds: float) -> None:
        """Do it until it succeeds."""
        while True:
            try:
                async with self._round():
                    tally = _Tally()
                    await work(tally)
                    tally.check()
            except ENDING:
                # The registry is closing, and will cancel this task.
                await anyio.sleep_forever()
            except MpregError as error:
                _log.warning("upkeep was interrupted, and is tried again: %s", error)
                await anyio.sleep(pause_seconds)
            else:
                return

    @asynccontextmanager
    async def _round(self) -> AsyncGenerator[None, None]:
        async with self._working:
            began = anyio.current_time()
            try:
                yield
            except BaseException:
                # What it had begun may count as done: the next round is to look again.
                self._activity.note()
                raise
            self.rounds += 1
            self.seconds += anyio.current_time() - began
            self.ended_at = self._gateway.clock.wall()

    async def _go_round(self, tally: _Tally) -> None:
        written = self._activity.take()
        now = self._gateway.clock.wall()
        if self._gateway.earliest_expiry <= now:
            await self._apart("what has expired", self._sweep(now, tally), tally)
        elif written and self._looks_again:
            self._looks_again = False
            await self._apart("what expires next", self._look_ahead(now), tally)
            self._looks_again = bool(tally.failures)
        if written or self._logs_due <= anyio.current_time() or self._is_clock_set():
            await self._limit_logs(tally)
        for namespace in self._snapshots.due_at(now):
            await self._tidy_snapshot(namespace, tally, thoroughly=False)
        if written or self._unsettled:
            await self._tidy_up(tally, written=written)
        self._unsettled = written

    # --- on demand ---

    async def compact(self) -> CompactionReport:
        """Do at once all that upkeep would do some time, whatever the thresholds. Raises the first
        failure when all the rest is done."""
        before = self._sizes()
        tally = _Tally()
        async with self._round():
            await self._tidy_all_snapshots(tally)
            now = self._gateway.clock.wall()
            await self._apart("what has expired", self._sweep(now, tally), tally)
            await self._limit_logs(tally)
            refreshed = self._gateway.keep_up(RefreshStatistics())
            await self._apart("the planner's statistics", refreshed, tally)
            await self._apart("unused space", self._give_back_all(tally), tally)
            tally.check()
        after = self._sizes()
        return CompactionReport(
            expired_entries=tally.expired_entries,
            log_records=tally.log_records,
            snapshot_versions=tally.snapshots.versions,
            snapshot_bytes=tally.snapshots.version_bytes,
            snapshot_chunks=tally.snapshots.chunks,
            damaged=tally.damaged,
            freed_bytes=max(0, tally.freed_bytes),
            free_bytes=tally.free_bytes,
            database_bytes_before=before.database_bytes,
            database_bytes=after.database_bytes,
            wal_bytes_before=before.wal_bytes,
            wal_bytes=after.wal_bytes,
        )

    # --- what a round does ---

    async def _sweep(self, now: float, tally: _Tally) -> None:
        """Remove what has expired, namespace by namespace."""
        failures = len(tally.failures)
        for one in await self._namespaces(after=-math.inf):
            if one.expires_at is not None and one.expires_at <= now:
                what = f"what has expired in {shown_name(one.namespace)!r}"
                await self._apart(what, self._sweep_namespace(one.namespace, tally), tally)
        if len(tally.failures) > failures:
            # What is left of it is due as it was.
            return
        # What is on its way to the disk meanwhile may be overlooked; and it may be cut off.
        self._looks_again = True
        self._gateway.earliest_expiry = math.inf
        await self._look_ahead(now)

    async def _look_ahead(self, now: float) -> None:
        """See what expires next. Not what should have gone by now: it is damaged, and stays."""
        for one in await self._namespaces(after=now):
            if one.expires_at is not None:
                self._gateway.earliest_expiry = min(self._gateway.earliest_expiry, one.expires_at)

    async def _sweep_namespace(self, namespace: bytes, tally: _Tally) -> None:
        while True:
            asked = self._sweep_size.size
            step = SweepExpired(namespace, asked)
            swept: int = await self._paced(self._sweep_size, self._write(step))
            tally.expired_entries += swept
            if swept < asked:
                return

    async def _namespaces(self, *, after: float) -> list[NamespaceExpiry]:
        found: list[NamespaceExpiry] = []
        start: bytes | None = b""
        while start is not None:
            page: NamespacesPage = await self._gateway.read(ListNamespaces(start, after))
            found += page.namespaces
            start = page.next_start
        return found

    async def _limit_logs(self, tally: _Tally) -> None:
        self._logs_due = math.inf
        failures = len(tally.failures)
        if any(one.seconds_max is not None for one in self._gateway.config.log_retention):
            self._wall_ahead = self._gateway.clock.wall() - anyio.current_time()
        for retention in self._gateway.config.log_retention:
            await self._apart(f"log {retention.log!r}", self._limit_log(retention, tally), tally)
        if len(tally.failures) > failures:
            self._logs_due = -math.inf

    async def _limit_log(self, retention: LogRetention, tally: _Tally) -> None:
        log = encode_name(retention.log)
        first, next_offset = await self._bounds(log)
        known = await self._measured(retention, log, first, next_offset)
        stop = kept_from(retention, known, next_offset, self._counted_time(retention.log))
        while first < stop:
            step = TruncateBefore(log, min(stop, first + self._truncate_size.size))
            reached: int = await self._paced(self._truncate_size, self._write(step))
            tally.log_records += reached - first
            first = reached
        due = next_due(retention, known, first) - self._counted[retention.log]
        self._logs_due = min(self._logs_due, due)

    def _counted_time(self, log: str) -> float:
        return anyio.current_time() + self._counted[log]

    async def _bounds(self, log: bytes) -> LogBounds:
        bounds: LogBounds = await self._gateway.read(GetLogBounds(log))
        return bounds

    async def _measured(
        self, retention: LogRetention, log: bytes, first: int, next_offset: int
    ) -> LogMarks:
        """What is known of a log, up to its end; remembered over restarts."""
        store = self._marks_store()
        known = self._logs.get(retention.log)
        if known is None:
            known = self._logs[retention.log] = await self._remembered(store, retention.log)
            counted = counted_before(known, self._gateway.clock.wall())
            self._counted[retention.log] = counted - anyio.current_time()
        if known.end > next_offset:
            # Deleted, and begun anew.
            known = LogMarks()
        before = known
        while known.end < next_offset:
            start = max(first, known.end)
            for mark in await self._next_marks(retention, known, log, start, next_offset):
                known = with_mark(retention, known, mark, first)
        counted, wall = self._counted_time(retention.log), self._gateway.clock.wall()
        if known != before or (known.marks and is_clock_ahead(known, counted, wall)):
            known = LogMarks(known.marks, counted, max(known.wall, wall))
            encoded = msgspec.msgpack.encode(known)
            await store.put(retention.log, encoded, durability=Durability.RELAXED)
        self._logs[retention.log] = known
        return known

    async def _next_marks(
        self, retention: LogRetention, known: LogMarks, log: bytes, start: int, next_offset: int
    ) -> list[Mark]:
        """To the end of the log, or of a page of it where its bytes must be counted."""
        now = self._counted_time(retention.log)
        if retention.bytes_max is None or start >= next_offset:
            return [Mark(next_offset, now, known.bytes_measured)]
        page: RecordsPage = await self._gateway.read(ReadRecords(log, start, next_offset))
        records = [one for one in page.records if isinstance(one, StoredRecord)]
        end = next_offset if page.next_start is None else page.next_start
        sizes = [(one.offset, len(one.data)) for one in records]
        return marks_of(retention, known, sizes, end, now)

    def _marks_store(self) -> KeyValueStore:
        return KeyValueStore(self._gateway, "logs", encode_reserved_name("upkeep", "logs"))

    async def _remembered(self, store: KeyValueStore, log: str) -> LogMarks:
        """Nothing, where that is damaged; what cannot be read now is read the next time."""
        try:
            entry = await store.get(log)
            if entry is not None:
                return msgspec.msgpack.decode(entry.value, type=LogMarks)
        except (CorruptDataError, msgspec.MsgspecError):
            _log.warning("log %r: what upkeep knew of it is damaged; measured anew", log)
        return LogMarks()

    async def _tidy_all_snapshots(self, tally: _Tally) -> None:
        for one in await self._apart("snapshots", self._namespaces(after=math.inf), tally) or ():
            if _is_snapshot(one.namespace):
                await self._tidy_snapshot(one.namespace, tally, thoroughly=True)

    async def _tidy_snapshot(self, namespace: bytes, tally: _Tally, *, thoroughly: bool) -> None:
        name = shown_name(namespace)
        remover = Remover(SnapshotEntries(self._gateway, self._snapshots, name, namespace))
        tidy = remover.tidy_all if thoroughly else remover.tidy
        await self._apart(f"what is left over in {name!r}", tidy(tally.snapshots, _resting), tally)

    async def _tidy_up(self, tally: _Tally, *, written: bool) -> None:
        """The planner's statistics, the write-ahead log, unused space."""
        now = anyio.current_time()
        if now >= self._statistics_due:
            # Also where it fails: there is more to be done than this.
            self._statistics_due = now + STATISTICS_SECONDS
            await self._gateway.keep_up(RefreshStatistics())
        result = await self._checkpoint(tally)
        at_rest = not written or self._is_little(result)
        tally.free_bytes = result.free_bytes
        surplus = self._space.surplus(
            self._sizes().database_bytes, result.free_bytes, at_rest=at_rest
        )
        if surplus:
            await self._give_back(surplus, tally)
            # The file gets smaller when the log is moved.
            await self._checkpoint(tally)
        if not written or (at_rest and now >= self._cut_due):
            await self._cut_log(tally)

    def _is_little(self, result: UpkeepResult) -> bool:
        """Whether hardly anything was written, by what a checkpoint found in the log. A journal
        tells nothing of the kind: to cut it is to write all that is alive."""
        written_bytes = result.log_pages * PAGE_BYTES
        return written_bytes > 0 and self._space.is_little(written_bytes, self._sizes().wal_bytes)

    async def _cut_log(self, tally: _Tally) -> None:
        sizes = self._sizes()
        if self._space.log_surplus(sizes.database_bytes, sizes.wal_bytes, sizes.rewrite_bytes):
            await self._checkpoint(tally, truncate=True)
            held = self._sizes().wal_bytes >= sizes.wal_bytes
            self._cut_due = anyio.current_time() + HELD_LOG_SECONDS if held else -math.inf

    async def _checkpoint(self, tally: _Tally, *, truncate: bool = False) -> UpkeepResult:
        """All of one, step by step. Returns what the last step found."""
        result = await self._gateway.keep_up(Checkpoint(truncate=truncate))
        tally.freed_bytes += result.freed_bytes
        while result.unfinished:
            result = await _resting(self._gateway.keep_up(Checkpoint()))
            tally.freed_bytes += result.freed_bytes
        return result

    @property
    def _space(self) -> SpacePolicy:
        return SpacePolicy(free_bytes_max=self._gateway.config.free_bytes_max)

    async def _give_back(self, surplus: int, tally: _Tally) -> None:
        while surplus > 0:
            pages = min(self._space_size.size, math.ceil(surplus / PAGE_BYTES))
            step = self._gateway.keep_up(GiveBackSpace(pages))
            result = await self._paced(self._space_size, step)
            tally.free_bytes = result.free_bytes
            tally.freed_bytes += result.freed_bytes
            if not result.freed_bytes:
                return
            surplus -= result.freed_bytes

    async def _give_back_all(self, tally: _Tally) -> None:
        # First what is under way: it was begun before all the rest was removed.
        result = await self._checkpoint(tally)
        tally.free_bytes = result.free_bytes
        await self._give_back(result.free_bytes, tally)
        await self._checkpoint(tally, truncate=True)

    # --- steps ---

    async def _apart(self, what: str, work: Awaitable[T], tally: _Tally) -> T | None:
        """One part of a round. None where it meets damage, which is told once, or fails, which is
        for the end of the round: the other parts have their turn."""
        try:
            return await work
        except CorruptDataError as error:
            tally.damaged += 1
            if self._damage.get(what) != str(error):
                self._damage[what] = str(error)
                _log.error("upkeep passes over %s: %s", what, error)
        except ENDING:
            raise
        except MpregError as error:
            tally.failures.append(error)
        return None

    async def _write(self, operation: Operation) -> int:
        # What a power cut undoes, the next round does again.
        result: int = await self._gateway.write(operation, Durability.RELAXED)
        return result

    async def _paced(self, size: StepSize, step: Awaitable[T]) -> T:
        """Do a step, and note how long it took."""
        return await _resting(step, size.took)


async def _resting(step: Awaitable[T], note_seconds: Callable[[float], None] = lambda _: None) -> T:
    """Do a step, and rest for as long as it took."""
    began = anyio.current_time()
    result = await step
    took = anyio.current_time() - began
    note_seconds(took)
    await anyio.sleep(took)
    return result


def _is_snapshot(namespace: bytes) -> bool:
    """Whether it is one of those that `encode_reserved_name` makes for snapshots."""
    kind, slash, _ = namespace[1:].partition(b"/")
    return (
        namespace[:1] == b"\xff"
        and bool(slash)
        and (kind == b"snapshot" or kind.endswith(b".snapshot"))
    )

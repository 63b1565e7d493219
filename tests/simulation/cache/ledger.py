"""What was committed, what was told, and what was seen; and what must be true of the three."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import anyio
from attrs import define, field

from mpreg.cache import CacheConfiguration, ChangeKind, Found, GlobalCacheKey
from mpreg.cache.index import ENTRY_OVERHEAD_BYTES
from mpreg.cache.invalidation import Barriers, Target
from mpreg.cache.keys import encode_key
from mpreg.cache.records import CachedRecord, Link, decode_record
from mpreg.cache.writes import Write
from mpreg.codec import decode_key, decode_value
from mpreg.persistence.backend import CheckFound, OpenedState, ReadQuery, ReadResult, check_nothing
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, CommitPlan
from mpreg.persistence.operations import Delete, Operation, Put, SweepExpired
from mpreg.testing import (
    FaultInjector,
    SimulatedBackend,
    SimulatedDisk,
    SimulatedReader,
    Simulation,
)
from tests.simulation.cache.model import Model, Value, key_of, token_of

__all__ = ["Ledger", "Look", "WatchedBackend"]


@define(eq=False)
class _Group:
    sequence: int
    now: float
    batches: list[tuple[WriteBatch, tuple[Any, ...], Write | None]]
    swept: list[tuple[bytes, bytes]]


@define(eq=False)
class Look:
    """A read that has begun."""

    key: GlobalCacheKey
    settled: int
    """Events that had been told when it began."""
    seen: tuple[int, ...]
    """Tokens that somebody had seen of the key by then."""
    version: int
    """The highest that somebody had seen."""
    born: Value | None
    """What had to be there."""
    wall: float
    """The time when it began."""
    writes: tuple[Write, ...]
    """On their way then."""


@define(eq=False)
class Ledger:
    simulation: Simulation
    disk: SimulatedDisk
    configuration: CacheConfiguration
    model: Model = field(factory=Model)
    settled: int = 0
    """Events whose callers were told."""
    writes: list[Write] = field(factory=list)
    """On their way, or about to be."""
    entries_name: bytes = b""
    invalidations_name: bytes = b""
    versions_seen: dict[GlobalCacheKey, int] = field(factory=dict)
    tokens_seen: dict[GlobalCacheKey, list[int]] = field(factory=dict)
    overtaken: list[tuple[GlobalCacheKey, int, int]] = field(factory=list)
    """(key, token, version): the token was seen first, and was not on disk when that was seen."""
    durable: int = 0
    """The commit group up to which everything was acked as durable."""
    committed: int = 0
    """The commit group up to which everything was acked."""
    checks_bounds: bool = False
    batch_began: int = 0
    """Events before the batch that comes to the disk: what that invalidates comes of it."""
    made_from: Callable[[object], Iterable[Link]] = lambda _payload: ()
    """What invalidates that which a value was computed from."""
    check_stored: Callable[[Value], None] = lambda _value: None
    """Called with each value that came to the disk, before it counts."""
    violations: list[str] = field(factory=list)
    """Found where an error would be taken for one of the disk."""
    _groups: list[_Group] = field(factory=list)

    # --- the order of the commits ---

    def begin_life(self) -> None:
        """What a crash has taken was never there."""
        lost = [one for one in self._groups if one.sequence > self.disk.sequence]
        assert all(one.sequence > self.durable for one in lost), "what was acked durable is lost"
        kept = [one for one in self._groups if one.sequence <= self.disk.sequence]
        latest = self.model.latest
        self.model = Model(latest=latest)
        for group in kept:
            self._replay(group)
        self._groups = kept
        self.settled = len(self.model.events)
        self.writes.clear()
        self.versions_seen.clear()
        self.tokens_seen.clear()
        self.overtaken.clear()
        self.durable = self.committed = self.disk.sequence
        self.checks_bounds = False

    def began(self, write: Write) -> None:
        if not write.is_settled:
            self.writes.append(write)

    def wrote(self, group: CommitGroup, plan: CommitPlan) -> None:
        """A group came to the disk."""
        batches = []
        swept: list[tuple[bytes, bytes]] = []
        for batch, outcome in zip(group.batches, plan.outcomes, strict=True):
            if isinstance(outcome, tuple):
                write = self._write_of(batch.operations)
                batches.append((batch, outcome, write))
                if isinstance(batch.operations[0], SweepExpired):
                    swept = [key for key, entry in plan.entries.items() if entry is None]
        found = _Group(group.sequence, group.now, batches, swept)
        self._groups.append(found)
        self._replay(found)

    def published(self) -> None:
        """Readers see it from now on."""
        self.settled = len(self.model.events)
        self.writes = [one for one in self.writes if not one.is_settled]

    def _write_of(self, operations: Sequence[Operation]) -> Write | None:
        for write in self.writes:
            if write.operations and write.operations[0] is operations[0]:
                return write
        return None

    def _replay(self, group: _Group) -> None:
        model = self.model
        model.latest = max(model.latest, group.now)
        for batch, results, write in group.batches:
            if isinstance(batch.operations[0], SweepExpired):
                for name, key in group.swept:
                    if name == self.entries_name:
                        self._swept(group, key_of(decode_key(key)))  # type: ignore[arg-type]
                continue
            # What such a write invalidates beside it may be, in a circle, what it replaces.
            before = dict(model.alive)
            self.batch_began = len(model.events)
            model.together.clear()
            for index, (operation, result) in enumerate(
                zip(batch.operations, results, strict=True)
            ):
                if isinstance(operation, Put) and operation.namespace == self.entries_name:
                    self._put(group, operation, result, write, before)
                elif isinstance(operation, Delete) and operation.namespace == self.entries_name:
                    self._delete(group, operation, result, write, index)
                elif isinstance(operation, Put) and operation.namespace == self.invalidations_name:
                    self._invalidate(group, operation, result)

    def _put(
        self,
        group: _Group,
        put: Put,
        version: int,
        write: Write | None,
        before: Mapping[GlobalCacheKey, Value],
    ) -> None:
        key = key_of(decode_key(put.key))  # type: ignore[arg-type]
        record = decode_record(put.value)
        event = self.model.add(
            group.sequence,
            ChangeKind.PUT,
            version=version,
            key=key,
            origin=None if write is None else write.origin,
        )
        payload = decode_value(record.value)
        tags, dependencies = self._links(key, payload, record, before)
        value = Value(
            key,
            payload,
            version,
            math.inf if record.fresh_until is None else record.fresh_until,
            math.inf if put.expires_at is None else put.expires_at,
            tags,
            dependencies,
            event.number,
            before.get(key),
        )
        self.check_stored(value)
        self.model.put(event, value)

    def _links(
        self,
        key: GlobalCacheKey,
        payload: object,
        record: CachedRecord,
        before: Mapping[GlobalCacheKey, Value],
    ) -> tuple[tuple[str, ...], tuple[bytes, ...]]:
        """Whatever invalidates a value: also what invalidates that which it depends on, and that
        which it was computed from, whether or not it was stored so."""
        links = dict.fromkeys((*record.tags, *record.dependencies, *self.made_from(payload)))
        for dependency in record.dependencies:
            if (other := before.get(key_of(dependency))) is not None:
                links.update(dict.fromkeys((*other.tags, *other.dependencies)))
        links.pop(encode_key(key), None)
        return (
            tuple(one for one in links if isinstance(one, str)),
            tuple(one for one in links if isinstance(one, bytes)),
        )

    def _delete(
        self, group: _Group, delete: Delete, result: bool, write: Write | None, index: int
    ) -> None:
        key = key_of(decode_key(delete.key))  # type: ignore[arg-type]
        model = self.model
        if write is None:
            self._violated(f"who has deleted {key}?")
            return
        if index >= write.first_change + len(write.changes):
            event = model.add(group.sequence, ChangeKind.EVICTED, key=key)
            model.remove(event, key, "evicted")
        elif write.is_tidying:
            event = model.add(group.sequence, None, key=key)
            left = model.alive.get(key)
            if left is not None and left.expires_at > model.latest:
                self._violated(f"tidied away, and alive: {left}")
            model.remove(event, key, "expired")
        else:
            kind = ChangeKind.DELETED if result else None
            event = model.add(group.sequence, kind, key=key)
            model.delete(event, key)

    def _invalidate(self, group: _Group, put: Put, version: int) -> None:
        row = decode_key(put.key)
        assert isinstance(row, bytes)
        if (target := _target_of(row)) is not None:
            event = self.model.add(
                group.sequence, ChangeKind.INVALIDATED, version=version, target=target
            )
            self.model.invalidate(event, target)

    def _swept(self, group: _Group, key: GlobalCacheKey) -> None:
        value = self.model.alive.get(key)
        if value is not None and value.expires_at <= group.now:
            self.model.remove(self.model.add(group.sequence, None, key=key), key, "swept")

    # --- bounds ---

    def rows(self) -> dict[GlobalCacheKey, tuple[int, int]]:
        """What is on the disk and has never expired: (version, bytes) by key."""
        return {
            key_of(decode_key(key)): (  # type: ignore[arg-type]
                version,
                len(decode_key(key)) + len(value) + ENTRY_OVERHEAD_BYTES,
            )
            for key, version, expires_at, value in self.disk.state.entries(self.entries_name)
            if expires_at is None or expires_at > self.latest
        }

    @property
    def latest(self) -> float:
        self.model.latest = max(self.model.latest, self.simulation.clock.wall())
        return self.model.latest

    def check_bounds(self) -> None:
        sizes = [size for _, size in self.rows().values()]
        bounds = self.configuration
        if len(sizes) > bounds.disk_entries_max or sum(sizes) > bounds.disk_bytes_max:
            self._violated(
                f"L2 holds {len(sizes)} of {bounds.disk_entries_max} entries, "
                f"{sum(sizes)} of {bounds.disk_bytes_max} bytes: {list(self.rows())}"
            )

    def _violated(self, what: str) -> None:
        self.simulation.record(what)
        self.violations.append(what)

    # --- reads ---

    def is_on_its_way(self, key: GlobalCacheKey) -> bool:
        """Whether it may be another one soon, or seem so already."""
        encoded = encode_key(key)
        return any(
            any(change.key == key for change in write.changes) or encoded in write.victims
            for write in self.writes
            if not write.is_settled
        )

    def look(self, key: GlobalCacheKey) -> Look:
        value = self.model.alive.get(key)
        if value is not None and (value.born >= self.settled or self.is_on_its_way(key)):
            value = None
        if value is not None and value.fresh_until <= self.latest:
            value = None
        return Look(
            key,
            self.settled,
            tuple(self.tokens_seen.get(key, ())),
            self.versions_seen.get(key, 0),
            value,
            self.simulation.clock.wall(),
            tuple(self.writes),
        )

    def saw(self, look: Look, found: Found | None) -> None:
        """How it ended: nothing has run since."""
        if found is None:
            self._saw_nothing(look)
            return
        now = min(look.wall, self.simulation.clock.wall())
        assert found.expires_at is None or found.expires_at > now, f"expired: {look.key} {found}"
        if found.version is None:
            self._saw_behind(look, found)
            return
        value = self.model.by_version.get(found.version)
        assert value is not None, f"nobody put that: {look.key} {found}"
        assert value.key == look.key
        assert value.payload == found.value, f"{look.key}: {found} is not {value}"
        self._was_there(look, value)
        assert found.version >= look.version, (
            f"{look.key}: version {found.version} after version {look.version} was seen"
        )
        for token in look.seen:
            self._is_not_older(look.key, token, found.version)
        seen = self.versions_seen.get(look.key, 0)
        self.versions_seen[look.key] = max(found.version, seen)

    def _was_there(self, look: Look, value: Value) -> None:
        # What was removed since it had expired may have its time again where a clock was set back.
        assert value.died >= look.settled or value.why in ("swept", "expired"), (
            f"{look.key}: {value} was {value.why} by event {value.died}, "
            f"and {look.settled} events had been told when the read began"
        )

    def _saw_nothing(self, look: Look) -> None:
        value = look.born
        if value is None or value.died < math.inf or value.fresh_until <= self.latest:
            return
        if not self.is_on_its_way(look.key):
            raise AssertionError(f"{look.key} was not found, but there is {value}")

    def _saw_behind(self, look: Look, found: Found) -> None:
        token = token_of(found.value)
        assert token is not None
        assert any(
            change.entry is not None and change.key == look.key
            for write in (*look.writes, *self.writes)
            if write.is_behind
            for change in write.changes
        ), f"{look.key}: {found} is not on its way"
        self.tokens_seen.setdefault(look.key, []).append(token)

    def _is_not_older(self, key: GlobalCacheKey, token: int, version: int) -> None:
        value = self.model.by_token.get(token)
        if value is None:
            self.overtaken.append((key, token, version))
        else:
            assert version >= value.version, (
                f"{key}: version {version} after {value}, which was written behind, was seen"
            )

    def check_overtaken(self) -> None:
        for key, token, version in self.overtaken:
            value = self.model.by_token.get(token)
            assert value is None or version >= value.version, (
                f"{key}: version {version} was seen after {value}, and is older"
            )

    def concerned(
        self,
        after: int,
        before: int,
        key: GlobalCacheKey,
        tags: Iterable[str],
        dependencies: Iterable[GlobalCacheKey],
        origin: object = None,
    ) -> int | None:
        """The first event among some after which a computation for a key is outdated."""
        for event in self.model.events[after:before]:
            mine = origin is not None and event.origin is origin
            if not mine and event.concerns(key, tags, dependencies):
                return event.number
            if event.kind is not None and event.killed & set(dependencies):
                return event.number
        return None


def _target_of(row: bytes) -> Target | None:
    barriers = Barriers()
    barriers.restore(row, 1)
    standing = barriers.standing()
    return standing[0][0] if standing else None


# --- the backend that tells ---


class WatchedBackend(SimulatedBackend):
    def __init__(self, ledger: Ledger, faults: FaultInjector, slow_seconds: float) -> None:
        super().__init__(ledger.disk, faults)
        self._ledger = ledger
        self._slow_seconds = slow_seconds

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        opened = await super().open(check)
        if not self.is_dead:
            self._ledger.published()
        return opened

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        outcomes = await super().commit(group)
        if not self.is_dead:
            self._ledger.published()
        return outcomes

    def _write(self, group: CommitGroup, plan: CommitPlan) -> None:
        super()._write(group, plan)
        try:
            self._ledger.wrote(group, plan)
        except Exception as error:
            # It would be taken for a failure of the disk.
            self._ledger._violated(repr(error))
            raise

    def _finish(self, group: CommitGroup) -> None:
        super()._finish(group)
        if self._ledger.checks_bounds:
            self._ledger.check_bounds()

    def reader(self) -> SimulatedReader:
        return _SlowReader(self._ledger, self.faults, self._slow_seconds)


class _SlowReader(SimulatedReader):
    """What it gives may be old when it comes."""

    def __init__(self, ledger: Ledger, faults: FaultInjector, seconds: float) -> None:
        super().__init__(ledger.disk, faults)
        self._seconds = seconds
        self._random = ledger.simulation.stream("reader")

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | Any]:
        if self._seconds:
            await anyio.sleep(self._random.uniform(0, self._seconds))
        answers = await super().read(queries)
        if self._seconds:
            await anyio.sleep(self._random.uniform(0, self._seconds))
        return answers

"""Many callers' batches in one backend transaction, and what becomes of each.

`plan_group` decides everything that can be decided: which batches stand, which version each put
and which offset each record gets, what the rows look like afterwards. It asks for the little it
must know of the present state through `StoredState`, and it changes nothing. A backend only has to
carry the plan out. So all backends agree on what a batch means, and it is tested without any.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Protocol, TypeAlias, TypeGuard

from attrs import define, field, frozen

from mpreg.codec import decode_key, decode_name
from mpreg.errors import (
    BatchRejectedError,
    CorruptDataError,
    OffsetOutOfRangeError,
    VersionConflictError,
)
from mpreg.persistence.batch import Durability, WriteBatch
from mpreg.persistence.operations import (
    Append,
    Delete,
    DeleteLog,
    EntryKey,
    Operation,
    OperationResult,
    Put,
    SweepExpired,
    TruncateBefore,
)

__all__ = [
    "BatchOutcome",
    "CommitGroup",
    "CommitPlan",
    "Expired",
    "LogBounds",
    "NewEntry",
    "NewRecord",
    "StoredState",
    "plan_group",
]

LogBounds: TypeAlias = tuple[int, int]
"""(first offset, next offset) of a log; (0, 0) of one that was never written."""

BatchOutcome: TypeAlias = tuple[OperationResult, ...] | BatchRejectedError | CorruptDataError
"""A result for each operation, or why the batch as a whole was refused."""

Expired: TypeAlias = tuple[float, bytes]
"""(expires_at, key): ordered as they are swept."""

NewEntry: TypeAlias = tuple[int, float | None, bytes]
"""(version, expires_at, value)."""

NewRecord: TypeAlias = tuple[bytes, int, bytes]
"""(log, offset, data)."""


@frozen(eq=False)
class CommitGroup:
    """The batches of many callers, to be committed in one transaction, in this order."""

    sequence: int
    """The commit sequence that the group has once it is committed."""
    now: float
    """Wall clock when the group was put together: decides what has expired."""
    batches: tuple[WriteBatch, ...]
    durability: Durability = field(init=False)
    """That of its strictest member."""

    def __attrs_post_init__(self) -> None:
        strict = any(batch.durability is Durability.DURABLE for batch in self.batches)
        object.__setattr__(self, "durability", Durability.DURABLE if strict else Durability.RELAXED)

    @property
    def operations(self) -> int:
        return sum(len(batch.operations) for batch in self.batches)

    def resolve(self, outcomes: Sequence[BatchOutcome]) -> None:
        """Answer every batch with its own outcome."""
        for batch, outcome in zip(self.batches, outcomes, strict=True):
            if isinstance(outcome, tuple):
                batch.succeed(outcome)
            else:
                batch.fail(outcome)


class StoredState(Protocol):
    """What `plan_group` must know of the state before the group."""

    @property
    def last_version(self) -> int:
        """The highest version ever given."""
        ...

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        """(version, expires_at) of a key, expired or not; None where there is none."""
        ...

    def expired_entries(
        self, namespace: bytes, now: float, count: int, *, without: Container[EntryKey]
    ) -> list[Expired]:
        """The first ``count`` entries that have expired, in order; fewer where there are no more.

        Those in ``without`` are passed over, and those that are damaged. It does not raise
        `CorruptDataError`.
        """
        ...

    def log_bounds(self, log: bytes) -> LogBounds:
        """Raises `CorruptDataError` where they are damaged: that refuses the batch that asks."""
        ...


@define
class CommitPlan:
    """What the state is to become. Each key and log is named once, with its final state."""

    outcomes: list[BatchOutcome]
    """One for each batch of the group, in order."""
    last_version: int
    entries: dict[EntryKey, NewEntry | None] = field(factory=dict)
    """Keys to set, and (None) to remove."""
    records: list[NewRecord] = field(factory=list)
    """To be added. A record may lie below the new first offset of its log: leave it out then. A log
    can also be truncated beyond its end: then none of the records that it had stays."""
    logs: dict[bytes, LogBounds] = field(factory=dict)
    """The bounds after the group, of every log that was looked at."""
    truncated: dict[bytes, int] = field(factory=dict)
    """The new first offset of the logs that were truncated."""
    deleted: set[bytes] = field(factory=set)
    """Logs of which all that is stored goes, before anything else of the plan is carried out: the
    records and bounds named here are those of a new log."""
    rows_removed: int = 0
    """Rows that go without an operation of their own, at most: swept entries, and the records of
    truncated and deleted logs."""

    @property
    def accepted(self) -> bool:
        """Whether any batch stands, and so whether there is anything to commit."""
        return any(isinstance(outcome, tuple) for outcome in self.outcomes)


def plan_group(group: CommitGroup, state: StoredState) -> CommitPlan:
    """Decide a group. A batch sees all batches before it, and none after it.

    The conditions of a batch are held against the state before the batch, all of them before any
    of its operations counts: a batch that is refused leaves no trace, not even a used version.
    """
    plan = CommitPlan(outcomes=[], last_version=state.last_version)
    planner = _Planner(plan, state, group.now)
    outcomes = plan.outcomes
    for batch in group.batches:
        operations = batch.operations
        first = operations[0]
        # The common case, written out: an unconditional put needs to know nothing.
        if len(operations) == 1 and type(first) is Put and first.expected_version is None:
            outcomes.append((planner.put(first),))
        elif len(operations) == 1 and type(first) is Append and first.log in plan.logs:
            outcomes.append((planner.append(first),))
        else:
            outcomes.append(planner.decide(operations))
    planner.drop_deleted_records()
    return plan


@define
class _Planner:
    plan: CommitPlan
    state: StoredState
    now: float
    records_before_deletion: dict[bytes, int] = field(factory=dict)
    """Of each deleted log: how many records the plan had (of any logs) when it was deleted."""

    def decide(self, operations: Sequence[Operation]) -> BatchOutcome:
        try:
            for operation in operations:
                if (rejection := self.rejection(operation)) is not None:
                    return rejection
        except CorruptDataError as damage:
            # Met before anything of the batch counts: it concerns this batch alone.
            return damage
        return tuple(self.apply(operation) for operation in operations)

    def rejection(self, operation: Operation) -> BatchRejectedError | None:
        if isinstance(operation, Put | Delete):
            expected = operation.expected_version
            if expected is None:
                return None
            found = self.visible_version((operation.namespace, operation.key))
            if found == expected:
                return None
            return VersionConflictError(
                decode_name(operation.namespace), decode_key(operation.key), expected, found
            )
        if isinstance(operation, Append | DeleteLog):
            self.bounds(operation.log)
        if isinstance(operation, TruncateBefore):
            _, next_offset = self.bounds(operation.log)
            if operation.offset > next_offset and not operation.beyond_end:
                return OffsetOutOfRangeError(
                    decode_name(operation.log), operation.offset, next_offset
                )
        return None

    def apply(self, operation: Operation) -> OperationResult:
        match operation:
            case Put():
                return self.put(operation)
            case Delete():
                return self.delete(operation)
            case SweepExpired():
                return self.sweep(operation)
            case Append():
                return self.append(operation)
            case TruncateBefore():
                return self.truncate(operation)
            case DeleteLog():
                return self.delete_log(operation)

    def put(self, put: Put) -> int:
        plan = self.plan
        plan.last_version = version = plan.last_version + 1
        plan.entries[put.namespace, put.key] = (version, put.expires_at, put.value)
        return version

    def delete(self, delete: Delete) -> bool:
        key = (delete.namespace, delete.key)
        was_there = self.visible_version(key) != 0
        self.plan.entries[key] = None
        return was_there

    def sweep(self, sweep: SweepExpired) -> int:
        entries, namespace = self.plan.entries, sweep.namespace
        expired = self.state.expired_entries(
            namespace, self.now, sweep.entries_max, without=entries
        )
        expired += [
            (entry[1], key)
            for (name, key), entry in entries.items()
            if name == namespace and entry is not None and self.is_expired(entry[1])
        ]
        swept = sorted(expired)[: sweep.entries_max]
        entries.update(((namespace, key), None) for _, key in swept)
        self.plan.rows_removed += len(swept)
        return len(swept)

    def append(self, append: Append) -> int:
        first, offset = self.bounds(append.log)
        self.plan.records.extend(
            (append.log, offset + index, data) for index, data in enumerate(append.records)
        )
        self.plan.logs[append.log] = (first, offset + len(append.records))
        return offset

    def truncate(self, truncate: TruncateBefore) -> int:
        first, next_offset = self.bounds(truncate.log)
        # The condition was held against the log before the batch; the batch may have deleted it.
        offset = truncate.offset if truncate.beyond_end else min(truncate.offset, next_offset)
        if offset > first:
            self.plan.rows_removed += min(offset, next_offset) - first
            first = self.plan.truncated[truncate.log] = offset
            self.plan.logs[truncate.log] = (first, max(first, next_offset))
        return first

    def delete_log(self, delete: DeleteLog) -> int:
        log, plan = delete.log, self.plan
        first, next_offset = self.bounds(log)
        plan.rows_removed += next_offset - first
        plan.deleted.add(log)
        plan.truncated.pop(log, None)
        plan.logs[log] = (0, 0)
        self.records_before_deletion[log] = len(plan.records)
        return next_offset - first

    def drop_deleted_records(self) -> None:
        """Once for the group: at each deletion it would cost all the records planned so far."""
        if before := self.records_before_deletion:
            self.plan.records = [
                record
                for index, record in enumerate(self.plan.records)
                if index >= before.get(record[0], 0)
            ]

    def visible_version(self, key: EntryKey) -> int:
        """The version a reader would see at `now`; 0 where it would see no entry."""
        found: tuple[int, float | None] | None
        try:
            planned = self.plan.entries[key]
        except KeyError:
            found = self.state.entry_version(key)
        else:
            found = None if planned is None else planned[:2]
        if found is None:
            return 0
        version, expires_at = found
        return 0 if self.is_expired(expires_at) else version

    def is_expired(self, expires_at: float | None) -> TypeGuard[float]:
        return expires_at is not None and expires_at <= self.now

    def bounds(self, log: bytes) -> LogBounds:
        if log not in self.plan.logs:
            self.plan.logs[log] = self.state.log_bounds(log)
        return self.plan.logs[log]

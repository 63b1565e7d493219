"""Deciding a commit group, against a model that applies batch by batch to dicts."""

from __future__ import annotations

import copy
from collections.abc import Container, Sequence

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.actors import Ack
from mpreg.errors import (
    BatchRejectedError,
    CorruptDataError,
    OffsetOutOfRangeError,
    VersionConflictError,
)
from mpreg.persistence import Durability, WriteBatch
from mpreg.persistence.batch import operation_bytes
from mpreg.persistence.commit_group import (
    CommitGroup,
    CommitPlan,
    Expired,
    LogBounds,
    plan_group,
)
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
from tests.unit.examples import examples

NOW = 100.0


@define
class Model:
    """The state as two dicts and a number, changed one operation after the other."""

    last_version: int = 0
    entries: dict[EntryKey, tuple[int, float | None, bytes]] = field(factory=dict)
    logs: dict[bytes, tuple[int, list[bytes]]] = field(factory=dict)

    # What `plan_group` asks.

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        return self.entries[key][:2] if key in self.entries else None

    def log_bounds(self, log: bytes) -> LogBounds:
        first, records = self.logs.get(log, (0, []))
        return first, first + len(records)

    def expired_entries(
        self, namespace: bytes, now: float, count: int, *, without: Container[EntryKey]
    ) -> list[Expired]:
        keys = [key for key in self.entries if key[0] == namespace and key not in without]
        return self.expired(keys, now)[:count]

    # What a batch means.

    def expired(self, keys: Sequence[EntryKey], now: float) -> list[Expired]:
        return sorted(
            (expires_at, key[1])
            for key in keys
            if (expires_at := self.entries[key][1]) is not None and expires_at <= now
        )

    def visible(self, key: EntryKey, now: float) -> int:
        version, expires_at, _ = self.entries.get(key, (0, None, b""))
        return version if expires_at is None or expires_at > now else 0

    def refuses(self, operation: Operation, now: float) -> bool:
        match operation:
            case Put(namespace, key) | Delete(namespace, key):
                expected = operation.expected_version
                return expected is not None and expected != self.visible((namespace, key), now)
            case TruncateBefore(log, offset):
                return offset > self.log_bounds(log)[1]
            case _:
                return False

    def apply(self, operation: Operation, now: float) -> OperationResult:
        match operation:
            case Put(namespace, key, value, expires_at):
                self.last_version += 1
                self.entries[namespace, key] = (self.last_version, expires_at, value)
                return self.last_version
            case Delete(namespace, key):
                was_there = self.visible((namespace, key), now) != 0
                self.entries.pop((namespace, key), None)
                return was_there
            case SweepExpired(namespace, entries_max):
                keys = [key for key in self.entries if key[0] == namespace]
                swept = self.expired(keys, now)[:entries_max]
                for _, key in swept:
                    del self.entries[namespace, key]
                return len(swept)
            case Append(log, records):
                first, before = self.logs.get(log, (0, []))
                self.logs[log] = (first, [*before, *records])
                return first + len(before)
            case TruncateBefore(log, offset):
                first, kept = self.logs.get(log, (0, []))
                new_first = max(first, min(offset, first + len(kept)))
                if log in self.logs:
                    self.logs[log] = (new_first, kept[new_first - first :])
                return new_first
            case DeleteLog(log):
                _, held = self.logs.pop(log, (0, []))
                return len(held)

    def batch(
        self, operations: Sequence[Operation], now: float
    ) -> tuple[OperationResult, ...] | None:
        if any(self.refuses(operation, now) for operation in operations):
            return None
        return tuple(self.apply(operation, now) for operation in operations)

    def carry_out(self, plan: CommitPlan) -> None:
        self.last_version = plan.last_version
        for key, entry in plan.entries.items():
            if entry is None:
                self.entries.pop(key, None)
            else:
                self.entries[key] = entry
        for log in plan.deleted:
            self.logs.pop(log, None)
        for log, offset, data in plan.records:
            first, records = self.logs.setdefault(log, (0, []))
            assert offset == first + len(records), "records come in the order of their offsets"
            records.append(data)
        for log, new_first in plan.truncated.items():
            first, records = self.logs[log]
            self.logs[log] = (new_first, records[new_first - first :])


NAMES = st.sampled_from([b"n", b"m"])
KEYS = st.sampled_from([b"\x01a", b"\x01b", b"\x00a"])
LOGS = st.sampled_from([b"n", b"log"])
VALUES = st.binary(max_size=2)
#: Few and low, so that they meet versions and bounds that exist.
EXPECTED = st.none() | st.integers(0, 5)
EXPIRIES = st.none() | st.sampled_from([NOW - 2, NOW - 1, NOW, NOW + 1])
OPERATIONS: st.SearchStrategy[Operation] = st.one_of(
    st.builds(Put, NAMES, KEYS, VALUES, EXPIRIES, EXPECTED),
    st.builds(Put, NAMES, KEYS, VALUES),
    st.builds(Delete, NAMES, KEYS, EXPECTED),
    st.builds(SweepExpired, NAMES, st.integers(1, 3)),
    st.builds(Append, LOGS, st.lists(VALUES, min_size=1, max_size=3).map(tuple)),
    st.builds(TruncateBefore, LOGS, st.integers(0, 6)),
    st.builds(DeleteLog, LOGS),
)
BATCHES = st.lists(OPERATIONS, min_size=1, max_size=3)
GROUPS = st.lists(BATCHES, min_size=1, max_size=4)


def group(batches: Sequence[Sequence[Operation]], now: float = NOW) -> CommitGroup:
    return CommitGroup(1, now, tuple(batch(*operations) for operations in batches))


def batch(*operations: Operation, durability: Durability = Durability.DURABLE) -> WriteBatch:
    acks = tuple(Ack[object]() for _ in operations)
    return WriteBatch.of(operations, acks, durability)


def put(key: bytes = b"k", value: bytes = b"v", *, expected: int | None = None) -> Put:
    return Put(b"n", key, value, None, expected)


@settings(max_examples=examples(150))
@given(st.lists(GROUPS, min_size=1, max_size=2))
def test_a_group_means_the_same_as_its_batches_one_after_the_other(
    groups: list[list[list[Operation]]],
) -> None:
    stored, sequential = Model(), Model()
    for batches in groups:
        before = copy.deepcopy(stored)
        plan = plan_group(group(batches), stored)
        assert stored == before, "planning changes nothing"
        for operations, outcome in zip(batches, plan.outcomes, strict=True):
            expected = sequential.batch(operations, NOW)
            if expected is None:
                assert isinstance(outcome, BatchRejectedError)
            else:
                assert outcome == expected
        assert plan.accepted is any(isinstance(outcome, tuple) for outcome in plan.outcomes)
        stored.carry_out(plan)
        assert stored == sequential


@given(GROUPS)
def test_a_plan_names_the_bounds_of_every_log_it_changes(batches: list[list[Operation]]) -> None:
    stored = Model(logs={b"n": (1, [b"x", b"y"])})
    plan = plan_group(group(batches), stored)
    stored.carry_out(plan)
    for log in {log for log, _, _ in plan.records} | plan.truncated.keys() | plan.deleted:
        assert plan.logs[log] == stored.log_bounds(log)


def test_versions_go_up_by_one_and_start_above_the_highest_ever_given() -> None:
    plan = plan_group(group([[put(b"a"), put(b"b")], [put(b"a")]]), Model(last_version=41))
    assert plan.outcomes == [(42, 43), (44,)]
    assert plan.last_version == 44


def test_writes_of_one_key_are_joined_into_its_last() -> None:
    plan = plan_group(group([[put(value=b"1")], [put(value=b"2")], [put(value=b"3")]]), Model())
    assert plan.entries == {(b"n", b"k"): (3, None, b"3")}


def test_a_key_put_and_deleted_in_one_group_is_gone_and_its_version_used_up() -> None:
    plan = plan_group(group([[put()], [Delete(b"n", b"k")]]), Model())
    assert plan.outcomes == [(1,), (True,)]
    assert plan.entries == {(b"n", b"k"): None}
    assert plan.last_version == 1


def test_a_refused_batch_leaves_no_trace_not_even_a_version() -> None:
    refused: list[Operation] = [put(b"a"), Append(b"log", (b"r",)), put(b"b", expected=7)]
    plan = plan_group(group([refused, [put(b"c")]]), Model())
    conflict = plan.outcomes[0]
    assert isinstance(conflict, VersionConflictError)
    assert (conflict.namespace, conflict.expected_version, conflict.found_version) == ("n", 7, 0)
    assert plan.outcomes[1] == (1,)
    assert list(plan.entries) == [(b"n", b"c")]
    assert plan.records == []


def test_a_group_of_refused_batches_only_has_nothing_to_commit() -> None:
    plan = plan_group(group([[put(expected=1)], [Delete(b"n", b"k", 2)]]), Model())
    assert not plan.accepted
    assert plan.entries == {}


def test_the_second_of_two_that_expect_the_same_version_conflicts() -> None:
    plan = plan_group(group([[put(expected=0)], [put(expected=0)], [put(expected=1)]]), Model())
    first, second, third = plan.outcomes
    assert first == (1,)
    assert isinstance(second, VersionConflictError)
    assert second.found_version == 1
    assert third == (2,)


def test_conditions_of_a_batch_are_held_against_the_state_before_it() -> None:
    twice = [put(value=b"1", expected=0), put(value=b"2", expected=0)]
    plan = plan_group(group([twice]), Model())
    assert plan.outcomes == [(1, 2)]


@pytest.mark.parametrize(("expires_at", "visible"), [(99.9, 0), (100.0, 0), (100.1, 1)])
def test_an_entry_is_gone_at_the_instant_it_expires(expires_at: float, visible: int) -> None:
    stored = Model(1, {(b"n", b"k"): (1, expires_at, b"")})
    plan = plan_group(group([[put(expected=visible)], [put(expected=9)]]), stored)
    assert plan.outcomes[0] == (2,)
    assert plan_group(group([[Delete(b"n", b"k")]]), stored).outcomes == [(bool(visible),)]


def test_deleting_an_expired_entry_removes_it_and_says_it_was_not_there() -> None:
    stored = Model(1, {(b"n", b"k"): (1, 50.0, b"")})
    plan = plan_group(group([[Delete(b"n", b"k")]]), stored)
    assert plan.outcomes == [(False,)]
    assert plan.entries == {(b"n", b"k"): None}


def test_offsets_go_on_through_a_group() -> None:
    plan = plan_group(
        group([[Append(b"log", (b"a", b"b"))], [Append(b"log", (b"c",))]]),
        Model(logs={b"log": (3, [b"x"])}),
    )
    assert plan.outcomes == [(4,), (6,)]
    assert plan.records == [(b"log", 4, b"a"), (b"log", 5, b"b"), (b"log", 6, b"c")]
    assert plan.logs[b"log"] == (3, 7)


def test_a_record_can_be_appended_and_truncated_in_one_group() -> None:
    plan = plan_group(group([[Append(b"log", (b"a", b"b"))], [TruncateBefore(b"log", 1)]]), Model())
    assert plan.outcomes == [(0,), (1,)]
    assert plan.truncated == {b"log": 1}
    assert plan.logs[b"log"] == (1, 2)


def test_truncating_below_the_first_offset_changes_nothing() -> None:
    plan = plan_group(group([[TruncateBefore(b"log", 2)]]), Model(logs={b"log": (3, [b"x"])}))
    assert plan.outcomes == [(3,)]
    assert plan.truncated == {}


def test_truncating_beyond_the_end_is_refused_with_where_the_end_is() -> None:
    plan = plan_group(group([[TruncateBefore(b"log", 5)]]), Model(logs={b"log": (3, [b"x"])}))
    (outcome,) = plan.outcomes
    assert isinstance(outcome, OffsetOutOfRangeError)
    assert (outcome.log, outcome.offset, outcome.next_offset) == ("log", 5, 4)


def test_truncating_at_the_end_empties_the_log_and_counts_on() -> None:
    plan = plan_group(
        group([[TruncateBefore(b"log", 4)], [Append(b"log", (b"y",))]]),
        Model(logs={b"log": (3, [b"x"])}),
    )
    assert plan.outcomes == [(4,), (4,)]


def test_a_deleted_log_begins_at_zero_without_the_records_planned_before() -> None:
    plan = plan_group(
        group(
            [
                [Append(b"log", (b"before",)), Append(b"other", (b"kept",))],
                [TruncateBefore(b"log", 4)],
                [DeleteLog(b"log")],
                [Append(b"log", (b"a", b"b"))],
                [TruncateBefore(b"log", 1)],
            ]
        ),
        Model(logs={b"log": (3, [b"x", b"y"])}),
    )
    assert plan.outcomes == [(5, 0), (4,), (2,), (0,), (1,)]
    assert plan.records == [(b"other", 0, b"kept"), (b"log", 0, b"a"), (b"log", 1, b"b")]
    assert plan.deleted == {b"log"}
    assert plan.truncated == {b"log": 1}
    assert plan.logs[b"log"] == (1, 2)


def test_a_log_deleted_twice_keeps_only_what_came_after_the_second_time() -> None:
    append, delete = Append(b"log", (b"r",)), DeleteLog(b"log")
    plan = plan_group(group([[append, delete, append], [append], [delete], [append]]), Model())
    assert plan.outcomes == [(0, 1, 0), (1,), (2,), (0,)]
    assert plan.records == [(b"log", 0, b"r")]


def test_truncating_what_the_same_batch_has_deleted_finds_nothing_to_drop() -> None:
    plan = plan_group(
        group([[DeleteLog(b"log"), TruncateBefore(b"log", 4)]]), Model(logs={b"log": (3, [b"x"])})
    )
    assert plan.outcomes == [(1, 0)]
    assert plan.truncated == {}
    assert plan.logs[b"log"] == (0, 0)


def test_a_plan_counts_the_rows_that_go_unnamed() -> None:
    stored = Model(
        entries={(b"n", b"%d" % number): (number, NOW, b"") for number in range(1, 10)},
        logs={b"one": (3, [b"r"] * 5), b"two": (0, [b"r"] * 7)},
    )
    truncate, delete, sweep = TruncateBefore(b"one", 5), DeleteLog(b"two"), SweepExpired(b"n", 8)
    plan = plan_group(group([[truncate], [delete], [sweep], [put()]]), stored)
    assert plan.rows_removed == 2 + 7 + 8


def expiring(key: bytes, seconds: float, *, namespace: bytes = b"n") -> Put:
    return Put(namespace, key, b"", NOW + seconds)


SWEEP = SweepExpired(b"n", 2)


def test_a_sweep_takes_those_that_expired_first_and_no_more_than_asked() -> None:
    stored = Model(
        entries={
            (b"n", b"never"): (1, None, b""),
            (b"n", b"now"): (2, NOW, b""),
            (b"n", b"first"): (3, NOW - 9, b""),
            (b"n", b"later"): (4, NOW + 0.1, b""),
            (b"n", b"second"): (5, NOW - 8, b""),
            (b"other", b"k"): (6, NOW - 99, b""),
        }
    )
    plan = plan_group(group([[SWEEP]]), stored)
    assert plan.outcomes == [(2,)]
    assert plan.entries == {(b"n", b"first"): None, (b"n", b"second"): None}
    assert plan_group(group([[SWEEP], [SWEEP], [SWEEP]]), stored).outcomes == [(2,), (1,), (0,)]


def test_a_sweep_leaves_what_its_group_has_put_anew_and_does_not_count_what_it_deleted() -> None:
    stored = Model(entries={(b"n", key): (1, NOW - 1, b"") for key in (b"a", b"b", b"c", b"d")})
    plan = plan_group(
        group([[put(b"a")], [expiring(b"b", 1)], [Delete(b"n", b"c")], [SWEEP], [put(b"d")]]),
        stored,
    )
    assert plan.outcomes == [(1,), (2,), (False,), (1,), (3,)]
    assert plan.entries == {
        (b"n", b"a"): (1, None, b"v"),
        (b"n", b"b"): (2, NOW + 1, b""),
        (b"n", b"c"): None,
        (b"n", b"d"): (3, None, b"v"),
    }


def test_a_sweep_finds_what_was_put_expired_in_its_own_group_in_its_place() -> None:
    stored = Model(
        entries={(b"n", b"old"): (1, NOW - 3, b""), (b"n", b"recent"): (2, NOW - 1, b"")}
    )
    other = expiring(b"between", -2, namespace=b"other")
    plan = plan_group(group([[expiring(b"between", -2), other, SWEEP]]), stored)
    assert plan.outcomes == [(1, 2, 2)]
    assert [key for key, entry in plan.entries.items() if entry is None] == [
        (b"n", b"between"),
        (b"n", b"old"),
    ]


def test_a_group_is_as_durable_as_its_strictest_member() -> None:
    relaxed = batch(put(), durability=Durability.RELAXED)
    assert CommitGroup(1, NOW, (relaxed,)).durability is Durability.RELAXED
    assert CommitGroup(1, NOW, (relaxed, batch(put()))).durability is Durability.DURABLE
    assert CommitGroup(1, NOW, (relaxed, batch(put(), put()))).operations == 3


def test_resolving_a_group_answers_each_batch_with_its_own_outcome() -> None:
    good, bad = batch(put(), Delete(b"n", b"k")), batch(put(), put())
    conflict = VersionConflictError("n", "k", 1, 0)
    CommitGroup(1, NOW, (good, bad)).resolve([(5, False), conflict])
    assert [repr(ack) for ack in good.acks] == ["<Ack resolved: 5>", "<Ack resolved: False>"]
    assert [ack.error for ack in bad.acks] == [conflict, conflict]


def test_a_batch_counts_its_payload_and_an_overhead_for_each_operation() -> None:
    small = operation_bytes(put(b"", b""))
    assert small > 0
    assert operation_bytes(put(b"kk", b"vvv")) == small + 5
    assert operation_bytes(Append(b"log", (b"12", b"345"))) > 2 * small
    assert batch(put(b"", b""), put(b"", b"")).size_bytes == 2 * small


def test_a_batch_says_in_its_repr_what_it_is() -> None:
    assert repr(batch(put(), put())).startswith("<WriteBatch of 2 operations, ")


class DamagedLog(Model):
    def log_bounds(self, log: bytes) -> LogBounds:
        if log == b"bad":
            raise CorruptDataError("damaged bounds")
        return super().log_bounds(log)


@pytest.mark.parametrize(
    "damaged", [Append(b"bad", (b"r",)), TruncateBefore(b"bad", 0), DeleteLog(b"bad")]
)
def test_a_damaged_log_refuses_the_batch_that_asks_for_it_and_leaves_no_trace_of_it(
    damaged: Operation,
) -> None:
    refused: list[Operation] = [put(b"a"), Append(b"log", (b"lost",)), damaged]
    plan = plan_group(
        group([[put(b"b")], refused, [damaged], [Append(b"log", (b"kept",)), put(b"c")]]),
        DamagedLog(),
    )
    before, several, alone, after = plan.outcomes
    assert isinstance(several, CorruptDataError)
    assert isinstance(alone, CorruptDataError)
    assert (before, after) == ((1,), (0, 2))
    assert plan.accepted
    assert plan.last_version == 2
    assert [key for _, key in plan.entries] == [b"b", b"c"]
    assert plan.records == [(b"log", 0, b"kept")]
    assert b"bad" not in plan.logs

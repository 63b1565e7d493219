"""The state in memory, against plain dicts and lists; and how it looks while it changes."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from attrs import define, field
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.persistence.backend import (
    ReadRecords,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.backends.sorted_blocks import SortedBlocks
from mpreg.persistence.backends.state import (
    FrozenState,
    MemoryState,
    pack_entry,
    unpack_entry,
)
from mpreg.persistence.commit_group import CommitPlan
from tests.unit.examples import examples

keys = st.binary(max_size=2)
expiries = st.one_of(st.none(), st.floats(0, 1e12))


@given(st.integers(0, 2**62), st.one_of(st.none(), st.floats()), st.binary(max_size=20))
def test_a_packed_entry_comes_back(version: int, expires_at: float | None, value: bytes) -> None:
    found = unpack_entry(pack_entry(version, expires_at, value))
    assert repr(found) == repr((version, expires_at, value))


# --- order ---


@given(st.lists(st.tuples(st.booleans(), keys), max_size=600), st.lists(keys), keys)
def test_sorted_blocks_are_a_sorted_set(
    changes: list[tuple[bool, bytes]], first: list[bytes], start: bytes
) -> None:
    expected = set(first)
    blocks: SortedBlocks[bytes] = SortedBlocks(expected)
    for adds, key in changes:
        if adds and key not in expected:
            expected.add(key)
            blocks.add(key)
        elif not adds and key in expected:
            expected.remove(key)
            blocks.remove(key)
    assert list(blocks) == sorted(expected)
    assert list(blocks.from_item(start)) == sorted(key for key in expected if key >= start)


@pytest.mark.parametrize("step", [1, -1, 7_919])
def test_many_items_in_any_order(step: int) -> None:
    count = 5_000
    items = [b"%05d" % (number * step % count) for number in range(count)]
    blocks: SortedBlocks[bytes] = SortedBlocks()
    for item in items:
        blocks.add(item)
    assert list(blocks) == sorted(items)
    for item in items[::2]:
        blocks.remove(item)
    assert list(blocks) == sorted(items[1::2])
    for item in items[1::2]:
        blocks.remove(item)
    assert list(blocks) == []


def test_the_garbage_collector_does_not_walk_over_the_entries() -> None:
    state = MemoryState()
    plan = CommitPlan([], 10_000)
    for number in range(10_000):
        plan.entries[b"n", b"%d" % number] = (number, 5.0, b"")
        plan.records.append((b"log", number, b""))
    state.carry_out(plan)
    del plan
    gc.collect()
    gc.collect()
    namespace = state._namespaces[b"n"]
    assert namespace.keys is not None
    walked = [namespace.entries, *namespace.keys._blocks, *namespace.expiries._blocks]
    walked += state._logs[b"log"]._blocks[:-1]
    assert not any(map(gc.is_tracked, walked))


# --- the whole state ---


@define
class Model:
    """The same in dicts and lists."""

    entries: dict[tuple[bytes, bytes], tuple[int, float | None, bytes]] = field(factory=dict)
    logs: dict[bytes, tuple[int, list[bytes]]] = field(factory=dict)

    def plan(self, draw: Any) -> CommitPlan:
        """A plan of random changes, made to the model as well."""
        plan = CommitPlan([], draw(st.integers(0, 99)))
        for name, key, expires_at, value in draw(
            st.lists(st.tuples(st.sampled_from([b"a", b"b"]), keys, expiries, st.binary()))
        ):
            entry = (plan.last_version, expires_at, value) if len(value) % 4 else None
            plan.entries[name, key] = entry
            self.entries.pop((name, key), None)
            if entry is not None:
                self.entries[name, key] = entry
        log = draw(st.sampled_from([b"l", b"m"]))
        if draw(st.integers(0, 5)) == 0:
            plan.deleted.add(log)
            self.logs.pop(log, None)
        first, records = self.logs.get(log, (0, []))
        records = records.copy()
        for _ in range(draw(st.sampled_from([0, 1, 3, 1_500]))):
            plan.records.append((log, first + len(records), b"%d" % len(records)))
            records.append(b"%d" % len(records))
        if records:
            gone = draw(st.integers(0, len(records)))
            plan.truncated[log] = first + gone
            first, records = first + gone, records[gone:]
        if plan.records or plan.truncated:
            self.logs[log] = (first, records)
        return plan

    def check(self, state: MemoryState) -> None:
        for name in (b"a", b"b"):
            own = {key: entry for (space, key), entry in self.entries.items() if space == name}
            assert _scanned(state, name) == [StoredEntry(key, *own[key]) for key in sorted(own)]
            expired = sorted((entry[1], key) for key, entry in own.items() if entry[1] is not None)
            assert state.expired_entries(name, 1e13, 10_000, without=()) == expired
        for log in (b"l", b"m"):
            first, records = self.logs.get(log, (0, []))
            assert state.log_bounds(log) == (first, first + len(records))
            assert _read(state, log) == [
                StoredRecord(offset, data) for offset, data in enumerate(records, first)
            ]


def _scanned(state: MemoryState, namespace: bytes) -> list[object]:
    found: list[object] = []
    start: bytes | None = b""
    while start is not None:
        page = state.read(ScanEntries(namespace, start, None))
        assert isinstance(page, ScanPage)
        found += page.entries
        start = page.next_start
    return found


def _read(state: MemoryState, log: bytes) -> list[object]:
    found: list[object] = []
    start: int | None = 0
    while start is not None:
        page = state.read(ReadRecords(log, start, None))
        assert isinstance(page, RecordsPage)
        found += page.records
        start = page.next_start
    return found


def _taken(frozen: FrozenState, step: int) -> CommitPlan | None:
    """A piece of it; None at the end."""
    entries = frozen.take_entries(step)
    if entries:
        return CommitPlan([], 0, {key: unpack_entry(packed) for key, packed in entries})
    begun, records = frozen.take_records(step)
    if not begun and not records:
        return None
    plan = CommitPlan([], 0, records=records)
    plan.truncated = begun
    return plan


@settings(max_examples=examples(20), deadline=None)
@given(st.data())
def test_a_frozen_state_is_what_it_was_however_the_state_changes_meanwhile(
    data: st.DataObject,
) -> None:
    state, model = MemoryState(), Model()
    for _ in range(data.draw(st.integers(0, 4))):
        state.carry_out(model.plan(data.draw))
    model.check(state)
    before = Model(model.entries.copy(), model.logs.copy())

    frozen = state.freeze()
    restored = MemoryState.to_be_loaded()
    while (piece := _taken(frozen, data.draw(st.sampled_from([1, 50, 5_000])))) is not None:
        for log, first in piece.truncated.items():
            restored.start_log(log, first)
        piece.truncated = {}
        restored.carry_out(piece)
        state.carry_out(model.plan(data.draw))
    state.thaw()
    restored.loaded()
    before.check(restored)
    model.check(state)


@settings(max_examples=examples(10), deadline=None)
@given(st.data())
def test_live_bytes_are_counted_as_they_come_and_go(data: st.DataObject) -> None:
    state, model = MemoryState(), Model()
    for _ in range(5):
        state.carry_out(model.plan(data.draw))
    anew = MemoryState()
    plan = CommitPlan([], 0, dict(model.entries))
    for log, (first, records) in model.logs.items():
        anew.start_log(log, first)
        plan.records += [(log, offset, data) for offset, data in enumerate(records, first)]
    anew.carry_out(plan)
    assert state.live_bytes == anew.live_bytes

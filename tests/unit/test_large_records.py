"""Large records have a table of their own: nothing stays behind in it, and they take no pages that
nobody else can use."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.actors import Ack
from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import ReadRecords, RecordsPage, StoredRecord
from mpreg.persistence.backends.sqlite import SqliteOptions, schema
from mpreg.persistence.backends.sqlite.large_records import (
    LARGE_RECORD_BYTES,
    ids_before,
    ids_of,
    large_record_id,
    owner,
)
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, DeleteLog, Operation, TruncateBefore
from tests.unit.examples import examples

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100_000, busy_timeout_seconds=0.0)
LARGE = LARGE_RECORD_BYTES + 1
PAGE_BYTES = 4_096
LOGS_MAX = 1 << 23
OFFSETS_MAX = 1 << 40


class Store:
    def __init__(self, path: Path) -> None:
        self.path = path
        self.session = WriteSession.open(path, OPTIONS)
        self.sequence = 0

    def commit(self, *operations: Operation) -> None:
        """In one group, each in a batch of its own."""
        batches = tuple(WriteBatch.of((one,), (Ack[object](),)) for one in operations)
        self.session.commit(CommitGroup(self.sequence + 1, 1_000.0, batches))
        self.sequence += 1

    def rows(self, statement: str) -> list[tuple[object, ...]]:
        return self.session.connection.execute(statement).fetchall()

    def read(self, log: bytes) -> list[StoredRecord | CorruptDataError]:
        reader = ReadSession.open(self.path, OPTIONS)
        try:
            (page,) = reader.read([ReadRecords(log, 0, None)])
        finally:
            reader.close()
        assert isinstance(page, RecordsPage)
        assert page.next_start is None
        return list(page.records)

    def data(self, log: bytes) -> list[tuple[int, bytes]]:
        found = self.read(log)
        return [(one.offset, one.data) for one in found if isinstance(one, StoredRecord)]

    def check(self) -> None:
        """Each record has what belongs to it, and nothing is nobody's."""
        assert self.rows(f"SELECT * FROM records WHERE length(data) > {LARGE_RECORD_BYTES}") == []
        named = self.rows("SELECT data FROM records WHERE typeof(data) = 'integer'")
        assert sorted(named) == self.rows("SELECT id FROM large_records ORDER BY id")
        small = f"SELECT * FROM large_records WHERE length(data) <= {LARGE_RECORD_BYTES}"
        assert self.rows(small) == []
        assert self.rows("PRAGMA integrity_check") == [("ok",)]


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    store = Store(directory / "mpreg.db")
    try:
        yield store
    finally:
        store.session.close()


LOGS = st.sampled_from([b"a", b"b", b"c"])
SIZES = st.sampled_from([0, 1, LARGE_RECORD_BYTES, LARGE, 3_000, 9_000])
OPERATIONS = st.one_of(
    st.builds(
        lambda log, sizes, byte: Append(log, tuple(byte * size for size in sizes)),
        LOGS,
        st.lists(SIZES, min_size=1, max_size=5),
        st.sampled_from([b"x", b"y"]),
    ),
    st.builds(lambda log, offset: TruncateBefore(log, offset), LOGS, st.integers(0, 12)),
    st.builds(DeleteLog, LOGS),
)


def applied(state: dict[bytes, tuple[int, list[bytes]]], operation: Operation) -> None:
    """(first offset, records) of each log. A truncation beyond the end is refused."""
    match operation:
        case Append(log, records):
            first, held = state.get(log, (0, []))
            state[log] = (first, [*held, *records])
        case TruncateBefore(log, offset) if log in state:
            first, held = state[log]
            if first < offset <= first + len(held):
                state[log] = (offset, held[offset - first :])
        case DeleteLog(log):
            state.pop(log, None)


@settings(max_examples=examples(15), deadline=None)
@given(st.lists(OPERATIONS, max_size=12))
def test_whatever_is_appended_is_read_and_no_large_record_is_left_behind(
    operations: list[Operation],
) -> None:
    state: dict[bytes, tuple[int, list[bytes]]] = {}
    with tempfile.TemporaryDirectory() as directory, opened(Path(directory)) as store:
        for operation in operations:
            store.commit(operation)
            applied(state, operation)
            store.check()
        for log in (b"a", b"b", b"c"):
            first, held = state.get(log, (0, []))
            assert store.data(log) == list(enumerate(held, first))


def test_the_bound_is_the_size_of_the_data(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit(Append(b"l", (bytes(LARGE_RECORD_BYTES), bytes(LARGE))))
        assert store.rows("SELECT offset, typeof(data) FROM records") == [
            (0, "blob"),
            (1, "integer"),
        ]


def test_what_one_group_appends_and_truncates_is_never_written(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit(Append(b"l", (bytes(LARGE),) * 3), TruncateBefore(b"l", 2))
        assert store.rows("SELECT count(*) FROM large_records") == [(1,)]
        store.check()


@pytest.mark.parametrize("size", [1_000, 1_024, 1_360, 2_020, 2_100, 4_000, 20_000])
def test_a_record_of_nearly_any_size_takes_less_than_two_times_its_room(
    tmp_path: Path, size: int
) -> None:
    assert times_its_room(tmp_path, size) < 2


def test_a_record_too_long_for_half_a_page_takes_the_most_room(tmp_path: Path) -> None:
    assert times_its_room(tmp_path, 2_030) < 2.1


def times_its_room(directory: Path, size: int) -> float:
    """Of records of two logs, 20 at a time."""
    with opened(directory) as store:
        (before,) = store.rows("PRAGMA page_count")[0]
        records = max(1, 400_000 // size)
        for start in range(0, records, 20):
            for log in (b"one", b"another"):
                store.commit(Append(log, (bytes(size),) * min(20, records - start)))
        (after,) = store.rows("PRAGMA page_count")[0]
        assert isinstance(before, int)
        assert isinstance(after, int)
        return (after - before) * PAGE_BYTES / (2 * records * size)


def test_one_log_that_is_kept_holds_no_room_of_another(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        for _ in range(100):
            store.commit(Append(b"kept", (bytes(1_000),)), Append(b"goes", (bytes(1_000),) * 9))
        store.commit(DeleteLog(b"goes"))
        (free,), (all,) = store.rows("PRAGMA freelist_count"), store.rows("PRAGMA page_count")
        assert isinstance(free[0], int)
        assert isinstance(all[0], int)
        assert (all[0] - free[0]) * PAGE_BYTES < 2 * 100 * 1_000


def test_reading_a_log_looks_large_records_up_by_their_ids(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        steps = store.session.connection.execute(
            f"EXPLAIN QUERY PLAN {schema.READ_RECORDS}", (1, 0, 9)
        ).fetchall()
    records, large = (detail for *_, detail in steps)
    assert "SEARCH records USING PRIMARY KEY (log_id=? AND offset>? AND offset<?)" in records
    assert "SEARCH large_records USING INTEGER PRIMARY KEY" in large


# --- ids ---

LOG_IDS = st.integers(1, LOGS_MAX - 1)
OFFSETS = st.integers(0, OFFSETS_MAX - 1)


@given(LOG_IDS, OFFSETS)
def test_an_id_tells_its_log_and_offset(log_id: int, offset: int) -> None:
    id = large_record_id(log_id, offset)
    assert id is not None
    assert 0 < id < 1 << 63
    assert owner(id) == (log_id, offset)


@given(LOG_IDS, OFFSETS, LOG_IDS, st.integers(1, 1 << 50))
def test_a_range_has_what_is_below_of_the_log_and_nothing_else(
    log_id: int, offset: int, other: int, below: int
) -> None:
    id, ids = large_record_id(log_id, offset), ids_before(other, below)
    assert id is not None
    assert ids is not None
    assert (ids[0] <= id <= ids[1]) == (log_id == other and offset < below)


@pytest.mark.parametrize(
    ("log_id", "offset"),
    [(LOGS_MAX, 0), (0, 0), (-1, 0), (1, OFFSETS_MAX), (1, -1), (1 << 62, 1 << 62)],
)
def test_numbers_that_are_too_large_make_no_id(log_id: int, offset: int) -> None:
    assert large_record_id(log_id, offset) is None


def test_a_log_whose_number_makes_no_id_has_no_range() -> None:
    assert ids_of(LOGS_MAX) is None
    assert ids_of(LOGS_MAX - 1) is not None


@pytest.mark.parametrize("change", ["log", "offset"])
def test_a_record_without_an_id_keeps_its_data(tmp_path: Path, change: str) -> None:
    with opened(tmp_path) as store:
        if change == "log":
            store.rows(f"INSERT INTO logs VALUES ({LOGS_MAX}, x'6c', 0)")
            first = 0
        else:
            first = OFFSETS_MAX - 1
            store.commit(TruncateBefore(b"l", first, beyond_end=True))
        data = bytes(LARGE)
        store.commit(Append(b"l", (data,) * 3))
        large = 0 if change == "log" else 1
        assert store.rows("SELECT count(*) FROM large_records") == [(large,)]
        assert store.data(b"l") == [(first + number, data) for number in range(3)]
        store.commit(TruncateBefore(b"l", first + 2))
        assert store.data(b"l") == [(first + 2, data)]
        assert store.rows("SELECT count(*) FROM large_records") == [(0,)]
        store.commit(DeleteLog(b"l"))
        assert store.rows("SELECT count(*) FROM records") == [(0,)]


# --- damage ---


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM large_records WHERE id & 3 = 1",
        "UPDATE large_records SET id = id + 77 WHERE id & 3 = 1",
        "UPDATE large_records SET data = x'00' WHERE id & 3 = 1",
        "UPDATE large_records SET data = NULL WHERE id & 3 = 1",
        "UPDATE records SET data = 77 WHERE offset = 1",
        "UPDATE records SET data = data - 1 WHERE offset = 1",
        "UPDATE records SET data = 'text' WHERE offset = 1",
        "UPDATE records SET data = 1.5 WHERE offset = 1",
        "UPDATE records SET data = x'00' WHERE offset = 1",
        "UPDATE records SET checksum = checksum + 1 WHERE offset = 1",
    ],
)
def test_damage_to_one_is_told_and_never_spreads(tmp_path: Path, damage: str) -> None:
    with opened(tmp_path) as store:
        store.commit(Append(b"l", tuple(b"%d" % number * LARGE for number in range(3))))
        store.session.connection.execute(damage)
        before, damaged, after = store.read(b"l")
        assert isinstance(damaged, CorruptDataError)
        assert damaged.where == "log 'l', offset 1"
        assert (before, after) == (StoredRecord(0, b"0" * LARGE), StoredRecord(2, b"2" * LARGE))
        store.commit(Append(b"l", (b"3" * LARGE,)))
        assert store.data(b"l")[-1] == (3, b"3" * LARGE)
        store.commit(TruncateBefore(b"l", 3))
        assert store.read(b"l") == [StoredRecord(3, b"3" * LARGE)]


def test_what_damage_has_left_behind_keeps_nobody_from_appending(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit(Append(b"l", (b"0" * LARGE,)))
        id = large_record_id(1, 1)
        store.rows(f"INSERT INTO large_records VALUES ({id}, x'00')")
        store.commit(Append(b"l", (b"1" * LARGE,)))
        assert store.data(b"l") == [(0, b"0" * LARGE), (1, b"1" * LARGE)]


# --- from before ---


def test_a_large_record_of_the_first_schema_is_read_and_truncated(tmp_path: Path) -> None:
    data = [b"%d" % number * LARGE for number in range(3)]
    with opened(tmp_path) as store:
        store.commit(Append(b"l", tuple(data)))
        store.rows(
            "UPDATE records SET data = (SELECT data FROM large_records WHERE id = records.data)"
        )
        store.rows("DELETE FROM large_records")
        assert store.data(b"l") == list(enumerate(data))
        store.commit(Append(b"l", (b"3" * LARGE,)), TruncateBefore(b"l", 2))
        assert store.data(b"l") == [(2, data[2]), (3, b"3" * LARGE)]
        store.commit(DeleteLog(b"l"))
        store.check()

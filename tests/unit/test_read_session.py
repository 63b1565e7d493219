"""One call of a reader shows one state, whatever is committed meanwhile."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Sequence
from pathlib import Path

import pytest

from mpreg.actors import Ack
from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    FoundEntries,
    GetEntries,
    GetEntry,
    GetLogBounds,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.backends.sqlite import SqliteOptions, schema
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, Operation, Put, TruncateBefore

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=1_000, busy_timeout_seconds=0.0)
LOG = b"log"
RECORDS = (b"zero", b"one", b"two")


def commit(writer: WriteSession, sequence: int, *operations: Operation) -> None:
    batch = WriteBatch.of(operations, tuple(Ack[object]() for _ in operations))
    writer.commit(CommitGroup(sequence, 0.0, (batch,)))


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        pytest.param(GetLogBounds(LOG), (0, 3), id="bounds"),
        pytest.param(
            ReadRecords(LOG, 0, None),
            RecordsPage(tuple(StoredRecord(*item) for item in enumerate(RECORDS)), None),
            id="records",
        ),
    ],
)
def test_a_truncation_in_the_middle_of_a_read_is_not_seen_by_it(
    tmp_path: Path, query: ReadQuery, expected: ReadResult
) -> None:
    path = tmp_path / "mpreg.db"
    writer = WriteSession.open(path, OPTIONS)
    commit(writer, 1, Append(LOG, RECORDS))
    reader = ReadSession.open(path, OPTIONS)
    truncated: list[str] = []

    def truncate_once(statement: str) -> None:
        if statement.startswith(schema.LAST_OFFSET.partition("?")[0]) and not truncated:
            truncated.append(statement)
            commit(writer, 2, TruncateBefore(LOG, 3))

    reader.connection.set_trace_callback(truncate_once)
    assert list(reader.read([query])) == [expected]
    assert truncated, "the truncation must have come in between"
    assert list(reader.read([GetLogBounds(LOG)])) == [(3, 3)]
    reader.close()
    writer.close()


@pytest.mark.parametrize(("bound", "answered"), [(1, 1), (9, 2), (10, 2), (11, 3), (1_000, 4)])
def test_a_read_stops_where_its_answers_become_too_large(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bound: int, answered: int
) -> None:
    monkeypatch.setattr("mpreg.persistence.backends.sqlite.read_session.READ_BYTES_MAX", bound)
    path = tmp_path / "mpreg.db"
    writer = WriteSession.open(path, OPTIONS)
    commit(writer, 1, Put(b"n", b"\x01k", b"12345"))
    reader = ReadSession.open(path, OPTIONS)
    answers = reader.read([GetEntry(b"n", b"\x01k")] * 4)
    assert len(answers) == answered
    reader.close()
    writer.close()


# --- many keys ---

KEYS = tuple(b"\x01%03d" % number for number in range(200))
STORED = KEYS[::3]


def stored_under(path: Path, *puts: Put) -> ReadSession:
    writer = WriteSession.open(path, OPTIONS)
    commit(writer, 1, *puts)
    writer.close()
    return ReadSession.open(path, OPTIONS)


def found_in(reader: ReadSession, keys: Sequence[bytes]) -> tuple[object, ...]:
    (answer,) = reader.read([GetEntries(b"n", keys)])
    assert isinstance(answer, FoundEntries)
    return tuple(
        entry.value if isinstance(entry, StoredEntry) else type(entry) for entry in answer.entries
    )


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 15, 16, 17, 63, 64, 65, 150])
def test_many_keys_are_answered_in_their_order_however_many_are_missing(
    tmp_path: Path, count: int
) -> None:
    reader = stored_under(tmp_path / "mpreg.db", *(Put(b"n", key, key) for key in STORED))
    rng = random.Random(count)
    for _ in range(20):
        # Also several times the same.
        keys = rng.choices(KEYS, k=count)
        expected = tuple(key if key in STORED else type(None) for key in keys)
        assert found_in(reader, keys) == expected
    reader.close()


def test_damaged_entries_among_many_cost_none_of_the_others(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    stored_under(path, *(Put(b"n", key, key) for key in STORED)).close()
    damaged = (STORED[5], STORED[6], STORED[-1])
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET value = 'text' WHERE key = ?", (damaged[0],))
        connection.execute("UPDATE entries SET version = 1.5 WHERE key = ?", (damaged[1],))
        connection.execute("UPDATE entries SET checksum = NULL OR 1 WHERE key = ?", (damaged[2],))
    connection.close()
    reader = ReadSession.open(path, OPTIONS)
    expected = tuple(
        CorruptDataError if key in damaged else key if key in STORED else type(None) for key in KEYS
    )
    assert found_in(reader, KEYS) == expected
    reader.close()


@pytest.mark.parametrize("is_damaged", [False, True])
def test_many_large_values_are_read_until_a_page_is_full(tmp_path: Path, is_damaged: bool) -> None:
    path, value = tmp_path / "mpreg.db", bytes(PAGE_BYTES_MAX // 4)
    stored_under(path, *(Put(b"n", key, value) for key in KEYS[:64])).close()
    if is_damaged:
        with sqlite3.connect(path) as connection:
            connection.execute("UPDATE entries SET version = 7000 WHERE key = ?", (KEYS[0],))
        connection.close()
    reader = ReadSession.open(path, OPTIONS)
    expected = (value,) * 4
    assert found_in(reader, KEYS) == ((CorruptDataError, *expected) if is_damaged else expected)
    reader.close()


# --- single keys, asked for by many at once ---


def one_by_one(
    reader: ReadSession, keys: Sequence[bytes], name: bytes = b"n"
) -> tuple[object, ...]:
    answers = reader.read([GetEntry(name, key) for key in keys])
    return tuple(one.value if isinstance(one, StoredEntry) else type(one) for one in answers)


@pytest.mark.parametrize(("count", "statements"), [(2, 1), (3, 1), (16, 1), (17, 2), (150, 4)])
def test_single_keys_asked_for_at_once_are_looked_up_together(
    tmp_path: Path, count: int, statements: int
) -> None:
    reader = stored_under(tmp_path / "mpreg.db", *(Put(b"n", key, key) for key in STORED))
    assert one_by_one(reader, KEYS[:1]) == KEYS[:1]
    asked: list[str] = []
    reader.connection.set_trace_callback(asked.append)
    expected = tuple(key if key in STORED else type(None) for key in KEYS[:count])
    assert one_by_one(reader, KEYS[:count]) == expected
    assert len([one for one in asked if one.startswith("SELECT")]) == statements
    reader.close()


def test_single_keys_are_answered_in_their_order_among_other_queries(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    writer = WriteSession.open(path, OPTIONS)
    commit(writer, 1, *(Put(b"n", key, b"n" + key) for key in STORED), Put(b"m", KEYS[0], b"m"))
    commit(writer, 2, Append(LOG, RECORDS))
    reader = ReadSession.open(path, OPTIONS)
    queries: list[ReadQuery] = [
        GetEntry(b"n", KEYS[0]),
        GetEntry(b"n", KEYS[1]),
        GetEntry(b"m", KEYS[0]),
        GetEntry(b"n", KEYS[0]),
        GetLogBounds(LOG),
        GetEntry(b"nowhere", KEYS[0]),
        GetEntry(b"nowhere", KEYS[0]),
        GetEntry(b"n", KEYS[3]),
    ]
    for _ in range(2):
        answers = [
            one.value if isinstance(one, StoredEntry) else one for one in reader.read(queries)
        ]
        first, fourth = b"n" + KEYS[0], b"n" + KEYS[3]
        assert answers == [first, None, b"m", first, (0, 3), None, None, fourth]
    reader.close()
    writer.close()


def test_a_damaged_entry_is_told_to_whoever_asked_for_it_alone(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    stored_under(path, *(Put(b"n", key, key) for key in STORED)).close()
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE entries SET value = 'text' WHERE key = ?", (STORED[1],))
    connection.close()
    reader = ReadSession.open(path, OPTIONS)
    expected = (STORED[0], CorruptDataError, STORED[2])
    for _ in range(2):
        assert one_by_one(reader, STORED[:3]) == expected
    reader.close()


def test_single_large_values_are_all_read_by_one_call_up_to_its_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    value = bytes(PAGE_BYTES_MAX // 2)
    reader = stored_under(tmp_path / "mpreg.db", *(Put(b"n", key, value) for key in KEYS[:12]))
    # The namespace is found by the first; pages of two follow.
    assert one_by_one(reader, KEYS[:12]) == (value,) * 12
    monkeypatch.setattr(
        "mpreg.persistence.backends.sqlite.read_session.READ_BYTES_MAX", 5 * len(value)
    )
    assert one_by_one(reader, KEYS[:12]) == (value,) * 5
    reader.close()

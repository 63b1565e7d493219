"""One call of a reader shows one state, whatever is committed meanwhile."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.actors import Ack
from mpreg.persistence.backend import (
    GetEntry,
    GetLogBounds,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
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

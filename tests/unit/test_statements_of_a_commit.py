"""No statement of a commit has SQLite keep copies of the pages that it changes."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from mpreg.actors import Ack
from mpreg.errors import StorageFullError
from mpreg.persistence.backend import (
    CommitInDoubtError,
    GetLogBounds,
    ReadQuery,
    ScanEntries,
    ScanPage,
    StoredEntry,
)
from mpreg.persistence.backends.sqlite import SqliteOptions
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.schema import LARGE_VALUE_BYTES
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, Operation, Put

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100_000, busy_timeout_seconds=0.0)
#: SQLite's number for what a failed constraint does where nothing else is said, in its bytecode.
OE_ABORT = 2


@contextmanager
def opened(path: Path) -> Iterator[WriteSession]:
    session = WriteSession.open(path, OPTIONS)
    try:
        yield session
    finally:
        session.close()


def commit(session: WriteSession, *operations: Operation) -> None:
    batch = WriteBatch.of(operations, tuple(Ack[object]() for _ in operations))
    session.commit(CommitGroup(session.opened.commit_sequence + 1, 1_000.0, (batch,)))


def statements_of(session: WriteSession, *operations: Operation) -> list[str]:
    """What SQLite is given, with what is bound."""
    given: list[str] = []
    session.connection.set_trace_callback(given.append)
    commit(session, *operations)
    session.connection.set_trace_callback(None)
    return given


def may_abort(session: WriteSession, statement: str) -> list[object]:
    """The constraints by which a statement may fail and leave the transaction open."""
    steps = session.connection.execute(f"EXPLAIN {statement}").fetchall()
    halts = [step for step in steps if step[1] in ("Halt", "HaltIfNull")]
    return [step[5] for step in halts if step[2] != sqlite3.SQLITE_OK and step[3] == OE_ABORT]


LARGE = b"x" * (LARGE_VALUE_BYTES + 1)


def test_no_put_may_abort_in_the_middle(tmp_path: Path) -> None:
    puts = [Put(b"n", b"%d" % number, b"", None) for number in range(3)]
    puts += [Put(b"n", b"expires %d" % number, b"", 2_000.0) for number in range(3)]
    puts += [Put(b"n", b"large %d" % number, LARGE, None) for number in range(3)]
    puts += [Put(b"n", b"both %d" % number, LARGE, 2_000.0) for number in range(3)]
    with opened(tmp_path / "mpreg.db") as session:
        commit(session, *puts)
        # Also of small values over large ones, and the other way round.
        for order in (puts, [Put(b"n", put.key, LARGE[len(put.value) :], None) for put in puts]):
            given = statements_of(session, *order)
            hot = [one for one in given if one.startswith(("INSERT", "UPDATE"))]
            assert {one.split(" VALUES")[0] for one in hot if one.startswith("INSERT")} == {
                "INSERT OR ROLLBACK INTO entries",
                "INSERT OR ROLLBACK INTO large_values",
            }
            assert [may_abort(session, one) for one in hot] == [[]] * len(hot)


def test_no_append_may_abort_in_the_middle(tmp_path: Path) -> None:
    with opened(tmp_path / "mpreg.db") as session:
        commit(session, Append(b"l", (b"first",)))
        given = statements_of(session, Append(b"l", (b"a", b"b")))
        hot = [one for one in given if one.startswith(("INSERT", "UPDATE"))]
        assert len(hot) == 2, "the records, and the row with the store's own numbers"
        assert [may_abort(session, one) for one in hot] == [[], []]
        given = statements_of(session, Append(b"l", (LARGE, LARGE)))
        hot = [one for one in given if one.startswith(("INSERT", "UPDATE"))]
        assert len(hot) == 3, "their data as well"
        assert [may_abort(session, one) for one in hot] == [[], [], []]


def test_what_may_abort_is_seen(tmp_path: Path) -> None:
    with opened(tmp_path / "mpreg.db") as session:
        assert may_abort(session, "INSERT INTO logs VALUES (1, NULL, 0), (2, NULL, 0)")


def ask(path: Path, query: ReadQuery) -> object:
    reader = ReadSession.open(path, OPTIONS)
    try:
        return reader.read([query])[0]
    finally:
        reader.close()


def test_records_that_are_there_already_fail_the_whole_group(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    with opened(path) as session:
        commit(session, Append(b"l", (b"0",)))
        # Behind the back of a writer that remembers the next offset.
        session.connection.execute("INSERT INTO records VALUES (1, 40, 0, x'')")
        with pytest.raises(CommitInDoubtError) as caught:
            commit(session, Append(b"l", tuple(b"%d" % number for number in range(1, 80))))
        assert isinstance(caught.value.reason.__cause__, sqlite3.IntegrityError)
        assert caught.value.outcomes is None
        assert not session.connection.in_transaction
    assert ask(path, GetLogBounds(b"l")) == (0, 41), "of the group there is nothing"


@pytest.mark.parametrize(
    "operations",
    [
        [Append(b"l", (b"x" * 800,) * 30)],
        [Append(b"l", (LARGE,) * 30)],
        [Put(b"n", b"new %d" % number, b"x" * 800, None) for number in range(30)],
        [Put(b"n", b"new %d" % number, b"x" * 800, 2_000.0) for number in range(30)],
        [Put(b"n", b"new %d" % number, LARGE, None) for number in range(30)],
    ],
    ids=["records", "large records", "entries", "entries that expire", "large values"],
)
def test_a_disk_that_is_full_in_the_middle_of_a_statement_fails_the_group_alone(
    tmp_path: Path, operations: list[Operation]
) -> None:
    path = tmp_path / "mpreg.db"
    with opened(path) as session:
        commit(session, Append(b"l", (b"0",)), Put(b"n", b"old", b"0", None))
        execute = session.connection.execute
        (pages,) = execute("PRAGMA page_count").fetchone()
        execute(f"PRAGMA max_page_count = {pages + 2}")
        with pytest.raises(StorageFullError, match="rolled back"):
            commit(session, Put(b"n", b"old", b"lost", None), *operations)
        commit(session, Append(b"l", (b"1",)))
    assert ask(path, GetLogBounds(b"l")) == (0, 2)
    page = ask(path, ScanEntries(b"n", b"", None))
    assert isinstance(page, ScanPage)
    assert [(one.key, one.value) for one in page.entries if isinstance(one, StoredEntry)] == [
        (b"old", b"0")
    ]

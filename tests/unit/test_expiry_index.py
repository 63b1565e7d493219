"""The index of expiries: sweeps go by it, and entries without an expiry pay nothing for it."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mpreg.actors import Ack
from mpreg.persistence.backends.sqlite import SqliteOptions, schema
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Delete, Operation, Put, SweepExpired

#: Never a checkpoint of its own accord.
OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100_000, busy_timeout_seconds=0.0)
NOW = 1_000.0
WAL_HEADER_BYTES = 32
FRAME_HEADER_BYTES = 24


def pages_in(wal: Path, page_bytes: int) -> list[int]:
    """The numbers of the pages that were written to a WAL, in order (see SQLite's file format)."""
    content = wal.read_bytes()
    salt = content[16:24]
    pages = []
    for start in range(WAL_HEADER_BYTES, len(content), FRAME_HEADER_BYTES + page_bytes):
        if content[start + 8 : start + 16] != salt:
            break
        pages.append(struct.unpack_from(">I", content, start)[0])
    return pages


class Store:
    def __init__(self, path: Path) -> None:
        self.session = WriteSession.open(path, OPTIONS)
        self._wal = Path(f"{path}-wal")
        self._sequence = 0
        self._page_bytes = self.number("PRAGMA page_size")
        self._index = self.number(
            "SELECT rootpage FROM sqlite_schema WHERE name = 'entries_expiry'"
        )

    def number(self, statement: str) -> int:
        found: int = self.session.connection.execute(statement).fetchone()[0]
        return found

    def commit(self, *operations: Operation) -> None:
        self._sequence += 1
        batch = WriteBatch.of(operations, tuple(Ack[object]() for _ in operations))
        self.session.commit(CommitGroup(self._sequence, NOW, (batch,)))

    def writes_the_index(self, *operations: Operation) -> bool:
        """Whether committing them writes its only page. Each commit ends with the meta row's."""
        before = len(pages_in(self._wal, self._page_bytes))
        self.commit(*operations)
        written = pages_in(self._wal, self._page_bytes)[before:]
        assert written, "a commit writes something"
        return self._index in written


@contextmanager
def opened(directory: Path) -> Iterator[Store]:
    store = Store(directory / "mpreg.db")
    yield store
    store.session.close()


def test_a_put_without_an_expiry_writes_no_page_of_the_index(tmp_path: Path) -> None:
    def put(value: bytes) -> list[Operation]:
        return [Put(b"n", b"%d" % number, value) for number in range(200)]

    with opened(tmp_path) as store:
        assert not store.writes_the_index(*put(b"new"))
        assert not store.writes_the_index(*put(b"replaced, by more"))
        assert not store.writes_the_index(*(Delete(b"n", b"%d" % number) for number in range(100)))
        assert not store.writes_the_index(SweepExpired(b"n", 10))
        assert store.writes_the_index(Put(b"n", b"0", b"", NOW - 1))
        assert not store.writes_the_index(*put(b"again")[1:])
        assert store.writes_the_index(SweepExpired(b"n", 10))


def test_an_expiry_taken_away_leaves_nothing_in_the_index(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit(*(Put(b"n", b"%d" % number, b"", NOW) for number in range(3)))
        store.commit(Put(b"n", b"0", b""), Put(b"n", b"1", b"", NOW + 1), Delete(b"n", b"2"))
        assert store.number("SELECT count(*) FROM entries WHERE expires_at IS NOT NULL") == 1
        assert store.session.connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]


def test_a_sweep_reads_the_index_in_its_order(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        steps = store.session.connection.execute(
            f"EXPLAIN QUERY PLAN {schema.EXPIRED_ENTRIES}", (1, NOW)
        ).fetchall()
    expired, large = (detail for *_, detail in steps)
    assert "INDEX entries_expiry (namespace_id=? AND expires_at<?)" in expired
    assert "SEARCH large_values USING INTEGER PRIMARY KEY" in large


def test_a_sweep_does_not_keep_the_wal_in_use(tmp_path: Path) -> None:
    with opened(tmp_path) as store:
        store.commit(*(Put(b"n", b"%d" % number, b"", NOW) for number in range(3)))
        store.commit(SweepExpired(b"n", 1))
        busy, *_ = store.session.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        assert busy == 0


def test_what_expires_next_is_read_from_the_index_alone(tmp_path: Path) -> None:
    session = WriteSession.open(tmp_path / "mpreg.db", OPTIONS)
    explain = f"EXPLAIN QUERY PLAN {schema.LIST_NAMESPACES}"
    plan = [row[3] for row in session.connection.execute(explain, (0.0, b"", 1)).fetchall()]
    assert any("entries USING COVERING INDEX entries_expiry" in line for line in plan), plan
    assert not any("SCAN" in line and "CONSTANT" not in line for line in plan), plan
    session.close()

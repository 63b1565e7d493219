"""The write-ahead log's file grows ahead of what is in it, and is none the worse for that."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from operator import sub
from pathlib import Path

import pytest

from mpreg.actors import Ack
from mpreg.persistence.backend import Checkpoint, GetEntry, StoredEntry
from mpreg.persistence.backends.sqlite import SqliteOptions
from mpreg.persistence.backends.sqlite.files import looking_at
from mpreg.persistence.backends.sqlite.large_records import LARGE_RECORD_BYTES
from mpreg.persistence.backends.sqlite.places import FILE_VALUE_BYTES
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.wal_room import (
    FIRST_STEP_BYTES,
    FRAME_BYTES,
    STEP_BYTES_MAX,
    WalRoom,
    pages_at_most,
)
from mpreg.persistence.backends.sqlite.write_session import WriteSession
from mpreg.persistence.batch import Durability, WriteBatch
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, Operation, Put

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=1_000, busy_timeout_seconds=0.0)


def group(sequence: int, value: bytes = b"value") -> CommitGroup:
    put = Put(b"namespace", b"%d" % sequence, value)
    return CommitGroup(sequence, 0.0, (WriteBatch.of((put,), (Ack[object](),)),))


def wal_bytes(path: Path) -> int:
    return Path(f"{path}-wal").stat().st_size


def test_many_small_commits_make_the_file_grow_seldom(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    session = WriteSession.open(path, OPTIONS)
    sizes = set()
    for sequence in range(1, 101):
        session.commit(group(sequence))
        sizes.add(wal_bytes(path))
    assert len(sizes) <= 10
    assert min(sizes) >= FIRST_STEP_BYTES
    assert max(sizes) <= STEP_BYTES_MAX * 2
    session.close()


def test_what_was_committed_is_found_in_a_file_that_ends_in_zeros(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    session = WriteSession.open(path, OPTIONS)
    for sequence in range(1, 51):
        session.commit(group(sequence))
    copy = tmp_path / "copy"
    copy.mkdir()
    for file in (path, Path(f"{path}-wal")):
        shutil.copy(file, copy)
    session.close()

    again = WriteSession.open(copy / "mpreg.db", OPTIONS)
    assert again.opened.commit_sequence == 50
    reader = ReadSession.open(copy / "mpreg.db", OPTIONS)
    for sequence in range(1, 51):
        key = b"%d" % sequence
        assert reader.read([GetEntry(b"namespace", key)]) == [
            StoredEntry(key, sequence, None, b"value")
        ]
    reader.close()
    again.close()


@pytest.mark.parametrize("value_bytes", [10, 10_000, 3_000_000])
def test_it_makes_no_more_room_than_a_checkpoint_leaves(tmp_path: Path, value_bytes: int) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.touch()
    room = WalRoom(tmp_path / "mpreg.db", pages_max=600)
    for sequence in range(1, 1_000):
        room.make(pages_at_most(group(sequence, bytes(value_bytes))))
        assert wal.stat().st_size <= 600 * FRAME_BYTES
    assert wal.stat().st_size == 600 * FRAME_BYTES


def test_it_never_shortens_or_changes_what_is_there(tmp_path: Path) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.write_bytes(b"frames" * STEP_BYTES_MAX)
    WalRoom(tmp_path / "mpreg.db", pages_max=1_000).make(pages_at_most(group(1)))
    assert wal.read_bytes() == b"frames" * STEP_BYTES_MAX


def test_a_missing_file_is_left_to_sqlite(tmp_path: Path) -> None:
    WalRoom(tmp_path / "mpreg.db", pages_max=1_000).make(pages_at_most(group(1)))
    assert not list(tmp_path.iterdir())


def batch(*operations: Operation, durability: Durability = Durability.RELAXED) -> WriteBatch:
    return WriteBatch.of(operations, tuple(Ack[object]() for _ in operations), durability)


def test_an_expiry_counts_for_the_pages_of_its_index_as_well() -> None:
    plain, expiring = Put(b"n", b"k", b""), Put(b"n", b"k", b"", 1.0)
    assert pages_at_most(CommitGroup(1, 0.0, (batch(plain, plain),))) == 2 + 1
    assert pages_at_most(CommitGroup(1, 0.0, (batch(plain, expiring),))) == 1 + 3 + 1


def test_a_value_that_is_written_to_a_file_needs_no_room() -> None:
    large = Put(b"n", b"k", bytes(FILE_VALUE_BYTES))
    assert pages_at_most(CommitGroup(1, 0.0, (batch(large),))) == 1 + 2 + 1
    smaller = Put(b"n", b"k", bytes(FILE_VALUE_BYTES - 1))
    assert pages_at_most(CommitGroup(1, 0.0, (batch(smaller),))) > FILE_VALUE_BYTES // 4_096


def test_room_can_be_made_by_the_page(tmp_path: Path) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.touch()
    room = WalRoom(tmp_path / "mpreg.db", pages_max=10_000)
    room.make(1_000)
    assert wal.stat().st_size == 1_000 * FRAME_BYTES + FIRST_STEP_BYTES
    room.make(20_000)
    assert wal.stat().st_size == 10_000 * FRAME_BYTES


def test_its_steps_become_larger(tmp_path: Path) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.touch()
    room, sizes = WalRoom(tmp_path / "mpreg.db", pages_max=10_000), {0}
    for _ in range(2_000):
        room.make(1)
        sizes.add(wal.stat().st_size)
    steps = [round(step / FIRST_STEP_BYTES) for step in map(sub, sorted(sizes)[1:], sorted(sizes))]
    assert steps[:6] == [1, 2, 4, 8, 16, 16]
    assert set(steps[6:]) == {STEP_BYTES_MAX // FIRST_STEP_BYTES}


def test_room_is_made_behind_what_a_crash_has_left(tmp_path: Path) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.write_bytes(b"frames" * 10_000)
    WalRoom(tmp_path / "mpreg.db", pages_max=10_000).make(2)
    assert wal.read_bytes().rstrip(b"\0") == b"frames" * 10_000
    assert wal.stat().st_size == 60_000 + 2 * FRAME_BYTES + FIRST_STEP_BYTES


def test_the_first_commit_after_an_opening_does_not_make_the_file_grow(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    with closing(WriteSession.open(path, OPTIONS)) as session:
        before = wal_bytes(path)
        session.commit(group(1))
        assert wal_bytes(path) == before


def after_a_kill(tmp_path: Path, commits: int) -> Path:
    """A database with commits that are in its WAL only."""
    path = tmp_path / "lived" / "mpreg.db"
    path.parent.mkdir()
    with closing(WriteSession.open(path, OPTIONS)) as session:
        for sequence in range(1, commits + 1):
            session.commit(group(sequence, bytes(4_000)))
        return Path(shutil.copytree(path.parent, tmp_path / "killed")) / "mpreg.db"


def test_what_a_crash_has_left_stays_in_the_wal_and_is_gone_on_behind(tmp_path: Path) -> None:
    path = after_a_kill(tmp_path, 20)
    database, left = path.read_bytes(), Path(f"{path}-wal").read_bytes().rstrip(b"\0")
    with closing(WriteSession.open(path, OPTIONS)) as session:
        assert session.opened.commit_sequence == 20
        assert session.upkeep_due is None
        session.commit(group(21))
        assert path.read_bytes() == database, "nobody who opens it waits for that to be moved"
        assert Path(f"{path}-wal").read_bytes().startswith(left)
        assert session.fsyncs == 2
    with closing(WriteSession.open(path, OPTIONS)) as session:
        assert session.opened.commit_sequence == 21


def test_a_wal_that_is_too_long_after_a_crash_is_moved_before_the_first_commit(
    tmp_path: Path,
) -> None:
    """Else it would grow with every crash."""
    path = after_a_kill(tmp_path, 20)
    few = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=10, busy_timeout_seconds=0.0)
    with closing(WriteSession.open(path, few)) as session:
        assert isinstance(session.upkeep_due, Checkpoint)


def test_sqlite_reads_what_a_crash_has_left_once(tmp_path: Path) -> None:
    """So the connection that looks at it stays until the writer has one."""
    path = after_a_kill(tmp_path, 1)
    with looking_at(path) as found, closing(sqlite3.connect(path)) as connection:
        assert found is not None
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            connection.execute("PRAGMA journal_mode = DELETE")


def test_who_looks_at_a_database_without_a_wal_lets_go_of_it_at_once(tmp_path: Path) -> None:
    """That connection knows of no locks: when it is closed, it drops those of the others."""
    path = tmp_path / "mpreg.db"
    WriteSession.open(path, OPTIONS).close()
    with looking_at(path) as found, closing(sqlite3.connect(path)) as connection:
        assert found is not None
        assert connection.execute("PRAGMA journal_mode = DELETE").fetchone() == ("delete",)


def test_each_large_record_may_take_a_page_of_its_own() -> None:
    small, large = Append(b"l", (b"x",) * 9), Append(b"l", (bytes(LARGE_RECORD_BYTES + 1),) * 9)
    assert pages_at_most(CommitGroup(1, 0.0, (batch(small),))) == 1 + 1
    assert pages_at_most(CommitGroup(1, 0.0, (batch(large),))) >= 1 + 9 + 1

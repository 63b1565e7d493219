"""Judging a database file by its first 100 bytes."""

from __future__ import annotations

import os
import random
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpreg.errors import CorruptDataError, ForeignDatabaseError, SchemaVersionError
from mpreg.persistence.backends.sqlite.files import (
    check_header,
    create_database,
    rewrite_wal,
)
from mpreg.persistence.backends.sqlite.schema import APPLICATION_ID, SCHEMA_VERSION
from tests.unit.examples import examples

PATH = Path("somewhere/mpreg.db")
MAGIC = b"SQLite format 3\x00"


def header(*, application_id: int = APPLICATION_ID, version: int = SCHEMA_VERSION) -> bytes:
    made = bytearray(100)
    made[:16] = MAGIC
    made[60:64] = version.to_bytes(4, "big")
    made[68:72] = application_id.to_bytes(4, "big")
    return bytes(made)


def test_our_own_header_is_taken() -> None:
    check_header(header(), PATH)


def test_a_database_just_made_has_a_header_that_is_taken(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    create_database(path)
    check_header(path.read_bytes()[:100], path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mpreg.db"]
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_database_just_made_needs_no_rollback_journal_ever(tmp_path: Path) -> None:
    """Who opens it first would turn it to a write-ahead log, and may be cut off in that."""
    create_database(tmp_path / "mpreg.db")
    with closing(sqlite3.connect(tmp_path / "mpreg.db")) as connection:
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_what_a_killed_creation_left_behind_is_made_anew(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    (tmp_path / "mpreg.db.creating").write_bytes(b"half a database")
    for ending in ("-journal", "-wal", "-shm"):
        (tmp_path / f"mpreg.db.creating{ending}").write_bytes(b"half a journal")
    create_database(path)
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["mpreg.db"]
    connection = sqlite3.connect(path)
    assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    connection.close()


@pytest.mark.parametrize("length", [0, 1, 15, 16, 60, 99])
def test_a_file_that_ends_inside_its_header_is_damaged(length: int) -> None:
    with pytest.raises(CorruptDataError, match=f"ends after {length} bytes"):
        check_header(header()[:length], PATH)


@given(st.binary(min_size=1, max_size=200).filter(lambda found: not MAGIC.startswith(found[:16])))
def test_what_does_not_begin_as_sqlite_does_is_foreign(found: bytes) -> None:
    with pytest.raises(ForeignDatabaseError, match="not an SQLite database"):
        check_header(found[:100], PATH)


@given(st.integers(0, 2**32 - 1).filter(lambda drawn: drawn != APPLICATION_ID))
def test_another_programs_database_is_foreign(application_id: int) -> None:
    with pytest.raises(ForeignDatabaseError, match=f"{application_id:#x}"):
        check_header(header(application_id=application_id), PATH)


@given(st.integers(SCHEMA_VERSION + 1, 2**31 - 1))
def test_a_newer_schema_is_refused_with_both_versions(version: int) -> None:
    with pytest.raises(SchemaVersionError) as caught:
        check_header(header(version=version), PATH)
    assert (caught.value.found_version, caught.value.supported_version) == (version, SCHEMA_VERSION)


@settings(max_examples=examples(150))
@given(st.binary(min_size=0, max_size=120))
def test_any_bytes_are_judged_and_never_crash(found: bytes) -> None:
    with pytest.raises((ForeignDatabaseError, CorruptDataError)) as caught:
        check_header(found, PATH)
    assert str(PATH) in str(caught.value)


@pytest.mark.parametrize("size", [0, 1, 5_000, (1 << 20) - 1, 1 << 20, (5 << 19) + 3])
def test_a_wal_written_over_itself_is_the_same_and_synced(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    wal = tmp_path / "mpreg.db-wal"
    wal.write_bytes(random.Random(size).randbytes(size))
    before, synced = wal.read_bytes(), []
    monkeypatch.setattr("os.fsync", lambda file: synced.append(os.fstat(file).st_ino))
    rewrite_wal(tmp_path / "mpreg.db")
    assert wal.read_bytes() == before
    # An empty one holds nothing that a sync could keep.
    assert synced == ([wal.stat().st_ino, tmp_path.stat().st_ino] if size else [])


def test_where_there_is_no_wal_none_is_made(tmp_path: Path) -> None:
    rewrite_wal(tmp_path / "mpreg.db")
    assert list(tmp_path.iterdir()) == []

"""A busy database, a full disk, a second writer: what callers are told, and that it passes."""

from __future__ import annotations

import sqlite3
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.actors import Ack, Running
from mpreg.persistence import (
    CommitFailedError,
    Durability,
    PersistenceRegistry,
    StorageFullError,
    StorageIOError,
    WriteBatch,
)
from mpreg.persistence.backend import CommitInDoubtError
from mpreg.persistence.backends.sqlite.failures import translate
from mpreg.persistence.backends.sqlite.write_session import SqliteOptions, WriteSession
from mpreg.persistence.batch import operation_bytes
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Put
from tests.integration.support import OpenBackend, config, database, listed, registry

pytestmark = pytest.mark.anyio


async def test_a_busy_database_rolls_the_group_back_and_writes_work_again_after(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"before")
        with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            acks = [store.put_nowait(key, b"never") for key in ("k", "l")]
            errors = []
            for ack in acks:
                with pytest.raises(CommitFailedError, match="rolled back") as caught:
                    await ack
                assert type(caught.value) is CommitFailedError
                errors.append(caught.value)
            assert errors[0] is not errors[1], "tasks do not share an exception's traceback"
            entry = await store.get("k")
            assert entry is not None
            assert entry.value == b"before"
            other.execute("ROLLBACK")
        await store.put("k", b"after")
        assert [entry.value for entry in await listed(store.scan())] == [b"after"]
        stats = await opened.stats()
        assert (stats.failed, stats.writer, stats.writer_restarts) == (2, Running(1), 0)


async def test_a_full_disk_is_told_reads_go_on_and_writes_work_again_with_room(
    data_dir: Path,
) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        version = await store.put("k", b"before")
        (pages,) = await backend.on_writer("PRAGMA page_count")
        await backend.on_writer(f"PRAGMA max_page_count = {pages}")

        with pytest.raises(StorageFullError, match="no room left"):
            await store.put("big", bytes(100_000))
        with pytest.raises(StorageFullError):
            await log.append(bytes(100_000))
        with pytest.raises(StorageFullError):  # noqa: PT012
            async with opened.transaction() as transaction:
                store.put_nowait("k", b"changed", transaction=transaction)
                store.put_nowait("big", bytes(100_000), transaction=transaction)

        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"before", version)
        assert await store.get("big") is None
        assert await log.next_offset() == 0

        await backend.on_writer("PRAGMA max_page_count = 1000000")
        assert await store.put("big", bytes(100_000)) == version + 1
        assert await log.append(b"r") == 0
        stats = await opened.stats()
        assert (stats.writer, stats.writer_restarts, stats.failed) == (Running(1), 0, 3)
    async with registry(data_dir) as opened:
        assert len(await listed(opened.key_value_store("s").scan())) == 2


async def test_a_disk_that_is_full_for_large_writes_still_takes_small_ones(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"before")
        (pages,) = await backend.on_writer("PRAGMA page_count")
        await backend.on_writer(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFullError):
            await store.put("big", bytes(100_000))
        await store.put("k", b"after")
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"after"


async def test_settings_beyond_what_sqlite_counts_with_mean_as_much_as_there_is(
    data_dir: Path,
) -> None:
    data_dir.mkdir()
    session = WriteSession.open(
        database(data_dir),
        SqliteOptions(cache_bytes=2**60, wal_checkpoint_pages=2**40, busy_timeout_seconds=1e300),
    )
    execute = session.connection.execute
    assert execute("PRAGMA busy_timeout").fetchone() == (2**31 - 1,)
    assert execute("PRAGMA journal_size_limit").fetchone()[0] > 2**31
    assert execute("PRAGMA cache_size").fetchone() == (-(2**31) + 1,)
    session.close()


# --- fencing: the lock on the directory is one thing, the generation on disk another ---

OPTIONS = SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100, busy_timeout_seconds=0.02)


def group(sequence: int, key: bytes) -> CommitGroup:
    put = Put(b"s", b"\x01" + key, b"v")
    ack: Ack[object] = Ack()
    batch = WriteBatch((put,), (ack,), Durability.DURABLE, operation_bytes(put))
    return CommitGroup(sequence, 0.0, (batch,))


def keys_in(path: Path) -> list[bytes]:
    with closing(sqlite3.connect(path)) as connection:
        return [key[1:] for (key,) in connection.execute("SELECT key FROM entries ORDER BY key")]


def test_a_writer_of_an_older_generation_cannot_commit(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    older = WriteSession.open(path, OPTIONS)
    older.commit(group(1, b"a"))
    newer = WriteSession.open(path, OPTIONS)
    assert newer.opened.generation == older.opened.generation + 1
    assert newer.opened.commit_sequence == 1

    with pytest.raises(CommitInDoubtError, match="another writer has taken over") as caught:
        older.commit(group(2, b"stale"))
    assert isinstance(caught.value.reason, StorageIOError)
    assert caught.value.outcomes is None, "certainly not written"
    older.close()

    newer.commit(group(2, b"b"))
    newer.close()
    assert keys_in(path) == [b"a", b"b"]


def test_an_older_writer_is_fenced_also_before_the_newer_one_commits(tmp_path: Path) -> None:
    path = tmp_path / "mpreg.db"
    older = WriteSession.open(path, OPTIONS)
    newer = WriteSession.open(path, OPTIONS)
    for _ in range(2):
        with pytest.raises(CommitInDoubtError):
            older.commit(group(1, b"stale"))
    older.close()
    newer.close()
    assert keys_in(path) == []


async def test_many_callers_at_once_share_commits_and_all_are_acked(data_dir: Path) -> None:
    async with registry(data_dir, mailbox_batches_max=64) as opened:
        store = opened.key_value_store("s")
        versions: list[int] = []

        async def call(number: int) -> None:
            versions.append(await store.put(str(number), b""))

        async with anyio.create_task_group() as task_group:
            for number in range(1_000):
                task_group.start_soon(call, number)
        stats = await opened.stats()
    assert sorted(versions) == list(range(1, 1_001))
    assert stats.batches == 1_000
    assert stats.fsyncs < 500
    assert stats.mailbox_depth == stats.mailbox_bytes == stats.waiting_senders == 0


async def test_a_writer_started_again_keeps_the_files_locked_against_other_programs(
    data_dir: Path,
) -> None:
    """POSIX drops all locks of a process on a file as soon as it closes any descriptor of it. A
    program that came by then would take itself for the last one, and remove the WAL in use."""
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"1")
        await store.get("k")
        await backend.close()
        await backend.open()
        comes_by = "import sqlite3, sys; sqlite3.connect(sys.argv[1]).execute('SELECT * FROM meta')"
        await anyio.run_process([sys.executable, "-c", comes_by, str(database(data_dir))])
        wal = Path(f"{database(data_dir)}-wal")
        assert wal.exists(), "the WAL is still in use"


def test_a_broken_session_leaves_the_wal_as_it_is_also_as_the_last_connection(
    tmp_path: Path,
) -> None:
    """After a failed fsync a checkpoint would sync again what may not be retried."""
    path = tmp_path / "mpreg.db"
    wal = Path(f"{path}-wal")
    session = WriteSession.open(path, OPTIONS)
    newer = WriteSession.open(path, OPTIONS)
    newer.commit(group(1, b"a"))
    newer.connection.close()
    with pytest.raises(CommitInDoubtError):
        session.commit(group(1, b"stale"))
    before = {file: file.read_bytes() for file in (path, wal)}
    assert before[wal] != b""
    session.close()
    session.close()
    assert {file: file.read_bytes() for file in (path, wal)} == before
    clean = WriteSession.open(path, OPTIONS)
    clean.close()
    clean.close()
    assert keys_in(path) == [b"a"]


def test_a_device_without_room_is_told_as_full_also_where_nothing_was_rolled_back(
    tmp_path: Path,
) -> None:
    full: Any = sqlite3.OperationalError("database or disk is full")
    full.sqlite_errorcode = sqlite3.SQLITE_FULL
    assert isinstance(translate(full, tmp_path), StorageFullError)

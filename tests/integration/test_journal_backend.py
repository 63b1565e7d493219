"""The file backend on real files, under a registry: restarts, fencing, snapshots."""

from __future__ import annotations

import errno
import os
import random
import threading
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from attrs import define, field

from mpreg.actors import Running
from mpreg.persistence import (
    Durability,
    PersistenceConfig,
    PersistenceRegistry,
    StorageFullError,
    StorageIOError,
)
from mpreg.persistence.backend import CommitInDoubtError, GetEntry, StoredEntry
from mpreg.persistence.backends.file import FileBackend, FileOptions
from mpreg.persistence.backends.file.files import OperatingSystem
from mpreg.persistence.backends.file.format import Buffer
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Put
from mpreg.queues import MessageQueueManager
from mpreg.testing.contract import make_batch
from tests.integration.journal_stories import options
from tests.integration.support import config, listed, registry

pytestmark = pytest.mark.anyio

OPTIONS = FileOptions(journal_segment_bytes=1 << 16, busy_timeout_seconds=0.05)


@define(eq=False)
class FaultyFiles(OperatingSystem):
    """The real file system, until it is told to fail or to stand still."""

    write_errors: list[int] = field(factory=list)
    sync_errors: list[int] = field(factory=list)
    writes: int = 0
    syncs: int = 0
    syncing: threading.Event = field(factory=threading.Event)
    may_sync: threading.Event = field(factory=threading.Event)

    def __attrs_post_init__(self) -> None:
        self.may_sync.set()

    def write(self, file: int, data: Buffer, offset: int) -> None:
        self.writes += 1
        if self.write_errors:
            raise _error(self.write_errors.pop())
        super().write(file, data, offset)

    def sync(self, file: int) -> None:
        self.syncs += 1
        self.syncing.set()
        self.may_sync.wait(30)
        if self.sync_errors:
            raise _error(self.sync_errors.pop())
        super().sync(file)


def _error(number: int) -> OSError:
    return OSError(number, os.strerror(number))


def group(sequence: int, key: bytes, value: bytes = b"v") -> CommitGroup:
    return CommitGroup(sequence, 0.0, (make_batch(Put(b"n", key, value)),))


async def commit(backend: FileBackend, group: CommitGroup) -> None:
    """Commit, and do what is due then, as the writer does."""
    await backend.commit(group)
    if (step := backend.upkeep_due()) is not None:
        await backend.upkeep(step)


async def value_in(backend: FileBackend, key: bytes) -> bytes | None:
    (found,) = await backend.reader().read([GetEntry(b"n", key)])
    return found.value if isinstance(found, StoredEntry) else None


# --- what a commit costs ---


async def test_a_group_is_one_write_and_one_sync_and_a_relaxed_one_is_no_sync(
    tmp_path: Path,
) -> None:
    files = FaultyFiles()
    backend = FileBackend(tmp_path, options(1 << 24), files=files)
    await backend.open()
    files.writes = files.syncs = 0
    for sequence in range(1, 11):
        batches = [make_batch(Put(b"n", b"%d" % number, bytes(100))) for number in range(50)]
        await backend.commit(CommitGroup(sequence, 0.0, tuple(batches)))
    assert (files.writes, files.syncs) == (10, 10)
    relaxed = make_batch(Put(b"n", b"k", b""), durability=Durability.RELAXED)
    await backend.commit(CommitGroup(11, 0.0, (relaxed,)))
    assert (files.writes, files.syncs) == (11, 10)
    assert backend.statistics().fsyncs == 10
    await backend.close()


async def test_commits_go_on_while_a_snapshot_is_written(tmp_path: Path) -> None:
    backend = FileBackend(tmp_path, OPTIONS)
    await backend.open()
    values = random.Random(0)
    sequence, between = 0, 0
    while not backend.statistics().database_bytes:
        sequence += 1
        await commit(backend, group(sequence, b"%d" % (sequence % 400), values.randbytes(3_000)))
        between += any(path.name.startswith("snapshot") for path in tmp_path.iterdir())
    assert between >= 4, "the snapshot took several commits"
    journal_bytes = backend.statistics().wal_bytes
    for _ in range(20):
        sequence += 1
        await commit(backend, group(sequence, b"0"))
    assert backend.statistics().wal_bytes <= journal_bytes + 20 * 200
    names = sorted(path.name for path in tmp_path.iterdir())
    assert sum(name.startswith("snapshot") for name in names) == 1
    assert sum(name.startswith("journal") for name in names) < 12, "the old segments are gone"
    held = [await value_in(backend, b"%d" % number) for number in range(400)]
    await backend.close()
    assert (await backend.open()).commit_sequence == sequence
    assert [await value_in(backend, b"%d" % number) for number in range(400)] == held
    await backend.close()


async def test_the_journal_does_not_grow_without_end(data_dir: Path) -> None:
    async with registry(data_dir, backend="file", journal_segment_bytes=4_096) as opened:
        store = opened.key_value_store("s")
        sizes = []
        for number in range(600):
            await store.put(f"{number % 5}", bytes(300), durability=Durability.RELAXED)
            stats = await opened.stats()
            sizes.append(stats.wal_bytes + stats.database_bytes)
        assert max(sizes) < 60_000
        assert sum(path.stat().st_size for path in data_dir.iterdir()) < 100_000
        assert stats.database_bytes > 0


# --- failures ---


async def test_callers_of_a_commit_whose_sync_failed_notice_only_the_delay(data_dir: Path) -> None:
    data_dir.mkdir()
    files = FaultyFiles()
    backend = FileBackend(data_dir, OPTIONS, files=files)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"before")
        files.sync_errors = [errno.EIO]
        versions = []

        async def put(number: int) -> None:
            versions.append(await store.put(f"{number}", b"after"))

        async with anyio.create_task_group() as task_group:
            for number in range(20):
                task_group.start_soon(put, number)
        assert sorted(versions) == list(range(2, 22))
        stats = await opened.stats()
        assert stats.writer_restarts == 1
        assert [one.error for one in stats.writer_failures] == ["StorageIOError"]
        assert len(await listed(store.scan())) == 21


async def test_a_full_disk_is_told_and_writes_work_again_with_room(data_dir: Path) -> None:
    data_dir.mkdir()
    files = FaultyFiles()
    backend = FileBackend(data_dir, OPTIONS, files=files)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        version = await store.put("k", b"before")
        for error in (errno.ENOSPC, errno.EDQUOT):
            files.write_errors = [error]
            with pytest.raises(StorageFullError, match="rolled back"):
                await store.put("k", b"never")
            entry = await store.get("k")
            assert entry is not None
            assert (entry.value, entry.version) == (b"before", version)
        assert await store.put("k", b"after") == version + 1
        stats = await opened.stats()
        assert (stats.writer, stats.writer_restarts, stats.failed) == (Running(1), 0, 2)


# --- fencing ---


async def test_a_writer_of_an_older_generation_cannot_commit(tmp_path: Path) -> None:
    older, newer = FileBackend(tmp_path, OPTIONS), FileBackend(tmp_path, OPTIONS)
    opened = await older.open()
    await older.commit(group(1, b"a"))
    again = await newer.open()
    assert (again.generation, again.commit_sequence) == (opened.generation + 1, 1)
    for _ in range(2):
        with pytest.raises(CommitInDoubtError) as caught:
            await older.commit(group(2, b"stale"))
        assert isinstance(caught.value.reason, StorageIOError)
        assert caught.value.outcomes is None, "certainly not written"
    await older.close()
    await newer.commit(group(2, b"b"))
    await newer.close()
    assert (await newer.open()).commit_sequence == 2
    assert [await value_in(newer, key) for key in (b"a", b"b", b"stale")] == [b"v", b"v", None]
    await newer.close()


async def test_a_commit_that_was_given_up_ends_before_the_journal_is_opened_again(
    tmp_path: Path,
) -> None:
    files = FaultyFiles()
    backend = FileBackend(tmp_path, OPTIONS, files=files)
    await backend.open()
    files.may_sync.clear()
    files.syncing.clear()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(backend.commit, group(1, b"late"))
        await anyio.to_thread.run_sync(files.syncing.wait, 30)
        task_group.cancel_scope.cancel()
    with anyio.fail_after(10):
        await backend.close()
    assert await value_in(backend, b"late") is None, "not acked, and not shown"
    with pytest.raises(StorageIOError, match="still at work"):
        await backend.open()
    files.may_sync.set()
    patient = FileBackend(tmp_path, FileOptions(
        journal_segment_bytes=1 << 16, busy_timeout_seconds=30.0
    ))  # fmt: skip
    assert (await patient.open()).commit_sequence == 1
    assert await value_in(patient, b"late") == b"v"
    await patient.close()


# --- what is built on it ---


async def test_queues_live_in_a_journal_too(data_dir: Path) -> None:
    settings: Any = {"backend": "file", "journal_segment_bytes": 8_192}
    async with registry(data_dir, **settings) as opened:
        jobs = await MessageQueueManager(opened).create_queue("jobs")
        await jobs.send_many([{"number": number} for number in range(300)])
        for _ in range(100):
            message = await jobs.receive()
            assert message is not None
            await message.ack()
    async with registry(data_dir, **settings) as opened:
        jobs = await MessageQueueManager(opened).get_queue("jobs")
        left = [await jobs.receive() for _ in range(200)]
        assert [message and message.payload["number"] for message in left] == [*range(100, 300)]


async def test_a_large_snapshot_store_and_large_values_come_back(data_dir: Path) -> None:
    data = random.Random(1).randbytes(3 << 20)
    settings: Any = {"backend": "file", "journal_segment_bytes": 1 << 20}
    async with registry(data_dir, **settings) as opened:
        for _ in range(4):
            await opened.snapshot_store("images").save(data)
            await opened.log_store("log").append(data)
    async with registry(data_dir, **settings) as opened:
        snapshot = await opened.snapshot_store("images").load()
        assert snapshot is not None
        same = snapshot.data == data
        assert same
        records = await listed(opened.log_store("log").read_range())
        same = [record.data for record in records] == [data] * 4
        assert same


def test_segments_of_a_few_bytes_are_refused() -> None:
    with pytest.raises(ValueError, match="journal_segment_bytes"):
        PersistenceConfig(backend="memory", journal_segment_bytes=100)

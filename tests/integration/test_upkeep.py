"""What upkeep does to real files, in the background and on demand."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import (
    CommitFailedError,
    CompactionReport,
    CorruptDataError,
    Durability,
    KeyValueStore,
    LogRetention,
    PersistenceRegistry,
    Snapshot,
    SnapshotRetention,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence.activity import Activity
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.wal_room import FRAME_BYTES
from mpreg.persistence.compactor import Compactor
from mpreg.persistence.snapshots import CHUNK_BYTES, Remover
from mpreg.persistence.snapshots.layout import numbered_key
from tests.integration.support import (
    OpenBackend,
    TurnedClock,
    config,
    database,
    listed,
    registry,
    tamper,
)

pytestmark = pytest.mark.anyio

#: It only tells a standstill, also on a machine that is slow and busy with something else.
PATIENCE_SECONDS = 240.0


def rows(data_dir: Path, statement: str) -> int:
    with closing(sqlite3.connect(database(data_dir))) as connection:
        (count,) = connection.execute(statement).fetchone()
    assert isinstance(count, int)
    return count


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, which nobody tells us of."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await anyio.sleep(0.005)


async def next_round(opened: PersistenceRegistry) -> None:
    """Return when upkeep has come round once more."""
    rounds = (await opened.stats()).compactions
    while (await opened.stats()).compactions == rounds:
        await anyio.sleep(0.001)


async def fill(opened: PersistenceRegistry, entries: int, *, ttl_seconds: float | None) -> None:
    async with opened.transaction() as transaction:
        for number in range(entries):
            opened.key_value_store("s").put_nowait(
                f"{number:06}", bytes(500), ttl_seconds=ttl_seconds, transaction=transaction
            )


# --- checkpoints ---


async def test_the_log_stays_within_its_bound_and_no_commit_makes_a_checkpoint(
    data_dir: Path,
) -> None:
    async with registry(data_dir, wal_checkpoint_pages=100, upkeep_interval_seconds=None) as opened:
        largest = 0
        for number in range(600):
            await opened.key_value_store("s").put(
                f"{number % 50}", random.Random(0).randbytes(3000)
            )
            largest = max(largest, (await opened.stats()).wal_bytes)
        stats = await opened.stats()
    assert stats.checkpoints > 3
    assert stats.wal_pages_left == 0
    assert largest <= (100 * 1.25 + 8) * FRAME_BYTES


async def test_readers_of_our_own_that_stay_open_do_not_hold_up_the_log(data_dir: Path) -> None:
    """A scan, a range of records and a snapshot, each in the middle: none keeps a transaction."""
    async with registry(data_dir, wal_checkpoint_pages=50, upkeep_interval_seconds=None) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        await fill(opened, 1_500, ttl_seconds=None)
        await log.append_many([bytes(1_000)] * 1_500)
        await opened.snapshot_store("i").save(bytes(4 * CHUNK_BYTES))
        entries, records = store.scan(), log.read_range()
        async with opened.snapshot_store("i").open() as chunks:
            await anext(entries), await anext(records), await anext(chunks)
            largest = 0
            for number in range(400):
                await store.put(f"{number % 50:06}", bytes(3_000))
                largest = max(largest, (await opened.stats()).wal_bytes)
            assert largest <= (50 * 1.25 + 8) * FRAME_BYTES
            assert (await opened.stats()).wal_pages_left == 0
            assert len(await listed(records)) == 1_499
            assert len(await listed(chunks)) == 3


async def test_relaxed_commits_alone_are_moved_too(data_dir: Path) -> None:
    async with registry(data_dir, wal_checkpoint_pages=100, upkeep_interval_seconds=None) as opened:
        for number in range(400):
            await opened.key_value_store("s").put(
                f"{number % 50}", bytes(3000), durability=Durability.RELAXED
            )
        stats = await opened.stats()
        assert stats.checkpoints > 2
        assert stats.wal_bytes <= 130 * FRAME_BYTES


async def test_a_reader_without_an_end_is_told_and_the_log_begins_anew_after_it(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry(data_dir, wal_checkpoint_pages=50, upkeep_interval_seconds=None) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"")
        with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as other:
            other.execute("BEGIN")
            other.execute("SELECT * FROM meta").fetchone()
            for number in range(800):
                await store.put(f"{number % 90}", bytes(3000))
            assert (await opened.stats()).wal_pages_left > 50
            assert (await opened.stats()).wal_bytes > 4 * 50 * FRAME_BYTES
            assert "somebody reads the database without an end" in caplog.text
            other.execute("ROLLBACK")
        for number in range(400):
            await store.put(f"{number % 90}", bytes(3000))
        stats = await opened.stats()
        assert stats.wal_bytes <= 80 * FRAME_BYTES
        assert stats.wal_pages_left == 0
        assert len([one for one in caplog.records if "without an end" in one.getMessage()]) == 1


async def test_what_was_written_is_moved_some_time_after_it(data_dir: Path) -> None:
    async with registry(data_dir, upkeep_interval_seconds=0.01) as opened:
        await opened.key_value_store("s").put("k", b"value")
        path = database(data_dir)
        await until(lambda: b"value" in path.read_bytes())


async def test_what_a_kill_has_left_in_the_log_is_moved_though_nobody_writes(
    data_dir: Path,
) -> None:
    image = data_dir.with_name("image")
    async with registry(data_dir, upkeep_interval_seconds=None) as opened:
        # In no namespace: to look for what has expired is a write as well.
        await opened.log_store("l").append(b"unheard-of")
        _copy(data_dir, image)
    path = database(image)
    async with registry(image, upkeep_interval_seconds=0.01):
        await until(lambda: b"unheard-of" in path.read_bytes())


async def write_over(opened: PersistenceRegistry, *, times: int) -> None:
    """2 MB of values that go through the log, in one commit each time."""
    store = opened.key_value_store("s")
    for _ in range(times):
        async with opened.transaction() as transaction:
            for number in range(20):
                store.put_nowait(f"k{number}", bytes(100_000), transaction=transaction)


async def test_a_log_large_beside_the_rest_is_cut_when_nobody_writes_any_more(
    data_dir: Path,
) -> None:
    async with registry(data_dir, upkeep_interval_seconds=0.01) as opened:
        await write_over(opened, times=3)
        wal = Path(f"{database(data_dir)}-wal")
        assert wal.stat().st_size > 4_000_000
        await until(lambda: wal.stat().st_size == 0)
        await opened.key_value_store("s").put("k", b"after")


async def test_a_large_log_is_cut_though_somebody_goes_on_to_write_a_little(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    take = Activity.take

    def take_some(activity: Activity) -> bool:
        """Never a round without a write, however late the next one comes."""
        take(activity)
        return True

    monkeypatch.setattr(Activity, "take", take_some)
    async with registry(data_dir, upkeep_interval_seconds=0.01) as opened:
        store = opened.key_value_store("s")
        await write_over(opened, times=3)
        wal = Path(f"{database(data_dir)}-wal")
        assert wal.stat().st_size > 4_000_000
        with anyio.fail_after(PATIENCE_SECONDS):
            while wal.stat().st_size > 1_500_000:
                # How much fits between two rounds is the machine's: so much is not a little.
                await store.put("little", b"")
                await next_round(opened)


# --- space ---


async def test_space_of_what_expired_is_given_back_in_the_background(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = {"upkeep_interval_seconds": 0.01, "free_bytes_max": 0}
    async with registry(data_dir, clock=clock, **settings) as opened:
        await fill(opened, 6_000, ttl_seconds=10.0)
        await opened.key_value_store("s").put("stays", b"1")
        path = database(data_dir)
        await until(lambda: path.stat().st_size > 3_000_000)
        clock.now += 11.0
        # The wall clock has jumped: what is written next wakes upkeep up.
        await opened.key_value_store("s").put("stays", b"2")
        await until(lambda: path.stat().st_size < 1_500_000)
        await until(lambda: rows(data_dir, "SELECT count(*) FROM entries") == 1)
        assert [entry.key for entry in await listed(opened.key_value_store("s").scan())] == [
            "stays"
        ]


@pytest.mark.parametrize("goes_on", [False, True])
async def test_at_rest_the_unused_pages_are_few_beside_the_used_ones(
    data_dir: Path, goes_on: bool
) -> None:
    """Whether nothing is written any more, or a little now and then."""
    async with registry(data_dir, upkeep_interval_seconds=0.01) as opened:
        store = opened.key_value_store("s")
        await fill(opened, 10_000, ttl_seconds=None)
        async with opened.transaction() as transaction:
            for number in range(10_000):
                if number % 2000 < 600:
                    store.delete_nowait(f"{number:06}", transaction=transaction)

        def unused_share() -> float:
            with closing(sqlite3.connect(database(data_dir))) as connection:
                (pages,) = connection.execute("PRAGMA page_count").fetchone()
                (free,) = connection.execute("PRAGMA freelist_count").fetchone()
            return float(free / (pages - free))

        assert 0.3 < unused_share() < 0.5
        with anyio.fail_after(PATIENCE_SECONDS):
            while unused_share() > 0.07:
                if goes_on:
                    await store.put("little", b"")
                await anyio.sleep(0.005)
        assert len(await listed(store.scan())) == 7_000 + goes_on


async def test_the_planner_gets_its_statistics(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        await fill(opened, 500, ttl_seconds=1.0)
        clock.now += 5.0
        await fill(opened, 300, ttl_seconds=None)
        await opened.compact()
    assert rows(data_dir, "SELECT count(*) FROM sqlite_stat1 WHERE tbl = 'entries'") > 0


async def test_a_database_made_before_is_used_as_it_is(data_dir: Path) -> None:
    data_dir.mkdir()
    with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as connection:
        for statement in schema.CREATE:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.SCHEMA_VERSION}")
    clock = TurnedClock()
    async with registry(data_dir, clock=clock, upkeep_interval_seconds=None) as opened:
        await fill(opened, 2_000, ttl_seconds=10.0)
        clock.now += 11.0
        report = await opened.compact()
        assert report.expired_entries == 2_000
        assert report.database_bytes >= report.database_bytes_before
        assert report.free_bytes > 500_000
        await fill(opened, 1_000, ttl_seconds=None)
        after = await opened.compact()
        assert after.free_bytes < report.free_bytes
        assert after.database_bytes == report.database_bytes


# --- on demand ---


async def test_compact_removes_all_there_is_to_remove_and_says_what(data_dir: Path) -> None:
    clock = TurnedClock()
    retention = (LogRetention(log="audit", records_max=10),)
    async with registry(
        data_dir, clock=clock, upkeep_interval_seconds=None, log_retention=retention
    ) as opened:
        await fill(opened, 1_000, ttl_seconds=10.0)
        await opened.key_value_store("s").put("stays", b"1", ttl_seconds=20.0)
        await opened.log_store("audit").append_many([bytes(100)] * 500)
        await opened.log_store("other").append_many([bytes(100)] * 500)
        clock.now += 11.0
        report = await opened.compact()
        assert (report.expired_entries, report.log_records) == (1_000, 490)
        assert report.wal_bytes == 0
        assert report.free_bytes == 0
        assert report.freed_bytes > 500_000
        assert await opened.log_store("audit").first_offset() == 490
        assert await opened.log_store("other").first_offset() == 0
        assert await opened.key_value_store("s").get("stays") is not None
        again = await opened.compact()
        assert (again.expired_entries, again.log_records, again.snapshot_chunks) == (0, 0, 0)
    with pytest.raises(WriterStoppedError, match="nothing was compacted"):
        await opened.compact()


async def test_compact_of_the_memory_backend_removes_as_much() -> None:
    from mpreg.persistence import PersistenceConfig

    clock = TurnedClock()
    settings = PersistenceConfig(backend="memory", upkeep_interval_seconds=None)
    async with PersistenceRegistry(settings, clock=clock) as opened:
        await fill(opened, 100, ttl_seconds=1.0)
        clock.now += 2.0
        assert await opened.compact() == CompactionReport(expired_entries=100)


async def test_two_at_a_time_do_not_meet(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock, upkeep_interval_seconds=0.001) as opened:
        await fill(opened, 2_000, ttl_seconds=10.0)
        clock.now += 11.0
        removed = []

        async def compact() -> None:
            removed.append((await opened.compact()).expired_entries)

        async with anyio.create_task_group() as task_group:
            for _ in range(3):
                task_group.start_soon(compact)
        assert sum(removed) <= 2_000
        assert rows(data_dir, "SELECT count(*) FROM entries") == 0


async def test_compact_that_is_cancelled_can_be_asked_for_again(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock, upkeep_interval_seconds=None) as opened:
        await fill(opened, 3_000, ttl_seconds=10.0)
        clock.now += 11.0
        removed = 0
        for _ in range(5):
            with anyio.move_on_after(0.01):
                removed += (await opened.compact()).expired_entries
        await opened.key_value_store("s").put("k", b"")
        await opened.compact()
        assert rows(data_dir, "SELECT count(*) FROM entries") == 1


# --- logs ---


async def test_a_log_is_limited_by_bytes_and_what_is_known_of_it_survives_a_restart(
    data_dir: Path,
) -> None:
    settings: dict[str, Any] = {"log_retention": (LogRetention(log="sized", bytes_max=100_000),)}
    for life in range(4):
        async with registry(data_dir, **settings) as opened:
            sized = opened.log_store("sized")
            for _ in range(10):
                await sized.append_many([bytes(1_000)] * 20)
                await opened.compact()
            end = 200 * (life + 1)
            assert await sized.next_offset() == end
            kept = end - await sized.first_offset()
            assert 100 <= kept <= 100 + 20 + 10


async def test_what_a_process_was_not_there_for_makes_records_older(data_dir: Path) -> None:
    clock = TurnedClock()
    settings: dict[str, Any] = {"log_retention": (LogRetention(log="aged", seconds_max=600.0),)}
    for life in range(6):
        async with registry(data_dir, clock=clock, **settings) as opened:
            aged = opened.log_store("aged")
            await aged.append(b"")
            await opened.compact()
            assert await aged.first_offset() == max(0, life - 2)
        clock.now += 205.0


YEAR = 365 * 86_400.0


AGED: dict[str, Any] = {"log_retention": (LogRetention(log="l", seconds_max=600.0),)}


@pytest.mark.parametrize("ahead", [YEAR, -YEAR])
async def test_a_clock_that_is_set_while_a_process_runs_makes_no_record_older_after_it_either(
    data_dir: Path, ahead: float
) -> None:
    clock = TurnedClock(2 * YEAR)
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.log_store("l").append(b"")
        await opened.compact()
        clock.now += ahead
        await opened.compact()
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.log_store("l").append(b"")
        await opened.compact()
        assert await opened.log_store("l").first_offset() == 0
        clock.now -= ahead
        await opened.compact()
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.compact()
        assert await opened.log_store("l").first_offset() == 0


async def test_a_clock_that_is_behind_at_a_start_and_mended_makes_no_record_older(
    data_dir: Path,
) -> None:
    clock = TurnedClock(2 * YEAR)
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.log_store("l").append(b"")
        await opened.compact()
    clock.now -= YEAR
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.log_store("l").append(b"")
        await opened.compact()
        clock.now += YEAR
        await opened.compact()
        assert await opened.log_store("l").first_offset() == 0
    # It was cut off before the clock was mended, say: it is right when the next one starts.
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.compact()
        assert await opened.log_store("l").first_offset() == 0
    clock.now += 600.0
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.compact()
        assert await opened.log_store("l").first_offset() == 2


@pytest.mark.parametrize("is_damaged", [False, True])
async def test_what_is_known_of_a_log_is_forgotten_where_it_is_damaged_and_not_where_a_read_fails(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, is_damaged: bool
) -> None:
    clock = TurnedClock(2 * YEAR)
    async with registry(data_dir, clock=clock, **AGED) as opened:
        await opened.log_store("l").append(b"")
        await opened.compact()
    clock.now += 600.0
    error = CorruptDataError("no sense") if is_damaged else StorageIOError("not now", data_dir)
    get = KeyValueStore.get

    async def fail_once(store: KeyValueStore, key: str) -> Any:
        monkeypatch.setattr(KeyValueStore, "get", get)
        raise error

    async with registry(data_dir, clock=clock, **AGED) as opened:
        monkeypatch.setattr(KeyValueStore, "get", fail_once)
        if is_damaged:
            await opened.compact()
        else:
            with pytest.raises(StorageIOError):
                await opened.compact()
        await opened.compact()
        assert await opened.log_store("l").first_offset() == (0 if is_damaged else 1)


async def test_records_go_when_they_have_become_too_old_though_nothing_is_written(
    data_dir: Path,
) -> None:
    retention = (LogRetention(log="audit", seconds_max=0.2),)
    async with registry(data_dir, upkeep_interval_seconds=0.02, log_retention=retention) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"r"] * 50)
        with anyio.fail_after(PATIENCE_SECONDS):
            while await log.first_offset() < 50:
                await anyio.sleep(0.01)
        assert await log.append(b"after") == 50


async def test_a_log_deleted_and_begun_anew_is_measured_anew(data_dir: Path) -> None:
    settings: dict[str, Any] = {
        "upkeep_interval_seconds": None,
        "log_retention": (LogRetention(log="audit", bytes_max=5_000),),
    }
    async with registry(data_dir, **settings) as opened:
        log = opened.log_store("audit")
        await log.append_many([bytes(1_000)] * 20)
        await opened.compact()
        assert await log.first_offset() > 10
        await log.delete()
        await log.append_many([bytes(1_000)] * 4)
        await opened.compact()
        assert await log.first_offset() == 0
        assert len(await listed(log.read_range())) == 4


# --- snapshots ---


def chunk_key(save: int, index: int) -> bytes:
    return save.to_bytes(8, "big") + index.to_bytes(8, "big")


async def test_chunks_that_a_cut_short_save_left_are_removed_at_the_next_start(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        image = data_dir.with_name("image")
        await opened.snapshot_store("state").save(b"first")

        async def pieces() -> object:
            for _ in range(8):
                yield bytes(CHUNK_BYTES)
            _copy(data_dir, image)
            yield b"the end"

        await opened.snapshot_store("state").save(pieces())  # type: ignore[arg-type]
    assert rows(image, "SELECT count(*) FROM entries") > 5
    async with registry(image, upkeep_interval_seconds=0.01) as opened:
        await until(lambda: rows(image, "SELECT count(*) FROM entries") == 3)
        snapshot = await opened.snapshot_store("state").load()
        assert snapshot is not None
        assert snapshot.data == b"first"


def _copy(data_dir: Path, image: Path) -> None:
    image.mkdir()
    for name in ("mpreg.db", "mpreg.db-wal"):
        (image / name).write_bytes((data_dir / name).read_bytes())


async def test_chunks_that_nothing_names_are_removed_and_those_of_the_snapshot_stay(
    data_dir: Path,
) -> None:
    data = random.Random(1).randbytes(3 * CHUNK_BYTES)
    async with registry(data_dir, upkeep_interval_seconds=None) as opened:
        state = opened.snapshot_store("state")
        await state.save(data)
        older = await opened.snapshot_store("older").save(data)
        version = await state.save(data[::-1])
        # As a save leaves them whose entry was damaged and has gone: older than the snapshot,
        # and, of "newer", newer than it.
        chunks = opened.reserved("snapshot").key_value_store("state")
        for index in range(11):
            await chunks.put(chunk_key(1, index), b"nobody's")
        await chunks.put(chunk_key(10_000, 0), b"perhaps somebody's")
        tamper(
            data_dir,
            "UPDATE entries SET checksum = 0 WHERE namespace_id = 2 AND key = ?",
            (numbered_key("version/", older),),
        )
        assert (await opened.compact()).snapshot_chunks == 11
        assert (await opened.compact()).snapshot_chunks == 0
        assert await chunks.get(chunk_key(10_000, 0)) is not None
        assert await state.load() == Snapshot(version, data[::-1])
        left = "SELECT count(*) FROM entries WHERE namespace_id = 2 AND substr(key, 1, 1) = x'00'"
        assert rows(data_dir, left) == 3, "the manifest that names them is damaged"


LITTLE: dict[str, Any] = {"value_bytes_max": 10, "upkeep_interval_seconds": None}


async def leave_chunks(data_dir: Path, monkeypatch: pytest.MonkeyPatch, clock: TurnedClock) -> None:
    """Of a version that was dropped, and of a save that was cut short, in a directory of its own;
    and an entry that expires."""
    source = data_dir.with_name("source")

    async def pieces() -> object:
        for _ in range(70):
            yield bytes(10)
        _copy(source, data_dir)

    async def leave(*_: object) -> None:
        pass

    async with registry(source, clock=clock, **LITTLE) as opened:
        images = opened.snapshot_store("images")
        await opened.key_value_store("s").put("k", b"", ttl_seconds=1.0)
        with monkeypatch.context() as patch:
            patch.setattr(Remover, "finish", leave)
            for number in range(2):
                await images.save(bytes([number]) * 1_000)
            await images.save(pieces())  # type: ignore[arg-type]
    clock.now += 5.0


@pytest.mark.parametrize("batch_bytes_max", [175, 230, 400, 2_000, 20_000])
async def test_chunks_go_whatever_one_batch_holds_and_keep_nothing_else_from_going(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, batch_bytes_max: int
) -> None:
    clock = TurnedClock()
    await leave_chunks(data_dir, monkeypatch, clock)
    little = LITTLE | {"batch_bytes_max": batch_bytes_max}
    async with registry(data_dir, clock=clock, **little) as opened:
        report = await opened.compact()
        assert report.expired_entries == 1
        assert rows(data_dir, "SELECT count(*) FROM entries") == 102
        if batch_bytes_max >= 400:
            # Four of them fit into one batch there, with the note of what is left.
            assert (await opened.stats()).commits <= 170 / 4 + 10
        snapshot = await opened.snapshot_store("images").load()
        assert snapshot is not None
        assert snapshot.data == b"\x01" * 1_000


@pytest.mark.parametrize("batch_bytes_max", [600, 3_000])
async def test_versions_go_in_batches_that_are_small_enough(
    data_dir: Path, batch_bytes_max: int
) -> None:
    async with registry(data_dir, **LITTLE) as opened:
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=None))
        for _ in range(7):
            await images.save(b"image")
    little = LITTLE | {"batch_bytes_max": batch_bytes_max}
    async with registry(data_dir, **little) as opened:
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=5))
        assert (await opened.compact()).snapshot_versions == 2
        assert await images.delete()
        assert await images.versions() == []
        assert rows(data_dir, "SELECT count(*) FROM entries") == 0


# --- trouble ---


async def fail(*_: object) -> None:
    raise StorageIOError("this part fails")


async def test_a_part_that_fails_keeps_no_other_from_its_turn_and_is_tried_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = TurnedClock()
    limits = [LogRetention(log=log, records_max=1) for log in ("one", "other")]
    async with registry(data_dir, clock=clock) as opened:
        await opened.snapshot_store("images").save(b"image")
        await fill(opened, 10, ttl_seconds=1.0)
        for limit in limits:
            await opened.log_store(limit.log).append_many([b""] * 3)
    clock.now += 5.0
    background = {"upkeep_interval_seconds": 0.001, "log_retention": limits}
    with monkeypatch.context() as patch:
        patch.setattr(Remover, "tidy_all", fail)
        async with registry(data_dir, clock=clock, **background) as opened:
            for limit in limits:
                with anyio.fail_after(PATIENCE_SECONDS):
                    while await opened.log_store(limit.log).first_offset() < 2:
                        await anyio.sleep(0.005)
            # What was known before of the snapshot, and what is known of the logs.
            assert rows(data_dir, "SELECT count(*) FROM entries") == 5
            assert (await opened.stats()).compactions == 0
            patch.undo()
            await next_round(opened)


async def test_compact_does_all_the_rest_before_it_tells_what_has_failed(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = [LogRetention(log="l", records_max=1)]
    async with registry(data_dir, log_retention=limits) as opened:
        await opened.snapshot_store("images").save(b"image")
        await opened.log_store("l").append_many([b""] * 3)
        with monkeypatch.context() as patch:
            patch.setattr(Remover, "tidy_all", fail)
            with pytest.raises(StorageIOError, match="this part fails"):
                await opened.compact()
        assert await opened.log_store("l").first_offset() == 2
        assert (await opened.stats()).wal_bytes == 0
        await opened.compact()


async def test_what_a_failing_sweep_has_left_is_removed_by_the_next_one(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep, failed = Compactor._sweep_namespace, list[Any]()

    async def fail_once(*args: Any) -> None:
        if not failed:
            failed.append(args)
            await fail()
        await sweep(*args)

    monkeypatch.setattr(Compactor, "_sweep_namespace", fail_once)
    clock = TurnedClock()
    async with registry(data_dir, clock=clock, upkeep_interval_seconds=0.001) as opened:
        await next_round(opened)
        await fill(opened, 10, ttl_seconds=1.0)
        clock.now += 5.0
        await opened.key_value_store("s").put("stays", b"")
        await until(lambda: rows(data_dir, "SELECT count(*) FROM entries") == 1)
    assert failed


async def test_upkeep_that_is_put_off_harms_nobody_and_is_done_later(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    settings = config(data_dir, upkeep_interval_seconds=None)
    async with PersistenceRegistry(settings, backend=backend) as opened:
        await fill(opened, 500, ttl_seconds=None)
        await opened.key_value_store("s").put("k", b"")
        with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as other:
            for number in range(400):
                await opened.key_value_store("s").delete(f"{number:06}")
            other.execute("BEGIN IMMEDIATE")
            with pytest.raises(CommitFailedError, match="put off"):
                await opened.compact()
            other.execute("ROLLBACK")
        assert (await opened.compact()).free_bytes == 0
        stats = await opened.stats()
        assert stats.writer_restarts == 0

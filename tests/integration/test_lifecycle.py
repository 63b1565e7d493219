"""Opening, closing, and everything that can go wrong on the way, on real files."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.actors import Running, Stopped
from mpreg.persistence import (
    ConfigurationError,
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    ForeignDatabaseError,
    MpregError,
    PersistenceRegistry,
    ReaderStoppedError,
    SchemaVersionError,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence.backends.sqlite.schema import SCHEMA_VERSION
from tests.integration.support import database, listed, registry, threads_that_stay
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


@pytest.fixture(autouse=True)
def _no_thread_stays() -> Iterator[None]:
    before = threading.enumerate()
    yield
    assert threads_that_stay(before) == []


def contents(directory: Path) -> dict[str, bytes]:
    return {entry.name: entry.read_bytes() for entry in directory.iterdir()}


# --- two ways of opening ---


async def test_opened_as_a_block_it_runs_until_the_block_ends(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        stats = await opened.stats()
        assert stats.writer == Running(1)
        assert stats.reader == Running(1)
    stats = await opened.stats()
    assert (stats.writer, stats.reader) == (Stopped(None), Stopped(None))


async def test_served_in_a_nursery_it_runs_until_it_is_cancelled(data_dir: Path) -> None:
    async with anyio.create_task_group() as task_group:
        opened = await task_group.start(registry(data_dir).serve)
        store = opened.key_value_store("s")
        version = await store.put("k", b"v")
        task_group.cancel_scope.cancel()
    async with registry(data_dir) as again:
        entry = await again.key_value_store("s").get("k")
        assert entry is not None
        assert entry.version == version


async def test_cancelling_the_nursery_commits_and_acks_what_was_accepted(data_dir: Path) -> None:
    async with anyio.create_task_group() as task_group:
        opened = await task_group.start(registry(data_dir).serve)
        store = opened.key_value_store("s")
        acks = [store.put_nowait(str(number), b"") for number in range(100)]
        task_group.cancel_scope.cancel()
    assert len({await ack for ack in acks}) == 100
    async with registry(data_dir) as again:
        assert len(await listed(again.key_value_store("s").scan())) == 100


async def test_leaving_the_block_commits_and_acks_what_was_accepted(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        ack = opened.key_value_store("s").put_nowait("k", b"")
    assert await ack == 1


async def test_an_exception_in_the_block_comes_out_as_itself(data_dir: Path) -> None:
    error = ZeroDivisionError("mine")
    with pytest.raises(ZeroDivisionError) as caught:  # noqa: PT012
        async with registry(data_dir) as opened:
            ack = opened.key_value_store("s").put_nowait("k", b"")
            raise error
    assert caught.value is error
    assert await ack == 1


async def test_an_exception_in_the_block_keeps_what_it_was_raised_from(data_dir: Path) -> None:
    first, cause = KeyError("first"), OSError("cause")
    with pytest.raises(ValueError, match="while handling") as caught:  # noqa: PT012
        async with registry(data_dir):
            try:
                raise first
            except KeyError:
                raise ValueError("while handling")  # noqa: B904
    assert caught.value.__context__ is first
    assert not caught.value.__suppress_context__
    with pytest.raises(ValueError, match="from") as caught:  # noqa: PT012
        async with registry(data_dir):
            try:
                raise first
            except KeyError:
                raise ValueError("from") from cause
    assert caught.value.__cause__ is cause
    assert caught.value.__context__ is first
    assert caught.value.__suppress_context__


async def test_a_group_raised_in_the_block_comes_out_as_that_group(data_dir: Path) -> None:
    error = ZeroDivisionError()
    with pytest.raises(ExceptionGroup, match="mine") as caught:
        async with registry(data_dir):
            raise ExceptionGroup("mine", [error])
    assert caught.value.exceptions == (error,)


async def test_a_block_that_is_cancelled_ends_quietly(data_dir: Path) -> None:
    with anyio.CancelScope() as scope:
        async with registry(data_dir):
            scope.cancel()
            await anyio.sleep_forever()
    assert scope.cancelled_caught


async def test_stores_can_be_taken_before_the_registry_is_open(data_dir: Path) -> None:
    unopened = registry(data_dir)
    store = unopened.key_value_store("s")
    async with unopened:
        await store.put("k", b"")
        assert await store.get("k") is not None


def test_a_registry_can_be_made_where_no_event_loop_runs(
    data_dir: Path, anyio_backend: tuple[str, dict[str, object]]
) -> None:
    unopened = registry(data_dir)
    unopened.key_value_store("s")
    name, options = anyio_backend

    async def use() -> None:
        async with unopened:
            await unopened.key_value_store("s").put("k", b"")

    anyio.run(use, backend=name, backend_options=options)


async def test_each_opening_has_a_higher_generation(data_dir: Path) -> None:
    generations = []
    for _ in range(3):
        async with registry(data_dir) as opened:
            generations.append((await opened.stats()).generation)
    assert generations == [1, 2, 3]


async def test_the_commit_sequence_counts_on_over_reopenings(data_dir: Path) -> None:
    sequences = []
    for _ in range(2):
        async with registry(data_dir) as opened:
            await opened.key_value_store("s").put("k", b"")
            sequences.append((await opened.stats()).commit_sequence)
    assert sequences == [1, 2]


async def test_closing_leaves_everything_in_one_file(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("k", b"v")
    left = contents(data_dir)
    assert left.pop("mpreg.db-wal", b"") == b""
    assert left.keys() - {"mpreg.db-shm"} == {"ACKED", "LOCK", "mpreg.db"}
    (data_dir / "mpreg.db-wal").unlink(missing_ok=True)
    (data_dir / "mpreg.db-shm").unlink(missing_ok=True)
    async with registry(data_dir) as opened:
        assert await opened.key_value_store("s").get("k") is not None


async def test_it_works_on_where_the_process_changes_its_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with registry(Path("data")) as opened:
        await opened.key_value_store("s").put("k", b"v")
        (tmp_path / "elsewhere").mkdir()
        monkeypatch.chdir(tmp_path / "elsewhere")
        await opened.key_value_store("s").put("k", b"w")
        assert (await opened.stats()).database_bytes > 0
    assert contents(tmp_path / "elsewhere") == {}


async def test_the_switch_interval_is_put_back_at_close(data_dir: Path) -> None:
    before = sys.getswitchinterval()
    async with registry(data_dir, switch_interval_seconds=0.0001):
        assert sys.getswitchinterval() < before
    assert sys.getswitchinterval() == before


async def test_the_memory_backend_takes_the_same_calls_and_no_directory() -> None:
    from mpreg.persistence import PersistenceConfig

    async with PersistenceRegistry(PersistenceConfig(backend="memory")) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        await store.put("k", b"v")
        assert await log.append(b"r") == 0
        assert [entry.key for entry in await listed(store.scan("k"))] == ["k"]


# --- not open, not any more, twice ---


def calls(opened: PersistenceRegistry) -> Iterator[tuple[Callable[[], Any], type[MpregError]]]:
    store, log = opened.key_value_store("s"), opened.log_store("l")

    async def transaction() -> None:
        async with opened.transaction() as tx:
            store.put_nowait("k", b"", transaction=tx)

    yield lambda: store.put("k", b""), WriterStoppedError
    yield lambda: store.sweep_expired(), WriterStoppedError
    yield lambda: store.delete("k"), WriterStoppedError
    yield lambda: store.put_nowait("k", b""), WriterStoppedError
    yield lambda: store.sweep_expired_nowait(), WriterStoppedError
    yield lambda: store.delete_nowait("k"), WriterStoppedError
    yield lambda: log.append(b""), WriterStoppedError
    yield lambda: log.append_many([b""]), WriterStoppedError
    yield lambda: log.truncate_before(0), WriterStoppedError
    yield lambda: log.delete(), WriterStoppedError
    yield lambda: log.append_nowait(b""), WriterStoppedError
    yield lambda: log.append_many_nowait([b""]), WriterStoppedError
    yield lambda: log.truncate_before_nowait(0), WriterStoppedError
    yield lambda: log.delete_nowait(), WriterStoppedError
    yield transaction, WriterStoppedError
    yield lambda: store.get("k"), ReaderStoppedError
    yield lambda: listed(store.scan()), ReaderStoppedError
    yield lambda: listed(log.read_range()), ReaderStoppedError
    yield lambda: listed(log.read_range(0, 5)), ReaderStoppedError
    yield log.first_offset, ReaderStoppedError
    yield log.next_offset, ReaderStoppedError


async def assert_every_call_is_refused(opened: PersistenceRegistry) -> None:
    for call, expected in calls(opened):
        with anyio.fail_after(60), pytest.raises(expected):  # noqa: PT012
            result = call()
            if isinstance(result, Awaitable):
                await result


async def test_every_method_of_a_registry_never_opened_says_so(data_dir: Path) -> None:
    unopened = registry(data_dir)
    await assert_every_call_is_refused(unopened)
    with pytest.raises(WriterStoppedError, match="never open"):
        await unopened.stats()


async def test_every_method_of_a_closed_registry_says_so(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        pass
    await assert_every_call_is_refused(opened)


async def test_every_method_of_a_registry_that_could_not_be_opened_says_so(data_dir: Path) -> None:
    async with registry(data_dir):
        second = registry(data_dir)
        with pytest.raises(DataDirectoryLockedError):
            async with second:
                pass
        await assert_every_call_is_refused(second)
    data_dir.joinpath("mpreg.db").write_bytes(b"something else")
    third = registry(data_dir)
    with pytest.raises(ForeignDatabaseError):
        async with third:
            pass
    await assert_every_call_is_refused(third)


async def test_calls_made_while_it_is_being_opened_wait_and_are_served(data_dir: Path) -> None:
    opened = registry(data_dir)
    store = opened.key_value_store("s")
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(opened.serve)
        while True:
            try:
                await store.put("k", b"")
            except WriterStoppedError:
                await anyio.lowlevel.checkpoint()
            else:
                break
        assert await store.get("k") is not None
        task_group.cancel_scope.cancel()


async def test_a_registry_opened_twice_says_so_and_the_first_opening_goes_on(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        with pytest.raises(ConfigurationError, match="open already"):
            async with opened:
                pass
        await opened.key_value_store("s").put("k", b"")
    with pytest.raises(ConfigurationError, match="closed already"):
        async with opened:
            pass
    with pytest.raises(ConfigurationError, match="closed already"):
        await opened.serve()
    async with registry(data_dir) as again:
        assert await again.key_value_store("s").get("k") is not None


# --- the directory ---


async def test_directory_and_files_are_for_their_owner_alone_whatever_the_umask(
    data_dir: Path,
) -> None:
    before = os.umask(0)
    try:
        async with registry(data_dir) as opened:
            await opened.key_value_store("s").put("k", b"")
            await opened.key_value_store("s").get("k")
            modes = {entry.name: entry.stat().st_mode & 0o777 for entry in data_dir.iterdir()}
    finally:
        os.umask(before)
    assert stat.S_IMODE(data_dir.stat().st_mode) == 0o700
    files = ["ACKED", "LOCK", "mpreg.db", "mpreg.db-wal", "mpreg.db-shm"]
    assert modes == dict.fromkeys(files, 0o600)


async def test_missing_parents_of_the_directory_are_made(tmp_path: Path) -> None:
    async with registry(tmp_path / "a" / "b" / "c"):
        pass
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700


async def test_a_second_registry_on_the_directory_is_told_who_holds_it(data_dir: Path) -> None:
    async with registry(data_dir) as first:
        with pytest.raises(DataDirectoryLockedError, match=str(os.getpid())) as caught:
            async with registry(data_dir):
                pass
        assert (caught.value.pid, caught.value.path) == (os.getpid(), data_dir)
        await first.key_value_store("s").put("k", b"")
    async with registry(data_dir):
        pass


async def test_two_registries_on_two_directories_do_not_meet(tmp_path: Path) -> None:
    async with registry(tmp_path / "one") as one, registry(tmp_path / "two") as two:
        await one.key_value_store("s").put("k", b"1")
        assert await two.key_value_store("s").get("k") is None


async def test_a_file_where_the_directory_should_be_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(DataDirectoryError, match="cannot be used"):
            async with registry(path):
                pass
    assert contents(tmp_path) == {"file": b"mine"}


async def test_a_path_that_no_file_system_takes_is_told(tmp_path: Path) -> None:
    with pytest.raises((DataDirectoryError, ConfigurationError)):
        async with registry(tmp_path / "nul\x00"):
            pass


async def test_a_directory_with_any_name_works(tmp_path: Path) -> None:
    for name in ["with space", "100%?#&=;", "ü😀", "\udcff", "quote'\""]:
        async with registry(tmp_path / name) as opened:
            await opened.key_value_store("s").put("k", b"")
            assert await opened.key_value_store("s").get("k") is not None
        assert (tmp_path / name / "mpreg.db").exists()


def sqlite_file(path: Path, *statements: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def another_programs_database(path: Path) -> None:
    sqlite_file(path, "CREATE TABLE t (x)", "PRAGMA application_id = 7")


def empty_sqlite_database(path: Path) -> None:
    sqlite_file(path, "CREATE TABLE t (x)")


def newer_schema(path: Path) -> None:
    sqlite_file(
        path,
        f"PRAGMA application_id = {0x6D707267}",
        f"PRAGMA user_version = {SCHEMA_VERSION + 1}",
        "CREATE TABLE t(x)",
    )


def text(path: Path) -> None:
    path.write_bytes(b"my important notes\n" * 100)


def garbage(path: Path) -> None:
    path.write_bytes(bytes((7 * n) % 251 for n in range(10_000)))


def nothing(path: Path) -> None:
    path.write_bytes(b"")


def cut_header(path: Path) -> None:
    newer_schema(path)
    path.write_bytes(path.read_bytes()[:50])


@pytest.mark.parametrize(
    ("make", "expected"),
    [
        (another_programs_database, ForeignDatabaseError),
        (empty_sqlite_database, ForeignDatabaseError),
        (newer_schema, SchemaVersionError),
        (text, ForeignDatabaseError),
        (garbage, ForeignDatabaseError),
        (nothing, CorruptDataError),
        (cut_header, CorruptDataError),
    ],
)
async def test_a_file_that_is_not_ours_or_not_whole_is_refused_and_left_untouched(
    data_dir: Path, make: Callable[[Path], None], expected: type[MpregError]
) -> None:
    data_dir.mkdir()
    make(database(data_dir))
    before = contents(data_dir)
    with pytest.raises(expected) as caught:
        async with registry(data_dir):
            pass
    assert type(caught.value) is expected
    assert str(database(data_dir)) in str(caught.value)
    after = contents(data_dir)
    after.pop("LOCK")
    assert after == before


async def test_a_newer_schema_that_is_only_in_the_wal_is_refused_and_left_untouched(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(data_dir):
        pass
    crashed = tmp_path / "crashed"
    crashed.mkdir()
    with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as connection:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA user_version = 9")
        connection.execute("CREATE TABLE newer (x)")
        for name in ("mpreg.db", "mpreg.db-wal"):
            shutil.copy(data_dir / name, crashed / name)
    before = contents(crashed)
    with pytest.raises(SchemaVersionError) as caught:
        async with registry(crashed):
            pass
    assert caught.value.found_version == 9
    after = contents(crashed)
    assert {name: after[name] for name in before} == before


@pytest.mark.parametrize(
    "damage",
    [
        "DELETE FROM meta",
        "UPDATE meta SET generation = 'x'",
        "UPDATE meta SET commit_sequence = 1.5",
        "UPDATE meta SET last_version = x'00'",
        "DROP TABLE meta",
        "DROP TABLE entries",
    ],
)
async def test_a_store_whose_own_numbers_or_tables_are_damaged_cannot_be_opened(
    data_dir: Path, damage: str
) -> None:
    async with registry(data_dir):
        pass
    sqlite_file(database(data_dir), damage)
    with pytest.raises((CorruptDataError, StorageIOError)) as caught:
        async with registry(data_dir) as opened:
            await opened.key_value_store("s").put("k", b"")
    assert str(database(data_dir)) in str(caught.value)


async def test_a_directory_at_the_place_of_the_database_is_told(data_dir: Path) -> None:
    database(data_dir).mkdir(parents=True)
    with pytest.raises(DataDirectoryError, match="this is a directory, where a file is expected"):
        async with registry(data_dir):
            pass


# --- failed and cancelled openings ---


async def test_a_failed_opening_lets_go_of_the_directory(data_dir: Path) -> None:
    data_dir.mkdir()
    text(database(data_dir))
    for _ in range(2):
        with pytest.raises(ForeignDatabaseError):
            async with registry(data_dir):
                pass
    database(data_dir).unlink()
    async with registry(data_dir):
        pass


async def test_a_database_locked_by_another_program_fails_the_opening_with_what_to_do(
    data_dir: Path,
) -> None:
    async with registry(data_dir):
        pass
    with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StorageIOError, match="another process"):
            async with registry(data_dir):
                pass
        other.execute("ROLLBACK")
    async with registry(data_dir):
        pass


async def test_cancelled_before_it_opens_it_makes_nothing(data_dir: Path) -> None:
    with anyio.CancelScope() as scope:
        scope.cancel()
        async with registry(data_dir):
            raise AssertionError("not reached")
    assert scope.cancelled_caught
    assert "mpreg.db" not in contents(data_dir) if data_dir.exists() else True
    async with registry(data_dir):
        pass


async def test_cancelled_while_it_opens_it_leaves_no_lock_and_no_thread(data_dir: Path) -> None:
    async with registry(data_dir):
        pass
    with closing(sqlite3.connect(database(data_dir), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")  # the opening waits on its thread for this lock
        unopened = registry(data_dir, busy_timeout_seconds=30.0)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(unopened.serve)
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
            other.execute("ROLLBACK")
    await assert_every_call_is_refused(unopened)
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("k", b"")


async def test_nothing_is_started_while_what_was_started_ends(data_dir: Path) -> None:
    """It would be cancelled at once; and who came all the time would keep it open for ever."""
    began, is_refused, started = anyio.Event(), anyio.Event(), list[str]()

    async def ends_slowly() -> None:
        began.set()
        try:
            await anyio.sleep_forever()
        finally:
            with anyio.CancelScope(shield=True):
                await is_refused.wait()

    async def comes_late() -> None:
        started.append("late")

    async def keep_coming(opened: PersistenceRegistry) -> None:
        for _ in range(1_000):
            await anyio.lowlevel.checkpoint()
            try:
                opened.start_soon(comes_late)
            except WriterStoppedError:
                is_refused.set()
                return
        is_refused.set()

    async with anyio.create_task_group() as task_group:
        async with registry(data_dir) as opened:
            opened.start_soon(ends_slowly)
            await began.wait()
            task_group.start_soon(keep_coming, opened)
            opened_until_here = len(started)
        assert is_refused.is_set()
    assert len(started) - opened_until_here < 1_000


async def test_statistics_after_closing_are_those_of_the_end(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("k", b"")
    stats = await opened.stats()
    assert (stats.commits, stats.mailbox_depth, stats.writer) == (1, 0, Stopped(None))


async def test_what_the_memory_backend_holds_is_gone_with_its_registry(data_dir: Path) -> None:
    async with registry(data_dir, backend="memory") as opened:
        await opened.key_value_store("things").put("ann", b"1")
        assert await opened.key_value_store("things").get("ann") is not None
    async with registry(data_dir, backend="memory") as opened:
        assert await opened.key_value_store("things").get("ann") is None
    assert not data_dir.exists()

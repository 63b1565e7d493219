"""Databases of earlier schema versions are migrated when they are opened, and never by halves."""

from __future__ import annotations

import logging
import shutil
import sqlite3
import stat
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import anyio
import pytest

from mpreg.actors.parking import call_soon_from_anywhere
from mpreg.persistence import (
    AckedDataLostError,
    CorruptDataError,
    DataDirectoryError,
    MigrationFailedError,
    PersistenceRegistry,
    SchemaVersionError,
    StorageFullError,
)
from mpreg.persistence.accounting import Accounting
from mpreg.persistence.acked_file import AckedFile
from mpreg.persistence.backend import CheckFound, OpenedState, check_nothing
from mpreg.persistence.backends.sqlite import SqliteBackend, SqliteOptions
from mpreg.persistence.backends.sqlite.files import check_readable, look_at
from mpreg.persistence.backends.sqlite.migrations import CURRENT, Migration, Schema, Step
from mpreg.persistence.backends.sqlite.upgrade import Progress, Upgrade
from tests.integration.newer_schema import (
    ADD_A_COLUMN,
    ADD_A_TABLE,
    MIGRATIONS,
    NEW,
    OLD,
    dumped,
    upgraded,
    version,
)
from tests.integration.support import config, database, listed, registry, tamper

pytestmark = pytest.mark.anyio

ROWS = 500


class CutShortError(Exception):
    """Raised at a chosen moment of an upgrade."""


def ignore(_: Progress) -> None:
    return


def backend(
    data_dir: Path,
    schema: Schema,
    *,
    on_progress: Callable[[Progress], None] = ignore,
    free_bytes: Callable[[Path], int] = lambda _: 1 << 60,
) -> SqliteBackend:
    options = SqliteOptions(
        cache_bytes=1 << 20, wal_checkpoint_pages=1_000, busy_timeout_seconds=0.02
    )
    upgrade = Upgrade(schema=schema, on_progress=on_progress, free_bytes=free_bytes)
    return SqliteBackend(database(data_dir), options, upgrade=upgrade)


async def opened(
    data_dir: Path,
    schema: Schema = upgraded(*MIGRATIONS),  # noqa: B008
    *,
    check: CheckFound = check_nothing,
    on_progress: Callable[[Progress], None] = ignore,
    free_bytes: Callable[[Path], int] = lambda _: 1 << 60,
) -> OpenedState:
    """What it opened with; it is closed again."""
    one = backend(data_dir, schema, on_progress=on_progress, free_bytes=free_bytes)
    state = await one.open(check)
    await one.close()
    return state


def rows(path: Path, statement: str) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return connection.execute(statement).fetchall()


def copy_of(data_dir: Path, number: int = OLD) -> Path:
    return data_dir / f"mpreg.db.schema-{number}"


def names(data_dir: Path) -> set[str]:
    return {entry.name for entry in data_dir.iterdir()} - {"mpreg.db-shm", "mpreg.db-wal"}


def unmigrated(data_dir: Path) -> list[tuple[object, ...]]:
    return rows(database(data_dir), "SELECT sql FROM sqlite_schema ORDER BY name")


@pytest.fixture
async def old(data_dir: Path) -> Path:
    """A store of the current version, which is the old one in these tests."""
    async with registry(data_dir) as made:
        store = made.key_value_store("s")
        async with made.transaction() as transaction:
            for number in range(ROWS):
                store.put_nowait(str(number), b"v" * number, transaction=transaction)
        await made.log_store("l").append_many([b"a", b"b"])
    return data_dir


@pytest.fixture
async def killed(old: Path, tmp_path: Path) -> Path:
    """The same, as a killed process leaves it: the last writes are in the WAL alone."""
    there = tmp_path / "killed"
    async with registry(old, wal_checkpoint_pages=16) as made:
        await made.key_value_store("s").put("last", b"only in the WAL")
        shutil.copytree(old, there)
    assert (there / "mpreg.db-wal").stat().st_size > 0
    return there


# --- it goes well ---


async def test_an_older_database_is_migrated_through_all_versions(old: Path) -> None:
    assert (await opened(old)).commit_sequence == 2
    assert version(database(old)) == NEW
    sizes = rows(database(old), "SELECT bytes FROM sizes")
    assert sorted(sizes) == [(2 * number,) for number in range(ROWS)]
    assert rows(database(old), "SELECT created_at FROM logs") == [(None,)]


async def test_a_copy_from_before_the_first_migration_is_kept(old: Path) -> None:
    before = dumped(database(old))
    await opened(old)
    assert names(old) == {"ACKED", "LOCK", "mpreg.db", copy_of(old).name}
    assert version(copy_of(old)) == OLD
    assert dumped(copy_of(old)) == before
    assert stat.S_IMODE(copy_of(old).stat().st_mode) == 0o600


async def test_the_copy_put_back_is_the_store_as_it_was(old: Path) -> None:
    await opened(old)
    for ending in ("", "-wal", "-shm"):
        Path(f"{database(old)}{ending}").unlink(missing_ok=True)
    copy_of(old).rename(database(old))
    async with registry(old) as again:
        assert len(await listed(again.key_value_store("s").scan())) == ROWS
        assert [one.data for one in await listed(again.log_store("l").read_range())] == [b"a", b"b"]


async def test_what_a_killed_process_left_in_the_wal_is_migrated_and_in_the_copy(
    killed: Path,
) -> None:
    await opened(killed)
    last = "SELECT value FROM entries WHERE value = CAST('only in the WAL' AS BLOB)"
    for path in (database(killed), copy_of(killed)):
        assert rows(path, last) == [(b"only in the WAL",)]


async def test_a_database_that_is_new_is_made_with_the_newest_schema_and_no_copy(
    data_dir: Path,
) -> None:
    data_dir.mkdir()
    create = (*CURRENT.create, *ADD_A_TABLE.steps)
    schema = Schema(create, upgraded(ADD_A_TABLE).migrations)  # type: ignore[arg-type]
    await opened(data_dir, schema)
    assert version(database(data_dir)) == OLD + 1
    assert names(data_dir) == {"mpreg.db"}


async def test_a_database_of_the_newest_schema_is_opened_without_a_copy(old: Path) -> None:
    await opened(old)
    copy_of(old).unlink()
    await opened(old)
    assert not copy_of(old).exists()


async def test_the_generation_is_higher_after_a_migration_and_the_sequence_goes_on(
    old: Path,
) -> None:
    assert await opened(old) == OpenedState(2, 2)
    assert await opened(old) == OpenedState(2, 3)


async def test_progress_and_times_are_told_in_the_log(
    old: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpreg.persistence")
    one = SqliteBackend(
        database(old),
        SqliteOptions(cache_bytes=1 << 20, wal_checkpoint_pages=100, busy_timeout_seconds=1),
        upgrade=Upgrade(schema=upgraded(*MIGRATIONS)),
    )
    await one.open()
    await one.close()
    said = "\n".join(caplog.messages)
    assert f"schema version {OLD} is migrated to {NEW}" in said
    assert f"copying to {copy_of(old).name}" in said
    assert f"migrating to schema version {NEW}: 1 of 2 steps" in said
    assert f"migrated to schema version {NEW} in 0." in said
    assert ADD_A_COLUMN.summary in said
    assert f"is kept as {copy_of(old).name}" in said


# --- it is refused ---


async def test_a_newer_schema_is_refused_with_both_versions_and_left_untouched(old: Path) -> None:
    await opened(old)
    before = database(old).read_bytes()
    with pytest.raises(SchemaVersionError, match=f"version {NEW} is newer than version {OLD}"):
        async with registry(old):
            pass
    assert database(old).read_bytes() == before


async def test_a_newer_schema_that_only_the_wal_tells_of_is_refused_as_well(killed: Path) -> None:
    with closing(sqlite3.connect(database(killed), isolation_level=None)) as connection:
        connection.execute(f"PRAGMA user_version = {NEW}")
        shutil.copytree(killed, killed.with_name("newer"))
    with pytest.raises(SchemaVersionError, match=f"version {NEW} is newer than version {OLD}"):
        async with registry(killed.with_name("newer")):
            pass


@pytest.mark.parametrize("number", [0, -1])
async def test_a_schema_version_that_was_never_given_is_damage(old: Path, number: int) -> None:
    with closing(sqlite3.connect(database(old))) as connection:
        connection.execute(f"PRAGMA user_version = {number}")
    with pytest.raises(CorruptDataError, match=f"schema version {number} was never given"):
        await opened(old)


async def test_who_only_reads_an_older_schema_is_told_that_opening_it_migrates_it(
    old: Path,
) -> None:
    before = database(old).read_bytes()
    found = look_at(database(old), NEW)
    assert found is not None
    assert found.commit_sequence == 2, "this much can be told of any version"
    with (
        closing(sqlite3.connect(f"{database(old).as_uri()}?mode=ro", uri=True)) as connection,
        pytest.raises(SchemaVersionError) as caught,
    ):
        check_readable(connection, database(old), NEW)
    assert f"schema version {OLD} is older than version {NEW}" in str(caught.value)
    assert f"migrates it, and keeps a copy as {copy_of(old).name}" in str(caught.value)
    assert database(old).read_bytes() == before
    assert not copy_of(old).exists()


async def test_missing_acked_data_is_told_before_anything_is_migrated(old: Path) -> None:
    async with registry(old) as opened_again:
        await opened_again.key_value_store("s").put("one more", b"")
        earlier = AckedFile(old / "ACKED")
        assert earlier.read() is not None
    with closing(sqlite3.connect(database(old), isolation_level=None)) as connection:
        connection.execute("UPDATE meta SET commit_sequence = 1")
    with pytest.raises(AckedDataLostError):
        await opened(old, check=Accounting(AckedFile(old / "ACKED")).check)
    assert version(database(old)) == OLD
    assert not copy_of(old).exists()


# --- there is no room ---


async def test_without_room_for_the_copy_nothing_is_begun(old: Path) -> None:
    size = database(old).stat().st_size
    before = unmigrated(old)
    with pytest.raises(StorageFullError, match=f"copy of {size:,} bytes .* only 4,096 bytes"):
        await opened(old, free_bytes=lambda _: 4_096)
    assert names(old) == {"ACKED", "LOCK", "mpreg.db"}
    assert (version(database(old)), unmigrated(old)) == (OLD, before)
    await opened(old, free_bytes=lambda _: size)
    assert version(database(old)) == NEW


async def test_a_disk_that_is_full_in_the_middle_of_the_copy_leaves_nothing_of_it(
    old: Path,
) -> None:
    def full(progress: Progress) -> None:
        if progress.unit == "pages":
            error = sqlite3.OperationalError("database or disk is full")
            error.sqlite_errorcode = sqlite3.SQLITE_FULL
            raise error

    with pytest.raises(StorageFullError):
        await opened(old, on_progress=full)
    assert names(old) == {"ACKED", "LOCK", "mpreg.db"}
    await opened(old)
    assert version(database(old)) == NEW


async def test_a_migration_that_finds_no_room_is_rolled_back(old: Path) -> None:
    def fill(connection: sqlite3.Connection) -> None:
        connection.execute("PRAGMA max_page_count = 1")
        connection.execute("CREATE TABLE huge (data BLOB)")
        connection.execute("INSERT INTO huge VALUES (zeroblob(1000000))")

    before = unmigrated(old)
    with pytest.raises(MigrationFailedError, match="no room left on the device") as caught:
        await opened(old, upgraded(Migration("fills the disk", (fill,))))
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    assert (version(database(old)), unmigrated(old)) == (OLD, before)
    await opened(old)
    assert version(database(old)) == NEW


# --- it fails, or is cut short ---


@pytest.mark.parametrize(
    "step",
    ["CREATE TABLE entries (a)", "no SQL at all", lambda _: 1 / 0],
    ids=["a table that is there", "a statement that is none", "a function that raises"],
)
async def test_a_migration_that_fails_leaves_the_version_before_it(old: Path, step: Step) -> None:
    failing = Migration("fails", (*ADD_A_COLUMN.steps, step))
    with pytest.raises(MigrationFailedError) as caught:
        await opened(old, upgraded(ADD_A_TABLE, failing))
    error = caught.value
    assert (error.from_version, error.to_version) == (OLD + 1, NEW)
    assert error.copy == copy_of(old)
    assert error.__cause__ is not None
    assert f"from schema version {OLD + 1} to {NEW}" in str(error)
    assert version(database(old)) == OLD + 1
    assert max(rows(database(old), "SELECT bytes FROM sizes")) == (ROWS - 1,)
    copied = copy_of(old).read_bytes()
    await opened(old)
    assert version(database(old)) == NEW
    assert copy_of(old).read_bytes() == copied, "the one from before the first migration"
    assert names(old) == {"ACKED", "LOCK", "mpreg.db", copy_of(old).name}


async def test_a_step_that_ends_the_transaction_is_told(old: Path) -> None:
    def end_it(connection: sqlite3.Connection) -> None:
        connection.executescript("CREATE TABLE a (b);")

    with pytest.raises(MigrationFailedError, match="ended the transaction"):
        await opened(old, upgraded(Migration("careless", (end_it,))))


class CutShort:
    """Raises at one of the moments of an upgrade that are told."""

    def __init__(self, fails_at: int) -> None:
        self._left = fails_at

    def __call__(self, _: Progress) -> None:
        self._left -= 1
        if self._left < 0:
            raise CutShortError


async def test_interrupted_at_any_moment_it_goes_on_at_the_next_opening(
    old: Path, tmp_path: Path
) -> None:
    whole = tmp_path / "whole"
    shutil.copytree(old, whole)
    moments: list[Progress] = []
    await opened(whole, on_progress=moments.append)
    assert len(moments) >= 1 + 3 + 3
    for moment in range(len(moments)):
        there = tmp_path / str(moment)
        shutil.copytree(old, there)
        with pytest.raises((CutShortError, MigrationFailedError)):
            await opened(there, on_progress=CutShort(moment))
        assert version(database(there)) in (OLD, OLD + 1)
        assert not any(name.endswith(".creating") for name in names(there))
        await opened(there)
        assert version(database(there)) == NEW
        assert names(there) == names(whole)
        for table in ("sizes", "entries", "logs", "records"):
            both = [rows(database(one), f"SELECT * FROM {table}") for one in (there, whole)]
            assert both[0] == both[1]


# --- a copy is there already ---


async def test_a_copy_of_another_state_is_never_overwritten(old: Path) -> None:
    await opened(old)
    kept = copy_of(old).read_bytes()
    # Somebody went back to the mpreg before, which wrote more, and then forward again.
    for ending in ("", "-wal", "-shm"):
        Path(f"{database(old)}{ending}").unlink(missing_ok=True)
    shutil.copy(copy_of(old), database(old))
    async with registry(old, accept_acked_data_loss=None) as again:
        await again.key_value_store("s").put("more", b"")
    with pytest.raises(DataDirectoryError, match="it is not overwritten") as caught:
        await opened(old)
    assert caught.value.path == copy_of(old)
    assert (version(database(old)), copy_of(old).read_bytes()) == (OLD, kept)
    copy_of(old).unlink()
    await opened(old)
    assert version(database(old)) == NEW


@pytest.mark.parametrize("content", [b"", b"something else", b"SQLite format 3\x00" + bytes(200)])
async def test_a_file_in_the_place_of_the_copy_is_never_overwritten(
    old: Path, content: bytes
) -> None:
    copy_of(old).write_bytes(content)
    with pytest.raises(DataDirectoryError, match="it is not overwritten"):
        await opened(old)
    assert copy_of(old).read_bytes() == content


async def test_a_later_upgrade_keeps_a_copy_of_its_own(old: Path) -> None:
    await opened(old, upgraded(ADD_A_TABLE))
    await opened(old, upgraded(ADD_A_TABLE))
    await opened(old)
    assert version(copy_of(old, OLD)) == OLD
    assert version(copy_of(old, OLD + 1)) == OLD + 1


async def test_half_a_copy_that_a_killed_process_left_is_made_anew(old: Path) -> None:
    (old / f"{copy_of(old).name}.creating").write_bytes(b"half a copy")
    await opened(old)
    assert names(old) == {"ACKED", "LOCK", "mpreg.db", copy_of(old).name}


# --- damage ---


async def test_a_damaged_database_is_not_migrated(old: Path) -> None:
    page = rows(database(old), "SELECT rootpage FROM sqlite_schema WHERE name = 'records'")[0][0]
    assert isinstance(page, int)
    with database(old).open("r+b") as file:
        file.seek((page - 1) * 4_096)
        file.write(b"\xff" * 4_096)
    before = database(old).read_bytes()
    with pytest.raises(CorruptDataError, match="was not migrated"):
        await opened(old)
    assert database(old).read_bytes() == before
    assert not copy_of(old).exists()


async def test_an_entry_whose_checksum_is_wrong_keeps_nothing_from_being_migrated(
    old: Path,
) -> None:
    tamper(old, "UPDATE entries SET checksum = 0 WHERE length(value) = 7")
    await opened(old)
    assert version(database(old)) == NEW


# --- a registry ---


@pytest.fixture
def newer_mpreg(old: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From now on registries are of the mpreg to come, whose schema is newer."""
    assert version(database(old)) == OLD
    upgrade = Upgrade
    monkeypatch.setattr(
        "mpreg.persistence.engine.Upgrade",
        lambda clock: upgrade(clock=clock, schema=upgraded(*MIGRATIONS)),
    )


@pytest.mark.usefixtures("newer_mpreg")
async def test_a_registry_migrates_and_serves_what_is_there(old: Path) -> None:
    async with registry(old) as again:
        assert len(await listed(again.key_value_store("s").scan())) == ROWS
        await again.key_value_store("s").put("new", b"")
        assert await again.log_store("l").append(b"c") == 2
    assert version(database(old)) == NEW


@pytest.mark.usefixtures("newer_mpreg")
async def test_a_registry_that_cannot_migrate_is_not_opened_and_lets_go_of_the_directory(
    old: Path,
) -> None:
    copy_of(old).write_bytes(b"in the way")
    for _ in range(2):
        with pytest.raises(DataDirectoryError, match="not overwritten"):
            async with registry(old):
                pass
    copy_of(old).unlink()
    async with registry(old) as again:
        assert await again.key_value_store("s").get("1") is not None


async def test_cancelled_while_it_is_migrated_it_is_migrated_and_nothing_stays_open(
    old: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A transaction on a thread is not left half way: who is in a hurry kills the process."""
    upgrade = Upgrade
    with anyio.CancelScope() as scope:
        call_soon = call_soon_from_anywhere()

        def cancel(_: Progress) -> None:
            call_soon(scope.cancel)

        monkeypatch.setattr(
            "mpreg.persistence.engine.Upgrade",
            lambda clock: upgrade(clock=clock, schema=upgraded(*MIGRATIONS), on_progress=cancel),
        )
        async with PersistenceRegistry(config(old)):
            raise AssertionError("the block was entered")
    assert scope.cancelled_caught
    assert version(database(old)) == NEW
    async with registry(old) as again:
        assert await again.key_value_store("s").get("1") is not None

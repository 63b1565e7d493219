"""Large values through a registry: beside those of the first schema, and in backups."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mpreg.persistence import CorruptDataError, PersistenceRegistry
from mpreg.persistence.backends.sqlite.schema import LARGE_VALUE_BYTES
from mpreg.persistence.maintenance import backup, restore, verify
from mpreg.persistence.maintenance.manifest import (
    BackupManifest,
    file_digest,
    read_manifest,
    write_manifest,
)
from mpreg.persistence.maintenance.worker import Control
from mpreg.persistence.own_names import DATABASE_NAME
from tests.data.schemas.kept import directory_of
from tests.data.schemas.make_kept_database import WALL
from tests.integration.support import TurnedClock, database, registry, tamper

pytestmark = pytest.mark.anyio

LARGE = LARGE_VALUE_BYTES + 1
FIRST = directory_of("sqlite", 1)
#: What `make_kept_database` has written under the key "large".
KEPT = bytes(range(256)) * 20


def large_keys(data_dir: Path) -> set[bytes]:
    """The keys, as users know them, of all rows of the table of large values."""
    with closing(sqlite3.connect(database(data_dir))) as connection:
        return {key[1:] for (key,) in connection.execute("SELECT key FROM large_values")}


def first_schema(data_dir: Path) -> PersistenceRegistry:
    if not data_dir.exists():
        shutil.copytree(FIRST / "closed", data_dir)
    return registry(data_dir, clock=TurnedClock(WALL))


async def test_large_values_of_the_first_schema_stay_where_they_are_until_written_anew(
    data_dir: Path,
) -> None:
    async with first_schema(data_dir) as opened:
        things = opened.key_value_store("things")
        found = await things.get("large")
        assert found is not None
        assert found.value == KEPT
        assert large_keys(data_dir) == set()
        await things.put("large", KEPT, expected_version=found.version)
        assert large_keys(data_dir) == {b"large"}
        image = await opened.snapshot_store("image").load()
        assert image is not None
        await opened.snapshot_store("image").save(image.data)
    # The snapshot is one chunk, where it was two.
    assert len(large_keys(data_dir)) == 2
    assert (await verify(data_dir, full=True)).sound


async def test_a_migrated_store_that_is_as_it_was_is_sound(data_dir: Path) -> None:
    async with first_schema(data_dir):
        pass
    report = await verify(data_dir, full=True)
    assert report.sound
    assert report.findings == ()


async def test_a_large_value_that_expires_is_swept_with_its_entry(data_dir: Path) -> None:
    clock = TurnedClock(WALL)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("goes", bytes(LARGE), ttl_seconds=1.0)
        await store.put("stays", bytes(LARGE), ttl_seconds=10.0)
        clock.now = WALL + 2.0
        assert await store.get("goes") is None
        assert await store.sweep_expired() == 1
    assert large_keys(data_dir) == {b"stays"}


async def test_a_backup_has_the_large_values_and_tells_of_one_that_is_missing(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("key", b"x" * LARGE)
        await backup(data_dir, tmp_path / "backup")
    await restore(tmp_path / "backup", tmp_path / "restored")
    async with registry(tmp_path / "restored") as opened:
        found = await opened.key_value_store("s").get("key")
        assert found is not None
        assert found.value == b"x" * LARGE
    tamper(data_dir, "DELETE FROM large_values")
    with pytest.raises(CorruptDataError, match="large value is missing"):
        await backup(data_dir, tmp_path / "another")


# --- backups of the first schema ---


def old_backup(directory: Path, *, damaged: int = 0) -> Path:
    """As the mpreg before has made it, of a store that was closed."""
    directory.mkdir()
    shutil.copy(FIRST / "closed" / DATABASE_NAME, directory)
    file = directory / DATABASE_NAME
    with closing(sqlite3.connect(f"{file.as_uri()}?immutable=1", uri=True)) as connection:
        numbers = connection.execute(
            "SELECT generation, commit_sequence, last_version FROM meta"
        ).fetchone()
    write_manifest(
        directory,
        BackupManifest(
            source="/elsewhere",
            made_at=WALL,
            generation=numbers[0],
            commit_sequence=numbers[1],
            last_version=numbers[2],
            size_bytes=file.stat().st_size,
            sha256=file_digest(file, Control()),
            quarantine={},
            damaged=damaged,
        ),
    )
    return directory


async def test_a_backup_of_an_older_schema_is_restored_and_migrated_when_it_is_opened(
    data_dir: Path, tmp_path: Path
) -> None:
    made = old_backup(tmp_path / "backup")
    report = await restore(made, data_dir)
    assert report.commit_sequence == read_manifest(made).commit_sequence
    async with first_schema(data_dir) as opened:
        found = await opened.key_value_store("things").get("large")
        assert found is not None
        assert found.value == KEPT


async def test_a_backup_of_an_older_schema_that_was_changed_is_not_restored(
    data_dir: Path, tmp_path: Path
) -> None:
    made = old_backup(tmp_path / "backup")
    with (made / DATABASE_NAME).open("r+b") as file:
        file.seek(-1, 2)
        file.write(b"\xff")
    with pytest.raises(CorruptDataError, match="not what the backup wrote"):
        await restore(made, data_dir)
    assert not data_dir.exists()


async def test_a_backup_of_an_older_schema_of_a_damaged_store_is_only_restored_as_one(
    data_dir: Path, tmp_path: Path
) -> None:
    made = old_backup(tmp_path / "backup", damaged=1)
    with pytest.raises(CorruptDataError, match="made of a damaged store"):
        await restore(made, data_dir)
    await restore(made, data_dir, allow_damaged=True)
    async with first_schema(data_dir) as opened:
        assert await opened.key_value_store("things").get("large") is not None

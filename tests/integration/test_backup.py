"""Backing up a store in use, and making a directory of the backup again."""

from __future__ import annotations

import random
from pathlib import Path

import anyio
import pytest

from mpreg.codec import encode_key
from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    InvalidArgumentError,
    PersistenceRegistry,
)
from mpreg.persistence.maintenance import backup, restore, verify
from mpreg.persistence.maintenance.manifest import read_manifest
from tests.integration.maintenance_support import fill, filled, read_all
from tests.integration.support import config, database, registry, tamper

pytestmark = pytest.mark.anyio


@pytest.fixture
def destination(tmp_path: Path) -> Path:
    return tmp_path / "backups" / "nightly"


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def put_one(data_dir: Path, backend: str) -> None:
    async with registry(data_dir, backend=backend) as opened:
        await opened.key_value_store("shelf").put("key", b"value")


async def test_a_backup_of_a_closed_store_is_restored_with_all_that_was_in_it(
    data_dir: Path, destination: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    report = await backup(data_dir, destination)
    assert report.verification.sound
    assert names(destination) == ["BACKUP", "mpreg.db", "values"]
    assert names(destination.parent) == ["nightly"]
    assert read_manifest(destination).commit_sequence == report.commit_sequence
    assert destination.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in destination.rglob("*") if path.is_file()} == {
        0o600
    }

    restored = tmp_path / "restored"
    done = await restore(destination, restored)
    assert (done.commit_sequence, done.replaced) == (report.commit_sequence, False)
    assert names(restored) == ["ACKED", "mpreg.db", "values"]
    assert (await verify(restored, full=True)).sound
    assert await read_all(restored) == await read_all(data_dir)


async def test_what_was_acked_before_a_backup_began_is_in_it_and_no_batch_is_torn(
    data_dir: Path, destination: Path, tmp_path: Path
) -> None:
    acked: list[int] = []
    half = anyio.Event()
    async with registry(data_dir) as opened:

        async def write() -> None:
            pairs, log = opened.key_value_store("pairs"), opened.log_store("numbers")
            for number in range(100_000):
                async with opened.transaction() as transaction:
                    pairs.put_nowait(f"a{number}", bytes(500), transaction=transaction)
                    pairs.put_nowait(f"b{number}", bytes(500), transaction=transaction)
                    log.append_nowait(b"%d" % number, transaction=transaction)
                acked.append(number)
                if number == 200:
                    half.set()

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(write)
            await half.wait()
            before = len(acked)
            # Slow enough that hundreds of commits come between its steps.
            report = await backup(data_dir, destination, bytes_per_second=4e6)
            assert len(acked) > before
            task_group.cancel_scope.cancel()
    assert report.verification.sound
    await restore(destination, tmp_path / "restored")
    async with registry(tmp_path / "restored") as opened:
        pairs = opened.key_value_store("pairs")
        kept = await opened.log_store("numbers").next_offset()
        assert before <= kept <= len(acked) + 1
        for number in range(kept):
            assert await pairs.get(f"a{number}") is not None
            assert await pairs.get(f"b{number}") is not None
        assert await pairs.get(f"b{kept}") is None


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE entries SET version = NULL WHERE key = ?",
        "UPDATE entries SET checksum = NULL WHERE key = ?",
        "UPDATE entries SET value = NULL WHERE key = ?",
    ],
)
async def test_an_entry_that_lacks_a_column_is_no_part_of_a_sound_backup(
    data_dir: Path, destination: Path, damage: str
) -> None:
    await filled(data_dir)
    tamper(data_dir, damage, (encode_key("key 3"),))
    with pytest.raises(CorruptDataError, match="key 'key 3'"):
        await backup(data_dir, destination)


async def test_an_unchanged_store_is_not_copied_again(data_dir: Path, destination: Path) -> None:
    await filled(data_dir)
    assert not (await backup(data_dir, destination)).unchanged
    inode = database(destination).stat().st_ino
    assert (await backup(data_dir, destination)).unchanged
    assert database(destination).stat().st_ino == inode
    async with registry(data_dir) as opened:
        await opened.key_value_store("shelf").put("more", b"")
        assert not (await backup(data_dir, destination)).unchanged
    assert names(destination.parent) == ["nightly"]


async def test_a_damaged_backup_of_an_unchanged_store_is_made_anew(
    data_dir: Path, destination: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, destination)
    # Nothing that a checksum of an item covers.
    content = bytearray(database(destination).read_bytes())
    content[-1] ^= 1
    database(destination).write_bytes(content)
    assert not (await backup(data_dir, destination)).unchanged
    assert (await backup(data_dir, destination)).unchanged
    database(destination).unlink()
    assert not (await backup(data_dir, destination)).unchanged


async def test_a_damaged_store_does_not_replace_a_sound_backup_unless_asked(
    data_dir: Path, destination: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    first = await backup(data_dir, destination)
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100")
    tamper(data_dir, "UPDATE meta SET commit_sequence = commit_sequence + 1")
    with pytest.raises(CorruptDataError, match="log 'audit', offset 9"):
        await backup(data_dir, destination)
    assert read_manifest(destination).commit_sequence == first.commit_sequence
    assert names(destination.parent) == ["nightly"]

    taken = await backup(data_dir, destination, allow_damaged=True)
    assert (taken.verification.damaged, read_manifest(destination).damaged) == (1, 1)
    with pytest.raises(CorruptDataError, match="nothing was restored"):
        await restore(destination, tmp_path / "restored")
    assert not (tmp_path / "restored").exists()
    await restore(destination, tmp_path / "restored", allow_damaged=True)
    assert (await verify(tmp_path / "restored")).damaged == 1


async def test_what_is_no_backup_is_not_replaced(data_dir: Path, destination: Path) -> None:
    await filled(data_dir, entries=1)
    destination.mkdir(parents=True)
    (destination / "letters.txt").write_text("mine")
    with pytest.raises(DataDirectoryError, match="no backup"):
        await backup(data_dir, destination)
    with pytest.raises(DataDirectoryError, match="are the same"):
        await backup(data_dir, data_dir)
    assert names(destination) == ["letters.txt"]


@pytest.mark.parametrize("backend", ["sqlite", "file"])
@pytest.mark.parametrize(
    "foreign", ["thesis", "README", "quarantine/notes.txt", "quarantine.jsonl", "LOCK", "ACKED"]
)
async def test_a_file_beside_a_backup_is_named_and_not_lost(
    data_dir: Path, destination: Path, backend: str, foreign: str
) -> None:
    await put_one(data_dir, backend)
    await backup(data_dir, destination)
    await put_one(data_dir, backend)
    (destination / foreign).parent.mkdir(exist_ok=True)
    (destination / foreign).write_text("precious")
    with pytest.raises(DataDirectoryError, match=foreign):
        await backup(data_dir, destination)
    assert (destination / foreign).read_text() == "precious"
    (destination / foreign).unlink()
    assert not (await backup(data_dir, destination)).unchanged


async def test_links_and_directories_with_the_names_of_a_backup_are_not_lost(
    data_dir: Path, destination: Path
) -> None:
    await put_one(data_dir, "sqlite")
    await backup(data_dir, destination)
    (destination / "mpreg.journal").mkdir()
    (destination / "mpreg.db-wal").symlink_to(data_dir)
    with pytest.raises(DataDirectoryError, match=r"mpreg\.db-wal, mpreg\.journal;"):
        await backup(data_dir, destination)
    assert (destination / "mpreg.journal").is_dir()


@pytest.mark.parametrize("beside", [["thesis"], ["mpreg.db", "thesis"], []])
async def test_a_file_with_the_name_of_a_manifest_makes_no_backup(
    data_dir: Path, destination: Path, beside: list[str]
) -> None:
    await put_one(data_dir, "sqlite")
    destination.mkdir(parents=True)
    for name in ("BACKUP", *beside):
        (destination / name).write_text("notes")
    with pytest.raises(DataDirectoryError, match="thesis" if len(beside) == 2 else "no backup"):
        await backup(data_dir, destination)
    assert names(destination) == sorted(["BACKUP", *beside])


async def test_a_backup_with_a_damaged_manifest_is_replaced(
    data_dir: Path, destination: Path
) -> None:
    await put_one(data_dir, "sqlite")
    await backup(data_dir, destination)
    (destination / "BACKUP").write_bytes(b"{")
    assert not (await backup(data_dir, destination)).unchanged
    assert names(destination) == ["BACKUP", "mpreg.db"]


@pytest.mark.parametrize("speed", [0, -1.0, float("nan")])
async def test_a_speed_that_makes_no_sense_is_refused(
    data_dir: Path, destination: Path, speed: float
) -> None:
    with pytest.raises(InvalidArgumentError):
        await backup(data_dir, destination, bytes_per_second=speed)


async def test_a_cancelled_backup_leaves_nothing_and_the_one_before(
    data_dir: Path, destination: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, destination)
    async with registry(data_dir) as opened:
        # More than is copied without a pause.
        for number in range(4):
            await opened.key_value_store("shelf").put(f"more {number}", bytes(100_000))
        with anyio.move_on_after(0.1) as scope:
            await backup(data_dir, destination, bytes_per_second=1000.0)
        assert scope.cancelled_caught
    assert names(destination.parent) == ["nightly"]
    assert read_manifest(destination).damaged == 0


async def test_what_a_killed_backup_has_left_is_removed_by_the_next(
    data_dir: Path, destination: Path
) -> None:
    await filled(data_dir, entries=1)
    left = destination.parent / ".nightly.mpreg-new"
    (left / "deep").mkdir(parents=True)
    (left / "mpreg.db").write_bytes(b"half")
    await backup(data_dir, destination)
    assert names(destination.parent) == ["nightly"]
    assert (await verify(destination)).sound


async def test_two_backups_to_one_place_do_not_meet(data_dir: Path, destination: Path) -> None:
    await filled(data_dir)

    async def slow() -> None:
        await backup(data_dir, destination, bytes_per_second=2e6)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(slow)
        while not (destination.parent / ".nightly.mpreg-new" / "mpreg.db").exists():
            await anyio.lowlevel.checkpoint()
        with pytest.raises(DataDirectoryError, match="another command"):
            await backup(data_dir, destination)
    assert names(destination.parent) == ["nightly"]
    assert (await verify(destination)).sound


# --- restoring ---


async def test_a_directory_in_use_is_not_restored_into(data_dir: Path, destination: Path) -> None:
    async with registry(data_dir) as opened:
        await fill(opened, entries=1)
        await backup(data_dir, destination)
        with pytest.raises(DataDirectoryLockedError):
            await restore(destination, data_dir, overwrite=True)
        assert await opened.key_value_store("shelf").get("key 0")


async def test_a_store_is_replaced_only_where_that_is_asked_for(
    data_dir: Path, destination: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, destination)
    before = await read_all(data_dir)
    async with registry(data_dir) as opened:
        await opened.key_value_store("shelf").put("later", b"")
    with pytest.raises(DataDirectoryError, match="--overwrite"):
        await restore(destination, data_dir)
    done = await restore(destination, data_dir, overwrite=True)
    assert done.replaced
    assert await read_all(data_dir) == before
    assert names(data_dir.parent) == ["backups", "data"]


@pytest.mark.parametrize("seed", range(5))
async def test_a_damaged_backup_is_refused_and_nothing_changes(
    data_dir: Path, destination: Path, tmp_path: Path, seed: int
) -> None:
    await filled(data_dir, entries=10)
    await backup(data_dir, destination)
    rng = random.Random(seed)
    content = bytearray(database(destination).read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    database(destination).write_bytes(content)
    before = await read_all(data_dir)
    with pytest.raises(CorruptDataError, match="nothing was restored"):
        await restore(destination, data_dir, overwrite=True)
    assert await read_all(data_dir) == before
    assert not (tmp_path / ".data.mpreg-new").exists()


async def test_what_is_no_backup_is_not_restored(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir, entries=1)
    with pytest.raises(DataDirectoryError, match="not a backup"):
        await restore(data_dir, tmp_path / "restored")
    with pytest.raises(DataDirectoryError, match="not a backup"):
        await restore(tmp_path / "nothing", tmp_path / "restored")


async def test_a_backup_with_a_damaged_manifest_is_refused(
    data_dir: Path, destination: Path, tmp_path: Path
) -> None:
    await filled(data_dir, entries=1)
    await backup(data_dir, destination)
    (destination / "BACKUP").write_bytes(b'{"format_version": 1')
    with pytest.raises(CorruptDataError, match="manifest"):
        await restore(destination, tmp_path / "restored")


async def test_a_restored_store_goes_on_where_it_was(
    data_dir: Path, destination: Path, tmp_path: Path
) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        version = await store.put("k", b"1")
        await opened.log_store("l").append_many([b"a", b"b"])
        await opened.log_store("l").truncate_before(2)
        await backup(data_dir, destination)
    await restore(destination, tmp_path / "restored")
    async with PersistenceRegistry(opened.config.__class__(data_dir=tmp_path / "restored")) as new:
        assert await new.key_value_store("s").put("k", b"2", expected_version=version) > version
        assert await new.log_store("l").append(b"c") == 2


@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_a_store_that_went_another_way_after_a_restore_is_copied(
    data_dir: Path, tmp_path: Path, backend: str
) -> None:
    """It counts the same numbers for other commits."""
    settings = config(data_dir, backend=backend)

    async def put(key: str, value: bytes) -> None:
        async with PersistenceRegistry(settings) as opened:
            await opened.key_value_store("s").put(key, value)

    await put("a", b"1")
    await backup(data_dir, tmp_path / "first")
    await put("b", b"left")
    await backup(data_dir, tmp_path / "second")
    await restore(tmp_path / "first", data_dir, overwrite=True)
    await put("b", b"kept")
    report = await backup(data_dir, tmp_path / "second")
    assert not report.unchanged
    await restore(tmp_path / "second", tmp_path / "again")
    async with PersistenceRegistry(config(tmp_path / "again", backend=backend)) as opened:
        found = await opened.key_value_store("s").get("b")
        assert found is not None
        assert found.value == b"kept"

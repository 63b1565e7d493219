"""Acknowledged data that is gone: told before anything is touched, passed over only by order."""

from __future__ import annotations

import errno
import logging
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import (
    AckedDataLostError,
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    Durability,
    PersistenceRegistry,
    SchemaVersionError,
    accounting,
)
from mpreg.persistence.acked_file import AckedFile
from mpreg.persistence.acked_record import BLOCK_BYTES, AckedRecord
from tests.integration.support import database, listed, registry

pytestmark = pytest.mark.anyio

#: Of the WAL's format: https://www.sqlite.org/fileformat.html#the_write_ahead_log
WAL_HEADER, FRAME_HEADER, PAGE = 32, 24, 4096


def acked(data_dir: Path) -> AckedRecord | None:
    return AckedFile(data_dir / "ACKED").read()


async def count(opened: PersistenceRegistry) -> int:
    return len(await listed(opened.key_value_store("s").scan()))


async def put_many(opened: PersistenceRegistry, start: int, stop: int) -> None:
    """A commit for each, all in the WAL."""
    for number in range(start, stop):
        await opened.key_value_store("s").put(f"{number:03}", bytes(100))


async def crashed(data_dir: Path, commits: int, *, first: int = 1) -> Path:
    """The directory as a process leaves it that is killed after these commits, when the last of
    them has been written down."""
    image = data_dir.with_name(f"{data_dir.name} crashed {commits}")
    async with registry(data_dir) as opened:
        await put_many(opened, first, first + commits)
        shutil.copytree(data_dir, image)
    shutil.copy(data_dir / "ACKED", image / "ACKED")
    return image


def commit_frames(wal: Path) -> list[int]:
    """Where the last frame of each transaction in a WAL ends."""
    data = wal.read_bytes()
    salt = data[16:24]
    ends = []
    for start in range(WAL_HEADER, len(data), FRAME_HEADER + PAGE):
        header = data[start : start + FRAME_HEADER]
        if header[8:16] != salt:
            break
        if header[4:8] != bytes(4):
            ends.append(start + FRAME_HEADER + PAGE)
    return ends


def keep_commits(image: Path, commits: int, how: str) -> None:
    """Damage the WAL so that SQLite finds this many commits in it; the first is the opening's."""
    wal = Path(f"{database(image)}-wal")
    end = commit_frames(wal)[commits]
    if how == "cut off":
        os.truncate(wal, end)
    elif how == "cut off inside a frame":
        os.truncate(wal, end + 100)
    else:
        with wal.open("r+b") as file:
            file.seek(end + FRAME_HEADER + 7)
            (byte,) = file.read(1)
            file.seek(-1, os.SEEK_CUR)
            file.write(bytes([byte ^ 1]))


def contents(directory: Path) -> dict[str, bytes]:
    # SQLite's index of the WAL is made anew by whoever looks into it.
    return {
        entry.name: entry.read_bytes()
        for entry in directory.rglob("*")
        if entry.is_file() and not entry.name.endswith("-shm")
    }


async def refused(image: Path, **settings: Any) -> AckedDataLostError:
    """What the opening says, which changes nothing."""
    before = contents(image)
    with pytest.raises(AckedDataLostError) as caught:
        async with registry(image, **settings):
            raise AssertionError("not reached")
    assert contents(image) == before
    return caught.value


# --- a damaged WAL ---


@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "cut off inside a frame"])
@pytest.mark.parametrize("kept", [0, 7, 19])
async def test_a_damaged_wal_is_told_with_what_is_missing_and_opened_where_that_is_accepted(
    data_dir: Path, how: str, kept: int, caplog: pytest.LogCaptureFixture
) -> None:
    image = await crashed(data_dir, 20)
    keep_commits(image, kept, how)
    for _ in range(2):
        error = await refused(image)
        assert (error.path, error.first_sequence, error.last_sequence) == (image, kept + 1, 20)
        assert (error.found_sequence, error.generation) == (kept, 1)
    with caplog.at_level(logging.WARNING):
        async with registry(image, accept_acked_data_loss=error.acceptance) as opened:
            assert await count(opened) == kept
            await put_many(opened, 100, 103)
    assert f"commits {kept + 1} to 20 were acknowledged and are missing" in caplog.text
    async with registry(image) as opened:
        assert await count(opened) == kept + 3
    assert acked(image) == AckedRecord(3, kept + 3, kept + 3)


async def test_a_wal_that_is_left_out_is_told(data_dir: Path) -> None:
    image = await crashed(data_dir, 5)
    Path(f"{database(image)}-wal").unlink()
    assert (await refused(image)).first_sequence == 1


async def test_an_acceptance_left_in_the_settings_does_not_hide_the_next_loss(
    data_dir: Path,
) -> None:
    image = await crashed(data_dir, 20)
    keep_commits(image, 5, "cut off")
    settings: Any = {"accept_acked_data_loss": (await refused(image)).acceptance}
    async with registry(image, **settings):
        pass
    again = image.with_name("again")
    async with registry(image, **settings) as opened:
        await put_many(opened, 0, 15)
        shutil.copytree(image, again)
    shutil.copy(image / "ACKED", again / "ACKED")
    keep_commits(again, 0, "cut off")
    error = await refused(again, **settings)
    assert (error.first_sequence, error.last_sequence) == (6, 20), "the same commits once more"
    assert error.acceptance != settings["accept_acked_data_loss"]


async def test_a_generation_that_the_disk_has_lost_is_not_given_again(data_dir: Path) -> None:
    image = await crashed(data_dir, 0)
    Path(f"{database(image)}-wal").unlink()
    async with registry(image) as opened:
        assert (await opened.stats()).generation == 2, "the first one was only in the WAL"


async def test_what_was_acked_as_relaxed_is_not_accounted_for(data_dir: Path) -> None:
    image = data_dir.with_name("image")
    async with registry(data_dir, accounting_interval_seconds=0.001) as opened:
        await put_many(opened, 0, 3)
        for _ in range(5):
            await opened.key_value_store("s").put("k", b"", durability=Durability.RELAXED)
        await _written(data_dir, 3)
        shutil.copytree(data_dir, image)
    keep_commits(image, 3, "cut off")
    async with registry(image) as opened:
        assert (await opened.stats()).commit_sequence == 3


async def _written(data_dir: Path, sequence: int) -> None:
    """Return when the file says so."""
    with anyio.fail_after(30):
        while (record := acked(data_dir)) is None or record.sequence < sequence:
            await anyio.sleep(0.005)


async def test_it_is_written_while_the_registry_is_open(data_dir: Path) -> None:
    async with registry(data_dir, accounting_interval_seconds=0.001) as opened:
        assert acked(data_dir) == AckedRecord(1, 0, 0)
        for sequence in range(1, 4):
            await put_many(opened, sequence, sequence + 1)
            await _written(data_dir, sequence)
            assert acked(data_dir) == AckedRecord(1, 0, sequence)


async def test_closing_writes_down_what_was_acked(data_dir: Path) -> None:
    async with registry(data_dir, accounting_interval_seconds=3600) as opened:
        acks = [opened.key_value_store("s").put_nowait(str(number), b"") for number in range(3)]
    assert all(ack.done for ack in acks)
    record = acked(data_dir)
    assert record is not None
    assert record.sequence == (await opened.stats()).commit_sequence


# --- another database, or none ---


async def test_an_older_copy_put_in_its_place_is_told(data_dir: Path, tmp_path: Path) -> None:
    async with registry(data_dir) as opened:
        await put_many(opened, 0, 3)
    shutil.copy(database(data_dir), tmp_path / "backup")
    async with registry(data_dir) as opened:
        await put_many(opened, 3, 5)
    shutil.copy(tmp_path / "backup", database(data_dir))
    error = await refused(data_dir)
    assert (error.found_sequence, error.acceptance) == (3, "2/4-5")
    async with registry(data_dir, accept_acked_data_loss="2/4-5") as opened:
        assert await count(opened) == 3
        assert (await opened.stats()).generation == 3


async def test_a_copy_that_went_on_by_itself_is_told_though_it_counts_further(
    data_dir: Path, tmp_path: Path
) -> None:
    image = await crashed(data_dir, 10)
    keep_commits(image, 4, "cut off")
    async with registry(image, accept_acked_data_loss="1/5-10") as opened:
        await put_many(opened, 100, 103)
    shutil.copy(database(data_dir), database(image))
    error = await refused(image)
    assert (error.found_sequence, error.first_sequence, error.last_sequence) == (10, 5, 7)


async def test_a_database_that_is_gone_is_not_replaced_by_an_empty_one(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await put_many(opened, 0, 5)
    for entry in data_dir.glob("mpreg.db*"):
        entry.unlink()
    error = await refused(data_dir)
    assert error.found_sequence is None
    assert error.acceptance == "1/1-5"
    async with registry(data_dir, accept_acked_data_loss="1/1-5") as opened:
        assert await count(opened) == 0
        assert (await opened.stats()).generation == 2
    async with registry(data_dir) as opened:
        assert (await opened.stats()).generation == 3


async def test_a_database_gone_without_its_wal_is_not_mixed_with_a_new_one(data_dir: Path) -> None:
    image = await crashed(data_dir, 5)
    database(image).unlink()
    await refused(image)
    before = contents(image)
    with pytest.raises(CorruptDataError, match="the database is gone"):
        async with registry(image, accept_acked_data_loss="1/1-5"):
            pass
    assert contents(image) == before
    Path(f"{database(image)}-wal").unlink()
    async with registry(image, accept_acked_data_loss="1/1-5") as opened:
        assert await count(opened) == 0


async def test_a_directory_in_which_nothing_was_committed_may_begin_anew(data_dir: Path) -> None:
    async with registry(data_dir):
        pass
    database(data_dir).unlink()
    async with registry(data_dir) as opened:
        assert (await opened.stats()).generation == 2


# --- the file itself ---


async def test_a_directory_without_the_file_is_opened_and_accounted_for_from_then_on(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        await put_many(opened, 0, 3)
    (data_dir / "ACKED").unlink()
    async with registry(data_dir) as opened:
        assert await count(opened) == 3
    assert acked(data_dir) == AckedRecord(2, 3, 3)


def damage(data_dir: Path, *slots: int) -> None:
    with (data_dir / "ACKED").open("r+b") as file:
        for slot in slots:
            file.seek(slot * BLOCK_BYTES + 30)
            file.write(b"\xa5\x5a")


@pytest.mark.parametrize("slot", [0, 1])
async def test_a_damaged_slot_is_passed_over_and_written_again(data_dir: Path, slot: int) -> None:
    async with registry(data_dir) as opened:
        await put_many(opened, 0, 3)
    damage(data_dir, slot)
    async with registry(data_dir) as opened:
        await put_many(opened, 3, 4)
    assert acked(data_dir) == AckedRecord(2, 3, 4)


async def test_a_file_damaged_altogether_is_told_kept_and_begun_anew(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with registry(data_dir) as opened:
        await put_many(opened, 0, 3)
    damage(data_dir, 0, 1)
    damaged = (data_dir / "ACKED").read_bytes()
    async with registry(data_dir) as opened:
        assert await count(opened) == 3
    assert "it cannot be told whether acknowledged commits are missing" in caplog.text
    assert (data_dir / "ACKED.damaged").read_bytes() == damaged
    assert acked(data_dir) == AckedRecord(2, 3, 3)


async def test_a_damaged_file_beside_no_database_is_no_new_directory(data_dir: Path) -> None:
    async with registry(data_dir):
        pass
    damage(data_dir, 0, 1)
    database(data_dir).unlink()
    before = contents(data_dir)
    with pytest.raises(CorruptDataError, match="ACKED: the file is damaged"):
        async with registry(data_dir):
            pass
    assert contents(data_dir) == before


async def test_a_file_of_a_newer_mpreg_is_refused(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with registry(data_dir):
        pass
    (data_dir / "ACKED").unlink()
    with monkeypatch.context() as patch:
        patch.setattr("mpreg.persistence.acked_record.FORMAT_VERSION", 2)
        AckedFile(data_dir / "ACKED").write(AckedRecord(1, 0, 0))
    before = contents(data_dir)
    with pytest.raises(SchemaVersionError, match="ACKED"):
        async with registry(data_dir):
            pass
    assert contents(data_dir) == before


async def test_something_else_in_its_place_is_told(data_dir: Path) -> None:
    async with registry(data_dir):
        pass
    (data_dir / "ACKED").unlink()
    (data_dir / "ACKED").mkdir()
    with pytest.raises(DataDirectoryError, match="ACKED: this is a directory"):
        async with registry(data_dir):
            pass


# --- a disk that does not take it ---


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EIO, errno.EROFS])
async def test_where_it_cannot_be_written_commits_go_on_and_it_is_told_once_and_tried_again(
    data_dir: Path, code: int, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(accounting, "RETRY_SECONDS", 0.005)
    failures = 0

    def fail(*_: object) -> int:
        nonlocal failures
        failures += 1
        raise OSError(code, os.strerror(code))

    async with registry(data_dir, accounting_interval_seconds=0.001) as opened:
        with monkeypatch.context() as patch:
            patch.setattr("os.pwrite", fail)
            await put_many(opened, 0, 20)
            with anyio.fail_after(30):
                while failures < 3:
                    await anyio.sleep(0.005)
            assert await count(opened) == 20
            assert acked(data_dir) == AckedRecord(1, 0, 0)
        await _written(data_dir, 20)
    assert len([one for one in caplog.records if "ACKED" in one.getMessage()]) == 1


async def test_a_device_that_hangs_does_not_keep_the_registry_from_closing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(accounting, "WRITE_SECONDS_MAX", 0.05)
    goes_on = threading.Event()

    def hang(_descriptor: int) -> None:
        goes_on.wait()

    async with registry(data_dir) as opened:
        await put_many(opened, 0, 1)
        monkeypatch.setattr("os.fdatasync", hang)
    with pytest.raises(DataDirectoryLockedError):
        async with registry(data_dir):
            pass
    goes_on.set()
    with anyio.fail_after(30):
        while True:
            try:
                async with registry(data_dir) as opened:
                    assert await count(opened) == 1
            except DataDirectoryLockedError:
                await anyio.sleep(0.005)
            else:
                break

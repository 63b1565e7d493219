"""A database and a write-ahead log of different times: told, and neither of them touched."""

from __future__ import annotations

import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mpreg.persistence import CorruptDataError, PersistenceRegistry, open_read_only
from mpreg.persistence.backends.sqlite import wal_match
from mpreg.persistence.maintenance import backup, repair, verify
from tests.integration.support import database, listed, registry
from tests.integration.test_acked_data import FRAME_HEADER, PAGE, WAL_HEADER, contents, keep_commits

pytestmark = pytest.mark.anyio


def log_of(data_dir: Path) -> Path:
    return Path(f"{database(data_dir)}-wal")


def copied(data_dir: Path, name: str) -> Path:
    return Path(shutil.copytree(data_dir, data_dir.with_name(name)))


async def put_many(opened: PersistenceRegistry, count: int) -> None:
    """A commit for each."""
    for number in range(count):
        await opened.key_value_store("s").put(f"{number:03}", bytes(100))


@pytest.fixture
async def images(data_dir: Path) -> dict[str, Path]:
    """The directory as a process leaves it that is killed then: "early" after 10 commits, all of
    them in the log; "late" after 20, with 15 in the database, and the log begun anew."""
    found: dict[str, Path] = {}
    async with registry(data_dir) as opened:
        await put_many(opened, 10)
        found["early"] = copied(data_dir, "early")
        await put_many(opened, 5)
        await opened.compact()
        await put_many(opened, 5)
        found["late"] = copied(data_dir, "late")
    return found


def put_together(its_database: Path, its_log: Path) -> Path:
    """Without what tells where the store ended: that alone would be noticed in many cases."""
    mixed = copied(its_database, "mixed")
    (mixed / "ACKED").unlink()
    Path(f"{database(mixed)}-shm").unlink()
    shutil.copy(log_of(its_log), log_of(mixed))
    return mixed


async def refused(mixed: Path, said: str) -> None:
    """By everybody who would read the two as one."""
    before = contents(mixed)
    with pytest.raises(CorruptDataError, match=said):
        async with registry(mixed):
            raise AssertionError("not reached")
    with pytest.raises(CorruptDataError, match=said):
        async with open_read_only(mixed):
            raise AssertionError("not reached")
    (finding,) = (await verify(mixed)).findings
    assert re.search(said, finding.message)
    with pytest.raises(CorruptDataError, match=said):
        await backup(mixed, mixed.with_name("backup"))
    with pytest.raises(CorruptDataError, match=said):
        await repair(mixed)
    assert contents(mixed) == before


async def test_a_database_that_is_older_than_its_log_is_not_opened(
    images: dict[str, Path],
) -> None:
    mixed = put_together(images["early"], images["late"])
    await refused(mixed, "the database is older .* up to 0, and the log begins with 16")


async def test_a_log_that_is_older_than_its_database_is_not_opened(
    images: dict[str, Path],
) -> None:
    mixed = put_together(images["late"], images["early"])
    await refused(mixed, "the write-ahead log is older .* ends with commit 10, .* 15")


async def test_a_log_whose_end_is_damaged_after_it_was_moved_into_the_database(
    images: dict[str, Path],
) -> None:
    """What SQLite still reads of it would take the place of what is newer."""
    with closing(sqlite3.connect(database(images["early"]))) as connection:
        connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        moved = copied(images["early"], "moved")
    keep_commits(moved, 4, "a flipped bit")
    Path(f"{database(moved)}-shm").unlink()
    await refused(moved, "its end is damaged: it ends with commit 4, .* up to 10 by itself")
    log_of(moved).unlink()
    assert (await verify(moved)).sound
    async with registry(moved) as opened:
        assert len(await listed(opened.key_value_store("s").scan())) == 10


async def test_a_process_that_comes_between_the_two_looks_is_no_mixture(
    images: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    early, look = images["early"], wal_match._look_without_log

    def look_and_go_on(path: Path) -> object:
        found = look(path)
        for of in (database, log_of):
            shutil.copy(of(images["late"]), of(early))
        return found

    monkeypatch.setattr(wal_match, "_look_without_log", look_and_go_on)
    wal_match.match_log(database(early))(20)


@pytest.mark.parametrize("name", ["early", "late"])
async def test_those_that_belong_together_are_opened(images: dict[str, Path], name: str) -> None:
    image = images[name]
    assert (await verify(image)).sound
    async with open_read_only(image) as view:
        found = len(await listed(view.key_value_store("s").scan()))
    async with registry(image) as opened:
        assert found == len(await listed(opened.key_value_store("s").scan())) == 10


@pytest.mark.parametrize("bytes_kept", [0, 31, 32, 100])
async def test_a_log_without_a_whole_frame_tells_nothing(
    images: dict[str, Path], bytes_kept: int
) -> None:
    mixed = put_together(images["early"], images["late"])
    with log_of(mixed).open("r+b") as log:
        log.truncate(bytes_kept)
    async with registry(mixed) as opened:
        assert (await opened.stats()).commit_sequence == 0


async def test_a_damaged_frame_tells_nothing_either(images: dict[str, Path]) -> None:
    """What it says of the sequence may be the damage."""
    image = images["late"]
    (image / "ACKED").unlink()
    log = bytearray(log_of(image).read_bytes())
    first = slice(WAL_HEADER + FRAME_HEADER, WAL_HEADER + FRAME_HEADER + PAGE)
    log[first] = log[first].replace(bytes([16]), bytes([16 + 64]))
    log_of(image).write_bytes(log)
    async with registry(image) as opened:
        assert (await opened.stats()).commit_sequence == 15


async def test_a_damaged_page_of_the_numbers_does_not_hide_what_else_is_damaged(
    images: dict[str, Path],
) -> None:
    async with registry(images["late"]):
        pass
    path = database(images["late"])
    with closing(sqlite3.connect(path)) as connection:
        (root,) = connection.execute(
            "SELECT rootpage FROM sqlite_master WHERE name = 'meta'"
        ).fetchone()
        connection.execute("UPDATE entries SET checksum = checksum + 1 WHERE version = 20")
        connection.commit()
        assert connection.total_changes == 1
    damaged = bytearray(path.read_bytes())
    damaged[(root - 1) * PAGE] = 0x77
    path.write_bytes(damaged)
    places = {finding.where for finding in (await verify(images["late"])).findings}
    assert {"table meta", "namespace 's', key '004'"} <= places

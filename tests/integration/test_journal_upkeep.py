"""The file backend's upkeep, and what it makes of acknowledged data that is gone."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import random
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import (
    AckedDataLostError,
    CorruptDataError,
    Durability,
    LogRetention,
    PersistenceRegistry,
    StorageFullError,
)
from mpreg.persistence.acked_file import AckedFile
from mpreg.persistence.backend import FoundState
from mpreg.persistence.backends.file import FileBackend
from mpreg.persistence.backends.file.format import HEADER_BYTES, FrameKind
from mpreg.persistence.backends.file.segment import scan_segment
from mpreg.persistence.backends.file.session import FileSession
from tests.integration.journal_stories import DURABLE, OPTIONS, SOMEWHERE, Story, options
from tests.integration.simulated_files import PowerCut, SimulatedFiles
from tests.integration.support import TurnedClock, config, listed, registry
from tests.integration.test_journal_backend import FaultyFiles

pytestmark = pytest.mark.anyio

COMMITS = 20
FILE: dict[str, Any] = {"backend": "file", "upkeep_interval_seconds": None}


async def put_many(opened: PersistenceRegistry, start: int, stop: int) -> None:
    for number in range(start, stop):
        await opened.key_value_store("s").put(f"{number:03}", bytes(100))


async def count(opened: PersistenceRegistry) -> int:
    return len(await listed(opened.key_value_store("s").scan()))


def contents(directory: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in directory.iterdir()}


def segment_of(directory: Path) -> Path:
    (path,) = directory.glob("journal-*")
    return path


def end_of_commit(directory: Path, commits: int) -> int:
    """Where the commit ends in the only segment."""
    frames = scan_segment(segment_of(directory).read_bytes(), 1, is_last=True).frames
    ends = [frame.end for frame in frames if frame.kind == FrameKind.COMMIT]
    return ends[commits - 1] if commits else HEADER_BYTES


async def crashed(data_dir: Path) -> Path:
    """The directory as a process leaves it that is killed when its acks were written down."""
    image = data_dir.with_name("crashed")
    async with registry(data_dir, **FILE) as opened:
        await put_many(opened, 0, COMMITS)
        shutil.copytree(data_dir, image)
    shutil.copy(data_dir / "ACKED", image / "ACKED")
    return image


async def refused(image: Path, **settings: Any) -> AckedDataLostError:
    """What the opening says, which changes nothing."""
    before = contents(image)
    with pytest.raises(AckedDataLostError) as caught:
        async with registry(image, **FILE, **settings):
            raise AssertionError("not reached")
    assert contents(image) == before
    return caught.value


async def check_acceptance(image: Path, error: AckedDataLostError, kept: int) -> None:
    async with registry(image, **FILE, accept_acked_data_loss=error.acceptance) as opened:
        assert await count(opened) == kept
        await opened.key_value_store("s").put("new", b"")
    async with registry(image, **FILE) as opened:
        assert await count(opened) == kept + 1


# --- acknowledged data that is gone ---


@pytest.mark.parametrize("how", ["a flipped bit", "cut off", "cut off inside a frame", "zeros"])
async def test_a_torn_tail_that_was_acknowledged_is_told_and_cut_off_only_where_that_is_accepted(
    data_dir: Path, how: str
) -> None:
    image = await crashed(data_dir)
    path, kept = segment_of(image), COMMITS - 1
    if how.startswith("cut off"):
        kept = 7
    end = end_of_commit(image, kept)
    with path.open("r+b") as file:
        if how == "a flipped bit":
            file.seek(end + 50)
            file.write(b"\xa5")
        elif how == "zeros":
            file.seek(end)
            file.write(bytes(200))
        else:
            file.truncate(end + (10 if "inside" in how else 0))
    for _ in range(2):
        error = await refused(image)
        assert (error.path, error.first_sequence, error.last_sequence) == (image, kept + 1, COMMITS)
        assert (error.found_sequence, error.generation) == (kept, 1)
    await check_acceptance(image, error, kept)


@pytest.mark.parametrize("account", ["with its account", "without"])
async def test_an_end_cut_off_after_a_clean_close_is_told_by_the_store_itself_too(
    data_dir: Path, account: str
) -> None:
    async with registry(data_dir, **FILE) as opened:
        await put_many(opened, 0, COMMITS)
    os.truncate(segment_of(data_dir), end_of_commit(data_dir, 5))
    if account == "without":
        (data_dir / "ACKED").unlink()
    error = await refused(data_dir)
    assert (error.first_sequence, error.last_sequence) == (6, COMMITS)
    await check_acceptance(data_dir, error, 5)


async def test_a_loss_that_the_store_tells_of_needs_somebody_to_accept_it(tmp_path: Path) -> None:
    story = Story(random.Random(0))
    session = story.open(directory=tmp_path, options=options(1 << 20))
    for _ in range(6):
        story.commit(session, DURABLE)
    session.close()
    os.truncate(segment_of(tmp_path), end_of_commit(tmp_path, 3))
    with pytest.raises(CorruptDataError, match="data is missing"):
        await FileBackend(tmp_path, OPTIONS).open()
    with pytest.raises(CorruptDataError, match="data is missing"):
        await PersistenceRegistry(
            config(tmp_path), backend=FileBackend(tmp_path, OPTIONS)
        ).__aenter__()


async def test_damage_before_the_end_is_no_loss_that_can_be_accepted(data_dir: Path) -> None:
    image = await crashed(data_dir)
    with segment_of(image).open("r+b") as file:
        file.seek(end_of_commit(image, 7) + 50)
        file.write(b"\xa5")
    with pytest.raises(CorruptDataError) as caught:
        async with registry(image, **FILE, accept_acked_data_loss="1/8-20"):
            pass
    assert caught.value.path == segment_of(image)


async def test_a_journal_that_is_gone_is_told_and_none_is_made(data_dir: Path) -> None:
    image = await crashed(data_dir)
    for path in [*image.glob("journal-*"), image / "mpreg.journal"]:
        path.unlink()
    error = await refused(image)
    assert (error.first_sequence, error.found_sequence) == (1, None)
    await check_acceptance(image, error, 0)


@pytest.mark.parametrize("seed", range(3))
def test_a_power_cut_at_any_moment_of_an_accepting_opening_leaves_what_was_accepted(
    seed: int,
) -> None:
    luck = random.Random(seed)
    told: list[FoundState | None] = []

    def accept(found: FoundState | None) -> int:
        told.append(found)
        return 40

    for at in itertools.count():
        story, files = Story(luck), SimulatedFiles()
        session = story.open(files)
        for _ in range(8):
            story.commit(session, DURABLE)
        session.close()
        path = session.segments.journal.path
        file = files.open(path)
        files.truncate(file, max(HEADER_BYTES, files.size(file) - 100))
        files.sync(file)
        files.close(file)
        files.cut_at = len(files.happened) + at
        story.durable = 0
        try:
            session = FileSession.open(SOMEWHERE, OPTIONS, files, check=accept)
        except PowerCut:
            files = files.after_a_power_cut(luck)
            session = FileSession.open(SOMEWHERE, OPTIONS, files, check=accept)
            assert session.opened.generation > 40
        else:
            assert at > 5
            break
        session.let_go()
        assert story.open(files).opened.commit_sequence == session.opened.commit_sequence
    assert any(found is not None and found.lost is not None for found in told)


# --- upkeep ---


async def test_compaction_gives_back_what_is_not_alive_and_says_how_much(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = FILE | {"log_retention": [LogRetention(log="log", records_max=10)]}
    async with registry(data_dir, clock=clock, **settings) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("log")
        for number in range(30):
            await store.put(f"{number}", bytes(10_000), ttl_seconds=60.0 if number % 3 else None)
        await log.append_many([bytes(10_000)] * 30)
        clock.now += 100.0
        report = await opened.compact()
        stats = await opened.stats()
        assert (report.expired_entries, report.log_records) == (20, 20)
        assert report.database_bytes == stats.database_bytes
        assert 200_000 <= report.database_bytes < 210_000
        assert report.wal_bytes == stats.wal_bytes < 1_000
        assert report.wal_bytes_before > 600_000
        assert 390_000 < report.freed_bytes < report.wal_bytes_before
        assert stats.checkpoints == 1
        again = await opened.compact()
        assert (again.expired_entries, again.freed_bytes) == (0, 0)
        names = [path.name for path in data_dir.iterdir()]
        assert sum(name.startswith(("journal-", "snapshot-")) for name in names) == 2
    async with registry(data_dir, clock=clock, **settings) as opened:
        assert await count(opened) == 10
        assert [one.offset for one in await listed(opened.log_store("log").read_range())] == [
            *range(20, 30)
        ]


async def test_compaction_comes_to_its_end_while_others_write(data_dir: Path) -> None:
    async with registry(data_dir, **FILE, journal_segment_bytes=4_096) as opened:
        store = opened.key_value_store("s")
        for number in range(200):
            await store.put(f"{number}", bytes(2_000), durability=Durability.RELAXED)
        async with anyio.create_task_group() as task_group:

            async def write() -> None:
                for number in itertools.count():
                    await store.put(f"{number % 200}", bytes(2_000))

            task_group.start_soon(write)
            for _ in range(3):
                await opened.compact()
            task_group.cancel_scope.cancel()
        assert await count(opened) == 200
    async with registry(data_dir, **FILE) as opened:
        assert await count(opened) == 200


def bytes_in(directory: Path) -> int:
    """Of the files that are still there once they are looked at."""
    found = 0
    for path in directory.iterdir():
        with contextlib.suppress(FileNotFoundError):
            found += path.stat().st_size
    return found


async def test_a_store_at_rest_is_compacted_where_that_gives_back_half_as_much_as_is_alive(
    data_dir: Path,
) -> None:
    async with registry(data_dir, backend="file", upkeep_interval_seconds=0.01) as opened:
        store = opened.key_value_store("s")
        for number in range(330):
            await store.put(f"{number % 200}", bytes(20_000), durability=Durability.RELAXED)
        with anyio.fail_after(30):
            while bytes_in(data_dir) > 5_500_000:
                await anyio.sleep(0.01)
        assert (await opened.stats()).checkpoints > 0
        assert await count(opened) == 200


async def test_a_snapshot_for_which_there_is_no_room_is_told_and_commits_go_on(
    data_dir: Path,
) -> None:
    data_dir.mkdir()
    files = FaultyFiles()
    backend = FileBackend(data_dir, options(1 << 20), files=files)
    settings = config(data_dir, upkeep_interval_seconds=None)
    async with PersistenceRegistry(settings, backend=backend) as opened:
        await put_many(opened, 0, 5)
        real = files.write

        def write(file: int, data: Any, offset: int) -> None:
            if bytes(data[:8]) == b"mpregsnp":
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file, data, offset)

        files.write = write  # type: ignore[method-assign]
        with pytest.raises(StorageFullError, match=r"a snapshot cannot be begun.*commits go on"):
            await opened.compact()
        await put_many(opened, 5, 8)
        files.write = real  # type: ignore[method-assign]
        await opened.compact()
        assert await count(opened) == 8
        assert (await opened.stats()).writer_restarts == 0
    assert [path.name for path in data_dir.iterdir() if path.name.endswith(".new")] == []


async def test_a_snapshot_has_the_acks_written_down(data_dir: Path) -> None:
    async with registry(data_dir, **FILE, accounting_interval_seconds=3_600) as opened:
        await put_many(opened, 0, 5)
        await opened.compact()
        with anyio.fail_after(30):
            while (record := AckedFile(data_dir / "ACKED").read()) is None or record.sequence < 5:
                await anyio.sleep(0.005)

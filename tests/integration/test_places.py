"""Where backups, restored stores and imports are put: what is there before is the user's."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio.to_thread
import pytest

from mpreg.persistence import (
    AckedDataLostError,
    CorruptDataError,
    DataDirectoryError,
    InvalidArgumentError,
    StorageIOError,
    open_read_only,
)
from mpreg.persistence.maintenance import (
    FindingKind,
    backup,
    export_lines,
    import_lines,
    mount_points,
    repair,
    restore,
    staging_inside,
    verify,
)
from mpreg.persistence.maintenance.manifest import read_manifest
from mpreg.persistence.maintenance.quarantine import dump_item
from mpreg.persistence.maintenance.staged_file import staged_file
from mpreg.persistence.maintenance.staging import staged
from tests.integration.support import config, registry

pytestmark = [pytest.mark.anyio, pytest.mark.parametrize("backend", ["sqlite", "file"])]


EXPORT_BEGUN = b'{"type":"mpreg-export","format_version":1,"commit_sequence":1}\n'


def names(directory: Path) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


async def put_one(data_dir: Path, backend: str) -> None:
    async with registry(data_dir, backend=backend) as opened:
        await opened.key_value_store("shelf").put("key", b"value")


@pytest.fixture
async def saved(data_dir: Path, tmp_path: Path, backend: str) -> Path:
    """A backup."""
    await put_one(data_dir, backend)
    await backup(data_dir, tmp_path / "backup")
    return tmp_path / "backup"


# --- what is replaced ---


@pytest.mark.parametrize("overwrite", [True, False])
async def test_a_directory_that_never_was_a_store_is_not_replaced(
    saved: Path, tmp_path: Path, *, overwrite: bool
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    (home / "thesis").write_text("precious")
    with pytest.raises(DataDirectoryError, match="thesis" if overwrite else "not empty"):
        await restore(saved, home, overwrite=overwrite)
    assert names(home) == ["thesis"]
    assert names(tmp_path) == ["backup", "data", "home"]


@pytest.mark.parametrize(
    "foreign", ["thesis", "quarantine/notes.txt", "mpreg.db.old", "BACKUP.old"]
)
async def test_files_beside_a_store_are_named_and_not_lost(
    saved: Path, data_dir: Path, foreign: str
) -> None:
    (data_dir / foreign).parent.mkdir(exist_ok=True)
    (data_dir / foreign).write_text("precious")
    with pytest.raises(DataDirectoryError, match=foreign):
        await restore(saved, data_dir, overwrite=True)
    assert (data_dir / foreign).read_text() == "precious"
    assert (await verify(data_dir)).sound


async def test_what_fails_leaves_an_empty_directory_empty(
    saved: Path, tmp_path: Path, backend: str
) -> None:
    place = tmp_path / "place"
    place.mkdir()
    with pytest.raises(InvalidArgumentError, match="cut off"):
        await import_lines(lines_of([EXPORT_BEGUN]), config(place, backend=backend))
    assert names(place) == []
    for store in saved.glob("mpreg.*"):
        store.write_bytes(b"")
    with pytest.raises(CorruptDataError):
        await restore(saved, place)
    assert names(place) == []
    assert names(tmp_path) == ["backup", "data", "place"]


async def test_what_is_left_of_a_store_is_replaced_and_its_lock_alone_is_no_store(
    saved: Path, data_dir: Path, tmp_path: Path
) -> None:
    for path in data_dir.iterdir():
        if path.is_file() and path.name != "ACKED":
            path.unlink()
    assert (await restore(saved, data_dir, overwrite=True)).replaced
    assert (await verify(data_dir)).sound
    odd = tmp_path / "odd"
    (odd / "quarantine").mkdir(parents=True)
    (odd / "LOCK").touch()
    with pytest.raises(DataDirectoryError, match="no store"):
        await restore(saved, odd, overwrite=True)


# --- links ---


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_link_under_the_name_of_what_is_being_made_is_not_followed(
    data_dir: Path, tmp_path: Path, backend: str, *, is_there: bool
) -> None:
    await put_one(data_dir, backend)
    victim = tmp_path / "victim"
    if is_there:
        victim.mkdir()
        (victim / "thesis").write_text("precious")
    (tmp_path / ".saved.mpreg-new").symlink_to("victim")
    with pytest.raises(DataDirectoryError, match=r"\.saved\.mpreg-new: .* a link or a file"):
        await backup(data_dir, tmp_path / "saved")
    assert (tmp_path / ".saved.mpreg-new").is_symlink()
    assert victim.exists() is is_there
    assert not is_there or names(victim) == ["thesis"]


async def test_a_file_under_the_name_of_what_is_being_made_stays(
    data_dir: Path, tmp_path: Path, backend: str
) -> None:
    await put_one(data_dir, backend)
    (tmp_path / ".saved.mpreg-new").write_text("precious")
    with pytest.raises(DataDirectoryError, match="remove it"):
        await backup(data_dir, tmp_path / "saved")
    assert (tmp_path / ".saved.mpreg-new").read_text() == "precious"


@pytest.mark.parametrize("is_there", [True, False])
async def test_a_backup_through_a_link_lands_where_it_leads(
    data_dir: Path, tmp_path: Path, backend: str, *, is_there: bool
) -> None:
    await put_one(data_dir, backend)
    big = tmp_path / "big"
    big.mkdir()
    if is_there:
        (big / "latest").mkdir()
    (tmp_path / "latest").symlink_to("big/latest")
    for _ in range(2):
        report = await backup(data_dir, tmp_path / "latest")
        assert report.path == (big / "latest").resolve()
        await put_one(data_dir, backend)
    assert names(tmp_path) == ["big", "data", "latest"]
    assert names(big) == ["latest"]
    assert (tmp_path / "latest").is_symlink()
    assert (await verify(tmp_path / "latest")).sound


async def test_a_link_to_itself_is_refused(data_dir: Path, tmp_path: Path, backend: str) -> None:
    await put_one(data_dir, backend)
    (tmp_path / "latest").symlink_to("latest")
    with pytest.raises(DataDirectoryError):
        await backup(data_dir, tmp_path / "latest")
    assert names(tmp_path) == ["data", "latest"]


# --- a backup is not worked on ---


async def test_a_backup_is_not_opened_for_writing(
    saved: Path, data_dir: Path, tmp_path: Path, backend: str
) -> None:
    before = names(saved)
    with pytest.raises(DataDirectoryError, match=r"this is a backup .* mpreg restore"):
        async with registry(saved, backend=backend):
            pass
    with pytest.raises(DataDirectoryError, match="this is a backup"):
        await repair(saved)
    with pytest.raises(DataDirectoryError, match="this is a backup"):
        await restore(saved, await copied(saved, tmp_path / "other"), overwrite=True)
    assert names(saved) == before
    assert (await verify(saved)).sound
    await restore(saved, tmp_path / "restored")
    async with open_read_only(saved) as opened:
        assert await opened.key_value_store("shelf").get("key")


async def test_a_backup_without_its_manifest_is_a_store(saved: Path, backend: str) -> None:
    (saved / "BACKUP").unlink()
    async with registry(saved, backend=backend) as opened:
        assert await opened.key_value_store("shelf").get("key")


async def copied(directory: Path, copy: Path) -> Path:
    await anyio.to_thread.run_sync(shutil.copytree, directory, copy)
    return copy


# --- places that nothing can be put into ---


async def test_a_store_is_not_made_inside_the_directory_of_another(
    saved: Path, data_dir: Path, tmp_path: Path, backend: str
) -> None:
    exported: list[bytes] = []
    await export_lines(data_dir, exported.append)
    other = tmp_path / "other"
    await put_one(other, backend)
    (tmp_path / "alias").symlink_to("other")
    before = names(other)
    for place in (other / "inner", other / "deep" / "inner", tmp_path / "alias" / "inner"):
        with pytest.raises(DataDirectoryError, match=r"inside a directory with a store .*other"):
            await restore(saved, place)
        with pytest.raises(DataDirectoryError, match="inside a directory with a store"):
            await import_lines(lines_of(exported), config(place, backend=backend))
        with pytest.raises(DataDirectoryError, match="inside a directory with a store"):
            await backup(data_dir, place)
    assert names(other) == before


async def lines_of(lines: list[bytes]) -> AsyncIterator[bytes]:
    for line in lines:
        yield line


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A mount point, as far as mpreg can tell."""
    volume = tmp_path / "vol ume"
    volume.mkdir()
    mounted(tmp_path, monkeypatch, volume)
    return volume


def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *places: Path) -> None:
    mounts = tmp_path / "mountinfo"
    escaped = [str(place).replace(" ", "\\040") for place in places]
    lines = [f"36 35 98:0 /a {place} rw master:1 - ext3 /dev/root rw\n" for place in escaped]
    mounts.write_text("".join(lines))
    monkeypatch.setattr(mount_points, "_MOUNTS", mounts)


async def test_no_backup_is_made_in_a_mount_point(
    data_dir: Path, tmp_path: Path, volume: Path, backend: str
) -> None:
    await put_one(data_dir, backend)
    with pytest.raises(DataDirectoryError, match=r"mount point.* name a directory below it"):
        await backup(data_dir, volume)
    assert names(volume) == []
    assert names(tmp_path) == ["data", "mountinfo", "vol ume"]


async def test_an_empty_mount_point_gets_what_is_restored_or_imported(
    saved: Path, data_dir: Path, tmp_path: Path, volume: Path, backend: str
) -> None:
    await put_large(data_dir, backend)
    await backup(data_dir, saved)
    exported: list[bytes] = []
    await export_lines(data_dir, exported.append)
    (volume / "lost+found").mkdir()
    for is_import in (False, True):
        if is_import:
            await import_lines(lines_of(exported), config(volume, backend=backend))
        else:
            assert not (await restore(saved, volume)).replaced
        expected = {*names(data_dir), "lost+found"}
        assert expected >= set(names(volume)) >= {"ACKED", "LOCK", "lost+found"}
        assert (await verify(volume)).sound
        async with registry(volume, backend=backend) as opened:
            assert await opened.key_value_store("shelf").get("key")
            assert await opened.key_value_store("shelf").get("large")
        clear(volume)
    assert names(tmp_path) == ["backup", "data", "mountinfo", "vol ume"]


async def put_large(data_dir: Path, backend: str) -> None:
    async with registry(data_dir, backend=backend) as opened:
        await opened.key_value_store("shelf").put("large", bytes(1 << 18))


def clear(place: Path) -> None:
    for path in place.iterdir():
        if path.name != "lost+found":
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@pytest.mark.parametrize("overwrite", [True, False])
async def test_what_is_in_a_mount_point_is_not_replaced(
    saved: Path, tmp_path: Path, volume: Path, backend: str, *, overwrite: bool
) -> None:
    (volume / "thesis").write_text("precious")
    with pytest.raises(DataDirectoryError, match=r"mount point, and not empty.*vol ume/mpreg"):
        await restore(saved, volume, overwrite=overwrite)
    with pytest.raises(DataDirectoryError, match="mount point, and not empty"):
        await import_lines(lines_of([EXPORT_BEGUN]), config(volume, backend=backend))
    assert names(volume) == ["thesis"]
    assert (await restore(saved, volume / "mpreg")).path == volume / "mpreg"
    clear(volume)
    await put_one(volume, backend)
    before = names(volume)
    with pytest.raises(DataDirectoryError, match="mount point, and not empty"):
        await restore(saved, volume, overwrite=overwrite)
    assert names(volume) == before
    assert names(tmp_path) == ["backup", "data", "mountinfo", "vol ume"]


async def test_what_the_system_has_mounted_is_known(
    saved: Path, data_dir: Path, backend: str
) -> None:
    with pytest.raises(DataDirectoryError, match="mount point"):
        await restore(saved, Path("/proc"), overwrite=True)


async def test_what_fails_leaves_an_empty_mount_point_empty(
    saved: Path, volume: Path, backend: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidArgumentError, match="cut off"):
        await import_lines(lines_of([EXPORT_BEGUN]), config(volume, backend=backend))
    assert names(volume) == []
    synced = 0

    def sync(path: Path) -> None:
        nonlocal synced
        synced += 1
        if synced == fails_at:
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(staging_inside, "sync_directory", sync)
    for fails_at in range(1, 5):
        synced = 0
        with pytest.raises(StorageIOError):
            await restore(saved, volume)
        assert names(volume) == [], fails_at
    monkeypatch.undo()


async def test_a_mount_point_is_empty_or_whole_or_not_opened_whenever_a_restore_was_killed(
    saved: Path,
    data_dir: Path,
    tmp_path: Path,
    volume: Path,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_large(data_dir, backend)
    (data_dir / "quarantine").mkdir()
    (data_dir / "quarantine" / "000001.jsonl").write_bytes(dump_item({"kind": "entry"}))
    await backup(data_dir, saved)
    left: list[Path] = []
    done: list[str] = []
    rename = Path.rename

    def look(what: str) -> None:
        """What a process that is killed now leaves."""
        done.append(what)
        left.append(tmp_path / f"left {len(left)}")
        shutil.copytree(volume, left[-1])

    def watched_rename(path: Path, target: Path) -> Path:
        if target.parent == volume:
            look(path.name)
        return rename(path, target)

    def sync(path: Path) -> None:
        assert path == volume
        look("sync")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "rename", watched_rename)
        patched.setattr(staging_inside, "sync_directory", sync)
        await restore(saved, volume)
    store = {"sqlite": "mpreg.db", "file": "mpreg.journal"}[backend]
    # A power cut may leave names that were given later without those of before the last sync.
    assert done[:4] == [".here.mpreg-new", "sync", "ACKED", "sync"]
    assert done[-3:] == ["sync", store, "sync"]
    assert done.count("sync") == 4
    mounted(tmp_path, monkeypatch, *left)
    for number, place in enumerate(left):
        opened_copy = await copied(place, tmp_path / f"opened {number}")
        found: bool | None = None
        try:
            async with registry(opened_copy, backend=backend) as opened:
                found = await opened.key_value_store("shelf").get("key") is not None
        except (AckedDataLostError, CorruptDataError):
            pass
        # Nothing is moved yet; or all of it is; or it is not opened.
        assert found is (False if number < 3 else True if number == len(left) - 1 else None)
        if found:
            with pytest.raises(DataDirectoryError, match="mount point, and not empty"):
                await restore(saved, place)
        else:
            assert (await restore(saved, place)).commit_sequence
        assert set(names(place)) - {"LOCK"} == set(names(volume)) - {"LOCK"}
        assert (await verify(place)).sound
        async with registry(place, backend=backend) as opened:
            assert await opened.key_value_store("shelf").get("large")


async def test_a_restore_whose_failure_was_cut_short_is_undone_by_the_next_one(
    saved: Path,
    data_dir: Path,
    tmp_path: Path,
    volume: Path,
    backend: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    await put_large(data_dir, backend)
    await backup(data_dir, saved)
    store = {"sqlite": "mpreg.db", "file": "mpreg.journal"}[backend]
    left: list[Path] = []
    unlink, rmtree = Path.unlink, shutil.rmtree

    def look() -> None:
        """What a process that is killed now leaves."""
        left.append(tmp_path / f"left {len(left)}")
        shutil.copytree(volume, left[-1])

    def watched_unlink(path: Path, *, missing_ok: bool = False) -> None:
        if path.parent == volume:
            look()
        unlink(path, missing_ok=missing_ok)

    def watched_rmtree(path: Path, **options: Any) -> None:
        look()
        rmtree(path, **options)

    def sync(path: Path) -> None:
        if (path / store).exists():
            raise OSError(errno.EIO, "Input/output error")

    with monkeypatch.context() as patched:
        patched.setattr(staging_inside, "sync_directory", sync)
        patched.setattr(Path, "unlink", watched_unlink)
        patched.setattr(shutil, "rmtree", watched_rmtree)
        with pytest.raises(StorageIOError):
            await restore(saved, volume)
    assert names(volume) == []
    half = [place for place in left if (place / ".here.mpreg-moving").exists()]
    assert len(half) >= 3
    mounted(tmp_path, monkeypatch, *half)
    for place in half:
        assert not (place / store).exists()
        assert (await restore(saved, place)).commit_sequence
        assert (await verify(place)).sound


async def test_what_is_left_of_a_store_in_a_mount_point_is_not_taken_for_half_a_restore(
    saved: Path, data_dir: Path, tmp_path: Path, volume: Path, backend: str
) -> None:
    """A restore was killed when all was moved. Since then the store was lost, or moved away."""
    await put_large(data_dir, backend)
    await backup(data_dir, saved)
    await restore(saved, volume)
    (volume / ".here.mpreg-moving").mkdir()
    store = {"sqlite": "mpreg.db", "file": "mpreg.journal"}[backend]
    (volume / store).rename(tmp_path / "away")
    with pytest.raises(DataDirectoryError, match="mount point, and not empty"):
        await restore(saved, volume)
    assert not (volume / ".here.mpreg-moving").exists()
    (tmp_path / "away").rename(volume / store)
    assert (await verify(volume)).sound
    async with registry(volume, backend=backend) as opened:
        assert await opened.key_value_store("shelf").get("large")


# --- what killed commands have left ---


async def export(data_dir: Path, file: Path) -> None:
    with staged_file(file) as stream:
        await export_lines(data_dir, stream.write)


@pytest.mark.parametrize("what", ["a backup", "an export"])
async def test_what_killed_commands_have_left_under_other_names_is_removed(
    saved: Path, data_dir: Path, tmp_path: Path, backend: str, what: str
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    await copied(saved, to / ".b-2026-11-30.mpreg-new")
    await copied(data_dir, to / ".r-2026-11-30.mpreg-new")
    await export(data_dir, to / "lines")
    (to / "lines").rename(to / ".lines-2026-11-30.mpreg-new")
    for name in (".empty.mpreg-new", ".fresh.mpreg-new"):
        (to / name).mkdir()
        (to / name.replace(".mpreg", ".file.mpreg")).touch()
    for name in (".empty.mpreg-new", ".empty.file.mpreg-new"):
        os.utime(to / name, (1.0, 1.0))
    if what == "a backup":
        await backup(data_dir, to / "made")
    else:
        await export(data_dir, to / "made")
    # Somebody may be about to lock them.
    assert names(to) == [".fresh.file.mpreg-new", ".fresh.mpreg-new", "made"]


async def test_what_is_locked_or_not_certainly_of_mpreg_is_left_alone(
    saved: Path, data_dir: Path, tmp_path: Path, backend: str
) -> None:
    to = tmp_path / "to"
    to.mkdir()
    await copied(saved, to / ".foreign.mpreg-new")
    (to / ".foreign.mpreg-new" / "thesis").write_text("precious")
    (to / ".notes.mpreg-new").write_text("precious")
    (to / ".link.mpreg-new").symlink_to(await copied(saved, tmp_path / "victim"))
    await copied(saved, to / ".old.mpreg-old")
    before = names(to)
    with staged(to / "busy") as staging:
        await copied(saved, staging.path / "quarantine")
        for path in (staging.path / "quarantine").iterdir():
            path.rename(staging.path / path.name)
        await backup(data_dir, to / "made")
        assert names(to) == sorted([*before, ".busy.mpreg-new", "made"])
        assert names(staging.path) == sorted([*names(saved), "quarantine"])
    assert names(tmp_path / "victim") == names(saved)
    assert names(to / ".foreign.mpreg-new") == sorted([*names(saved), "thesis"])


# --- names ---


async def test_a_store_whose_path_is_not_utf_8_is_backed_up(tmp_path: Path, backend: str) -> None:
    odd = tmp_path / os.fsdecode(b"odd-\xff-\xc3\xa9")
    await put_one(odd / "data", backend)
    await backup(odd / "data", odd / "saved")
    assert (await backup(odd / "data", odd / "saved")).unchanged
    assert read_manifest(odd / "saved").source == f"{tmp_path.resolve()}/odd-\\xff-\u00e9/data"
    await restore(odd / "saved", odd / "restored")
    assert (await verify(odd / "restored")).sound


# --- a backup that was changed ---


async def test_a_changed_backup_is_restored_where_that_is_allowed_and_what_is_wrong_is_told(
    data_dir: Path, tmp_path: Path, backend: str
) -> None:
    async with registry(data_dir, backend=backend) as opened:
        log = opened.log_store("audit")
        for number in range(30):
            await log.append(b"record %02d" % number)
    saved, restored = tmp_path / "saved", tmp_path / "restored"
    await backup(data_dir, saved)
    for path in saved.iterdir():
        content = path.read_bytes()
        path.write_bytes(content.replace(b"record 07", b"recorD 07"))
    with pytest.raises(CorruptDataError, match=r"not what the backup wrote.*--allow-damaged"):
        await restore(saved, restored)
    assert not restored.exists()
    report = await restore(saved, restored, allow_damaged=True)
    first = report.verification.findings[0]
    assert (first.kind, first.message) == (
        FindingKind.STRUCTURE,
        "the file is not what the backup wrote",
    )
    assert report.as_mapping()["verification"]["damaged"] == report.verification.damaged > 1
    assert not (await verify(restored)).sound
    await repair(restored)
    async with registry(restored, backend=backend) as opened:
        log = opened.log_store("audit")
        kept = [record.offset async for record in log.read_range(on_damaged=lambda _: None)]
        assert kept == [
            number for number in range(8 if backend == "file" else 0, 30) if number != 7
        ]
        assert await log.append(b"more") == 30


async def test_a_change_that_no_item_shows_is_told_as_well(
    saved: Path, tmp_path: Path, backend: str
) -> None:
    name = "mpreg.db" if backend == "sqlite" else "mpreg.journal"
    with (saved / name).open("ab") as file:
        file.write(b"\0")
    report = await restore(saved, tmp_path / "restored", allow_damaged=True)
    assert [one.where for one in report.verification.findings][:1] == [name]
    assert report.verification.damaged
    assert (await verify(tmp_path / "restored")).entries == 1


async def test_a_backup_that_lacks_a_file_or_its_manifest_is_not_restored(
    saved: Path, tmp_path: Path, backend: str
) -> None:
    lacking = await copied(saved, tmp_path / "lacking")
    next(
        path for path in lacking.iterdir() if path.name.startswith(("mpreg.db", "journal"))
    ).unlink()
    (saved / "BACKUP").write_bytes(b"{")
    for one in (lacking, saved):
        with pytest.raises((CorruptDataError, DataDirectoryError)):
            await restore(one, tmp_path / "restored", allow_damaged=True)
    assert not (tmp_path / "restored").exists()

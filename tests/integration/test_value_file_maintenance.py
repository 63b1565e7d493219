"""Files of values in backups, examinations and repairs, and in what is told of a directory."""

from __future__ import annotations

import base64
import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest
from anyio import from_thread

from mpreg.codec import encode_key
from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    PersistenceRegistry,
    StorageIOError,
)
from mpreg.persistence.backends.sqlite.places import FILE_VALUE_BYTES, file_name
from mpreg.persistence.maintenance import (
    FindingKind,
    VerificationReport,
    backup,
    export_lines,
    repair,
    restore,
    verify,
)
from mpreg.persistence.maintenance import source as source_module
from mpreg.persistence.maintenance.quarantine import quarantine_files
from mpreg.persistence.read_only import ReadOnlyRegistry
from mpreg.persistence.snapshots.layout import VERSION, VERSIONS_KEY, numbered_key
from tests.integration.made_once import made_once
from tests.integration.support import registry, tamper

pytestmark = pytest.mark.anyio

LARGE = bytes(range(256)) * (FILE_VALUE_BYTES // 256)
IMAGE = LARGE * 6


def files_in(directory: Path) -> list[Path]:
    return sorted((directory / "values").iterdir())


@made_once
async def filled(data_dir: Path) -> None:
    """Two values in files, and a snapshot in a third."""
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await store.put("a", LARGE)
        await store.put("b", LARGE[::-1])
        await opened.snapshot_store("image").save(IMAGE)
    assert len(files_in(data_dir)) == 3


async def newest_version(data_dir: Path) -> int:
    async with registry(data_dir) as opened:
        return (await opened.snapshot_store("image").versions())[-1].version


async def content(data_dir: Path) -> list[object]:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        found = [await store.get("a"), await store.get("b")]
        image = await opened.snapshot_store("image").load()
        return [*(None if one is None else one.value for one in found), image and image.data]


async def remove(opened: PersistenceRegistry, what: str) -> None:
    store = opened.key_value_store("s")
    if what == "a":
        await store.delete("a")
    else:
        await opened.snapshot_store("image").delete()
    # The chunks of a snapshot go by relaxed commits, and their file when those are durable.
    await store.put("later", b"")


WHOLE: list[object] = [LARGE, LARGE[::-1], IMAGE]


def told(report: VerificationReport, kind: FindingKind) -> list[str]:
    return [str(one) for one in report.findings if one.kind is kind]


# --- backups ---


async def test_a_backup_has_the_files_and_a_restored_store_all_of_them(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    report = await backup(data_dir, tmp_path / "backup")
    assert report.size_bytes == report.copied_bytes > 2 * len(LARGE) + len(IMAGE)
    restored = await restore(tmp_path / "backup", tmp_path / "back")
    assert restored.size_bytes == report.size_bytes
    assert {one.stat().st_mode & 0o777 for one in files_in(tmp_path / "back")} == {0o600}
    assert (tmp_path / "back" / "values").stat().st_mode & 0o777 == 0o700
    assert await content(tmp_path / "back") == WHOLE


async def test_the_next_backup_copies_only_what_is_new(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    before = {one.name: one.stat().st_ino for one in files_in(tmp_path / "backup")}
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("a", LARGE + b"new")
    report = await backup(data_dir, tmp_path / "backup")
    after = {one.name: one.stat().st_ino for one in files_in(tmp_path / "backup")}
    assert len(before.items() & after.items()) == 2
    assert len(LARGE) < report.copied_bytes < 2 * len(LARGE) + len(IMAGE)
    await restore(tmp_path / "backup", tmp_path / "back")
    assert await content(tmp_path / "back") == [LARGE + b"new", *WHOLE[1:]]


async def test_a_file_that_is_another_one_under_the_same_name_is_copied_again(
    data_dir: Path, tmp_path: Path
) -> None:
    """As after a power cut, or where the store was restored meanwhile: the name alone says
    nothing."""
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    shutil.rmtree(data_dir)
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await store.put("a", LARGE[::-1])
        await store.put("b", LARGE)
    await backup(data_dir, tmp_path / "backup")
    await restore(tmp_path / "backup", tmp_path / "back")
    assert await content(tmp_path / "back") == [LARGE[::-1], LARGE, None]


async def test_an_unchanged_store_is_only_verified_and_a_changed_backup_made_anew(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    assert (await backup(data_dir, tmp_path / "backup")).unchanged
    files_in(tmp_path / "backup")[0].write_bytes(b"")
    assert not (await backup(data_dir, tmp_path / "backup")).unchanged
    assert (await backup(data_dir, tmp_path / "backup")).unchanged


@pytest.mark.parametrize("removed", ["a", "image"])
@pytest.mark.parametrize("doing", ["backup", "verify", "export"])
async def test_what_is_removed_meanwhile_stays_until_a_long_view_ends(
    data_dir: Path, tmp_path: Path, doing: str, removed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who reads a store in use sees one state, all of it, and has not to begin again."""
    await filled(data_dir)
    lines: list[bytes] = []
    there: list[int] = []
    async with registry(data_dir) as opened:
        # Each of these is asked something when the view has begun.
        for name in ("pages", "namespaces_used"):
            asked = getattr(source_module.SqliteSource, name)

            def late(source: source_module.SqliteSource, asked: Any = asked) -> Any:
                if not there:
                    from_thread.run(remove, opened, removed)
                    there.append(len(files_in(data_dir)))
                return asked(source)

            monkeypatch.setattr(source_module.SqliteSource, name, late)
        match doing:
            case "backup":
                await backup(data_dir, tmp_path / "backup")
            case "verify":
                assert (await verify(data_dir)).findings == ()
            case _:
                await export_lines(data_dir, lines.append)
        assert there == [3], "all of them, though one has no value any more"
        await opened.key_value_store("s").put("even later", b"")
        assert len(files_in(data_dir)) == 2
    if doing == "backup":
        await restore(tmp_path / "backup", tmp_path / "back")
        assert await content(tmp_path / "back") == WHOLE
    assert (await verify(data_dir)).findings == ()


@pytest.mark.parametrize("change", ["flipped", "cut", "missing"])
async def test_a_backup_with_a_damaged_file_is_not_restored(
    data_dir: Path, tmp_path: Path, change: str
) -> None:
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    damage(files_in(tmp_path / "backup")[0], change)
    with pytest.raises(CorruptDataError, match="not what the backup wrote"):
        await restore(tmp_path / "backup", tmp_path / "back")
    report = await restore(tmp_path / "backup", tmp_path / "back", allow_damaged=True)
    assert not report.verification.sound
    async with registry(tmp_path / "back") as opened:
        found = await opened.key_value_store("s").get("b")
        assert found is not None
        assert found.value == LARGE[::-1]


async def test_foreign_files_among_the_values_are_not_thrown_away(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    for place in (tmp_path / "backup", data_dir):
        (place / "values" / "notes.txt").write_text("mine")
    with pytest.raises(DataDirectoryError, match=r"values/notes\.txt"):
        await restore(tmp_path / "backup", data_dir, overwrite=True)
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("c", b"")
    with pytest.raises(DataDirectoryError, match=r"values/notes\.txt"):
        await backup(data_dir, tmp_path / "backup")


async def test_a_restore_takes_the_files_of_what_was_there_away(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir)
    await backup(data_dir, tmp_path / "backup")
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("later", LARGE)
    await restore(tmp_path / "backup", data_dir, overwrite=True)
    assert len(files_in(data_dir)) == 3
    assert await content(data_dir) == WHOLE


# --- examining ---


def damage(file: Path, how: str) -> None:
    match how:
        case "flipped":
            data = bytearray(file.read_bytes())
            data[1_000] ^= 1
            file.write_bytes(data)
        case "cut":
            os.truncate(file, 1_000)
        case _:
            file.unlink()


@pytest.mark.parametrize("how", ["flipped", "cut", "missing"])
async def test_a_damaged_value_is_told_and_set_aside_and_the_rest_is_whole(
    data_dir: Path, how: str
) -> None:
    await filled(data_dir)
    file = files_in(data_dir)[0]
    damage(file, how)
    report = await verify(data_dir)
    (said,) = told(report, FindingKind.ENTRY)
    assert said.startswith("namespace 's', key 'a'")
    assert ("is missing" if how == "missing" else "checksum") in said
    with pytest.raises(CorruptDataError):
        await backup(data_dir, data_dir.with_name("backup"))
    repaired = await repair(data_dir)
    assert repaired.sound
    (kept,) = quarantine_files(data_dir)
    item = json.loads(kept.read_text())
    assert item["kind"] == "entry"
    assert await content(data_dir) == [None, *WHOLE[1:]]
    assert file not in files_in(data_dir)
    assert (await verify(data_dir)).sound


async def test_a_snapshot_whose_file_is_damaged_goes_as_a_whole(data_dir: Path) -> None:
    await filled(data_dir)
    file = files_in(data_dir)[2]
    damage(file, "flipped")
    assert not (await verify(data_dir)).sound
    assert (await repair(data_dir)).sound
    assert await content(data_dir) == [*WHOLE[:2], None]
    assert file not in files_in(data_dir)


async def test_a_file_that_nothing_names_is_a_notice_and_set_aside_by_a_repair(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    first, *_ = files_in(data_dir)
    extra = first.with_name(file_name(int(first.name, 16) - 1))
    extra.write_bytes(b"extra")
    report = await verify(data_dir)
    assert report.sound
    assert told(report, FindingKind.LEFTOVER) == [f"file values/{extra.name}: no value names it"]
    assert (await repair(data_dir)).findings == ()
    assert not extra.exists()
    (kept,) = quarantine_files(data_dir)
    assert json.loads(kept.read_text())["data"] == {"base64": "ZXh0cmE="}


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE value_files SET live = 7",
        "DELETE FROM value_files",
        "UPDATE value_files SET bytes = 1",
        "UPDATE value_files SET bytes = x'00', synced_bytes = 'text', live = x''",
    ],
    ids=["live", "rows", "bytes", "types"],
)
async def test_rows_of_files_that_do_not_agree_with_the_values_are_told_and_counted_anew(
    data_dir: Path, statement: str
) -> None:
    await filled(data_dir)
    tamper(data_dir, statement)
    report = await verify(data_dir)
    assert len(told(report, FindingKind.ENTRY)) == 3
    assert (await repair(data_dir)).findings == ()
    assert await content(data_dir) == WHOLE
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").delete("a")
        await opened.snapshot_store("image").delete()
    assert len(files_in(data_dir)) == 1


async def test_where_the_place_of_a_value_is_damaged_its_bytes_are_set_aside_with_it(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    file = files_in(data_dir)[-1]
    tamper(
        data_dir,
        "UPDATE large_values SET value = replace(value, ?, ?)",
        (file.name, file.name[::-1]),
    )
    tamper(data_dir, "DELETE FROM entries WHERE key = ?", (encode_key("a"),))
    data = file.read_bytes()
    assert (await repair(data_dir)).sound
    (quarantined,) = quarantine_files(data_dir)
    items = [json.loads(line) for line in quarantined.read_text().splitlines()]
    kept = [one for one in items if one.get("file") == f"values/{file.name}"]
    assert b"".join(base64.b64decode(one["data"]["base64"]) for one in kept) == data
    assert await content(data_dir) == [None, LARGE[::-1], None]
    assert len(files_in(data_dir)) == 1


async def test_a_file_that_is_not_ours_to_read_is_no_damage_and_stays(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await filled(data_dir)
    before, real = files_in(data_dir), os.open

    def refused(path: Any, *rest: Any, **options: Any) -> int:
        if str(path) == str(before[0]):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", refused)
    for examine in (verify, repair):
        with pytest.raises(StorageIOError, match="Permission denied") as caught:
            await examine(data_dir)
        assert str(before[0]) in str(caught.value)
    async with registry(data_dir) as opened:
        with pytest.raises(CorruptDataError):
            await opened.key_value_store("s").get("a")
    monkeypatch.undo()
    assert files_in(data_dir) == before
    assert await content(data_dir) == WHOLE


async def test_a_large_value_of_no_entry_is_set_aside_with_its_bytes(data_dir: Path) -> None:
    await filled(data_dir)
    tamper(data_dir, "DELETE FROM entries WHERE key = ?", (encode_key("a"),))
    report = await verify(data_dir)
    (said,) = told(report, FindingKind.ENTRY)
    assert said.endswith("no entry names it")
    assert (await repair(data_dir)).sound
    (kept,) = quarantine_files(data_dir)
    assert json.loads(kept.read_text())["kind"] == "large value"
    assert await content(data_dir) == [None, *WHOLE[1:]]
    assert len(files_in(data_dir)) == 2


async def test_a_part_of_a_save_that_a_power_cut_has_lost_is_no_damage(data_dir: Path) -> None:
    await filled(data_dir)
    for key in (VERSIONS_KEY, numbered_key(VERSION, await newest_version(data_dir))):
        tamper(data_dir, "DELETE FROM entries WHERE key = ?", (key,))
    damage(files_in(data_dir)[2], "missing")
    report = await verify(data_dir)
    assert report.sound
    assert len(told(report, FindingKind.LEFTOVER)) == 1


# --- what is told ---


async def test_the_sizes_of_the_files_are_told(data_dir: Path) -> None:
    await filled(data_dir)
    total = 2 * len(LARGE) + len(IMAGE)
    async with registry(data_dir) as opened:
        assert (await opened.stats()).value_bytes == total
        await opened.key_value_store("s").delete("a")
        assert (await opened.stats()).value_bytes == total - len(LARGE)
    async with ReadOnlyRegistry(data_dir) as looked:
        assert (await looked.stats()).files["values/"] == total - len(LARGE)
        counted = await looked.count_keys("s")
        assert counted.size_bytes == len(LARGE) + len(b"\x01b")
        found = await looked.key_value_store("s").get("b")
        assert found is not None
        assert found.value == LARGE[::-1]


async def test_a_store_with_files_is_read_where_it_was_left_by_a_kill(
    data_dir: Path, tmp_path: Path
) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("a", LARGE)
        shutil.copytree(data_dir, tmp_path / "killed")
    (tmp_path / "killed" / "mpreg.db-shm").unlink()
    async with ReadOnlyRegistry(tmp_path / "killed") as looked:
        found = await looked.key_value_store("s").get("a")
        assert found is not None
        assert found.value == LARGE
    assert (await verify(tmp_path / "killed")).sound

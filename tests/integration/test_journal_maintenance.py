"""A journal examined, copied while it is written, restored as of any commit, and mended."""

from __future__ import annotations

import base64
import json
import random
import shutil
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    InvalidArgumentError,
    PersistenceRegistry,
    SchemaVersionError,
)
from mpreg.persistence.backends.file.format import (
    CONTROL_MAGIC,
    FORMAT_VERSION,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    STAMP_BYTES,
    encode_stamp,
)
from mpreg.persistence.backends.file.names import Names, segment_name, snapshot_name
from mpreg.persistence.maintenance import (
    FindingKind,
    backup,
    export_lines,
    import_lines,
    repair,
    restore,
    verify,
)
from mpreg.persistence.maintenance.manifest import read_manifest
from mpreg.persistence.own_names import JOURNAL_NAME
from mpreg.persistence.read_only import open_read_only
from tests.integration.made_once import made_once
from tests.integration.maintenance_support import fill
from tests.integration.support import config, listed, registry

pytestmark = pytest.mark.anyio

SEGMENT_BYTES = 64 << 10


@pytest.fixture
def anyio_backend() -> str:
    """All of it happens on worker threads: which event loop waits makes no difference."""
    return "trio"


def journal(data_dir: Path) -> PersistenceRegistry:
    return registry(data_dir, backend="file", journal_segment_bytes=SEGMENT_BYTES)


def listing(data_dir: Path) -> list[str]:
    return sorted(path.name for path in data_dir.iterdir())


def names(data_dir: Path) -> Names:
    return Names.of(listing(data_dir), JOURNAL_NAME)


@made_once
async def filled(data_dir: Path, writes: int = 300) -> None:
    """With a snapshot, and several segments after it."""
    rng = random.Random(1)
    async with journal(data_dir) as opened:
        await fill(opened)
        for number in range(writes):
            await opened.key_value_store("shelf").put(f"{number % 20}", rng.randbytes(1_000))
            await opened.log_store("audit").append(b"%d" % number)


async def all_of(data_dir: Path) -> dict[str, Any]:
    async with journal(data_dir) as opened:
        return {
            "entries": [
                (one.key, one.value, one.version)
                for one in await listed(opened.key_value_store("shelf").scan())
            ],
            "records": [
                (one.offset, one.data)
                for one in await listed(opened.log_store("audit").read_range())
            ],
            "image": await opened.snapshot_store("image").load(),
        }


def spoil(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 0xFF
    path.write_bytes(content)


# --- a journal of an mpreg to come ---


def from_later(data_dir: Path, which: str) -> Path:
    """Stamp one file of a filled journal with a version that is not known yet."""
    path, magic = {
        "control": (data_dir / JOURNAL_NAME, CONTROL_MAGIC),
        "segment": (max(data_dir.glob("journal-*")), SEGMENT_MAGIC),
        "snapshot": (max(data_dir.glob("snapshot-*")), SNAPSHOT_MAGIC),
    }[which]
    content = path.read_bytes()
    path.write_bytes(encode_stamp(magic, FORMAT_VERSION + 1) + content[STAMP_BYTES:])
    return path


@pytest.mark.parametrize("which", ["control", "segment", "snapshot"])
async def test_nothing_is_done_to_a_journal_of_a_newer_format_and_both_versions_are_told(
    data_dir: Path, which: str
) -> None:
    await filled(data_dir)
    path = from_later(data_dir, which)
    before = {one.name: one.read_bytes() for one in data_dir.iterdir()}

    async def read() -> None:
        async with open_read_only(data_dir):
            pass

    async def write() -> None:
        async with journal(data_dir):
            pass

    place = data_dir.with_name("place")
    lines: list[bytes] = []
    for attempt in (
        read,
        write,
        lambda: verify(data_dir),
        lambda: repair(data_dir),
        lambda: backup(data_dir, place),
        lambda: export_lines(data_dir, lines.append),
    ):
        with pytest.raises(SchemaVersionError) as refused:
            await attempt()
        assert refused.value.path is not None
        assert refused.value.path.name == path.name
        assert refused.value.found_version == FORMAT_VERSION + 1
        assert refused.value.supported_version == FORMAT_VERSION
    assert {one.name: one.read_bytes() for one in data_dir.iterdir()} == before
    assert listing(data_dir.parent) == [data_dir.name], "no half of a backup"
    assert lines == []


# --- verify ---


async def test_a_sound_journal_is_sound_also_while_it_is_written(data_dir: Path) -> None:
    async with journal(data_dir) as opened:
        await fill(opened)
        report = await verify(data_dir)
        assert report.sound
        assert (report.snapshots, report.logs) == (2, 5)
        assert report.commit_sequence == (await opened.stats()).commit_sequence
    assert (await verify(data_dir)).sound


@pytest.mark.parametrize("which", ["snapshot", "segment", "header", "control", "gone"])
async def test_damage_is_told_with_file_and_byte_and_all_of_it(data_dir: Path, which: str) -> None:
    await filled(data_dir)
    found = names(data_dir)
    segments = [data_dir / segment_name(first) for first in found.needed_segments]
    assert len(segments) > 2
    match which:
        case "snapshot":
            path = data_dir / snapshot_name(found.base)
            spoil(path, 100)
        case "segment":
            path = segments[0]
            spoil(path, 30_000)
            spoil(path, 50_000)
        case "header":
            path = segments[1]
            spoil(path, 20)
        case "control":
            path = data_dir / JOURNAL_NAME
            spoil(path, 512)
            spoil(path, 1_024)
        case _:
            path = segments[1]
            path.unlink()
    report = await verify(data_dir)
    told = [str(finding) for finding in report.findings]
    assert not report.sound
    if which == "gone":
        first, last = found.needed_segments[1], found.needed_segments[2] - 1
        assert any(f"commits {first} to {last} are missing" in one for one in told)
    else:
        assert [one for one in told if one.startswith(f"{path.name}, byte ")]
    if which == "segment":
        assert report.damaged == 4  # two frames, and the commits that were in them
    assert report.findings[0].kind is FindingKind.STRUCTURE


async def test_an_end_that_is_missing_and_what_was_acked_are_told(data_dir: Path) -> None:
    await filled(data_dir, 10)
    copy = data_dir.with_name("copy")
    shutil.copytree(data_dir, copy)
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("last", b"")
        sequence = (await opened.stats()).commit_sequence
    shutil.copy(data_dir / "ACKED", copy / "ACKED")
    report = await verify(copy)
    (finding,) = report.findings
    assert (finding.kind, finding.where) == (FindingKind.ACKED, "ACKED")
    assert f"commits {sequence} to {sequence} were acknowledged" in finding.message
    with pytest.raises(CorruptDataError, match="were acknowledged"):
        await backup(copy, data_dir.with_name("backup"))
    (copy / "ACKED").write_bytes(b"?" * 8_192)
    assert [one.kind for one in (await verify(copy)).findings] == [FindingKind.ACKED]


# --- backup and restore ---


async def test_a_backup_beside_a_writer_is_one_state_and_restores_with_all_that_was_acked(
    data_dir: Path, tmp_path: Path
) -> None:
    place, restored = tmp_path / "backup", tmp_path / "restored"
    async with journal(data_dir) as opened:
        await fill(opened)
        store, log = opened.key_value_store("shelf"), opened.log_store("audit")
        done = anyio.Event()
        acked: list[int] = []

        async def write() -> None:
            while not done.is_set():
                async with opened.transaction() as transaction:
                    store.put_nowait("count", b"%d" % len(acked), transaction=transaction)
                    log.append_nowait(b"%d" % len(acked), transaction=transaction)
                acked.append(len(acked))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(write)
            while len(acked) < 20:
                await anyio.wait_all_tasks_blocked()
            before = len(acked)
            report = await backup(data_dir, place)
            done.set()
    assert report.verification.sound
    await restore(place, restored)
    async with journal(restored) as opened:
        entry = await opened.key_value_store("shelf").get("count")
        assert entry is not None
        records = await listed(opened.log_store("audit").read_range())
        # Both of one batch, and all that was acknowledged before the backup began.
        assert records[-1].data == entry.value
        assert int(entry.value) >= before - 1


async def test_what_a_backup_has_already_is_not_copied_again(
    data_dir: Path, tmp_path: Path
) -> None:
    place = tmp_path / "backup"
    await filled(data_dir)
    first = await backup(data_dir, place)
    assert (first.unchanged, first.copied_bytes > 500_000) == (False, True)
    same = await backup(data_dir, place)
    assert (same.unchanged, same.copied_bytes) == (True, 0)
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("more", b"x" * 100)
    second = await backup(data_dir, place)
    assert second.copied_bytes < 2 * SEGMENT_BYTES < second.size_bytes
    assert second.commit_sequence == first.commit_sequence + 1
    # What is damaged in the backup is copied again all the same.
    spoil(place / snapshot_name(names(place).base), 100)
    third = await backup(data_dir, place)
    assert third.copied_bytes > 500_000
    assert (await verify(place)).sound


async def test_a_backup_is_restored_as_of_every_commit_that_it_holds(
    data_dir: Path, tmp_path: Path
) -> None:
    place, restored = tmp_path / "backup", tmp_path / "restored"
    states: dict[int, list[tuple[object, bytes]]] = {}
    rng = random.Random(7)
    async with journal(data_dir) as opened:
        store = opened.key_value_store("shelf")
        for number in range(400):
            await store.put(f"{number % 7}", rng.randbytes(2_000))
            if number % 40 == 0 or number > 396:
                sequence = (await opened.stats()).commit_sequence
                states[sequence] = [(one.key, one.value) for one in await listed(store.scan())]
    report = await backup(data_dir, place)
    assert report.first_sequence > 0
    within = [one for one in states if one >= report.first_sequence]
    assert len(within) >= 3
    for sequence in (report.first_sequence, *within):
        done = await restore(place, restored, overwrite=True, to_commit=sequence)
        assert done.commit_sequence == sequence
        assert (await verify(restored)).sound
        async with journal(restored) as opened:
            assert (await opened.stats()).commit_sequence == sequence
            found = await listed(opened.key_value_store("shelf").scan())
            if sequence in states:
                assert [(one.key, one.value) for one in found] == states[sequence]
            await opened.key_value_store("shelf").put("on", b"")
    for sequence in (report.first_sequence - 1, report.commit_sequence + 1):
        with pytest.raises(InvalidArgumentError, match="can be restored as of commit"):
            await restore(place, restored, overwrite=True, to_commit=sequence)


async def test_a_restored_store_opens_although_more_was_acked(
    data_dir: Path, tmp_path: Path
) -> None:
    await filled(data_dir, 5)
    await backup(data_dir, tmp_path / "backup")
    expected = await all_of(data_dir)
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("later", b"")
    await restore(tmp_path / "backup", data_dir, overwrite=True)
    assert (await verify(data_dir)).sound
    assert await all_of(data_dir) == expected


async def test_a_damaged_backup_or_store_replaces_nothing(data_dir: Path, tmp_path: Path) -> None:
    place = tmp_path / "backup"
    await filled(data_dir, 5)
    await backup(data_dir, place)
    async with journal(data_dir) as opened:
        await opened.key_value_store("shelf").put("more", b"")
    spoil(data_dir / segment_name(names(data_dir).needed_segments[0]), 60)
    with pytest.raises(CorruptDataError, match=r"nothing was changed|no backup was made"):
        await backup(data_dir, place)
    assert (await verify(place)).sound
    spoil(place / segment_name(names(place).needed_segments[0]), 60)
    with pytest.raises(CorruptDataError, match="nothing was restored"):
        await restore(place, data_dir, overwrite=True)
    (place / segment_name(names(place).needed_segments[0])).unlink()
    with pytest.raises(CorruptDataError, match="the file is missing"):
        await restore(place, data_dir, overwrite=True)
    assert read_manifest(place).backend == "file"


@pytest.mark.parametrize("size", [0, 10, 35])
async def test_a_segment_that_ends_inside_its_header_is_told_by_a_backup(
    data_dir: Path, tmp_path: Path, size: int
) -> None:
    await filled(data_dir, 1)
    segment = data_dir / segment_name(names(data_dir).needed_segments[-1])
    segment.write_bytes(segment.read_bytes()[:size])
    for allow_damaged in (False, True):
        with pytest.raises(CorruptDataError) as caught:
            await backup(data_dir, tmp_path / "backup", allow_damaged=allow_damaged)
        assert (caught.value.path, caught.value.where) == (segment, f"byte {size}")


async def test_one_place_holds_backups_of_one_backend(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir, 1)
    await backup(data_dir, tmp_path / "backup")
    async with registry(tmp_path / "other") as opened:
        await opened.key_value_store("shelf").put("a", b"")
    with pytest.raises(DataDirectoryError, match="of a store of the file backend"):
        await backup(tmp_path / "other", tmp_path / "backup")


# --- export ---


async def test_an_export_is_imported_into_either_backend(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir, 5)
    lines: list[bytes] = []
    await export_lines(data_dir, lines.append)

    async def given() -> Any:
        for line in lines:
            yield line

    for backend in ("file", "sqlite"):
        target = tmp_path / backend
        await import_lines(given(), config(target, backend=backend))
        assert (await verify(target)).sound
        again: list[bytes] = []
        await export_lines(target, again.append)
        assert len(again) == len(lines)
        assert records_in(again) == records_in(lines)


def records_in(lines: list[bytes]) -> list[bytes]:
    """The order of logs is each backend's own."""
    return sorted(line for line in lines if b'"record"' in line)


# --- repair ---


@pytest.mark.parametrize("which", ["snapshot", "segment", "header", "control", "gone"])
async def test_a_repair_keeps_all_whole_frames_and_loses_no_damaged_byte(
    data_dir: Path, which: str
) -> None:
    await filled(data_dir)
    before = await all_of(data_dir)
    found = names(data_dir)
    segments = [data_dir / segment_name(first) for first in found.needed_segments]
    path, at = {
        "snapshot": (data_dir / snapshot_name(found.base), 100),
        "segment": (segments[1], 30_000),
        "header": (segments[1], 20),
        "control": (data_dir / JOURNAL_NAME, 512),
        "gone": (segments[1], 0),
    }[which]
    if which == "gone":
        path.unlink()
        damaged = b""
    else:
        spoil(path, at)
        if which == "control":
            spoil(path, 1_024)
        damaged = path.read_bytes()[at : at + 8]
    told = (await verify(data_dir)).findings
    assert told
    report = await repair(data_dir)
    assert report.sound, report.findings
    assert report.mended == told
    lines = [
        json.loads(line)
        for line in (data_dir / "quarantine" / "000001.jsonl").read_text().splitlines()
    ]
    if damaged:
        kept = [base64.b64decode(one["data"]["base64"]) for one in lines if one["kind"] == "bytes"]
        assert any(damaged in one for one in kept)
    after = await all_of(data_dir)
    aside = {one["offset"] for one in lines if one["kind"] == "record"}
    offsets = {offset for offset, _ in before["records"]}
    left = {offset for offset, _ in after["records"]}
    assert left | aside <= offsets
    assert not left & aside
    assert max(left) == max(offsets)
    if which == "gone":
        first, last = found.needed_segments[1], found.needed_segments[2] - 1
        said = list(map(str, report.mended))
        assert any(f"commits {first} to {last} are missing" in one for one in said)
        gap = f"those before them, {min(aside)} to {max(aside)}, a repair sets aside"
        assert any(one.startswith("log 'audit', offsets ") and gap in one for one in said)
    else:
        assert len(offsets - left - aside) <= (which != "control")
    async with journal(data_dir) as opened:
        last = max((version for _, _, version in before["entries"]), default=0)
        assert await opened.key_value_store("shelf").put("new", b"") > last


async def test_a_sound_journal_is_left_alone_and_one_in_use_refused(data_dir: Path) -> None:
    await filled(data_dir, 2)
    files = listing(data_dir)
    report = await repair(data_dir)
    assert (report.sound, report.mended) == (True, ())
    assert listing(data_dir) == files
    async with journal(data_dir):
        with pytest.raises(DataDirectoryLockedError):
            await repair(data_dir)
        await backup(data_dir, data_dir.with_name("backup"))
        with pytest.raises(DataDirectoryLockedError):
            await restore(data_dir.with_name("backup"), data_dir, overwrite=True)

"""Verifying: what is sound is said to be, and whatever is damaged is told, with what and where."""

from __future__ import annotations

import random
import re
import shutil
from pathlib import Path

import anyio
import pytest

from mpreg.codec import encode_key
from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    ForeignDatabaseError,
    MpregError,
    SchemaVersionError,
)
from mpreg.persistence.maintenance import (
    FindingKind,
    VerificationReport,
    backup,
    export_lines,
    repair,
    verify,
)
from mpreg.persistence.snapshots.layout import chunk_key
from tests.integration.maintenance_support import fill, filled, read_all
from tests.integration.support import database, registry, tamper

pytestmark = pytest.mark.anyio


#: Of log number 2, offset 1.
LARGE_RECORD = 2 << 40 | 1


def told(report: VerificationReport) -> list[tuple[FindingKind, str]]:
    return [(finding.kind, finding.where) for finding in report.findings]


async def test_a_store_with_one_of_everything_is_sound(data_dir: Path) -> None:
    await filled(data_dir)
    files = {path.name: path.read_bytes() for path in data_dir.iterdir() if path.suffix == ".db"}
    report = await verify(data_dir, full=True)
    assert told(report) == []
    assert report.sound
    assert report.snapshots >= 2
    assert report.entries > 60
    assert report.records > 33
    assert report.commit_sequence
    assert files["mpreg.db"] == database(data_dir).read_bytes()


async def test_snapshots_of_mpregs_own_parts_are_counted_as_that(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await fill(opened)
        before = await verify(data_dir)
        await opened.reserved("queues").snapshot_store("cursor").save(b"state")
        after = await verify(data_dir)
    assert (before.snapshots, before.own_snapshots) == (2, 0)
    assert after.own_snapshots == 1
    assert after.snapshots - after.own_snapshots == 2


async def test_a_store_that_is_open_can_be_verified_and_goes_on(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await fill(opened)
        report = await verify(data_dir)
        assert told(report) == []
        assert report.commit_sequence == (await opened.stats()).commit_sequence
        assert await opened.key_value_store("shelf").put("later", b"") > 0


@pytest.mark.parametrize(
    ("statement", "parameters", "expected"),
    [
        (
            "UPDATE entries SET value = x'00' WHERE key = ?",
            (encode_key("key 3"),),
            (FindingKind.ENTRY, "namespace 'shelf', key 'key 3'"),
        ),
        (
            "UPDATE entries SET namespace_id = 999 WHERE key = ?",
            (encode_key("key 3"),),
            (FindingKind.ENTRY, "entry of namespace number 999, key 'key 3'"),
        ),
        (
            "UPDATE records SET data = x'00' WHERE offset = 9 AND length(data) = 100",
            (),
            (FindingKind.RECORD, "log 'audit', offset 9"),
        ),
        (
            "DELETE FROM records WHERE offset IN (9, 10) AND length(data) = 100",
            (),
            (FindingKind.GAP, "log 'audit', offsets 9 to 10"),
        ),
        (
            "UPDATE logs SET first_offset = 5 WHERE name = ?",
            (b"audit",),
            (FindingKind.GAP, "log 'audit', offsets 5 to 6"),
        ),
        (
            "UPDATE logs SET first_offset = 'x' WHERE name = ?",
            (b"audit",),
            (FindingKind.LOG, "log 'audit'"),
        ),
        (
            "UPDATE logs SET first_offset = 39 WHERE name = ?",
            (b"audit",),
            (FindingKind.RECORD, "log 'audit', offset 7"),
        ),
        (
            "UPDATE records SET log_id = 77 WHERE length(data) = 100",
            (),
            (FindingKind.RECORD, "records of log number 77"),
        ),
        (
            "DELETE FROM entries WHERE length(key) = 17",
            (),
            (FindingKind.SNAPSHOT, "snapshot '<snapshot/image>', version 65"),
        ),
        (
            "DELETE FROM large_values WHERE key = ?",
            (encode_key("large"),),
            (FindingKind.ENTRY, "namespace 'shelf', key 'large'"),
        ),
        (
            "DELETE FROM entries WHERE key = ?",
            (encode_key("large"),),
            (FindingKind.ENTRY, "namespace 'shelf', key 'large', large value 4"),
        ),
        (
            "UPDATE large_values SET namespace_id = 999 WHERE key = ?",
            (encode_key("large"),),
            (FindingKind.ENTRY, "namespace number 999, key 'large', large value 4"),
        ),
        (
            "UPDATE large_values SET value = x'00' WHERE key = ?",
            (encode_key("large"),),
            (FindingKind.ENTRY, "namespace 'shelf', key 'large'"),
        ),
        (
            "UPDATE large_values SET value = NULL WHERE key = ?",
            (encode_key("large"),),
            (FindingKind.ENTRY, "namespace 'shelf', key 'large'"),
        ),
        (
            "DELETE FROM large_records WHERE id & 3 = 1",
            (),
            (FindingKind.RECORD, "log 'large', offset 1"),
        ),
        (
            "UPDATE large_records SET data = x'00' WHERE id & 3 = 1",
            (),
            (FindingKind.RECORD, "log 'large', offset 1"),
        ),
        (
            "DELETE FROM records WHERE offset = 1 AND typeof(data) = 'integer'",
            (),
            (FindingKind.RECORD, f"log 'large', offset 1, large record {LARGE_RECORD}"),
        ),
        (
            "UPDATE large_records SET id = 999 << 40 WHERE id & 3 = 1",
            (),
            (FindingKind.RECORD, f"log number 999, offset 0, large record {999 << 40}"),
        ),
        *(
            (
                f"UPDATE entries SET {column} = NULL WHERE key = ?",
                (encode_key("key 3"),),
                (FindingKind.ENTRY, "namespace 'shelf', key 'key 3'"),
            )
            for column in ("version", "checksum", "value")
        ),
        ("DROP TABLE large_values", (), (FindingKind.STRUCTURE, "schema: large_values")),
        ("UPDATE meta SET last_version = 3", (), (FindingKind.META, "meta, last_version")),
        ("UPDATE meta SET commit_sequence = 0", (), (FindingKind.META, "meta, commit_sequence")),
        ("UPDATE meta SET generation = 'x'", (), (FindingKind.META, "meta")),
        ("DELETE FROM meta", (), (FindingKind.META, "meta")),
        ("DROP TABLE meta", (), (FindingKind.STRUCTURE, "schema: meta")),
        ("DROP TABLE records", (), (FindingKind.STRUCTURE, "schema: records")),
        ("DROP TABLE large_records", (), (FindingKind.STRUCTURE, "schema: large_records")),
    ],
)
async def test_each_kind_of_damage_is_told_by_name(
    data_dir: Path,
    statement: str,
    parameters: tuple[object, ...],
    expected: tuple[FindingKind, str],
) -> None:
    await filled(data_dir)
    tamper(data_dir, statement, parameters)
    report = await verify(data_dir)
    assert not report.sound
    assert expected in told(report)


async def test_chunks_that_no_snapshot_names_are_told_and_are_no_damage(data_dir: Path) -> None:
    await filled(data_dir)
    async with registry(data_dir) as opened:
        stray = opened.reserved("snapshot").key_value_store("image")
        await stray.put(chunk_key(123_456, 0)[1:], b"nobody's")
    report = await verify(data_dir)
    assert report.sound
    assert told(report) == [(FindingKind.LEFTOVER, "snapshot '<snapshot/image>', save 123456")]


async def test_what_is_no_store_is_refused_by_name(data_dir: Path) -> None:
    with pytest.raises(DataDirectoryError, match="no such directory"):
        await verify(data_dir)
    data_dir.mkdir()
    with pytest.raises(DataDirectoryError, match=r"no mpreg\.db"):
        await verify(data_dir)
    database(data_dir).write_bytes(b"something else entirely" * 100)
    report = await verify(data_dir)
    assert not report.sound


async def test_a_store_of_a_newer_mpreg_or_another_program_is_refused(data_dir: Path) -> None:
    await filled(data_dir, entries=1)
    tamper(data_dir, "PRAGMA user_version = 9")
    with pytest.raises(SchemaVersionError):
        await verify(data_dir)
    tamper(data_dir, "PRAGMA application_id = 9")
    with pytest.raises(ForeignDatabaseError):
        await verify(data_dir)


async def test_a_caller_who_is_cancelled_waits_for_one_step_only(data_dir: Path) -> None:
    await filled(data_dir)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await verify(data_dir)
    assert scope.cancelled_caught
    async with registry(data_dir) as opened:
        assert await opened.key_value_store("shelf").get("key 1")


# --- any bytes changed ---


def damage(path: Path, rng: random.Random) -> str:
    """Change some bytes of a file as failing devices do; says how."""
    data = bytearray(path.read_bytes())
    kind = rng.choice(["flip", "zero", "cut", "noise"])
    place = rng.randrange(len(data))
    if kind == "flip":
        data[place] ^= 1 << rng.randrange(8)
    elif kind == "cut":
        del data[place:]
    else:
        length = rng.choice([1, 16, 512, 4096])
        length = min(length, len(data) - place)
        data[place : place + length] = bytes(length) if kind == "zero" else rng.randbytes(length)
    path.write_bytes(data)
    return f"{kind} at {place}"


@pytest.mark.parametrize("first_seed", range(0, 60, 20))
async def test_whatever_bytes_change_it_is_told_or_all_can_be_read(
    tmp_path: Path, first_seed: int
) -> None:
    sound = tmp_path / "sound"
    await filled(sound)
    before = await read_all(sound)
    for seed in range(first_seed, first_seed + 20):
        data_dir = tmp_path / "damaged"
        shutil.copytree(sound, data_dir)
        how = damage(database(data_dir), random.Random(seed))
        try:
            report = await verify(data_dir)
        except MpregError:
            # Told as well: it could not be examined.
            report = None
        if report is not None and report.sound:
            assert await read_all(data_dir) == before, f"seed {seed}: {how}"
        elif report is not None:
            assert all(one.where and one.message for one in report.findings), f"seed {seed}: {how}"
        shutil.rmtree(data_dir)


@pytest.mark.parametrize("length", [0, 60])
async def test_a_header_that_was_cut_off_is_told_and_the_log_beside_it_stays(
    tmp_path: Path, length: int
) -> None:
    """SQLite takes an empty file for a new database, and removes what it then calls a stale WAL."""
    data_dir = tmp_path / "killed"
    async with registry(tmp_path / "data") as opened:
        await opened.key_value_store("s").put("a", b"1")
        shutil.copytree(tmp_path / "data", data_dir)
    database(data_dir).write_bytes(database(data_dir).read_bytes()[:length])
    before = {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file()}
    assert before["mpreg.db-wal"]

    (finding,) = (await verify(data_dir)).findings
    assert finding.kind is FindingKind.STRUCTURE
    assert f"ends after {length} bytes" in finding.message
    with pytest.raises(CorruptDataError, match="ends after"):
        await backup(data_dir, tmp_path / "backup")
    with pytest.raises(CorruptDataError, match="ends after"):
        await export_lines(data_dir, bytes)
    with pytest.raises(CorruptDataError, match="ends after"):
        await repair(data_dir)
    after = {path.name: path.read_bytes() for path in data_dir.iterdir() if path.is_file()}
    assert {**after, "LOCK": b""} == {**before, "LOCK": b""}


@pytest.mark.parametrize("table", ["entries", "records"])
async def test_rows_that_a_changed_key_hides_are_missed(data_dir: Path, table: str) -> None:
    async with registry(data_dir) as opened:
        for name in ("first", "second"):
            await opened.log_store(name).append_many([b"%d" % number * 20 for number in range(8)])
            for number in range(8):
                await opened.key_value_store(name).put(f"key {number}", b"value")
    content = bytearray(database(data_dir).read_bytes())
    # Where the number of its log or namespace stands, of a row that no search for others meets.
    row = {
        "records": rb"\x05\x01\x01[\x04\x05]\x34(\x02)\x02.{4,6}" + b"2" * 20,
        "entries": rb"\x07\x01..\x00..(\x02)" + re.escape(encode_key("key 2")),
    }
    (found,) = re.finditer(row[table], content, re.DOTALL)
    content[found.start(1)] = 68
    database(data_dir).write_bytes(content)
    (finding,) = (await verify(data_dir)).findings
    assert (finding.kind, finding.where) == (FindingKind.STRUCTURE, f"table {table}")
    assert finding.message == "16 rows, and 10 found by their keys: they are out of order"
    with pytest.raises(CorruptDataError, match="out of order"):
        await repair(data_dir)
    assert database(data_dir).read_bytes() == content
    with pytest.raises(CorruptDataError, match="out of order"):
        await export_lines(data_dir, bytes)

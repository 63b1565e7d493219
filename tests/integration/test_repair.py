"""Repairing: what is damaged is set aside where it can be read, and the rest is whole."""

from __future__ import annotations

import base64
import json
import re
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from mpreg.codec import encode_key
from mpreg.persistence import CorruptDataError, DataDirectoryLockedError, SnapshotRetention
from mpreg.persistence.maintenance import FindingKind, backup, repair, restore, verify
from mpreg.persistence.snapshots.layout import VERSION
from tests.integration.maintenance_support import filled, read_all
from tests.integration.support import database, registry, tamper

#: The id of the one at offset 1, in the second of the logs.
LARGE_RECORD = 2 << 40 | 1
ANY_MANIFEST = encode_key(VERSION)

pytestmark = pytest.mark.anyio


def quarantined(data_dir: Path) -> list[dict[str, object]]:
    return [
        json.loads(line)
        for path in sorted((data_dir / "quarantine").glob("*.jsonl"))
        for line in path.read_text().splitlines()
    ]


async def test_damaged_items_are_set_aside_and_a_second_repair_finds_nothing(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    before = await read_all(data_dir)
    tamper(data_dir, "UPDATE entries SET value = x'0102' WHERE key = ?", (encode_key("key 3"),))
    tamper(data_dir, "UPDATE records SET data = x'03' WHERE offset = 9 AND length(data) = 100")
    report = await repair(data_dir)
    assert report.sound
    assert [one.kind for one in report.findings] == [FindingKind.SET_ASIDE]
    assert [one.where for one in report.mended] == [
        "namespace 'shelf', key 'key 3'",
        "log 'audit', offset 9",
    ]
    entry, record = quarantined(data_dir)
    assert (entry["kind"], record["kind"], record["offset"]) == ("entry", "record", 9)
    assert entry["value"] == {"base64": base64.b64encode(b"\x01\x02").decode()}
    assert (data_dir / "quarantine").stat().st_mode & 0o777 == 0o700

    again = await repair(data_dir)
    assert (again.sound, again.mended) == (True, ())
    assert len(quarantined(data_dir)) == 2
    del before["shelf 'key 3'"], before["audit 9"]
    async with registry(data_dir) as opened:
        shelf = opened.key_value_store("shelf")
        assert {f"shelf {entry.key!r}" async for entry in shelf.scan()} == {
            name for name in before if name.startswith("shelf ")
        }


@pytest.mark.parametrize("column", ["version", "checksum", "value"])
async def test_an_entry_that_lacks_a_column_is_set_aside(data_dir: Path, column: str) -> None:
    await filled(data_dir)
    before = await read_all(data_dir)
    tamper(data_dir, f"UPDATE entries SET {column} = NULL WHERE key = ?", (encode_key("key 3"),))
    report = await repair(data_dir)
    assert report.sound
    assert [one.where for one in report.mended] == ["namespace 'shelf', key 'key 3'"]
    (entry,) = quarantined(data_dir)
    assert (entry["kind"], entry["key"], entry[column]) == (
        "entry",
        shown(encode_key("key 3")),
        None,
    )
    del before["shelf 'key 3'"]
    assert await read_all(data_dir) == before


async def test_an_entry_and_its_large_value_that_lost_their_columns_are_set_aside(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    before = await read_all(data_dir)
    for key, table in (("large", "large_values"), ("largest", "entries")):
        tamper(data_dir, f"UPDATE {table} SET value = NULL WHERE key = ?", (encode_key(key),))
    assert (await repair(data_dir)).sound
    aside = [(item["kind"], item["key"]) for item in quarantined(data_dir)]
    assert aside == [
        ("entry", shown(encode_key("large"))),
        ("entry", shown(encode_key("largest"))),
        ("large value", shown(encode_key("largest"))),
    ]
    del before["shelf 'large'"], before["shelf 'largest'"]
    assert await read_all(data_dir) == before


async def test_a_large_value_and_an_entry_that_lost_each_other_are_both_set_aside(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    before = await read_all(data_dir)
    lost = "UPDATE large_values SET key = ? WHERE key = ?"
    tamper(data_dir, lost, (encode_key("nobody's"), encode_key("large")))
    assert len((await verify(data_dir)).findings) == 2
    assert (await repair(data_dir)).sound
    entry, value = quarantined(data_dir)
    assert (entry["kind"], entry["key"]) == ("entry", shown(encode_key("large")))
    assert (value["kind"], value["key"]) == ("large value", shown(encode_key("nobody's")))
    kept = before.pop("shelf 'large'")
    assert isinstance(kept, tuple)
    assert value["value"] == shown(kept[0])
    assert value["namespace_name"] == shown(b"shelf")
    assert await read_all(data_dir) == before


async def test_a_damaged_large_value_is_set_aside_with_its_entry(data_dir: Path) -> None:
    await filled(data_dir)
    tamper(data_dir, "UPDATE large_values SET value = x'01' WHERE key = ?", (encode_key("large"),))
    assert (await repair(data_dir)).sound
    (entry,) = quarantined(data_dir)
    assert (entry["kind"], entry["value"]) == ("entry", shown(b"\x01"))


@pytest.mark.parametrize(
    ("damage", "aside"),
    [
        ("UPDATE large_records SET data = x'01' WHERE id & 3 = 1", [(1, b"\x01")]),
        ("DELETE FROM large_records WHERE id & 3 = 1", [(1, LARGE_RECORD)]),
        ("UPDATE large_records SET id = 9 << 40 WHERE id & 3 = 1", [(1, LARGE_RECORD), (0, None)]),
        ("DELETE FROM records WHERE offset = 1 AND typeof(data) = 'integer'", [(1, None)]),
        (
            "UPDATE records SET data = 7 WHERE offset = 1 AND typeof(data) = 'integer'",
            [(1, 7), (1, None)],
        ),
        # The log's number that it has then does not fit into an id.
        (
            "UPDATE records SET log_id = 2 + (1 << 24) WHERE log_id = 2 AND offset = 1",
            [(1, LARGE_RECORD), (1, None)],
        ),
    ],
    ids=["data", "no data", "another id", "no record", "another data", "another log"],
)
async def test_a_large_record_and_its_data_are_set_aside_however_they_were_parted(
    data_dir: Path, damage: str, aside: list[tuple[int, int | bytes | None]]
) -> None:
    """None: the data, with nothing that would vouch for it."""
    await filled(data_dir)
    kept = (await read_all(data_dir))["large 1"]
    assert isinstance(kept, bytes)
    tamper(data_dir, damage)
    assert not (await verify(data_dir)).sound
    report = await repair(data_dir)
    assert report.sound
    assert [one.where for one in report.findings] == ["log 'large', offset 1"]
    assert [(item["kind"], item["offset"], item["data"]) for item in quarantined(data_dir)] == [
        ("record", offset, data if isinstance(data, int) else shown(data or kept))
        for offset, data in aside
    ]
    async with registry(data_dir) as opened:
        log = opened.log_store("large")
        assert [record.offset async for record in log.read_range(2)] == [2, 3]
        assert [record.offset async for record in log.read_range(0, 1)] == [0]
        await log.delete()
    with closing(sqlite3.connect(database(data_dir))) as connection:
        assert connection.execute("SELECT * FROM large_records").fetchall() == []


async def test_a_row_that_its_key_does_not_lead_to_is_told_as_that(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        for name in ("first", "second", "third"):
            await opened.log_store(name).append_many([bytes(1_000)] * 6)
            await opened.log_store(name).truncate_before(2)
    content = bytearray(database(data_dir).read_bytes())
    # The record of log 2 and offset 2: its columns' types, the numbers, the checksum, and its id.
    row = rb"\x05\x01\x01[\x04\x05]\x05(\x02)\x02.{4,6}\x02\x00\x00\x00\x00\x02"
    (found,) = re.finditer(row, content, re.DOTALL)
    content[found.start(1)] = 3
    database(data_dir).write_bytes(content)
    assert not (await verify(data_dir)).sound
    with pytest.raises(CorruptDataError, match="out of order"):
        await repair(data_dir)
    assert database(data_dir).read_bytes() == content


def shown(data: bytes) -> dict[str, str]:
    return {"base64": base64.b64encode(data).decode()}


async def test_a_snapshot_with_a_lost_chunk_goes_as_a_whole(data_dir: Path) -> None:
    await filled(data_dir)
    tamper(data_dir, "DELETE FROM entries WHERE length(key) = 17 AND hex(key) LIKE '%1'")
    assert not (await verify(data_dir)).sound
    assert (await repair(data_dir)).sound
    async with registry(data_dir) as opened:
        assert await opened.snapshot_store("image").load() is None
    assert quarantined(data_dir)


async def test_versions_that_are_whole_stay_where_another_is_lost(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("image", retention=SnapshotRetention(versions_max=3))
        for data in (b"first", b"second", b"third"):
            await images.save(data)
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE value = ?", (b"second",))
    assert not (await verify(data_dir)).sound
    assert (await repair(data_dir)).sound
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("image")
        newest = await images.load()
        assert newest is not None
        assert newest.data == b"third"
        assert len(await images.versions()) == 2
        assert await images.save(b"fourth") > newest.version
    assert (await verify(data_dir)).sound


async def test_a_damaged_manifest_is_set_aside(data_dir: Path) -> None:
    await filled(data_dir)
    tamper(
        data_dir,
        "UPDATE entries SET value = x'00' WHERE substr(key, 1, ?) = ?",
        (len(ANY_MANIFEST), ANY_MANIFEST),
    )
    assert (await repair(data_dir)).sound


async def test_the_last_record_of_a_log_stays_so_that_its_offset_is_not_given_again(
    data_dir: Path,
) -> None:
    await filled(data_dir)
    tamper(data_dir, "UPDATE records SET data = x'03' WHERE offset = 39 AND length(data) = 100")
    assert (await repair(data_dir)).damaged == 1
    async with registry(data_dir) as opened:
        assert await opened.log_store("audit").append(b"more") == 40
    assert (await repair(data_dir)).sound


async def test_a_store_in_use_is_not_repaired(data_dir: Path) -> None:
    async with registry(data_dir):
        with pytest.raises(DataDirectoryLockedError):
            await repair(data_dir)


async def test_damaged_structure_is_left_alone(data_dir: Path) -> None:
    await filled(data_dir)
    tamper(data_dir, "DROP TABLE records")
    before = database(data_dir).read_bytes()
    with pytest.raises(CorruptDataError, match="nothing was changed"):
        await repair(data_dir)
    assert database(data_dir).read_bytes() == before


async def test_what_was_set_aside_goes_with_a_backup(data_dir: Path, tmp_path: Path) -> None:
    await filled(data_dir)
    tamper(data_dir, "UPDATE records SET data = x'03' WHERE offset = 9 AND length(data) = 100")
    await repair(data_dir)
    assert (await backup(data_dir, tmp_path / "backup")).verification.sound
    await restore(tmp_path / "backup", tmp_path / "restored")
    assert quarantined(tmp_path / "restored") == quarantined(data_dir)
    assert (await verify(tmp_path / "restored")).sound

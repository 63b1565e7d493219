"""Indexes that differ from their tables: told, and made anew by a repair, without losing a name."""

from __future__ import annotations

import shutil
from pathlib import Path

import anyio.to_thread
import pytest

from mpreg.codec import encode_key
from mpreg.persistence import CorruptDataError
from mpreg.persistence.maintenance import repair, verify
from tests.integration.maintenance_support import filled, read_all
from tests.integration.support import database, registry
from tests.integration.test_damaged_names import NAMES, places

pytestmark = pytest.mark.anyio


def changed_at(data_dir: Path, at: int, bit: int = 1) -> None:
    content = bytearray(database(data_dir).read_bytes())
    content[at] ^= bit
    database(data_dir).write_bytes(content)


async def test_a_repair_makes_the_index_of_expiries_anew_where_it_was_looked_at(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        for key in ("ann", "bob", "eve"):
            await opened.key_value_store("shelf").put(key, b"value", ttl_seconds=1e9)
    content = database(data_dir).read_bytes()
    # The key once more, behind its table.
    at = content.rindex(encode_key("bob"))
    assert at != content.index(encode_key("bob"))
    changed_at(data_dir, at)
    assert (await verify(data_dir)).sound
    assert not (await verify(data_dir, full=True)).sound
    assert (await repair(data_dir)).sound
    report = await repair(data_dir, full=True)
    assert (report.sound, report.full) == (True, True)
    assert (await verify(data_dir, full=True)).sound
    assert not (data_dir / "quarantine").exists()


@pytest.mark.parametrize("full", [True, False])
@pytest.mark.parametrize("name", [b"shelf", b"audit", b"emptied"])
async def test_a_changed_name_is_put_right_by_what_is_stored_under_it(
    data_dir: Path, tmp_path: Path, name: bytes, *, full: bool
) -> None:
    await filled(data_dir, entries=5)
    before = await read_all(data_dir)
    for place in places(database(data_dir).read_bytes(), name):
        copy = tmp_path / f"copy {place}"
        await anyio.to_thread.run_sync(shutil.copytree, data_dir, copy)
        changed_at(copy, place)
        report = await verify(copy)
        assert not report.sound
        if name == b"emptied":
            # Nothing is left in it that could tell, and its offsets must not be given again.
            damaged = database(copy).read_bytes()
            with pytest.raises(CorruptDataError, match="none of its items tells"):
                await repair(copy, full=full)
            assert database(copy).read_bytes() == damaged
        else:
            mended = await repair(copy, full=full)
            assert mended.sound
            assert mended.mended[0].where in ("table namespaces", "table logs")
            assert not (copy / "quarantine").exists()
            assert await read_all(copy) == before


#: Where the number of a row stands, from the name in the table on: before it, and what is between.
BEFORE = {"namespaces": 4, "logs": 5}


@pytest.mark.parametrize("is_in_index", [True, False])
@pytest.mark.parametrize("table", NAMES)
async def test_a_changed_number_is_put_right(
    data_dir: Path, table: str, *, is_in_index: bool
) -> None:
    name = NAMES[table]
    async with registry(data_dir) as opened:
        for one in ("first", "second", name.decode()):
            if table == "namespaces":
                await opened.key_value_store(one).put("ann", b"1")
            else:
                await opened.log_store(one).append_many([b"a", b"b"])
    in_table, in_index = places(database(data_dir).read_bytes(), name)
    # In the index it follows the name.
    place = in_index + len(name) if is_in_index else in_table - BEFORE[table]
    changed_at(data_dir, place, 0x20)
    assert not (await verify(data_dir)).sound
    report = await repair(data_dir)
    assert report.sound
    told = [one for one in report.mended if "its name or number was changed" in one.message]
    # What is in the index is no row: that is only made anew.
    assert [repr(name.decode()) in one.where for one in told] == [True] * (not is_in_index)
    assert not (data_dir / "quarantine").exists()
    async with registry(data_dir) as opened:
        if table == "namespaces":
            assert await opened.key_value_store(name.decode()).get("ann")
        else:
            assert await opened.log_store(name.decode()).append(b"c") == 2


@pytest.mark.parametrize("table", NAMES)
async def test_an_index_of_names_that_cannot_be_read_is_made_anew(
    data_dir: Path, table: str
) -> None:
    name = NAMES[table]
    async with registry(data_dir) as opened:
        for one in ("first", name.decode(), "second"):
            if table == "namespaces":
                await opened.key_value_store(one).put("ann", b"1")
            else:
                await opened.log_store(one).append(b"a")
    in_index = places(database(data_dir).read_bytes(), name)[1]
    # The type of the number that follows the name: there is none like it.
    changed_at(data_dir, in_index - 1, 0x10)
    assert not (await verify(data_dir)).sound
    report = await repair(data_dir)
    assert (report.sound, report.mended[0].where) == (True, f"table {table}")
    async with registry(data_dir) as opened:
        if table == "namespaces":
            assert await opened.key_value_store(name.decode()).get("ann")
        else:
            assert await opened.log_store(name.decode()).append(b"b") == 1


async def test_an_empty_namespace_or_log_has_no_name_to_lose(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("sessions").put("ann", b"1")
        await opened.key_value_store("sessions").delete("ann")
    changed_at(data_dir, max(places(database(data_dir).read_bytes(), b"sessions")))
    assert (await repair(data_dir)).sound
    async with registry(data_dir) as opened:
        assert await opened.key_value_store("sessions").put("ann", b"1", expected_version=0)

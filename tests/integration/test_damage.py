"""Stored bytes that are not what was written: told, set aside, and never returned."""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path

import anyio
import pytest

from mpreg.actors import Running
from mpreg.codec import encode_key
from mpreg.persistence import (
    CorruptDataError,
    KeyValueStore,
    LogRetention,
    LogStore,
    PersistenceRegistry,
    VersionConflictError,
)
from tests.integration.support import TurnedClock, database, listed, registry, tamper

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def filled(data_dir: Path) -> AsyncIterator[tuple[PersistenceRegistry, KeyValueStore]]:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("shelf")
        for key in ("ann", "bob", "eve"):
            await store.put(key, b"value of " + key.encode(), ttl_seconds=1e9)
        yield opened, store


BOB = encode_key("bob")
#: What can become of bob's row. All leave its key as it is.
DAMAGES = {
    "a flipped bit in the value": "value = x'76616c7565206f6620626f63'",
    "a shorter value": "value = x''",
    "another version": "version = version + 1",
    "another expiry": "expires_at = expires_at + 1",
    "a lost expiry": "expires_at = NULL",
    "another checksum": "checksum = checksum + 1",
    "a value turned into text": "value = 'value of bob'",
    "a value turned into text that is none": "value = CAST(x'ff00fe' AS TEXT)",
    "a value turned into a number": "value = 7",
    "an expiry turned into text": "expires_at = 'soon'",
    "an expiry turned into bytes": "expires_at = x'00ff'",
    "a version turned into a fraction": "version = 1.5",
    "a version turned into text": "version = 'first'",
    "a checksum turned into text": "checksum = 'none'",
    "no version": "version = NULL",
    "no checksum": "checksum = NULL",
    "no value": "value = NULL",
    "nothing but its key": "version = NULL, expires_at = NULL, checksum = NULL, value = NULL",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_entry_is_told_by_name_and_the_others_can_be_read(
    data_dir: Path, damage: str
) -> None:
    async with filled(data_dir) as (opened, store):
        tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (BOB,))
        with pytest.raises(CorruptDataError) as caught:
            await store.get("bob")
        assert caught.value.where == "namespace 'shelf', key 'bob'"
        assert caught.value.path == database(data_dir)
        entry = await store.get("ann")
        assert entry is not None
        assert entry.value == b"value of ann"

        seen = []
        with pytest.raises(CorruptDataError):
            seen.extend([entry.key async for entry in store.scan()])
        told: list[CorruptDataError] = []
        found = [entry.key async for entry in store.scan(on_damaged=told.append)]
        assert found == ["ann", "eve"]
        assert [error.where for error in told] == ["namespace 'shelf', key 'bob'"]
        stats = await opened.stats()
        assert (stats.writer_restarts, stats.reader_restarts) == (0, 0)
        assert stats.reader == Running(1)


@pytest.mark.parametrize(
    ("damaged", "shown"),
    [
        (encode_key("bod"), "'bod'"),
        (encode_key(b"bob"), "b'bob'"),
        (b"\x01\xff\xfe", "b'\\x01\\xff\\xfe'"),
        (b"\x02bob", "b'bob'"),
        (b"", "b''"),
    ],
)
async def test_a_damaged_key_is_not_found_and_told_by_a_scan(
    data_dir: Path, damaged: bytes, shown: str
) -> None:
    async with filled(data_dir) as (opened, store):
        tamper(data_dir, "UPDATE entries SET key = ? WHERE key = ?", (damaged, BOB))
        assert await store.get("bob") is None
        told: list[CorruptDataError] = []
        assert len([entry async for entry in store.scan(on_damaged=told.append)]) == 2
        assert [error.where for error in told] == [f"namespace 'shelf', key {shown}"]
        assert (await opened.stats()).reader_restarts == 0


async def test_an_entry_moved_to_another_namespace_is_damaged_there(data_dir: Path) -> None:
    async with filled(data_dir) as (opened, store):
        other = opened.key_value_store("other")
        await other.put("x", b"")
        tamper(data_dir, "UPDATE entries SET namespace_id = 2 WHERE key = ?", (BOB,))
        assert await store.get("bob") is None
        with pytest.raises(CorruptDataError, match="namespace 'other', key 'bob'"):
            await other.get("bob")


@pytest.mark.parametrize(
    "damage", ["value = x'00'", "value = NULL", "version = NULL", "checksum = NULL"]
)
async def test_a_damaged_entry_fails_only_its_own_read_of_many(data_dir: Path, damage: str) -> None:
    async with filled(data_dir) as (_, store):
        tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (BOB,))
        outcomes: dict[str, object] = {}

        async def read(key: str) -> None:
            try:
                entry = await store.get(key)
            except CorruptDataError as error:
                outcomes[key] = error.where
            else:
                outcomes[key] = entry and entry.value

        async with anyio.create_task_group() as task_group:
            for key in ("ann", "bob", "eve"):
                task_group.start_soon(read, key)
    assert outcomes == {
        "ann": b"value of ann",
        "bob": "namespace 'shelf', key 'bob'",
        "eve": b"value of eve",
    }


@pytest.mark.parametrize(
    "damage", ["value = x'00'", "value = NULL", "version = NULL", "checksum = NULL"]
)
async def test_a_damaged_entry_can_be_replaced_and_deleted(data_dir: Path, damage: str) -> None:
    async with filled(data_dir) as (_, store):
        tamper(data_dir, f"UPDATE entries SET {damage}")
        await store.put("bob", b"anew")
        entry = await store.get("bob")
        assert entry is not None
        assert entry.value == b"anew"
        assert await store.delete("ann")
        assert await store.get("ann") is None


@pytest.mark.parametrize(
    "damage",
    [
        "expires_at = 1.0",
        "expires_at = -1e300",
        "expires_at = 'soon'",
        "expires_at = x'00'",
        "version = 'first', expires_at = 1.0",
        "value = x'00', expires_at = 1.0",
        "value = NULL, expires_at = 1.0",
        "version = NULL, expires_at = 1.0",
        "checksum = NULL, expires_at = 1.0",
    ],
)
async def test_a_damaged_entry_is_not_swept_and_the_others_are(data_dir: Path, damage: str) -> None:
    clock = TurnedClock(1_000.0)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("shelf")
        for key in ("ann", "bob", "eve"):
            await store.put(key, b"value", ttl_seconds=5.0 if key == "bob" else 1.0)
        tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (BOB,))
        clock.now += 2.0
        assert await store.sweep_expired(2) == 2
        assert await store.sweep_expired() == 0
        with pytest.raises(CorruptDataError, match="key 'bob'"):
            await store.get("bob")
        assert (await opened.stats()).writer_restarts == 0


@pytest.mark.parametrize(
    "damage",
    [
        "expires_at = 'soon'",
        "expires_at = x'00'",
        "version = 'first'",
        "version = 1.5",
        "version = NULL",
    ],
)
async def test_a_write_with_a_condition_on_a_damaged_entry_fails_alone(
    data_dir: Path, damage: str
) -> None:
    async with filled(data_dir) as (opened, store):
        tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (BOB,))
        for expected in (0, 1, 2):
            with pytest.raises(VersionConflictError):
                await store.put("bob", b"", expected_version=expected)
            with pytest.raises(VersionConflictError):
                await store.delete("bob", expected_version=expected)
        await store.put("ann", b"")
        assert await store.delete("bob")
        assert (await opened.stats()).writer_restarts == 0


# --- logs ---


@asynccontextmanager
async def logged(data_dir: Path) -> AsyncIterator[LogStore]:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"r0", b"r1", b"r2", b"r3", b"r4"])
        yield log
        assert (await opened.stats()).reader_restarts == 0


@pytest.mark.parametrize(
    "damage",
    [
        "data = x'00'",
        "data = 'r2'",
        "data = CAST(x'ff' AS TEXT)",
        "data = 2",
        "checksum = checksum + 1",
        "checksum = 'x'",
    ],
)
async def test_a_damaged_record_is_told_by_its_offset_and_the_others_can_be_read(
    data_dir: Path, damage: str
) -> None:
    async with logged(data_dir) as log:
        tamper(data_dir, f"UPDATE records SET {damage} WHERE offset = 2")
        seen = []
        reading = aiter(log.read_range())
        with pytest.raises(CorruptDataError, match="log 'audit', offset 2"):  # noqa: PT012
            while True:
                seen.append((await anext(reading)).offset)
        assert seen == [0, 1]
        told: list[CorruptDataError] = []
        found = [record.offset async for record in log.read_range(on_damaged=told.append)]
        assert found == [0, 1, 3, 4]
        assert [error.where for error in told] == ["log 'audit', offset 2"]
        assert [record.offset for record in await listed(log.read_range(3))] == [3, 4]


async def test_missing_records_are_told_by_their_offsets(data_dir: Path) -> None:
    async with logged(data_dir) as log:
        tamper(data_dir, "DELETE FROM records WHERE offset IN (0, 2, 3)")
        told: list[CorruptDataError] = []
        found = [record.offset async for record in log.read_range(on_damaged=told.append)]
        assert found == [1, 4]
        assert [error.where for error in told] == [
            "log 'audit', offsets 0 to 0",
            "log 'audit', offsets 2 to 3",
        ]
        with pytest.raises(CorruptDataError, match="offsets 2 to 3"):
            await listed(log.read_range(1, 4))


async def test_a_record_under_another_offset_is_damaged(data_dir: Path) -> None:
    async with logged(data_dir) as log:
        tamper(data_dir, "DELETE FROM records WHERE offset = 2")
        tamper(data_dir, "UPDATE records SET offset = 2 WHERE offset = 3")
        told: list[CorruptDataError] = []
        assert len([r async for r in log.read_range(on_damaged=told.append)]) == 3
        assert [error.where for error in told] == [
            "log 'audit', offset 2",
            "log 'audit', offsets 3 to 3",
        ]


async def test_an_offset_turned_into_a_fraction_does_not_stop_the_reader(data_dir: Path) -> None:
    async with logged(data_dir) as log:
        tamper(data_dir, "UPDATE records SET offset = 2.5 WHERE offset = 2")
        with pytest.raises(CorruptDataError):
            await listed(log.read_range())
        assert [record.offset for record in await listed(log.read_range(3))] == [3, 4]


# --- pages ---


async def test_a_damaged_page_is_told_and_what_is_elsewhere_can_be_read(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("shelf")
        async with opened.transaction() as transaction:
            for number in range(400):
                store.put_nowait(f"{number:04}", bytes(200), transaction=transaction)
    with closing(sqlite3.connect(database(data_dir))) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    with database(data_dir).open("r+b") as file:
        # One of the pages that hold the entries; all that follow the schema's do.
        file.seek((pages // 2) * page_size)
        file.write(b"\xa5" * page_size)

    outcomes = {"read": 0, "told": 0}
    async with registry(data_dir) as opened:
        store = opened.key_value_store("shelf")

        async def read(number: int) -> None:
            try:
                entry = await store.get(f"{number:04}")
            except CorruptDataError as error:
                outcomes["told"] += "damaged" in str(error) and error.path == database(data_dir)
            else:
                assert entry is not None
                outcomes["read"] += 1

        async with anyio.create_task_group() as task_group:
            for number in range(400):
                task_group.start_soon(read, number)
        with pytest.raises(CorruptDataError):
            await listed(store.scan())
        told: list[CorruptDataError] = []
        many = await store.get_many([f"{one:04}" for one in range(400)], on_damaged=told.append)
        assert (many.count(None), len(told)) == (outcomes["told"], outcomes["told"])
        assert (await opened.stats()).reader_restarts == 0
    assert outcomes["told"] > 0
    assert outcomes["read"] > 300


async def test_a_log_with_damaged_bounds_refuses_appends_and_all_else_is_written(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        await opened.log_store("bad").append(b"0")
        await opened.log_store("good").append(b"0")
    tamper(data_dir, "UPDATE logs SET first_offset = 'zz' WHERE name = ?", (b"bad",))
    async with registry(data_dir) as opened:
        bad, good = opened.log_store("bad"), opened.log_store("good")
        store = opened.key_value_store("s")
        acks = [good.append_nowait(b"1"), bad.append_nowait(b"1"), store.put_nowait("k", b"")]
        with pytest.raises(CorruptDataError):
            await acks[1]
        assert (await acks[0], await acks[2]) == (1, 1)
        with pytest.raises(CorruptDataError):  # noqa: PT012
            async with opened.transaction() as transaction:
                lost = store.put_nowait("lost", b"", transaction=transaction)
                bad.append_nowait(b"1", transaction=transaction)
        assert isinstance(lost.error, CorruptDataError)
        assert await good.append(b"2") == 2
        assert await store.get("lost") is None
        stats = await opened.stats()
        assert (stats.writer, stats.writer_restarts) == (Running(1), 0)


# --- upkeep beside what is damaged ---


async def test_a_damaged_log_keeps_upkeep_from_nothing_else_and_is_told_once(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    limits = [LogRetention(log=log, records_max=1) for log in ("bad", "good")]
    async with registry(data_dir) as opened:
        for limit in limits:
            await opened.log_store(limit.log).append_many([b"0", b"1", b"2"])
    tamper(data_dir, "UPDATE logs SET first_offset = 'zz' WHERE name = ?", (b"bad",))
    async with registry(
        data_dir, log_retention=limits, upkeep_interval_seconds=0.001, wal_checkpoint_pages=10_000
    ) as opened:
        with anyio.fail_after(60):
            while (await opened.stats()).checkpoints < 4:
                await opened.key_value_store("s").put("k", b"")
        assert await opened.log_store("good").first_offset() == 2
        report = await opened.compact()
        assert (report.log_records, report.damaged) == (0, 1)
    told = [one.getMessage() for one in caplog.records if one.levelno >= logging.WARNING]
    assert len(told) == 1, told
    assert "upkeep passes over log 'bad': " in told[0]


@pytest.mark.parametrize("name", [b"caf\xe9", b"\xffsnapshot/\xff\xfe"])
async def test_a_name_that_is_damaged_does_not_stop_a_registry(data_dir: Path, name: bytes) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        for namespace in ("bad", "good"):
            await opened.key_value_store(namespace).put("k", b"", ttl_seconds=1.0)
    tamper(data_dir, "UPDATE namespaces SET name = ? WHERE name = ?", (name, b"bad"))
    clock.now += 5.0
    async with registry(data_dir, clock=clock) as opened:
        assert (await opened.compact()).expired_entries == 1

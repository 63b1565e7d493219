"""`SnapshotStore` as documented, on real SQLite files."""

from __future__ import annotations

import gc
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing, nullcontext
from pathlib import Path
from random import Random
from typing import Any
from zlib import crc32

import anyio
import pytest

from mpreg.codec import encode_key, encode_reserved_name
from mpreg.persistence import (
    CorruptDataError,
    InvalidArgumentError,
    PersistenceRegistry,
    ReaderStoppedError,
    Snapshot,
    SnapshotRetention,
    SnapshotStore,
    Transaction,
    ValueTooLargeError,
    WriterStoppedError,
)
from mpreg.persistence.backend import GetEntry, ScanEntries
from mpreg.persistence.snapshots import CHUNK_BYTES, CHUNKS_IN_FLIGHT_MAX
from mpreg.persistence.snapshots.layout import numbered_key
from mpreg.persistence.snapshots.reader import CHUNKS_PER_PAGE
from tests.integration.support import OpenBackend, config, database, listed, registry, tamper

pytestmark = pytest.mark.anyio

#: The entry of a save under way.
SAVING_0 = "saving/00000000000000000000"

#: So that a handful of bytes is many chunks.
TINY: dict[str, Any] = {"value_bytes_max": 10}


#: Entries of a snapshot with one version, beside its chunks: the list, and the manifest.
FIXED = 2


def random_bytes(size: int, seed: int = 0) -> bytes:
    return Random(seed).randbytes(size)


def rows(data_dir: Path, name: str = "images") -> list[bytes]:
    """The keys of all entries that a snapshot has on disk."""
    with closing(sqlite3.connect(database(data_dir))) as connection:
        found = connection.execute(
            "SELECT key FROM entries JOIN namespaces ON id = namespace_id WHERE name = ?",
            (encode_reserved_name("snapshot", name),),
        )
        return [key for (key,) in found]


async def pieces_of(data: bytes, sizes: list[int]) -> AsyncIterator[bytes]:
    """The data in pieces of these sizes, over and over."""
    start = number = 0
    while start < len(data):
        size = sizes[number % len(sizes)]
        yield data[start : start + size]
        start, number = start + size, number + 1


async def loaded(store: SnapshotStore) -> bytes:
    snapshot = await store.load()
    assert snapshot is not None
    return snapshot.data


# --- what goes in comes out ---


SIZES = [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1, 20 << 20]


@pytest.mark.parametrize("size", SIZES)
async def test_a_snapshot_comes_back_as_it_was_also_after_a_restart(
    data_dir: Path, size: int
) -> None:
    data = random_bytes(size)
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        version = await images.save(data)
        assert await images.load() == Snapshot(version, data)
    assert len(rows(data_dir)) == FIXED + -(-size // CHUNK_BYTES)
    async with registry(data_dir) as opened:
        assert await opened.snapshot_store("images").load() == Snapshot(version, data)


@pytest.mark.parametrize("sizes", [[1], [0, 3, 0], [10], [9, 11], [25], [1, 10, 100]])
async def test_an_iterable_is_one_snapshot_whatever_its_pieces(
    data_dir: Path, sizes: list[int]
) -> None:
    data = random_bytes(237)
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(pieces_of(data, sizes))
        assert await loaded(images) == data
    assert len(rows(data_dir)) == FIXED + 24


async def test_a_large_iterable_of_odd_pieces(data_dir: Path) -> None:
    data = random_bytes(5 * CHUNK_BYTES + 17)
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        await images.save(pieces_of(data, [1, 100_003, 3 * CHUNK_BYTES, 7]))
        assert await loaded(images) == data


async def test_an_iterable_without_pieces_is_an_empty_snapshot(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        await images.save(pieces_of(b"", [1]))
        assert await loaded(images) == b""


async def test_what_can_still_be_changed_is_saved_as_it_was(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        buffer = bytearray(b"before" * 50)

        async def overwrite() -> None:
            buffer[:] = b"after!" * 50

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(overwrite)
            await images.save(buffer)  # type: ignore[arg-type]
        assert await loaded(images) == b"before" * 50
        await images.save(memoryview(b"0123456789")[::2])  # type: ignore[arg-type]
        assert await loaded(images) == b"02468"


@pytest.mark.parametrize("damage", [None, "UPDATE entries SET checksum = 0", "DELETE FROM entries"])
async def test_chunks_are_read_a_page_at_a_time_and_by_themselves_where_one_is_damaged(
    data_dir: Path, damage: str | None
) -> None:
    backend = OpenBackend(data_dir)
    data = random_bytes(9 * CHUNK_BYTES)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.snapshot_store("images")
        await store.save(data)
        fifth = chunk_key(data_dir, 4)
        if damage is not None:
            await backend.on_writer(f"{damage} WHERE key = x'{fifth.hex()}'")
        backend.queries.clear()
        read = b""
        with nullcontext() if damage is None else pytest.raises(CorruptDataError, match="chunk 4"):
            async with store.open() as reader:
                async for chunk in reader:
                    read += chunk
        pages = [query for query in backend.queries if isinstance(query, ScanEntries)]
        alone = [
            query for query in backend.queries if isinstance(query, GetEntry) and query.key == fifth
        ]
    if damage is None:
        assert (read, len(pages), alone) == (data, -(-9 // CHUNKS_PER_PAGE), [])
    else:
        assert (read, len(alone)) == (data[: 4 * CHUNK_BYTES], 1)


async def test_a_snapshot_never_saved_is_none(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        assert await opened.snapshot_store("images").load() is None


async def test_names_are_kept_apart_from_each_other_and_from_namespaces(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        names = ["images", "images/a", "snapshot/images", "<snapshot/images>", "\udcff", "\xff"]
        for name in names:
            await opened.snapshot_store(name).save(f"snapshot {name!r}".encode())
            store = opened.key_value_store(name)
            assert await listed(store.scan()) == []
            await store.put("manifest", b"a user's")
        for name in names:
            assert await loaded(opened.snapshot_store(name)) == f"snapshot {name!r}".encode()


def test_a_large_snapshot_is_not_shown_in_full() -> None:
    assert repr(Snapshot(7, bytes(1_000))) == "Snapshot(version=7, data=<1000 bytes>)"


# --- replacing ---


async def test_a_replaced_snapshot_leaves_no_chunk_behind(data_dir: Path) -> None:
    versions = []
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        for size in (1_000, 5, 333, 0, 20):
            versions.append(await images.save(random_bytes(size)))
            assert len(rows(data_dir)) == FIXED + -(-size // 10)
        assert await loaded(images) == random_bytes(20)
    assert versions == sorted(set(versions))


async def test_the_space_of_replaced_snapshots_is_used_again(data_dir: Path) -> None:
    data = random_bytes(4 << 20)
    async with registry(data_dir) as opened:
        for _ in range(5):
            await opened.snapshot_store("images").save(data)
    assert database(data_dir).stat().st_size < 3 * len(data)


async def test_saves_and_loads_at_the_same_time_see_whole_snapshots(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        saved: dict[int, bytes] = {}

        async def save(number: int) -> None:
            for turn in range(4):
                data = bytes([number]) * (number * 30 + turn)
                version = await opened.snapshot_store("images").save(data)
                assert version not in saved
                saved[version] = data

        seen: list[list[Snapshot]] = [[], []]
        done = False

        async def load(snapshots: list[Snapshot]) -> None:
            while not done:
                if (snapshot := await opened.snapshot_store("images").load()) is not None:
                    snapshots.append(snapshot)

        async with anyio.create_task_group() as readers:
            for snapshots in seen:
                readers.start_soon(load, snapshots)
            async with anyio.create_task_group() as writers:
                for number in range(1, 6):
                    writers.start_soon(save, number)
            done = True

        last = await opened.snapshot_store("images").load()
        assert last == Snapshot(max(saved), saved[max(saved)])
        # How often a reader came to a whole one between two saves is up to the machine.
        assert any(seen)
        for snapshots in seen:
            assert [s.version for s in snapshots] == sorted(s.version for s in snapshots)
            assert all(saved[snapshot.version] == snapshot.data for snapshot in snapshots)
    assert len(rows(data_dir)) == FIXED + -(-len(last.data) // 10)


async def test_other_writes_go_on_while_a_snapshot_is_saved(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("other")
        written = 0
        done = False

        async def write() -> None:
            nonlocal written
            while not done:
                await store.put("key", b"")
                written += 1

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(write)
            await opened.snapshot_store("images").save(random_bytes(40 * CHUNK_BYTES))
            done = True
        assert written > 40 / CHUNKS_IN_FLIGHT_MAX / 2
        assert (await opened.stats()).largest_group <= CHUNKS_IN_FLIGHT_MAX + 1


async def test_a_save_waits_for_one_fsync_however_many_chunks_it_has(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        before = (await opened.stats()).fsyncs
        await opened.snapshot_store("images").save(bytes(1_000))
        assert (await opened.stats()).fsyncs == before + 1


# --- refused and failed ---


@pytest.mark.parametrize("data", ["text", None, 7, [b"a list"], (b"a tuple",), iter([b""])])
async def test_what_is_not_bytes_is_refused(data_dir: Path, data: bytes) -> None:
    async with registry(data_dir) as opened:
        with pytest.raises(InvalidArgumentError, match=type(data).__name__):
            await opened.snapshot_store("images").save(data)
        assert (await opened.stats()).commits == 0


async def test_a_piece_that_is_not_bytes_leaves_the_snapshot_before(data_dir: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(500)
        yield "text"  # type: ignore[misc]

    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        version = await images.save(b"before")
        with pytest.raises(InvalidArgumentError, match="str"):
            await images.save(pieces())
        assert await images.load() == Snapshot(version, b"before")
    assert len(rows(data_dir)) == FIXED + 1


async def test_an_iterable_that_raises_leaves_the_snapshot_before(data_dir: Path) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(500)
        raise LookupError

    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        with pytest.raises(LookupError):
            await images.save(pieces())
        assert await images.load() is None
        assert rows(data_dir) == []


async def test_a_generator_is_closed_where_the_save_fails(data_dir: Path) -> None:
    closed = False

    async def pieces() -> AsyncIterator[object]:
        nonlocal closed
        try:
            while True:
                yield 7
        finally:
            closed = True

    async with registry(data_dir) as opened:
        with pytest.raises(InvalidArgumentError):
            await opened.snapshot_store("images").save(pieces())  # type: ignore[arg-type]
    assert closed
    gc.collect()


async def test_cancelled_between_two_pieces_it_leaves_the_snapshot_before(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(b"before")

        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(500)
            scope.cancel()
            await anyio.sleep_forever()

        with anyio.CancelScope() as scope:
            await images.save(pieces())
        assert scope.cancelled_caught
        assert len(rows(data_dir)) == FIXED + 1
        assert await loaded(images) == b"before"
        await images.save(b"after")
        assert await loaded(images) == b"after"


async def test_a_registry_that_is_not_open_saves_and_loads_nothing(data_dir: Path) -> None:
    closed = registry(data_dir)
    images = closed.snapshot_store("images")
    for _ in ("before it was open", "after it was closed"):
        with pytest.raises(WriterStoppedError):
            await images.save(b"data")
        with pytest.raises(ReaderStoppedError):
            await images.load()
        if closed.config.data_dir is not None and not closed.config.data_dir.exists():
            async with closed:
                pass


@pytest.mark.parametrize("last", [bytes(100), b""], ids=["before a chunk", "before it publishes"])
async def test_a_registry_closed_in_the_middle_of_a_save(data_dir: Path, last: bytes) -> None:
    started = anyio.Event()
    go_on = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(100)
        started.set()
        await go_on.wait()
        yield last

    async def save(images: SnapshotStore) -> None:
        with pytest.raises(WriterStoppedError):
            await images.save(pieces())

    async with anyio.create_task_group() as task_group:
        async with registry(data_dir, **TINY) as opened:
            version = await opened.snapshot_store("images").save(b"before")
            task_group.start_soon(save, opened.snapshot_store("images"))
            await started.wait()
        go_on.set()
    assert len(rows(data_dir)) > 3
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        assert await images.load() == Snapshot(version, b"before")
        # What the interrupted save has left behind goes with the next one.
        await images.save(b"after")
        assert len(rows(data_dir)) == FIXED + 1


async def test_a_batch_limit_too_small_for_anything_is_told(data_dir: Path) -> None:
    async with registry(data_dir, value_bytes_max=50, batch_bytes_max=50) as opened:
        with pytest.raises(ValueTooLargeError):
            await opened.snapshot_store("images").save(b"data")


@pytest.mark.parametrize("name", ["", b"bytes", None, "n" * 1_025])
def test_an_impossible_name_is_refused(data_dir: Path, name: str) -> None:
    with pytest.raises(InvalidArgumentError):
        registry(data_dir).snapshot_store(name)


# --- damage ---


def chunk_key(data_dir: Path, index: int) -> bytes:
    chunks = sorted(key for key in rows(data_dir) if key[:1] == b"\x00")
    return chunks[index]


DAMAGES = {
    "another byte": "UPDATE entries SET value = x'00' WHERE key = ?",
    "another version": "UPDATE entries SET version = version + 1 WHERE key = ?",
    "missing": "DELETE FROM entries WHERE key = ?",
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_chunk_is_told_by_snapshot_and_index(data_dir: Path, damage: str) -> None:
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(random_bytes(100))
        tamper(data_dir, damage, (chunk_key(data_dir, 3),))
        with pytest.raises(CorruptDataError) as caught:
            await images.load()
        assert caught.value.where == "snapshot 'images', version 1, chunk 3"
        assert (await opened.stats()).reader_restarts == 0
        await images.save(b"anew")
        assert await loaded(images) == b"anew"
        assert len(rows(data_dir)) == FIXED + 1


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
async def test_a_damaged_chunk_is_never_given_and_all_before_it_are(
    data_dir: Path, damage: str
) -> None:
    data = random_bytes(100)
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=2))
        older = await images.save(data[::-1])
        await images.save(data)
        tamper(data_dir, damage, (chunk_key(data_dir, 10 + 7),))
        async with images.open() as reader:
            given = [await anext(reader) for _ in range(7)]
            for _ in range(3):
                with pytest.raises(CorruptDataError) as caught:
                    await anext(reader)
                assert caught.value.where == "snapshot 'images', version 2, chunk 7"
        assert b"".join(given) == data[:70]
        assert await images.load(older) == Snapshot(older, data[::-1])


async def test_what_was_read_is_known_to_be_right_only_at_the_end(data_dir: Path) -> None:
    """As if a chunk had been written anew, with a right checksum, by something else."""
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(random_bytes(30))
        inside = opened.key_value_store("inside")
        inside._name = images._namespace
        await inside.put(chunk_key(data_dir, 1)[1:], b"0123456789")
        async with images.open() as reader:
            assert [len(await anext(reader)) for _ in range(3)] == [10, 10, 10]
            for _ in range(2):
                with pytest.raises(CorruptDataError, match="version 1: the whole"):
                    await anext(reader)


async def test_chunks_in_another_order_are_found_out(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(random_bytes(30))
        first, second = chunk_key(data_dir, 0), chunk_key(data_dir, 1)
        for old, new in ((first, b"aside"), (second, first), (b"aside", second)):
            tamper(data_dir, "UPDATE entries SET key = ? WHERE key = ?", (new, old))
        with pytest.raises(CorruptDataError, match="snapshot 'images', version 1, chunk 0"):
            await images.load()


async def test_the_whole_has_a_checksum_of_its_own(data_dir: Path) -> None:
    """As if a chunk had been written anew, with a right checksum, by something else."""
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(b"0123456789abc")
        # Named so that it is the same namespace: with it, any of its entries can be written.
        inside = opened.key_value_store("inside")
        inside._name = images._namespace
        await inside.put(chunk_key(data_dir, 1)[1:], b"xyz")
        with pytest.raises(CorruptDataError, match="snapshot 'images', version 1: the whole"):
            await images.load()


LIST = encode_key("versions")
ENTRY_DAMAGES = ["value = x'00'", "version = 'first'", "expires_at = 1"]


def manifest_key(version: int) -> bytes:
    return numbered_key("version/", version)


@pytest.mark.parametrize("damage", ENTRY_DAMAGES)
async def test_a_damaged_manifest_is_told_and_others_can_be_loaded(
    data_dir: Path, damage: str
) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=3))
        older = await images.save(b"older")
        version = await images.save(b"before")
        tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (manifest_key(version),))
        for asked in (None, version):
            with pytest.raises(CorruptDataError, match="'images', version 2: the manifest"):
                await images.load(asked)
        assert await images.load(older) == Snapshot(older, b"older")
        assert [one.version for one in await images.versions()] == [older, version]
        assert await images.save(b"after") > version
        assert await loaded(images) == b"after"
        assert await images.delete(version)
        assert [one.version for one in await images.versions()] == [older, version + 1]
        await opened.compact()
    assert len(rows(data_dir)) == FIXED + 1 + 2, "its chunk is found though nothing names it"


async def test_a_missing_manifest_is_told(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        version = await images.save(b"before")
        tamper(data_dir, "DELETE FROM entries WHERE key = ?", (manifest_key(version),))
        for asked in (None, version):
            with pytest.raises(CorruptDataError, match="'images', version 1: the manifest is miss"):
                await images.load(asked)
        await images.save(b"after")
        assert await loaded(images) == b"after"


@pytest.mark.parametrize("damage", [*ENTRY_DAMAGES, "key = x'00'", "missing"])
async def test_a_damaged_list_of_versions_is_told_and_made_anew(
    data_dir: Path, damage: str
) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=3))
        first = await images.save(b"first")
        second = await images.save(b"second")
        if damage == "missing":
            tamper(data_dir, "DELETE FROM entries WHERE key = ?", (LIST,))
        else:
            tamper(data_dir, f"UPDATE entries SET {damage} WHERE key = ?", (LIST,))
        for ask in (images.load, images.versions):
            with pytest.raises(CorruptDataError, match="'images': the list of versions is dam"):
                await ask()
        assert await images.load(first) == Snapshot(first, b"first")
        # Upkeep leaves damage as it is.
        assert (await opened.compact()).snapshot_chunks == 0
        third = await images.save(b"third")
        assert third > second
        assert [one.version for one in await images.versions()] == [first, second, third]
        assert await loaded(images) == b"third"


async def test_a_list_that_is_damaged_is_deleted_with_all_it_named(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        await images.save(b"data")
        tamper(data_dir, "UPDATE entries SET value = x'00' WHERE key = ?", (LIST,))
        assert await images.delete()
        assert await images.load() is None
    assert rows(data_dir) == []


@pytest.mark.parametrize("key", ["versions", "version/00000000000000000001"])
async def test_an_entry_that_says_nothing_known_is_told(data_dir: Path, key: str) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        await images.save(b"before")
        inside = opened.key_value_store("inside")
        inside._name = images._namespace
        await inside.put(key, b"from another version")
        with pytest.raises(CorruptDataError, match="snapshot 'images'"):
            await images.load()
        await images.save(b"after")
        assert await loaded(images) == b"after"


@pytest.mark.parametrize("damage", ["value = x'00'", "version = 'first'", "version = version + 1"])
async def test_a_damaged_note_of_an_unfinished_save_does_not_stand_in_the_way(
    data_dir: Path, damage: str
) -> None:
    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        inside = opened.key_value_store("inside")
        inside._name = images._namespace
        await inside.put(SAVING_0, b"")
        await inside.put("saving/00000000000000000005", b"no note of ours")
        tamper(
            data_dir,
            f"UPDATE entries SET {damage} WHERE key = ?",
            (encode_key(SAVING_0),),
        )
        await images.save(b"data")
        assert await loaded(images) == b"data"
        assert len(rows(data_dir)) == FIXED + 1


@pytest.mark.parametrize("damage", ["version = 'first'", "version = version + 1"])
async def test_a_save_whose_own_note_is_damaged_meanwhile_fails(
    data_dir: Path, damage: str
) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        tamper(
            data_dir,
            f"UPDATE entries SET {damage} WHERE key = ?",
            (encode_key(SAVING_0),),
        )
        yield b"data"

    async with registry(data_dir) as opened:
        images = opened.snapshot_store("images")
        with pytest.raises(CorruptDataError, match="snapshot 'images': the entry of a save"):
            await images.save(pieces())
        assert await images.load() is None
        await images.save(b"after")
        assert await loaded(images) == b"after"


@pytest.mark.parametrize("offset", [0, 1, 9, 10, 11, 95, 99, 100, 104, 105])
async def test_a_version_is_read_from_any_byte_on(data_dir: Path, offset: int) -> None:
    data = random_bytes(105)
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(data)
        async with images.open() as reader:
            assert reader.checksum == crc32(data)
            await reader.seek(offset)
            assert b"".join([chunk async for chunk in reader]) == data[offset:]
            with pytest.raises(StopAsyncIteration):
                await anext(reader)


async def test_what_is_read_from_a_byte_on_is_verified_and_what_is_before_it_need_not_be_intact(
    data_dir: Path,
) -> None:
    data = random_bytes(105)
    async with registry(data_dir, **TINY) as opened:
        await opened.snapshot_store("images").save(data)
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE key = ?", (chunk_key(data_dir, 4),))
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        async with images.open() as reader:
            await reader.seek(55)
            assert b"".join([chunk async for chunk in reader]) == data[55:]
        async with images.open() as reader:
            await reader.seek(35)
            assert await anext(reader) == data[35:40]
            with pytest.raises(CorruptDataError, match="chunk 4"):
                await anext(reader)


async def test_a_reader_begins_only_where_there_is_something_and_only_once(data_dir: Path) -> None:
    async with registry(data_dir, **TINY) as opened:
        images = opened.snapshot_store("images")
        await images.save(random_bytes(105))
        async with images.open() as reader:
            for offset in (-1, 106):
                with pytest.raises(InvalidArgumentError):
                    await reader.seek(offset)
            await anext(reader)
            with pytest.raises(InvalidArgumentError):
                await reader.seek(50)


async def test_what_belongs_to_a_version_is_written_with_it_or_not_at_all(data_dir: Path) -> None:
    async def broken() -> AsyncIterator[bytes]:
        yield b"half"
        raise LookupError

    async with registry(data_dir) as opened:
        images, keys = opened.snapshot_store("images"), opened.key_value_store("of images")

        def note(version: int, transaction: Transaction) -> None:
            keys.put_nowait("newest", b"%d" % version, transaction=transaction)

        with pytest.raises(LookupError):
            await images.save(broken(), published=note)
        assert await keys.get("newest") is None
        version = await images.save(b"whole", published=note)
        entry = await keys.get("newest")
        assert entry is not None
        assert entry.value == b"%d" % version


async def test_saves_that_end_at_the_same_time_each_note_their_own_version(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        keep_all = SnapshotRetention(versions_max=None)
        images = opened.snapshot_store("images", retention=keep_all)
        keys = opened.key_value_store("of images")
        versions: dict[str, int] = {}

        async def save(name: str) -> None:
            def note(version: int, transaction: Transaction) -> None:
                keys.put_nowait(name, b"%d" % version, transaction=transaction)

            versions[name] = await images.save(name.encode(), published=note)

        async with anyio.create_task_group() as task_group:
            for number in range(10):
                task_group.start_soon(save, f"{number}")
        assert len(set(versions.values())) == 10
        noted = {entry.key: int(entry.value) async for entry in keys.scan()}
        assert noted == versions

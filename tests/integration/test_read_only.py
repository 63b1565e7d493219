"""A directory looked at from outside: all of it is seen, and nothing of it is changed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mpreg.persistence import (
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryMissingError,
    Durability,
    ForeignDatabaseError,
    Holder,
    ReaderStoppedError,
    ReadOnlyError,
    SchemaVersionError,
    StoredName,
    open_read_only,
)
from mpreg.persistence.read_only import find_holder
from tests.integration.made_once import made_once
from tests.integration.support import TurnedClock, database, listed, registry, tamper

pytestmark = pytest.mark.anyio


@made_once
async def fill(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("shelf")
        for number in range(300):
            await store.put(f"{number:03}", b"%d" % number, durability=Durability.RELAXED)
        await opened.log_store("audit").append_many([b"a", b"b", b"c"])
        await opened.log_store("audit").truncate_before(1)
        await opened.snapshot_store("images").save(b"x" * 600_000)


CRASH = """
import os, sys, anyio
from pathlib import Path
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

async def main():
    async with PersistenceRegistry(PersistenceConfig(data_dir=sys.argv[1])) as registry:
        await registry.key_value_store("shelf").put("last", b"word")
        os._exit(0)

anyio.run(main)
"""


def crash_in(data_dir: Path) -> None:
    """A process writes one more key, and ends without closing anything."""
    subprocess.run([sys.executable, "-c", CRASH, str(data_dir)], check=True)


def state_of(data_dir: Path) -> dict[str, tuple[Any, ...]]:
    return {
        path.name: (path.stat().st_mtime_ns, path.stat().st_ino, path.read_bytes())
        for path in data_dir.rglob("*")
        if path.is_file()
    }


async def test_the_stores_read_as_those_of_a_registry(data_dir: Path) -> None:
    await fill(data_dir)
    async with open_read_only(data_dir) as view:
        store = view.key_value_store("shelf")
        entry = await store.get("007")
        assert entry is not None
        assert entry.value == b"7"
        assert [one.key for one in await listed(store.scan("29"))] == [
            f"29{last}" for last in range(10)
        ]
        assert len(await listed(store.scan())) == 300
        log = view.log_store("audit")
        assert [(one.offset, one.data) for one in await listed(log.read_range())] == [
            (1, b"b"),
            (2, b"c"),
        ]
        assert (await log.first_offset(), await log.next_offset()) == (1, 3)
        snapshot = await view.snapshot_store("images").load()
        assert snapshot is not None
        assert snapshot.data == b"x" * 600_000
    with pytest.raises(ReaderStoppedError):
        await store.get("007")


async def test_names_logs_and_counts_are_told(data_dir: Path) -> None:
    await fill(data_dir)
    async with open_read_only(data_dir) as view:
        names = await listed(view.namespaces())
        assert [one.shown for one in names] == ["shelf", "<snapshot/images>"]
        assert [one.is_reserved for one in names] == [False, True]
        assert names[1].snapshot == "images"
        (log,) = await listed(view.logs())
        assert (log.name.name, log.first_offset, log.records) == ("audit", 1, 2)
        count = await view.count_keys("shelf")
        assert (count.keys, count.is_exact) == (300, True)
        assert count.size_bytes == sum(4 + len(str(number)) for number in range(300))
        some = await view.count_keys("shelf", up_to=100)
        assert (some.keys, some.is_exact) == (100, False)
        assert (await view.count_keys("none")).keys == 0
        stats = await view.stats()
        assert stats.holder is None
        assert stats.generation == 1
        assert stats.files["mpreg.db"] == database(data_dir).stat().st_size
        stored = view.key_value_store(StoredName.parse("<snapshot/images>"))
        assert "versions" in [one.key for one in await listed(stored.scan())]


async def test_more_names_than_a_page_come_in_order(data_dir: Path) -> None:
    expected = sorted(f"n{number}" for number in range(600))
    async with registry(data_dir) as opened, opened.transaction() as transaction:
        for name in expected:
            opened.key_value_store(name).put_nowait("k", b"", transaction=transaction)
            opened.log_store(name).append_nowait(b"", transaction=transaction)
    async with open_read_only(data_dir) as view:
        assert [one.name for one in await listed(view.namespaces())] == expected
        assert [one.name.name for one in await listed(view.logs())] == expected


async def test_beside_a_live_registry_it_sees_what_was_committed(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("shelf")
        await store.put("a", b"1")
        async with open_read_only(data_dir) as view:
            seen = view.key_value_store("shelf")
            assert [one.value for one in await listed(seen.scan())] == [b"1"]
            since = (data_dir / "LOCK").stat().st_mtime
            holder = Holder(os.getpid(), os.uname().nodename, since)
            assert (await view.stats()).holder == holder
            await store.put("a", b"2")
            assert [one.value for one in await listed(seen.scan())] == [b"2"]
        # The registry's own locks were left to it.
        await store.put("a", b"3")
    async with open_read_only(data_dir) as view:
        assert (await view.stats()).holder is None


async def test_a_registry_that_is_opened_later_is_noticed(data_dir: Path) -> None:
    await fill(data_dir)
    async with open_read_only(data_dir) as view:
        assert await view.key_value_store("shelf").get("new") is None
        async with registry(data_dir) as opened:
            await opened.key_value_store("shelf").put("new", b"1")
            assert await view.key_value_store("shelf").get("new") is not None
            await opened.key_value_store("shelf").put("newer", b"1")
            assert await view.key_value_store("shelf").get("newer") is not None
        assert await view.key_value_store("shelf").get("newer") is not None


async def test_a_reader_that_stays_does_not_keep_the_log_from_being_used_anew(
    data_dir: Path,
) -> None:
    async with registry(data_dir, wal_checkpoint_pages=50) as opened:
        store = opened.key_value_store("shelf")
        for number in range(100):
            await store.put(str(number), bytes(1_000), durability=Durability.RELAXED)
        await store.put("x", b"")
        async with open_read_only(data_dir) as view:
            # Left in the middle, as by somebody who reads it in a pager.
            scan = view.key_value_store("shelf").scan()
            await anext(scan)
            for number in range(600):
                await store.put(str(number % 100), bytes(1_000))
            # Twice the threshold, and what one commit may put on top.
            assert (await opened.stats()).wal_bytes < 400 * 4_096
            assert len(await listed(scan)) >= 99


async def test_every_write_is_refused(data_dir: Path) -> None:
    await fill(data_dir)
    before = state_of(data_dir)
    async with open_read_only(data_dir) as view:
        store, log = view.key_value_store("shelf"), view.log_store("audit")
        writes: list[Callable[[], Any]] = [
            lambda: store.put("a", b""),
            lambda: store.delete("001"),
            lambda: store.sweep_expired(),
            lambda: log.append(b""),
            lambda: log.append_many([b""]),
            lambda: log.truncate_before(2),
            lambda: log.delete(),
            lambda: view.snapshot_store("images").save(b""),
            lambda: view.snapshot_store("images").delete(),
            lambda: view.reserved("queues").log_store("a").append(b""),
        ]
        for write in writes:
            with pytest.raises(ReadOnlyError, match="opened to be read only; not written"):
                await write()
        with pytest.raises(ReadOnlyError):
            store.put_nowait("a", b"")
        with pytest.raises(ReadOnlyError):
            store.delete_nowait("001")
        with pytest.raises(ReadOnlyError):
            log.append_nowait(b"")
        with pytest.raises(ReadOnlyError):
            view.transaction()
        settled: list[object] = []
        with pytest.raises(ReadOnlyError):
            await log.append_followed([b""], settled.append)
        assert settled == [None]
    assert state_of(data_dir) == before


def _nothing(_: Path) -> None:
    return


def _without_index(data_dir: Path) -> None:
    crash_in(data_dir)
    (data_dir / "mpreg.db-shm").unlink()


def _with_an_empty_log(data_dir: Path) -> None:
    (data_dir / "mpreg.db-wal").touch()


def _with_zeros_for_a_log(data_dir: Path) -> None:
    (data_dir / "mpreg.db-wal").write_bytes(bytes(100_000))


def _with_an_index_alone(data_dir: Path) -> None:
    (data_dir / "mpreg.db-shm").write_bytes(bytes(32_768))


@pytest.mark.parametrize(
    ("change", "has_last"),
    [
        pytest.param(_nothing, False, id="closed"),
        pytest.param(crash_in, True, id="after a crash"),
        pytest.param(_without_index, True, id="a log without its index"),
        pytest.param(_with_an_empty_log, False, id="an empty log"),
        pytest.param(_with_zeros_for_a_log, False, id="a log of zeros"),
        pytest.param(_with_an_index_alone, False, id="an index without a log"),
    ],
)
async def test_nothing_is_made_changed_or_moved(
    data_dir: Path, change: Callable[[Path], None], has_last: bool
) -> None:
    await fill(data_dir)
    change(data_dir)
    before = state_of(data_dir)
    async with open_read_only(data_dir) as view:
        assert state_of(data_dir) == before
        store = view.key_value_store("shelf")
        assert len(await listed(store.scan())) == 300 + has_last
        assert (await store.get("last") is not None) == has_last
        assert (await view.stats()).commit_sequence > 0
        assert state_of(data_dir) == before
    assert state_of(data_dir) == before
    async with registry(data_dir) as opened:
        assert (await opened.key_value_store("shelf").get("last") is not None) == has_last


async def test_an_empty_store_is_empty(data_dir: Path) -> None:
    async with registry(data_dir):
        pass
    async with open_read_only(data_dir) as view:
        assert await listed(view.namespaces()) == []
        assert await listed(view.logs()) == []
        assert await view.key_value_store("none").get("a") is None
        assert await view.snapshot_store("none").load() is None


async def test_a_missing_directory_is_told_and_not_made(data_dir: Path) -> None:
    with pytest.raises(DataDirectoryMissingError, match="no such directory") as caught:
        async with open_read_only(data_dir / "a"):
            raise AssertionError
    assert str(data_dir.parent) in str(caught.value)
    assert not data_dir.exists()


async def test_a_directory_without_a_store_is_told_with_what_is_in_it(data_dir: Path) -> None:
    data_dir.mkdir()
    with pytest.raises(DataDirectoryMissingError, match=r"no mpreg\.journal, but nothing"):
        async with open_read_only(data_dir):
            raise AssertionError
    for number in range(7):
        (data_dir / f"f{number}").touch()
    with pytest.raises(DataDirectoryMissingError, match="but f0, f1, f2, f3, f4 and 2 more"):
        async with open_read_only(data_dir):
            raise AssertionError


async def test_a_file_is_told_as_one(data_dir: Path) -> None:
    await fill(data_dir)
    with pytest.raises(DataDirectoryError, match="give the directory that it is in"):
        async with open_read_only(database(data_dir)):
            raise AssertionError


@pytest.mark.parametrize("is_held", [False, True])
@pytest.mark.parametrize(
    ("statement", "error"),
    [
        ("PRAGMA user_version = 99", SchemaVersionError),
        ("PRAGMA application_id = 7", ForeignDatabaseError),
    ],
)
async def test_what_it_cannot_know_is_refused_by_name(
    data_dir: Path, statement: str, error: type[Exception], is_held: bool
) -> None:
    await fill(data_dir)
    if is_held:
        async with registry(data_dir):
            tamper(data_dir, statement)
            with pytest.raises(error):
                async with open_read_only(data_dir):
                    raise AssertionError
    else:
        tamper(data_dir, statement)
        before = state_of(data_dir)
        with pytest.raises(error):
            async with open_read_only(data_dir):
                raise AssertionError
        assert state_of(data_dir) == before


async def test_a_file_that_is_no_database_is_told(data_dir: Path) -> None:
    data_dir.mkdir()
    database(data_dir).write_bytes(b"hello, this is a text and no database at all" * 10)
    with pytest.raises(ForeignDatabaseError):
        async with open_read_only(data_dir):
            raise AssertionError


async def test_damage_is_told_with_its_place_and_the_rest_is_read(data_dir: Path) -> None:
    await fill(data_dir)
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE key = ?", (b"\x01007",))
    tamper(data_dir, "UPDATE namespaces SET name = x'c3' WHERE name = ?", (b"\xffsnapshot/images",))
    tamper(data_dir, "UPDATE logs SET first_offset = 'x'")
    async with open_read_only(data_dir) as view:
        told: list[CorruptDataError] = []
        found = await listed(view.key_value_store("shelf").scan(on_damaged=told.append))
        assert len(found) == 299
        assert [one.where for one in told] == ["namespace 'shelf', key '007'"]
        told.clear()
        assert [one.name for one in await listed(view.namespaces(on_damaged=told.append))] == [
            "shelf"
        ]
        assert [one.where for one in told] == ["namespace b'\\xc3'"]
        told.clear()
        assert await listed(view.logs(on_damaged=told.append)) == []
        assert [one.where for one in told] == ["log 'audit'"]


async def test_damaged_numbers_are_told_when_asked_for(data_dir: Path) -> None:
    await fill(data_dir)
    tamper(data_dir, "DELETE FROM meta")
    async with open_read_only(data_dir) as view:
        with pytest.raises(CorruptDataError, match="the store's own numbers"):
            await view.stats()
        assert await view.key_value_store("shelf").get("001") is not None


async def test_expiry_is_by_the_clock_given(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        await opened.key_value_store("shelf").put("a", b"", ttl_seconds=10.0)
    async with open_read_only(data_dir, clock=clock) as view:
        assert await view.key_value_store("shelf").get("a") is not None
        clock.now += 10
        assert await view.key_value_store("shelf").get("a") is None
        assert (await view.count_keys("shelf")).keys == 1


async def test_two_views_at_once(data_dir: Path) -> None:
    await fill(data_dir)
    async with open_read_only(data_dir) as one, open_read_only(data_dir) as other:
        assert await one.key_value_store("shelf").get("001") is not None
        assert await other.key_value_store("shelf").get("001") is not None
    assert find_holder(data_dir) is None


async def test_the_copy_that_it_needs_is_removed(
    data_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(data_dir)
    _without_index(data_dir)
    elsewhere = tmp_path / "temporary"
    elsewhere.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(elsewhere))
    async with open_read_only(data_dir):
        (copy,) = elsewhere.iterdir()
        assert copy.stat().st_mode & 0o777 == 0o700
    assert list(elsewhere.iterdir()) == []


READER = """
import os, sys, anyio
from mpreg.persistence import open_read_only

os.setgroups([])
os.setgid(65534)
os.setuid(65534)

async def main():
    async with open_read_only(sys.argv[1]) as view:
        print(await view.key_value_store("shelf").get("001") is not None)

anyio.run(main)
"""


@pytest.mark.skipif("os.getuid() != 0")
@pytest.mark.parametrize("change", [_nothing, crash_in, _without_index])
def test_a_directory_that_may_only_be_read_can_be_read(change: Callable[[Path], None]) -> None:
    import tempfile

    import anyio

    with tempfile.TemporaryDirectory() as made:
        data_dir = Path(made, "data")
        anyio.run(fill, data_dir)
        change(data_dir)
        for path in (Path(made), *Path(made).rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        before = state_of(data_dir)
        done = subprocess.run(
            [sys.executable, "-c", READER, str(data_dir)], capture_output=True, text=True
        )
        assert (done.stdout, done.stderr) == ("True\n", "")
        assert state_of(data_dir) == before
        shutil.rmtree(data_dir)

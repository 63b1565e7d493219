"""Snapshots over every backend, on every event loop."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mpreg.persistence import (
    CorruptDataError,
    InvalidArgumentError,
    PersistenceConfig,
    PersistenceRegistry,
    ReaderStoppedError,
    Snapshot,
    SnapshotNotFoundError,
    SnapshotReader,
    SnapshotRetention,
    SnapshotStore,
    StorageFullError,
)
from mpreg.persistence.backend import ListNamespaces, NamespacesPage, ScanEntries, ScanPage
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.testing import FaultInjector, FaultPlan, SimulatedBackend, SimulatedDisk
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

CHUNK = 4

Open = Callable[..., PersistenceRegistry]


@pytest.fixture(params=["memory", "sqlite", "simulated"])
def backend_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


@pytest.fixture
def clock() -> TurnedClock:
    return TurnedClock()


@pytest.fixture
def disk() -> SimulatedDisk:
    return SimulatedDisk()


@pytest.fixture
def open_registry(
    backend_name: str, tmp_path: Path, clock: TurnedClock, disk: SimulatedDisk
) -> Open:
    """A registry on the same store each time, but for the memory backend."""

    def make(**changes: Any) -> PersistenceRegistry:
        settings: dict[str, Any] = {
            "value_bytes_max": CHUNK,
            "upkeep_interval_seconds": None,
            "switch_interval_seconds": None,
        }
        backend = None
        if backend_name == "sqlite":
            settings["data_dir"] = tmp_path / "data"
        else:
            settings["backend"] = "memory"
        if backend_name == "simulated":
            backend = SimulatedBackend(disk)
        config = PersistenceConfig(**(settings | changes))
        return PersistenceRegistry(config, backend=backend, clock=clock)

    return make


async def entries_of(registry: PersistenceRegistry) -> dict[str, int]:
    """How many entries there are of any snapshot, by the kind of their keys."""
    counts: dict[str, int] = {}
    names: NamespacesPage = await registry._gateway.read(ListNamespaces(b"", 0.0))
    for one in names.namespaces:
        if one.namespace.startswith(b"\xffsnapshot/"):
            page: ScanPage = await registry._gateway.read(ScanEntries(one.namespace, b"", None))
            assert page.next_start is None
            for entry in page.entries:
                assert not isinstance(entry, CorruptDataError)
                kind = "chunk" if entry.key[:1] == b"\x00" else entry.key[1:].decode().split("/")[0]
                counts[kind] = counts.get(kind, 0) + 1
    return counts


async def rest_of(reader: SnapshotReader) -> bytes:
    return b"".join([chunk async for chunk in reader])


async def kept(images: SnapshotStore) -> list[int]:
    return [one.version for one in await images.versions()]


KEEP_3 = SnapshotRetention(versions_max=3)

# --- versions ---


async def test_versions_count_up_from_one_whatever_else_is_written(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        assert await images.save(b"first") == 1
        for number in range(2, 6):
            await registry.key_value_store("other").put("key", b"v")
            assert await images.save(b"%d" % number * number) == number
        other = registry.snapshot_store("other")
        first = await other.save(b"")
        assert await other.save(b"") == first + 1
        assert await images.load() == Snapshot(5, b"55555")


async def test_no_number_is_used_again_after_a_deletion(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=KEEP_3)
        versions = [await images.save(b"data") for _ in range(3)]
        assert await images.delete(versions[-1])
        assert await images.save(b"data") == versions[-1] + 1
        assert await images.delete()
        assert await entries_of(registry) == {}
        assert await images.save(b"data") > versions[-1] + 1


async def test_as_many_versions_are_kept_as_was_said(
    open_registry: Open, clock: TurnedClock
) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=KEEP_3)
        for number in range(1, 6):
            clock.now += 1
            assert await images.save(b"%d" % number * number) == number
        versions = await images.versions()
        assert [(one.version, one.size_bytes, one.saved_at) for one in versions] == [
            (number, number, 1_000.0 + number) for number in (3, 4, 5)
        ]
        assert await images.load(3) == Snapshot(3, b"333")
        assert await images.load(2) is None
        assert await entries_of(registry) == {"version": 3, "versions": 1, "chunk": 4}


async def test_what_was_said_holds_for_who_does_not_say_it_also_after_a_restart(
    open_registry: Open, backend_name: str
) -> None:
    async with open_registry() as registry:
        await registry.snapshot_store("images", retention=KEEP_3).save(b"1")
        await registry.snapshot_store("images").save(b"2")
        assert await kept(registry.snapshot_store("images")) == [1, 2]
    if backend_name == "memory":
        return
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        for _ in range(3):
            await images.save(b"")
        assert await kept(images) == [3, 4, 5]
        registry.snapshot_store("images", retention=SnapshotRetention())
        assert (await registry.compact()).snapshot_versions == 2
        assert await kept(images) == [5]


async def test_versions_go_when_they_are_too_old_but_the_newest_stays(
    open_registry: Open, clock: TurnedClock
) -> None:
    retention = SnapshotRetention(versions_max=None, seconds_max=60.0)
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=retention)
        for _ in range(10):
            await images.save(bytes(10))
            clock.now += 10
        # Saved 60, 50, … 10 seconds ago.
        report = await registry.compact()
        assert (report.snapshot_versions, report.snapshot_bytes) == (1, 10)
        assert report.snapshot_chunks == 3
        assert await kept(images) == [6, 7, 8, 9, 10]
        clock.now += 1_000
        report = await registry.compact()
        assert (report.snapshot_versions, report.snapshot_bytes) == (4, 40)
        assert await kept(images) == [10]
        assert await entries_of(registry) == {"version": 1, "versions": 1, "chunk": 3}


async def test_many_versions_at_once_go_in_steps(open_registry: Open) -> None:
    retention = SnapshotRetention(versions_max=None)
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=retention)
        for _ in range(70):
            await images.save(b"x")
        assert len(await images.versions()) == 70
        registry.snapshot_store("images", retention=KEEP_3)
        report = await registry.compact()
        assert (report.snapshot_versions, report.snapshot_chunks) == (67, 67)
        assert await images.delete()
        assert await entries_of(registry) == {}


async def test_one_version_is_deleted_and_the_others_stay(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=KEEP_3)
        for number in range(1, 4):
            await images.save(b"%d" % number)
        assert await images.delete(2)
        assert not await images.delete(2)
        assert not await images.delete(9)
        assert await kept(images) == [1, 3]
        assert await images.delete(3)
        assert await images.load() == Snapshot(1, b"1"), "the newest is the one before"
        assert await images.delete(1)
        assert await images.load() is None
        assert not await images.delete()
        assert await entries_of(registry) == {}


@pytest.mark.parametrize("version", [0, -1, True, 1.0, "1", 2**63])
async def test_what_is_no_version_is_refused(open_registry: Open, version: int) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        with pytest.raises(InvalidArgumentError, match="version"):
            await images.load(version)
        with pytest.raises(InvalidArgumentError, match="version"):
            await images.delete(version)


async def test_what_is_no_retention_is_refused(open_registry: Open) -> None:
    with pytest.raises(InvalidArgumentError, match="SnapshotRetention"):
        open_registry().snapshot_store("images", retention=3)  # type: ignore[arg-type]


async def test_a_deletion_does_not_concern_a_save_under_way(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")

        async def pieces() -> AsyncIterator[bytes]:
            yield b"while"
            last = await images.save(b"meanwhile")
            assert await images.delete()
            assert await images.load() is None
            deleted.append(last)
            yield b"deleted"

        deleted: list[int] = []
        version = await images.save(pieces())
        assert version > deleted[0]
        assert await images.load() == Snapshot(version, b"whiledeleted")


# --- read in pieces ---


async def test_a_version_is_read_in_pieces(open_registry: Open, clock: TurnedClock) -> None:
    data = bytes(range(256))
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        version = await images.save(data)
        async with images.open() as reader:
            assert (reader.version, reader.size_bytes, reader.saved_at) == (version, 256, 1_000.0)
            assert "version 1" in repr(reader)
            chunks = [chunk async for chunk in reader]
            assert chunks == [data[start : start + CHUNK] for start in range(0, 256, CHUNK)]
            assert [chunk async for chunk in reader] == [], "it is read once"
        with pytest.raises(InvalidArgumentError, match="closed"):
            await anext(reader)


async def test_an_empty_version_is_read_in_no_pieces(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(b"")
        async with images.open() as reader:
            assert await rest_of(reader) == b""


async def test_a_version_that_is_not_there_is_told_by_name(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        with pytest.raises(SnapshotNotFoundError, match="'images' has no version:") as caught:
            async with images.open():
                pass
        assert caught.value.version is None
        await images.save(b"")
        with pytest.raises(SnapshotNotFoundError, match="'images' has no version 7:") as caught:
            async with images.open(7):
                pass
        assert (caught.value.name, caught.value.version) == ("images", 7)


async def test_an_open_version_stays_readable_though_it_is_replaced(open_registry: Open) -> None:
    old = b"old " * 20
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(old)
        async with images.open() as one, images.open() as two:
            first = await anext(one)
            assert await images.save(b"new") == 2
            await registry.compact()
            assert await kept(images) == [2]
            assert await images.load(1) is None
            assert first + await rest_of(one) == old
            async with images.open() as three:
                assert await rest_of(three) == b"new"
            assert await rest_of(two) == old
            assert (await entries_of(registry))["chunk"] == 21
        assert await entries_of(registry) == {"version": 1, "versions": 1, "chunk": 1}


async def test_an_open_version_stays_readable_though_it_is_deleted(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(b"data " * 20)
        async with images.open() as reader:
            assert await images.delete()
            assert await rest_of(reader) == b"data " * 20
        assert await entries_of(registry) == {}


async def test_what_is_removed_while_it_is_being_opened_is_not_there(
    open_registry: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_registry() as registry:
        images, other = registry.snapshot_store("images"), registry.snapshot_store("images")
        version = await images.save(b"gone")
        manifest = SnapshotEntries.manifest

        async def then_delete(entries: SnapshotEntries, number: int) -> Any:
            found = await manifest(entries, number)
            monkeypatch.setattr(SnapshotEntries, "manifest", manifest)
            assert await other.delete()
            return found

        monkeypatch.setattr(SnapshotEntries, "manifest", then_delete)
        with pytest.raises(SnapshotNotFoundError):
            async with images.open(version):
                pass
        assert await images.load() is None


async def test_a_reader_that_leaves_early_leaves_nothing_behind(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(b"data " * 20)
        async with images.open() as reader:
            await anext(reader)
            await images.save(b"new")
        assert await entries_of(registry) == {"version": 1, "versions": 1, "chunk": 1}


async def test_a_reader_that_is_cancelled_leaves_nothing_behind(open_registry: Open) -> None:
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(b"data " * 20)
        with anyio.CancelScope() as scope:
            async with images.open() as reader:
                await anext(reader)
                await images.save(b"new")
                scope.cancel()
                await anext(reader)
        assert scope.cancelled_caught
        assert await entries_of(registry) == {"version": 1, "versions": 1, "chunk": 1}


async def test_cancelled_at_a_chunk_it_can_go_on(open_registry: Open) -> None:
    data = bytes(range(200))
    async with open_registry() as registry:
        images = registry.snapshot_store("images")
        await images.save(data)
        read = []
        async with images.open() as reader:
            for turn in range(1_000):
                with anyio.CancelScope() as scope:
                    if turn % 2:
                        scope.cancel()
                    try:
                        read.append(await anext(reader))
                    except StopAsyncIteration:
                        break
        assert b"".join(read) == data


async def test_the_registry_closes_under_a_reader(open_registry: Open) -> None:
    reading, closed = anyio.Event(), anyio.Event()

    async def read(images: SnapshotStore) -> None:
        async with images.open() as reader:
            await anext(reader)
            reading.set()
            await closed.wait()
            with pytest.raises(ReaderStoppedError):
                await rest_of(reader)

    async with anyio.create_task_group() as task_group:
        async with open_registry() as registry:
            images = registry.snapshot_store("images")
            await images.save(b"data " * 20)
            task_group.start_soon(read, images)
            await reading.wait()
        closed.set()


# --- savers, loaders and deleters at once ---


async def test_savers_readers_and_deleters_at_once(open_registry: Open) -> None:
    """Whatever is opened is read to its end and is what was saved under its number."""
    async with open_registry() as registry:
        images = registry.snapshot_store("images", retention=KEEP_3)
        saved: dict[int, bytes] = {}
        read = 0
        done = False

        async def save(number: int) -> None:
            for turn in range(5):
                data = b"%d " % (number * 10 + turn) * (number * 7 + turn)
                # Named before it ends, since it can be read then.
                saved[await images.save(data)] = data

        async def read_on() -> None:
            nonlocal read
            while not done:
                await anyio.lowlevel.checkpoint()
                try:
                    async with images.open() as reader:
                        data = await rest_of(reader)
                except SnapshotNotFoundError:
                    continue
                assert len(data) == reader.size_bytes
                assert len(set(data.split())) == 1
                read += 1

        async def delete_on() -> None:
            while not done:
                await anyio.lowlevel.checkpoint()
                for version in (await kept(images))[:2]:
                    await images.delete(version)

        async with anyio.create_task_group() as task_group:
            for work in (read_on, read_on, delete_on):
                task_group.start_soon(work)
            async with anyio.create_task_group() as savers:
                for number in range(1, 5):
                    savers.start_soon(save, number)
            done = True
        versions = sorted(saved)
        assert versions == list(range(versions[0], versions[0] + 20))
        for version in await kept(images):
            assert await images.load(version) == Snapshot(version, saved[version])
        await registry.compact()
        counts = await entries_of(registry)
        assert counts.keys() <= {"version", "versions", "chunk"}
        assert counts.get("chunk", 0) == sum(
            -(-len(saved[version]) // CHUNK) for version in await kept(images)
        )


# --- upkeep ---


async def test_versions_that_become_too_old_go_though_nothing_is_written(
    open_registry: Open, clock: TurnedClock
) -> None:
    retention = SnapshotRetention(versions_max=None, seconds_max=60.0)
    async with open_registry(upkeep_interval_seconds=0.001) as registry:
        images = registry.snapshot_store("images", retention=retention)
        for _ in range(3):
            await images.save(bytes(100))
        clock.now += 61
        # The next write wakes it: time that is turned by hand wakes nobody.
        await registry.key_value_store("other").put("key", b"")
        with anyio.fail_after(30):
            while await entries_of(registry) != {"version": 1, "versions": 1, "chunk": 25}:
                await anyio.lowlevel.checkpoint()


async def test_what_a_save_left_that_nobody_repeats_is_removed_by_upkeep(
    open_registry: Open, backend_name: str
) -> None:
    if backend_name == "memory":
        pytest.skip("nothing survives the process")
    go_on = anyio.Event()

    async def pieces() -> AsyncIterator[bytes]:
        yield bytes(100)
        await go_on.wait()
        yield bytes(100)

    async def save(images: SnapshotStore) -> None:
        with pytest.raises(Exception, match=r"stopped|not open"):
            await images.save(pieces())

    async with anyio.create_task_group() as task_group:
        async with open_registry() as registry:
            task_group.start_soon(save, registry.snapshot_store("images"))
            while (await entries_of(registry)).get("chunk", 0) < 20:
                await anyio.lowlevel.checkpoint()
        go_on.set()
    async with open_registry(upkeep_interval_seconds=0.001) as registry:
        with anyio.fail_after(30):
            while await entries_of(registry):
                await anyio.lowlevel.checkpoint()


# --- a full disk ---


async def test_a_disk_that_is_full_in_the_middle_of_a_save(disk: SimulatedDisk) -> None:
    faults = FaultInjector(FaultPlan())
    config = PersistenceConfig(
        backend="memory", value_bytes_max=CHUNK, upkeep_interval_seconds=None
    )
    backend = SimulatedBackend(disk, faults)
    async with PersistenceRegistry(config, backend=backend) as registry:
        images = registry.snapshot_store("images")
        before = Snapshot(await images.save(b"before"), b"before")

        async def pieces() -> AsyncIterator[bytes]:
            yield bytes(60)
            disk.full = True
            yield bytes(60)

        with pytest.raises(StorageFullError):
            await images.save(pieces())
        assert await images.load() == before
        disk.full = False
        # Nobody saves it again.
        await registry.compact()
        assert await entries_of(registry) == {"version": 1, "versions": 1, "chunk": 2}
        assert await images.load() == before


# --- a model ---


OPERATIONS = st.lists(
    st.one_of(
        st.tuples(st.just("save"), st.binary(max_size=20)),
        st.tuples(st.just("fail"), st.binary(max_size=20)),
        st.tuples(st.just("delete"), st.integers(0, 8)),
        st.tuples(st.just("delete all"), st.none()),
        st.tuples(st.just("keep"), st.integers(1, 4)),
        st.tuples(st.just("pass"), st.integers(1, 30)),
        st.tuples(st.just("open"), st.integers(0, 8)),
        st.tuples(st.just("read"), st.none()),
        st.tuples(st.just("compact"), st.none()),
    ),
    max_size=20,
)


class Model:
    """What a snapshot is: a list."""

    def __init__(self) -> None:
        self.versions: list[tuple[int, bytes, float]] = []
        self.limit = 1
        self.seconds = 50.0

    def drop(self, now: float) -> None:
        recent = self.versions[-self.limit :]
        self.versions = [one for one in recent if one is recent[-1] or now - one[2] < self.seconds]


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(operations=OPERATIONS, random=st.random_module())
async def test_a_snapshot_is_what_a_list_is(
    operations: list[tuple[str, Any]], random: object
) -> None:
    clock = TurnedClock()
    config = PersistenceConfig(
        backend="memory", value_bytes_max=CHUNK, upkeep_interval_seconds=None
    )
    async with PersistenceRegistry(config, clock=clock) as registry:
        model = Model()
        images = registry.snapshot_store(
            "images", retention=SnapshotRetention(versions_max=1, seconds_max=model.seconds)
        )
        opened: tuple[Any, SnapshotReader, bytes] | None = None
        for kind, value in operations:
            if kind == "save":
                version = await images.save(value)
                assert all(version > one[0] for one in model.versions)
                model.versions.append((version, value, clock.now))
                model.drop(clock.now)
            elif kind == "fail":
                await _failing_save(images, value)
                model.drop(clock.now)
            elif kind == "delete":
                asked = _nth(model, value)
                there = any(one[0] == asked for one in model.versions)
                assert await images.delete(asked) is there
                model.versions = [one for one in model.versions if one[0] != asked]
                if model.versions:
                    model.drop(clock.now)
            elif kind == "delete all":
                assert await images.delete() is bool(model.versions)
                model.versions = []
            elif kind == "keep":
                model.limit = value
                images.keep(SnapshotRetention(versions_max=value, seconds_max=model.seconds))
            elif kind == "pass":
                clock.now += value
            elif kind == "open" and opened is None and model.versions:
                number, data, _ = model.versions[value % len(model.versions)]
                block = images.open(number)
                opened = (block, await block.__aenter__(), data)
            elif kind == "read" and opened is not None:
                assert await rest_of(opened[1]) == opened[2]
                await opened[0].__aexit__(None, None, None)
                opened = None
            elif kind == "compact":
                await registry.compact()
                if model.versions:
                    model.drop(clock.now)
            assert await kept(images) == [one[0] for one in model.versions]
            newest = await images.load()
            assert newest == (Snapshot(*model.versions[-1][:2]) if model.versions else None)
        if opened is not None:
            assert await rest_of(opened[1]) == opened[2]
            await opened[0].__aexit__(None, None, None)
        counts = await entries_of(registry)
        assert counts.get("chunk", 0) == sum(-(-len(one[1]) // CHUNK) for one in model.versions)
        assert counts.get("version", 0) == len(model.versions)
        assert counts.keys() <= {"chunk", "version", "versions"}


def _nth(model: Model, number: int) -> int:
    """A version that is there, as a rule."""
    return model.versions[number][0] if number < len(model.versions) else 10_000 + number


async def _failing_save(images: SnapshotStore, data: bytes) -> None:
    async def pieces() -> AsyncIterator[bytes]:
        yield data
        raise LookupError

    with pytest.raises(LookupError):
        await images.save(pieces())

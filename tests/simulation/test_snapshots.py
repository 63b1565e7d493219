"""Snapshots: one complete state is visible, whatever is cancelled, crashes or fails, and when."""

from __future__ import annotations

import itertools
import math
import os
from collections.abc import AsyncIterator, Iterator
from random import Random

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from mpreg.codec import decode_key, encode_reserved_name
from mpreg.persistence import (
    CommitFailedError,
    CommitUnknownError,
    PersistenceRegistry,
    ReaderStoppedError,
    Snapshot,
    SnapshotNotFoundError,
    SnapshotRetention,
    SnapshotStore,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence.backend import ScanEntries, ScanPage, StoredEntry
from mpreg.persistence.batch import WriteBatch
from mpreg.persistence.operations import Put
from mpreg.persistence.snapshots import CLEAN_UP_SECONDS, removal
from mpreg.testing import (
    Fault,
    FaultInjector,
    FaultPlan,
    RecordingBackend,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.simulation.scenario import every_schedule, make_config
from tests.simulation.seeds import ordinarily

CHUNK = 4
#: Small, so that a few chunks are several batches.
REMOVED_PER_BATCH = 8
#: More chunks than are removed in one batch.
OLD = b"old " * (REMOVED_PER_BATCH + 1)
NEW = b"new " * (REMOVED_PER_BATCH + 3) + b"end"


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(removal, "REMOVED_PER_BATCH", REMOVED_PER_BATCH)


async def in_pieces(data: bytes) -> AsyncIterator[bytes]:
    for start in range(0, len(data), 11):
        await anyio.lowlevel.checkpoint()
        yield data[start : start + 11]


def stored_keys(disk: SimulatedDisk) -> list[str | bytes]:
    page = disk.state.read(
        ScanEntries(encode_reserved_name("snapshot", "images"), b"", None),
    )
    assert isinstance(page, ScanPage)
    assert page.next_start is None
    return [decode_key(entry.key) for entry in page.entries if isinstance(entry, StoredEntry)]


def assert_nothing_else_is_stored(disk: SimulatedDisk, data: bytes) -> None:
    keys = stored_keys(disk)
    texts = [key for key in keys if isinstance(key, str)]
    assert len(texts) == 2
    assert texts[0].startswith("version/")
    assert texts[1] == "versions"
    assert len(keys) == 2 + math.ceil(len(data) / CHUNK)


def open_registry(
    disk: SimulatedDisk, simulation: Simulation, faults: FaultInjector | None = None
) -> PersistenceRegistry:
    return PersistenceRegistry(
        make_config(value_bytes_max=CHUNK, grace_seconds=1.0, restarts_max=5),
        backend=SimulatedBackend(disk, faults),
        clock=simulation.clock,
    )


# --- cancelled ---


def cancelled_after(ticks: int, seed: int, *, has_old: bool, as_pieces: bool) -> bool:
    """Cancel a save after some turns of the loop; whether it had not ended by itself."""
    simulation = Simulation(seed)
    disk = SimulatedDisk(simulation.stream("disk"))

    async def run() -> bool:
        async with open_registry(disk, simulation) as registry:
            images = registry.snapshot_store("images")
            old = Snapshot(await images.save(OLD), OLD) if has_old else None
            new: Snapshot | None = None

            async def save() -> None:
                nonlocal new
                with scope:
                    new = Snapshot(await images.save(in_pieces(NEW) if as_pieces else NEW), NEW)

            scope = anyio.CancelScope()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(save)
                for _ in range(ticks):
                    await anyio.lowlevel.checkpoint()
                scope.cancel()

            visible = await images.load()
            if new is not None:
                assert visible == new
            elif visible != old:
                assert visible is not None
                assert visible.data == NEW
            # What it leaves is an unfinished entry at most, and that only if it had just been sent.
            await registry.key_value_store("other").put("key", b"")
            keys = stored_keys(disk)
            chunks = [key for key in keys if isinstance(key, bytes)]
            assert len(chunks) == (0 if visible is None else math.ceil(len(visible.data) / CHUNK))

            version = await images.save(b"and once more")
            assert await images.load() == Snapshot(version, b"and once more")
            assert visible is None or visible.version < version
            assert_nothing_else_is_stored(disk, b"and once more")
            return scope.cancelled_caught

    cancelled = simulation.run(run)
    assert disk.complaints == []
    return cancelled is True


@pytest.mark.parametrize("has_old", [True, False], ids=["replacing", "first"])
def test_cancelled_at_any_moment_it_leaves_the_old_one_or_the_new_one(has_old: bool) -> None:
    # Each meets every other moment.
    for seed, as_pieces in enumerate([True, False]):
        ticks = seed
        while cancelled_after(ticks, seed, has_old=has_old, as_pieces=as_pieces):
            ticks += 2
        assert ticks > 20


@every_schedule
async def test_cancelled_it_waits_for_a_disk_that_hangs_no_longer_than_it_says(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(value_bytes_max=CHUNK), backend=backend) as registry:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(registry.snapshot_store("images").save, NEW)
                await anyio.wait_all_tasks_blocked()
                backend.held.finish()
                await anyio.wait_all_tasks_blocked()
                before = anyio.current_time()
                scope.cancel()
        assert CLEAN_UP_SECONDS <= anyio.current_time() - before < 2 * CLEAN_UP_SECONDS
        while not backend.is_idle:
            backend.held.finish()
            await anyio.wait_all_tasks_blocked()


@pytest.mark.parametrize("published", [True, False])
def test_cancelled_while_it_publishes_it_is_whole_or_not_at_all(published: bool) -> None:
    """The clean-up of a cancelled save must not touch what turns out to be published."""

    async def scenario(simulation: Simulation) -> None:
        backend = RecordingBackend()

        async def go_on() -> None:
            """Finish the commits as they come, but for the second publication."""
            publications = 0
            while True:
                await anyio.wait_all_tasks_blocked()
                if backend.is_idle:
                    return
                publications += any(map(publishes, backend.held.group.batches))
                if publications == 2:
                    scope.cancel()
                    await anyio.wait_all_tasks_blocked()
                    publications += 1
                    if not published:
                        backend.held.fail(CommitFailedError("rolled back"))
                        continue
                backend.held.finish()

        config = make_config(value_bytes_max=CHUNK)
        async with PersistenceRegistry(config, backend=backend) as registry:
            images = registry.snapshot_store("images")
            scope = anyio.CancelScope()

            async def save_both() -> None:
                await images.save(OLD)
                with scope:
                    await images.save(NEW)

            async with anyio.create_task_group() as task_group:
                task_group.start_soon(save_both)
                await go_on()
            assert scope.cancelled_caught
            snapshot = await images.load()
            assert snapshot is not None
            assert snapshot.data == (NEW if published else OLD)
            assert await chunks_of(registry) == math.ceil(len(snapshot.data) / CHUNK)

    every_schedule(scenario)()


def publishes(batch: WriteBatch) -> bool:
    first = batch.operations[0]
    return (
        isinstance(first, Put)
        and decode_key(first.key) == "versions"
        and len(batch.operations) == 3
    )


async def chunks_of(registry: PersistenceRegistry) -> int:
    store = registry.key_value_store("inside")
    store._name = encode_reserved_name("snapshot", "images")
    return len([entry async for entry in store.scan(b"")])


# --- crashed ---


@define(eq=False)
class Life:
    """A process that saves one snapshot after the other, until it ends or is ended."""

    disk: SimulatedDisk
    simulation: Simulation
    sent: list[bytes] = field(factory=list)
    acked: Snapshot | None = None

    async def run(self) -> None:
        async with open_registry(self.disk, self.simulation) as registry:
            images = registry.snapshot_store("images")
            for data in (OLD, NEW, b""):
                self.sent.append(data)
                self.acked = Snapshot(await images.save(data), data)

    async def check(self) -> None:
        """In the next process: what is there, and that nothing else is once it has saved."""
        async with open_registry(self.disk, self.simulation) as registry:
            images = registry.snapshot_store("images")
            found = await images.load()
            if found != self.acked:
                assert found is not None
                assert found.data == self.sent[-1]
                assert self.acked is None or found.version > self.acked.version
            version = await images.save(b"after the crash")
            assert await images.load() == Snapshot(version, b"after the crash")
            assert found is None or version > found.version
            # What upkeep was at when the save ended, it finishes; the rest is asked for.
            await registry.compact()
        assert_nothing_else_is_stored(self.disk, b"after the crash")


@pytest.mark.parametrize("power_cut", [True, False], ids=["power cut", "kill"])
def test_crashed_at_any_step_the_old_one_or_the_new_one_is_there(power_cut: bool) -> None:
    # Between them they meet a third of the steps, or two of three where more is asked for.
    every = ordinarily(6, of=3)
    for step in itertools.count(1 if power_cut else every - 1, every):
        simulation = Simulation(step)
        disk = SimulatedDisk(simulation.stream("disk"))
        life = Life(disk, simulation)
        on_crash = disk.cut_power if power_cut else disk.kill_process
        simulation.run(life.run, crash_at_step=step, on_crash=on_crash)
        crashed = simulation.crashed
        simulation.run(life.check)
        assert disk.complaints == []
        if not crashed:
            break
    assert step > 200


# --- everything at once ---


FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.01,
        Fault.COMMIT_UNTOLD: 0.01,
        Fault.ROLLED_BACK: 0.02,
        Fault.DISK_FULL: 0.01,
        Fault.READ_FAILS: 0.01,
        Fault.SLOW_COMMIT: 0.01,
    },
    commit_seconds_max=0.01,
    full_seconds_max=0.5,
)


@define(eq=False)
class Story:
    """Processes with several savers and loaders, faults, cancelled callers and crashes."""

    seed: int
    sent: set[bytes] = field(factory=set)
    versions: dict[bytes, int] = field(factory=dict)
    """Of the saves that were acked."""
    seen_max: int = 0
    numbers: Iterator[int] = field(factory=itertools.count)
    saved: int = 0
    read: int = 0
    kept: int = 1
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    random: Random = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(FAULTS, self.simulation.stream("faults"))
        self.random = self.simulation.stream("story")

    def tell(self) -> None:
        for _ in range(3):
            crash_at_step = int(math.exp(self.random.uniform(3, 9)))
            on_crash = self.random.choice([self.disk.kill_process, self.disk.cut_power])
            self.simulation.run(self._live, crash_at_step=crash_at_step, on_crash=on_crash)
        self.faults.heal()
        self.simulation.run(self._last)
        assert self.disk.complaints == []

    async def _live(self) -> None:
        try:
            async with open_registry(self.disk, self.simulation, self.faults) as registry:
                self.kept = self.random.choice([1, 3])
                retention = SnapshotRetention(versions_max=self.kept)
                registry.snapshot_store("images", retention=retention)
                self._check(await registry.snapshot_store("images").load())
                async with anyio.create_task_group() as task_group:
                    for _ in range(3):
                        task_group.start_soon(self._save_on, registry.snapshot_store("images"))
                    for _ in range(2):
                        task_group.start_soon(self._load_on, registry.snapshot_store("images"))
                        task_group.start_soon(self._read_on, registry.snapshot_store("images"))
        except* (StorageIOError, ReaderStoppedError):
            pass

    async def _save_on(self, images: SnapshotStore) -> None:
        for _ in range(4):
            data = b"%d " % next(self.numbers) * self.random.randint(1, 30)
            self.sent.add(data)
            patience = self.random.choice([math.inf, math.inf, self.random.expovariate(5)])
            with anyio.move_on_after(patience):
                try:
                    version = await images.save(in_pieces(data))
                except (CommitFailedError, CommitUnknownError, WriterStoppedError):
                    continue
                self.versions[data] = version
                self.saved += 1

    async def _load_on(self, images: SnapshotStore) -> None:
        for _ in range(10):
            acked_before = max(self.versions.values(), default=0)
            try:
                snapshot = await images.load()
            except ReaderStoppedError:
                return
            self._check(snapshot, acked_before)
            await anyio.sleep(self.random.expovariate(20))

    async def _read_on(self, images: SnapshotStore) -> None:
        """Slowly, any version; what was opened is read to its end, whatever becomes of it."""
        for _ in range(5):
            await anyio.sleep(self.random.expovariate(20))
            patience = self.random.choice([math.inf, math.inf, self.random.expovariate(5)])
            with anyio.move_on_after(patience):
                try:
                    version = self.random.choice([None, *await images.versions()])
                    asked = None if version is None else version.version
                    async with images.open(asked) as reader:
                        chunks = []
                        async for chunk in reader:
                            chunks.append(chunk)
                            await anyio.sleep(self.random.choice([0, 0, 0.01, 0.1]))
                except SnapshotNotFoundError:
                    continue
                except ReaderStoppedError:
                    return
                data = b"".join(chunks)
                assert data in self.sent
                assert reader.version == self.versions.get(data, reader.version)
                self.read += 1

    def _check(self, found: Snapshot | None, acked: int | None = None) -> None:
        if acked is None:
            acked = max(self.versions.values(), default=0)
        if found is None:
            assert acked == 0
            return
        assert found.data in self.sent
        assert found.version == self.versions.get(found.data, found.version)
        assert found.version >= acked

    async def _last(self) -> None:
        async with open_registry(self.disk, self.simulation, self.faults) as registry:
            images = registry.snapshot_store("images")
            self._check(await images.load())
            assert len(await images.versions()) <= 3 + 3, "more than are kept and were under way"
            images.keep(SnapshotRetention(versions_max=1))
            await images.save(b"the last")
            # What upkeep was at when the save ended, it finishes; the rest is asked for.
            await registry.compact()
        assert_nothing_else_is_stored(self.disk, b"the last")


def test_stories_of_many_savers_and_loaders() -> None:
    saved = read = 0
    for seed in range(int(os.environ.get("MPREG_SIMULATION_SEEDS", "20"))):
        story = Story(seed)
        story.tell()
        saved += story.saved
        read += story.read
        assert len(set(story.versions.values())) == len(story.versions), "no number is used twice"
    assert saved > 100
    assert read > 100


# --- upkeep by itself ---


@every_schedule
async def test_versions_go_when_their_time_has_come_though_nobody_does_anything(
    simulation: Simulation,
) -> None:
    disk = SimulatedDisk(simulation.stream("disk"))
    async with open_registry(disk, simulation) as registry:
        retention = SnapshotRetention(versions_max=None, seconds_max=100.0)
        images = registry.snapshot_store("images", retention=retention)
        for _ in range(3):
            await images.save(NEW)
            await anyio.sleep(30)
        # The first is 90 seconds old, and upkeep comes within some seconds.
        assert [one.version for one in await images.versions()] == [1, 2, 3]
        await anyio.sleep(10 + 25)
        assert [one.version for one in await images.versions()] == [2, 3]
        await anyio.sleep(1_000)
        assert [one.version for one in await images.versions()] == [3]
    assert_nothing_else_is_stored(disk, NEW)


@every_schedule
async def test_upkeep_removes_what_was_read_when_it_was_dropped(simulation: Simulation) -> None:
    """Where the last reader could not do it: the disk was full."""
    disk = SimulatedDisk(simulation.stream("disk"))
    async with open_registry(disk, simulation) as registry:
        images = registry.snapshot_store("images")
        await images.save(OLD)
        async with images.open() as reader:
            await images.save(NEW)
            disk.full = True
            assert b"".join([chunk async for chunk in reader]) == OLD
        assert len(stored_keys(disk)) > 3 + math.ceil(len(NEW) / CHUNK)
        disk.full = False
        await registry.key_value_store("other").put("key", b"")
        await anyio.sleep(100)
    assert_nothing_else_is_stored(disk, NEW)

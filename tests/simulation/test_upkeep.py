"""Upkeep beside writers, over crashes and failing disks: what goes had to go, and nothing else."""

from __future__ import annotations

import math
from random import Random

import anyio
import pytest
from attrs import define, field

from mpreg.clock import Clock
from mpreg.persistence import (
    CommitFailedError,
    CommitUnknownError,
    Durability,
    LogRetention,
    PersistenceRegistry,
    ReaderStoppedError,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence.backend import BackendStatistics, Checkpoint, UpkeepResult, UpkeepStep
from mpreg.persistence.compactor import Compactor
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

FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.01,
        Fault.COMMIT_UNTOLD: 0.01,
        Fault.ROLLED_BACK: 0.03,
        Fault.DISK_FULL: 0.01,
        Fault.OPEN_FAILS: 0.05,
        Fault.READ_FAILS: 0.01,
        Fault.UPKEEP_PUT_OFF: 0.2,
        Fault.UPKEEP_FAILS: 0.05,
    },
    commit_seconds_max=0.05,
)

RETENTION = LogRetention(log="audit", records_max=20)


@define
class Story:
    """Processes one after the other that put keys with and without an end, and append."""

    seed: int
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    luck: Random = field(init=False)
    lasting: set[str] = field(factory=set)
    """Keys without an end that were acked."""
    expiring: dict[str, float] = field(factory=dict)
    """Keys that were acked, and when they end."""
    number: int = 0

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(FAULTS, self.simulation.stream("faults"))
        self.luck = self.simulation.stream("story")

    def registry(self) -> PersistenceRegistry:
        config = make_config(
            upkeep_interval_seconds=1.0, log_retention=(RETENTION,), restarts_max=1_000
        )
        backend = SimulatedBackend(self.disk, self.faults)
        return PersistenceRegistry(config, backend=backend, clock=self.simulation.clock)

    def tell(self) -> None:
        for _ in range(4):
            crash_at_step = int(math.exp(self.luck.uniform(4, 9)))
            on_crash = self.luck.choice([self.disk.kill_process, self.disk.cut_power])
            self.simulation.run(self._live, crash_at_step=crash_at_step, on_crash=on_crash)
        self.faults.heal()
        self.simulation.run(self._last)
        assert self.disk.complaints == []

    async def _live(self) -> None:
        try:
            async with self.registry() as registry, anyio.create_task_group() as task_group:
                for _ in range(3):
                    task_group.start_soon(self._write, registry)
                task_group.start_soon(self._compact, registry)
        except* (StorageIOError, ReaderStoppedError, WriterStoppedError, CommitUnknownError):
            pass

    async def _write(self, registry: PersistenceRegistry) -> None:
        for _ in range(self.luck.randint(5, 60)):
            self.number += 1
            name = f"{self.number}"
            ttl_seconds = self.luck.choice([None, 0.5, 5.0, 50.0])
            store = registry.key_value_store(self.luck.choice(["a", "b"]))
            ends = self.simulation.clock.wall() + (ttl_seconds or math.inf)
            try:
                await store.put(f"{store.namespace}{name}", b"", ttl_seconds=ttl_seconds)
                await registry.log_store("audit").append(b"")
            except CommitFailedError:
                continue
            if ttl_seconds is None:
                self.lasting.add(f"{store.namespace}{name}")
            else:
                self.expiring[f"{store.namespace}{name}"] = ends
            await anyio.sleep(self.luck.expovariate(2))

    async def _compact(self, registry: PersistenceRegistry) -> None:
        for _ in range(3):
            await anyio.sleep(self.luck.expovariate(0.2))
            try:
                await registry.compact()
            except CommitFailedError:
                continue

    async def _last(self) -> None:
        async with self.registry() as registry:
            for name in ("a", "b"):
                found = {str(entry.key) async for entry in registry.key_value_store(name).scan()}
                now = self.simulation.clock.wall()
                still = {key for key, ends in self.expiring.items() if ends > now}
                acked = {key for key in self.lasting | still if key.startswith(name)}
                assert acked <= found
            # Everything ends some time; nobody asks for it.
            await anyio.sleep(200)
            log = registry.log_store("audit")
            assert await log.next_offset() - await log.first_offset() <= 20
        stored = self.disk.state
        for namespace in (b"a", b"b"):
            assert stored.expired_entries(namespace, math.inf, 10, without=()) == []


@pytest.mark.parametrize("seed", range(ordinarily(15, of=40)))
def test_what_has_no_end_stays_and_all_else_goes(seed: int) -> None:
    Story(seed).tell()


# --- the writer's part ---


class Eager(SimulatedBackend):
    """Asks for a checkpoint after every third group, and notes its calls."""

    def __init__(self, disk: SimulatedDisk, faults: FaultInjector | None = None) -> None:
        super().__init__(disk, faults)
        self.steps: list[tuple[int, UpkeepStep]] = []

    def upkeep_due(self) -> UpkeepStep | None:
        done = {sequence for sequence, _ in self.steps}
        due = self.disk.sequence % 3 == 0 and self.disk.sequence not in {0, *done}
        return Checkpoint() if due else None

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        self.steps.append((self.disk.sequence, step))
        await super().upkeep(step)
        return UpkeepResult(checkpoints=1, log_pages=9, log_pages_left=4)


def quiet(**settings: object) -> dict[str, object]:
    return {"upkeep_interval_seconds": None, **settings}


@every_schedule
async def test_what_a_backend_asks_for_is_done_between_two_groups(simulation: Simulation) -> None:
    backend = Eager(SimulatedDisk())
    async with PersistenceRegistry(make_config(**quiet()), backend=backend) as registry:
        for number in range(9):
            await registry.log_store("log").append(b"%d" % number)
        await registry.log_store("log").append(b"")
        stats = await registry.stats()
    assert [sequence for sequence, _ in backend.steps] == [3, 6, 9]
    assert (stats.checkpoints, stats.wal_pages_left) == (3, 4)
    assert backend.disk.complaints == []


@every_schedule
async def test_callers_have_their_acks_before_upkeep_begins(simulation: Simulation) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(**quiet()), backend=backend) as registry:
        log = registry.log_store("log")
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(registry.compact)
            await anyio.wait_all_tasks_blocked()
            ack = log.append_nowait(b"")
            await anyio.wait_all_tasks_blocked()
            backend.held.finish()
            assert await ack == 0
        assert backend.is_idle


@pytest.mark.parametrize("fault", [Fault.UPKEEP_PUT_OFF, Fault.UPKEEP_FAILS])
def test_upkeep_that_fails_costs_no_commit(fault: Fault) -> None:
    async def scenario(simulation: Simulation) -> None:
        faults = FaultInjector()
        backend = Eager(SimulatedDisk(), faults)
        async with PersistenceRegistry(make_config(**quiet()), backend=backend) as registry:
            log = registry.log_store("log")
            faults.order(fault)
            offsets = [await log.append(b"%d" % number) for number in range(7)]
            assert offsets == list(range(7))
            stats = await registry.stats()
            assert stats.writer_restarts == (fault is Fault.UPKEEP_FAILS)
        assert backend.disk.complaints == []

    every_schedule(scenario)()


@every_schedule
async def test_a_step_asked_for_is_answered_also_where_the_disk_fails(
    simulation: Simulation,
) -> None:
    faults = FaultInjector()
    backend = SimulatedBackend(SimulatedDisk(), faults)
    async with PersistenceRegistry(make_config(**quiet()), backend=backend) as registry:
        faults.order(Fault.UPKEEP_PUT_OFF)
        with pytest.raises(CommitFailedError):
            await registry.compact()
        faults.order(Fault.UPKEEP_FAILS)
        with anyio.fail_after(100), pytest.raises(CommitFailedError, match="interrupted"):
            await registry.compact()
        await registry.compact()
        assert await registry.log_store("log").append(b"") == 0


class NeverTwiceTheSame(SimulatedBackend):
    """Each step of upkeep fails, with an error of its own."""

    failures = 0

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        self.failures += 1
        raise StorageIOError(f"failure {self.failures}")


@every_schedule
async def test_a_step_that_ends_the_writer_is_answered_with_what_ended_it(
    simulation: Simulation,
) -> None:
    """Otherwise two errors would leave the registry's block, in a group that nobody expects."""
    backend = NeverTwiceTheSame(SimulatedDisk())

    async def compact_twice() -> None:
        config = make_config(**quiet(restarts_max=1))
        async with PersistenceRegistry(config, backend=backend) as registry:
            with pytest.raises(CommitFailedError, match="interrupted: failure 1"):
                await registry.compact()
            await registry.compact()

    with anyio.fail_after(100), pytest.raises(StorageIOError, match="failure 1"):
        await compact_twice()
    assert backend.failures == 2


@every_schedule
async def test_upkeep_goes_on_after_the_disk_has_failed_in_it(simulation: Simulation) -> None:
    faults = FaultInjector()
    backend = SimulatedBackend(SimulatedDisk(), faults)
    config = make_config(upkeep_interval_seconds=1.0)
    async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as registry:
        store = registry.key_value_store("s")
        for number in range(3):
            faults.order(Fault.UPKEEP_FAILS)
            await store.put(f"{number}", b"", ttl_seconds=5.0)
            await anyio.sleep(100)
            assert backend.disk.state.expired_entries(b"s", math.inf, 10, without=()) == []
        assert (await registry.stats()).writer_restarts == 3


class LongLog(SimulatedBackend):
    """Its log is long, little of it is new at each checkpoint, and it is in use for a while."""

    def __init__(self) -> None:
        super().__init__(SimulatedDisk())
        self.wal_bytes = 64 << 20
        self.is_read = True
        self.cuts = 0

    def statistics(self) -> BackendStatistics:
        return BackendStatistics(wal_bytes=self.wal_bytes)

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        if step != Checkpoint(truncate=True):
            return UpkeepResult(log_pages=9)
        self.cuts += 1
        if not self.is_read:
            self.wal_bytes = 0
        return UpkeepResult()


@every_schedule
async def test_a_log_that_somebody_reads_is_not_waited_for_again_and_again(
    simulation: Simulation,
) -> None:
    backend = LongLog()
    config = make_config(upkeep_interval_seconds=10.0)
    async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as registry:

        async def write_a_little(seconds: int = 100) -> None:
            for _ in range(0, seconds, 5):
                await registry.log_store("log").append(b"")
                await anyio.sleep(5.0)

        await write_a_little()
        assert backend.cuts == 1
        await anyio.sleep(100)
        assert backend.cuts == 2, "once more when nobody writes"
        await write_a_little(650)
        assert backend.cuts == 3, "and after ten minutes"
        backend.is_read = False
        await write_a_little(650)
        assert (backend.cuts, backend.wal_bytes) == (4, 0)
        backend.wal_bytes = 64 << 20
        await write_a_little()
        assert (backend.cuts, backend.wal_bytes) == (5, 0), "at once"


@every_schedule
async def test_an_idle_registry_does_nothing_at_all(simulation: Simulation) -> None:
    backend = SimulatedBackend(SimulatedDisk())
    config = make_config(upkeep_interval_seconds=1.0)
    async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as registry:
        store = registry.key_value_store("s")
        await store.put("soon", b"", ttl_seconds=100.0)
        await store.put("late", b"", ttl_seconds=100_000.0)
        await anyio.sleep(50)
        before = simulation.steps
        await anyio.sleep(40)
        assert simulation.steps - before <= 2, "only this task"
        await anyio.sleep(50)
        assert [
            entry[1]
            for entry in backend.disk.state.expired_entries(store._name, math.inf, 10, without=())
        ] == [b"\x01late"]
        before = simulation.steps
        await anyio.sleep(80_000)
        assert simulation.steps - before <= 2
        await store.put("again", b"", durability=Durability.RELAXED)


@pytest.mark.parametrize("ahead", [1e9, 100.0, -100.0, -1e9])
def test_a_clock_that_is_set_makes_no_record_older_or_younger(ahead: float) -> None:
    simulation = Simulation(0)
    disk = SimulatedDisk(simulation.stream("disk"))
    config = make_config(
        upkeep_interval_seconds=1.0, log_retention=(LogRetention(log="l", seconds_max=100.0),)
    )

    async def live() -> None:
        backend = SimulatedBackend(disk, FaultInjector())
        async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as opened:
            log = opened.log_store("l")
            for number in range(60):
                await log.append(b"")
                await anyio.sleep(5)
                # Each is seen a second or two after it was appended.
                assert await log.first_offset() == max(0, number - 9)
                if number % 20 == 15:
                    simulation.clock.jump(ahead if number < 40 else -2 * ahead)
                await anyio.sleep(5)
            # It is idle, and the clock is set.
            simulation.clock.jump(ahead)
            await anyio.sleep(90)
            assert await log.first_offset() == 59
            await anyio.sleep(20)
            assert await log.first_offset() == 60

    simulation.run(live)


# --- what is cut off ---

AGED = LogRetention(log="aged", seconds_max=100.0)


def expiring(disk: SimulatedDisk) -> list[object]:
    return list(disk.state.expired_entries(b"s", math.inf, 10, without=()))


async def hang(*_: object) -> None:
    await anyio.sleep_forever()


@pytest.mark.parametrize("part", ["_limit_log", "_look_ahead"])
def test_what_is_due_goes_also_where_a_compaction_was_cut_off(
    monkeypatch: pytest.MonkeyPatch, part: str
) -> None:
    async def scenario(simulation: Simulation) -> None:
        config = make_config(upkeep_interval_seconds=1.0, log_retention=(AGED,))
        backend = SimulatedBackend(SimulatedDisk())
        async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as registry:
            log = registry.log_store("aged")
            if part == "_limit_log":
                await log.append(b"")
            else:
                await registry.key_value_store("s").put("k", b"", ttl_seconds=100.0)
            await anyio.sleep(10)
            assert await log.first_offset() == 0
            with monkeypatch.context() as patch, anyio.move_on_after(1):
                patch.setattr(Compactor, part, hang)
                await registry.compact()
            await anyio.sleep(200)
            assert await log.first_offset() == await log.next_offset()
            assert expiring(backend.disk) == []

    every_schedule(scenario)()


def test_what_expires_next_is_looked_for_again_where_that_has_failed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    look_ahead = Compactor._look_ahead

    async def scenario(simulation: Simulation) -> None:
        failed: list[float] = []

        async def fail_once(self: Compactor, now: float) -> None:
            if not failed:
                failed.append(now)
                assert len(expiring(backend.disk)) == 1
                raise StorageIOError("cannot be read")
            await look_ahead(self, now)

        config = make_config(upkeep_interval_seconds=1.0)
        backend = SimulatedBackend(SimulatedDisk())
        async with PersistenceRegistry(config, backend=backend, clock=simulation.clock) as registry:
            await anyio.sleep(10)
            await registry.key_value_store("s").put("soon", b"", ttl_seconds=5.0)
            await registry.key_value_store("s").put("later", b"", ttl_seconds=100.0)
            await anyio.sleep(4)
            with monkeypatch.context() as patch:
                patch.setattr(Compactor, "_look_ahead", fail_once)
                await anyio.sleep(200)
            assert failed
            assert expiring(backend.disk) == []

    every_schedule(scenario)()


@define
class SetClock:
    """The simulation's wall clock, which can be set."""

    clock: Clock
    ahead: float = 0.0

    def wall(self) -> float:
        return self.clock.wall() + self.ahead


@pytest.mark.parametrize("seconds", [61.0, 1e9])
def test_a_clock_that_is_set_while_nobody_writes_makes_no_record_older_for_the_next_process(
    seconds: float,
) -> None:
    async def scenario(simulation: Simulation) -> None:
        disk, clock = SimulatedDisk(), SetClock(simulation.clock)
        retention = LogRetention(log="aged", seconds_max=1_000.0)
        config = make_config(upkeep_interval_seconds=1.0, log_retention=(retention,))
        for life in range(2):
            backend = SimulatedBackend(disk)
            async with PersistenceRegistry(config, backend=backend, clock=clock) as registry:
                log = registry.log_store("aged")
                if life == 0:
                    await log.append(b"")
                    await anyio.sleep(800)
                    clock.ahead += seconds
                    await anyio.sleep(100)
                    commits = (await registry.stats()).commits
                    await anyio.sleep(70)
                    assert (await registry.stats()).commits == commits
                else:
                    await registry.compact()
                    assert await log.first_offset() == 0
                    await anyio.sleep(40)
                    assert await log.first_offset() == 1

    every_schedule(scenario)()

"""Many callers share a commit; each has its own answer, and none comes before the commit."""

from __future__ import annotations

import gc
import sys
from collections.abc import Iterator, Sequence
from types import FrameType

import anyio
import pytest

from mpreg.actors import mailbox as mailbox_module
from mpreg.persistence import (
    Ack,
    Durability,
    PersistenceRegistry,
    RegistryStatistics,
    VersionConflictError,
)
from mpreg.persistence.backends.memory import MemoryBackend
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.testing import (
    FaultInjector,
    FaultPlan,
    RecordingBackend,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.simulation.scenario import every_schedule, make_config
from tests.simulation.seeds import ordinarily


@every_schedule
async def test_many_callers_cost_far_fewer_fsyncs_than_acks(simulation: Simulation) -> None:
    faults = FaultInjector(FaultPlan(commit_seconds_max=0.01), simulation.stream("faults"))
    backend = SimulatedBackend(SimulatedDisk(), faults)
    acks = 0

    async def write(registry: PersistenceRegistry) -> None:
        nonlocal acks
        for _ in range(3):
            await registry.log_store("log").append(b"")
            acks += 1

    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        async with anyio.create_task_group() as task_group:
            for _ in range(200):
                task_group.start_soon(write, registry)
        stats = await registry.stats()
    assert acks == stats.operations == 600
    assert 3 <= stats.fsyncs <= acks / 30


@every_schedule
async def test_no_ack_of_either_kind_comes_before_its_commit(simulation: Simulation) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        log = registry.log_store("log")
        for durability in Durability:
            ack: Ack[int] = log.append_nowait(b"", durability=durability)
            await anyio.wait_all_tasks_blocked()
            assert not ack.done
            backend.held.finish()
            await ack


@every_schedule
async def test_a_group_is_as_durable_as_its_strictest_member(simulation: Simulation) -> None:
    relaxed, durable = Durability.RELAXED, Durability.DURABLE
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        log = registry.log_store("log")
        for members in ([relaxed], [relaxed, relaxed], [relaxed, durable, relaxed], [durable]):
            acks = [log.append_nowait(b"", durability=member) for member in members]
            await anyio.wait_all_tasks_blocked()
            assert backend.held.group.durability is (durable if durable in members else relaxed)
            backend.held.finish()
            for ack in acks:
                await ack


@every_schedule
async def test_relaxed_acks_cost_no_fsync_and_a_durable_one_covers_them(
    simulation: Simulation,
) -> None:
    disk = SimulatedDisk(simulation.stream("disk"))
    async with PersistenceRegistry(make_config(), backend=SimulatedBackend(disk)) as registry:
        log = registry.log_store("log")
        for _ in range(5):
            await log.append(b"", durability=Durability.RELAXED)
        before = await registry.stats()
        assert (before.fsyncs, before.durable_sequence, disk.unsynced) == (0, 0, 5)
        await log.append(b"")
        after = await registry.stats()
        assert (after.fsyncs, after.durable_sequence, disk.unsynced) == (1, 6, 0)


@every_schedule
async def test_a_rejected_batch_does_not_sink_its_group(simulation: Simulation) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        store = registry.key_value_store("n")
        acks = [
            store.put_nowait("a", b"1"),
            store.put_nowait("b", b"2", expected_version=7),
            store.put_nowait("c", b"3"),
        ]
        await anyio.wait_all_tasks_blocked()
        assert len(backend.held.group.batches) == 3
        backend.held.finish()
        assert (await acks[0], await acks[2]) == (1, 2)
        with pytest.raises(VersionConflictError):
            await acks[1]
        stats = await registry.stats()
        assert (stats.commits, stats.batches, stats.rejected) == (1, 2, 1)


CALLERS = ordinarily(20_000, of=100_000)


class WatchedBackend(MemoryBackend):
    """Notes, with each commit, what waits in the mailbox."""

    registry: PersistenceRegistry

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[RegistryStatistics] = []

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        self.seen.append(await self.registry.stats())
        return await super().commit(group)


@pytest.fixture
def _without_garbage_collection() -> Iterator[None]:
    """With so many tasks alive it would look through all of them again and again."""
    gc.disable()
    yield
    gc.enable()


@pytest.mark.usefixtures("_without_garbage_collection")
def test_tens_of_thousands_of_callers_are_all_served_within_the_bounds() -> None:
    """Nobody starves, and the mailbox never holds more than it may."""
    config = make_config(mailbox_batches_max=1_000, mailbox_bytes_max=50_000)
    backend = WatchedBackend()
    served: list[int] = []

    async def scenario() -> None:
        backend.registry = PersistenceRegistry(config, backend=backend)
        async with backend.registry as registry:
            log = registry.log_store("log")

            async def write() -> None:
                served.append(await log.append(b"x"))

            async with anyio.create_task_group() as task_group:
                for _ in range(CALLERS):
                    task_group.start_soon(write)
            stats = await registry.stats()
            assert stats.mailbox_depth == stats.mailbox_bytes == stats.waiting_senders == 0

    Simulation(0).run(scenario)
    assert sorted(served) == list(range(CALLERS))
    assert max(seen.waiting_senders for seen in backend.seen) > CALLERS / 2
    assert 100 < max(seen.mailbox_depth for seen in backend.seen) <= 1_000
    assert max(seen.mailbox_bytes for seen in backend.seen) <= 50_000


def test_callers_are_served_in_the_order_in_which_they_came() -> None:
    async def scenario() -> None:
        offsets: dict[int, int] = {}
        async with PersistenceRegistry(make_config(mailbox_batches_max=3)) as registry:

            async def write(number: int) -> None:
                offsets[number] = await registry.log_store("log").append(b"")

            async with anyio.create_task_group() as task_group:
                for number in range(200):
                    task_group.start_soon(write, number)
                    await anyio.sleep(0)
        assert sorted(offsets.values()) == list(range(200))

    Simulation(0).run(scenario)


def _calls_for_mass_cancellation(waiting: int) -> int:
    """Calls of the mailbox's functions while that many waiting callers are cancelled at once."""
    calls = 0

    def count(frame: FrameType, event: str, argument: object) -> None:
        nonlocal calls
        calls += event == "call" and frame.f_code.co_filename == mailbox_module.__file__

    async def scenario() -> None:
        backend = RecordingBackend()
        config = make_config(mailbox_batches_max=1)
        async with PersistenceRegistry(config, backend=backend) as registry:
            log = registry.log_store("log")
            log.append_nowait(b"in flight")
            await anyio.wait_all_tasks_blocked()
            last = log.append_nowait(b"in the mailbox")
            async with anyio.create_task_group() as callers:
                for _ in range(waiting):
                    callers.start_soon(log.append, b"")
                await anyio.wait_all_tasks_blocked()
                assert (await registry.stats()).waiting_senders == waiting
                sys.setprofile(count)
                callers.cancel_scope.cancel()
            sys.setprofile(None)
            assert (await registry.stats()).waiting_senders == 0
            for _ in range(2):
                backend.held.finish()
                await anyio.wait_all_tasks_blocked()
            assert await last == 1
            assert (await registry.stats()).operations == 2

    Simulation(0).run(scenario)
    return calls


def test_cancelling_all_who_wait_costs_the_same_for_each_and_leaves_nobody() -> None:
    few, many = _calls_for_mass_cancellation(1_000), _calls_for_mass_cancellation(4_000)
    assert few > 0
    assert many <= 4.5 * few

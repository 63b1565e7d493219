"""The disk fails: the writer breaks, the supervisor reopens, and callers notice only the delay."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from mpreg.persistence import (
    Ack,
    CommitFailedError,
    CommitUnknownError,
    PersistenceRegistry,
    StorageFullError,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence.backend import CheckFound, OpenedState, check_nothing
from mpreg.testing import (
    Fault,
    FaultInjector,
    RecordingBackend,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.simulation.scenario import every_schedule, make_config


@define(eq=False)
class Server:
    """A registry on a disk that fails when it is told to."""

    restarts_max: int = 8
    disk: SimulatedDisk = field(factory=SimulatedDisk)
    faults: FaultInjector = field(factory=FaultInjector)
    registry: PersistenceRegistry = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.registry = PersistenceRegistry(
            make_config(group_batches_max=2, restarts_max=self.restarts_max),
            backend=SimulatedBackend(self.disk, self.faults),
        )


@pytest.mark.parametrize("fault", [Fault.COMMIT_LOST, Fault.COMMIT_UNTOLD])
@pytest.mark.parametrize("times", [1, 3])
def test_the_sequence_on_disk_decides_and_every_batch_is_there_once_and_in_order(
    fault: Fault, times: int
) -> None:
    async def scenario(simulation: Simulation) -> None:
        server = Server()
        async with server.registry as registry:
            log = registry.log_store("log")
            server.faults.order(fault, times)
            acks = [log.append_nowait(b"%d" % number) for number in range(7)]
            assert [await ack for ack in acks] == list(range(7))
            found = [int(record.data) async for record in log.read_range()]
            stats = await registry.stats()
        assert found == list(range(7))
        assert stats.writer_restarts == times
        assert stats.commit_sequence == stats.commits == server.disk.sequence == 4

    every_schedule(scenario)()


@every_schedule
async def test_a_condition_is_not_held_against_the_group_s_own_first_try(
    simulation: Simulation,
) -> None:
    """Committed, and not told: submitted again, ``expected_version=0`` would find itself."""
    server = Server()
    async with server.registry as registry:
        store = registry.key_value_store("n")
        server.faults.order(Fault.COMMIT_UNTOLD)
        assert await store.put("key", b"", expected_version=0) == 1
        assert await store.put("key", b"", expected_version=1) == 2


@every_schedule
async def test_a_store_that_opens_only_at_the_third_try_costs_nothing_but_time(
    simulation: Simulation,
) -> None:
    server = Server()
    async with server.registry as registry:
        server.faults.order(Fault.COMMIT_LOST)
        server.faults.order(Fault.CLOSE_FAILS)
        server.faults.order(Fault.OPEN_FAILS, times=2)
        started = anyio.current_time()
        assert await registry.log_store("log").append(b"") == 0
        assert anyio.current_time() > started


@every_schedule
async def test_too_many_failures_end_the_registry_and_all_are_told_the_first_cause(
    simulation: Simulation,
) -> None:
    server = Server(restarts_max=3)
    acks: list[Ack[int]] = []

    async def serve() -> None:
        async with server.registry as registry:
            log = registry.log_store("log")
            server.faults.order(Fault.COMMIT_UNTOLD)
            server.faults.order(Fault.OPEN_FAILS, times=100)
            acks.extend(log.append_nowait(b"%d" % number) for number in range(5))
            await anyio.sleep_forever()

    with pytest.raises(StorageIOError, match="the fsync failed") as caught:
        await serve()
    kinds = []
    for ack in acks:
        with pytest.raises((CommitUnknownError, WriterStoppedError)) as answer:
            await ack
        kinds.append(answer.type)
        assert answer.value.__cause__ is caught.value
    # Two batches to a group: the first group was in flight.
    assert kinds == [CommitUnknownError] * 2 + [WriterStoppedError] * 3


@every_schedule
async def test_the_nursery_of_a_server_gets_the_first_cause(simulation: Simulation) -> None:
    server = Server(restarts_max=0)

    async def serve() -> None:
        async with anyio.create_task_group() as nursery:
            registry = await nursery.start(server.registry.serve)
            server.faults.order(Fault.COMMIT_LOST)
            registry.log_store("log").append_nowait(b"")
            await anyio.sleep_forever()

    with pytest.raises(ExceptionGroup) as caught:
        await serve()
    (cause,) = caught.value.exceptions
    assert isinstance(cause, StorageIOError)


@every_schedule
async def test_a_full_disk_fails_writes_and_not_reads_until_there_is_room(
    simulation: Simulation,
) -> None:
    server = Server()
    async with server.registry as registry:
        store = registry.key_value_store("n")
        await store.put("key", b"1")
        server.disk.full = True
        acks = [store.put_nowait("key", b"2") for _ in range(5)]
        for ack in acks:
            with pytest.raises(StorageFullError):
                await ack
        entry = await store.get("key")
        assert entry is not None
        assert entry.value == b"1"
        server.disk.full = False
        assert await store.put("key", b"3") == 2
        stats = await registry.stats()
        assert (stats.failed, stats.writer_restarts) == (5, 0)


@every_schedule
async def test_a_group_that_was_rolled_back_does_not_touch_the_next(
    simulation: Simulation,
) -> None:
    server = Server()
    async with server.registry as registry:
        log = registry.log_store("log")
        server.faults.order(Fault.ROLLED_BACK)
        acks = [log.append_nowait(b"%d" % number) for number in range(4)]
        for ack in acks[:2]:
            with pytest.raises(CommitFailedError):
                await ack
        assert [await ack for ack in acks[2:]] == [0, 1]


@every_schedule
async def test_a_read_that_fails_is_read_again(simulation: Simulation) -> None:
    server = Server()
    async with server.registry as registry:
        store = registry.key_value_store("n")
        await store.put("key", b"1")
        server.faults.order(Fault.READ_FAILS, times=2)
        entry = await store.get("key")
        assert entry is not None
        assert (await registry.stats()).reader_restarts == 2


@every_schedule
async def test_calls_reach_the_backend_in_the_order_of_the_contract(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        ack = registry.log_store("log").append_nowait(b"")
        await anyio.wait_all_tasks_blocked()
        later = [registry.log_store("log").append_nowait(b"") for _ in range(3)]
        backend.held.finish()
        await ack
        await anyio.wait_all_tasks_blocked()
        backend.held.finish()
        assert [await ack for ack in later] == [1, 2, 3]
    assert backend.is_idle
    assert backend.take_calls() == ["open", "commit 1: 1 batches", "commit 2: 3 batches", "close"]


class FullAtOpening(SimulatedBackend):
    """No room to open, while told so."""

    full = False

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        if self.full:
            await anyio.lowlevel.checkpoint()
            raise StorageFullError("simulated: no room to open the store")
        return await super().open(check)


@pytest.mark.parametrize("fault", [Fault.COMMIT_LOST, Fault.COMMIT_UNTOLD])
def test_a_disk_full_at_reopening_is_waited_out_and_writes_are_refused_meanwhile(
    fault: Fault,
) -> None:
    async def scenario(simulation: Simulation) -> None:
        disk, faults = SimulatedDisk(), FaultInjector()
        backend = FullAtOpening(disk, faults)
        settings = make_config(restarts_max=1, restart_window_seconds=1e9)
        async with PersistenceRegistry(settings, backend=backend) as registry:
            log = registry.log_store("log")
            faults.order(fault)
            backend.full = True
            in_doubt = log.append_nowait(b"in doubt")
            await anyio.sleep(1_000)
            for _ in range(3):
                with anyio.fail_after(1_000), pytest.raises(StorageFullError, match="no room"):
                    await log.append(b"refused")
            assert not in_doubt.done, "it may be on the disk: nobody can tell before it opens"
            stats = await registry.stats()
            assert stats.failed == 3
            backend.full = False
            assert await in_doubt == 0
            assert await log.append(b"after") == 1
            found = [record.data async for record in log.read_range()]
        assert found == [b"in doubt", b"after"]
        assert disk.complaints == []

    every_schedule(scenario)()

"""Full disks, failed commits, closed registries: what is told, and that it passes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Any

import anyio
import pytest

from mpreg.persistence import (
    CommitFailedError,
    MpregError,
    PersistenceError,
    PersistenceRegistry,
    StorageFullError,
    WriterStoppedError,
)
from mpreg.queues import (
    DeliveryGuarantee,
    LeaseLostError,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueDeletedError,
    QueueFullError,
    QueueNotFoundError,
    QueueType,
)
from mpreg.testing import (
    Fault,
    FaultInjector,
    FaultPlan,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.integration.queues.support import (
    GatedBackend,
    finished,
    open_queue,
    open_queues,
    open_simulated,
    payloads,
    take,
    until,
    virtual,
)
from tests.integration.support import config

pytestmark = pytest.mark.anyio


async def test_on_a_full_disk_sends_fail_nothing_is_changed_and_work_goes_on_with_room(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    settings = QueueConfiguration(max_size=4, queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings, backend=backend) as jobs:
        await jobs.send(0)
        before = jobs.statistics()
        await backend.fill_up()
        large = bytes(1_000_000)
        for call in (
            lambda: jobs.send(large),
            lambda: jobs.send(large, priority=9),
            lambda: jobs.send(large, deduplication_id="a"),
            lambda: jobs.send_many([1, large]),
        ):
            with pytest.raises(StorageFullError):
                await call()
        assert jobs.statistics() == before
        # What fits in the pages there are goes on.
        assert await finished(jobs, 1) == [0]
        await backend.make_room()
        await jobs.send_many([1, 2, 3])
        await jobs.send(4, priority=9, deduplication_id="a")
        assert await finished(jobs, 4) == [4, 1, 2, 3]
        assert jobs.statistics().size == 0


async def each_refused(faults: FaultInjector, call: Callable[[], Awaitable[object]]) -> None:
    faults.order(Fault.ROLLED_BACK)
    with pytest.raises(CommitFailedError):
        await call()


async def test_whatever_fails_to_be_written_has_not_happened_and_can_be_done_again() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (_, queues):
        settings = QueueConfiguration(max_deliveries=2, max_size=10)
        await each_refused(faults, lambda: queues.create_queue("jobs", settings))
        with pytest.raises(QueueNotFoundError):
            await queues.get_queue("jobs")
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send_many([0, 1])

        async def unchanged(call: Callable[[], Awaitable[object]]) -> None:
            before = jobs.statistics()
            await each_refused(faults, call)
            assert jobs.statistics() == before

        await unchanged(lambda: jobs.send("x"))
        await unchanged(lambda: jobs.send("x", deduplication_id="a"))
        await unchanged(lambda: jobs.send_many(range(8)))
        await unchanged(lambda: jobs.subscription("audit"))
        await unchanged(lambda: jobs.receive())
        message = await take(jobs)
        assert (message.payload, message.attempt) == (0, 1)
        await unchanged(message.ack)
        await unchanged(lambda: message.nack(0, "no"))
        await message.nack(0, "first")
        message = await take(jobs)
        assert message.attempt == 2
        await unchanged(lambda: message.nack(0, "the last one"))
        await message.nack(0, "second")
        (letter,) = await jobs.dead_letters()
        assert letter.last_error == "second"
        await unchanged(jobs.redrive)
        await unchanged(jobs.purge_dead_letters)
        await unchanged(jobs.purge)
        assert await jobs.redrive() == 1
        await jobs.subscription("audit")
        await unchanged(lambda: jobs.subscription("audit", "a.#"))
        await unchanged(lambda: jobs.delete_subscription("audit"))
        larger = QueueConfiguration(max_deliveries=2, max_size=11)
        await unchanged(lambda: queues.create_queue("jobs", larger))
        assert jobs.configuration == settings
        await jobs.send_many(range(8))
        await unchanged(lambda: queues.delete_queue("jobs"))
        assert await queues.get_queue("jobs") is jobs
        assert payloads(await jobs.receive_many(10)) == [1, 0, *range(8)]
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.get_queue("jobs")
        assert jobs.configuration == settings
        assert set(jobs.statistics().subscriptions) == {"default", "audit"}
        assert jobs.statistics().size == 10


def test_a_lease_that_ended_while_its_ack_failed_is_over() -> None:
    faults = FaultInjector()

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        await jobs.send("x")
        message = await take(jobs)
        await message.extend(60.0)
        with pytest.raises(CommitFailedError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await message.ack(transaction=transaction)
                assert await jobs.receive(wait_seconds=180.0) is None
                faults.order(Fault.ROLLED_BACK)
        assert (await take(jobs, 1.0)).attempt == 2
        with pytest.raises(LeaseLostError):
            await message.ack()

    virtual(story, SimulatedBackend(SimulatedDisk(), faults))


def test_upkeep_that_fails_is_tried_again() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(max_deliveries=1, lease_seconds=60.0)
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send("x")
        await take(jobs)
        faults.order(Fault.ROLLED_BACK)
        await anyio.sleep(60.5)
        assert jobs.statistics().dead == 0
        await anyio.sleep(60.0)
        assert jobs.statistics().dead == 1
        assert payloads(await jobs.dead_letters()) == ["x"]

    async def after_a_restart(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.get_queue("jobs")
        assert payloads(await jobs.dead_letters()) == ["x"]

    virtual(story, SimulatedBackend(disk, faults))
    virtual(after_a_restart, SimulatedBackend(disk, faults))


@pytest.mark.parametrize("fault", [Fault.COMMIT_LOST, Fault.COMMIT_UNTOLD])
async def test_a_writer_that_is_started_again_answers_as_if_nothing_had_been(
    fault: Fault,
) -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        for number in range(2):
            faults.order(fault)
            await jobs.send(number)
            faults.order(fault)
            message = await take(jobs)
            assert (message.payload, message.attempt) == (number, 1)
            faults.order(fault)
            await message.ack()
        assert jobs.statistics().acknowledged == 2
        assert (await registry.stats()).writer_restarts > 0
    async with open_simulated(disk, faults) as (_, queues):
        assert (await queues.get_queue("jobs")).statistics().size == 0
    assert disk.complaints == []


async def waiting(jobs: MessageQueue, full: MessageQueue) -> list[Callable[[], Any]]:
    audit = await jobs.subscription("audit")
    return [
        jobs.receive,
        lambda: jobs.receive(wait_seconds=10_000.0),
        lambda: jobs.receive_many(5),
        audit.receive,
        jobs.consume(prefetch=4).__anext__,
        lambda: full.send("y", wait_seconds=None),
        lambda: full.send("y", deduplication_id="y", wait_seconds=10_000.0),
        lambda: full.send_many(["y"], wait_seconds=None),
    ]


async def test_a_registry_that_closes_lets_nobody_wait_for_ever(data_dir: Path) -> None:
    outcomes: list[MpregError] = []

    async def wait(call: Callable[[], Any]) -> None:
        with pytest.raises(WriterStoppedError) as caught:
            await call()
        outcomes.append(caught.value)

    with anyio.fail_after(60):
        async with (
            anyio.create_task_group() as task_group,
            open_queues(data_dir) as (_, queues),
        ):
            jobs = await queues.create_queue("jobs")
            full = await queues.create_queue("full", QueueConfiguration(max_size=1))
            await full.send("x")
            calls = await waiting(jobs, full)
            for call in calls:
                task_group.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()
    assert len(set(map(id, outcomes))) == len(calls)
    for call in [*calls, lambda: jobs.send("x"), lambda: jobs.subscription("new"), jobs.purge]:
        with anyio.fail_after(60), pytest.raises(WriterStoppedError):
            await call()


async def test_a_writer_that_is_given_up_lets_nobody_wait_for_ever() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    outcomes: list[PersistenceError] = []

    async def wait(call: Callable[[], Any]) -> None:
        with pytest.raises(PersistenceError) as caught:
            await call()
        outcomes.append(caught.value)

    calls: list[Callable[[], Any]] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as task_group:
            with pytest.raises(PersistenceError):  # noqa: PT012
                async with open_simulated(disk, faults) as (_, queues):
                    jobs = await queues.create_queue("jobs")
                    full = await queues.create_queue("full", QueueConfiguration(max_size=1))
                    await full.send("x")
                    calls += await waiting(jobs, full)
                    for call in calls:
                        task_group.start_soon(wait, call)
                    await anyio.wait_all_tasks_blocked()
                    faults.order(Fault.COMMIT_LOST)
                    faults.order(Fault.OPEN_FAILS, 100)
                    await jobs.send("never")
    assert len(outcomes) == len(calls)


async def test_a_registry_that_is_not_open_has_no_queues(data_dir: Path) -> None:
    registry = PersistenceRegistry(config(data_dir))
    queues = MessageQueueManager(registry)
    for call in (
        lambda: queues.create_queue("jobs"),
        lambda: queues.get_queue("jobs"),
        lambda: queues.delete_queue("jobs"),
        lambda: queues.queue_names(),
    ):
        with pytest.raises(PersistenceError):
            await call()
    async with registry:
        await (await queues.create_queue("jobs")).send("x")


async def test_closing_with_everything_under_way_loses_nothing_that_was_told(
    data_dir: Path,
) -> None:
    sent: list[int] = []
    done: list[int] = []

    async def produce(jobs: MessageQueue, first: int) -> None:
        with pytest.raises(WriterStoppedError):  # noqa: PT012
            for number in range(first, first + 100_000):
                await jobs.send(number)
                sent.append(number)

    async def consume(jobs: MessageQueue) -> None:
        with pytest.raises(WriterStoppedError):  # noqa: PT012
            async for message in jobs.consume(prefetch=4):
                await message.ack()
                done.append(message.payload)

    async with anyio.create_task_group() as task_group, open_queue(data_dir) as jobs:
        for first in (0, 1_000_000):
            task_group.start_soon(produce, jobs, first)
            task_group.start_soon(consume, jobs)
        await until(lambda: len(done) > 20)
    assert len(done) == len(set(done))
    async with open_queue(data_dir) as jobs:
        left = payloads(await jobs.receive_many(10_000, wait_seconds=0))
        assert not set(left) & set(done)
        assert set(sent) <= set(left) | set(done)


@pytest.mark.parametrize("seed", range(3))
async def test_on_a_bad_disk_every_message_is_worked_on(seed: int) -> None:
    plan = FaultPlan(
        probabilities={Fault.ROLLED_BACK: 0.2, Fault.COMMIT_LOST: 0.02, Fault.COMMIT_UNTOLD: 0.02}
    )
    disk = SimulatedDisk(Random(seed))
    faults = FaultInjector(plan, Random(seed))
    done: set[int] = set()

    async with open_simulated(disk, faults) as (_, queues):

        async def insist(call: Callable[[], Awaitable[Any]]) -> Any:
            while True:
                try:
                    return await call()
                except CommitFailedError:
                    pass

        settings = QueueConfiguration(
            max_size=5, max_deliveries=1_000, delivery_guarantee=DeliveryGuarantee.AT_LEAST_ONCE
        )
        jobs = await insist(lambda: queues.create_queue("jobs", settings))

        async def produce() -> None:
            for number in range(40):
                await insist(
                    lambda number=number: jobs.send(  # type: ignore[misc]
                        number, deduplication_id=str(number), wait_seconds=None
                    )
                )

        async def consume() -> None:
            while len(done) < 40:
                message = await insist(lambda: jobs.receive(wait_seconds=0.05))
                if message is not None:
                    await insist(message.ack)
                    assert message.payload not in done
                    done.add(message.payload)

        with anyio.fail_after(60):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(produce)
                task_group.start_soon(produce)
                task_group.start_soon(consume)
                task_group.start_soon(consume)
        faults.heal()
    assert disk.complaints == []
    async with open_simulated(disk, faults) as (_, queues):
        statistics = (await queues.get_queue("jobs")).statistics()
        assert (statistics.size, statistics.sent, statistics.acknowledged) == (0, 40, 40)


async def test_errors_name_the_queue_and_say_what_is_true_and_what_to_do(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=2))
        audit = await jobs.subscription("audit")
        await jobs.send_many([0, 1])
        with pytest.raises(QueueFullError, match=r"'jobs'.*nothing was sent: send it later"):
            await jobs.send(2)
        with pytest.raises(QueueFullError, match=r"'jobs'.*more than the bounds ever let in"):
            await jobs.send_many([2, 3, 4], wait_seconds=None)
        message = await take(jobs)
        await message.ack()
        with pytest.raises(LeaseLostError, match=r"'jobs'.*offset 0.*nothing was changed: drop"):
            await message.ack()
        await jobs.delete_subscription("audit")
        with pytest.raises(QueueNotFoundError, match=r"'audit' of queue 'jobs'.*make it anew"):
            await audit.receive(wait_seconds=0)
        await queues.delete_queue("jobs")
        with pytest.raises(QueueDeletedError, match=r"'jobs' was deleted.*make it anew"):
            await jobs.send(2)
        with pytest.raises(QueueNotFoundError, match=r"no queue 'jobs'; .*create_queue"):
            await queues.get_queue("jobs")

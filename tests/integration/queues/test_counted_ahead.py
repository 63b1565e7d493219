"""Attempts that go to disk with the acknowledgment of the message before."""

from __future__ import annotations

from collections.abc import Awaitable
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceRegistry, StorageFullError
from mpreg.queues import (
    DeliveryGuarantee,
    LeaseLostError,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    GatedBackend,
    copied_while_open,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    virtual,
)

pytestmark = pytest.mark.anyio


async def commits(registry: PersistenceRegistry) -> int:
    return (await registry.stats()).commits


async def test_who_has_acknowledged_a_message_gets_the_next_one_without_a_write(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(4))
        first = await take(jobs)
        before = await commits(registry)
        await first.ack()
        assert await commits(registry) == before + 1
        second = await take(jobs)
        assert (second.payload, second.attempt) == (1, 1)
        assert await commits(registry) == before + 1
        await second.ack()
        assert await commits(registry) == before + 2
        assert await finished(jobs, 2) == [2, 3]
        assert jobs.statistics().acknowledged == 4


@pytest.mark.parametrize(
    "configuration",
    [
        QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST),
        QueueConfiguration(delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=2),
    ],
    ids=["broadcast", "quorum"],
)
async def test_so_does_each_subscription(data_dir: Path, configuration: QueueConfiguration) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", configuration)
        audit = await jobs.subscription("audit", "paid.#")
        bills = await jobs.subscription("bills")
        for topic in ("paid.a", "paid.b", "open.c"):
            await jobs.send(topic, topic=topic)
        await (await take(audit)).ack()
        await (await take(bills)).ack()
        before = await commits(registry)
        assert (await take(audit)).payload == (await take(bills)).payload == "paid.b"
        assert await commits(registry) == before


async def test_who_takes_many_gets_as_many_with_the_acknowledgment_of_all(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(11))
        messages = await jobs.receive_many(4)
        before = await commits(registry)
        await jobs.ack(messages)
        messages = await jobs.receive_many(4)
        assert payloads(messages) == [4, 5, 6, 7]
        assert await commits(registry) == before + 1
        # One after the other is as good: the last one brings them.
        for message in messages:
            await message.ack()
        assert await commits(registry) == before + 5
        assert payloads(await jobs.receive_many(4)) == [8, 9, 10]
        assert await commits(registry) == before + 5


async def test_a_loop_goes_on_without_a_write_of_its_own(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(9))
        before = await commits(registry)
        got = []
        async for message in jobs.consume(prefetch=3):
            got.append(message.payload)
            await message.ack()
            if len(got) == 9:
                break
        assert got == list(range(9))
        assert await commits(registry) == before + 10


async def test_what_is_counted_ahead_is_nobodys(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(3))
        await finished(jobs, 1)
        counts = jobs.statistics()
        assert (counts.pending, counts.in_flight, counts.redelivered) == (2, 0, 0)
        got: list[Message] = []

        async def receive() -> None:
            got.append(await take(jobs))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive)
            task_group.start_soon(receive)
        assert sorted(payloads(got)) == [1, 2]
        assert {message.attempt for message in got} == {1}
        counts = jobs.statistics()
        assert (counts.pending, counts.in_flight, counts.redelivered) == (0, 2, 0)
        for message in got:
            await message.ack()


async def test_after_a_clean_stop_it_does_not_count_and_after_a_kill_it_does(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(3))
        await finished(jobs, 1)
        copy = copied_while_open(data_dir)
    for directory, attempt in ((data_dir, 1), (copy, 2)):
        async with open_queue(directory) as jobs:
            message = await take(jobs)
            assert (message.payload, message.attempt) == (1, attempt)
            assert (await take(jobs)).attempt == 1


async def test_it_is_counted_again_where_its_consumer_dies(data_dir: Path) -> None:
    """Handed out without a write, and a kill: the attempt that was counted ahead is this one."""
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(2))
        await finished(jobs, 1)
        assert (await take(jobs)).attempt == 1
        copy = copied_while_open(data_dir)
    async with open_queue(copy) as jobs:
        assert (await take(jobs)).attempt == 2


async def test_one_that_was_not_seen_after_all_is_given_back_uncounted(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=2)) as jobs:
        await jobs.send_many(range(3))
        await finished(jobs, 1)
        for _ in range(5):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await jobs.receive()
            assert scope.cancelled_caught
        async with jobs.consume(prefetch=2) as consumer:
            assert (await anext(consumer)).payload == 1
        second = await take(jobs)
        assert (second.payload, second.attempt) == (2, 1)


async def test_the_last_attempt_is_never_counted_ahead(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=1))
        await jobs.send_many(range(2))
        await finished(jobs, 1)
        before = await commits(registry)
        copy = copied_while_open(data_dir)
        await take(jobs)
        assert await commits(registry) == before + 1
    async with open_queue(copy) as jobs:
        assert (await take(jobs)).payload == 1


async def test_fewer_deliveries_than_before_do_not_kill_what_nobody_has_seen(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=2))
        await jobs.send_many(range(2))
        await finished(jobs, 1)
        await queues.create_queue("jobs", QueueConfiguration(max_deliveries=1))
        message = await take(jobs)
        assert (message.payload, message.attempt) == (1, 1)
        await message.nack()
        assert jobs.statistics().dead == 1


async def test_what_is_more_urgent_comes_first(data_dir: Path) -> None:
    configuration = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, configuration) as jobs:
        await jobs.send_many(["first", "second"])
        await finished(jobs, 1)
        await jobs.send("urgent", priority=9)
        assert await finished(jobs, 2) == ["urgent", "second"]


async def test_another_pattern_counts_for_what_nobody_has_seen(data_dir: Path) -> None:
    configuration = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
    async with open_queue(data_dir, configuration) as jobs:
        audit = await jobs.subscription("audit", "#")
        for topic in ("paid", "open", "paid"):
            await jobs.send(topic, topic=topic)
        await finished(audit, 1)
        audit = await jobs.subscription("audit", "paid")
        assert await finished(audit, 1) == ["paid"]
        assert jobs.statistics().size == 0


async def test_who_acknowledges_in_another_task_keeps_the_order(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many(range(6))
        first, second = await take(jobs), await take(jobs)
        backend.close_gate()
        got: list[Message] = []

        async def receive(count: int, wait_seconds: float | None) -> None:
            got.extend(await jobs.receive_many(count, wait_seconds))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(first.ack)
            await backend.reached()
            task_group.start_soon(second.ack)
            await anyio.wait_all_tasks_blocked()
            # 2 is being counted ahead.
            task_group.start_soon(receive, 1, 0.0)
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(receive, 3, None)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        while len(got) < 4:
            await receive(1, None)
        assert payloads(got) == [2, 3, 4, 5]
        assert {message.attempt for message in got} == {1}


@pytest.mark.parametrize("waits", [False, True])
async def test_where_it_is_rolled_back_the_message_comes_all_the_same(
    data_dir: Path, waits: bool
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many(range(3))
        first = await take(jobs)
        await backend.fill_up()
        backend.close_gate()
        got: list[Message] = []

        async def refused(write: Awaitable[object]) -> None:
            with pytest.raises(StorageFullError):
                await write

        async def receive() -> None:
            got.append(await take(jobs))

        async with anyio.create_task_group() as task_group:
            # In one group, for which there is no room.
            task_group.start_soon(refused, first.ack())
            task_group.start_soon(refused, jobs.send(bytes(100_000)))
            await backend.reached()
            if waits:
                task_group.start_soon(receive)
                await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        if not waits:
            await receive()
        assert [(one.payload, one.attempt) for one in got] == [(1, 1)]
        await first.ack()
        assert await finished(jobs, 1) == [2]


async def test_what_was_purged_meanwhile_is_gone(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many(range(3))
        first = await take(jobs)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:

            async def purge() -> None:
                assert await jobs.purge() == 3

            task_group.start_soon(purge)
            await backend.reached()
            task_group.start_soon(first.ack)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert jobs.statistics().size == 0
        assert await jobs.receive(0.0) is None
        await jobs.send("new")
        assert (await take(jobs)).payload == "new"


async def test_a_subscription_that_is_deleted_meanwhile_takes_it_along(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    configuration = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
    async with open_queue(data_dir, configuration, backend=backend) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send_many(range(3))
        first = await take(audit)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(first.ack)
            await backend.reached()
            task_group.start_soon(jobs.delete_subscription, "audit")
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        with pytest.raises(LeaseLostError):
            await first.ack()
        again = await jobs.subscription("audit", start="latest")
        await jobs.send("new")
        assert (await take(again)).payload == "new"


def test_what_expires_or_is_delayed_is_not_counted_ahead() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs: MessageQueue = await queues.create_queue("jobs")
        await jobs.send("first")
        await jobs.send("expires", ttl_seconds=10.0)
        await jobs.send("delayed", delay_seconds=20.0)
        await jobs.send("last")
        await finished(jobs, 1)
        # One that it was handed out, one that it was acknowledged.
        assert await jobs._core.storage.events.next_offset() == 2
        await anyio.sleep(15.0)
        assert await finished(jobs, 2) == ["last", "delayed"]

    virtual(story)

"""What is counted ahead is bounded: by bytes, by number, and by the deliveries of a message."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import (
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
)
from mpreg.queues.ahead import UNASKED_MAX
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    GatedBackend,
    copied_while_open,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    until,
    virtual,
)

pytestmark = pytest.mark.anyio

#: With what a message has beside it, two are more than 1,500 bytes and one is less.
LARGE = b"x" * 1_000


def seen(messages: list[Message]) -> list[int]:
    return [message.payload[0] for message in messages]


async def send(queue: MessageQueue, count: int) -> None:
    await queue.send_many([[number, LARGE] for number in range(count)])


def counted(queue: MessageQueue) -> int:
    """How many are counted that nobody has asked for."""
    (subscription,) = queue._core.state.subscriptions.values()
    return sum(one.is_counted for one in subscription.deliveries())


async def test_a_bound_in_bytes_holds_for_those_counted_ahead(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await send(jobs, 9)
        await jobs.ack(await jobs.receive_many(4))
        before = (await registry.stats()).commits
        some = await jobs.receive_many(10, bytes_max=1_500)
        assert seen(some) == [4, 5]
        counts = jobs.statistics()
        assert (counts.in_flight, counts.pending) == (2, 3)
        assert seen(await jobs.receive_many(10, bytes_max=1)) == [6]
        assert (await registry.stats()).commits == before
        # One that is counted and one that is not.
        rest = await jobs.receive_many(10, bytes_max=1_500)
        assert seen(rest) == [7, 8]
        assert (await registry.stats()).commits == before + 1
        counts = jobs.statistics()
        assert (counts.in_flight, counts.pending) == (5, 0)
        assert {one.attempt for one in some + rest} == {1}


async def test_who_took_few_for_their_size_has_as_few_counted_ahead(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await send(jobs, 9)
        await jobs.ack(await jobs.receive_many(100, bytes_max=1_500))
        assert counted(jobs) == 2


async def test_a_receipt_brings_the_next_one_as_its_message_does(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(3))
        await (await take(jobs)).receipt().ack()
        assert counted(jobs) == 1
        await jobs.ack([(await take(jobs)).receipt()])
        assert counted(jobs) == 1


@pytest.mark.parametrize("limits", [(1_500, None), (1, 3_000, None), (1, 1_500)])
def test_consumers_with_bounds_of_their_own_get_each_message_once(
    limits: tuple[int | None, ...],
) -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(lease_seconds=3_600)
        jobs = await queues.create_queue("jobs", settings)
        taken: list[int] = []

        async def work(bytes_max: int | None, count: int) -> None:
            while True:
                messages = await jobs.receive_many(count, None, bytes_max=bytes_max)
                if bytes_max is not None:
                    assert (len(messages) - 1) * len(LARGE) < bytes_max
                assert {one.attempt for one in messages} == {1}
                taken.extend(seen(messages))
                # What is not returned to anybody must not be with anybody.
                messages = [one for one in messages if one.payload[0] != 7]
                if len(messages) % 2:
                    await jobs.ack(messages)
                else:
                    async with anyio.create_task_group() as acknowledging:
                        for message in messages:
                            acknowledging.start_soon(message.ack)

        async with anyio.create_task_group() as task_group:
            for number, bytes_max in enumerate(limits * 2):
                task_group.start_soon(work, bytes_max, 1 + number % 3)
            for _ in range(3):
                await send(jobs, 10)
                await anyio.sleep(1.0)
            with anyio.fail_after(3_600):
                while jobs.statistics().acknowledged < 27:
                    await anyio.sleep(1.0)
            task_group.cancel_scope.cancel()
        assert sorted(taken) == sorted([*range(10)] * 3)
        counts = jobs.statistics()
        assert (counts.in_flight, counts.size, counts.redelivered) == (3, 3, 0)

    for seed in range(40):
        virtual(story, seed=seed)


async def test_who_is_served_less_than_was_taken_leaves_the_rest_counted(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await send(jobs, 9)
        first = await jobs.receive_many(4)
        got: list[list[int]] = []

        async def receive(count: int, bytes_max: int | None) -> None:
            got.append(seen(await jobs.receive_many(count, None, bytes_max=bytes_max)))

        async with anyio.create_task_group() as task_group:
            backend.close_gate()
            task_group.start_soon(jobs.ack, first)
            await backend.reached()
            for bytes_max in (1, None, 1_500):
                task_group.start_soon(receive, 2, bytes_max)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        taken = sorted(itertools.chain(*got))
        assert taken == list(range(4, 4 + len(taken)))
        assert jobs.statistics().in_flight == len(taken)
        assert {len(one) for one in got} == {1, 2}


async def test_retries_do_not_pile_up_what_is_counted(data_dir: Path) -> None:
    """Who takes what was given back asks for none of those that are counted."""
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=1_000)) as jobs:
        await jobs.send_many(range(1_000))
        for _ in range(40):
            messages = await jobs.receive_many(10)
            for message in messages[:-1]:
                await message.nack(0)
            await messages[-1].ack()
            assert counted(jobs) <= UNASKED_MAX
        assert counted(jobs) > UNASKED_MAX // 2


async def test_who_loops_over_many_messages_starves_nobody(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(2_000))
        others = 0
        took: list[int] = []

        async def loop() -> None:
            nonlocal others
            while True:
                await (await take(jobs)).ack()
                others += 1

        async with anyio.create_task_group() as task_group:
            for _ in range(3):
                task_group.start_soon(loop)
            await until(lambda: others > 30)
            for _ in range(20):
                before = others
                message = await take(jobs)
                took.append(others - before)
                await message.ack()
            task_group.cancel_scope.cancel()
        # Each of the others had its turn, and not many.
        assert max(took) <= 30


async def test_a_message_that_kills_its_process_is_handed_out_as_often_as_it_may(
    data_dir: Path,
) -> None:
    """The second one, counted ahead with the acknowledgment of the first, is taken and a killer."""
    settings = QueueConfiguration(max_deliveries=3)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(["first", "killer", "last"])
        await finished(jobs, 1)
        killer = await take(jobs)
        assert (killer.payload, killer.attempt) == ("killer", 1)
        directory = copied_while_open(data_dir)
    for attempt in (2, 3):
        async with open_queue(directory) as jobs:
            killer = await take(jobs)
            assert (killer.payload, killer.attempt) == ("killer", attempt)
            directory = copied_while_open(directory)
    async with open_queue(directory) as jobs:
        last = await take(jobs)
        assert (last.payload, last.attempt) == ("last", 1)
        await until(lambda: jobs.statistics().dead == 1)
        (letter,) = await jobs.dead_letters()
        assert (letter.payload, letter.attempts) == ("killer", 3)


async def test_kills_cost_a_message_behind_one_attempt_at_most(data_dir: Path) -> None:
    """It is counted ahead once and never again, however often what is before it kills."""
    settings = QueueConfiguration(max_deliveries=3)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(["first", "killer", "behind"])
        messages = await jobs.receive_many(2)
        # The last of two: so "behind" is counted.
        await messages[0].nack(0)
        await messages[1].ack()
        assert counted(jobs) == 1
        directory = copied_while_open(data_dir)
    for _ in range(2):
        async with open_queue(directory) as jobs:
            assert (await take(jobs)).payload == "first"
            assert counted(jobs) == 0
            directory = copied_while_open(directory)
    async with open_queue(directory) as jobs:
        for attempt in (2, 3):
            behind = await take(jobs)
            assert (behind.payload, behind.attempt) == ("behind", attempt)
            await behind.nack(0)
        await until(lambda: jobs.statistics().dead == 2)
        assert sorted(payloads(await jobs.dead_letters())) == ["behind", "first"]


@pytest.mark.parametrize("on_its_way", [False, True])
async def test_what_would_be_the_last_attempt_from_now_on_is_forgiven(
    data_dir: Path, on_its_way: bool
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queues(data_dir, backend=backend) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=2))
        await jobs.send_many(range(2))
        first = await take(jobs)
        fewer = QueueConfiguration(max_deliveries=1)
        async with anyio.create_task_group() as task_group:
            if on_its_way:
                backend.close_gate()
                task_group.start_soon(first.ack)
                await backend.reached()
                task_group.start_soon(queues.create_queue, "jobs", fewer)
                await anyio.wait_all_tasks_blocked()
                backend.open_gate()
            else:
                await first.ack()
                await queues.create_queue("jobs", fewer)
        assert counted(jobs) == 0
        await until(lambda: not jobs._core.released)
        await jobs.purge_dead_letters()
        await jobs.send("a commit later")
        copy = copied_while_open(data_dir)
    async with open_queue(copy) as jobs:
        message = await take(jobs)
        assert (message.payload, message.attempt) == (1, 1)
        assert jobs.statistics().dead == 0


async def test_dead_letters_sent_again_come_behind_what_is_counted(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=2)) as jobs:
        await jobs.send_many(range(4))
        for _ in range(2):
            await (await take(jobs)).nack(0)
        await finished(jobs, 1)
        assert counted(jobs) == 1
        assert await jobs.redrive() == 1
        assert await finished(jobs, 3) == [2, 3, 0]
        assert jobs.statistics().size == 0


async def test_what_is_purged_or_deleted_takes_along_what_is_counted(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(9))
        await jobs.ack(await jobs.receive_many(4))
        assert counted(jobs) == 4
        assert await jobs.purge() == 5
        assert await jobs.receive(0) is None
        await jobs.send_many(["new", "newer"])
        assert await finished(jobs, 1) == ["new"]
        await queues.delete_queue("jobs")
        jobs = await queues.create_queue("jobs", QueueConfiguration(queue_type=QueueType.PRIORITY))
        await jobs.send("anew")
        message = await take(jobs)
        assert (message.payload, message.attempt) == ("anew", 1)


def test_attempts_go_up_by_one_in_every_schedule() -> None:
    """With retries, bounds and several consumers; and none dies before its last delivery."""

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=3))
        attempts: dict[Any, list[int]] = {}

        async def work(count: int) -> None:
            while True:
                for message in await jobs.receive_many(count, None, bytes_max=1_500):
                    number = message.payload[0]
                    attempts.setdefault(number, []).append(message.attempt)
                    if len(attempts[number]) <= number % 4:
                        await message.nack(0)
                    else:
                        await message.ack()

        async with anyio.create_task_group() as task_group:
            for count in (1, 2, 3):
                task_group.start_soon(work, count)
            await send(jobs, 20)
            with anyio.fail_after(3_600):
                while jobs.statistics().size:
                    await anyio.sleep(1.0)
            task_group.cancel_scope.cancel()
        for number, seen_ones in attempts.items():
            assert seen_ones == list(range(1, min(number % 4, 2) + 2))
        assert jobs.statistics().dead == 5

    for seed in range(40):
        virtual(story, seed=seed)

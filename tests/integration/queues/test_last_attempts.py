"""The last attempt of a message is its consumer's alone: one that kills its process takes none with
it that nobody has seen. And what a dead letter says of an attempt that ended without a word."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import (
    Consumer,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    PATIENCE_SECONDS,
    copied_while_open,
    open_queue,
    payloads,
    take,
    until,
    virtual,
)

pytestmark = pytest.mark.anyio


async def last_error(jobs: MessageQueue) -> str:
    await until(lambda: jobs.statistics().dead == 1)
    (letter,) = await jobs.dead_letters()
    return letter.last_error


@pytest.mark.parametrize("max_deliveries", [1, 3])
async def test_a_message_that_kills_its_process_takes_none_along(
    data_dir: Path, max_deliveries: int
) -> None:
    sent = ["poison", *(f"good {number}" for number in range(15))]
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=max_deliveries)) as jobs:
        await jobs.send_many(sent)
    for _ in range(max_deliveries):
        async with open_queue(data_dir) as jobs, jobs.consume(prefetch=16) as consumer:
            assert (await anext(consumer)).payload == "poison"
            # The process dies with all in its hands: what is known is on disk.
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        got = []
        async with jobs.consume(prefetch=16) as consumer:
            with anyio.move_on_after(PATIENCE_SECONDS):
                async for message in consumer:
                    got.append(message.payload)
                    await message.ack()
                    if len(got) == 15:
                        break
        assert got == sent[1:]
        assert await last_error(jobs) == "its process ended"
        assert payloads(await jobs.dead_letters()) == ["poison"]
        assert jobs.statistics().size == 0


async def test_those_that_have_attempts_left_are_taken_behind_a_last_one(data_dir: Path) -> None:
    settings = QueueConfiguration(max_deliveries=2, lease_seconds=1_000.0)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(range(6))
        for message in await jobs.receive_many(6, 0):
            if message.payload in (0, 3):
                await message.nack(0)
            else:
                jobs._core.settling.release([message._lease], unseen=True)  # type: ignore[list-item]
        consumer = jobs.consume(prefetch=6)
        first = await anext(consumer)
        assert (first.payload, first.attempt) == (0, 2)
        # The other last one, and what is behind it, is not held.
        assert jobs.statistics().in_flight == 3
        others = await jobs.receive_many(6, 0)
        assert [(one.payload, one.attempt) for one in others] == [(3, 2), (4, 1), (5, 1)]
        consumer.close()


async def test_who_waits_in_line_gets_a_last_one_alone_too(data_dir: Path) -> None:
    settings = QueueConfiguration(max_deliveries=1)
    got: dict[Consumer, list[Message]] = {}

    async def loop(consumer: Consumer) -> None:
        got[consumer] = []
        async for message in consumer:
            got[consumer].append(message)
            await anyio.sleep_forever()

    async with open_queue(data_dir, settings) as jobs:
        consumers = [jobs.consume(prefetch=4) for _ in range(3)]
        async with anyio.create_task_group() as tasks:
            for consumer in consumers:
                tasks.start_soon(loop, consumer)
            await until(lambda: len(jobs._core.lines["default"]._waiting) == 3)
            await jobs.send_many(range(5))
            await until(lambda: all(got.values()))
            assert sorted(one.payload for some in got.values() for one in some) == [0, 1, 2]
            assert jobs.statistics().in_flight == 3
            tasks.cancel_scope.cancel()


async def test_receive_many_takes_last_ones_together(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=1)) as jobs:
        await jobs.send_many(range(5))
        assert payloads(await jobs.receive_many(5, 0)) == list(range(5))


async def test_a_message_given_back_by_an_error_says_so(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=1)) as jobs:
        await jobs.send("x")
        consumer = jobs.consume()
        await anext(consumer)
        consumer.close(give_back_current=True)
        assert await last_error(jobs) == "its consumer gave it back"


@pytest.mark.parametrize("delay_seconds", [0.0, 10.0])
def test_a_message_given_back_without_a_word_that_has_no_attempts_left(
    delay_seconds: float,
) -> None:
    """They are fewer than they were: it was not its lease that ran out."""

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=2))
        await jobs.send("x")
        await (await take(jobs)).nack(delay_seconds)
        await queues.create_queue("jobs", QueueConfiguration(max_deliveries=1))
        assert await jobs.receive(20.0) is None
        assert await last_error(jobs) == "nobody said why"

    virtual(story)


async def test_who_receives_them_one_by_one_gets_a_last_one_only_as_the_first(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=2)) as jobs:
        await jobs.send_many(range(4))
        for message in await jobs.receive_many(2, 0):
            await message.nack(0)
        assert payloads(await jobs.receive_many(4, 0, one_by_one=True)) == [0]
        assert payloads(await jobs.receive_many(4, 0, one_by_one=True)) == [1, 2, 3]


async def test_who_waits_in_line_for_one_by_one_gets_a_last_one_alone_and_others_do_not(
    data_dir: Path,
) -> None:
    got: dict[bool, list[Message]] = {}

    async def receive(one_by_one: bool) -> None:
        got[one_by_one] = await jobs.receive_many(3, one_by_one=one_by_one)

    async with open_queue(data_dir, QueueConfiguration(max_deliveries=1)) as jobs:
        async with anyio.create_task_group() as tasks:
            for number, one_by_one in enumerate((True, False), 1):
                tasks.start_soon(receive, one_by_one)
                await until(lambda: "default" in jobs._core.lines)
                line = jobs._core.lines["default"]
                await until(lambda: len(line._waiting) == number)  # noqa: B023
            await jobs.send_many(range(6))
        assert payloads(got[True]) == [0]
        assert payloads(got[False]) == [1, 2, 3]

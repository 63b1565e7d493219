"""A loop that is closed by another task than the one that waits in it; one loop in two tasks."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.queues import Consumer, Message, MessageQueue
from tests.integration.queues.support import GatedBackend, finished, open_queue, take, until

pytestmark = pytest.mark.anyio


async def in_line(jobs: MessageQueue, count: int) -> None:
    """Return when so many wait for messages."""
    await until(lambda: len(jobs._core.lines["default"]._waiting) == count)


async def loop_over(consumer: Consumer, got: list[Message]) -> None:
    async for message in consumer:
        got.append(message)
        await message.ack()


async def assert_nobody_has_any(jobs: MessageQueue) -> None:
    assert jobs.statistics().in_flight == 0
    await jobs.send("last")
    assert await finished(jobs, jobs.statistics().size)
    assert jobs.statistics().size == 0


@pytest.mark.parametrize("prefetch", [1, 3])
async def test_who_waits_in_a_loop_that_is_closed_waits_no_longer(
    data_dir: Path, prefetch: int
) -> None:
    got: list[Message] = []
    async with open_queue(data_dir) as jobs:
        consumer = jobs.consume(prefetch)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop_over, consumer, got)
            await in_line(jobs, 1)
            consumer.close()
        assert got == []
        await jobs.send("work")
        message = await take(jobs)
        assert (message.payload, message.attempt) == ("work", 1)
        await message.ack()
        await assert_nobody_has_any(jobs)


async def test_a_closed_loop_is_over(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(3))
        async with jobs.consume(prefetch=2) as consumer:
            assert (await anext(consumer)).payload == 0
        for _ in range(2):
            with pytest.raises(StopAsyncIteration):
                await anext(consumer)
        assert [one.payload for one in await jobs.receive_many(9, 0)] == [1, 2]


async def test_others_in_line_get_what_a_closed_loop_does_not(data_dir: Path) -> None:
    got: list[Message] = []
    others: list[Message] = []
    async with open_queue(data_dir) as jobs:
        consumer, other = jobs.consume(5), jobs.consume(5)
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop_over, consumer, got)
            await in_line(jobs, 1)
            tasks.start_soon(loop_over, other, others)
            await in_line(jobs, 2)
            await jobs.send_many(range(3))
            # The first one has been called, and has not looked yet.
            consumer.close()
            await until(lambda: len(others) == 3 and jobs.statistics().size == 0)
            other.close()
        assert got == []
        assert [(one.payload, one.attempt) for one in others] == [(0, 1), (1, 1), (2, 1)]
        assert jobs.statistics().size == 0


@pytest.mark.parametrize("prefetch", [1, 3])
async def test_what_a_closed_loop_was_about_to_get_is_given_back(
    data_dir: Path, prefetch: int
) -> None:
    backend = GatedBackend(data_dir)
    got: list[Message] = []
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many(range(3))
        consumer = jobs.consume(prefetch)
        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop_over, consumer, got)
            await backend.reached()
            consumer.close()
            backend.open_gate()
        assert got == []
        found = await jobs.receive_many(3, 0)
        # Given back unseen: it counts for nothing.
        assert [(one.payload, one.attempt) for one in found] == [(0, 1), (1, 1), (2, 1)]
        await jobs.ack(found)
        await assert_nobody_has_any(jobs)


async def test_a_loop_is_for_one_task_at_a_time(data_dir: Path) -> None:
    got: list[Message] = []
    async with open_queue(data_dir) as jobs:
        consumer = jobs.consume()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(loop_over, consumer, got)
            await in_line(jobs, 1)
            with pytest.raises(anyio.BusyResourceError):
                await anext(consumer)
            await jobs.send_many([0, 1])
            await until(lambda: jobs.statistics().size == 0)
            consumer.close()
        assert [one.payload for one in got] == [0, 1]
        await assert_nobody_has_any(jobs)


async def test_one_that_was_cancelled_while_it_waited_may_be_asked_again(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        consumer = jobs.consume()
        with anyio.move_on_after(0.01):
            await anext(consumer)
        await jobs.send("x")
        assert (await anext(consumer)).payload == "x"
        consumer.close()

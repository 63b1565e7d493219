"""Whoever waits in line has looked when it joined it: what comes before that calls nobody."""

from __future__ import annotations

from typing import Any

import anyio
import anyio.abc
import pytest

from mpreg.queues import (
    MessageQueue,
    MessageQueueManager,
    QueueDeletedError,
    QueueNotFoundError,
)
from tests.simulation.queues.test_undecided import Gated, tell


async def hold_up(queues: MessageQueueManager, backend: Gated, tasks: anyio.abc.TaskGroup) -> None:
    """What is sent from now on until the gate is opened is one commit."""
    other = await queues.create_queue("other")
    backend.close_gate()
    tasks.start_soon(other.send, "first")
    await backend.reached.wait()


async def take_into(got: list[Any], queue: MessageQueue) -> None:
    message = await queue.receive()
    assert message is not None
    got.append(message.payload)


def test_who_served_another_does_not_miss_what_came_meanwhile() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        await queue.send(1)
        consumer = queue.consume()
        await anext(consumer)
        got: list[Any] = []

        async def come_second() -> None:
            # The one in line is called, and before it runs this one serves it.
            consumer.close(give_back_current=True)
            await take_into(got, queue)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_into, got, queue)
            await anyio.sleep(0.1)
            await hold_up(queues, backend, tasks)
            tasks.start_soon(come_second)
            await anyio.sleep(0.1)
            tasks.start_soon(queue.send, 2)
            await anyio.sleep(0.1)
            backend.open_gate()
            await anyio.sleep(1)
            assert sorted(got) == [1, 2]

    tell(story)


def test_who_served_another_looks_for_what_is_not_in_memory() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        await queue.send_many([1, 2])
        consumer = queue.consume(prefetch=2)
        await anext(consumer)
        got: list[Any] = []

        async def come_second() -> None:
            consumer.close(give_back_current=True)
            queue._core.bodies.pop(queue._core.storage.incarnation, (0, 1))
            await take_into(got, queue)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(take_into, got, queue)
            await anyio.sleep(0.1)
            tasks.start_soon(come_second)
            await anyio.sleep(1)
            assert sorted(got) == [1, 2]

    tell(story)


def test_who_chose_what_was_purged_meanwhile_does_not_miss_what_came_after_it() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        await queue.send_many([1, 2])
        got: list[Any] = []
        async with anyio.create_task_group() as tasks:
            await hold_up(queues, backend, tasks)
            tasks.start_soon(queue.purge)
            await anyio.sleep(0.1)
            tasks.start_soon(queue.send, 3)
            await anyio.sleep(0.1)
            tasks.start_soon(take_into, got, queue)
            await anyio.sleep(0.1)
            backend.open_gate()
            await anyio.sleep(1)
            assert got == [3]

    tell(story)


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_who_served_another_is_told_of_a_deletion_that_came_meanwhile(what: str) -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        source = await queue.subscription("audit")
        await queue.send(1)
        consumer = source.consume()
        await anext(consumer)
        told: list[type[Exception]] = []

        async def come_second() -> None:
            consumer.close(give_back_current=True)
            try:
                await source.receive()
            except (QueueDeletedError, QueueNotFoundError) as error:
                told.append(type(error))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(source.receive)
            await anyio.sleep(0.1)
            await hold_up(queues, backend, tasks)
            tasks.start_soon(come_second)
            await anyio.sleep(0.1)
            if what == "queue":
                tasks.start_soon(queues.delete_queue, "jobs")
            else:
                tasks.start_soon(queue.delete_subscription, "audit")
            await anyio.sleep(0.1)
            backend.open_gate()
            await anyio.sleep(1)
            assert told == [QueueDeletedError if what == "queue" else QueueNotFoundError]
            tasks.cancel_scope.cancel()

    tell(story)

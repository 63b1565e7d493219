"""Receiving no more than so many bytes: alone, in line with others, and who gets the rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.errors import InvalidArgumentError
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import (
    DeliveryGuarantee,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import open_queue, payloads, virtual

pytestmark = pytest.mark.anyio

#: With what a message has beside it, two are more than 1,500 bytes and one is less.
LARGE = b"x" * 1_000


def seen(messages: list[Message]) -> list[int]:
    return [message.payload[0] for message in messages]


async def send(queue: MessageQueue, count: int, **options: Any) -> None:
    await queue.send_many([[number, LARGE] for number in range(count)], **options)


async def test_no_more_are_taken_than_the_last_one_that_goes_beyond(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await send(jobs, 5)
        assert seen(await jobs.receive_many(10, 0, bytes_max=1_500)) == [0, 1]
        # One at least, however large it is.
        assert seen(await jobs.receive_many(10, 0, bytes_max=1)) == [2]
        counts = jobs.statistics()
        assert (counts.in_flight, counts.pending) == (3, 2)
        assert seen(await jobs.receive_many(10, 0)) == [3, 4]


async def test_what_is_left_keeps_its_place_and_its_attempts(data_dir: Path) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings) as jobs:
        await send(jobs, 2, priority=1)
        await send(jobs, 2, priority=9)
        for expected in ([(9, 0), (9, 1)], [(1, 0), (1, 1)]):
            messages = await jobs.receive_many(10, 0, bytes_max=1_500)
            assert [(one.priority, one.payload[0]) for one in messages] == expected
            assert {one.attempt for one in messages} == {1}


async def test_what_is_not_stored_is_bounded_as_well(data_dir: Path) -> None:
    settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
    async with open_queue(data_dir, settings) as jobs:
        await send(jobs, 3)
        assert seen(await jobs.receive_many(10, 0, bytes_max=1_500)) == [0, 1]
        assert seen(await jobs.receive_many(10, 0, bytes_max=1_500)) == [2]


@pytest.mark.parametrize("limits", [(1_500, 1_500), (1_500, None), (None, 1_500), (1, 3_000)])
def test_those_in_line_get_all_of_it_and_none_is_forgotten(
    limits: tuple[int | None, int | None],
) -> None:
    """Whoever looks, takes for the others within bounds of its own; what is over is for the next
    one, who is called for it."""

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        taken: list[int] = []

        async def take(bytes_max: int | None) -> None:
            while True:
                messages = await jobs.receive_many(3, None, bytes_max=bytes_max)
                if bytes_max is not None:
                    # Without the last one it is less.
                    assert (len(messages) - 1) * len(LARGE) < bytes_max
                taken.extend(seen(messages))
                await jobs.ack(messages)

        async with anyio.create_task_group() as task_group:
            for bytes_max in limits * 3:
                task_group.start_soon(take, bytes_max)
            await anyio.sleep(1.0)
            await send(jobs, 20)
            with anyio.fail_after(3_600):
                while len(taken) < 20:
                    await anyio.sleep(1.0)
            task_group.cancel_scope.cancel()
        assert sorted(taken) == list(range(20))
        assert jobs.statistics().in_flight == 0

    virtual(story)


def test_who_serves_others_first_and_has_no_room_left_looks_again() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        taken: list[int] = []

        async def take() -> None:
            taken.extend(seen(await jobs.receive_many(1, None, bytes_max=1)))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(take)
            await anyio.sleep(1.0)
            await send(jobs, 2)
            # In some of the schedules the one in line was called, and has not looked yet.
            with anyio.fail_after(3_600):
                await take()
        assert sorted(taken) == [0, 1]

    for seed in range(40):
        virtual(story, seed=seed)


async def test_a_bound_is_a_number_of_bytes(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        for wrong in (0, -1, 1.5, True, "1"):
            with pytest.raises(InvalidArgumentError, match="bytes_max"):
                await jobs.receive_many(1, 0, bytes_max=wrong)  # type: ignore[arg-type]
        await jobs.send(1)
        assert payloads(await jobs.receive_many(1, 0, bytes_max=1)) == [1]

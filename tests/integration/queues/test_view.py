"""A queue looked at from outside has what a restart finds."""

from __future__ import annotations

import random
from contextlib import aclosing
from pathlib import Path

import pytest

from mpreg.persistence import CorruptDataError, open_read_only
from mpreg.queues import MessageQueueManager, QueueConfiguration, QueueNotFoundError, QueueType
from mpreg.queues.view import PendingMessage, QueueView, queue_names
from tests.integration.support import registry

pytestmark = pytest.mark.anyio


async def peeked(data_dir: Path, name: str = "jobs") -> list[PendingMessage]:
    async with open_read_only(data_dir) as opened:
        view = await QueueView.open(opened, name)
        assert view.damage == []
        async with aclosing(view.messages("default")) as messages:
            return [one async for one in messages]


def ids(messages: list[PendingMessage]) -> list[str]:
    for one in messages:
        assert not isinstance(one.message, CorruptDataError)
    return [one.message.id for one in messages if not isinstance(one.message, CorruptDataError)]


@pytest.mark.parametrize("seed", range(6))
async def test_it_shows_what_a_restart_hands_out_in_the_same_order(
    data_dir: Path, seed: int
) -> None:
    random_ = random.Random(seed)
    configuration = QueueConfiguration(queue_type=QueueType.PRIORITY, lease_seconds=600.0)
    for _ in range(2):
        async with registry(data_dir) as opened:
            jobs = await MessageQueueManager(opened).create_queue("jobs", configuration)
            for _ in range(4):
                for priority in (0, 7):
                    await jobs.send_many([bytes(40)] * 150, priority=priority)
                taken = await jobs.receive_many(200)
                await jobs.ack([one for one in taken if random_.random() < 0.97])
            before = jobs.statistics()
            live = await peeked(data_dir)
            assert len(live) == before.size
        closed = await peeked(data_dir)
        assert ids(closed) == ids(live)
        async with open_read_only(data_dir) as outside:
            found = (await QueueView.open(outside, "jobs")).statistics()
            assert (found.size, found.in_flight) == (before.size, 0)
            assert found.pending == before.pending + before.in_flight
    async with registry(data_dir) as opened:
        jobs = await MessageQueueManager(opened).get_queue("jobs")
        received: list[str] = []
        while some := await jobs.receive_many(10_000, wait_seconds=0.0):
            received += [one.id for one in some]
        assert received == ids(closed)


async def test_beside_a_queue_at_work_it_is_one_state_or_another(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        jobs = await MessageQueueManager(opened).create_queue("jobs")
        async with open_read_only(data_dir) as outside:
            for number in range(12):
                await jobs.send_many(range(400))
                view = await QueueView.open(outside, "jobs")
                assert view.damage == []
                assert view.statistics().sent == 400 * (number + 1)
                await jobs.ack(await jobs.receive_many(400))
                assert (await QueueView.open(outside, "jobs")).statistics().size == 0


async def test_names_and_what_is_not_there(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        queues = MessageQueueManager(opened)
        await queues.create_queue("größer")
        await queues.create_queue("a")
        async with open_read_only(data_dir) as outside:
            assert await queue_names(outside) == ["a", "größer"]
            with pytest.raises(QueueNotFoundError):
                await QueueView.open(outside, "none")
            view = await QueueView.open(outside, "a")
            with pytest.raises(QueueNotFoundError, match="there is: 'default'"):
                async with aclosing(view.messages("none")) as messages:
                    await anext(messages)
            await queues.delete_queue("a")
            assert await queue_names(outside) == ["größer"]

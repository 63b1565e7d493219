"""Disk and memory follow what is unfinished, not what was."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.queues import Message, MessageQueue, QueueConfiguration
from mpreg.queues.core import SNAPSHOT_AFTER_CHANGES
from mpreg.queues.truncation import FINISHED_MIN
from tests.integration.queues.support import (
    copied_while_open,
    count_rows,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    until,
)

pytestmark = pytest.mark.anyio


async def push_through(jobs: MessageQueue, count: int) -> None:
    for start in range(0, count, 1_000):
        await jobs.send_many([start] * 1_000)
        await jobs.ack(await jobs.receive_many(1_000))


async def test_an_old_unfinished_message_does_not_keep_those_after_it_on_the_disk(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(lease_seconds=10_000.0)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send({"old": "message"}, topic="t", headers={"h": "1"})
        old: Message | None = await take(jobs)
        await push_through(jobs, 10_000)
        # Space is given back each time that so much has changed: at the end less than that is left.
        await until(lambda: count_rows(data_dir, "records") < SNAPSHOT_AFTER_CHANGES + FINISHED_MIN)
        assert jobs.statistics().size == 1
        assert old is not None
        assert old.payload == {"old": "message"}
        killed = copied_while_open(data_dir)
    for directory in (killed, data_dir):
        async with open_queue(directory) as jobs:
            assert jobs.statistics().size == 1
            message = await take(jobs)
            assert (message.payload, message.attempt) == ({"old": "message"}, 2)
            assert (message.topic, message.headers) == ("t", {"h": "1"})
            await message.nack(0)
            assert await finished(jobs, 1) == [{"old": "message"}]
            assert jobs.statistics().size == 0
        async with open_queue(directory) as jobs:
            assert await jobs.receive(wait_seconds=0) is None
            assert (jobs.statistics().size, jobs.statistics().sent) == (0, 10_001)


async def test_what_was_copied_out_of_its_log_is_removed_when_it_is_finished(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(lease_seconds=10_000.0)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send("old")
        old = await take(jobs)
        await push_through(jobs, 5_000)
        (lane,) = jobs._core.state.lanes.values()
        await until(lambda: lane.kept == {0})
        before = count_rows(data_dir, "entries")
        await old.ack()
        await jobs.purge()
        await until(lambda: not lane.kept)
        assert count_rows(data_dir, "entries") == before - 1


async def test_purging_gives_the_space_back(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([bytes(100)] * 5_000)
        assert jobs.statistics().bytes > 500_000
        assert await jobs.purge() == 5_000
        await until(lambda: count_rows(data_dir, "records") < 1_100)
        assert (jobs.statistics().size, jobs.statistics().bytes) == (0, 0)
        assert jobs._core.bodies.bytes == 0


async def test_a_slow_subscription_keeps_its_messages_and_only_those(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        slow = await jobs.subscription("slow")
        await push_through(jobs, 3_000)
        assert count_rows(data_dir, "records") >= 3_000
        await slow.receive_many(1)
        await jobs.delete_subscription("slow")
        await jobs.purge()
        await until(lambda: count_rows(data_dir, "records") < 1_100)


async def test_memory_follows_what_is_exceptional_and_not_what_is_pending(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        jobs._core.bodies.bytes_max = 100_000
        await jobs.send_many([bytes(1_000)] * 1_000)
        assert jobs._core.bodies.bytes <= 100_000
        (subscription,) = jobs._core.state.subscriptions.values()
        assert len(list(subscription.deliveries())) == 0
        messages = await jobs.receive_many(10)
        await messages[3].ack()
        assert len(list(subscription.deliveries())) == 9
        assert payloads(messages) == [bytes(1_000)] * 10
        taken = 10
        while taken < 1_000:
            # As many as are in memory at a time, and at least one.
            taken += len(await jobs.receive_many(10_000))
        assert taken == 1_000
        assert jobs._core.bodies.bytes <= 100_000 + 1_500


async def test_a_large_state_is_saved_less_often_than_a_small_one(data_dir: Path) -> None:
    """Else what is written of it, and the time that takes, would follow its size and not what is
    done with it."""
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many([None] * 20_000, delay_seconds=10_000.0)
        await registry.save_snapshots()
        assert jobs._core.changes == 0
        assert jobs._core.changes_min > SNAPSHOT_AFTER_CHANGES
        await jobs.purge()
        await jobs.send_many([None] * 300)
        await registry.save_snapshots()
        assert jobs._core.changes_min < SNAPSHOT_AFTER_CHANGES

"""What a loop has taken ahead is not handed out where it came to its end meanwhile."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import (
    Consumer,
    DeliveryGuarantee,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueNotFoundError,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import open_queue, virtual

pytestmark = pytest.mark.anyio


async def assert_the_next_is(consumer: Consumer, jobs: MessageQueue, payload: object) -> None:
    """And that it can be acknowledged, after which nothing is left."""
    message = await anext(consumer)
    assert message.payload == payload
    await message.ack()
    consumer.close()
    assert jobs.statistics().in_flight == 0


def test_one_that_expired_while_the_one_before_it_was_worked_on_is_dropped() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        await jobs.send("a")
        await jobs.send("stale", ttl_seconds=3.0)
        await jobs.send("fresh", ttl_seconds=9.0)
        consumer = jobs.consume(prefetch=3)
        first = await anext(consumer)
        await anyio.sleep(5.0)
        await first.ack()
        await assert_the_next_is(consumer, jobs, "fresh")
        counts = jobs.statistics()
        assert (counts.size, counts.bytes, counts.expired, counts.dead) == (0, 0, 1, 0)

    virtual(story)


async def test_what_was_purged_is_not_handed_out(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(5))
        consumer = jobs.consume(prefetch=5)
        assert (await anext(consumer)).payload == 0
        await jobs.purge()
        await jobs.send("new")
        await assert_the_next_is(consumer, jobs, "new")
        assert jobs.statistics().size == 0


async def test_what_a_quorum_has_without_it_is_not_handed_out(data_dir: Path) -> None:
    quorum = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.QUORUM)
    async with open_queue(data_dir, quorum) as jobs:
        one, other = await jobs.subscription("one"), await jobs.subscription("other")
        await jobs.send_many(range(3))
        consumer = one.consume(prefetch=3)
        first = await anext(consumer)
        await jobs.ack(await other.receive_many(3, 0))
        assert jobs.statistics().size == 0
        await first.ack()
        await jobs.send("new")
        await assert_the_next_is(consumer, jobs, "new")


async def test_a_subscription_that_was_deleted_hands_out_nothing_more(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        subscription = await jobs.subscription("s")
        await jobs.send_many(range(3))
        consumer = subscription.consume(prefetch=3)
        await anext(consumer)
        await jobs.delete_subscription("s")
        with pytest.raises(QueueNotFoundError):
            await anext(consumer)
        await jobs.subscription("s")
        with pytest.raises(QueueNotFoundError):
            await anext(consumer)
        consumer.close()

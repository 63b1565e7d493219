"""Queues in a registry whose limits are small: what is written of many messages is cut to fit."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from mpreg.queues import DeliveryGuarantee, MessageQueue, QueueConfiguration, upkeep
from mpreg.queues.records import Configured, decode_event
from tests.simulation.queues.lives import Lives, manager_of

ONCE = QueueConfiguration(max_deliveries=1)


def quorum(count: int) -> QueueConfiguration:
    return QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=count
    )


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_the_configuration_counts_though_the_last_event_of_it_is_damaged(
    before: int, after: int
) -> None:
    async def change(queue: MessageQueue) -> None:
        await queue.subscription("one")
        await queue.subscription("two")
        await manager_of(queue).create_queue("jobs", quorum(after))
        for records in lives.event_records():
            found = [
                index
                for index, data in enumerate(records)
                if isinstance(decode_event(data, ""), Configured)
            ]
            records[found[-1]] = b"\xc1"

    async def restarted(queue: MessageQueue) -> None:
        assert queue.configuration.required_acknowledgments == after
        await queue.send("x")
        for number, name in enumerate(("one", "two"), 1):
            await queue.ack(await (await queue.subscription(name)).receive_many(1, 1.0))
            assert queue.statistics().size == (number < after)
            if number == after:
                break

    lives = Lives(quorum(before))
    lives.live(change)
    lives.configuration = quorum(after)
    lives.live(restarted)


async def die(queue: MessageQueue, count: int, subscription: str = "default") -> None:
    source = await queue.subscription(subscription)
    for start in range(0, count, 25):
        await queue.send_many(range(start, start + 25))
    for _ in range(count):
        message = await source.receive(10.0)
        assert message is not None
        await message.nack()
    assert queue.statistics().dead == count


@pytest.mark.parametrize("what", ["redrive", "purge_dead_letters"])
def test_dead_letters_with_long_keys_and_small_values(what: str) -> None:
    async def life(queue: MessageQueue) -> None:
        await die(queue, 150, "s" * 256)
        assert await getattr(queue, what)() == 150

    Lives(ONCE, settings={"value_bytes_max": 10_000}).live(life)


def test_redrive_many_small_ones() -> None:
    async def life(queue: MessageQueue) -> None:
        await die(queue, 150)
        assert await queue.redrive() == 150

    Lives(ONCE, settings={"value_bytes_max": 10_000, "batch_bytes_max": 20_000}).live(life)


def test_old_dead_letters_are_dropped_with_small_batches(monkeypatch: Any) -> None:
    monkeypatch.setattr(upkeep, "DROPPED_PER_BATCH", 256)

    async def life(queue: MessageQueue) -> None:
        await die(queue, 300)
        await anyio.sleep(5_000)
        assert queue.statistics().dead == 0

    configuration = QueueConfiguration(max_deliveries=1, dead_letter_ttl_seconds=1_000.0)
    settings = {"value_bytes_max": 10_000, "batch_bytes_max": 20_000}
    Lives(configuration, settings=settings).live(life)


def test_delete_with_small_batches() -> None:
    async def life(queue: MessageQueue) -> None:
        for number in range(600):
            await queue.send(number, deduplication_id=str(number))
        queues = manager_of(queue)
        await queues.delete_queue("jobs")
        assert await queues._queues.stores.deleted_queues() == []

    Lives(settings={"value_bytes_max": 10_000, "batch_bytes_max": 16_384}).live(life)


def test_receive_many_with_small_values() -> None:
    async def life(queue: MessageQueue) -> None:
        for start in range(0, 1_000, 50):
            await queue.send_many(range(start, start + 50))
        messages = await queue.receive_many(1_000, 10.0)
        assert messages

    Lives(settings={"value_bytes_max": 4_096}).live(life)


def test_released_with_small_values() -> None:
    async def life(queue: MessageQueue) -> None:
        for start in range(0, 1_000, 50):
            await queue.send_many(range(start, start + 50))
        consumers = [queue.consume(300) for _ in range(3)]
        for consumer in consumers:
            await anext(consumer)
        for consumer in consumers:
            consumer.close()
        message = await queue.receive(10.0)
        assert message is not None
        await anyio.sleep(10)
        assert not queue._core.released

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpreg.queues.core.SNAPSHOT_AFTER_CHANGES", 100_000)
        patch.setattr("mpreg.queues.upkeep.SNAPSHOT_AFTER_CHANGES", 100_000)
        Lives(settings={"value_bytes_max": 4_096}).live(life)

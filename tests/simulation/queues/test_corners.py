"""What the stories found, each as short as it can be told."""

from __future__ import annotations

from contextlib import suppress

import anyio
import anyio.lowlevel
import pytest

from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueue,
    QueueConfiguration,
    QueueNotFoundError,
    QueueType,
)
from mpreg.queues.records import Event, HandedOut, Kept, LaneOpened
from tests.simulation.queues.lives import Lives, forget_bodies, keep_up
from tests.simulation.scenario import SCHEDULES


async def keep_the_first(queue: MessageQueue, ttl_seconds: float | None = None) -> None:
    """One old message, and so many finished ones behind it that it is copied out of the log."""
    await queue.send("old", ttl_seconds=ttl_seconds)
    old = await queue.receive()
    await queue.send_many(range(20))
    await queue.ack(await queue.receive_many(20))
    await keep_up(queue)
    assert queue._core.state.lanes[0].kept == {0}
    assert old is not None
    await old.nack(0.0)


def test_a_delayed_message_wakes_who_waits_for_it_after_a_restart() -> None:
    async def send(queue: MessageQueue) -> None:
        await queue.send(1, delay_seconds=50.0)

    async def receive(queue: MessageQueue) -> None:
        with anyio.fail_after(60):
            assert await queue.receive() is not None

    Lives().live(send, receive)


def test_what_has_expired_is_gone_though_no_quorum_agreed() -> None:
    async def life(queue: MessageQueue) -> None:
        one, two = await queue.subscription("one"), await queue.subscription("two")
        await queue.send(1, ttl_seconds=5.0)
        await anyio.sleep(100)
        assert await one.receive(1.0) is None
        assert await two.receive(1.0) is None
        assert (queue.statistics().size, queue.statistics().bytes) == (0, 0)

    quorum = DeliveryGuarantee.QUORUM
    Lives(QueueConfiguration(delivery_guarantee=quorum, required_acknowledgments=2)).live(life)


def test_what_others_have_finished_is_swept_without_being_read_for_ever() -> None:
    async def life(queue: MessageQueue) -> None:
        one, two = await queue.subscription("one"), await queue.subscription("two")
        await queue.send(1, ttl_seconds=5.0)
        message = await one.receive()
        assert message is not None
        await message.ack()
        await anyio.sleep(100)
        assert await two.receive(1.0) is None

    Lives(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.QUORUM)).live(life)


def test_a_deleted_subscription_does_not_come_back_with_what_was_under_way() -> None:
    async def life(queue: MessageQueue) -> None:
        gone = await queue.subscription("gone")
        await queue.subscription("stays")
        await queue.send(1)

        async def take() -> None:
            await anyio.lowlevel.checkpoint()
            with suppress(QueueNotFoundError):
                await gone.receive(1.0)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.delete_subscription, "gone")
            tasks.start_soon(take)
        assert set(queue.statistics().subscriptions) == {"stays"}

    for seed in range(SCHEDULES):
        configuration = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        Lives(configuration, seed=seed).live(life)


def test_a_small_message_is_found_before_one_that_fills_the_memory() -> None:
    async def send(queue: MessageQueue) -> None:
        await queue.send(b"small")
        await queue.send(bytes(16_772_900))

    async def receive(queue: MessageQueue) -> None:
        message = await queue.receive()
        assert message is not None
        assert message.payload == b"small"

    Lives().live(send, receive)


def test_a_kept_message_that_expired_is_no_dead_letter_after_a_restart() -> None:
    async def expire(queue: MessageQueue) -> None:
        await keep_the_first(queue, ttl_seconds=50.0)
        await anyio.sleep(100)
        assert await queue.receive(1.0) is None
        await keep_up(queue)

    async def look(queue: MessageQueue) -> None:
        assert await queue.receive(1.0) is None
        await keep_up(queue)
        counts = queue.statistics()
        assert (counts.dead, counts.size, counts.bytes) == (0, 0, 0)

    Lives().live(expire, look)


def test_a_message_may_be_acknowledged_while_it_is_copied_out_of_its_log() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send("old")
        old = await queue.receive()
        await queue.send_many(range(20))
        await queue.ack(await queue.receive_many(20))
        forget_bodies(queue)
        queue._core.ask_for_upkeep()
        assert old is not None
        await old.ack()
        await anyio.sleep(10)
        assert queue.statistics().size == 0

    for seed in range(SCHEDULES):
        Lives(seed=seed).live(life)


def test_bytes_are_counted_anew_after_messages_have_expired() -> None:
    async def expire(queue: MessageQueue) -> None:
        for number in range(40):
            await queue.send(number)
        await anyio.sleep(200)

    async def look(queue: MessageQueue) -> None:
        await keep_up(queue)
        assert (queue.statistics().size, queue.statistics().bytes) == (0, 0)

    Lives(QueueConfiguration(message_ttl_seconds=50.0)).live(expire, look)


def test_a_message_that_its_last_consumer_gave_back_becomes_a_dead_letter_at_once() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send(1)
        consumer = queue.consume()
        await anext(consumer)
        consumer.close(give_back_current=True)
        await anyio.sleep(1)
        assert queue.statistics().dead == 1

    Lives(QueueConfiguration(max_deliveries=1)).live(life)


# --- damage ---


@pytest.mark.parametrize("kind", [Kept, HandedOut])
def test_a_kept_message_is_found_though_the_record_of_it_is_damaged(kind: type[Event]) -> None:
    async def keep(queue: MessageQueue) -> None:
        await keep_the_first(queue)
        lives.damage(kind)
        lives.disk.kill_process()

    async def look(queue: MessageQueue) -> None:
        payloads = [message.payload for message in await queue.receive_many(30, 1.0)]
        assert payloads[0] == "old"

    lives = Lives()
    with pytest.MonkeyPatch.context() as patch:
        # No snapshot: only the events tell.
        patch.setattr("mpreg.queues.core.SNAPSHOT_AFTER_CHANGES", 10_000)
        patch.setattr("mpreg.queues.upkeep.SNAPSHOT_AFTER_CHANGES", 10_000)
        lives.live(keep, look)


def test_a_priority_is_found_though_the_record_of_its_first_use_is_damaged() -> None:
    async def send(queue: MessageQueue) -> None:
        await queue.send(1, priority=7)
        lives.damage(LaneOpened)
        lives.disk.kill_process()

    async def look(queue: MessageQueue) -> None:
        message = await queue.receive(1.0)
        assert message is not None
        assert message.priority == 7

    lives = Lives(QueueConfiguration(queue_type=QueueType.PRIORITY))
    lives.live(send, look)


def test_a_message_whose_record_is_damaged_gives_its_room_back() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send_many([bytes(100)] * 3)
        forget_bodies(queue)
        lives.damage_message(1)
        for _ in range(2):
            message = await queue.receive(1.0)
            assert message is not None
            await message.ack()
        await keep_up(queue)
        counts = queue.statistics()
        assert (counts.dead, counts.size, counts.bytes) == (1, 0, 0)

    lives = Lives(QueueConfiguration(max_bytes=1_000))
    lives.live(life)


@pytest.mark.parametrize("count", [1, 2])
def test_messages_whose_attempts_are_damaged_give_their_room_back(count: int) -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send_many([bytes(100)] * 3)
        await queue._core.registry.save_snapshots()
        await queue.ack(await queue.receive_many(count))
        lives.damage(HandedOut)
        lives.disk.kill_process()

    async def look(queue: MessageQueue) -> None:
        while (message := await queue.receive(0.0)) is not None:
            await message.ack()
        counts = queue.statistics()
        assert (counts.size, counts.bytes) == (0, 0)

    lives = Lives(QueueConfiguration(max_bytes=1_000))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpreg.queues.keeper.SAVED_AT_CLOSE_MIN", 1)
        lives.live(life, look)

"""What a queue does beside its callers: that it is done, also where some of it cannot be."""

from __future__ import annotations

import itertools
import logging
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.errors import StorageIOError, ValueTooLargeError
from mpreg.queues import DeliveryGuarantee, Message, MessageQueue, QueueConfiguration, QueueType
from mpreg.queues.storage import QueueStorage
from mpreg.testing import Fault
from tests.simulation.queues.lives import Lives, forget_bodies, keep_up, manager_of
from tests.simulation.scenario import SCHEDULES

ONCE = QueueConfiguration(max_deliveries=1, lease_seconds=5.0)

LONG = "😀" * 5_000


async def take(queue: MessageQueue) -> Message:
    message = await queue.receive(wait_seconds=100.0)
    assert message is not None
    return message


async def take_many(queue: MessageQueue, count: int) -> list[Message]:
    """However few of them are in memory at a time."""
    messages: list[Message] = []
    while len(messages) < count:
        some = await queue.receive_many(count - len(messages), wait_seconds=100.0)
        assert some
        messages += some
    return messages


# --- sizes ---


async def send_largest(queue: MessageQueue) -> bytes:
    """The largest payload of zeros that is taken."""
    low, high = 0, queue._core.registry.config.value_bytes_max
    while low < high:
        middle = (low + high + 1) // 2
        try:
            queue._outgoing([bytes(middle)], "", 0, 0.0, None, None)
        except ValueTooLargeError:
            high = middle - 1
        else:
            low = middle
    await queue.send(bytes(low))
    return bytes(low)


@pytest.mark.parametrize(
    ("value_bytes_max", "batch_bytes_max"),
    [
        (16 << 20, 64 << 20),
        (1 << 20, 1 << 20),
        (20_000, 20_000),
        (10_000, 30_000),
        (16_384, 16_384),
        (5_000, 16_384),
        (4_096, 1 << 20),
    ],
)
def test_the_largest_message_dies_is_listed_comes_again_and_dies_again(
    value_bytes_max: int, batch_bytes_max: int
) -> None:
    sent: list[bytes] = []

    async def die(queue: MessageQueue) -> None:
        sent.append(await send_largest(queue))
        await (await take(queue)).nack(reason=LONG)
        await assert_dead(queue)
        assert await queue.redrive() == 1
        assert await queue.dead_letters() == []
        # Now its lease runs out.
        await take(queue)
        await anyio.sleep(20)
        await assert_dead(queue)

    async def die_elsewhere(queue: MessageQueue) -> None:
        """Where it is a little larger, because it expires, and a priority is used for the first
        time with it."""
        await assert_dead(queue)
        settings = QueueConfiguration(
            max_deliveries=1, message_ttl_seconds=1e6, queue_type=QueueType.PRIORITY
        )
        other = await manager_of(queue).create_queue("other", settings)
        assert await queue.redrive(to=other) == 1
        for _ in range(3):
            await (await take(other)).nack(reason=LONG)
            await assert_dead(other)
            assert await other.redrive() == 1
        assert (queue.statistics().dead, other.statistics().size) == (0, 1)

    async def assert_dead(queue: MessageQueue) -> None:
        (letter,) = await queue.dead_letters()
        assert letter.payload == sent[0]
        assert LONG.startswith(letter.last_error) or letter.last_error == "its lease ran out"
        assert queue.statistics().dead == 1
        assert queue.statistics().size == 0

    settings = {"value_bytes_max": value_bytes_max, "batch_bytes_max": batch_bytes_max}
    Lives(ONCE, settings=settings).live(die, die_elsewhere)


@pytest.mark.parametrize("bytes_max", [1 << 20, 20_000, 16_384])
def test_the_largest_message_dies_in_the_subscription_with_the_longest_name(
    bytes_max: int,
) -> None:
    async def die(queue: MessageQueue) -> None:
        for character in "x😀":
            name = character
            while True:
                try:
                    await queue.subscription(name + character)
                except (ValueError, ValueTooLargeError):
                    break
                await queue.delete_subscription(name + character)
                name += character
            audit = await queue.subscription(name)
            payload = await send_largest(queue)
            message = await audit.receive(10.0)
            assert message is not None
            await message.nack(reason=LONG)
            (letter,) = await queue.dead_letters()
            assert (letter.payload, letter.subscription) == (payload, name)
            assert await queue.redrive() == 1
            await queue.purge()
            await queue.delete_subscription(name)

    settings = {"value_bytes_max": bytes_max, "batch_bytes_max": bytes_max}
    Lives(ONCE, settings=settings).live(die)


def test_one_letter_that_cannot_be_written_does_not_keep_other_upkeep_from_happening() -> None:
    async def send(queue: MessageQueue) -> None:
        await queue.send_many(range(40))
        await queue.send_many(["small", bytes(10_000)])

    async def live_with_it(queue: MessageQueue) -> None:
        messages = await take_many(queue, 42)
        queue._core.changes = 0
        await queue.ack(messages[:40])
        await anyio.sleep(100)
        assert [letter.payload for letter in await queue.dead_letters()] == ["small"]
        assert queue.statistics().size == 1
        assert queue._core.state.lanes[0].first >= 40
        queue._core.changes = 100
        await keep_up(queue)
        assert queue._core.changes < 100

    async def bury(queue: MessageQueue) -> None:
        assert await queue.receive(1.0) is None
        await anyio.sleep(100)
        letters = await queue.dead_letters()
        assert [len(letter.payload) for letter in letters] == [5, 10_000]

    lives = Lives(ONCE)
    lives.live(send)
    # Somebody has lowered the limit.
    lives.settings = {"value_bytes_max": 4_096}
    lives.live(live_with_it)
    lives.settings = {}
    lives.live(bury)


LARGE: dict[str, Any] = {"value_bytes_max": 20_000, "batch_bytes_max": 20_000}


def test_large_messages_are_redriven_in_as_many_transactions_as_it_takes() -> None:
    async def life(queue: MessageQueue) -> None:
        for number in range(12):
            await queue.send(bytes([number]) * 4_000)
            await (await take(queue)).nack()
        other = await manager_of(queue).create_queue("other", ONCE)
        assert await queue.redrive(to=other) == 12
        found = [(await take(other)).payload[0] for _ in range(12)]
        assert found == list(range(12))
        assert (queue.statistics().dead, await queue.dead_letters()) == (0, [])

    Lives(ONCE, settings=LARGE).live(life)


def test_dead_letters_with_long_keys_are_removed_in_as_many_transactions_as_it_takes() -> None:
    async def life(queue: MessageQueue) -> None:
        audit = await queue.subscription("x" * 256)
        for _ in range(3):
            await queue.send_many(range(50))
            for message in await audit.receive_many(50, 1.0):
                await message.nack()
        assert queue.statistics().dead == 150
        assert await queue.purge_dead_letters() == 150
        assert await queue.dead_letters() == []

    Lives(ONCE, settings={"batch_bytes_max": 30_000, "value_bytes_max": 25_000}).live(life)


def test_large_messages_are_copied_out_of_their_log_in_as_many_transactions_as_it_takes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def life(queue: MessageQueue) -> None:
        for number in range(8):
            await queue.send(bytes([number]) * 4_000)
        old = await queue.receive_many(8)
        await queue.send_many(range(39))
        await queue.ack(await queue.receive_many(39))
        await keep_up(queue)
        (lane,) = queue._core.state.lanes.values()
        assert lane.kept == set(range(8))
        assert lane.first > 8
        await queue.ack(old[:4])

    async def look(queue: MessageQueue) -> None:
        messages = await take_many(queue, 4)
        assert [message.payload[0] for message in messages] == [4, 5, 6, 7]
        assert await queue.receive(1.0) is None

    monkeypatch.setattr("mpreg.queues.upkeep.COPIED_BYTES_MAX", 8 << 20)
    Lives(QueueConfiguration(lease_seconds=1e4), settings=LARGE).live(life, look)


# --- failing ---


class Retries(logging.Handler):
    """When upkeep has failed, and when it will be tried again."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[tuple[float, float]] = []

    def emit(self, record: logging.LogRecord) -> None:
        if "upkeep failed" in record.msg:
            assert isinstance(record.args, tuple)
            seconds = record.args[1]
            assert isinstance(seconds, float)
            self.told.append((round(anyio.current_time(), 3), seconds))


def test_upkeep_that_goes_on_failing_is_tried_less_and_less_often() -> None:
    retries = Retries()

    async def life(queue: MessageQueue) -> None:
        await queue.send("x")
        await take(queue)
        lives.faults.order(Fault.ROLLED_BACK, 9)
        await anyio.sleep(400)
        assert queue.statistics().dead == 1
        # The next trouble begins anew.
        await queue.send("y")
        await take(queue)
        lives.faults.order(Fault.ROLLED_BACK, 2)
        await anyio.sleep(400)
        assert queue.statistics().dead == 2

    lives = Lives(ONCE)
    logging.disable(logging.NOTSET)
    logger = logging.getLogger("mpreg.queues")
    logger.addHandler(retries)
    try:
        lives.live(life)
    finally:
        logger.removeHandler(retries)
    waits = [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]
    assert [seconds for _, seconds in retries.told] == [*waits, 1.0, 2.0]
    times = [time for time, _ in retries.told]
    between = [later - time for time, later in itertools.pairwise(times[:9])]
    assert between == waits[:-1]
    assert times[10] - times[9] == 1.0


def test_a_sweep_that_has_failed_is_made_again() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send("old")
        forget_bodies(queue)
        monkeypatch.setattr(QueueStorage, "read_ahead", failing_once)
        with anyio.fail_after(60):
            # There is room when the old one has expired.
            await queue.send("new", ttl_seconds=1e6, wait_seconds=None)
        assert failures == 1
        assert (await take(queue)).payload == "new"

    read_ahead = QueueStorage.read_ahead
    failures = 0

    async def failing_once(*arguments: Any) -> Any:
        nonlocal failures
        if failures:
            return await read_ahead(*arguments)
        failures += 1
        await anyio.lowlevel.checkpoint()
        raise StorageIOError("it fails once")

    with pytest.MonkeyPatch.context() as monkeypatch:
        Lives(QueueConfiguration(max_size=1, message_ttl_seconds=10.0)).live(life)


def test_a_copied_message_for_which_no_quorum_will_come_goes_when_it_has_expired() -> None:
    async def life(queue: MessageQueue) -> None:
        one, two = await queue.subscription("one"), await queue.subscription("two")
        await queue.send("old", ttl_seconds=50.0)
        for subscription in (one, two):
            old = await subscription.receive(1.0)
            assert old is not None
            # It is dead for both of them, and nobody has acknowledged it.
            await old.nack()
        await queue.send_many(range(39))
        for subscription in (one, two):
            await queue.ack(await subscription.receive_many(39, 1.0))
        await keep_up(queue)
        assert queue._core.state.lanes[0].kept == {0}
        assert queue.statistics().size == 1
        await anyio.sleep(100)
        await wait_for_sweep(queue)

    async def wait_for_sweep(queue: MessageQueue) -> None:
        await anyio.sleep(1)
        assert (queue.statistics().size, queue.statistics().bytes) == (0, 0)
        assert queue._core.state.lanes[0].kept == set()

    configuration = QueueConfiguration(
        max_deliveries=1,
        delivery_guarantee=DeliveryGuarantee.QUORUM,
        required_acknowledgments=2,
    )
    for seed in range(SCHEDULES):
        Lives(configuration, seed=seed).live(life, wait_for_sweep)


# --- attempts ---


def test_attempts_that_nobody_has_seen_do_not_make_the_first_retry_come_later() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send_many(["first", "second"])
        for _ in range(4):
            consumer = queue.consume(prefetch=2)
            first = await anext(consumer)
            assert first.payload == "first"
            consumer.close()
            await first.nack(0.0)
        await (await take(queue)).ack()
        second = await take(queue)
        assert (second.payload, second.attempt) == ("second", 1)
        await second.nack()
        began = anyio.current_time()
        assert (await take(queue)).attempt == 2
        assert anyio.current_time() - began == pytest.approx(1.0)

    Lives(QueueConfiguration(retry_delay_seconds=1.0, max_deliveries=9)).live(life)

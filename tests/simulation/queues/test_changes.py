"""Queues and subscriptions changed, deleted and made again while others are at work on them."""

from __future__ import annotations

import gc
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.errors import MpregError, WriterStoppedError
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueFullError,
    QueueNotFoundError,
)
from mpreg.queues.keeper import SAVED_AT_CLOSE_MIN
from mpreg.queues.records import Configured
from mpreg.testing import FaultInjector, FaultPlan
from tests.simulation.queues.lives import (
    Lives,
    cancelled_once_sent,
    forget_bodies,
    keep_up,
    manager_of,
)
from tests.simulation.scenario import SCHEDULES

Call = Callable[[], Awaitable[object]]


def quorum(count: int) -> QueueConfiguration:
    return QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=count
    )


async def outcome(call: Call, into: list[object]) -> None:
    try:
        into.append(await call())
    except MpregError as error:
        into.append(type(error))


# --- cancelled after they were sent ---


@pytest.mark.parametrize(
    "change",
    [
        pytest.param(lambda queue: queue.purge(), id="purge"),
        pytest.param(lambda queue: queue.delete_subscription("idle"), id="delete_subscription"),
        pytest.param(
            lambda queue: manager_of(queue).create_queue("jobs", QueueConfiguration(max_size=2)),
            id="create_queue",
        ),
    ],
)
def test_a_change_cancelled_while_it_is_written_lets_in_who_waits_for_room(
    change: Callable[[MessageQueue], Awaitable[object]],
) -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.subscription("idle")
        await queue.send(1)
        message = await queue.receive()
        assert message is not None
        await message.ack()
        sent: list[object] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcome, lambda: queue.send(2, wait_seconds=None), sent)
            await anyio.sleep(1)
            assert sent == []
            await cancelled_once_sent(queue, lambda: change(queue))
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        assert len(sent) == 1
        limit = queue.configuration.max_size
        assert limit is not None
        assert queue.statistics().size <= limit

    for seed in range(SCHEDULES):
        Lives(QueueConfiguration(max_size=1), seed=seed).live(life)


def test_a_deleted_subscription_tells_who_waits_though_the_caller_was_cancelled() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send(1)
        audit = await queue.subscription("audit", start=1)
        told: list[object] = []
        async with anyio.create_task_group() as tasks:
            for call in (audit.receive, audit.consume(3).__anext__):
                tasks.start_soon(outcome, call, told)
            await anyio.sleep(1)
            await cancelled_once_sent(queue, lambda: queue.delete_subscription("audit"))
            await anyio.sleep(1)
            assert told == [QueueNotFoundError] * 2
            # Another one of the same name is not the one that they have waited at.
            again = await queue.subscription("audit", start=1)
            assert again is not audit
            tasks.start_soon(outcome, again.receive, told)
            await anyio.sleep(1)
            await queue.send(2)
        assert len(told) == 3

    for seed in range(SCHEDULES):
        Lives(seed=seed).live(life)


def test_a_purge_whose_caller_was_cancelled_forgets_what_it_has_finished() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send_many(range(50))
        await cancelled_once_sent(queue, queue.purge)
        await anyio.sleep(1)
        assert (queue.statistics().size, queue.statistics().bytes) == (0, 0)
        assert queue._core.bodies.bytes == 0
        assert await queue.receive(0) is None

    for seed in range(SCHEDULES):
        Lives(seed=seed).live(life, keep_up)


@pytest.mark.parametrize("reopened", [False, True])
def test_a_queue_made_again_while_its_cancelled_deletion_is_written_works(reopened: bool) -> None:
    async def delete_and_make(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        await queue.send("old")
        await cancelled_once_sent(queue, lambda: queues.delete_queue("jobs"))
        again = await queues.create_queue("jobs", changed)
        assert again is not queue
        assert again is await queues.get_queue("jobs")
        await again.send("new")
        if not reopened:
            await look(again)

    async def look(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        assert queue.configuration == changed
        assert queue.statistics().size == 1
        message = await queue.receive(1.0)
        assert message is not None
        assert message.payload == "new"
        # What the one before has left is removed in the background, and only that.
        await anyio.sleep(10)
        assert await queues._queues.stores.deleted_queues() == []
        await message.ack()
        assert await queues.queue_names() == ["jobs"]

    changed = QueueConfiguration(max_size=7)
    for seed in range(SCHEDULES):
        lives = Lives(seed=seed)
        lives.live(delete_and_make)
        if reopened:
            lives.configuration = changed
            lives.live(look)


def test_a_queue_deleted_twice_by_callers_of_whom_one_was_cancelled_is_deleted_once() -> None:
    async def life(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        other = await queues.create_queue("other")
        await cancelled_once_sent(queue, lambda: queues.delete_queue("jobs"))
        told: list[object] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcome, lambda: queues.delete_queue("jobs"), told)
            tasks.start_soon(other.send, "x")
        assert told == [QueueNotFoundError]
        await other.send("y")
        assert other.statistics().size == 2

    for seed in range(SCHEDULES):
        Lives(seed=seed).live(life)


def test_a_queue_whose_making_was_cancelled_is_made_once() -> None:
    async def make(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        call = lambda: queues.create_queue("new", configuration)  # noqa: E731
        await cancelled_once_sent(queue, call)
        made: list[Any] = []
        async with anyio.create_task_group() as tasks:
            for _ in range(3):
                tasks.start_soon(outcome, call, made)
        assert len(set(map(id, made))) == 1
        assert made[0].configuration == configuration
        await made[0].send("x")

    async def look(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        assert await queues.queue_names() == ["jobs", "new"]
        message = await (await queues.get_queue("new")).receive(1.0)
        assert message is not None
        assert message.payload == "x"

    configuration = QueueConfiguration(max_size=3)
    for seed in range(SCHEDULES):
        Lives(seed=seed).live(make, look)


def test_a_quorums_queue_whose_making_was_cancelled_has_its_first_event_once() -> None:
    async def make(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        await cancelled_once_sent(queue, lambda: queues.create_queue("new", quorum(2)))
        new = await queues.create_queue("new", quorum(2))
        assert new._core.events_end == 1
        assert new._core.state.required_acknowledgments == 2

    for seed in range(SCHEDULES):
        Lives(seed=seed).live(make)


# --- quorums ---


@pytest.mark.parametrize("saved", [False, True])
def test_what_a_quorum_has_finished_stays_so_when_more_are_asked_for(saved: bool) -> None:
    async def raise_it(queue: MessageQueue) -> None:
        one, two = await queue.subscription("one"), await queue.subscription("two")
        await queue.send_many(["done", "later"])
        await queue.ack(await one.receive_many(1))
        if saved:
            await save_state(queue)
        await manager_of(queue).create_queue("jobs", quorum(2))
        await look(queue)
        assert [message.payload for message in await two.receive_many(9, 1.0)] == ["later"]

    async def look(queue: MessageQueue) -> None:
        assert queue.statistics().size == 1

    async def restarted(queue: MessageQueue) -> None:
        await look(queue)
        one, two = await queue.subscription("one"), await queue.subscription("two")
        for subscription in (one, two):
            messages = await subscription.receive_many(9, 1.0)
            assert [message.payload for message in messages] == ["later"]
            assert queue.statistics().size == 1
            await queue.ack(messages)
        assert queue.statistics().size == 0

    lives = Lives(quorum(1))
    lives.live(raise_it)
    lives.configuration = quorum(2)
    lives.live(restarted)


@pytest.mark.parametrize("saved", [False, True])
def test_what_fewer_are_asked_for_have_acknowledged_is_finished(saved: bool) -> None:
    async def lower(queue: MessageQueue) -> None:
        one, _ = await queue.subscription("one"), await queue.subscription("two")
        await queue.send_many(["done", "pending"])
        await queue.ack(await one.receive_many(1))
        if saved:
            await save_state(queue)
        assert queue.statistics().size == 2
        await manager_of(queue).create_queue("jobs", quorum(1))
        await look(queue)

    async def look(queue: MessageQueue) -> None:
        await anyio.sleep(1)
        assert queue.statistics().size == 1
        assert 0 < queue.statistics().bytes < 40

    lives = Lives(quorum(2))
    lives.live(lower)
    lives.configuration = quorum(1)
    lives.live(look, look)


async def save_state(queue: MessageQueue) -> None:
    queue._core.changes = 100
    await keep_up(queue)
    assert queue._core.changes < 100


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1)])
def test_the_configuration_counts_though_the_event_of_the_one_before_is_damaged(
    before: int, after: int
) -> None:
    async def change(queue: MessageQueue) -> None:
        await queue.subscription("one")
        await queue.subscription("two")
        await manager_of(queue).create_queue("jobs", quorum(after))
        lives.damage(Configured)

    async def restarted(queue: MessageQueue) -> None:
        await queue.send("x")
        for number, name in enumerate(("one", "two"), 1):
            assert queue.statistics().size == (number <= after)
            await queue.ack(await (await queue.subscription(name)).receive_many(1, 1.0))
            if number == after:
                break
        assert queue.statistics().size == 0

    lives = Lives(quorum(before))
    lives.live(change)
    lives.configuration = quorum(after)
    lives.live(restarted)


# --- room ---


def test_the_bytes_of_a_queue_hold_while_they_are_counted_anew() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.subscription("idle", "no.such.topic")
        while True:
            try:
                await queue.send(bytes(100))
            except QueueFullError:
                break
        full = queue.statistics().size
        let_in: list[object] = []
        messages = await queue.receive_many(5)

        async def acknowledge() -> None:
            for message in messages:
                await message.ack()

        async with anyio.create_task_group() as tasks:
            for _ in range(30):
                tasks.start_soon(outcome, lambda: queue.send(bytes(100), wait_seconds=None), let_in)
            await anyio.sleep(1)
            # From memory it would be over at once.
            forget_bodies(queue)
            tasks.start_soon(queue.delete_subscription, "idle")
            tasks.start_soon(acknowledge)
            for _ in range(300):
                await anyio.lowlevel.checkpoint()
                assert queue.statistics().size <= full
            await anyio.sleep(1)
            assert len(let_in) == 5
            tasks.cancel_scope.cancel()
        assert queue.statistics().size == full

    for seed in range(SCHEDULES):
        Lives(QueueConfiguration(max_bytes=5_000), seed=seed).live(life)


@pytest.mark.parametrize(
    "smaller", [QueueConfiguration(max_size=5), QueueConfiguration(max_bytes=200)]
)
def test_who_can_never_be_let_in_any_more_does_not_keep_others_waiting(
    smaller: QueueConfiguration,
) -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send_many(range(10))
        many: list[object] = []
        one: list[object] = []
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(outcome, lambda: queue.send_many([0] * 8, wait_seconds=None), many)
            await anyio.sleep(1)
            tasks.start_soon(outcome, lambda: queue.send(1, wait_seconds=None), one)
            await anyio.sleep(1)
            await manager_of(queue).create_queue("jobs", smaller)
            await anyio.sleep(1)
            assert many == [QueueFullError]
            assert one == []
            await queue.ack(await queue.receive_many(10))
        assert len(one) == 1
        await queue.send(2)
        assert queue.statistics().size == 2

    Lives(QueueConfiguration(max_size=10)).live(life)


# --- opening and closing ---


def test_tasks_that_open_queues_at_the_same_time_give_different_ids() -> None:
    async def main() -> None:
        async with lives.registry() as registry:
            queues = MessageQueueManager(registry)
            made: list[Any] = []
            ids: list[Any] = []
            async with anyio.create_task_group() as tasks:
                for name in "abcd":
                    tasks.start_soon(outcome, lambda name=name: queues.create_queue(name), made)
            async with anyio.create_task_group() as tasks:
                for queue in made:
                    tasks.start_soon(outcome, lambda queue=queue: queue.send("x"), ids)
            assert len(set(ids)) == 4
            assert len({queue._core.storage.incarnation for queue in made}) == 4

    for seed in range(SCHEDULES):
        lives = Lives(seed=seed)
        # Made, and then only opened.
        for _ in range(2):
            lives.simulation.run(main)


def test_a_queue_opened_while_the_registry_closes_lets_nobody_wait_for_ever() -> None:
    async def closing(delay_seconds: float) -> list[object]:
        told: list[object] = []

        async def open_late(queues: MessageQueueManager) -> None:
            await anyio.sleep(delay_seconds)
            late = await queues.get_queue("late")
            await late.receive()

        with anyio.fail_after(100):
            async with anyio.create_task_group() as tasks, lives.registry() as registry:
                queues = MessageQueueManager(registry)
                jobs = await queues.get_queue("jobs")
                # So that its state is saved at the end, which takes a while.
                jobs._core.changes = SAVED_AT_CLOSE_MIN
                tasks.start_soon(outcome, lambda: open_late(queues), told)
        return told

    async def prepare(queue: MessageQueue) -> None:
        await manager_of(queue).create_queue("late")

    for seed in range(SCHEDULES):
        for delay in (0.0, 0.001, 0.01):
            lives = Lives(seed=seed)
            lives.live(prepare)
            plan = FaultPlan(commit_seconds_max=0.05)
            lives.faults = FaultInjector(plan, lives.simulation.stream("faults"))
            assert lives.simulation.run(closing, delay) == [WriterStoppedError]


# --- memory ---


def test_a_deleted_queue_is_not_kept_in_memory_by_what_it_was_to_do_much_later() -> None:
    async def life(queue: MessageQueue) -> None:
        queues = manager_of(queue)
        cores = []
        for number in range(5):
            other = await queues.create_queue(f"other {number}")
            await other.send("x", delay_seconds=1e6)
            cores.append(weakref.ref(other._core))
            del other
            await queues.delete_queue(f"other {number}")
        await anyio.sleep(1)
        gc.collect()
        assert [core() for core in cores] == [None] * 5

    Lives().live(life)


def test_of_deleted_subscriptions_nothing_is_left_in_memory() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send(1)
        for number in range(20):
            await queue.subscription(f"{number}")
            await queue.delete_subscription(f"{number}")
        assert queue._subscriptions._held == {}
        assert queue._core.lines == {}

    Lives().live(life)


def test_what_is_not_stored_is_not_kept_in_memory_when_its_subscription_is_deleted() -> None:
    async def life(queue: MessageQueue) -> None:
        fast = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
        other = await manager_of(queue).create_queue("fast", fast)
        for _ in range(3):
            await other.subscription("audit")
            await other.send_many(range(10))
            await other.receive_many(10)
            assert len(other._core.contents._memory) == 10
            await other.delete_subscription("audit")
            assert other._core.contents._memory == {}
        assert (other.statistics().size, other.statistics().bytes) == (0, 0)

    Lives().live(life)


def test_what_was_forgiven_stays_so_though_its_note_was_lost() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send("x")
        consumer = queue.consume(1)
        await anext(consumer)
        consumer._ahead, consumer._current = deque([consumer._current]), None  # type: ignore[list-item]
        consumer.close()
        # As if a snapshot were under way that never comes to be: nobody will write it.
        queue._core.released.clear()
        queue._core.dirty = False
        message = await queue.receive()
        assert message is not None
        assert message.attempt == 1
        await message.nack(0.0)

    async def restarted(queue: MessageQueue) -> None:
        message = await queue.receive()
        assert message is not None
        assert message.attempt == 2
        await message.nack()
        (letter,) = await queue.dead_letters()
        assert letter.attempts == 2

    Lives(QueueConfiguration(max_deliveries=2)).live(life, restarted)

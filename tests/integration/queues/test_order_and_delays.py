"""In which order messages come, and when."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import InvalidArgumentError, PersistenceRegistry
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueueManager,
    QueueConfiguration,
    QueueFullError,
    QueueType,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    TurnedClock,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    virtual,
)

pytestmark = pytest.mark.anyio

PRIORITY = QueueConfiguration(queue_type=QueueType.PRIORITY)


async def test_a_fifo_queue_hands_out_in_the_order_of_the_sends(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        for number in range(5):
            await jobs.send(number)
        await jobs.send_many([5, 6, 7])
        assert await finished(jobs, 8) == list(range(8))
        assert await jobs.receive(wait_seconds=0) is None


async def test_a_message_carries_what_was_sent_with_it(data_dir: Path) -> None:
    async with open_queue(data_dir, PRIORITY) as jobs:
        message_id = await jobs.send(
            {"file": "a.py"}, topic="jobs.created", priority=3, headers={"trace": "1"}
        )
        message = await take(jobs)
        assert message.id == message_id
        assert message.payload == {"file": "a.py"}
        assert (message.topic, message.priority) == ("jobs.created", 3)
        assert message.headers == {"trace": "1"}
        assert (message.attempt, message.subscription) == (1, "default")
        message.payload["file"] = "changed"
        message.headers["trace"] = "changed"
        assert (message.payload, message.headers) == ({"file": "a.py"}, {"trace": "1"})


async def test_ids_are_never_given_twice_also_by_the_next_process(data_dir: Path) -> None:
    ids: list[str] = []
    for _ in range(3):
        async with open_queue(data_dir) as jobs:
            ids += await jobs.send_many([None] * 10)
    assert len(set(ids)) == 30


async def test_a_higher_priority_comes_first_and_within_one_the_order_is_that_of_the_sends(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, PRIORITY) as jobs:
        for priority in (0, 5, 255, 5, 0, 255):
            await jobs.send(f"{priority} {jobs.statistics().sent}", priority=priority)
        assert await finished(jobs, 6) == ["255 2", "255 5", "5 1", "5 3", "0 0", "0 4"]


async def test_priorities_keep_their_order_over_a_restart(data_dir: Path) -> None:
    async with open_queue(data_dir, PRIORITY) as jobs:
        for priority in (1, 9, 1, 9):
            await jobs.send([priority, jobs.statistics().sent], priority=priority)
        assert (await finished(jobs, 1)) == [[9, 1]]
    async with open_queue(data_dir) as jobs:
        await jobs.send([5, 4], priority=5)
        await jobs.send([9, 5], priority=9)
        assert await finished(jobs, 5) == [[9, 3], [9, 5], [5, 4], [1, 0], [1, 2]]


async def test_a_message_that_comes_back_keeps_its_place(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1, 2])
        first, second = await take(jobs), await take(jobs)
        await second.nack(0)
        await first.nack(0)
        assert await finished(jobs, 3) == [0, 1, 2]


async def test_a_priority_that_is_none_is_refused(data_dir: Path) -> None:
    async with open_queue(data_dir, PRIORITY) as jobs:
        wrong: list[Any] = [-1, 256, True, "1", None, 1.0]
        for priority in wrong:
            with pytest.raises(InvalidArgumentError, match="priority"):
                await jobs.send("x", priority=priority)
        assert jobs.statistics().sent == 0


async def test_a_fifo_queue_takes_no_priority(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        with pytest.raises(InvalidArgumentError, match="'fifo'"):
            await jobs.send("x", priority=1)
        assert jobs.statistics().sent == 0


# --- delays ---


@pytest.mark.parametrize("kind", QueueType)
async def test_a_delayed_message_lets_others_pass(data_dir: Path, kind: QueueType) -> None:
    async with open_queue(data_dir, QueueConfiguration(queue_type=kind)) as jobs:
        await jobs.send("late", delay_seconds=10_000.0)
        await jobs.send("soon")
        assert (jobs.statistics().delayed, jobs.statistics().pending) == (1, 1)
        assert (await take(jobs)).payload == "soon"
        assert await jobs.receive(wait_seconds=0) is None


@pytest.mark.parametrize("kind", QueueType)
async def test_a_delayed_message_wakes_who_waits_for_it(data_dir: Path, kind: QueueType) -> None:
    async with open_queue(data_dir, QueueConfiguration(queue_type=kind)) as jobs:
        began = anyio.current_time()
        await jobs.send("late", delay_seconds=0.15)
        assert (await take(jobs)).payload == "late"
        assert anyio.current_time() - began >= 0.15


@pytest.mark.parametrize("kind", QueueType)
def test_delayed_messages_come_at_their_times(kind: QueueType) -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(queue_type=kind))
        for delay in (3_600.0, 60.0, 0.0, 86_400.0):
            await jobs.send(delay, delay_seconds=delay)
        came = []
        began = anyio.current_time()
        for _ in range(4):
            message = await take(jobs, None)
            came.append((message.payload, round(anyio.current_time() - began)))
            await message.ack()
        assert came == [(delay, int(delay)) for delay in (0.0, 60.0, 3_600.0, 86_400.0)]

    virtual(story)


async def test_a_delay_goes_on_over_a_restart_and_still_wakes_who_waits(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_queue(data_dir, clock=clock) as jobs:
        await jobs.send("late", delay_seconds=100.0)
    clock.now += 50.0
    async with open_queue(data_dir, clock=clock) as jobs:
        await jobs.send("soon")
        assert await finished(jobs, 1) == ["soon"]
        assert jobs.statistics().delayed == 1
    clock.now += 49.9
    began = anyio.current_time()
    async with open_queue(data_dir, clock=clock) as jobs:
        assert await finished(jobs, 1) == ["late"]
        assert anyio.current_time() - began >= 0.099


def test_a_delay_counts_for_a_subscription_made_after_the_send() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send("late", delay_seconds=60.0)
        audit = await jobs.subscription("audit")
        assert await audit.receive(wait_seconds=59.0) is None
        assert (await take(audit, 2.0)).payload == "late"

    virtual(story)


def test_a_wall_clock_set_back_makes_no_delay_longer_than_it_was() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send("x", delay_seconds=10.0)
        simulation.clock.jump(-1_000_000.0)
        # One that looks at it only now, by the wall clock.
        audit = await jobs.subscription("audit")
        assert (await take(audit, 11.0)).payload == "x"

    virtual(story)


async def test_a_time_that_is_none_is_refused_with_nothing_sent(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        wrong: list[Any] = [-1, float("nan"), float("inf"), 1e12, "1", True]
        calls: list[Callable[[Any], Awaitable[object]]] = [
            lambda seconds: jobs.send("x", delay_seconds=seconds),
            lambda seconds: jobs.send("x", ttl_seconds=seconds),
            lambda seconds: jobs.send("x", wait_seconds=seconds),
            lambda seconds: jobs.send_many(["x"], wait_seconds=seconds),
            lambda seconds: jobs.receive(wait_seconds=seconds),
            lambda seconds: jobs.receive_many(2, wait_seconds=seconds),
        ]
        for seconds in wrong:
            for call in calls:
                with pytest.raises(InvalidArgumentError, match="_seconds is a number of seconds"):
                    await call(seconds)
        with pytest.raises(InvalidArgumentError):
            await jobs.send("x", delay_seconds=None)  # type: ignore[arg-type]
        assert jobs.statistics().sent == 0


# --- many at a time ---


async def test_many_are_sent_in_one_commit_side_by_side(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        before = await registry.stats()
        ids = await jobs.send_many(range(100))
        after = await registry.stats()
        assert after.commits - before.commits == 1
        messages = await jobs.receive_many(1_000, wait_seconds=0)
        assert [message.id for message in messages] == ids
        assert payloads(messages) == list(range(100))


async def test_of_many_where_one_is_refused_none_is_sent(data_dir: Path) -> None:
    settings = QueueConfiguration(max_size=3)
    async with open_queue(data_dir, settings) as jobs:
        with pytest.raises(InvalidArgumentError):
            await jobs.send_many([1, 2, {3}])
        with pytest.raises(QueueFullError):
            await jobs.send_many([1, 2, 3, 4])
        assert jobs.statistics().sent == 0
        assert await jobs.send_many([]) == []
        await jobs.send_many([1, 2, 3])


async def test_many_are_received_with_one_commit_and_as_many_as_there_are(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(10))
        before = await registry.stats()
        first = await jobs.receive_many(7)
        second = await jobs.receive_many(7)
        after = await registry.stats()
        assert (payloads(first), payloads(second)) == ([*range(7)], [7, 8, 9])
        assert after.commits - before.commits == 2
        assert await jobs.receive_many(7, wait_seconds=0) == []
        await jobs.ack(first + second)
        assert (await registry.stats()).commits - after.commits == 1
        assert jobs.statistics().size == 0


async def test_many_are_received_over_the_priorities_from_the_highest(data_dir: Path) -> None:
    async with open_queue(data_dir, PRIORITY) as jobs:
        for priority in (1, 3, 2, 3):
            await jobs.send(priority, priority=priority)
        assert payloads(await jobs.receive_many(3)) == [3, 3, 2]


async def test_a_number_of_messages_that_is_none_is_refused(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        wrong: list[Any] = [0, -1, 10_001, True, 1.0, "1", None]
        for count in wrong:
            with pytest.raises(InvalidArgumentError, match="messages_max"):
                await jobs.receive_many(count)
            with pytest.raises(InvalidArgumentError, match="prefetch"):
                jobs.consume(count)


async def test_who_waits_is_called_in_the_loop_turn_of_the_sends_ack(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs, anyio.create_task_group() as task_group:
        task_group.start_soon(take, jobs)
        await anyio.wait_all_tasks_blocked()
        line = jobs._core.lines["default"]
        assert line.wanted == 1
        await jobs.send("work")
        # It was woken when this task was, and before anything else ran; it may run already.
        assert not line._waiting


async def test_who_waits_is_woken_by_a_send_and_in_the_order_of_coming(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        got: dict[str, object] = {}

        async def wait(name: str) -> None:
            got[name] = (await take(jobs)).payload

        async with anyio.create_task_group() as task_group:
            for name in ("first", "second", "third"):
                task_group.start_soon(wait, name)
                await anyio.wait_all_tasks_blocked()
            for number in (1, 2, 3):
                await jobs.send(number)
        assert got == {"first": 1, "second": 2, "third": 3}


async def test_who_waits_in_vain_gets_none_after_that_time(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        began = anyio.current_time()
        assert await jobs.receive(wait_seconds=0.05) is None
        assert anyio.current_time() - began > 0.04

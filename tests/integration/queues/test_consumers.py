"""Loops over messages: what they hold, what they give back, and that they rest."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.persistence import CommitFailedError, PersistenceRegistry
from mpreg.queues import (
    Consumer,
    LeaseLostError,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    Subscription,
)
from mpreg.queues.core import QueueCore
from mpreg.queues.cursor import DeliveryState
from mpreg.testing import Fault, FaultInjector, SimulatedDisk, Simulation
from tests.integration.queues.support import (
    GatedBackend,
    finished,
    open_queue,
    open_queues,
    open_simulated,
    payloads,
    take,
    virtual,
)

pytestmark = pytest.mark.anyio


async def test_a_loop_gets_every_message_in_order(data_dir: Path) -> None:
    for prefetch in (1, 3, 100):
        async with open_queue(data_dir) as jobs:
            await jobs.send_many(range(10))
            got = []
            async for message in jobs.consume(prefetch):
                got.append(message.payload)
                await message.ack()
                if len(got) == 10:
                    break
            assert got == list(range(10))
            assert jobs.statistics().size == 0


async def test_what_is_taken_ahead_costs_one_commit(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many(range(20))
        before = (await registry.stats()).commits
        messages: list[Message] = []
        async for message in jobs.consume(prefetch=20):
            messages.append(message)
            if len(messages) == 20:
                break
        assert (await registry.stats()).commits == before + 1


def test_the_lease_lasts_while_a_loop_works_on_a_message_and_on_those_before_it() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=1.0))
        await jobs.send_many(range(3))
        got = []
        async for message in jobs.consume(prefetch=3):
            assert await jobs.receive(wait_seconds=10_000.0) is None
            got.append((message.payload, message.attempt))
            await message.ack()
            if len(got) == 3:
                break
        assert got == [(0, 1), (1, 1), (2, 1)]
        assert jobs.statistics().size == 0

    virtual(story)


def test_a_message_that_a_loop_has_gone_on_from_has_its_lease_from_then() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=10.0))
        await jobs.send_many([0, 1])
        loop = jobs.consume(prefetch=2)
        await anext(loop)
        await anyio.sleep(1_000.0)
        second = await anext(loop)
        assert await jobs.receive(wait_seconds=9.0) is None
        assert (await take(jobs, 2.0)).payload == 0
        await second.ack()

    virtual(story)


async def test_a_message_acknowledged_after_the_loop_was_left_is_acknowledged(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1, 2])
        async for message in jobs.consume(prefetch=3):  # noqa: B007
            break
        assert jobs.statistics().in_flight == 1
        await message.ack()
        # Those taken ahead are there at once, and uncounted.
        others = await jobs.receive_many(3, wait_seconds=0)
        assert [(one.payload, one.attempt) for one in others] == [(1, 1), (2, 1)]


def test_the_message_that_a_loop_was_left_with_keeps_its_lease_and_no_longer() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=10.0))
        await jobs.send("x")
        async for _ in jobs.consume():
            break
        assert await jobs.receive(wait_seconds=9.0) is None
        assert (await take(jobs, 2.0)).attempt == 2

    virtual(story)


async def test_an_error_in_the_loop_gives_back_what_was_ahead_and_lets_the_lease_run(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async for _ in jobs.consume(prefetch=2):
                raise ZeroDivisionError
        assert jobs.statistics().in_flight == 1
        assert await finished(jobs, 1) == [1]


async def test_with_a_block_an_error_gives_the_message_back_at_once(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with jobs.consume(prefetch=2) as loop:
                async for _ in loop:
                    raise ZeroDivisionError
        messages = await jobs.receive_many(2)
        assert [(one.payload, one.attempt) for one in messages] == [(0, 2), (1, 1)]
        async with jobs.consume() as loop:
            pass
        assert isinstance(loop, Consumer)


async def test_cancelled_in_its_body_a_loop_gives_everything_back_at_once(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1, 2])
        with anyio.CancelScope() as scope:
            async for message in jobs.consume(prefetch=3):
                assert message.payload == 0
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        messages = await jobs.receive_many(3, wait_seconds=0)
        assert payloads(messages) == [0, 1, 2]
        # The one that was worked on counts: it may be what is wrong.
        assert [one.attempt for one in messages] == [2, 1, 1]


async def test_cancelled_while_it_waits_a_loop_has_taken_nothing(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:

        async def work() -> None:
            async for _ in jobs.consume(prefetch=2):
                raise AssertionError("not reached")

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
        await jobs.send_many([0, 1])
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(work)
            await backend.reached()
            task_group.cancel_scope.cancel()
        backend.open_gate()
        messages = [await take(jobs), await take(jobs)]
        assert [(one.payload, one.attempt) for one in messages] == [(0, 1), (1, 1)]


async def test_a_message_given_to_another_task_whose_ack_fails_comes_again(
    data_dir: Path,
) -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=0.1))
        await jobs.send("x")
        loop = jobs.consume()
        message = await anext(loop)

        async def ack() -> None:
            with pytest.raises(CommitFailedError):
                await message.ack()

        async with anyio.create_task_group() as task_group:
            faults.order(Fault.ROLLED_BACK)
            task_group.start_soon(ack)
            await until_settling(jobs)
            # The loop goes on while the ack is on its way, and its lease must end all the same.
            task_group.start_soon(next_one, loop)
        again = await take(jobs)
        assert again.attempt == 2
        with pytest.raises(LeaseLostError):
            await message.ack()


async def until_settling(jobs: MessageQueue) -> None:
    (state,) = jobs._core.state.subscriptions.values()
    while all(one.state is not DeliveryState.SETTLING for one in state.deliveries()):
        await anyio.lowlevel.checkpoint()


async def next_one(loop: Consumer) -> None:
    with anyio.move_on_after(0.01):
        await anext(loop)


# --- resting ---


def test_consumers_without_work_rest() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(message_ttl_seconds=1e6))
        audit = await jobs.subscription("audit")
        await jobs.send("later", delay_seconds=1e5)
        handled: list[object] = []

        async def work(source: MessageQueue | Subscription, wait: bool) -> None:
            if wait:
                first = await take(source, None)
                handled.append(first.payload)
                await first.ack()
            async for message in source.consume(prefetch=4):
                handled.append(message.payload)
                await message.ack()

        async with anyio.create_task_group() as task_group:
            for wait in [False, True] * 5:
                task_group.start_soon(work, jobs, wait)
                task_group.start_soon(work, audit, wait)
            await anyio.wait_all_tasks_blocked()
            # What was written is followed by upkeep, some seconds later.
            await anyio.sleep(100.0)
            steps, stats = simulation.steps, await registry.stats()
            await anyio.sleep(90_000.0)
            # The steps of this task itself: it has slept, and it asks.
            assert simulation.steps - steps <= 8
            assert (await registry.stats()) == stats
            await jobs.send("x")
            await anyio.sleep(1.0)
            assert handled == ["x", "x"]
            await anyio.sleep(10_000.0)
            assert handled == ["x", "x", "later", "later"]
            task_group.cancel_scope.cancel()

    virtual(story)


def test_one_message_wakes_one_of_those_who_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        woken = 0

        async def work() -> None:
            nonlocal woken
            async for message in jobs.consume():
                await message.ack()

        choose = QueueCore.choose

        def counted(*arguments: Any) -> Any:
            nonlocal woken
            woken += 1
            return choose(*arguments)

        async with anyio.create_task_group() as task_group:
            for _ in range(100):
                task_group.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            monkeypatch.setattr(QueueCore, "choose", counted)
            for number in range(10):
                await jobs.send(number)
                await anyio.sleep(1.0)
            # One that takes it, and once more to find that there is nothing else.
            assert woken == 20
            task_group.cancel_scope.cancel()

    virtual(story)


async def test_sends_wake_as_many_as_there_are_messages(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        busy = anyio.Event()
        working = 0

        async def work() -> None:
            nonlocal working
            async for message in jobs.consume():
                working += 1
                if working == 5:
                    busy.set()
                await busy.wait()
                await message.ack()

        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(work)
            await anyio.wait_all_tasks_blocked()
            await jobs.send_many(range(5))
            with anyio.fail_after(60):
                await busy.wait()
            task_group.cancel_scope.cancel()

"""The right to a message: for how long, for whom, and what becomes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.persistence import InvalidArgumentError, PersistenceRegistry
from mpreg.queues import (
    LeaseLostError,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
)
from mpreg.queues.core import SNAPSHOT_AFTER_CHANGES
from mpreg.queues.storage import QueueStorage
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    GatedBackend,
    copied_while_open,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    until,
    virtual,
)

pytestmark = pytest.mark.anyio


async def assert_it_is_lost(message: Message) -> None:
    """Nothing that the holder of an old delivery does is of any effect."""
    with pytest.raises(LeaseLostError, match="nothing was changed"):
        await message.ack()
    with pytest.raises(LeaseLostError, match="nothing was changed"):
        await message.nack(0, "no")
    with pytest.raises(LeaseLostError, match="nothing was changed"):
        await message.extend(100.0)


async def test_a_message_that_is_handed_out_is_nobody_elses(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        assert (await take(jobs)).payload == 0
        assert (await take(jobs)).payload == 1
        assert await jobs.receive(wait_seconds=0.02) is None
        assert jobs.statistics().in_flight == 2


def test_when_its_lease_is_over_another_gets_it_and_the_first_cannot_settle_it() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=30.0))
        await jobs.send("x")
        old = await take(jobs)
        new = await take(jobs, 31.0)
        assert (old.id, old.attempt) == (new.id, 1)
        assert new.attempt == 2
        before = jobs.statistics()
        await assert_it_is_lost(old)
        assert jobs.statistics() == before
        assert jobs.statistics().in_flight == 1
        await new.ack()
        assert jobs.statistics().size == 0

    virtual(story)


async def test_a_lease_that_is_over_is_lost_also_while_nobody_else_has_the_message(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        message = await take(jobs)
        await message.extend(0)
        await assert_it_is_lost(message)
        assert (await take(jobs)).attempt == 2


def test_a_lease_lasts_exactly_as_long_as_configured_or_extended() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=30.0))
        await jobs.send("x")
        began = anyio.current_time()
        await take(jobs, None)
        message = await take(jobs, None)
        assert anyio.current_time() - began == pytest.approx(30.0)
        await anyio.sleep(20.0)
        await message.extend()
        await anyio.sleep(20.0)
        await message.extend(3_600.0)
        assert await jobs.receive(wait_seconds=3_599.0) is None
        assert (await take(jobs, 2.0)).attempt == 3
        with pytest.raises(LeaseLostError):
            await message.ack()

    virtual(story)


def test_a_lease_may_be_made_shorter() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        await jobs.send("x")
        message = await take(jobs)
        await message.extend(1.0)
        assert (await take(jobs, 1.5)).attempt == 2

    virtual(story)


async def test_an_extension_that_is_none_is_refused(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        message = await take(jobs)
        wrong: list[Any] = [-1, float("nan"), float("inf"), "1", True]
        for seconds in wrong:
            with pytest.raises(InvalidArgumentError, match="lease_seconds"):
                await message.extend(seconds)
            with pytest.raises(InvalidArgumentError, match="delay_seconds"):
                await message.nack(seconds)
        with pytest.raises(InvalidArgumentError, match="reason"):
            await message.nack(0, None)  # type: ignore[arg-type]
        await message.ack()


async def test_a_message_is_settled_once(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        acked, nacked = await jobs.receive_many(2)
        await acked.ack()
        await assert_it_is_lost(acked)
        await nacked.nack(100.0)
        await assert_it_is_lost(nacked)
        statistics = jobs.statistics()
        assert (statistics.acknowledged, statistics.size, statistics.delayed) == (1, 1, 1)


async def test_of_two_acks_at_the_same_time_one_is_told_that_it_is_the_second(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        message = await take(jobs)
        outcomes: list[str] = []

        async def ack() -> None:
            try:
                await message.ack()
            except LeaseLostError:
                outcomes.append("lost")
            else:
                outcomes.append("acked")

        async with anyio.create_task_group() as task_group:
            for _ in range(3):
                task_group.start_soon(ack)
        assert sorted(outcomes) == ["acked", "lost", "lost"]
        assert jobs.statistics().acknowledged == 1


async def test_many_are_acknowledged_all_or_none(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        other = await queues.create_queue("other")
        await jobs.send_many(range(4))
        await other.send("of another queue")
        messages = await jobs.receive_many(4)
        await messages[3].ack()
        before = jobs.statistics()
        with pytest.raises(LeaseLostError):
            await jobs.ack(messages)
        with pytest.raises(InvalidArgumentError, match="twice"):
            await jobs.ack([messages[0], messages[0]])
        with pytest.raises(InvalidArgumentError, match="not of queue 'jobs'"):
            await jobs.ack([messages[0], await take(other)])
        assert jobs.statistics() == before
        commits = (await registry.stats()).commits
        await jobs.ack(messages[:3])
        assert (await registry.stats()).commits == commits + 1
        assert jobs.statistics().size == 0
        await jobs.ack([])


async def test_messages_of_several_subscriptions_are_acknowledged_together(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send_many([0, 1])
        await jobs.ack(await jobs.receive_many(2) + await audit.receive_many(2))
        assert jobs.statistics().size == 0


async def test_a_purged_message_is_lost_to_its_holder(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
        message = await take(jobs)
        assert await jobs.purge() == 2
        await assert_it_is_lost(message)
        assert await jobs.receive(wait_seconds=0) is None
        await jobs.send(2)
        assert await finished(jobs, 1) == [2]
    async with open_queue(data_dir) as jobs:
        assert await jobs.receive(wait_seconds=0) is None
        assert jobs.statistics().size == 0


# --- cancelled ---


async def test_cancelled_while_waiting_a_receiver_takes_nothing(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.receive)
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
        await jobs.send("x")
        message = await take(jobs)
        assert message.attempt == 1


async def test_cancelled_just_when_it_was_woken_it_leaves_the_message_to_the_next(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        got: list[object] = []
        scope = anyio.CancelScope()

        async def first() -> None:
            with scope:
                got.append(("first", await jobs.receive()))

        async def second() -> None:
            got.append(("second", (await take(jobs)).payload))

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            # In the same turn as the call, which comes with the commit.
            cancel_when_called(jobs, scope)
            await jobs.send("x")
        assert got == [("second", "x")]


def cancel_when_called(jobs: MessageQueue, scope: anyio.CancelScope) -> None:
    line = jobs._core.lines["default"]
    (waiter, *_) = line._waiting
    wake = waiter.place.set_result

    class Place:
        def done(self) -> bool:
            return False

        def set_result(self, result: None) -> None:
            wake(result)
            scope.cancel()

    waiter.place = Place()  # type: ignore[assignment]


async def test_one_that_is_called_takes_for_those_behind_it_in_one_write(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        got: dict[int, list[Any]] = {}

        async def wait(number: int, count: int) -> None:
            got[number] = payloads(await jobs.receive_many(count))

        async with anyio.create_task_group() as task_group:
            for number, count in enumerate((1, 3, 1, 2, 5)):
                task_group.start_soon(wait, number, count)
                await anyio.wait_all_tasks_blocked()
            before = (await registry.stats()).operations
            await jobs.send_many(range(8))
        assert got == {0: [0], 1: [1, 2, 3], 2: [4], 3: [5, 6], 4: [7]}
        # The send, and the attempts of all.
        assert (await registry.stats()).operations == before + 2
    async with open_queue(data_dir) as jobs:
        assert [(await take(jobs)).attempt for _ in range(8)] == [2] * 8


async def test_what_is_purged_while_its_attempt_is_written_is_handed_out_to_nobody(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many([0, 1])
        got: list[Any] = []

        async def wait() -> None:
            message = await take(jobs)
            got.append((message.payload, message.attempt))
            await message.ack()

        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.purge)
            await backend.reached()
            # Behind the purge, and not knowing of it: one takes for the other, too.
            task_group.start_soon(wait)
            task_group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
            await jobs.send("after")
            await jobs.send("after")
        assert got == [("after", 1)] * 2


@pytest.mark.parametrize("cancelled", [0, 1, 2])
async def test_one_of_those_served_together_that_is_cancelled_gives_its_own_back(
    data_dir: Path, cancelled: int
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        got: dict[int, Any] = {}
        scopes = [anyio.CancelScope() for _ in range(3)]

        async def wait(number: int) -> None:
            with scopes[number]:
                got[number] = (await take(jobs)).payload

        async with anyio.create_task_group() as task_group:
            for number in range(3):
                task_group.start_soon(wait, number)
                await anyio.wait_all_tasks_blocked()
            backend.close_gate()
            task_group.start_soon(jobs.send_many, range(3))
            await backend.reached()
            # The send is committed; the next commit, that of the attempts, waits.
            backend.open_gate()
            backend.close_gate()
            await backend.reached()
            scopes[cancelled].cancel()
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert got == {number: number for number in range(3) if number != cancelled}
        message = await take(jobs)
        assert (message.payload, message.attempt) == (cancelled, 1)
        assert await jobs.receive(wait_seconds=0) is None


async def test_cancelled_while_its_attempt_is_written_it_gives_the_message_back_uncounted(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    settings = QueueConfiguration(max_deliveries=1)
    async with open_queue(data_dir, settings, backend=backend) as jobs:
        for count in (1, 2):
            await jobs.send_many([0, 1])
            backend.close_gate()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(jobs.receive_many, count)
                await backend.reached()
                task_group.cancel_scope.cancel()
            backend.open_gate()
            # There is one attempt only, and it was not used up.
            messages = [await take(jobs), await take(jobs)]
            assert sorted(payloads(messages)) == [0, 1]
            assert [message.attempt for message in messages] == [1, 1]
            await jobs.ack(messages)
        assert jobs.statistics().dead == 0


async def test_what_was_given_back_unseen_is_still_uncounted_after_a_restart(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(max_deliveries=1)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many([0, 1, 2])
        async for message in jobs.consume(prefetch=3):
            await message.ack()
            break
        # The note goes with the upkeep, before anything that is written from now on.
        await anyio.wait_all_tasks_blocked()
        await jobs.send("x")
    async with open_queue(data_dir) as jobs:
        message = await take(jobs)
        assert (message.payload, message.attempt) == (1, 1)
        assert await finished(jobs, 2) == [2, "x"]


async def test_what_was_given_back_unseen_is_forgiven_once_also_where_a_snapshot_comes_between(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, QueueConfiguration(max_deliveries=2), backend=backend) as jobs:
        await jobs.send_many([0, 1])
        async for message in jobs.consume(prefetch=2):
            await message.ack()
            break
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            # With its attempt goes the note, and the state is saved while both are on their way.
            task_group.start_soon(jobs.receive)
            await backend.reached()
            jobs._core.changes = SNAPSHOT_AFTER_CHANGES
            jobs._core.ask_for_upkeep()
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        await until(lambda: jobs._core.changes < SNAPSHOT_AFTER_CHANGES)
        killed = copied_while_open(data_dir)
    async with open_queue(killed) as jobs:
        message = await take(jobs)
        assert (message.payload, message.attempt) == (1, 2)


async def test_a_receiver_cancelled_while_it_reads_leaves_the_message_to_the_next(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs")
        # No message stays in memory beside the last one, so that this one has to be read.
        queues._queues.bodies.bytes_max = 0
        await jobs.send_many([0, 1])
        held = await take(jobs)
        await finished(jobs, 1)
        await jobs.send(2, delay_seconds=100.0)
        got: list[object] = []
        reading = anyio.CancelScope()

        async def first() -> None:
            with reading:
                got.append(await jobs.receive())

        async def second() -> None:
            got.append((await take(jobs)).payload)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(first)
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(second)
            await anyio.wait_all_tasks_blocked()
            read_ahead = QueueStorage.read_ahead

            async def read_and_cancel(*arguments: Any) -> Any:
                reading.cancel()
                await anyio.lowlevel.checkpoint()
                return await read_ahead(*arguments)

            monkeypatch.setattr(QueueStorage, "read_ahead", read_and_cancel)
            # With the end of this lease the first one is woken, and reads.
            await held.extend(0)
        assert got == [0]
        with pytest.raises(LeaseLostError):
            await held.ack()


async def test_a_cancelled_ack_may_still_happen_and_is_never_half_done(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send("x")
        message = await take(jobs)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(message.ack)
            await backend.reached()
            task_group.cancel_scope.cancel()
        # Nobody gets it while it cannot be told, not even when its lease would have ended.
        jobs._core.tick(anyio.current_time() + 2 * jobs.configuration.lease_seconds)
        assert (jobs.statistics().pending, jobs.statistics().in_flight) == (0, 1)
        assert await jobs.receive(wait_seconds=0) is None
        backend.open_gate()
        await jobs.send("y")
        assert await finished(jobs, 1) == ["y"]
        assert jobs.statistics().acknowledged == 2

"""What a queue is after its process ended: in order, or not."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from copy import deepcopy
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.backend import RecordsPage
from mpreg.queues import MessageQueue, MessageQueueManager, QueueConfiguration, QueueType
from mpreg.queues.core import UPKEEP_AFTER_START_SECONDS
from mpreg.testing import FaultInjector, SimulatedBackend, SimulatedDisk
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
from tests.integration.support import OpenBackend, config

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("killed", [False, True])
async def test_leases_are_gone_at_once_with_their_attempts_counted(
    data_dir: Path, killed: bool
) -> None:
    settings = QueueConfiguration(lease_seconds=10_000.0)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many([0, 1, 2, 3])
        await (await take(jobs)).ack()
        await take(jobs)
        await (await take(jobs)).nack(0)
        if killed:
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        messages = await jobs.receive_many(10, wait_seconds=0)
        assert [(one.payload, one.attempt) for one in messages] == [(1, 2), (2, 2), (3, 1)]
        statistics = jobs.statistics()
        assert (statistics.sent, statistics.acknowledged, statistics.size) == (4, 1, 3)


@pytest.mark.parametrize("killed", [False, True])
async def test_everything_acknowledged_is_as_it_was(data_dir: Path, killed: bool) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=2)
    async with open_queue(data_dir, settings) as jobs:
        audit = await jobs.subscription("audit", "a.#")
        for number in range(30):
            await jobs.send(number, priority=number % 3, topic="a.b" if number % 2 else "c")
        await jobs.send("later", delay_seconds=10_000.0)
        await finished(jobs, 7)
        await finished(audit, 4)
        for _ in range(2):
            await (await take(jobs)).nack(0, "twice")
        await (await take(jobs)).nack(10_000.0, "once")
        # It has passed over what is not for it, which nothing is written about.
        assert len(await audit.receive_many(100)) == 11
        before = jobs.statistics()
        letters = await jobs.dead_letters()
        if killed:
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        held = []
        # Each call takes what is in memory, and at least one.
        while more := await audit.receive_many(100, wait_seconds=0):
            held += more
        assert [message.attempt for message in held] == [2] * 11
        await until(lambda: jobs.statistics().bytes == before.bytes)
        after = jobs.statistics()
        for name in ("dead", "size", "sent", "acknowledged", "expired"):
            assert getattr(after, name) == getattr(before, name), name
        assert await jobs.dead_letters() == letters
        assert jobs.statistics().subscriptions["default"].delayed == 1
        rest = 0
        while more := await jobs.receive_many(100, wait_seconds=0):
            rest += len(more)
        assert rest == 30 - 7 - 2


async def test_a_killed_process_keeps_what_it_was_told_and_no_message_twice(
    data_dir: Path,
) -> None:
    """Copies of the directory while many write: all that was acked is in each of them."""
    async with open_queue(data_dir) as jobs:
        sent: set[int] = set()
        done: set[int] = set()
        known: list[tuple[Path, set[int], set[int]]] = []

        async def send(first: int) -> None:
            for number in range(first, first + 20):
                await jobs.send(number)
                sent.add(number)

        async def work() -> None:
            while len(done) < 80:
                if (message := await jobs.receive(wait_seconds=0.05)) is not None:
                    await message.ack()
                    done.add(message.payload)
                    if len(done) % 25 == 0:
                        known.append((Path(), set(sent), set(done)))
                        copy = copied_while_open(data_dir)
                        copy = copy.rename(f"{copy} {len(known)}")
                        known[-1] = (copy, set(sent), set(done))

        async with anyio.create_task_group() as task_group:
            for first in range(0, 80, 20):
                task_group.start_soon(send, first)
            for _ in range(3):
                task_group.start_soon(work)
    assert len(known) == 3
    for copy, was_sent, was_done in known:
        async with open_queue(copy) as jobs:
            found = payloads(await jobs.receive_many(1_000, wait_seconds=0))
            assert len(found) == len(set(found))
            assert was_sent - was_done <= set(found) | done
            assert not was_done & set(found)


@pytest.mark.parametrize("anyio_backend", ["trio"])
async def test_many_pending_messages_are_ready_without_being_read(data_dir: Path) -> None:
    count = 100_000
    async with open_queue(data_dir) as jobs:
        for start in range(0, count, 10_000):
            await jobs.send_many(range(start, start + 10_000))
        await jobs.ack(await jobs.receive_many(10))
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as registry:
        jobs = await MessageQueueManager(registry).get_queue("jobs")
        assert jobs.statistics().pending == count - 10
        message = await take(jobs)
        assert message.payload == 10
        read = sum(len(page.records) for page in backend.results if isinstance(page, RecordsPage))
        # One page of them, and, where this takes longer, what the upkeep counts.
        await message.ack()
        assert read < 10_000


def test_upkeep_lets_those_who_come_first_after_a_start_go_ahead() -> None:
    """It may have to read all there is."""
    disk, left = SimulatedDisk(), SimulatedDisk()

    def live(on: SimulatedDisk, story: Callable[[MessageQueue], Awaitable[None]]) -> None:
        async def told(_: PersistenceRegistry, queues: MessageQueueManager, __: object) -> None:
            await story(await queues.create_queue("jobs"))

        virtual(told, SimulatedBackend(on, FaultInjector()))

    async def send_and_be_killed(jobs: MessageQueue) -> None:
        nonlocal left
        # More than the number of changes after which the state is saved.
        await jobs.send_many(range(5_000))
        left = deepcopy(disk)
        left.kill_process()

    async def receive(jobs: MessageQueue) -> None:
        core, lane = jobs._core, jobs._core.state.lane(0)
        for _ in range(100):
            await (await take(jobs)).ack()
        await anyio.sleep(0.9 * UPKEEP_AFTER_START_SECONDS)
        assert not lane.is_measured
        assert core.changes > 5_000
        await anyio.sleep(0.2 * UPKEEP_AFTER_START_SECONDS)
        assert lane.measured_to == lane.end
        assert core.changes == 0, "it was saved"

    live(disk, send_and_be_killed)
    live(left, receive)


async def test_the_state_is_saved_from_time_to_time_and_the_events_dropped(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(range(5_000))
        events = jobs._core.storage.events
        for _ in range(2):
            for _ in range(10):
                messages = await jobs.receive_many(100)
                await jobs.ack([one for one in messages if one.payload % 10])
            await jobs.send_many(range(4_096), priority=1, delay_seconds=10_000.0)
            await until(lambda: jobs._core.changes < 4_096)
        before = jobs.statistics()
        # With a second snapshot the events before the first one are needless.
        with anyio.fail_after(60):
            while await events.first_offset() == 0:
                await anyio.sleep(0.002)
    async with open_queue(data_dir) as jobs:
        after = jobs.statistics()
        assert (after.size, after.acknowledged) == (before.size, before.acknowledged)
        assert after.size == 5_000 - 1_800 + 2 * 4_096
        assert payloads(await jobs.receive_many(3)) == [0, 10, 20]


async def test_an_open_send_is_there_after_a_restart_or_not_and_never_half(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queues(data_dir, backend=backend) as (_, queues):
        jobs = await queues.create_queue("jobs")
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.send_many, range(100))
            await backend.reached()
            before = copied_while_open(data_dir).rename(data_dir.with_name("before"))
            backend.open_gate()
        after = copied_while_open(data_dir).rename(data_dir.with_name("after"))
    for copy, expected in ((before, 0), (after, 100)):
        async with open_queue(copy) as jobs:
            assert jobs.statistics().size == expected

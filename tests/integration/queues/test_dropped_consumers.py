"""Consumers that nobody has any more, wherever the garbage collector finds them."""

from __future__ import annotations

import asyncio
import gc
import math
import weakref
from collections.abc import Awaitable, Callable, Iterator
from contextvars import Context
from pathlib import Path

import anyio
import anyio.to_thread
import pytest
import sniffio
import trio

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueue, MessageQueueManager, QueueConfiguration
from mpreg.testing import Simulation
from tests.integration.queues.support import open_queue, take, virtual

pytestmark = pytest.mark.anyio

#: So long that a lease ends within the test only where it was told to.
LONG = QueueConfiguration(lease_seconds=1_000.0)


@pytest.fixture(autouse=True)
def _only_when_told() -> Iterator[None]:
    """The garbage collector runs when a test says so."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


async def leave_in_a_cycle(jobs: MessageQueue) -> weakref.ref[object]:
    """Take three messages and leave the loop at the first one; what is left of it is in a cycle, as
    it is where its exception is kept."""
    consumer = jobs.consume(prefetch=3)
    assert (await anext(consumer)).payload == 0
    cycle: list[object] = [consumer]
    cycle.append(cycle)
    return weakref.ref(consumer)


async def collect_in_a_thread() -> None:
    await anyio.to_thread.run_sync(gc.collect)


async def collect_between_tasks() -> None:
    """In the event loop's thread, where no task runs."""
    collected = anyio.Event()

    class Collect(trio.abc.Instrument):
        def before_io_wait(self, timeout: float) -> None:
            collect()

    def collect() -> None:
        gc.collect()
        collected.set()

    if sniffio.current_async_library() == "asyncio":
        asyncio.get_running_loop().call_soon(collect, context=Context())
        await collected.wait()
    else:
        instrument = Collect()
        trio.lowlevel.add_instrument(instrument)
        await anyio.sleep(0.001)
        trio.lowlevel.remove_instrument(instrument)
        assert collected.is_set()


COLLECTS = [collect_between_tasks, collect_in_a_thread]


@pytest.mark.parametrize("collect", COLLECTS)
async def test_a_loop_found_later_gives_back_what_was_ahead_and_lets_the_lease_run(
    data_dir: Path, collect: Callable[[], Awaitable[None]]
) -> None:
    async with open_queue(data_dir, LONG) as jobs:
        await jobs.send_many([0, 1, 2])
        consumer = await leave_in_a_cycle(jobs)
        assert consumer() is not None
        assert jobs.statistics().in_flight == 3
        (subscription,) = jobs._core.state.subscriptions.values()
        assert subscription.next_due() is None
        await collect()
        assert consumer() is None
        assert jobs.statistics().in_flight == 1
        messages = await jobs.receive_many(3, wait_seconds=0)
        # Nobody had seen them: it does not count.
        assert [(one.payload, one.attempt) for one in messages] == [(1, 1), (2, 1)]
        await jobs.ack(messages)
        # The first one may still be worked on, and for no longer than a lease.
        due = subscription.next_due()
        assert due is not None
        assert anyio.current_time() < due < math.inf
        assert await jobs.receive(wait_seconds=0) is None


@pytest.mark.parametrize("collect", COLLECTS)
async def test_who_waits_is_woken_for_what_a_loop_found_later_gives_back(
    data_dir: Path, collect: Callable[[], Awaitable[None]]
) -> None:
    async with open_queue(data_dir, LONG) as jobs:
        await jobs.send_many([0, 1, 2])
        await leave_in_a_cycle(jobs)
        got: list[object] = []

        async def receive() -> None:
            got.append((await take(jobs)).payload)

        async with anyio.create_task_group() as task_group:
            for _ in range(2):
                task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            await collect()
        assert sorted(map(str, got)) == ["1", "2"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_a_loop_in_a_task_that_asyncio_cancels_by_itself_gives_back_all(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, LONG) as jobs:
        await jobs.send_many([0, 1, 2])
        working = anyio.Event()

        async def work() -> None:
            async for _ in jobs.consume(prefetch=3):
                working.set()
                await asyncio.sleep(1_000)

        task = asyncio.ensure_future(work())
        await working.wait()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        messages = await jobs.receive_many(3, wait_seconds=0)
        assert [(one.payload, one.attempt) for one in messages] == [(0, 2), (1, 1), (2, 1)]


def test_the_message_of_a_loop_found_later_comes_again_when_its_lease_has_ended() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=10.0))
        await jobs.send_many([0, 1, 2])
        await leave_in_a_cycle(jobs)
        await anyio.sleep(1_000.0)
        assert jobs.statistics().in_flight == 3
        began = anyio.current_time()
        await collect_between_tasks()
        for payload in (1, 2):
            message = await take(jobs, 0)
            assert message.payload == payload
            await message.ack()
        message = await take(jobs, 100.0)
        assert (message.payload, message.attempt) == (0, 2)
        assert anyio.current_time() - began == pytest.approx(10.0)

    virtual(story)

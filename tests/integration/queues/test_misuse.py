"""Arguments that mean nothing are refused before anything is done, and said so."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.to_thread
import pytest

from mpreg.persistence import InvalidArgumentError
from mpreg.queues import Message, MessageQueue, MessageQueueManager, QueueConfiguration
from tests.integration.queues.support import open_queue, open_queues, take
from tests.integration.threads import LIBRARIES, refused_elsewhere

pytestmark = pytest.mark.anyio

Wrong = Callable[[Any, Any], Awaitable[object]]


async def scan(jobs: MessageQueue, after: Any) -> None:
    async for _ in jobs.scan_dead_letters(after):
        pass


WRONG: dict[str, Wrong] = {
    "a str of letters to redrive": lambda jobs, _: jobs.redrive("1-3"),
    "no letters to redrive": lambda jobs, _: jobs.redrive(7),
    "a name to redrive to": lambda jobs, _: jobs.redrive(to="x"),
    "a str of letters to purge": lambda jobs, _: jobs.purge_dead_letters("1-3"),
    "bytes of letters to purge": lambda jobs, _: jobs.purge_dead_letters(b"1-3"),
    "a str of payloads": lambda jobs, _: jobs.send_many("abc"),
    "a mapping of payloads": lambda jobs, _: jobs.send_many({"k": 1}),
    "bytes of payloads": lambda jobs, _: jobs.send_many(b"ab"),
    "one payload for many": lambda jobs, _: jobs.send_many(5),
    "no payloads, a wait": lambda jobs, _: jobs.send_many([], wait_seconds=-1),
    "no payloads, a topic": lambda jobs, _: jobs.send_many([], topic=5),
    "no payloads, a priority": lambda jobs, _: jobs.send_many([], priority=-3),
    "no payloads, a transaction": lambda jobs, _: jobs.send_many([], transaction="x"),
    "a wait below zero": lambda jobs, _: jobs.send(1, wait_seconds=-1),
    "a wait for once": lambda jobs, _: jobs.send(1, wait_seconds=-1, deduplication_id="a"),
    "a wait that is no number": lambda jobs, _: jobs.send(1, wait_seconds="x"),
    "a transaction to send in": lambda jobs, _: jobs.send(1, transaction="x"),
    "a transaction to send once in": lambda jobs, _: jobs.send(
        1, transaction="x", deduplication_id="a"
    ),
    "ids to acknowledge": lambda jobs, _: jobs.ack(["id"]),
    "a str to acknowledge": lambda jobs, _: jobs.ack("id"),
    "one message to acknowledge": lambda jobs, message: jobs.ack(message),
    "a transaction to acknowledge in": lambda jobs, message: jobs.ack([message], transaction="x"),
    "a transaction for an ack": lambda _, message: message.ack(transaction="x"),
    "a transaction for a nack": lambda _, message: message.nack(transaction="x"),
    "an offset to scan after": lambda jobs, _: scan(jobs, 5),
    "a limit below zero": lambda jobs, _: jobs.dead_letters(-1),
    "a limit that is no number": lambda jobs, _: jobs.dead_letters("a"),
    "a start for one that is there": lambda jobs, _: jobs.subscription("default", start="x"),
    "a start for a new one": lambda jobs, _: jobs.subscription("new", start=-1),
    "a delay as long as its life": lambda jobs, _: jobs.send(1, delay_seconds=2.0, ttl_seconds=2.0),
    "a delay beyond the life of all": lambda jobs, _: jobs.send_many([1], delay_seconds=5_000.0),
    "no life at all": lambda jobs, _: jobs.send(1, ttl_seconds=0),
}


@pytest.mark.parametrize("name", WRONG)
async def test_what_means_nothing_is_refused_and_nothing_is_done(data_dir: Path, name: str) -> None:
    settings = QueueConfiguration(max_deliveries=1, message_ttl_seconds=3_600.0)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(["dead", "held"])
        await (await take(jobs)).nack()
        held: Message = await take(jobs)
        before = jobs.statistics()
        with pytest.raises(InvalidArgumentError):
            await WRONG[name](jobs, held)
        assert jobs.statistics() == before
        # Also it is still its holder's.
        await held.ack()


async def test_a_delay_within_the_life_of_a_message_is_none_of_it(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(message_ttl_seconds=3_600.0)) as jobs:
        await jobs.send("own", delay_seconds=0.01, ttl_seconds=1_000.0)
        await jobs.send("longer", delay_seconds=4_000.0, ttl_seconds=5_000.0)
        assert (await take(jobs)).payload == "own"
        assert await jobs.send_many([]) == []


async def counted(queue: Any) -> object:
    return queue.statistics()


IN_ANOTHER_THREAD: dict[str, Wrong] = {
    "a send": lambda jobs, _: jobs.send(2),
    "several sends": lambda jobs, _: jobs.send_many([2, 3]),
    "a receive": lambda jobs, _: jobs.receive(0),
    "a receive of a subscription": lambda jobs, _: jobs._subscriptions.find("default").receive(0),
    "a loop": lambda jobs, _: anext(jobs.consume()),
    "an ack": lambda _, message: message.ack(),
    "an ack of several": lambda jobs, message: jobs.ack([message]),
    "a nack": lambda _, message: message.nack(),
    "more time": lambda _, message: message.extend(),
    "a new subscription": lambda jobs, _: jobs.subscription("new"),
    "a purge": lambda jobs, _: jobs.purge(),
    "a deletion of a subscription": lambda jobs, _: jobs.delete_subscription("none"),
    "counts": lambda jobs, _: counted(jobs),
    "counts of a subscription": lambda jobs, _: counted(jobs._subscriptions.find("default")),
}


@LIBRARIES
@pytest.mark.parametrize("what", IN_ANOTHER_THREAD)
async def test_a_call_in_another_threads_event_loop_is_refused_and_changes_nothing(
    data_dir: Path, what: str, library: str
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send(1)
        message = await take(jobs)
        await refused_elsewhere(lambda: IN_ANOTHER_THREAD[what](jobs, message), library)
        assert (jobs.statistics().sent, list(jobs.statistics().subscriptions)) == (1, ["default"])
        await message.ack()
        assert jobs.statistics().size == 0


@LIBRARIES
async def test_a_change_in_another_thread_is_refused_also_while_another_one_is_under_way(
    data_dir: Path, library: str
) -> None:
    async with open_queue(data_dir) as jobs, jobs._subscriptions._changing:
        await refused_elsewhere(lambda: jobs.subscription("new"), library)
        await refused_elsewhere(lambda: jobs.delete_subscription("default"), library)


@LIBRARIES
async def test_a_loop_that_is_refused_in_another_thread_keeps_its_message(
    data_dir: Path, library: str
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send(1)
        async with jobs.consume() as messages:
            message = await anext(messages)
            assert message._lease is not None

            async def close() -> None:
                messages.close(give_back_current=True)

            await refused_elsewhere(lambda: anext(messages), library)
            await refused_elsewhere(close, library)
            # It is held until the loop goes on, or is left.
            assert message._lease.delivery.due == math.inf
            await message.ack()


async def listed(queues: MessageQueueManager) -> object:
    return queues.open_queues()


MANAGED: dict[str, Callable[[MessageQueueManager], Awaitable[object]]] = {
    "made": lambda queues: queues.create_queue("new"),
    "found": lambda queues: queues.get_queue("jobs"),
    "changed": lambda queues: queues.create_queue("jobs", QueueConfiguration(max_deliveries=9)),
    "deleted": lambda queues: queues.delete_queue("jobs"),
    "named": lambda queues: queues.queue_names(),
    "listed": listed,
}


@LIBRARIES
@pytest.mark.parametrize("what", MANAGED)
async def test_queues_are_not_managed_in_another_thread(
    data_dir: Path, what: str, library: str
) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs")
        await refused_elsewhere(lambda: MANAGED[what](queues), library)
        assert await queues.queue_names() == ["jobs"]
        assert jobs.configuration == QueueConfiguration()
        await jobs.send(1)


async def test_a_call_is_made_from_another_thread_through_its_event_loop(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:

        def elsewhere() -> str:
            return anyio.from_thread.run(jobs.send, 1)

        message_id = await anyio.to_thread.run_sync(elsewhere)
        assert (await take(jobs)).id == message_id

"""Attempts, retries, and what becomes of messages that nobody can work on."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.persistence import InvalidArgumentError, PersistenceRegistry
from mpreg.queues import (
    DeliveryGuarantee,
    LeaseLostError,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueFullError,
    QueueType,
)
from mpreg.queues.dead_letters import MOVED_PER_BATCH, find_dead_letters
from mpreg.queues.storage import QueueStorage
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    TurnedClock,
    copied_while_open,
    count_rows,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    until,
    virtual,
)

pytestmark = pytest.mark.anyio

#: Their one lease lasts for as long as it takes to give many of them back.
ONCE = QueueConfiguration(max_deliveries=1, lease_seconds=10_000.0)


async def kill(jobs: MessageQueue, count: int = 1) -> None:
    """Let the next messages, which have one attempt, become dead letters."""
    for _ in range(count):
        message = await take(jobs)
        await message.nack(reason=f"no use for {message.payload}")


# --- many at once ---


async def test_of_many_that_die_at_once_the_first_is_buried_first_and_many_in_one_commit(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(max_deliveries=1, lease_seconds=0.01)
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send_many(range(300))
        assert len(await jobs.receive_many(300)) == 300
        before = (await registry.stats()).commits
        await until(lambda: jobs.statistics().dead == 300)
        assert (await registry.stats()).commits - before < 30
        keys = list(jobs._core.state.dead)
        assert keys == sorted(keys)


# --- attempts ---


async def test_a_message_that_kills_every_consumer_ends_as_a_dead_letter(data_dir: Path) -> None:
    settings = QueueConfiguration(max_deliveries=3)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send("poison")
    for attempt in (1, 2, 3):
        async with open_queue(data_dir) as jobs:
            assert (await take(jobs)).attempt == attempt
            # The process dies with the message in its hands: all that is known is on disk.
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        assert await jobs.receive(wait_seconds=0) is None
        await until(lambda: jobs.statistics().dead == 1)
        (letter,) = await jobs.dead_letters()
        assert (letter.payload, letter.attempts) == ("poison", 3)
        assert letter.reason == "used up its 3 deliveries"
        assert jobs.statistics().size == 0
    async with open_queue(data_dir) as jobs:
        assert payloads(await jobs.dead_letters()) == ["poison"]
        assert await jobs.receive(wait_seconds=0) is None


async def test_leases_that_run_out_are_attempts_too(data_dir: Path) -> None:
    settings = QueueConfiguration(max_deliveries=2, lease_seconds=0.05)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send("slow")
        assert [(await take(jobs)).attempt for _ in range(2)] == [1, 2]
        await until(lambda: jobs.statistics().dead == 1)
        (letter,) = await jobs.dead_letters()
        assert (letter.attempts, letter.last_error) == (2, "its lease ran out")


async def test_an_attempt_is_on_disk_before_anybody_has_the_message(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send("x")
        before = (await registry.stats()).durable_sequence
        await take(jobs)
        after = await registry.stats()
        assert after.durable_sequence == after.commit_sequence == before + 1


async def test_a_nack_names_its_delay_or_the_configuration_does(data_dir: Path) -> None:
    settings = QueueConfiguration(retry_delay_seconds=0.1)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send("x")
        began = anyio.current_time()
        await (await take(jobs)).nack(reason="configured")
        await (await take(jobs)).nack(0)
        assert anyio.current_time() - began >= 0.1
        await (await take(jobs)).nack(0.1)
        assert (await take(jobs)).attempt == 4
        assert anyio.current_time() - began >= 0.2


def test_retries_come_later_each_time_up_to_a_limit() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(
            max_deliveries=7,
            retry_delay_seconds=2.0,
            retry_delay_factor=3.0,
            retry_delay_seconds_max=100.0,
        )
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send("y")
        waits = []
        message = await take(jobs)
        for _ in range(6):
            await message.nack()
            began = anyio.current_time()
            message = await take(jobs, None)
            waits.append(round(anyio.current_time() - began, 3))
        assert waits == [2.0, 6.0, 18.0, 54.0, 100.0, 100.0]

    virtual(story)


async def test_a_wait_for_the_next_attempt_goes_on_over_a_restart(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_queue(data_dir, clock=clock) as jobs:
        await jobs.send_many(["x", "y"])
        await (await take(jobs)).nack(100.0, "later")
        await (await take(jobs)).nack(200.0, "later")
    clock.now += 50.0
    async with open_queue(data_dir, clock=clock) as jobs:
        assert jobs.statistics().delayed == 2
        assert await jobs.receive(wait_seconds=0) is None
    clock.now += 49.95
    async with open_queue(data_dir, clock=clock) as jobs:
        message = await take(jobs)
        assert (message.payload, message.attempt) == ("x", 2)
        assert jobs.statistics().delayed == 1


# --- dead letters ---


async def test_a_dead_letter_tells_what_it_was_and_what_was_wrong(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(max_deliveries=2, queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings, clock=clock) as jobs:
        message_id = await jobs.send(
            {"n": 1}, topic="a.b", headers={"trace": "7"}, priority=3, deduplication_id="d"
        )
        clock.now = 2_000.0
        await (await take(jobs)).nack(0, "first")
        clock.now = 3_000.0
        await (await take(jobs)).nack(0, "second")
    async with open_queue(data_dir) as jobs:
        (letter,) = await jobs.dead_letters()
        assert (letter.id, letter.payload, letter.topic) == (message_id, {"n": 1}, "a.b")
        assert (letter.headers, letter.priority, letter.offset) == ({"trace": "7"}, 3, 0)
        assert (letter.attempts, letter.subscription) == (2, "default")
        assert (letter.reason, letter.last_error) == ("used up its 2 deliveries", "second")
        assert (letter.sent_at, letter.died_at) == (1_000.0, 3_000.0)


async def test_a_reason_of_any_text_is_kept(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        for reason in ("", "😀\x00", "\ud800!", "x" * 10_000):
            await jobs.send("x")
            await (await take(jobs)).nack(reason=reason)
        errors = [letter.last_error for letter in await jobs.dead_letters()]
        assert errors == ["", "😀\x00", "?!", "x" * 4_096]


async def test_a_message_dies_in_each_subscription_for_itself(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send("x")
        await (await take(audit)).nack()
        assert await finished(jobs, 1) == ["x"]
        (letter,) = await jobs.dead_letters()
        assert letter.subscription == "audit"
        assert jobs.statistics().size == 0


async def test_dead_letters_are_listed_up_to_a_limit(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(range(5))
        await kill(jobs, 5)
        assert payloads(await jobs.dead_letters(limit=2)) == [0, 1]
        assert await jobs.dead_letters(limit=0) == []
        assert len(await jobs.dead_letters()) == 5


async def test_redriven_they_come_again_with_fresh_attempts(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(
        max_deliveries=1, queue_type=QueueType.PRIORITY, message_ttl_seconds=50.0
    )
    async with open_queue(data_dir, settings, clock=clock) as jobs:
        ids = [await jobs.send(n, priority=n, topic="t", headers={"h": "1"}) for n in (1, 2)]
        await kill(jobs, 2)
        clock.now += 1_000.0
        assert await jobs.redrive() == 2
        assert await jobs.dead_letters() == []
        messages = await jobs.receive_many(2)
        assert [(one.id, one.priority, one.attempt) for one in messages] == [
            (ids[1], 2, 1),
            (ids[0], 1, 1),
        ]
        assert (messages[0].topic, messages[0].headers) == ("t", {"h": "1"})
        assert messages[0].sent_at == clock.now
        assert await jobs.redrive() == 0
    async with open_queue(data_dir, clock=clock) as jobs:
        assert jobs.statistics().dead == 0
        assert jobs.statistics().size == 2


async def test_some_of_them_are_redriven_by_letter_key_or_message_id(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(range(5))
        await kill(jobs, 5)
        letters = await jobs.dead_letters()
        assert letters[2].id is not None
        assert await jobs.redrive([letters[0], letters[1].key, letters[2].id, "unknown"]) == 3
        assert await finished(jobs, 3) == [0, 1, 2]
        assert payloads(await jobs.dead_letters()) == [3, 4]
        assert await jobs.redrive([]) == 0
        assert await jobs.redrive(letters[:3]) == 0
        with pytest.raises(InvalidArgumentError):
            await jobs.redrive([7])  # type: ignore[list-item]


async def test_a_message_that_died_in_several_subscriptions_is_sent_again_once(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        audit = await jobs.subscription("audit")
        message_ids = await jobs.send_many(["a", "b"])
        for source in (jobs, audit):
            for _ in range(2):
                await (await take(source)).nack()
        assert len(await jobs.dead_letters()) == 4
        assert await jobs.redrive() == 4
        assert jobs.statistics().dead == 0
        for source in (jobs, audit):
            again = await source.receive_many(10)
            assert [message.id for message in again] == message_ids
            assert await source.receive(wait_seconds=0) is None


async def test_redriven_by_several_at_once_none_is_sent_twice(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(range(200))
        for message in await jobs.receive_many(200):
            await message.nack()
        moved: list[int] = []

        async def redrive() -> None:
            moved.append(await jobs.redrive())

        async def purge() -> None:
            moved.append(await jobs.purge_dead_letters())

        async with anyio.create_task_group() as task_group:
            for _ in range(3):
                task_group.start_soon(redrive)
            task_group.start_soon(purge)
        assert sum(moved) == 200
        came = payloads(await jobs.receive_many(1_000, wait_seconds=0))
        assert len(set(came)) == len(came) == jobs.statistics().size
        assert await jobs.dead_letters() == []


async def test_however_many_are_redriven_only_some_are_held(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    count, read, held = 5 * MOVED_PER_BATCH, 0, 0
    scan = QueueStorage.dead_letters
    async with open_queue(data_dir, ONCE) as jobs:

        async def counted(
            self: QueueStorage, after: str | None = None
        ) -> AsyncGenerator[tuple[str, Any], None]:
            nonlocal read, held
            async with aclosing(scan(self, after)) as found:
                async for one in found:
                    read += 1
                    held = max(held, read - (count - jobs.statistics().dead))
                    yield one

        await jobs.send_many(range(count))
        for message in await jobs.receive_many(count):
            await message.nack()
        monkeypatch.setattr(QueueStorage, "dead_letters", counted)
        assert await jobs.redrive() == count
        assert read == count
        assert held == MOVED_PER_BATCH + 1
        assert payloads(await jobs.receive_many(count)) == list(range(count))


@pytest.mark.parametrize("method", ["redrive", "purge_dead_letters"])
async def test_of_those_named_by_key_no_others_are_read(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, method: str
) -> None:
    read: list[str] = []
    scan = QueueStorage.dead_letters
    async with open_queue(data_dir, ONCE) as jobs:

        async def noted(
            self: QueueStorage, after: str | None = None
        ) -> AsyncGenerator[tuple[str, Any], None]:
            async with aclosing(scan(self, after)) as found:
                async for key, record in found:
                    read.append(key)
                    yield key, record

        await jobs.send_many(range(30))
        await kill(jobs, 30)
        letters = await jobs.dead_letters()
        monkeypatch.setattr(QueueStorage, "dead_letters", noted)
        assert await getattr(jobs, method)([letters[20], letters[22].key]) == 2
        # What is only to be removed is not even read.
        assert read == [letter.key for letter in letters[20:23] if method == "redrive"]
        assert await getattr(jobs, method)([letters[0], letters[29].id, letters[20].key]) == 2
        assert await getattr(jobs, method)([]) == 0
        left = [*range(1, 20), 21, *range(23, 29)]
        assert payloads(await jobs.dead_letters()) == left


async def test_of_many_that_are_named_the_last_is_looked_for_once(data_dir: Path) -> None:
    class Names(set[str]):
        times_read = 0

        def __iter__(self) -> Iterator[str]:
            self.times_read += 1
            return super().__iter__()

    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(range(30))
        await kill(jobs, 30)
        names = Names(jobs._core.state.dead)
        async with aclosing(find_dead_letters(jobs._core, names)) as found:
            assert [letter.payload async for letter in found] == list(range(30))
        assert names.times_read < 5


async def test_a_damaged_one_can_be_purged_by_its_key(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(["torn", "whole"])
        await kill(jobs, 2)
        torn, _ = jobs._core.state.dead
        # Not what a dead letter is, though its checksum is right.
        stores = jobs._core.storage
        await stores.shared.dead_letters.put(stores.key(torn.encode()), b"torn")
        assert payloads(await jobs.dead_letters()) == ["whole"]
        assert await jobs.purge_dead_letters([torn]) == 1
        assert jobs.statistics().dead == 1
        assert payloads(await jobs.dead_letters()) == ["whole"]


async def test_those_that_die_again_while_others_are_redriven_are_not_met(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = 256
    count, read, scan = 2 * page + 1, 0, QueueStorage.dead_letters
    async with open_queue(data_dir, ONCE) as jobs:
        ids = await jobs.send_many(range(count))
        for message in await jobs.receive_many(count):
            await message.nack()

        async def waiting(
            self: QueueStorage, after: str | None = None
        ) -> AsyncGenerator[tuple[str, Any], None]:
            """Before its last page is read, some have died again that will stand there."""
            nonlocal read
            first = set(jobs._core.state.dead)
            async with aclosing(scan(self, after)) as found:
                async for one in found:
                    yield one
                    read += 1
                    while read == 2 * page and jobs._core.state.dead.keys() <= first:
                        await anyio.sleep(0.005)

        async def kill_again() -> None:
            async for message in jobs.consume():
                await message.nack()

        monkeypatch.setattr(QueueStorage, "dead_letters", waiting)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(kill_again)
            assert await jobs.redrive() == count
            await until(lambda: jobs.statistics().dead == count)
            # They keep their ids, and are named by them.
            read = 0
            assert await jobs.redrive(ids) == count
            task_group.cancel_scope.cancel()


async def test_they_can_be_redriven_to_another_queue(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        settings = QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=1)
        jobs = await queues.create_queue("jobs", settings)
        repaired = await queues.create_queue("repaired")
        message_id = await jobs.send("x", priority=9)
        await kill(jobs)
        assert await jobs.redrive(to=repaired) == 1
        message = await take(repaired)
        assert (message.id, message.payload, message.priority) == (message_id, "x", 0)
        assert (jobs.statistics().size, jobs.statistics().dead) == (0, 0)


async def test_they_are_not_redriven_to_where_they_would_be_lost(data_dir: Path) -> None:
    forget = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", ONCE)
        fast = await queues.create_queue("fast", forget)
        await jobs.send_many(["x", "y"])
        await kill(jobs, 2)
        [letter, _] = await jobs.dead_letters()
        for letters in (None, [letter]):
            with pytest.raises(InvalidArgumentError, match=r"'fast' stores nothing .* they stay"):
                await jobs.redrive(letters, to=fast)
        assert payloads(await jobs.dead_letters()) == ["x", "y"]
        assert (jobs.statistics().dead, fast.statistics().sent) == (2, 0)
        # It has none of its own.
        assert await fast.redrive() == 0


@pytest.mark.parametrize(("letters", "room"), [(2, 1), (6, 5), (7, 2), (150, 100), (4, 0)])
async def test_as_many_are_redriven_as_there_is_room_for(
    data_dir: Path, letters: int, room: int
) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", ONCE)
        small = await queues.create_queue("small", QueueConfiguration(max_size=room + 1))
        await small.send("before")
        await jobs.send_many(range(letters))
        for message in await jobs.receive_many(letters, 0):
            await message.nack()
        with pytest.raises(QueueFullError, match=f"^{room} dead letters were sent again"):
            await jobs.redrive(to=small)
        assert payloads(await jobs.dead_letters()) == list(range(room, letters))
        assert await finished(small, room + 1) == ["before", *range(room)]
        last = (await jobs.dead_letters())[-1]
        assert await jobs.redrive([last], to=small) == 1
        assert await finished(small, 1) == [letters - 1]


async def test_purged_they_are_gone_for_good(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send_many(range(4))
        await kill(jobs, 4)
        await jobs.send("pending")
        letters = await jobs.dead_letters()
        assert await jobs.purge_dead_letters([letters[0], letters[1].key]) == 2
        assert await jobs.purge_dead_letters(letters[:2]) == 0
        assert await jobs.purge(dead_letters=False) == 1
        assert jobs.statistics().dead == 2
        assert await jobs.purge() == 2
        assert await jobs.dead_letters() == []
    async with open_queue(data_dir) as jobs:
        assert await jobs.dead_letters() == []
        assert jobs.statistics().dead == 0


async def test_of_more_dead_letters_than_may_be_kept_the_oldest_go(data_dir: Path) -> None:
    settings = QueueConfiguration(max_deliveries=1, dead_letters_max=3)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many(range(6))
        await kill(jobs, 6)
        await until(lambda: jobs.statistics().dead == 3)
        assert payloads(await jobs.dead_letters()) == [3, 4, 5]


def test_dead_letters_are_kept_for_as_long_as_configured() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(max_deliveries=1, dead_letter_ttl_seconds=3_600.0)
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send("old")
        async for message in jobs.consume():
            await message.nack()
            break
        await anyio.sleep(1_800.0)
        await jobs.send("new")
        await kill(jobs)
        await anyio.sleep(1_790.0)
        assert payloads(await jobs.dead_letters()) == ["old", "new"]
        await anyio.sleep(20.0)
        assert payloads(await jobs.dead_letters()) == ["new"]
        await anyio.sleep(1_800.0)
        assert jobs.statistics().dead == 0

    virtual(story)


@pytest.mark.parametrize("restarts", [False, True])
async def test_one_that_died_while_the_clock_was_ahead_does_not_keep_others_from_growing_old(
    data_dir: Path, restarts: bool
) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(max_deliveries=1, dead_letter_ttl_seconds=1_000.0)
    async with open_queue(data_dir, settings, clock=clock) as jobs:
        await jobs.send_many(["ahead", "then", "later"])
        clock.now += 1e7
        await kill(jobs)
        clock.now -= 1e7
        await kill(jobs)
        clock.now += 600.0
        await kill(jobs)
        await jobs.redrive([(await jobs.dead_letters())[-1]])
        await kill(jobs)
        clock.now += 500.0
        if not restarts:
            jobs._core.ask_for_upkeep()
            await until(lambda: jobs.statistics().dead == 2)
            assert payloads(await jobs.dead_letters()) == ["ahead", "later"]
    async with open_queue(data_dir, clock=clock) as jobs:
        await until(lambda: jobs.statistics().dead == 2)
        clock.now += 1e7
        jobs._core.ask_for_upkeep()
        await until(lambda: jobs.statistics().dead == 0)


async def test_dead_letters_of_one_queue_are_not_those_of_another(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        some = [await queues.create_queue(name, ONCE) for name in ("a", "b", "ab")]
        for queue in some:
            await queue.send(queue.name)
            await kill(queue)
        for queue in some:
            assert payloads(await queue.dead_letters()) == [queue.name]
        await some[0].purge()
        assert [len(await queue.dead_letters()) for queue in some] == [0, 1, 1]


async def test_a_nack_without_attempts_left_settles_the_message(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        await jobs.send("x")
        message = await take(jobs)
        await message.nack(100.0)
        with pytest.raises(LeaseLostError):
            await message.ack()
        assert (jobs.statistics().dead, jobs.statistics().size) == (1, 0)


async def test_purging_removes_what_is_stored_of_dead_letters(data_dir: Path) -> None:
    async with open_queue(data_dir, ONCE) as jobs:
        entries = count_rows(data_dir, "entries")
        await jobs.send_many(range(300))
        for message in await jobs.receive_many(300):
            await message.nack()
        assert count_rows(data_dir, "entries") == entries + 300
        await jobs.purge()
        assert count_rows(data_dir, "entries") == entries

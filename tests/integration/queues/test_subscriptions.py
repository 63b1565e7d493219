"""Subscriptions: durable cursors over one queue's messages."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.persistence import InvalidArgumentError, ValueTooLargeError
from mpreg.queues import (
    DeliveryGuarantee,
    LeaseLostError,
    QueueConfiguration,
    QueueNotFoundError,
    QueueType,
)
from tests.integration.queues.support import (
    GatedBackend,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
)

pytestmark = pytest.mark.anyio

BROADCAST = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)


async def test_a_subscription_goes_on_after_a_restart_where_it_was(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send_many(range(4))
        first, second, third = await audit.receive_many(3)
        await second.ack()
        del first, third
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        assert await finished(audit, 3) == [0, 2, 3]
        assert await audit.receive(wait_seconds=0) is None
        assert await finished(jobs, 4) == [0, 1, 2, 3]


async def test_consumers_of_one_subscription_compete(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        got: list[int] = []

        async def work() -> None:
            while (message := await jobs.receive(wait_seconds=0)) is not None:
                got.append(message.payload)
                await message.ack()

        await jobs.send_many(range(60))
        async with anyio.create_task_group() as task_group:
            for _ in range(6):
                task_group.start_soon(work)
        assert sorted(got) == list(range(60))


async def test_a_topic_pattern_chooses_messages_and_survives_a_restart(data_dir: Path) -> None:
    topics = ["jobs", "jobs.created", "jobs.created.now", "other", ""]
    async with open_queue(data_dir, BROADCAST) as jobs:
        one = await jobs.subscription("one", "jobs.*")
        await jobs.subscription("any", "jobs.#")
        await jobs.subscription("all")
        for topic in topics:
            await jobs.send(topic, topic=topic)
        assert await finished(one, 1) == ["jobs.created"]
        assert await one.receive(wait_seconds=0) is None
    async with open_queue(data_dir) as jobs:
        some, all_ = await jobs.subscription("any"), await jobs.subscription("all")
        assert await finished(some, 3) == topics[:3]
        assert await some.receive(wait_seconds=0) is None
        assert await finished(all_, 5) == topics
        # What it passed over it looks at again: nothing was written about that.
        assert await (await jobs.subscription("one")).receive(wait_seconds=0) is None
        assert jobs.statistics().size == 0


async def test_a_subscription_starts_with_the_earliest_the_latest_or_an_offset(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1, 2])
        latest = await jobs.subscription("latest", start="latest")
        offset = await jobs.subscription("offset", start=1)
        end = await jobs.subscription("end", start=3)
        with pytest.raises(InvalidArgumentError, match="beyond"):
            await jobs.subscription("ahead", start=4)
        await jobs.send_many([3, 4, 5])
        assert await finished(await jobs.subscription("earliest"), 6) == [0, 1, 2, 3, 4, 5]
        assert await finished(latest, 3) == [3, 4, 5]
        assert await finished(offset, 1) == [1]
        assert await finished(end, 3) == [3, 4, 5]
    async with open_queue(data_dir) as jobs:
        offset = await jobs.subscription("offset", start="latest")
        assert await finished(offset, 4) == [2, 3, 4, 5]
        assert "ahead" not in jobs.statistics().subscriptions
        for name in ("latest", "end", "earliest"):
            assert await (await jobs.subscription(name)).receive(wait_seconds=0) is None


async def test_the_earliest_is_what_is_not_finished(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1, 2])
        await finished(jobs, 2)
        audit = await jobs.subscription("audit")
        assert await finished(audit, 1) == [2]
        assert await audit.receive(wait_seconds=0) is None


async def test_with_priorities_a_subscription_starts_with_the_earliest_or_the_latest(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queue(data_dir, settings) as jobs:
        for priority in (1, 2):
            await jobs.send(priority, priority=priority)
        latest = await jobs.subscription("latest", start="latest")
        with pytest.raises(InvalidArgumentError, match="priorities"):
            await jobs.subscription("offset", start=1)
        for priority in (1, 3):
            await jobs.send(priority * 10, priority=priority)
        assert await finished(latest, 2) == [30, 10]
        assert "offset" not in jobs.statistics().subscriptions


async def test_a_changed_pattern_counts_from_where_it_has_come_to(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit", "a")
        for number, topic in enumerate("abab"):
            await jobs.send(number, topic=topic)
        assert await finished(audit, 1) == [0]
        assert await jobs.subscription("audit", "b") is audit
        assert await finished(audit, 2) == [1, 3]
        assert await jobs.subscription("audit") is audit
        await jobs.send(4, topic="a")
        await jobs.send(5, topic="b")
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        assert await finished(audit, 1) == [5]


async def test_asking_again_for_a_subscription_writes_nothing(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        audit = await jobs.subscription("audit", "a.#")
        before = await registry.stats()
        assert await jobs.subscription("audit", "a.#") is audit
        assert await jobs.subscription("audit", start="latest") is audit
        assert (await registry.stats()).commits == before.commits


async def test_a_deleted_subscription_lets_go_of_what_only_it_had_not_finished(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        a = await jobs.subscription("a")
        b = await jobs.subscription("b")
        await jobs.send_many([0, 1])
        await finished(a, 1)
        await jobs.delete_subscription("b")
        assert jobs.statistics().size == 1
        assert set(jobs.statistics().subscriptions) == {"a"}
        with pytest.raises(QueueNotFoundError, match="'b'"):
            await b.receive(wait_seconds=0)
        with pytest.raises(QueueNotFoundError, match="'b'"):
            b.statistics()
        with pytest.raises(QueueNotFoundError, match=r"'b' \(there is: 'a'\)"):
            await jobs.delete_subscription("b")
    async with open_queue(data_dir) as jobs:
        assert set(jobs.statistics().subscriptions) == {"a"}
        assert jobs.statistics().size == 1


async def test_who_waits_at_a_subscription_that_is_deleted_is_told(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        async with anyio.create_task_group() as task_group:

            async def wait() -> None:
                with pytest.raises(QueueNotFoundError):
                    await take(audit)

            for _ in range(3):
                task_group.start_soon(wait)
            await anyio.wait_all_tasks_blocked()
            await jobs.delete_subscription("audit")


async def test_a_message_of_a_deleted_subscription_is_nobodys_and_brings_it_not_back(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send_many([0, 1, 2])
        messages = await b.receive_many(3)
        async for ahead in a.consume(prefetch=3):
            assert ahead.payload == 0
            break
        await jobs.delete_subscription("b")
        with pytest.raises(LeaseLostError):
            await messages[0].ack()
        with pytest.raises(LeaseLostError):
            await messages[1].nack(0)
        with pytest.raises(LeaseLostError):
            await messages[2].extend()
        assert set(jobs.statistics().subscriptions) == {"a"}
    async with open_queue(data_dir) as jobs:
        assert set(jobs.statistics().subscriptions) == {"a"}
        assert await finished(await jobs.subscription("a"), 3) == [0, 1, 2]


async def test_what_was_under_way_for_a_deleted_subscription_does_not_bring_it_back(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", BROADCAST)
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send_many([0, 1])
        message = await take(b)
        with pytest.raises(LeaseLostError, match="subscription 'b'"):  # noqa: PT012
            async with registry.transaction() as transaction:
                await message.ack(transaction=transaction)
                await jobs.delete_subscription("b")
        assert set(jobs.statistics().subscriptions) == {"a"}
        assert await finished(a, 1) == [0]
        assert jobs.statistics().size == 1
    async with open_queue(data_dir) as jobs:
        assert set(jobs.statistics().subscriptions) == {"a"}
        assert jobs.statistics().size == 1


async def test_a_hand_out_under_way_does_not_bring_a_deleted_subscription_back(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, BROADCAST, backend=backend) as jobs:
        b = await jobs.subscription("b")
        await jobs.send("x")
        backend.close_gate()

        async def receive() -> None:
            with pytest.raises(QueueNotFoundError):
                await b.receive(60)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.delete_subscription, "b")
            await backend.reached()
            # Its hand-out would be in the next commit, after the deletion.
            task_group.start_soon(receive)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert jobs.statistics().subscriptions == {}
    async with open_queue(data_dir) as jobs:
        assert jobs.statistics().subscriptions == {}
        assert await finished(await jobs.subscription("c"), 1) == ["x"]


async def test_a_subscription_made_again_begins_anew_and_has_nothing_of_the_one_before(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        before = await jobs.subscription("audit", "a")
        await jobs.send("x", topic="a")
        message = await take(before)
        for settle in (message.ack, message.nack):
            with pytest.raises(LeaseLostError):  # noqa: PT012
                async with registry.transaction() as transaction:
                    await settle(transaction=transaction)
                    await jobs.delete_subscription("audit")
                    again = await jobs.subscription("audit")
                    message = await take(again)
            assert again.statistics().in_flight == 1
        await message.ack()
        await jobs.send("y", topic="b")
        with pytest.raises(QueueNotFoundError):
            await before.receive(wait_seconds=0)
        assert await finished(again, 1) == ["y"]
    async with open_queue(data_dir) as jobs:
        again = await jobs.subscription("audit")
        assert await again.receive(wait_seconds=0) is None


async def test_the_queues_own_subscription_stays(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        with pytest.raises(InvalidArgumentError, match="own subscription"):
            await jobs.delete_subscription("default")
        assert (await jobs.subscription("default")).name == "default"
        await jobs.send("x")
        assert await finished(await jobs.subscription("default"), 1) == ["x"]


async def test_names_and_patterns_of_subscriptions_may_be_any_text(data_dir: Path) -> None:
    names = [" ", "😀", "a/b", "'\"`;--", "\x00", "%_*?", "x" * 256, "ünïcödé\u202e"]
    async with open_queue(data_dir, BROADCAST) as jobs:
        for name in names:
            await jobs.subscription(name, f"{name.replace('*', '')}.#")
        for name in names:
            await jobs.send(name, topic=name.replace("*", ""))
    async with open_queue(data_dir) as jobs:
        for name in names:
            subscription = await jobs.subscription(name)
            assert await finished(subscription, 1) == [name]
            assert await subscription.receive(wait_seconds=0) is None


async def test_what_is_no_subscription_is_refused_and_nothing_was_made(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        before = (await registry.stats()).commits
        names: list[Any] = ["", "x" * 257, 1, None, b"x", "\ud800"]
        for name in names:
            with pytest.raises(InvalidArgumentError):
                await jobs.subscription(name)
        patterns: list[Any] = ["a.b*", "#x", 1, b"x", "\ud800"]
        for pattern in patterns:
            with pytest.raises(InvalidArgumentError):
                await jobs.subscription("audit", pattern)
        with pytest.raises(ValueTooLargeError):
            await jobs.subscription("audit", "x" * 1_025)
        starts: list[Any] = ["first", -1, 1.0, True, None]
        for start in starts:
            with pytest.raises(InvalidArgumentError, match="start"):
                await jobs.subscription("audit", start=start)
        assert set(jobs.statistics().subscriptions) == {"default"}
        assert (await registry.stats()).commits == before


async def test_however_many_messages_are_of_other_topics_others_get_their_turn(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
    async with open_queue(data_dir, settings) as jobs:
        mine = await jobs.subscription("mine", "mine")
        await jobs.send_many([None] * 3_000, topic="others")
        turns = 0

        async def go_on() -> None:
            nonlocal turns
            while True:
                turns += 1
                await anyio.lowlevel.checkpoint()

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(go_on)
            await anyio.lowlevel.checkpoint()
            # Longer than any read: the very first look is cut short.
            messages = mine._core.choose(mine._state, 1)
            assert not messages.is_over
            before = turns
            assert await mine.receive(wait_seconds=0) is None
            assert turns > before
            task_group.cancel_scope.cancel()
        await jobs.send("for me", topic="mine")
        assert (await take(mine)).payload == "for me"


async def test_counts_are_kept_for_each_subscription(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send_many(range(4))
        await jobs.send("later", delay_seconds=100.0)
        held = await jobs.receive_many(2)
        await held[0].nack(100.0)
        await finished(audit, 1)
        mine, its = jobs.statistics().subscriptions["default"], audit.statistics()
        assert (mine.pending, mine.in_flight, mine.delayed) == (2, 1, 2)
        assert (its.pending, its.in_flight, its.delayed) == (3, 0, 1)
        all_ = jobs.statistics()
        assert (all_.pending, all_.in_flight, all_.delayed) == (5, 1, 3)
        assert (all_.size, all_.sent, all_.acknowledged) == (5, 5, 1)
        assert payloads(held) == [0, 1]

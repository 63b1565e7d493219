"""What each guarantee promises: how often, to whom, and what is stored for it."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import TransactionStateError
from mpreg.queues import (
    DeliveryGuarantee,
    Message,
    MessageQueue,
    QueueConfiguration,
    QueueDeletedError,
    QueueFullError,
    QueueNotFoundError,
    QueueType,
)
from mpreg.queues.configuration import MEMORY_MESSAGES_MAX
from mpreg.queues.records import MessageRecord
from mpreg.queues.subscription_state import Lease
from tests.integration.queues.support import (
    count_rows,
    finished,
    open_queue,
    open_queues,
    payloads,
    take,
    until,
)

pytestmark = pytest.mark.anyio

FORGET = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
BROADCAST = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)


def quorum(required: int) -> QueueConfiguration:
    return QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=required
    )


# --- fire and forget ---


async def test_what_is_fired_in_a_transaction_is_refused_where_its_queue_was_deleted_meanwhile(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", FORGET)
        with pytest.raises(QueueDeletedError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await jobs.send("x", transaction=transaction)
                await queues.delete_queue("jobs")
        again = await queues.create_queue("jobs", FORGET)
        async with registry.transaction() as transaction:
            await again.send("y", transaction=transaction)
        assert await finished(again, 1) == ["y"]


async def test_what_is_fired_and_forgotten_is_handed_out_once_and_never_written(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", FORGET)
        audit = await jobs.subscription("audit")
        before = await registry.stats()
        await jobs.send_many([0, 1, 2])
        await jobs.send(3, delay_seconds=0.01, topic="late")
        await jobs.send(4, ttl_seconds=100.0)
        assert sorted(await finished(jobs, 5)) == [0, 1, 2, 3, 4]
        for message in await audit.receive_many(4):
            await message.ack()
            await message.nack(0, "no use")
            await message.extend(5.0)
        last = await take(audit)
        assert (last.attempt, last.subscription) == (1, "audit")
        assert await jobs.purge() == 0
        await jobs.send_many([5, 6])
        assert await jobs.purge() == 2
        assert await jobs.receive(wait_seconds=0) is None
        await jobs.delete_subscription("audit")
        after = await registry.stats()
        assert (after.commits, after.operations) == (before.commits, before.operations)
        assert count_rows(data_dir, "records") == 0
        assert count_rows(data_dir, "logs") == 0
        assert jobs.statistics().size == 0


async def test_what_is_fired_and_forgotten_is_gone_with_the_process_and_the_queue_is_there(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, FORGET) as jobs:
        await jobs.send("x")
    async with open_queue(data_dir) as jobs:
        assert jobs.configuration == FORGET
        assert await jobs.receive(wait_seconds=0) is None


async def test_fire_and_forget_has_priorities_too(data_dir: Path) -> None:
    settings = QueueConfiguration(
        queue_type=QueueType.PRIORITY, delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET
    )
    async with open_queue(data_dir, settings) as jobs:
        for priority in (1, 9, 5):
            await jobs.send(str(priority), priority=priority)
        messages = await jobs.receive_many(3)
        assert [(message.payload, message.priority) for message in messages] == [
            ("9", 9),
            ("5", 5),
            ("1", 1),
        ]


async def test_fire_and_forget_is_bounded_also_where_no_bound_was_named(data_dir: Path) -> None:
    async with open_queue(data_dir, FORGET) as jobs:
        await jobs.send_many([None] * MEMORY_MESSAGES_MAX)
        with pytest.raises(QueueFullError):
            await jobs.send(None)
        await take(jobs)
        await jobs.send(None)
        assert jobs.statistics().size == MEMORY_MESSAGES_MAX


async def test_fire_and_forget_in_a_transaction_goes_with_it(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", FORGET)
        async with registry.transaction() as transaction:
            await jobs.send("with it", transaction=transaction)
            assert await jobs.receive(wait_seconds=0) is None
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await jobs.send("never", transaction=transaction)
                raise ZeroDivisionError
        assert await finished(jobs, 1) == ["with it"]
        assert jobs.statistics().size == 0


async def test_fire_and_forget_refuses_the_transaction_of_another_registry(
    tmp_path: Path,
) -> None:
    async with (
        open_queues(tmp_path / "one") as (_, queues),
        open_queues(tmp_path / "two") as (other, _),
    ):
        jobs = await queues.create_queue("jobs", FORGET)
        async with other.transaction() as transaction:
            with pytest.raises(TransactionStateError, match="another registry"):
                await jobs.send("x", transaction=transaction)
        assert jobs.statistics().size == 0


async def test_a_cancelled_receive_of_what_is_not_stored_takes_nothing(data_dir: Path) -> None:
    async with open_queue(data_dir, FORGET) as jobs:
        await jobs.send_many([0, 1])
        with anyio.CancelScope() as scope:
            scope.cancel()
            await jobs.receive()
        assert scope.cancelled_caught
        assert await finished(jobs, 2) == [0, 1]


async def test_a_loop_over_what_is_not_stored_that_is_left_loses_nothing_it_did_not_see(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, FORGET) as jobs:
        await jobs.send_many(range(5))
        async for message in jobs.consume(prefetch=5):
            assert message.payload == 0
            break
        assert await finished(jobs, 4) == [1, 2, 3, 4]


async def test_sending_what_is_not_stored_lets_other_tasks_run(data_dir: Path) -> None:
    async with open_queue(data_dir, FORGET) as jobs:
        with anyio.CancelScope() as scope:
            scope.cancel()
            await jobs.send("x")
        assert scope.cancelled_caught
        assert jobs.statistics().sent == 0
        await jobs.send_many([0] * 3)
        assert jobs.statistics().size == 3


# --- at least once ---


async def test_at_least_once_is_until_it_is_acknowledged(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        await (await take(jobs)).nack(0)
        message = await take(jobs)
        assert message.attempt == 2
        await message.ack()
        assert await jobs.receive(wait_seconds=0) is None
    async with open_queue(data_dir) as jobs:
        assert await jobs.receive(wait_seconds=0) is None
        statistics = jobs.statistics()
        assert (statistics.sent, statistics.acknowledged, statistics.size) == (1, 1, 0)
        assert statistics.redelivered == 1


async def test_a_queue_holds_its_messages_for_a_consumer_that_is_not_there_yet(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many([0, 1])
    async with open_queue(data_dir) as jobs:
        await jobs.send(2)
        assert await finished(jobs, 3) == [0, 1, 2]


async def test_with_more_subscriptions_at_least_once_is_for_each(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        audit = await jobs.subscription("audit")
        await jobs.send("x")
        await finished(jobs, 1)
        assert jobs.statistics().size == 1
        await finished(audit, 1)
        assert jobs.statistics().size == 0


# --- broadcast ---


async def test_a_broadcast_goes_to_each_subscription_once(data_dir: Path) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        readers = [await jobs.subscription(name) for name in ("a", "b", "c")]
        await jobs.send_many([0, 1])
        for left, reader in zip((2, 2, 0), readers, strict=True):
            assert await finished(reader, 2) == [0, 1]
            assert await reader.receive(wait_seconds=0) is None
            assert jobs.statistics().size == left
        assert jobs.statistics().acknowledged == 6


async def test_a_broadcast_without_subscriptions_is_held_for_the_first(data_dir: Path) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        await jobs.send("x")
        with pytest.raises(QueueNotFoundError, match=r"subscription\('default'\)"):
            await jobs.receive(wait_seconds=0)
    async with open_queue(data_dir) as jobs:
        assert jobs.statistics().size == 1
        assert await finished(await jobs.subscription("a"), 1) == ["x"]


async def test_a_broadcast_survives_a_restart_for_those_who_have_not_got_it(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send_many([0, 1, 2])
        await finished(a, 2)
        await finished(b, 1)
    async with open_queue(data_dir) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        assert await finished(a, 1) == [2]
        assert await finished(b, 2) == [1, 2]
        assert await a.receive(wait_seconds=0) is None
        assert jobs.statistics().size == 0


# --- quorum ---


async def test_a_quorum_is_so_many_distinct_subscriptions(data_dir: Path) -> None:
    async with open_queue(data_dir, quorum(2)) as jobs:
        readers = [await jobs.subscription(name) for name in ("a", "b", "c")]
        await jobs.send("x")
        messages = [await take(reader) for reader in readers]
        await messages[0].ack()
        assert jobs.statistics().size == 1
        await messages[1].ack()
        assert jobs.statistics().size == 0
        # The third has it in its hands and may say so as well.
        await messages[2].ack()
        assert jobs.statistics().acknowledged == 3


async def test_where_the_quorum_is_reached_those_who_come_later_do_not_get_it(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, quorum(2)) as jobs:
        a, b, late = [await jobs.subscription(name) for name in ("a", "b", "late")]
        await jobs.send_many([0, 1])
        assert (await take(late)).payload == 0
        await finished(a, 1)
        await finished(b, 1)
        assert (await take(late)).payload == 1
        assert payloads(await late.receive_many(2, wait_seconds=0)) == []


async def test_one_subscription_is_no_quorum_of_two_however_often_it_acknowledges(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, quorum(2)) as jobs:
        a = await jobs.subscription("a")
        await jobs.send("x")
        await finished(a, 1)
        await jobs.delete_subscription("a")
        a = await jobs.subscription("a")
        await finished(a, 1)
        assert jobs.statistics().size == 1


async def test_partial_acknowledgments_survive_a_restart(data_dir: Path) -> None:
    async with open_queue(data_dir, quorum(3)) as jobs:
        readers = [await jobs.subscription(name) for name in ("a", "b", "c")]
        await jobs.send_many([0, 1])
        await finished(readers[0], 2)
        await finished(readers[1], 1)
    async with open_queue(data_dir) as jobs:
        a, b, c = [await jobs.subscription(name) for name in ("a", "b", "c")]
        assert await a.receive(wait_seconds=0) is None
        assert await finished(c, 1) == [0]
        assert jobs.statistics().size == 1
        assert await finished(b, 1) == [1]
        assert await finished(c, 1) == [1]
        assert jobs.statistics().size == 0


async def test_who_never_had_the_message_does_not_count_for_the_quorum(data_dir: Path) -> None:
    async with open_queue(data_dir, quorum(2)) as jobs:
        a = await jobs.subscription("a")
        elsewhere = await jobs.subscription("elsewhere", "other.#")
        await jobs.send(0, topic="jobs")
        behind = await jobs.subscription("behind", start=1)
        await jobs.send(1, topic="other")
        await finished(a, 1)
        # Both have passed it over, and neither has acknowledged it.
        assert await finished(elsewhere, 1) == [1]
        assert await finished(behind, 1) == [1]
        assert jobs.statistics().size == 1
        assert await finished(await jobs.subscription("fresh"), 1) == [0]
        assert jobs.statistics().size == 0


@pytest.mark.parametrize("restarts", [False, True])
async def test_what_a_quorum_has_dies_for_nobody(data_dir: Path, restarts: bool) -> None:
    settings = QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, max_deliveries=1, retry_delay_seconds=0.0
    )
    async with open_queue(data_dir, settings) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send("x")
        late = await take(b)
        await finished(a, 1)
        await late.nack(60.0 if restarts else 0.0)
        assert jobs.statistics().dead == 0
        if not restarts:
            assert await b.receive(0) is None
            assert b.statistics().pending == b.statistics().delayed == 0
    async with open_queue(data_dir) as jobs:
        await until(lambda: jobs.statistics().subscriptions["b"].pending == 0)
        await until(lambda: jobs.statistics().subscriptions["b"].delayed == 0)
        assert (jobs.statistics().dead, jobs.statistics().size) == (0, 0)


async def test_what_a_quorum_gets_while_a_nack_reads_it_dies_for_nobody(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, max_deliveries=1, retry_delay_seconds=0.0
    )
    async with open_queue(data_dir, settings) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send("x")
        late, find = await take(b), Message._find_record

        async def find_late(message: Message, lease: Lease) -> MessageRecord | None:
            await finished(a, 1)
            return await find(message, lease)

        monkeypatch.setattr(Message, "_find_record", find_late)
        await late.nack()
        assert await b.receive(0) is None
        assert (jobs.statistics().dead, jobs.statistics().size) == (0, 0)


async def test_a_dead_letter_is_no_acknowledgment(data_dir: Path) -> None:
    settings = QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=1, max_deliveries=1
    )
    async with open_queue(data_dir, settings) as jobs:
        a, b = await jobs.subscription("a"), await jobs.subscription("b")
        await jobs.send("x")
        await (await take(a)).nack()
        await until(lambda: jobs.statistics().dead == 1)
        assert jobs.statistics().size == 1
        await finished(b, 1)
        assert jobs.statistics().size == 0


async def test_fewer_required_acknowledgments_finish_what_has_them_already(
    data_dir: Path,
) -> None:
    async def acknowledge_once(jobs: MessageQueue) -> None:
        a = await jobs.subscription("a")
        await jobs.subscription("b")
        await jobs.send_many([0, 1])
        await finished(a, 1)

    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", quorum(2))
        await acknowledge_once(jobs)
        assert jobs.statistics().size == 2
        await queues.create_queue("jobs", quorum(1))
        assert jobs.statistics().size == 1
    async with open_queue(data_dir) as jobs:
        assert jobs.configuration == quorum(1)
        assert jobs.statistics().size == 1

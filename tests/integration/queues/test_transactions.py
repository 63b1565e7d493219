"""Queues in transactions: with everything else in them, or not at all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import anyio.lowlevel
import pytest
from attrs import frozen

from mpreg.persistence import (
    KeyValueStore,
    LogStore,
    PersistenceRegistry,
    Transaction,
    TransactionStateError,
    VersionConflictError,
)
from mpreg.queues import (
    LeaseLostError,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueFullError,
    QueueStatistics,
    QueueType,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    GatedBackend,
    finished,
    open_queue,
    open_queues,
    take,
    virtual,
)
from tests.integration.support import listed

pytestmark = pytest.mark.anyio


@frozen
class Workplace:
    registry: PersistenceRegistry
    jobs: MessageQueue
    results: MessageQueue
    totals: KeyValueStore
    audit: LogStore

    async def work(self, message: Message, transaction: Transaction) -> None:
        """All that one message has for an effect."""
        await message.ack(transaction=transaction)
        self.totals.put_nowait("total", b"1", transaction=transaction)
        self.audit.append_nowait(b"worked", transaction=transaction)
        await self.results.send("result", transaction=transaction)

    def statistics(self) -> tuple[QueueStatistics, QueueStatistics]:
        return self.jobs.statistics(), self.results.statistics()

    async def assert_nothing_happened(self) -> None:
        assert await self.totals.get("total") is None
        assert await self.audit.next_offset() == 0
        assert await self.results.receive(wait_seconds=0) is None
        assert self.results.statistics().sent == 0
        assert self.jobs.statistics().acknowledged == 0


async def workplace(registry: PersistenceRegistry, queues: MessageQueueManager) -> Workplace:
    return Workplace(
        registry,
        await queues.create_queue("jobs"),
        await queues.create_queue("results"),
        registry.key_value_store("totals"),
        registry.log_store("audit"),
    )


@asynccontextmanager
async def opened(data_dir: Path, backend: GatedBackend | None = None) -> AsyncIterator[Workplace]:
    async with open_queues(data_dir, backend=backend) as (registry, queues):
        yield await workplace(registry, queues)


async def test_an_ack_a_write_a_record_and_a_send_are_one_commit(data_dir: Path) -> None:
    async with opened(data_dir) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)
        before = (await place.registry.stats()).commits
        async with place.registry.transaction() as transaction:
            await place.work(message, transaction)
        assert (await place.registry.stats()).commits == before + 1
        assert place.jobs.statistics().size == 0
        assert await finished(place.results, 1) == ["result"]
    async with opened(data_dir) as place:
        assert await place.jobs.receive(wait_seconds=0) is None
        assert await place.totals.get("total") is not None
        assert await place.audit.next_offset() == 1


def test_until_the_commit_nothing_is_seen_of_it_and_nobody_else_gets_the_message() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, _: Simulation
    ) -> None:
        place = await workplace(registry, queues)
        await place.jobs.send("job")
        message = await take(place.jobs)
        await message.extend(60.0)
        before = place.statistics()
        async with place.registry.transaction() as transaction:
            await place.work(message, transaction)
            assert place.statistics() == before
            assert await place.results.receive(wait_seconds=0) is None
            # Longer than its lease was: it is being settled.
            assert await place.jobs.receive(wait_seconds=180.0) is None
            with pytest.raises(LeaseLostError, match="being settled"):
                await message.ack()
        assert place.jobs.statistics().acknowledged == 1

    virtual(story)


async def test_an_exception_in_the_block_undoes_it_and_the_message_is_held_on(
    data_dir: Path,
) -> None:
    async with opened(data_dir) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)
        before = place.statistics()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with place.registry.transaction() as transaction:
                await place.work(message, transaction)
                raise ZeroDivisionError
        assert place.statistics() == before
        await place.assert_nothing_happened()
        async with place.registry.transaction() as transaction:
            await place.work(message, transaction)
        assert place.jobs.statistics().size == 0


async def test_a_conflict_undoes_it_and_the_message_is_held_on(data_dir: Path) -> None:
    async with opened(data_dir) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)
        before = place.statistics()
        with pytest.raises(VersionConflictError):  # noqa: PT012
            async with place.registry.transaction() as transaction:
                await place.work(message, transaction)
                place.totals.put_nowait("k", b"", expected_version=7, transaction=transaction)
        assert place.statistics() == before
        await place.assert_nothing_happened()
        await message.ack()
        assert place.jobs.statistics().size == 0


async def test_a_cancelled_block_undoes_it(data_dir: Path) -> None:
    async with opened(data_dir) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)
        with anyio.CancelScope() as scope:
            async with place.registry.transaction() as transaction:
                await place.work(message, transaction)
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        await place.assert_nothing_happened()
        await message.ack()


def test_a_message_whose_lease_ended_in_a_block_that_failed_comes_again() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, _: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs")
        await jobs.send("job")
        message = await take(jobs)
        await message.extend(60.0)
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await message.ack(transaction=transaction)
                assert await jobs.receive(wait_seconds=180.0) is None
                raise ZeroDivisionError
        again = await take(jobs, wait_seconds=1.0)
        assert again.attempt == 2
        with pytest.raises(LeaseLostError):
            await message.ack()

    virtual(story)


async def test_cancelled_at_the_end_of_the_block_it_still_happens_as_a_whole(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with opened(data_dir, backend) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)

        async def work() -> None:
            async with place.registry.transaction() as transaction:
                await place.work(message, transaction)

        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(work)
            await backend.reached()
            task_group.cancel_scope.cancel()
        assert place.jobs.statistics().acknowledged == 0
        backend.open_gate()
        assert await finished(place.results, 1) == ["result"]
        assert place.jobs.statistics().acknowledged == 1
        assert await place.totals.get("total") is not None


async def test_a_nack_in_a_transaction_goes_with_it_also_the_last_one(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_deliveries=2))
        await jobs.send("x")
        for attempt, dead in ((1, 0), (2, 1)):
            message = await take(jobs)
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with registry.transaction() as transaction:
                    await message.nack(0, "undone", transaction=transaction)
                    raise ZeroDivisionError
            assert jobs.statistics().dead == 0
            assert await jobs.dead_letters() == []
            async with registry.transaction() as transaction:
                await message.nack(0, f"attempt {attempt}", transaction=transaction)
                assert await jobs.receive(wait_seconds=0) is None
            assert jobs.statistics().dead == dead
        (letter,) = await jobs.dead_letters()
        assert letter.last_error == "attempt 2"


async def test_many_are_acknowledged_in_a_transaction(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        audit = await jobs.subscription("audit")
        await jobs.send_many(range(10))
        messages = await jobs.receive_many(10) + await audit.receive_many(10)
        async with registry.transaction() as transaction:
            await jobs.ack(messages, transaction=transaction)
            assert jobs.statistics().acknowledged == 0
        assert (jobs.statistics().acknowledged, jobs.statistics().size) == (20, 0)


async def test_messages_sent_in_one_transaction_keep_their_order_among_others(
    data_dir: Path,
) -> None:
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY)
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", settings)
        async with registry.transaction() as transaction:
            await jobs.send("first", priority=7, transaction=transaction)
            await jobs.send_many(["second", "third"], priority=7, transaction=transaction)
            # Also into a priority that nobody has used, twice in one transaction.
            await jobs.send("before them", priority=7)
        assert await finished(jobs, 4) == ["before them", "first", "second", "third"]
        assert jobs.statistics().size == 0


async def test_room_is_taken_at_once_and_given_back_where_the_transaction_fails(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await jobs.send("never", transaction=transaction)
                with pytest.raises(QueueFullError):
                    await jobs.send("y")
                with pytest.raises(QueueFullError):
                    await jobs.send("y", transaction=transaction)
                raise ZeroDivisionError
        await jobs.send("x")
        assert await finished(jobs, 1) == ["x"]


async def test_who_waits_for_room_gets_that_of_a_transaction_that_fails(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        async with anyio.create_task_group() as task_group:
            with pytest.raises(ZeroDivisionError):  # noqa: PT012
                async with registry.transaction() as transaction:
                    await jobs.send("never", transaction=transaction)
                    task_group.start_soon(lambda: jobs.send("x", wait_seconds=None))
                    await anyio.wait_all_tasks_blocked()
                    raise ZeroDivisionError
        assert await finished(jobs, 1) == ["x"]


async def test_a_transaction_of_another_registry_is_refused_and_nothing_changed(
    tmp_path: Path,
) -> None:
    async with (
        open_queues(tmp_path / "one") as (_, queues),
        open_queues(tmp_path / "two") as (other, _),
    ):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=2))
        await jobs.send("x")
        message = await take(jobs)
        before = jobs.statistics()
        async with other.transaction() as transaction:
            for call in (
                lambda: jobs.send("y", transaction=transaction),
                lambda: jobs.send("y", deduplication_id="a", transaction=transaction),
                lambda: jobs.send_many(["y"], transaction=transaction),
                lambda: message.ack(transaction=transaction),
                lambda: message.nack(transaction=transaction),
                lambda: jobs.ack([message], transaction=transaction),
            ):
                with pytest.raises(TransactionStateError, match="another registry"):
                    await call()
        assert jobs.statistics() == before
        await message.ack()
        await jobs.send_many(["y", "z"])
        assert await finished(jobs, 2) == ["y", "z"]


async def test_dead_letters_are_not_redriven_to_another_registry(tmp_path: Path) -> None:
    async with (
        open_queues(tmp_path / "one") as (_, queues),
        open_queues(tmp_path / "two") as (_, others),
    ):
        settings = QueueConfiguration(max_deliveries=1)
        jobs = await queues.create_queue("jobs", settings)
        other = await others.create_queue("jobs", QueueConfiguration(max_size=1))
        await jobs.send("x")
        await (await take(jobs)).nack()
        with pytest.raises(TransactionStateError, match="another registry"):
            await jobs.redrive(to=other)
        assert len(await jobs.dead_letters()) == 1
        await other.send("there is room")
        assert await jobs.redrive() == 1


async def test_outside_its_block_a_transaction_is_refused_and_nothing_changed(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=2))
        await jobs.send("x")
        message = await take(jobs)
        ended = registry.transaction()
        async with ended:
            pass
        for transaction in (ended, registry.transaction()):
            with pytest.raises(TransactionStateError):
                await jobs.send("y", transaction=transaction)
            with pytest.raises(TransactionStateError):
                await message.ack(transaction=transaction)
            with pytest.raises(TransactionStateError):
                await message.nack(transaction=transaction)
        await message.ack()
        await jobs.send_many(["y", "z"])


def test_an_effect_happens_once_however_often_its_message_is_handed_out() -> None:
    """The total counts each job once, although consumers lose their leases all the time."""

    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, _: Simulation
    ) -> None:
        settings = QueueConfiguration(lease_seconds=30.0, max_deliveries=1_000)
        jobs = await queues.create_queue("jobs", settings)
        log = registry.log_store("effects")
        await jobs.send_many(range(20))
        slow = True

        async def work() -> None:
            nonlocal slow
            while jobs.statistics().size:
                if (message := await jobs.receive(wait_seconds=60.0)) is None:
                    continue
                try:
                    async with registry.transaction() as transaction:
                        log.append_nowait(str(message.payload).encode(), transaction=transaction)
                        if slow:
                            await anyio.sleep(40.0)
                        slow = not slow
                        await message.ack(transaction=transaction)
                except LeaseLostError:
                    pass

        async with anyio.create_task_group() as task_group:
            for _worker in range(5):
                task_group.start_soon(work)
        effects = [int(record.data) for record in await listed(log.read_range())]
        assert sorted(effects) == list(range(20))
        assert jobs.statistics().redelivered > 0

    virtual(story)


async def test_a_transaction_with_queues_survives_a_restart_as_a_whole(data_dir: Path) -> None:
    async with opened(data_dir) as place:
        await place.jobs.send("job")
        message = await take(place.jobs)
        async with place.registry.transaction() as transaction:
            await message.ack(transaction=transaction)
            await place.jobs.send("next", transaction=transaction)
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 1) == ["next"]
        assert jobs.statistics().size == 0

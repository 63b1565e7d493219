"""How much a queue holds, for how long, and how often the same."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.codec import encode_reserved_name
from mpreg.persistence import (
    InvalidArgumentError,
    PersistenceRegistry,
    StorageFullError,
    ValueTooLargeError,
    VersionConflictError,
)
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueueManager,
    QueueConfiguration,
    QueueFullError,
)
from mpreg.testing import Simulation
from tests.integration.queues.support import (
    GatedBackend,
    TurnedClock,
    finished,
    open_queue,
    open_queues,
    payloads,
    rows,
    take,
    until,
    virtual,
)

pytestmark = pytest.mark.anyio

BROADCAST = DeliveryGuarantee.BROADCAST


# --- time to live ---


async def test_an_expired_message_is_not_handed_out(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(message_ttl_seconds=10.0)
    async with open_queue(data_dir, settings, clock=clock) as jobs:
        await jobs.send("the queue's")
        await jobs.send("longer", ttl_seconds=100.0)
        await jobs.send("shorter", ttl_seconds=1.0)
        clock.now += 5.0
        assert (await take(jobs)).payload == "the queue's"
        clock.now += 10.0
        assert (await take(jobs)).payload == "longer"
        assert await jobs.receive(wait_seconds=0) is None
        assert jobs.statistics().expired == 1


def test_however_much_expires_at_once_others_get_their_turn() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send_many([None] * 2_000, ttl_seconds=60.0)
        simulation.clock.jump(100.0)
        jobs._core.sweeping = True
        jobs._core.ask_for_upkeep()
        sizes = set()
        for _ in range(100):
            sizes.add(jobs.statistics().size)
            await anyio.lowlevel.checkpoint()
        assert jobs.statistics().size == 0
        assert len(sizes) > 4

    virtual(story)


async def test_a_message_expires_by_the_wall_clock_also_while_nothing_runs(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_queue(data_dir, clock=clock) as jobs:
        await jobs.send("x", ttl_seconds=10.0)
        await jobs.send("y")
    clock.now += 10.0
    async with open_queue(data_dir, clock=clock) as jobs:
        assert await finished(jobs, 1) == ["y"]
        assert jobs.statistics().size == 0


def test_expired_messages_are_swept_without_a_consumer() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(message_ttl_seconds=60.0, max_size=100)
        jobs = await queues.create_queue("jobs", settings)
        audit = await jobs.subscription("audit")
        await jobs.send_many(range(50))
        await anyio.sleep(30.0)
        await jobs.send_many(range(50))
        await anyio.sleep(29.0)
        assert jobs.statistics().size == 100
        await anyio.sleep(3.0)
        assert (jobs.statistics().size, jobs.statistics().expired) == (50, 50)
        await anyio.sleep(30.0)
        assert (jobs.statistics().size, jobs.statistics().bytes) == (0, 0)
        assert jobs.statistics().expired == 100
        await jobs.send_many(range(100))
        assert payloads(await audit.receive_many(200)) == [*range(100)]

    virtual(story)


def test_expired_messages_are_swept_also_where_there_is_no_subscription() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        settings = QueueConfiguration(
            delivery_guarantee=BROADCAST, message_ttl_seconds=60.0, max_size=2
        )
        jobs = await queues.create_queue("jobs", settings)
        await jobs.send_many([0, 1])
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: jobs.send(2, wait_seconds=100.0, ttl_seconds=1e3))
        assert jobs.statistics().size == 1
        assert await finished(await jobs.subscription("a"), 1) == [2]
        assert jobs.statistics().size == 0

    virtual(story)


def test_a_message_that_comes_back_too_late_is_swept_too() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(lease_seconds=100.0))
        await jobs.send("leased", ttl_seconds=10.0)
        await jobs.send("nacked", ttl_seconds=10.0)
        await jobs.send("delayed", ttl_seconds=10.0, delay_seconds=9.0)
        await take(jobs)
        await (await take(jobs)).nack(70.0)
        await anyio.sleep(200.0)
        assert (jobs.statistics().size, jobs.statistics().expired) == (0, 3)

    virtual(story)


def test_who_waits_for_room_gets_that_of_what_expires() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        await jobs.send("old", ttl_seconds=60.0)
        began = anyio.current_time()
        await jobs.send("new", wait_seconds=100.0)
        assert 60.0 <= anyio.current_time() - began < 63.0
        assert await finished(jobs, 1) == ["new"]

    virtual(story)


async def test_what_expired_before_a_restart_is_swept_after_it(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_queue(data_dir, clock=clock) as jobs:
        await jobs.send_many(range(10), ttl_seconds=10.0)
        await jobs.send("last")
    clock.now += 10.0
    async with open_queue(data_dir, clock=clock) as jobs:
        await until(lambda: jobs.statistics().size == 1)
        assert await finished(jobs, 1) == ["last"]


# --- room ---


async def test_a_full_queue_refuses_and_takes_again_when_there_is_room(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=2)) as jobs:
        await jobs.send_many([0, 1])
        with pytest.raises(QueueFullError, match="max_size 2"):
            await jobs.send(2)
        message = await take(jobs)
        with pytest.raises(QueueFullError):
            await jobs.send(2)
        await message.ack()
        await jobs.send(2)
        assert (jobs.statistics().sent, jobs.statistics().size) == (3, 2)
    async with open_queue(data_dir) as jobs:
        with pytest.raises(QueueFullError):
            await jobs.send(3)
        assert await finished(jobs, 2) == [1, 2]
        await jobs.send_many([3, 4])


async def test_a_queue_is_full_by_its_bytes_too(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_bytes=10_000)) as jobs:
        for _ in range(2):
            await jobs.send(bytes(4_000))
        size = jobs.statistics().bytes
        assert 8_000 < size < 8_200
        with pytest.raises(QueueFullError, match="max_bytes 10000"):
            await jobs.send(bytes(4_000))
        await jobs.send(bytes(1_000))
        with pytest.raises(QueueFullError):
            await jobs.send(bytes(10_001), wait_seconds=None)
    async with open_queue(data_dir) as jobs:
        size = jobs.statistics().bytes
        assert 9_000 < size < 9_300
        with pytest.raises(QueueFullError):
            await jobs.send(bytes(4_000))
        await finished(jobs, 1)
        await jobs.send(bytes(4_000))
        await finished(jobs, 3)
        assert jobs.statistics().bytes == 0


async def test_many_at_once_never_go_over_the_bound(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=10)) as jobs:
        refused = 0

        async def send(number: int) -> None:
            nonlocal refused
            try:
                await jobs.send(number)
            except QueueFullError:
                refused += 1

        async with anyio.create_task_group() as task_group:
            for number in range(30):
                task_group.start_soon(send, number)
        assert (jobs.statistics().size, refused) == (10, 20)


async def test_who_waits_for_room_is_served_in_the_order_of_coming(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=3)) as jobs:
        await jobs.send_many([0, 1, 2])
        done: list[str] = []

        async def send(name: str, count: int) -> None:
            await jobs.send_many([name] * count, wait_seconds=None)
            done.append(name)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send, "two", 2)
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(send, "one", 1)
            await anyio.wait_all_tasks_blocked()
            # There is room for one, and the first in line needs two.
            assert await finished(jobs, 1) == [0]
            with pytest.raises(QueueFullError):
                await jobs.send("pushing in")
            await anyio.wait_all_tasks_blocked()
            assert done == []
            assert await finished(jobs, 1) == [1]
            await until(lambda: done == ["two"])
            assert await finished(jobs, 1) == [2]
        assert done == ["two", "one"]
        assert await finished(jobs, 3) == ["two", "two", "one"]


def test_delay_and_time_to_live_count_from_when_there_was_room() -> None:
    async def story(
        registry: PersistenceRegistry, queues: MessageQueueManager, simulation: Simulation
    ) -> None:
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        await jobs.send("first")

        async def send() -> None:
            await jobs.send("second", ttl_seconds=50.0, delay_seconds=20.0, wait_seconds=None)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send)
            await anyio.sleep(100.0)
            assert await finished(jobs, 1) == ["first"]
        sent_at, since = simulation.clock.wall(), anyio.current_time()
        message = await take(jobs, wait_seconds=30.0)
        assert anyio.current_time() - since == pytest.approx(20.0, abs=1.0)
        assert message.sent_at == pytest.approx(sent_at, abs=1.0)

    virtual(story)


async def test_who_waited_long_enough_is_refused(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=1)) as jobs:
        await jobs.send(0)
        with pytest.raises(QueueFullError):
            await jobs.send(1, wait_seconds=0.02)
        await finished(jobs, 1)
        await jobs.send(2)
        assert await finished(jobs, 1) == [2]


async def test_who_is_cancelled_while_waiting_for_room_leaves_no_reservation(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=2)) as jobs:
        await jobs.send_many([0, 1])
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: jobs.send_many([2, 3], wait_seconds=None))
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
        await finished(jobs, 2)
        await jobs.send_many([4, 5])
        assert await finished(jobs, 2) == [4, 5]


async def test_who_is_cancelled_in_front_lets_those_behind_in(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=2)) as jobs:
        await jobs.send_many([0, 1])
        front = anyio.CancelScope()

        async def send_two() -> None:
            with front:
                await jobs.send_many([2, 3], wait_seconds=None)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send_two)
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(lambda: jobs.send(4, wait_seconds=None))
            await anyio.wait_all_tasks_blocked()
            assert await finished(jobs, 1) == [0]
            front.cancel()
        assert await finished(jobs, 2) == [1, 4]


async def test_who_is_cancelled_just_when_room_was_given_gives_it_back(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=1)) as jobs:
        await jobs.send(0)
        scope = anyio.CancelScope()

        async def send() -> None:
            with scope:
                await jobs.send(1, wait_seconds=None)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send)
            await anyio.wait_all_tasks_blocked()
            # In the turn in which the room is given.
            message = await take(jobs)
            await message.ack()
            scope.cancel()
        # It was sent or not, which is known before what is written now; the place is free again.
        await jobs.subscription("later")
        await jobs.purge()
        await jobs.send(2)
        assert await finished(jobs, 1) == [2]


async def test_a_cancelled_send_keeps_its_room_until_it_is_known_what_became_of_it(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    settings = QueueConfiguration(max_size=1)
    async with open_queue(data_dir, settings, backend=backend) as jobs:
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.send, 0)
            await backend.reached()
            task_group.cancel_scope.cancel()
        with pytest.raises(QueueFullError):
            await jobs.send(1)
        backend.open_gate()
        assert await finished(jobs, 1) == [0]
        await jobs.send(2)


# --- deduplication ---


def deduplication_rows(data_dir: Path) -> int:
    name = encode_reserved_name("queues", "deduplication")
    ((count,),) = rows(
        data_dir,
        "SELECT count(*) FROM entries JOIN namespaces ON id = namespace_id WHERE name = ?",
        (name,),
    )
    assert isinstance(count, int)
    return count


async def test_the_same_id_within_the_window_is_sent_once_and_answered_alike(
    data_dir: Path,
) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(deduplication_window_seconds=10.0)
    async with open_queue(data_dir, settings, clock=clock) as jobs:
        first = await jobs.send("x", deduplication_id="a")
        assert await jobs.send("changed", deduplication_id="a") == first
        assert await jobs.send("x", deduplication_id="b") != first
        await finished(jobs, 2)
        clock.now += 9.0
        assert await jobs.send("x", deduplication_id="a") == first
    async with open_queue(data_dir, clock=clock) as jobs:
        assert await jobs.send("x", deduplication_id="a") == first
        assert jobs.statistics().size == 0
        clock.now += 1.0
        again = await jobs.send("again", deduplication_id="a")
        assert again != first
        assert await finished(jobs, 1) == ["again"]
        assert await jobs.send("again", deduplication_id="a") == again


async def test_ids_of_one_queue_are_not_those_of_another(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        some = [await queues.create_queue(name) for name in ("a", "b")]
        for queue in some:
            await queue.send("x", deduplication_id="a")
        assert [queue.statistics().size for queue in some] == [1, 1]


async def test_of_many_sends_with_one_id_at_once_one_is_sent(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        ids: list[str] = []

        async def send(number: int) -> None:
            ids.append(await jobs.send(number, deduplication_id="a"))

        async with anyio.create_task_group() as task_group:
            for number in range(20):
                task_group.start_soon(send, number)
        assert len(set(ids)) == 1
        assert (await take(jobs)).id == ids[0]
        assert jobs.statistics().sent == 1


async def test_a_refused_send_leaves_no_trace_so_that_its_retry_is_no_duplicate(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    settings = QueueConfiguration(max_size=1)
    async with open_queue(data_dir, settings, backend=backend, value_bytes_max=2_000_000) as jobs:
        await jobs.send("in the way")
        refusals: list[tuple[type[Exception], Any]] = [
            (QueueFullError, "x"),
            (ValueTooLargeError, bytes(2_000_000)),
            (InvalidArgumentError, {1, 2}),
        ]
        for error, payload in refusals:
            with pytest.raises(error):
                await jobs.send(payload, deduplication_id="a")
        await finished(jobs, 1)
        await backend.fill_up()
        with pytest.raises(StorageFullError):
            await jobs.send(bytes(1_000_000), deduplication_id="a")
        await backend.make_room()
        assert deduplication_rows(data_dir) == 0
        await jobs.send("retried", deduplication_id="a")
        assert await finished(jobs, 1) == ["retried"]


async def test_a_duplicate_is_answered_also_where_the_queue_is_full(data_dir: Path) -> None:
    async with open_queue(data_dir, QueueConfiguration(max_size=1)) as jobs:
        first = await jobs.send("x", deduplication_id="a")
        with anyio.fail_after(60):
            assert await jobs.send("x", deduplication_id="a") == first
            assert await jobs.send("x", deduplication_id="a", wait_seconds=None) == first
        with pytest.raises(QueueFullError):
            await jobs.send("y", deduplication_id="b")
        with pytest.raises(QueueFullError):
            await jobs.send("y", deduplication_id="b", wait_seconds=0.01)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: jobs.send("y", deduplication_id="b", wait_seconds=None))
            await anyio.wait_all_tasks_blocked()
            assert await finished(jobs, 2) == ["x", "y"]


async def test_in_a_transaction_an_id_is_remembered_with_it_or_not_at_all(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await jobs.send("never", deduplication_id="a", transaction=transaction)
                raise ZeroDivisionError
        async with registry.transaction() as transaction:
            sent = await jobs.send("x", deduplication_id="a", transaction=transaction)
            again = await jobs.send("x", deduplication_id="a", transaction=transaction)
            assert again == sent
        async with registry.transaction() as transaction:
            assert await jobs.send("x", deduplication_id="a", transaction=transaction) == sent
        assert await finished(jobs, 1) == ["x"]
        assert jobs.statistics().size == 0


@pytest.mark.parametrize("max_size", [None, 1])
async def test_an_id_is_sent_once_by_those_who_send_it_in_one_transaction_side_by_side(
    data_dir: Path, max_size: int | None
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=max_size))
        ids: list[str] = []
        async with registry.transaction() as transaction:

            async def send() -> None:
                ids.append(await jobs.send("x", deduplication_id="a", transaction=transaction))

            async with anyio.create_task_group() as task_group:
                for _ in range(3):
                    task_group.start_soon(send)
        assert len(ids) == 3
        assert len(set(ids)) == 1
        assert jobs.statistics().sent == 1
        assert await finished(jobs, 1) == ["x"]
        # Whoever came too late has given back its room.
        await jobs.send("y")


async def test_a_send_refused_in_a_transaction_that_goes_on_leaves_no_trace_in_it(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir, value_bytes_max=4_096) as (registry, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        async with registry.transaction() as transaction:
            # The payload alone would fit.
            with pytest.raises(ValueTooLargeError):
                await jobs.send(bytes(3_060), deduplication_id="a", transaction=transaction)
        assert deduplication_rows(data_dir) == 0
        await jobs.send("x", deduplication_id="a")
        assert await finished(jobs, 1) == ["x"]


async def test_where_another_send_comes_in_between_the_transaction_fails(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs")
        with pytest.raises(VersionConflictError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await jobs.send("late", deduplication_id="a", transaction=transaction)
                await jobs.send("in between", deduplication_id="a")
        assert await finished(jobs, 1) == ["in between"]
        assert jobs.statistics().size == 0


async def test_ids_whose_window_is_over_are_removed_from_the_disk(data_dir: Path) -> None:
    clock = TurnedClock()
    settings = QueueConfiguration(deduplication_window_seconds=10.0)

    async with open_queue(data_dir, settings, clock=clock) as jobs:

        async def send(names: Callable[[int], str]) -> None:
            async with anyio.create_task_group() as task_group:
                for number in range(300):
                    task_group.start_soon(
                        lambda name: jobs.send(None, deduplication_id=name), names(number)
                    )

        await send(lambda number: f"old {number}")
        assert deduplication_rows(data_dir) == 300
        clock.now += 11.0
        await send(lambda number: f"new {number}")
        await until(lambda: deduplication_rows(data_dir) == 300)


async def test_what_is_no_deduplication_id_is_refused(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        wrong: list[Any] = [1, b"x", "x" * 1_025, ("a",)]
        for deduplication_id in wrong:
            with pytest.raises(InvalidArgumentError, match="deduplication_id"):
                await jobs.send("x", deduplication_id=deduplication_id)
        assert jobs.statistics().sent == 0
        for strange in ("", "\ud800", "\x00", "x" * 1_024):
            sent = await jobs.send("x", deduplication_id=strange)
            assert await jobs.send("x", deduplication_id=strange) == sent
        assert jobs.statistics().sent == 4

"""What a subscription has passed over stays so: after a restart, and with another pattern."""

from __future__ import annotations

from pathlib import Path

import pytest

from mpreg.persistence import CommitFailedError
from mpreg.queues import DeliveryGuarantee, MessageQueue, QueueConfiguration, Subscription
from mpreg.queues.keeper import SAVED_AT_CLOSE_MIN
from mpreg.testing import Fault, FaultInjector, SimulatedDisk
from tests.integration.queues.support import (
    copied_while_open,
    finished,
    open_queue,
    open_simulated,
    payloads,
    take,
    until,
)

pytestmark = pytest.mark.anyio

BROADCAST = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST, max_size=50)


async def pass_over_and_widen(jobs: MessageQueue) -> None:
    narrow = await jobs.subscription("s", "new.#")
    await jobs.send("old", topic="old")
    await jobs.send("later", topic="old", delay_seconds=0.2)
    await jobs.send("new", topic="new.1")
    await (await take(narrow)).ack()
    await jobs.subscription("s", "#")


@pytest.mark.parametrize("crashes", [False, True])
async def test_another_pattern_counts_from_where_the_cursor_has_come_to_after_a_restart_too(
    data_dir: Path, crashes: bool
) -> None:
    async with open_queue(data_dir) as jobs:
        await pass_over_and_widen(jobs)
        assert await jobs.get_subscription("s").receive(0) is None
        if crashes:
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        await jobs.send("now", topic="old")
        assert (await take(jobs.get_subscription("s"))).payload == "now"
        assert payloads(await jobs.receive_many(9, 0))[0] == "old"


async def test_what_is_passed_over_with_the_second_pattern_is_not_forgotten(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(4), topic="b")
        assert await subscription.receive(0) is None
        await jobs.subscription("s", "c")
        await jobs.send_many(range(4), topic="a")
        assert await subscription.receive(0) is None
    async with open_queue(data_dir) as jobs:
        subscription = await jobs.subscription("s", "#")
        assert await subscription.receive(0) is None
        assert jobs.statistics().subscriptions["s"].pending == 0
        assert jobs.statistics().subscriptions["default"].pending == 8


async def test_a_pattern_that_could_not_be_changed_leaves_what_was_passed_over() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.create_queue("jobs")
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(4), topic="b")
        assert await subscription.receive(0) is None
        faults.order(Fault.ROLLED_BACK)
        with pytest.raises(CommitFailedError):
            await jobs.subscription("s", "#")
        assert subscription._state.passed_in(0).ranges() == ((0, 4),)
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.get_queue("jobs")
        assert jobs.statistics().subscriptions["s"].pending == 0


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("is_deleted", [False, True])
async def test_what_was_finished_by_passing_over_stays_so_for_one_that_is_made_later(
    data_dir: Path, is_deleted: bool, crashes: bool
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        narrow = await jobs.subscription("narrow", "new.#")
        await jobs.send("old", topic="old")
        await jobs.send("new", topic="new.1")
        assert (await take(narrow)).payload == "new"
        assert jobs.statistics().size == 1
        if is_deleted:
            await jobs.delete_subscription("narrow")
        wide = await jobs.subscription("wide")
        assert jobs.statistics().size == 1
        if crashes:
            data_dir = copied_while_open(data_dir)
        else:
            assert (await take(wide)).payload == "new"
    async with open_queue(data_dir) as jobs:
        assert payloads(await jobs.get_subscription("wide").receive_many(9, 0)) == ["new"]
        # After a crash it is found out that nobody has a use for the other one.
        await until(lambda: jobs.statistics().size == 1)


async def test_a_deletion_that_failed_leaves_what_was_passed_over() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.create_queue("jobs")
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(4), topic="b")
        assert await subscription.receive(0) is None
        for call in (lambda: jobs.delete_subscription("s"), lambda: jobs.subscription("other")):
            faults.order(Fault.ROLLED_BACK)
            with pytest.raises(CommitFailedError):
                await call()
            assert subscription._state.passed_in(0).ranges() == ((0, 4),)
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.get_queue("jobs")
        assert jobs.statistics().subscriptions["s"].pending == 0


@pytest.mark.parametrize("saved", [False, True])
async def test_room_that_was_given_back_by_passing_over_is_there_after_a_restart(
    data_dir: Path, saved: bool
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(50), topic="b")
        assert await subscription.receive(0) is None
        assert jobs.statistics().size == 0
        if saved:
            jobs._core.changes = SAVED_AT_CLOSE_MIN
            await jobs._core.registry.save_snapshots()
            assert subscription._state.passed == {}
    async with open_queue(data_dir) as jobs:
        assert (jobs.statistics().size, jobs.statistics().bytes) == (0, 0)
        await jobs.send("x", topic="a")
        assert (await take(jobs.get_subscription("s"))).payload == "x"


async def test_after_a_crash_it_is_found_out_again_without_anybody_who_receives(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(50), topic="b")
        assert await subscription.receive(0) is None
        data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        await until(lambda: jobs.statistics().size == 0)
        await jobs.send("x", topic="a")


async def test_a_queue_in_memory_remembers_nothing_of_it(data_dir: Path) -> None:
    settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)
    async with open_queue(data_dir, settings) as jobs:
        subscription = await jobs.subscription("s", "a")
        await jobs.send_many(range(4), topic="b")
        assert await subscription.receive(0) is None
        assert subscription._state.passed == {}


@pytest.mark.parametrize("restarts", [False, True])
async def test_a_message_that_waits_for_its_time_is_held_against_the_pattern_of_then(
    data_dir: Path, restarts: bool
) -> None:
    async with open_queue(data_dir) as jobs:
        subscription = await jobs.subscription("s", "a")
        await jobs.send("late", topic="a", delay_seconds=0.2)
        await jobs.subscription("s", "b")
        if not restarts:
            await look(subscription)
    if restarts:
        async with open_queue(data_dir) as jobs:
            await look(jobs.get_subscription("s"))


async def look(subscription: Subscription) -> None:
    assert await subscription.receive(0.4) is None
    counts = subscription.statistics()
    assert (counts.pending, counts.delayed) == (0, 0)


# --- held for the first subscription to come ---


@pytest.mark.parametrize("crashes", [False, True])
@pytest.mark.parametrize("start", ["latest", 3])
async def test_what_was_held_for_the_first_subscription_is_finished_where_it_begins_behind_it(
    data_dir: Path, start: str | int, crashes: bool
) -> None:
    settings = QueueConfiguration(
        delivery_guarantee=DeliveryGuarantee.BROADCAST, max_size=3, max_bytes=1_000
    )
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many([0, 1, 2])
        assert jobs.statistics().size == 3
        await jobs.subscription("first", start=start)
        assert (jobs.statistics().size, jobs.statistics().bytes) == (0, 0)
        await jobs.subscription("later")
        await jobs.send_many(["a", "b", "c"])
        if crashes:
            data_dir = copied_while_open(data_dir)
    async with open_queue(data_dir) as jobs:
        assert jobs.statistics().size == 3
        for name in ("first", "later"):
            subscription = jobs.get_subscription(name)
            assert await finished(subscription, 3) == ["a", "b", "c"]
            assert await subscription.receive(0) is None
        assert (jobs.statistics().size, jobs.statistics().bytes) == (0, 0)


async def test_only_what_is_before_its_start_is_finished_by_the_first_subscription(
    data_dir: Path,
) -> None:
    async with open_queue(data_dir, BROADCAST) as jobs:
        await jobs.send_many([0, 1, 2])
        first = await jobs.subscription("first", start=2)
        assert jobs.statistics().size == 1
        assert await finished(first, 1) == [2]
        # What the last one leaves is held for the next one to come.
        await jobs.send(3)
        await jobs.delete_subscription("first")
        await jobs.send(4)
        assert jobs.statistics().size == 2
        assert await finished(await jobs.subscription("second"), 2) == [3, 4]
        assert jobs.statistics().size == 0


async def test_for_a_quorum_it_is_held_for_those_still_to_come(data_dir: Path) -> None:
    settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.QUORUM)
    async with open_queue(data_dir, settings) as jobs:
        await jobs.send_many([0, 1])
        await jobs.subscription("first", start="latest")
        assert jobs.statistics().size == 2
    async with open_queue(data_dir) as jobs:
        assert await finished(await jobs.subscription("second"), 2) == [0, 1]
        assert jobs.statistics().size == 0


async def test_a_first_subscription_that_could_not_be_made_finishes_nothing() -> None:
    disk, faults = SimulatedDisk(), FaultInjector()
    async with open_simulated(disk, faults) as (_, queues):
        jobs = await queues.create_queue("jobs", BROADCAST)
        await jobs.send_many([0, 1])
        faults.order(Fault.ROLLED_BACK)
        with pytest.raises(CommitFailedError):
            await jobs.subscription("first", start="latest")
        assert jobs.statistics().size == 2
        assert await finished(await jobs.subscription("first"), 2) == [0, 1]

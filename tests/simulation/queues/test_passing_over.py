"""What was passed over, and snapshots that are under way, or fail."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field

from mpreg.errors import StorageFullError
from mpreg.persistence import SnapshotStore
from mpreg.queues import DeliveryGuarantee, MessageQueue, QueueConfiguration, Subscription
from mpreg.queues.intervals import IntervalSet
from mpreg.queues.state import QueueState
from tests.simulation.queues.lives import Lives, keep_up, manager_of

BROADCAST = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)


@define(eq=False)
class HeldUp:
    """In the place of the snapshots of a queue: one that is being saved until it fails."""

    reached: anyio.Event = field(factory=anyio.Event)
    fail: anyio.Event = field(factory=anyio.Event)

    async def save(self, data: bytes) -> None:
        self.reached.set()
        await self.fail.wait()
        raise StorageFullError("the disk is full")


async def begin_to_save(queue: MessageQueue) -> HeldUp:
    held = HeldUp()
    slots: list[SnapshotStore] = [held, held]  # type: ignore[list-item]
    manager_of(queue)._queues.keeper._queues[queue._core].saved.slots = slots
    queue._core.changes = 1_000
    queue._core.ask_for_upkeep()
    await held.reached.wait()
    return held


async def save(queue: MessageQueue) -> None:
    queue._core.changes = 1_000
    await keep_up(queue)
    assert queue._core.changes < 1_000


async def pass_over(queue: MessageQueue) -> Subscription:
    await queue.subscription("audit")
    narrow = await queue.subscription("narrow", "wanted")
    await queue.send_many(["a", "b"], topic="unwanted")
    assert await narrow.receive(0) is None
    return narrow


async def payloads(subscription: Subscription) -> list[object]:
    return [one.payload for one in await subscription.receive_many(9, 0)]


@pytest.mark.parametrize("change", ["another pattern", "another subscription"])
def test_what_was_passed_over_does_not_come_where_a_snapshot_was_cut_off_by_a_crash(
    change: str,
) -> None:
    async def life(queue: MessageQueue) -> None:
        await pass_over(queue)
        if change == "another subscription":
            # From here on both messages are finished, and no event says so.
            await queue.ack(await queue.get_subscription("audit").receive_many(9, 0))
            assert queue.statistics().size == 0
        await begin_to_save(queue)
        if change == "another pattern":
            await queue.subscription("narrow", "#")
        else:
            await queue.subscription("new")
        lives.disk.kill_process()

    async def look(queue: MessageQueue) -> None:
        name = "narrow" if change == "another pattern" else "new"
        assert await payloads(queue.get_subscription(name)) == []

    lives = Lives(BROADCAST)
    lives.live(life, look)


def test_a_snapshot_that_failed_finishes_nothing_for_a_new_subscription_of_the_same_name() -> None:
    async def life(queue: MessageQueue) -> None:
        await pass_over(queue)
        held = await begin_to_save(queue)
        await queue.delete_subscription("narrow")
        await queue.subscription("narrow", "#")
        held.fail.set()
        await anyio.sleep(1)

    async def look(queue: MessageQueue) -> None:
        assert await payloads(queue.get_subscription("narrow")) == ["a", "b"]

    Lives(BROADCAST).live(life, look)


def test_what_is_passed_over_while_a_snapshot_is_saved_is_still_to_be_written() -> None:
    async def life(queue: MessageQueue) -> None:
        narrow = await pass_over(queue)
        await save(queue)
        assert narrow._state.passed == {}
        await queue.send("c", topic="unwanted")
        assert await narrow.receive(0) is None
        held = await begin_to_save(queue)
        await queue.send("d", topic="unwanted")
        assert await narrow.receive(0) is None
        assert narrow._state.passed[0].ranges() == ((3, 4),)
        held.fail.set()
        await anyio.sleep(1)
        await queue.subscription("narrow", "#")

    async def look(queue: MessageQueue) -> None:
        assert await payloads(queue.get_subscription("narrow")) == []

    Lives(BROADCAST).live(life, look)


@pytest.mark.parametrize("before", [2, 3])
def test_what_was_passed_over_is_written_once_however_often_the_state_is_saved(before: int) -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.subscription("narrow", "wanted")
        for _ in range(before):
            await save(queue)
        await pass_over(queue)
        events = queue._core.events_end + 1
        for _ in range(before):
            await save(queue)
            assert queue._core.events_end == events
        await queue.send("c", topic="unwanted")
        assert await queue.get_subscription("narrow").receive(0) is None
        await save(queue)
        assert queue._core.events_end == events + 1
        await queue.subscription("narrow", "#")
        lives.disk.kill_process()

    async def look(queue: MessageQueue) -> None:
        assert await payloads(queue.get_subscription("narrow")) == []

    lives = Lives(BROADCAST)
    lives.live(life, look)


def test_what_many_have_passed_over_is_written_without_asking_all_of_them_for_each(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    asked: list[int] = []
    agreed = QueueState._agreed

    def count(self: QueueState, lane: int) -> IntervalSet:
        asked.append(lane)
        return agreed(self, lane)

    async def life(queue: MessageQueue) -> None:
        narrow = [await queue.subscription(f"{number}", "wanted") for number in range(20)]
        await queue.send_many(["a", "b"], topic="unwanted")
        for one in narrow:
            assert await one.receive(0) is None
        monkeypatch.setattr(QueueState, "_agreed", count)
        events = queue._core.events_end
        await save(queue)
        assert queue._core.events_end == events + 20
        assert asked == []

    Lives(BROADCAST).live(life)


def test_a_queue_that_is_being_deleted_is_no_failure_of_who_saves_the_others() -> None:
    async def life(queue: MessageQueue) -> None:
        await pass_over(queue)
        queue._core.changes = 1_000
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(manager_of(queue).delete_queue, queue.name)
            while not queue._core.deleting:
                await anyio.lowlevel.checkpoint()
            await queue._core.registry.save_snapshots()

    Lives(BROADCAST).live(life)

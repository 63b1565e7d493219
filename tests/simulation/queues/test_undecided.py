"""Deletions and changes that are being written: who waits for them, and what a failure leaves."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from mpreg.errors import CorruptDataError, MpregError
from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
)
from mpreg.queues.storage import SharedStores
from mpreg.testing import Fault, FaultInjector, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.queues.lives import Lives
from tests.simulation.scenario import make_config


class Gated(SimulatedBackend):
    """Commits can be held up before they begin, and be slow."""

    def __init__(self, disk: SimulatedDisk, faults: FaultInjector) -> None:
        super().__init__(disk, faults)
        self.order = faults.order
        self.reached = anyio.Event()
        self.seconds = 0.0
        self._gate: anyio.Event | None = None

    def close_gate(self) -> None:
        self._gate, self.reached = anyio.Event(), anyio.Event()

    def open_gate(self) -> None:
        assert self._gate is not None
        self._gate.set()
        self._gate = None

    async def next_commit(self) -> None:
        """Let one commit through, and return when the next one waits."""
        self.open_gate()
        self.close_gate()
        await self.reached.wait()

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        await anyio.sleep(self.seconds)
        if self._gate is not None:
            self.reached.set()
            await self._gate.wait()
        return await super().commit(group)


Story = Callable[[MessageQueueManager, Gated], Awaitable[None]]


def tell(story: Story, disk: SimulatedDisk | None = None) -> SimulatedDisk:
    simulation = Simulation(0, seconds_max=1_000_000)
    disk = SimulatedDisk() if disk is None else disk

    async def run() -> None:
        backend = Gated(disk, FaultInjector())
        registry = PersistenceRegistry(make_config(), backend=backend, clock=simulation.clock)
        async with registry:
            await story(MessageQueueManager(registry), backend)

    simulation.run(run)
    return disk


async def expect(error: type[Exception], call: Callable[[], Awaitable[object]]) -> None:
    with pytest.raises(error):
        await call()


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_who_waits_has_its_messages_after_a_deletion_that_failed(what: str) -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        source = await queue.subscription("audit")
        got: list[Any] = []

        async def receive() -> None:
            message = await source.receive(1_000)
            got.append(message and message.payload)

        async def delete() -> None:
            if what == "queue":
                await queues.delete_queue("jobs")
            else:
                await queue.delete_subscription("audit")

        async with anyio.create_task_group() as tasks:
            for _ in range(2):
                tasks.start_soon(receive)
                await anyio.sleep(0.1)
            backend.close_gate()
            tasks.start_soon(queue.send_many, ["a", "b"])
            await backend.reached.wait()
            tasks.start_soon(expect, MpregError, delete)
            await anyio.sleep(0.1)
            await backend.next_commit()
            # Called, and not told whether there is anything to be had.
            assert got == []
            backend.order(Fault.ROLLED_BACK)
            backend.open_gate()
        assert sorted(got) == ["a", "b"]

    tell(story)


@pytest.mark.parametrize("what", ["queue", "subscription"])
def test_what_was_to_die_during_a_deletion_that_failed_dies_after_it(
    what: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        settings = QueueConfiguration(max_deliveries=1, lease_seconds=10.0)
        queue = await queues.create_queue("jobs", settings)
        source = await queue.subscription("audit")
        await queue.send_many(["a", "b"])
        assert len(await source.receive_many(2)) == 2

        async def delete() -> None:
            if what == "queue":
                await queues.delete_queue("jobs")
            else:
                await queue.delete_subscription("audit")

        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(expect, MpregError, delete)
            await backend.reached.wait()
            # Their leases end, and it is not known whether there is anybody they can die for.
            await anyio.sleep(60)
            backend.order(Fault.ROLLED_BACK)
            backend.open_gate()
        await anyio.sleep(60)
        assert [letter.payload for letter in await queue.dead_letters()] == ["a", "b"]

    tell(story)
    assert "upkeep failed" not in caplog.text


def test_the_next_configuration_is_compared_with_the_one_under_way() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs", QueueConfiguration(max_size=10))
        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queues.create_queue, "jobs", QueueConfiguration(max_size=20))
            await backend.reached.wait()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queues.create_queue, "jobs", QueueConfiguration(max_size=10))
            await anyio.sleep(1)
            backend.open_gate()
        assert queue.configuration.max_size == 10
        await anyio.sleep(1)
        assert queue.configuration.max_size == 10

    disk = tell(story)

    async def restarted(queues: MessageQueueManager, backend: Gated) -> None:
        assert (await queues.get_queue("jobs")).configuration.max_size == 10

    tell(restarted, disk)


def test_the_next_pattern_is_compared_with_the_one_under_way() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        audit = await queue.subscription("audit", "x.#")
        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.subscription, "audit", "y.#")
            await backend.reached.wait()
            tasks.cancel_scope.cancel()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.subscription, "audit", "x.#")
            await anyio.sleep(1)
            backend.open_gate()
        await queue.send(1, topic="x.y")
        assert await audit.receive(1) is not None

    tell(story)


def test_removal_that_fails_for_a_moment_is_tried_again() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("jobs")
        await queue.send_many(range(5_000))
        await anyio.sleep(1)
        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            # It is deleted, so nothing is raised.
            tasks.start_soon(queues.delete_queue, "jobs")
            await backend.reached.wait()
            await backend.next_commit()
            backend.order(Fault.DISK_FULL)
            backend.order(Fault.ROLLED_BACK, 2)
            backend.open_gate()
        assert await queues.queue_names() == []
        await anyio.sleep(1_000)
        assert await queues._queues.stores.deleted_queues() == []
        assert await queue._core.storage.lane(0).next_offset() == 0

    tell(story)


def test_upkeep_of_others_does_not_wait_for_a_left_over_to_be_removed() -> None:
    async def leave(queues: MessageQueueManager, backend: Gated) -> None:
        queue = await queues.create_queue("big")
        for _ in range(10):
            await queue.send_many(range(10_000))
        found = queues._queues.open["big"]
        await queues._queues.stores.mark_deleted("big", found.stored, lambda _: None)

    async def live(queues: MessageQueueManager, backend: Gated) -> None:
        backend.seconds = 0.5
        settings = QueueConfiguration(max_deliveries=1, lease_seconds=1.0)
        queue = await queues.create_queue("jobs", settings)
        await queue.send("x")
        assert await queue.receive() is not None
        began = anyio.current_time()
        while not queue.statistics().dead:
            await anyio.sleep(0.1)
        assert anyio.current_time() - began < 5
        assert await queues._queues.stores.deleted_queues() != []
        while await queues._queues.stores.deleted_queues():
            await anyio.sleep(10)

    tell(live, tell(leave))


def test_what_is_left_of_the_last_queue_is_removed_though_nobody_asks_for_one() -> None:
    lives = Lives()

    async def leave(queue: MessageQueue) -> None:
        await queue.send_many(range(100))
        queues = manager(queue)._queues
        await queues.stores.mark_deleted("jobs", queues.open["jobs"].stored, lambda _: None)
        lives.disk.kill_process()

    async def look_on() -> None:
        registry = lives.registry()
        queues = MessageQueueManager(registry)
        async with registry:
            await anyio.sleep(100)
            assert await queues._queues.stores.deleted_queues() == []

    lives.live(leave)
    lives.simulation.run(look_on)


def test_a_table_of_deleted_queues_that_cannot_be_read_stops_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def damaged(stores: SharedStores) -> list[tuple[str, str]]:
        raise CorruptDataError("damaged on purpose", None, "here")

    monkeypatch.setattr(SharedStores, "deleted_queues", damaged)

    async def life(queue: MessageQueue) -> None:
        await queue.send(1)
        await anyio.sleep(1_000)
        assert await queue.receive(1) is not None

    Lives().live(life)


def test_alarms_that_are_far_away_do_not_add_up() -> None:
    async def life(queue: MessageQueue) -> None:
        await queue.send("far", delay_seconds=300 * 86_400)
        for number in range(500):
            await queue.send(number)
            message = await queue.receive()
            assert message is not None
            await message.ack()
            await anyio.sleep(1.5)
        assert len(manager(queue)._queues.keeper._alarms) < 100

    Lives(QueueConfiguration(lease_seconds=1.0)).live(life)


def manager(queue: MessageQueue) -> MessageQueueManager:
    return MessageQueueManager(queue._core.registry)


def test_clean_stops_do_not_use_up_the_attempts_of_what_nobody_has_seen() -> None:
    async def life(queue: MessageQueue) -> None:
        if queue.statistics().sent == 0:
            await queue.send("never seen")
        await queue.send("urgent", priority=9)

        async def work() -> None:
            async for message in queue.consume(prefetch=4):
                assert message.payload == "urgent"
                await message.ack()
                await anyio.sleep(3_600)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(1)
            tasks.cancel_scope.cancel()
        assert queue.statistics().dead == 0

    settings = QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=2)
    Lives(settings).live(*[life] * 10)


@pytest.mark.parametrize("steps", range(1, 6))
def test_a_deletion_of_what_is_not_stored_that_was_cancelled_leaves_it_usable(steps: int) -> None:
    async def life(queue: MessageQueue) -> None:
        source = await queue.subscription("audit")
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.delete_subscription, "audit")
            for _ in range(steps):
                await anyio.sleep(0)
            tasks.cancel_scope.cancel()
        source = await queue.subscription("audit")
        await queue.send("x")
        assert await source.receive(1) is not None

    Lives(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET)).live(life)


def test_one_who_loops_does_not_pass_one_who_has_waited() -> None:
    async def life(queue: MessageQueue) -> None:
        waited = 0

        async def work() -> None:
            nonlocal waited
            async for message in queue.consume():
                waited += 1
                await message.ack()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(work)
            await anyio.sleep(1)
            for number in range(100):
                await queue.send(number)
                message = await queue.receive(0.0)
                if message is not None:
                    await message.ack()
            tasks.cancel_scope.cancel()
        assert waited >= 50

    for seed in range(5):
        Lives(seed=seed).live(life)


def test_what_a_subscription_would_pass_over_while_it_is_deleted_is_held_for_the_next() -> None:
    async def story(queues: MessageQueueManager, backend: Gated) -> None:
        settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        queue = await queues.create_queue("jobs", settings)
        await queue.subscription("narrow", "wanted")
        await queue.send_many(["a", "b"], topic="unwanted")
        backend.close_gate()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(queue.delete_subscription, "narrow")
            await backend.reached.wait()
            queue._core.sweeping = True
            queue._core.ask_for_upkeep()
            await anyio.sleep(10)
            backend.open_gate()
        await look(queues, backend)

    async def look(queues: MessageQueueManager, _: Gated) -> None:
        queue = await queues.get_queue("jobs")
        await anyio.sleep(10)
        assert queue.statistics().size == 2

    disk = tell(story)
    tell(look, disk)

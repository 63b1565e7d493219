"""Processes that use a queue, one after the other, on one simulated disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.queues import MessageQueue, MessageQueueManager, QueueConfiguration
from mpreg.queues.records import Event, decode_event
from tests.simulation.lives import SimulatedLives

__all__ = ["Lives", "cancelled_once_sent", "forget_bodies", "keep_up", "manager_of"]

Life = Callable[[MessageQueue], Awaitable[None]]


@define(eq=False)
class Lives(SimulatedLives):
    """All have one queue."""

    configuration: QueueConfiguration = field(factory=QueueConfiguration)

    def live(self, *lives: Life) -> None:
        for life in lives:
            self.simulation.run(self._live, life)

    async def _live(self, life: Life) -> None:
        async with self.registry() as registry:
            queues = MessageQueueManager(registry)
            await life(await queues.create_queue("jobs", self.configuration))

    def damage(self, kind: type[Event]) -> None:
        """Spoil the first event of a kind."""
        for records in self.event_records():
            for index, data in enumerate(records):
                if isinstance(decode_event(data, ""), kind):
                    records[index] = b"\xc1"
                    return
        raise AssertionError(f"no {kind}")

    def damage_message(self, offset: int) -> None:
        """Spoil the record of a message."""
        for name, log in self.disk.state._logs.items():
            if name.endswith(b"/0"):
                log._last[offset] = b"\xc1"

    def event_records(self) -> list[list[bytes]]:
        """The last ones of each log of events, as they are kept: to be spoiled."""
        return [log._last for name, log in self.disk.state._logs.items() if b"events" in name]


def manager_of(queue: MessageQueue) -> MessageQueueManager:
    return MessageQueueManager(queue._core.registry)


def forget_bodies(queue: MessageQueue) -> None:
    """From now on its messages are on disk only."""
    queue._core.bodies.forget(queue._core.storage.incarnation)
    assert queue._core.bodies.bytes == 0


async def keep_up(queue: MessageQueue) -> None:
    queue._core.ask_for_upkeep()
    await anyio.sleep(1)


async def cancelled_once_sent(
    queue: MessageQueue, call: Callable[[], Awaitable[object]], *, batches: int = 1
) -> None:
    """Cancel what a call does when it has sent its first write, or the first ``batches``."""
    writes = queue._core.registry._gateway.writes
    sent = writes.statistics().sent + batches

    async def run() -> None:
        await call()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(run)
        while writes.statistics().sent < sent:
            await anyio.lowlevel.checkpoint()
        task_group.cancel_scope.cancel()

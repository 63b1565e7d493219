"""Processes that end in peace, one after the other, on one simulated disk and in virtual time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueue, MessageQueueManager, QueueConfiguration
from mpreg.queues.records import Event, decode_event
from mpreg.testing import FaultInjector, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.scenario import make_config

__all__ = ["Lives", "cancelled_once_sent", "forget_bodies", "keep_up", "manager_of"]

#: Somebody who runs in a circle is soon found.
STEPS_MAX = 200_000

Life = Callable[[MessageQueue], Awaitable[None]]


@define(eq=False)
class Lives:
    """All have one queue."""

    configuration: QueueConfiguration = field(factory=QueueConfiguration)
    seed: int = 0
    settings: dict[str, Any] = field(factory=dict)
    """Of the registry."""
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(factory=SimulatedDisk, init=False)
    faults: FaultInjector = field(factory=FaultInjector, init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, seconds_max=10_000, steps_max=STEPS_MAX)

    def live(self, *lives: Life) -> None:
        for life in lives:
            self.simulation.run(self._live, life)

    def registry(self) -> PersistenceRegistry:
        backend = SimulatedBackend(self.disk, self.faults)
        config = make_config(**self.settings)
        return PersistenceRegistry(config, backend=backend, clock=self.simulation.clock)

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

"""One seed's story of queues: several processes, one after the other, on one simulated disk.

Producers send, consumers of every kind take and acknowledge, give back, let leases run out, and
write effects with their acknowledgments, while the disk fails, callers are cancelled, the wall
clock jumps, and the process dies at any step. A last process, in which everything works, takes all
that is left; then what happened is held against what was promised.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable
from random import Random

import anyio
from attrs import define, field

from mpreg.errors import (
    CommitFailedError,
    CommitUnknownError,
    LeaseLostError,
    PersistenceError,
    QueueFullError,
    ReaderStoppedError,
    StorageIOError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import (
    DeliveryGuarantee,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
    Subscription,
)
from mpreg.testing import (
    Fault,
    FaultInjector,
    FaultPlan,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)

__all__ = ["QueueStory"]

PROCESSES_MAX = 4
PRODUCERS = 3
SENDS_PER_PRODUCER = 8
SECONDS_PER_PROCESS = 3.0

FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.02,
        Fault.COMMIT_UNTOLD: 0.02,
        Fault.ROLLED_BACK: 0.03,
        Fault.DISK_FULL: 0.01,
        Fault.SLOW_COMMIT: 0.005,
        Fault.OPEN_FAILS: 0.05,
        Fault.READ_FAILS: 0.005,
    },
    commit_seconds_max=0.01,
)

JOBS = QueueConfiguration(
    lease_seconds=0.2, max_deliveries=10_000, retry_delay_seconds=0.05, max_size=40
)
URGENT = QueueConfiguration(queue_type=QueueType.PRIORITY, lease_seconds=0.5, max_deliveries=10_000)
VOTES = QueueConfiguration(
    delivery_guarantee=DeliveryGuarantee.QUORUM,
    required_acknowledgments=2,
    lease_seconds=0.5,
    max_deliveries=10_000,
)

#: What a call may raise because of the disk, or of the end: what became of it is then not known.
TROUBLE = (
    CommitFailedError,
    CommitUnknownError,
    WriterStoppedError,
    ReaderStoppedError,
    StorageIOError,
)

Holder = tuple[str, str, str]
"""(queue, subscription, payload)."""


@define(eq=False)
class Ledger:
    """What was asked for, what was promised, and what was seen; kept outside the store."""

    asked: dict[str, set[str]] = field(factory=dict)
    """By queue: payloads of sends that were begun."""
    sent: dict[str, set[str]] = field(factory=dict)
    """By queue: payloads whose send returned."""
    acknowledging: set[Holder] = field(factory=set)
    """Acknowledgments that were begun."""
    acknowledged: set[Holder] = field(factory=set)
    """Acknowledgments that returned."""
    attempts: dict[Holder, int] = field(factory=dict)
    places: dict[str, dict[str, tuple[int, int]]] = field(factory=dict)
    """By queue and payload, where it lies."""
    effects: set[str] = field(factory=set)
    """Payloads whose acknowledgment was to write an effect and send on."""

    def hand_out(self, queue: str, message: Message) -> Holder:
        """Check a delivery against all that was promised."""
        payload = message.payload
        holder = (queue, message.subscription, payload)
        assert payload in self.asked[queue], f"{payload} was never sent"
        assert holder not in self.acknowledged, f"{holder} comes back though it was acknowledged"
        assert message.lease is not None
        attempt = message.lease.attempt
        assert attempt > self.attempts.get(holder, 0), f"{holder}: attempt {attempt} is not new"
        self.attempts[holder] = attempt
        place = (message.lease.delivery.lane, message.lease.delivery.offset)
        assert self.places.setdefault(queue, {}).setdefault(payload, place) == place, (
            f"{payload} was delivered from two places"
        )
        return holder


@define(eq=False)
class QueueStory:
    """Made for a seed, told once by `tell`."""

    seed: int
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    random: Random = field(init=False)
    ledger: Ledger = field(factory=Ledger, init=False)
    counts: Counter[str] = field(factory=Counter, init=False)
    scopes: list[anyio.CancelScope] = field(factory=list, init=False)
    life: int = field(default=0, init=False)
    queues: dict[str, MessageQueue] = field(factory=dict, init=False)
    """Those of the process that runs."""

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(
            FAULTS, self.simulation.stream("faults"), self.simulation.record
        )
        self.random = self.simulation.stream("callers")

    def tell(self) -> QueueStory:
        for _ in range(self.random.randint(1, PROCESSES_MAX)):
            self.life += 1
            crash_at_step = None
            if self.random.random() < 0.7:
                crash_at_step = int(math.exp(self.random.uniform(0, math.log(4_000))))
            power_cut = self.random.random() < 0.7
            on_crash = self.disk.cut_power if power_cut else self.disk.kill_process
            self.simulation.run(self._process, crash_at_step=crash_at_step, on_crash=on_crash)
            self.counts["crashes" if self.simulation.crashed else "ends in peace"] += 1
        self.faults.heal()
        self.simulation.record("the last process: everything works")
        self.simulation.run(self._last_process)
        assert self.disk.complaints == []
        return self

    # --- processes ---

    def _registry(self) -> PersistenceRegistry:
        return PersistenceRegistry(
            PersistenceConfig(
                backend="memory",
                switch_interval_seconds=None,
                mailbox_batches_max=self.random.choice([2, 16, 1_000]),
                group_batches_max=self.random.choice([2, 1_000]),
            ),
            backend=SimulatedBackend(self.disk, self.faults),
            clock=self.simulation.clock,
        )

    async def _process(self) -> None:
        try:
            async with self._registry() as registry:
                with anyio.move_on_after(SECONDS_PER_PROCESS):
                    await self._work(registry)
        except* TROUBLE as group:
            self.simulation.record(f"process ended by {group.exceptions[0]!r}")
            self.counts["processes ended by the disk"] += 1

    async def _work(self, registry: PersistenceRegistry) -> None:
        queues = MessageQueueManager(registry)
        jobs = await queues.create_queue("jobs", JOBS)
        done = await queues.create_queue("done", JOBS)
        urgent = await queues.create_queue("urgent", URGENT)
        votes = await queues.create_queue("votes", VOTES)
        self.queues = {queue.name: queue for queue in (jobs, done, urgent, votes)}
        voters = [await votes.subscription(name) for name in ("ann", "bob")]
        async with anyio.create_task_group() as task_group:
            for number in range(PRODUCERS):
                task_group.start_soon(self._produce, jobs, number)
            task_group.start_soon(self._produce, urgent, 0)
            task_group.start_soon(self._produce, votes, 0)
            task_group.start_soon(self._meddle)
            ways = [self._one_by_one, self._many, self._in_a_loop]
            for subscription in (await jobs.subscription("default"), *voters):
                name = "jobs" if subscription.name == "default" else "votes"
                for way in ways:
                    task_group.start_soon(self._guarded, way, name, subscription)
            task_group.start_soon(
                self._guarded, self._one_by_one, "urgent", await urgent.subscription("default")
            )
            task_group.start_soon(self._with_effect, registry, jobs, done)

    async def _meddle(self) -> None:
        while True:
            await anyio.sleep(self.random.expovariate(30))
            if self.scopes and self.random.random() < 0.6:
                self.random.choice(self.scopes).cancel()
                self.counts["cancellations"] += 1
            elif self.random.random() < 0.2:
                self.simulation.clock.jump(self.random.uniform(-100, 100))

    async def _cancellable(self, call: Callable[[], Awaitable[object]]) -> bool:
        """Whether it returned; it may be cancelled anywhere."""
        with anyio.CancelScope() as scope:
            self.scopes.append(scope)
            try:
                await call()
                return True
            finally:
                self.scopes.remove(scope)
        return False

    # --- producers ---

    async def _produce(self, queue: MessageQueue, producer: int) -> None:
        asked = self.ledger.asked.setdefault(queue.name, set())
        sent = self.ledger.sent.setdefault(queue.name, set())
        for number in range(SENDS_PER_PRODUCER):
            payload = f"{self.life}/{producer}/{number}"
            asked.add(payload)
            kind = self.random.random()

            async def send(payload: str = payload, kind: float = kind) -> None:
                priority = self.random.choice([0, 3, 7]) if queue.name == "urgent" else 0
                delay = 0.02 if kind < 0.2 else 0.0
                identity = payload if kind > 0.6 else None
                await queue.send(
                    payload,
                    priority=priority,
                    delay_seconds=delay,
                    deduplication_id=identity,
                    wait_seconds=None if kind > 0.3 else 0.0,
                )

            # With an id it may be tried again, whatever became of it: it is there once.
            for _ in range(3 if kind > 0.6 else 1):
                try:
                    if await self._cancellable(send):
                        sent.add(payload)
                        self.counts["sends"] += 1
                        break
                except QueueFullError:
                    self.counts["full"] += 1
                    if kind <= 0.6:
                        asked.discard(payload)
                except TROUBLE:
                    self.counts["failed sends"] += 1
            await anyio.sleep(self.random.expovariate(40))

    # --- consumers ---

    async def _guarded(
        self,
        way: Callable[[str, Subscription], Awaitable[None]],
        name: str,
        subscription: Subscription,
    ) -> None:
        """Consume for ever, whatever is cancelled or fails."""
        while True:
            try:
                await self._cancellable(lambda: way(name, subscription))
            except WriterStoppedError:
                return
            except TROUBLE:
                self.counts["failed deliveries"] += 1
            except LeaseLostError:
                self.counts["lost leases"] += 1
            await anyio.sleep(self.random.expovariate(50))

    async def _one_by_one(self, queue: str, subscription: Subscription) -> None:
        while True:
            message = await subscription.receive()
            assert message is not None
            await self._deal_with(queue, message)

    async def _many(self, queue: str, subscription: Subscription) -> None:
        while True:
            messages = await subscription.receive_many(4)
            holders = [self.ledger.hand_out(queue, message) for message in messages]
            self.ledger.acknowledging.update(holders)
            await self.queues[queue].ack(messages)
            self.ledger.acknowledged.update(holders)

    async def _in_a_loop(self, queue: str, subscription: Subscription) -> None:
        async with subscription.consume(prefetch=3) as messages:
            async for message in messages:
                await anyio.sleep(self.random.choice([0.0, 0.0, 0.3]))
                await self._deal_with(queue, message)

    async def _deal_with(self, queue: str, message: Message) -> None:
        holder = self.ledger.hand_out(queue, message)
        choice = self.random.random()
        if choice < 0.15:
            await message.nack(self.random.choice([0.0, 0.05, None]), "not now")
            self.counts["nacks"] += 1
        elif choice < 0.22:
            # Its lease runs out; what is then said about it must change nothing.
            await anyio.sleep(0.6)
            self.ledger.acknowledging.add(holder)
            await message.ack()
            self.ledger.acknowledged.add(holder)
        else:
            if choice < 0.3:
                await message.extend(1.0)
            self.ledger.acknowledging.add(holder)
            await message.ack()
            self.ledger.acknowledged.add(holder)
            self.counts["acks"] += 1

    async def _with_effect(
        self, registry: PersistenceRegistry, jobs: MessageQueue, done: MessageQueue
    ) -> None:
        """Acknowledge, write a key that must not be there, and send on: together or not at all."""
        effects = registry.key_value_store("effects")

        async def work() -> None:
            message = await jobs.receive()
            assert message is not None
            holder = self.ledger.hand_out("jobs", message)
            payload = message.payload
            self.ledger.effects.add(payload)
            async with registry.transaction() as transaction:
                await message.ack(transaction=transaction)
                effects.put_nowait(payload, b"", expected_version=0, transaction=transaction)
                await done.send(payload, wait_seconds=None, transaction=transaction)
                # From here on it may happen.
                self.ledger.acknowledging.add(holder)
                self.ledger.asked.setdefault("done", set()).add(payload)
            self.ledger.acknowledged.add(holder)
            self.counts["effects"] += 1

        while True:
            try:
                await self._cancellable(work)
            except VersionConflictError:
                raise AssertionError("an effect was to be written a second time") from None
            except WriterStoppedError:
                return
            except LeaseLostError:
                self.counts["lost leases"] += 1
            except (*TROUBLE, PersistenceError):
                self.counts["failed effects"] += 1

    # --- the end ---

    async def _last_process(self) -> None:
        async with self._registry() as registry:
            queues = MessageQueueManager(registry)
            left: dict[tuple[str, str], list[str]] = {}
            for name in await queues.queue_names():
                queue = await queues.get_queue(name)
                for subscription in queue.statistics().subscriptions:
                    cursor = await queue.subscription(subscription)
                    left[name, subscription] = await self._drain(name, cursor)
                assert queue.statistics().size == 0 or name == "votes"
                assert queue.statistics().dead == 0
            effects = {str(entry.key) async for entry in registry.key_value_store("effects").scan()}
        self._check(left, effects)

    async def _drain(self, name: str, subscription: Subscription) -> list[str]:
        """All that is left. What was in flight is there at once, what waits comes in time."""
        drained: list[str] = []
        while (message := await subscription.receive(wait_seconds=300.0)) is not None:
            self.ledger.hand_out(name, message)
            drained.append(message.payload)
            await message.ack()
        assert len(drained) == len(set(drained)), "a message was there twice"
        return drained

    def _check(self, left: dict[tuple[str, str], list[str]], effects: set[str]) -> None:
        ledger = self.ledger
        for (name, subscription), drained in left.items():
            sent = ledger.sent.get(name, set())
            maybe = {who[2] for who in ledger.acknowledging if who[:2] == (name, subscription)}
            # A quorum of others has settled those that are not here.
            if name != "votes":
                assert sent - maybe <= set(drained), "an acknowledged send is lost"
        done = set(left.get(("done", "default"), ()))
        assert done == effects, "an effect without its message sent on, or the other way round"
        finished = {
            who[2] for who in ledger.acknowledged if who[0] == "jobs" and who[2] in ledger.effects
        }
        acked_otherwise = effects & set(left.get(("jobs", "default"), ()))
        assert not acked_otherwise, "an effect was written, and its message comes back"
        self.counts["finished with effect"] += len(finished & effects)
        self._check_order()

    def _check_order(self) -> None:
        """What one producer sent one after the other lies in that order."""
        places = self.ledger.places.get("jobs", {})
        by_producer: dict[str, list[tuple[int, int]]] = {}
        for payload, (_, offset) in places.items():
            producer, _, number = payload.rpartition("/")
            by_producer.setdefault(producer, []).append((int(number), offset))
        for numbered in by_producer.values():
            offsets = [offset for _, offset in sorted(numbered)]
            assert offsets == sorted(offsets), "a producer's messages are out of order"

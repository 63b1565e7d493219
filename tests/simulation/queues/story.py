"""One seed's story of a queue: several processes, one after the other, on one simulated disk.

In each, producers send, consumers of several kinds receive and settle, an operator meddles, the
disk fails, and in the end it is killed or loses its power at any step of any task. The last
process works to the end, and then all that was ever promised is held against what was seen.
"""

from __future__ import annotations

import gc
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from random import Random
from typing import Any, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.errors import (
    BatchRejectedError,
    CommitFailedError,
    CommitUnknownError,
    LeaseLostError,
    QueueFullError,
    QueueNotFoundError,
    ReaderStoppedError,
    StorageIOError,
    WriterStoppedError,
)
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import (
    Consumer,
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
from tests.simulation.queues.ledger import Fate, Ledger, Outcomes, Seen, Sent, number_of, place_of
from tests.simulation.scenario import cancellable

__all__ = ["QueueStory"]

PROCESSES_MAX: Final = 4
PRODUCERS: Final = 4
SENDS_PER_PRODUCER: Final = 12
#: Ten times what a long story takes: who runs in a circle is found soon.
STEPS_MAX: Final = 300_000
TOPICS: Final = ("", "jobs.a", "jobs.b")

FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.01,
        Fault.COMMIT_UNTOLD: 0.01,
        Fault.ROLLED_BACK: 0.03,
        Fault.DISK_FULL: 0.01,
        Fault.SLOW_COMMIT: 0.01,
        Fault.OPEN_FAILS: 0.05,
        Fault.READ_FAILS: 0.01,
        Fault.CLOSE_FAILS: 0.05,
    },
    commit_seconds_max=0.01,
    slow_seconds_max=8.0,
    full_seconds_max=2.0,
)

#: What a caller may be told while the process goes on.
Refused = (CommitFailedError, BatchRejectedError, QueueFullError)

#: What a caller is told when it ends.
Ended = (WriterStoppedError, ReaderStoppedError, CommitUnknownError)


@define(eq=False)
class QueueStory:
    """Made for a seed, told once by `tell`."""

    seed: int
    plan: FaultPlan = FAULTS
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    random: Random = field(init=False)
    configuration: QueueConfiguration = field(init=False)
    ledger: Ledger = field(init=False)
    counts: Counter[str] = field(factory=Counter, init=False)
    scopes: list[anyio.CancelScope] = field(factory=list, init=False)
    """Of what may be cancelled at random."""
    subscriptions: list[str] = field(init=False)
    """The first of them has a single consumer that is never cancelled."""
    passing: str | None = field(init=False)
    """A subscription that comes and goes."""
    bodies_bytes_max: int = field(init=False)
    logical: int = 0
    """Numbers the deduplication ids."""

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, steps_max=STEPS_MAX)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(
            self.plan, self.simulation.stream("faults"), self.simulation.record
        )
        self.random = self.simulation.stream("queue")
        self.configuration = self._configure()
        self.ledger = Ledger(self.configuration.max_deliveries)
        guarantee = self.configuration.delivery_guarantee
        own = ["default"] if guarantee is DeliveryGuarantee.AT_LEAST_ONCE else ["one"]
        most = 1 if guarantee is DeliveryGuarantee.AT_LEAST_ONCE else 2
        least = self.configuration.required_acknowledgments - 1
        others = ["two", "three"][: self.random.randint(min(least, most), most)]
        self.subscriptions = own + others
        may_pass = guarantee is not DeliveryGuarantee.QUORUM and self.random.random() < 0.3
        self.passing = "passing" if may_pass else None
        self.bodies_bytes_max = self.random.choice([200, 2_000, 1 << 20])

    def _configure(self) -> QueueConfiguration:
        pick = self.random.choice
        guarantee = pick(
            [
                DeliveryGuarantee.AT_LEAST_ONCE,
                DeliveryGuarantee.AT_LEAST_ONCE,
                DeliveryGuarantee.BROADCAST,
                DeliveryGuarantee.QUORUM,
            ]
        )
        quorum = guarantee is DeliveryGuarantee.QUORUM
        return QueueConfiguration(
            queue_type=pick([QueueType.FIFO, QueueType.FIFO, QueueType.PRIORITY]),
            delivery_guarantee=guarantee,
            required_acknowledgments=pick([1, 2]) if quorum else 1,
            max_deliveries=pick([2, 4, 1_000]),
            lease_seconds=pick([0.5, 5.0]),
            retry_delay_seconds=pick([0.0, 0.3]),
            retry_delay_seconds_max=3.0,
            max_size=pick([None, None, 20]),
            message_ttl_seconds=pick([None, None, None, 10.0]),
            deduplication_window_seconds=1e9,
        )

    @property
    def expires(self) -> bool:
        return self.configuration.message_ttl_seconds is not None

    def tell(self) -> QueueStory:
        # A consumer that is left gives back what it took when it is collected. Where that is done
        # at a time of its own, a story would not be the same each time.
        gc.collect()
        gc.disable()
        try:
            return self._tell()
        finally:
            gc.enable()

    def _tell(self) -> QueueStory:
        for _ in range(self.random.randint(1, PROCESSES_MAX)):
            self._live()
        self.faults.heal()
        self.simulation.record("the last process: everything works")
        self.ledger.begin_life()
        self.simulation.run(self._process, self._finish)
        assert not self.simulation.crashed
        assert self.disk.complaints == []
        return self

    def count(self, what: str) -> None:
        self.counts[what] += 1

    @property
    def crashed(self) -> bool:
        """From then on nothing that anybody is told is of account."""
        return self.simulation.crashed

    # --- processes ---

    def _live(self) -> None:
        self.ledger.begin_life()
        crash_at_step = None
        on_crash = self.disk.kill_process
        if self.random.random() < 0.8:
            crash_at_step = int(math.exp(self.random.uniform(math.log(20), math.log(6_000))))
            if self.random.random() < 0.7:
                on_crash = self._cut_power
        self.simulation.run(
            self._process, self._work, crash_at_step=crash_at_step, on_crash=on_crash
        )
        self.count("crashes" if self.crashed else "processes that ended by themselves")

    def _cut_power(self) -> None:
        self.disk.cut_power()
        self.count("power cuts")

    async def _process(self, work: Callable[[_Process], Awaitable[None]]) -> None:
        registry = PersistenceRegistry(
            self._config(),
            backend=SimulatedBackend(self.disk, self.faults),
            clock=self.simulation.clock,
        )
        try:
            async with registry:
                process = _Process(self, registry)
                if await process.open():
                    await work(process)
        except* (StorageIOError, *Ended) as group:
            assert work != self._finish, "it failed, though nothing is broken any more"
            self.simulation.record(f"process ended by {group.exceptions[0]!r}")
            self.count("processes ended by the disk")

    def _config(self) -> PersistenceConfig:
        pick = self.random.choice
        return PersistenceConfig(
            backend="memory",
            switch_interval_seconds=None,
            mailbox_batches_max=pick([1, 4, 1_000]),
            group_batches_max=pick([1, 3, 1_000]),
            grace_seconds=pick([0.0, 0.02, 20.0]),
            restarts_max=pick([1, 6]),
        )

    async def _work(self, process: _Process) -> None:
        with anyio.move_on_after(self.random.uniform(5, 60)):
            async with anyio.create_task_group() as tasks:
                for number in range(PRODUCERS):
                    tasks.start_soon(_Producer(process, number).produce)
                tasks.start_soon(_Consumer(process, process.subscribed[0], calm=True).consume)
                for subscription in process.subscribed[1:]:
                    for _ in range(self.random.randint(1, 3)):
                        tasks.start_soon(_Consumer(process, subscription).consume)
                tasks.start_soon(process.meddle)
                if self.passing is not None:
                    tasks.start_soon(process.pass_by, self.passing)

    # --- the end ---

    async def _finish(self, process: _Process) -> None:
        """Empty the queue, and look back on all that was seen."""
        queue, ledger = process.queue, self.ledger
        if self.passing in queue.statistics().subscriptions:
            await queue.delete_subscription(str(self.passing))
        for _ in range(100):
            for subscription in process.subscribed:
                await process.drain(subscription)
            ledger.bury(await queue.dead_letters())
            counts = queue.statistics()
            if counts.pending == counts.in_flight == counts.delayed == 0:
                break
            await anyio.sleep(1)
        else:
            raise AssertionError(f"messages are left: {queue.statistics()}")
        await process.let_upkeep_work()
        ledger.bury(await queue.dead_letters())
        if self.configuration.queue_type is QueueType.FIFO and not self.expires:
            ledger.check_order(self.subscriptions[0])
        ledger.check_deduplication()
        quorum = self.configuration.required_acknowledgments
        is_quorum = self.configuration.delivery_guarantee is DeliveryGuarantee.QUORUM
        ledger.check_complete(self.subscriptions, quorum if is_quorum else None)
        self._check_counts(process)
        await self._check_effects(process)
        if process.queue.statistics().size == 0:
            await process.check_space()

    def _check_counts(self, process: _Process) -> None:
        counts = process.queue.statistics()
        acknowledged = self.ledger.acknowledged
        assert counts.dead == len(self.ledger.dead)
        assert counts.acknowledged >= len(acknowledged.certain)
        if self.passing is None:
            assert counts.acknowledged <= len(acknowledged.possible)
            if not self.expires and self.configuration.required_acknowledgments == 1:
                per_message = len(self.subscriptions)
                if self.configuration.delivery_guarantee is not DeliveryGuarantee.QUORUM:
                    assert counts.acknowledged + counts.dead == per_message * counts.sent
        is_stuck = self.configuration.delivery_guarantee is DeliveryGuarantee.QUORUM and (
            counts.dead > 0
        )
        if not is_stuck:
            assert counts.size == 0, counts
            assert counts.bytes == 0, counts

    async def _check_effects(self, process: _Process) -> None:
        """What was written with an acknowledgment is there exactly when that was."""
        effects = [record.data.decode() async for record in process.effects.read_range()]
        keys = [str(entry.key) async for entry in process.applied.scan()]
        results = []
        while messages := await process.results.receive_many(100, 0.0):
            results += [message.payload for message in messages]
        assert len(effects) == len(set(effects)), "an effect happened twice"
        assert sorted(keys) == sorted(effects) == sorted(results)
        told = self.ledger.effects
        assert set(map(effect_of, told.certain)) <= set(effects)
        assert set(effects) <= set(map(effect_of, told.possible))
        self.counts["effects"] += len(effects)


def effect_of(seen: Seen) -> str:
    name, (lane, offset) = seen
    return f"{name}/{lane}/{offset}"


@define(eq=False)
class _Process:
    """What producers and consumers of one process share."""

    story: QueueStory
    registry: PersistenceRegistry
    queue: MessageQueue = field(init=False)
    results: MessageQueue = field(init=False)
    subscribed: list[Subscription] = field(factory=list)
    left: list[tuple[Message, Seen]] = field(factory=list)
    """Deliveries that their consumers have forgotten."""
    loops: dict[Consumer, None] = field(factory=dict)
    """Those that somebody is in."""

    @property
    def effects(self) -> Any:
        return self.registry.log_store("effects")

    @property
    def applied(self) -> Any:
        return self.registry.key_value_store("applied")

    async def open(self) -> bool:
        """Whether it came so far."""
        story = self.story
        try:
            queues = MessageQueueManager(self.registry)
            queues._queues.bodies.bytes_max = story.bodies_bytes_max
            self.queue = await queues.create_queue("jobs", story.configuration)
            self.results = await queues.create_queue("results")
            for name in story.subscriptions:
                self.subscribed.append(await self.queue.subscription(name))
            letters = await self.queue.dead_letters()
        except (*Refused, *Ended) as error:
            story.simulation.record(f"not opened: {error!r}")
            return False
        story.ledger.bury(letters)
        counts = self.queue.statistics()
        assert counts.in_flight == 0
        story.simulation.record(f"opened: {counts}")
        return True

    # --- meddling ---

    async def meddle(self) -> None:
        story = self.story
        while True:
            await anyio.sleep(story.random.expovariate(20))
            if story.scopes and story.random.random() < 0.5:
                story.random.choice(story.scopes).cancel()
                story.count("cancellations")
            elif story.random.random() < 0.2:
                self._close_one_that_waits()
            elif story.random.random() < 0.2:
                story.simulation.clock.jump(story.random.uniform(-100, 100))
                story.ledger.jumped_at = anyio.current_time()

    def _close_one_that_waits(self) -> None:
        if waiting := [one for one in self.loops if one._is_waiting]:
            self.story.random.choice(waiting).close()
            self.story.count("loops closed while they waited")

    async def pass_by(self, name: str) -> None:
        """Subscribe, take a few messages, settle some, and go."""
        story = self.story
        while True:
            try:
                subscription = await self.queue.subscription(
                    name, topic_pattern=story.random.choice([None, "jobs.*"])
                )
                with anyio.move_on_after(story.random.uniform(0, 2)):
                    await self._take_some(subscription)
                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(self._take_some, subscription)
                    await self._delete(name)
                    tasks.cancel_scope.cancel()
            except Refused:
                pass
            except Ended:
                return

    async def _delete(self, name: str) -> None:
        try:
            await self.queue.delete_subscription(name)
            self.story.count("subscriptions deleted")
        except (*Refused, *Ended):
            return

    async def _take_some(self, subscription: Subscription) -> None:
        try:
            while True:
                for message in await subscription.receive_many(3):
                    if self.story.random.random() < 0.7:
                        await message.ack()
        except (*Refused, LeaseLostError, QueueNotFoundError, *Ended):
            return

    # --- the end ---

    async def drain(self, subscription: Subscription) -> None:
        ledger = self.story.ledger
        while messages := await subscription.receive_many(7, 0.0):
            for message in messages:
                seen = ledger.see(message, anyio.current_time())
                ledger.acknowledged.begin(seen)
                await message.ack()
                ledger.acknowledged.end(seen, Fate.ACKED)

    async def let_upkeep_work(self) -> None:
        self.queue._core.ask_for_upkeep()
        await anyio.sleep(10)

    async def check_space(self) -> None:
        """All that is finished has been given back, up to what is not worth a transaction."""
        from mpreg.queues import core, truncation

        state, storage = self.queue._core.state, self.queue._core.storage
        for lane in state.lanes.values():
            unfinished = lane.size
            log = storage.lane(lane.number)
            left = await log.next_offset() - await log.first_offset()
            bound = truncation.FINISHED_MIN + truncation.FINISHED_PER_COPY * (unfinished + 1)
            assert left <= bound + unfinished, (lane, left)
            assert {offset for offset in lane.kept if offset in lane.finished} == set()
        kept = [entry async for entry in storage.shared.kept.scan()]
        assert len(kept) == sum(len(lane.kept) for lane in state.lanes.values())
        events = await storage.events.next_offset() - await storage.events.first_offset()
        self.story.counts["events left"] = max(self.story.counts["events left"], events)
        if await storage.events.first_offset():
            self.story.count("events truncated")
        if any(lane.first for lane in state.lanes.values()):
            self.story.count("logs truncated")
        assert core.SNAPSHOT_AFTER_CHANGES < 1_000


# --- producers ---


@define(eq=False)
class _Producer:
    process: _Process
    number: int

    async def produce(self) -> None:
        story = self.process.story
        kinds = [self._send, self._send, self._send_many, self._send_once, self._transaction]
        for _ in range(SENDS_PER_PRODUCER):
            if story.random.random() < 0.5:
                await anyio.sleep(story.random.expovariate(3))
            try:
                await story.random.choice(kinds)()
            except Ended:
                story.count("producers that were told of the end")
                return

    def _new(self, count: int = 1, deduplication_id: str | None = None) -> list[Sent]:
        story, random = self.process.story, self.process.story.random
        priority = 0
        if story.configuration.queue_type is QueueType.PRIORITY:
            priority = random.choice([0, 0, 1, 9])
        delay = random.choice([0.0, 0.0, 0.0, 2.0])
        topic = random.choice(TOPICS)
        every = [
            story.ledger.new(
                self.number,
                anyio.current_time(),
                priority=priority,
                topic=topic,
                delay_seconds=delay,
                deduplication_id=deduplication_id,
            )
            for _ in range(count)
        ]
        for one in every:
            one.expires = story.expires
        return every

    def _options(self, sent: Sent) -> dict[str, Any]:
        return {
            "topic": sent.topic,
            "priority": sent.priority,
            "delay_seconds": sent.delay_seconds,
            "wait_seconds": self.process.story.random.choice([0.0, 1.0]),
        }

    async def _hear(self, every: list[Sent], send: Callable[[], Awaitable[list[str]]]) -> bool:
        """Whether it was sent, as far as the sender knows."""
        story = self.process.story
        try:
            with cancellable(self.process.story.scopes):
                ids = await send()
                if story.crashed:
                    return True
                for sent, id in zip(every, ids, strict=True):
                    story.ledger.acked(sent, id)
                story.count("sends acked")
                return True
        except CommitUnknownError:
            raise
        except (*Refused, WriterStoppedError) as error:
            if not story.crashed:
                for sent in every:
                    sent.fate = Fate.REFUSED
            story.count(f"sends refused: {type(error).__name__}")
            if isinstance(error, WriterStoppedError):
                raise
        return False

    async def _send(self) -> None:
        (sent,) = every = self._new()

        async def send() -> list[str]:
            return [await self.process.queue.send(_payload(sent), **self._options(sent))]

        await self._hear(every, send)

    async def _send_many(self) -> None:
        every = self._new(self.process.story.random.randint(2, 5))
        await self._hear(
            every,
            lambda: self.process.queue.send_many(
                [_payload(sent) for sent in every], **self._options(every[0])
            ),
        )

    async def _transaction(self) -> None:
        """Two sends, all or none; sometimes the block is left by an error."""
        random = self.process.story.random
        one, other = every = self._new() + self._new()
        fails = random.random() < 0.2

        async def send() -> list[str]:
            async with self.process.registry.transaction() as tx:
                queue = self.process.queue
                ids = [await queue.send(_payload(one), transaction=tx, **self._options(one))]
                ids += await queue.send_many(
                    [_payload(other)], transaction=tx, **self._options(other)
                )
                if fails:
                    raise QueueFullError("changed my mind")
            return ids

        await self._hear(every, send)

    async def _send_once(self) -> None:
        """One message with a deduplication id, tried until it is told that it is there."""
        story = self.process.story
        story.logical += 1
        id = f"logical {story.logical}"
        for _ in range(4):
            (sent,) = every = self._new(deduplication_id=id)
            use_transaction = story.random.random() < 0.3

            async def send(sent: Sent = sent, use_transaction: bool = use_transaction) -> list[str]:
                queue, options = self.process.queue, self._options(sent)
                options["deduplication_id"] = id
                if not use_transaction:
                    return [await queue.send(_payload(sent), **options)]
                async with self.process.registry.transaction() as tx:
                    return [await queue.send(_payload(sent), transaction=tx, **options)]

            if await self._hear(every, send) and story.random.random() < 0.7:
                return


def _payload(sent: Sent) -> dict[str, Any]:
    return {"number": sent.number, "": "x" * (sent.number % 7 * 10)}


# --- consumers ---


@define(eq=False)
class _Consumer:
    process: _Process
    subscription: Subscription
    calm: bool = False
    """Never cancelled: so it gets all in order."""

    async def consume(self) -> None:
        story = self.process.story
        kinds = [self._one_by_one, self._batches, self._loop]
        while True:
            try:
                if self.calm:
                    await story.random.choice(kinds)()
                else:
                    with cancellable(self.process.story.scopes):
                        await story.random.choice(kinds)()
            except Refused as error:
                story.count(f"receives refused: {type(error).__name__}")
            except Ended:
                story.count("consumers that were told of the end")
                return

    def _see(self, message: Message) -> Seen | None:
        story = self.process.story
        if story.crashed:
            return None
        story.count("deliveries")
        if message.attempt > 1:
            story.count("redeliveries")
        seen = story.ledger.see(message, anyio.current_time())
        story.simulation.record(
            f"{message.subscription} has {place_of(message)}, attempt {message.attempt}: "
            f"number {number_of(message.payload)}"
        )
        return seen

    async def _one_by_one(self) -> None:
        for _ in range(self.process.story.random.randint(1, 8)):
            if (message := await self.subscription.receive(1.0)) is not None:
                await self._handle(message, self._see(message))

    async def _batches(self) -> None:
        story = self.process.story
        messages = await self.subscription.receive_many(story.random.randint(1, 6), 1.0)
        every = [(message, self._see(message)) for message in messages]
        if story.random.random() < 0.5:
            seen = [one for _, one in every]
            await self._settle(messages, seen, lambda: self.process.queue.ack(messages))
            return
        for message, one in every:
            await self._handle(message, one)

    async def _loop(self) -> None:
        """Left by break, by an error, or by being cancelled."""
        story = self.process.story
        left = story.random.randint(1, 12)
        consumer = self.subscription.consume(prefetch=story.random.randint(1, 6))
        self.process.loops[consumer] = None
        try:
            with anyio.move_on_after(math.inf if self.calm else 5.0):
                async for message in consumer:
                    seen = self._see(message)
                    try:
                        await self._handle(message, seen)
                    finally:
                        if seen is not None:
                            # Its lease ends some time after this, or now.
                            story.ledger.holders.pop(seen, None)
                    left -= 1
                    if not left:
                        break
        finally:
            del self.process.loops[consumer]
            if self.calm:
                # In the traceback of an error it would keep what it took ahead from its successor
                # until the garbage collector comes.
                consumer.close()

    # --- what becomes of a message ---

    async def _handle(self, message: Message, seen: Seen | None) -> None:
        kinds: list[tuple[Callable[[Message, Seen], Awaitable[None]], int]] = [
            (self._ack, 10),
            (self._nack, 3),
            (self._transaction, 4),
            (self._late, 1),
            (self._leave, 1),
            (self._settle_an_old_one, 1),
            (self._extend, 1),
        ]
        if seen is None:
            return
        (kind, _), *_ = self.process.story.random.choices(kinds, [weight for _, weight in kinds])
        await kind(message, seen)

    async def _settle(
        self,
        messages: list[Message],
        every: list[Seen | None],
        settle: Callable[[], Awaitable[object]],
        *,
        outcomes_of: Sequence[Outcomes] | None = None,
    ) -> Fate:
        """Acknowledge messages, or nack one, and note what becomes of it."""
        story, ledger = self.process.story, self.process.story.ledger
        if outcomes_of is None:
            outcomes_of = (ledger.acknowledged,)
        pairs = [(one, m) for one, m in zip(every, messages, strict=True) if one is not None]
        latest = all(ledger.is_latest(one, message) for one, message in pairs)
        now = anyio.current_time()
        for one, message in pairs:
            if ledger.is_latest(one, message):
                ledger.holders.pop(one, None)
            for outcomes in outcomes_of:
                outcomes.begin(one)
        fate = Fate.UNKNOWN
        try:
            await settle()
            fate = Fate.ACKED
        except CommitUnknownError:
            raise
        except (*Refused, LeaseLostError, WriterStoppedError) as error:
            fate = Fate.REFUSED
            story.count(f"settling refused: {type(error).__name__}")
            if isinstance(error, WriterStoppedError):
                raise
        finally:
            if not story.crashed:
                assert latest or fate is not Fate.ACKED, f"late, and settled: {messages}"
                story.simulation.record(f"{messages} settled at {now}: {fate.value}")
                for one, _ in pairs:
                    for outcomes in outcomes_of:
                        outcomes.end(one, fate)
                if outcomes_of and fate is Fate.ACKED:
                    story.counts["acks"] += len(pairs)
        return fate

    async def _ack(self, message: Message, seen: Seen) -> None:
        fate = await self._settle([message], [seen], message.ack)
        if fate is Fate.ACKED and self.process.story.random.random() < 0.2:
            assert await self._is_lost(message.ack()), "acknowledged twice"

    async def _is_lost(self, call: Awaitable[None]) -> bool:
        try:
            await call
        except LeaseLostError:
            return True
        return self.process.story.crashed

    async def _nack(self, message: Message, seen: Seen) -> None:
        story = self.process.story
        delay = story.random.choice([None, 0.0, 0.5, 3.0])
        fate = await self._settle(
            [message],
            [seen],
            lambda: message.nack(delay, reason="not now"),
            outcomes_of=(),
        )
        if fate is Fate.ACKED:
            story.count("nacks")

    async def _late(self, message: Message, seen: Seen) -> None:
        """Too late it is, unless nobody's clock runs: in a loop a lease lasts."""
        assert message._lease is not None
        await anyio.sleep(self.process.story.configuration.lease_seconds + 0.1)
        runs = message._lease.delivery.due < math.inf
        if runs and self.process.story.random.random() < 0.5:
            assert await self._is_lost(message.extend(100.0)), "extended too late"
        fate = await self._settle([message], [seen], message.ack)
        assert not runs or fate is not Fate.ACKED or self.process.story.crashed

    async def _leave(self, message: Message, seen: Seen) -> None:
        """Its lease will end. Some time later its consumer comes back to it."""
        self.process.left.append((message, seen))
        self.process.story.count("messages left")

    async def _settle_an_old_one(self, message: Message, seen: Seen) -> None:
        """One that another consumer has by now, or that nobody has."""
        left = self.process.left
        if left:
            old, one = left.pop(self.process.story.random.randrange(len(left)))
            if self.process.story.random.random() < 0.5:
                await self._settle([old], [one], old.ack)
            else:
                await self._settle([old], [one], old.nack, outcomes_of=())
        await self._ack(message, seen)

    async def _extend(self, message: Message, seen: Seen) -> None:
        story = self.process.story
        seconds = story.configuration.lease_seconds
        for _ in range(2):
            if await self._is_lost(message.extend(seconds * 2)):
                return
            assert message._lease is not None
            if not story.crashed:
                story.ledger.holders[seen] = message._lease.delivery.due
            await anyio.sleep(seconds)
        await self._settle([message], [seen], message.ack)

    async def _transaction(self, message: Message, seen: Seen) -> None:
        """An acknowledgment and all that follows from the message, or nothing of it."""
        process, story = self.process, self.process.story
        effect = effect_of(seen)
        fails = story.random.random() < 0.2

        async def work() -> None:
            async with process.registry.transaction() as tx:
                process.effects.append_nowait(effect.encode(), transaction=tx)
                process.applied.put_nowait(effect, b"", transaction=tx)
                if story.random.random() < 0.5:
                    await anyio.sleep(story.random.uniform(0, 1))
                await process.results.send(effect, transaction=tx)
                await message.ack(transaction=tx)
                assert await self._is_lost(message.ack()), "settled twice"
                if fails:
                    raise QueueFullError("changed my mind")

        both = (story.ledger.acknowledged, story.ledger.effects)
        if await self._settle([message], [seen], work, outcomes_of=both) is Fate.ACKED:
            story.count("transactions")

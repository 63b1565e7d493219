"""The real queue, step by step beside a model of a few lines.

Messages are sent, received, settled, redriven and purged; time passes, the wall clock jumps, also
backwards, and the process crashes. The queue runs on a simulated disk, in virtual time.

Two things the model leaves open, because they are: what had expired, or was delayed, by a clock
that was then set, may be seen or not.
"""

from __future__ import annotations

import asyncio
import logging
import selectors
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, TypeVar

import anyio
import anyio.lowlevel
import pytest
from attrs import define, field
from hypothesis import Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from mpreg.errors import LeaseLostError
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import (
    Consumer,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
    core,
    selection,
    storage,
    truncation,
    upkeep,
)
from mpreg.testing import SimulatedBackend, SimulatedDisk, VirtualClock
from tests.unit.examples import examples

T = TypeVar("T")

LEASE_SECONDS = 5.0
WINDOW_SECONDS = 60.0
MAX_DELIVERIES = 3
SUBSCRIPTIONS = ("default", "jobs only")
TOPICS = ("jobs", "mail")

PICK = st.integers(0, 1_000)
PRIORITIES = st.sampled_from([0, 0, 4, 9])
DELAYS = st.sampled_from([0.0, 0.0, 0.0, 3.3, 20.7])


class VirtualLoop(asyncio.SelectorEventLoop):
    """Its time goes on only when all wait, and then at once to where somebody wakes."""

    def __init__(self) -> None:
        self.now = 0.0
        super().__init__(_Selector(self))

    def time(self) -> float:
        return self.now


class _Selector(selectors.DefaultSelector):
    def __init__(self, loop: VirtualLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> Any:
        if timeout is not None and timeout > 0:
            self._loop.now += timeout
        return super().select(0)


@define(eq=False)
class Told:
    """What one subscription knows of one message."""

    attempt: int = 0
    held_until: float = -1.0
    """Monotonic: with a consumer until then."""
    maybe_from: float = 0.0
    """Not visible before (monotonic)…"""
    surely_from: float = 0.0
    """… and visible from then on."""
    over: bool = False
    """Acknowledged, dead, purged, or not for this subscription."""

    def is_held(self, now: float) -> bool:
        return self.held_until > now


@define(eq=False)
class Model:
    """One message."""

    place: tuple[int, int]
    number: int
    id: str
    topic: str
    sent_at: float
    """Wall clock."""
    delay: float
    expires_at: float | None
    may_be_gone: bool = False
    """The wall clock has been past its time."""
    told: dict[str, Told] = field(factory=dict)

    def is_expired(self, wall: float) -> bool:
        return self.expires_at is not None and self.expires_at <= wall


class QueueModel(RuleBasedStateMachine):
    @initialize(is_priority=st.booleans(), mailbox=st.sampled_from([1, 1_000]))
    def begin(self, is_priority: bool, mailbox: int) -> None:
        self.loop = VirtualLoop()
        self.clock = VirtualClock()
        self.clock.follow(self.loop.time)
        self.disk = SimulatedDisk()
        self.config = PersistenceConfig(
            backend="memory", switch_interval_seconds=None, mailbox_batches_max=mailbox
        )
        self.configuration = QueueConfiguration(
            queue_type=QueueType.PRIORITY if is_priority else QueueType.FIFO,
            lease_seconds=LEASE_SECONDS,
            max_deliveries=MAX_DELIVERIES,
            deduplication_window_seconds=WINDOW_SECONDS,
        )
        self.ends: dict[int, int] = {}
        self.messages: list[Model] = []
        self.remembered: dict[str, tuple[str, float, bool]] = {}
        """By deduplication id: the message's id, until when, and whether it may be forgotten."""
        self.hands: list[tuple[Message, Model, Told]] = []
        """Deliveries, also those that came to their end."""
        self.dead: dict[tuple[str, tuple[int, int]], Model] = {}
        self.number = 0
        self.acknowledged = 0
        self.start()

    # --- running ---

    def start(self) -> None:
        self.ready = asyncio.Event()
        self.task = self.loop.create_task(self._serve())
        self.loop.run_until_complete(self.ready.wait())

    async def _serve(self) -> None:
        with anyio.CancelScope() as self.scope:
            async with PersistenceRegistry(
                self.config, backend=SimulatedBackend(self.disk), clock=self.clock
            ) as registry:
                self.registry = registry
                queues = MessageQueueManager(registry)
                self.queue: MessageQueue = await queues.create_queue("jobs", self.configuration)
                jobs = await self.queue.subscription("jobs only", topic_pattern="jobs")
                default = await self.queue.subscription("default")
                self.subscriptions = {"default": default, "jobs only": jobs}
                self.ready.set()
                await anyio.sleep_forever()

    def end(self) -> None:
        async def end() -> None:
            self.scope.cancel()
            await self.task

        self.loop.run_until_complete(end())

    def run(self, awaitable: Awaitable[T]) -> T:
        """Do something, and let upkeep do what follows from it."""

        async def act() -> T:
            result = await awaitable
            await anyio.sleep(0.001)
            return result

        result = self.loop.run_until_complete(act())
        self.follow_time()
        return result

    @property
    def now(self) -> float:
        return self.loop.time()

    @property
    def wall(self) -> float:
        return self.clock.wall()

    def follow_time(self) -> None:
        """What comes about by itself: expiry, and leases that end for the last time."""
        for one in self.messages:
            one.may_be_gone = one.may_be_gone or one.is_expired(self.wall)
            for name, told in one.told.items():
                if not told.over and not told.is_held(self.now):
                    self.bury_if_exhausted(name, one, told)
        for id, (sent, until, _) in self.remembered.items():
            if until <= self.wall:
                self.remembered[id] = (sent, until, True)

    def bury_if_exhausted(self, name: str, one: Model, told: Told) -> None:
        if told.attempt >= MAX_DELIVERIES:
            told.over = True
            self.dead[name, one.place] = one

    # --- sending ---

    def note_sent(
        self, number: int, id: str, topic: str, priority: int, delay: float, ttl: float | None
    ) -> None:
        offset = self.ends.get(priority, 0)
        self.ends[priority] = offset + 1
        wall = self.wall
        expires_at = None if ttl is None else wall + ttl
        one = Model((priority, offset), number, id, topic, wall, delay, expires_at)
        for name in SUBSCRIPTIONS:
            told = Told(maybe_from=self.now + delay - 0.01, surely_from=self.now + delay)
            told.over = name == "jobs only" and topic != "jobs"
            one.told[name] = told
        self.messages.append(one)

    @rule(
        topic=st.sampled_from(TOPICS),
        priority=PRIORITIES,
        delay=DELAYS,
        ttl=st.sampled_from([None, None, None, 11.3]),
        deduplication_id=st.sampled_from([None, None, "red", "blue"]),
        in_transaction=st.booleans(),
    )
    def send(
        self,
        topic: str,
        priority: int,
        delay: float,
        ttl: float | None,
        deduplication_id: str | None,
        in_transaction: bool,
    ) -> None:
        priority = priority if self.configuration.queue_type is QueueType.PRIORITY else 0
        if ttl is not None and delay >= ttl:
            # It would be refused.
            delay = 3.3
        self.number += 1
        before = self.remembered.get(deduplication_id or "")
        forgotten = before is None or before[1] <= self.wall
        wall = self.wall

        async def send() -> str:
            options: dict[str, Any] = {
                "topic": topic,
                "priority": priority,
                "delay_seconds": delay,
                "ttl_seconds": ttl,
                "deduplication_id": deduplication_id,
            }
            if not in_transaction:
                return await self.queue.send(self.number, **options)
            async with self.registry.transaction() as transaction:
                return await self.queue.send(self.number, transaction=transaction, **options)

        id = self.loop.run_until_complete(send())
        if before is not None and id == before[0]:
            assert not forgotten, "its window was over"
        else:
            assert forgotten or (before is not None and before[2]), "a duplicate"
            self.note_sent(self.number, id, topic, priority, delay, ttl)
            if deduplication_id is not None:
                self.remembered[deduplication_id] = (id, wall + WINDOW_SECONDS, False)
        self.run(anyio.sleep(0))

    @rule(count=st.integers(1, 12), topic=st.sampled_from(TOPICS))
    def send_many(self, count: int, topic: str) -> None:
        numbers = list(range(self.number + 1, self.number + 1 + count))
        self.number += count
        ids = self.loop.run_until_complete(self.queue.send_many(numbers, topic=topic))
        for number, id in zip(numbers, ids, strict=True):
            self.note_sent(number, id, topic, 0, 0.0, None)
        self.run(anyio.sleep(0))

    @rule(count=st.integers(1, 3))
    def send_and_think_better_of_it(self, count: int) -> None:
        """Also with a deduplication id: nothing of it is remembered."""

        async def send() -> None:
            async with self.registry.transaction() as transaction:
                await self.queue.send_many(["never"] * count, transaction=transaction)
                if "green" not in self.remembered:
                    await self.queue.send(
                        "never", deduplication_id="green", transaction=transaction
                    )
                raise ZeroDivisionError

        with pytest.raises(ZeroDivisionError):
            self.run(send())

    # --- receiving ---

    def match(self, name: str, count: int, found: list[Message]) -> None:
        """What was handed out is what the model would have, where it is sure."""
        matched = 0
        now, wall = self.now, self.wall
        for one in sorted(self.messages, key=lambda one: (-one.place[0], one.place[1])):
            if matched == count:
                break
            told = one.told[name]
            is_next = matched < len(found) and found[matched].payload == one.number
            certain = told.surely_from <= now and not one.may_be_gone
            impossible = (
                told.over or told.is_held(now) or told.maybe_from > now or one.is_expired(wall)
            )
            assert not (is_next and impossible), f"handed out: {one}"
            if impossible:
                continue
            if found and matched == len(found):
                # Up to so many: what is not in memory may come the next time.
                break
            assert is_next or not certain, f"not handed out: {one}"
            if is_next:
                message = found[matched]
                matched += 1
                self.note_received(message, one, told)
        assert matched == len(found), f"in another order: {found}"

    def note_received(self, message: Message, one: Model, told: Told) -> None:
        assert (message.id, message.topic, message.priority) == (one.id, one.topic, one.place[0])
        told.attempt += 1
        assert message.attempt == told.attempt
        told.held_until = self.now + LEASE_SECONDS
        self.hands.append((message, one, told))

    @rule(name=st.sampled_from(SUBSCRIPTIONS), count=st.integers(1, 6))
    def receive(self, name: str, count: int) -> None:
        subscription = self.subscriptions[name]
        found = self.loop.run_until_complete(subscription.receive_many(count, 0.0))
        self.match(name, count, found)
        self.run(anyio.sleep(0))

    @rule(name=st.sampled_from(SUBSCRIPTIONS), prefetch=st.integers(1, 4), fails=st.booleans())
    def take_one_of_several(self, name: str, prefetch: int, fails: bool) -> None:
        """A loop that is left after its first message: the others were never seen."""

        async def take() -> Message | None:
            consumer = self.subscriptions[name].consume(prefetch)
            with anyio.move_on_after(0.0001):
                message = await anext(consumer)
                consumer.close(give_back_current=fails)
                return message
            return None

        message = self.loop.run_until_complete(take())
        self.match(name, 1, [] if message is None else [message])
        if fails and message is not None:
            self.hands[-1][2].held_until = -1.0
        self.run(anyio.sleep(0))

    @rule(name=st.sampled_from(SUBSCRIPTIONS), prefetch=st.integers(1, 4), turns=st.integers(0, 12))
    def close_while_another_task_waits(self, name: str, prefetch: int, turns: int) -> None:
        """What it was about to get is as if it had never been taken."""
        got: list[Message] = []

        async def loop(consumer: Consumer) -> None:
            async for message in consumer:
                got.append(message)
                await anyio.sleep(1_000)

        async def close() -> None:
            consumer = self.subscriptions[name].consume(prefetch)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(loop, consumer)
                for _ in range(turns):
                    await anyio.lowlevel.checkpoint()
                consumer.close()
                await anyio.sleep(0.0001)
                assert got or not consumer._is_waiting, "it still waits"
                tasks.cancel_scope.cancel()

        self.loop.run_until_complete(close())
        if got:
            self.match(name, 1, got)
        self.run(anyio.sleep(0))

    # --- settling ---

    def settle(
        self, pick: int, call: Callable[[Message], Awaitable[None]]
    ) -> tuple[str, Model, Told] | None:
        """With any delivery that ever was: where it is not the message's last, it is refused."""
        message, one, told = self.hands[pick % len(self.hands)]
        holds = (
            not told.over and told.is_held(self.now) and self.is_of_this_process(message)
        ) and told.attempt == message.attempt
        try:
            self.loop.run_until_complete(call(message))
        except LeaseLostError:
            assert not holds, f"it had its lease: {one}"
            return None
        assert holds, f"it had lost its lease: {one}"
        return message.subscription, one, told

    def is_of_this_process(self, message: Message) -> bool:
        return message._core is self.queue._core

    def drop_old_hands(self) -> None:
        self.hands = [hand for hand in self.hands if self.is_of_this_process(hand[0])]

    @precondition(lambda self: self.hands)
    @rule(pick=PICK)
    def ack(self, pick: int) -> None:
        if (settled := self.settle(pick, lambda message: message.ack())) is not None:
            settled[2].over = True
            self.acknowledged += 1
        self.run(anyio.sleep(0))

    @precondition(lambda self: self.hands)
    @rule(pick=PICK, fails=st.booleans())
    def ack_and_send_on(self, pick: int, fails: bool) -> None:
        self.number += 1
        ids: list[str] = []

        async def work(message: Message) -> None:
            try:
                async with self.registry.transaction() as transaction:
                    await message.ack(transaction=transaction)
                    with pytest.raises(LeaseLostError):
                        await message.extend()
                    ids.append(await self.queue.send(self.number, transaction=transaction))
                    if fails:
                        raise ZeroDivisionError
            except ZeroDivisionError:
                ids.clear()

        settled = self.settle(pick, work)
        if settled is not None and ids:
            settled[2].over = True
            self.acknowledged += 1
            self.note_sent(self.number, ids[0], "", 0, 0.0, None)
        self.run(anyio.sleep(0))

    @precondition(lambda self: self.hands)
    @rule(pick=PICK, delay=DELAYS)
    def nack(self, pick: int, delay: float) -> None:
        settled = self.settle(pick, lambda message: message.nack(delay, reason="no"))
        if settled is not None:
            name, one, told = settled
            told.held_until = -1.0
            told.surely_from = self.now + delay
            told.maybe_from = told.surely_from - 0.01
            self.bury_if_exhausted(name, one, told)
        self.run(anyio.sleep(0))

    @precondition(lambda self: self.hands)
    @rule(pick=PICK, seconds=st.sampled_from([0.5, 12.0]))
    def extend(self, pick: int, seconds: float) -> None:
        settled = self.settle(pick, lambda message: message.extend(seconds))
        if settled is not None:
            settled[2].held_until = self.now + seconds
        self.run(anyio.sleep(0))

    # --- dead letters, and emptying ---

    @rule()
    def redrive(self) -> None:
        letters = self.run(self.queue.dead_letters())
        assert self.run(self.queue.redrive()) == len(letters)
        is_priority = self.configuration.queue_type is QueueType.PRIORITY
        # One that died in several subscriptions is sent once.
        places = {(letter.priority, letter.offset): letter for letter in letters}
        for _, letter in sorted(places.items()):
            priority = letter.priority if is_priority else 0
            assert letter.id is not None
            self.note_sent(letter.payload, letter.id, letter.topic, priority, 0.0, None)
        self.dead.clear()

    @rule(messages=st.booleans(), dead_letters=st.booleans())
    def purge(self, messages: bool, dead_letters: bool) -> None:
        self.run(self.queue.purge(messages=messages, dead_letters=dead_letters))
        if messages:
            for one in self.messages:
                for told in one.told.values():
                    told.over = True
        if dead_letters:
            self.dead.clear()

    # --- time ---

    @rule(seconds=st.sampled_from([0.3, 2.9, 6.1, 30.0]))
    def pass_time(self, seconds: float) -> None:
        self.run(anyio.sleep(seconds))

    @rule(seconds=st.sampled_from([-1_000.7, -40.9, -8.2, 8.2, 40.9, 1_000.7]))
    def set_clock(self, seconds: float) -> None:
        self.clock.jump(seconds)
        self.run(anyio.sleep(0))

    # --- crashes ---

    @rule(how=st.sampled_from(["power", "kill", "end"]))
    def restart(self, how: str) -> None:
        if how == "power":
            self.disk.cut_power()
        elif how == "kill":
            self.disk.kill_process()
        self.end()
        self.start()
        self.drop_old_hands()
        for one in self.messages:
            for told in one.told.values():
                told.held_until = -1.0
                # By the wall clock, and never longer than it was at first.
                told.surely_from = max(told.surely_from, self.now + 21.0)
                told.maybe_from = min(told.maybe_from, self.now)
                if told.attempt == 0 and not one.delay:
                    told.surely_from = 0.0
        self.run(anyio.sleep(0))

    # --- what is always true ---

    @invariant()
    def the_counts_are_right(self) -> None:
        if not hasattr(self, "queue"):
            return
        counts = self.queue.statistics()
        assert counts.acknowledged == self.acknowledged
        assert counts.sent == len(self.messages)
        assert counts.size >= 0
        assert counts.bytes >= 0
        held = sum(told.is_held(self.now) for _, told in self.open())
        assert counts.in_flight == held
        certain = sum(not one.may_be_gone for one, _ in self.open())
        waiting = counts.pending + counts.in_flight + counts.delayed
        # Messages of other topics count until somebody comes to them.
        others = sum(one.topic != "jobs" for one in self.messages)
        assert certain <= waiting <= len(list(self.open())) + others

    def open(self) -> Iterator[tuple[Model, Told]]:
        for one in self.messages:
            for told in one.told.values():
                if not told.over:
                    yield one, told

    @invariant()
    def dead_letters_stay(self) -> None:
        if not hasattr(self, "queue"):
            return
        letters = self.loop.run_until_complete(self.queue.dead_letters())
        found = {(one.subscription, (one.priority, one.offset)): one for one in letters}
        assert set(found) <= set(self.dead)
        for key, one in self.dead.items():
            if key in found:
                assert found[key].payload == one.number
                assert found[key].attempts == MAX_DELIVERIES
            else:
                assert one.may_be_gone, f"no dead letter: {one}"

    def teardown(self) -> None:
        if not hasattr(self, "queue"):
            return
        try:
            self.end()
            assert self.disk.complaints == []
        finally:
            self.loop.close()


@pytest.fixture
def _small(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Snapshots, and logs that are truncated, after a few steps."""
    monkeypatch.setattr(core, "SNAPSHOT_AFTER_CHANGES", 10)
    monkeypatch.setattr(upkeep, "SNAPSHOT_AFTER_CHANGES", 10)
    monkeypatch.setattr(upkeep, "BURIED_PER_BATCH", 2)
    monkeypatch.setattr(upkeep, "SWEPT_AT_ONCE_MAX", 2)
    monkeypatch.setattr(selection, "PASSED_AT_ONCE_MAX", 2)
    monkeypatch.setattr(truncation, "FINISHED_MIN", 3)
    monkeypatch.setattr(truncation, "FINISHED_PER_COPY", 2)
    monkeypatch.setattr(storage, "READ_AHEAD_RECORDS", 3)
    logging.disable(logging.CRITICAL)
    yield
    logging.disable(logging.NOTSET)


@pytest.mark.usefixtures("_small")
def test_a_queue_is_what_the_model_says() -> None:
    run_state_machine_as_test(
        QueueModel,
        settings=settings(
            max_examples=examples(30),
            stateful_step_count=40,
            deadline=None,
            # To make a failure shorter takes minutes, and hardly helps: its steps are few.
            phases=[Phase.reuse, Phase.generate],
        ),
    )

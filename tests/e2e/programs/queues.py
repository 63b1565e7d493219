"""Producers and consumers of every kind on several queues; each tells what it did when it is done.

``queues work LOOP DATA_DIR LIFE SEED HURRIED RETRIED_FROM`` goes on until it is killed;
``queues drain LOOP DATA_DIR`` takes all that is left, and ends. The lines are read by
`tests.e2e.test_queue_crashes`; ``acking`` and its like are told before the call, all others after.

What a message is like follows from its key, ``PRODUCER/LIFE/NUMBER``: so whoever reads the lines
knows it as well.
"""

from __future__ import annotations

import itertools
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import anyio
from attrs import define, field

from mpreg.errors import LeaseLostError
from mpreg.persistence import PersistenceConfig, PersistenceRegistry, VersionConflictError
from mpreg.queues import (
    DeliveryGuarantee,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueType,
    Subscription,
    core,
    truncation,
    upkeep,
)
from tests.e2e.programs.shared import run, say

DEFAULT: Final = "default"
ORDERS: Final = "orders"
ALARMS: Final = "alarms"
VOTES: Final = "votes"
STEPS: Final = "steps"
OUTCOMES: Final = "outcomes"
UNIQUE: Final = "unique"
JOBS: Final = "jobs"
AGAIN: Final = "again"

EFFECTS: Final = "effects"
NOTES: Final = "notes"

DELIVERIES_MAX: Final = 4
"""Of a job. All others have as many as it takes, so that nothing but a loss can lose them."""

DRAIN_SECONDS: Final = 240.0
"""Only turns a hang into a failure that says more than the guard's."""

_PATIENT: Final = 1_000_000


def _patient(**settings: Any) -> QueueConfiguration:
    """A lease longer than any guard: what a killed process held comes back because it is gone."""
    return QueueConfiguration(lease_seconds=600.0, max_deliveries=_PATIENT, **settings)


CONFIGURATIONS: Final = {
    ORDERS: _patient(max_size=200),
    ALARMS: _patient(max_size=100, queue_type=QueueType.PRIORITY),
    VOTES: _patient(
        max_size=100, delivery_guarantee=DeliveryGuarantee.QUORUM, required_acknowledgments=2
    ),
    STEPS: _patient(max_size=100),
    OUTCOMES: _patient(),
    UNIQUE: _patient(max_size=100, deduplication_window_seconds=86_400.0),
    JOBS: QueueConfiguration(
        max_size=200,
        lease_seconds=0.05,
        max_deliveries=DELIVERIES_MAX,
        retry_delay_seconds=0.01,
        retry_delay_seconds_max=0.05,
    ),
    AGAIN: _patient(),
}

ODD: Final = "odd"
SUBSCRIPTIONS: Final[dict[str, dict[str, str | None]]] = {
    ORDERS: {DEFAULT: None, ODD: "odd.#"},
    VOTES: {"one": None, "two": None},
}
"""Those of the other queues: only the default one."""


def subscriptions_of(queue: str) -> dict[str, str | None]:
    return SUBSCRIPTIONS.get(queue, {DEFAULT: None})


# --- what a message is like ---


def make_key(producer: str, life: int, number: int) -> str:
    return f"{producer}/{life}/{number}"


def split_key(key: str) -> tuple[str, int, int]:
    producer, life, number = key.split("/")
    return producer, int(life), int(number)


def number_of(key: str) -> int:
    return split_key(key)[2]


def payload_of(key: str) -> dict[str, Any]:
    """Of many lengths, so that a mix-up and a torn one both show."""
    return {"key": key, "filling": key.encode() * (number_of(key) * 37 % 83)}


def topic_of(key: str) -> str:
    """Those that are sent side by side have one topic."""
    return "odd.one" if number_of(key) % 2 and not key.startswith("batch") else "even.one"


def priority_of(queue: str, key: str) -> int:
    return number_of(key) * 7 // 3 % 4 if queue == ALARMS else 0


def delay_of(queue: str, key: str) -> float:
    number = number_of(key)
    return number % 7 * 0.03 if queue == JOBS and number % 5 == 3 else 0.0


def ttl_of(queue: str, key: str) -> float | None:
    return 0.1 if queue == JOBS and number_of(key) % 10 == 7 else None


def batch_size(first: int) -> int:
    """Of the messages that are sent side by side, by the number of the first."""
    return 1 + first * 5 % 8


# --- the work ---


class UndoneError(Exception):
    pass


@define(eq=False)
class Worker:
    registry: PersistenceRegistry
    rng: random.Random = field(factory=random.Random)
    life: int = 0
    queues: dict[str, MessageQueue] = field(factory=dict)
    cursors: dict[tuple[str, str], Subscription] = field(factory=dict)

    async def open(self) -> None:
        manager = MessageQueueManager(self.registry)
        for name, configuration in CONFIGURATIONS.items():
            queue = self.queues[name] = await manager.create_queue(name, configuration)
            for subscription, pattern in subscriptions_of(name).items():
                self.cursors[name, subscription] = await queue.subscription(subscription, pattern)

    def tell_statistics(self, word: str) -> None:
        for name, queue in self.queues.items():
            found = queue.statistics()
            say(
                f"{word} {name} {found.size} {found.in_flight} {found.sent} "
                f"{found.acknowledged} {found.dead}"
            )

    async def tell_dead_letters(self) -> None:
        for name, queue in self.queues.items():
            letters = await queue.dead_letters()
            for letter in letters:
                key = letter.headers["key"]
                assert letter.payload == payload_of(key)
                say(f"dead {name} {key} {letter.id} {letter.attempts}")
            say(f"listed {name}")

    async def work(self, retried_from: int) -> None:
        self.tell_statistics("opened")
        await self.tell_dead_letters()
        say("running")
        async with anyio.create_task_group() as task_group:
            start = task_group.start_soon
            for queue in (ORDERS, ALARMS, VOTES, STEPS, JOBS):
                start(self.produce, queue, "p")
                start(self.produce, queue, "q")
            start(self.produce_batches)
            for number in range(2):
                start(self.produce_unique, number, retried_from)
            start(self.receive, ORDERS, DEFAULT, "receive")
            start(self.receive_many, ORDERS, DEFAULT, "many")
            start(self.consume, ORDERS, DEFAULT, "consume")
            start(self.consume, ORDERS, ODD, "consume")
            start(self.receive, ALARMS, DEFAULT, "receive")
            start(self.receive_many, ALARMS, DEFAULT, "many")
            start(self.receive_many, VOTES, "one", "many")
            start(self.receive, VOTES, "two", "receive")
            start(self.consume, VOTES, "two", "consume")
            start(self.step, "one")
            start(self.step, "two")
            start(self.step_many, "many")
            start(self.consume, OUTCOMES, DEFAULT, "consume")
            start(self.receive_many, OUTCOMES, DEFAULT, "many")
            start(self.consume, UNIQUE, DEFAULT, "consume")
            start(self.receive, UNIQUE, DEFAULT, "receive")
            start(self.careless, "careless")
            start(self.cancelled, "cancelled")
            start(self.leaving, "leaving")
            start(self.failing, "failing")
            start(self.redrive)
            start(self.receive, AGAIN, DEFAULT, "receive")

    # --- producers ---

    async def produce(self, name: str, producer: str) -> None:
        queue = self.queues[name]
        for number in itertools.count(1):
            key = make_key(producer, self.life, number)
            message_id = await queue.send(
                payload_of(key),
                topic=topic_of(key),
                headers={"key": key},
                priority=priority_of(name, key),
                delay_seconds=delay_of(name, key),
                ttl_seconds=ttl_of(name, key),
                wait_seconds=None,
            )
            say(f"sent {name} {key} {message_id}")

    async def produce_batches(self) -> None:
        first = 1
        while True:
            numbers = range(first, first + batch_size(first))
            keys = [make_key("batch", self.life, number) for number in numbers]
            ids = await self.queues[ORDERS].send_many(
                map(payload_of, keys), topic=topic_of(keys[0]), wait_seconds=None
            )
            told = (f"{key} {each}" for key, each in zip(keys, ids, strict=True))
            say(f"sent {ORDERS} {' '.join(told)}")
            first = numbers.stop

    async def produce_unique(self, task: int, retried_from: int) -> None:
        """The same as another task does, and as was done in the last life: each is sent once."""
        queue, notes = self.queues[UNIQUE], self.registry.key_value_store(NOTES)
        for number in itertools.count(retried_from):
            key = make_key("unique", 0, number)
            if (number + task) % 3:
                message_id = await queue.send(
                    payload_of(key),
                    topic=topic_of(key),
                    headers={"key": key},
                    deduplication_id=key,
                    wait_seconds=None,
                )
            else:
                while True:
                    try:
                        async with self.registry.transaction() as transaction:
                            message_id = await queue.send(
                                payload_of(key),
                                topic=topic_of(key),
                                headers={"key": key},
                                deduplication_id=key,
                                wait_seconds=None,
                                transaction=transaction,
                            )
                            notes.put_nowait(key, b"", transaction=transaction)
                        break
                    except VersionConflictError:
                        continue
            say(f"sent {UNIQUE} {key} {message_id}")

    async def redrive(self) -> None:
        """Some of the dead letters go to another queue."""
        letters = await self.queues[JOBS].dead_letters(limit=self.rng.randint(1, 4))
        if letters:
            keys = " ".join(letter.headers["key"] for letter in letters)
            # Some have died since all were told.
            for letter in letters:
                say(f"died {JOBS} {letter.headers['key']} {letter.id} {letter.attempts}")
            say(f"redriving {JOBS} {keys}")
            moved = await self.queues[JOBS].redrive(letters, to=self.queues[AGAIN])
            assert moved == len(letters)
            say(f"redriven {JOBS} {keys}")

    # --- what consumers tell ---

    def got(self, name: str, subscription: str, consumer: str, message: Message) -> str:
        payload = message.payload
        key: str = payload["key"]
        assert payload == payload_of(key), key
        assert message.headers == ({} if key.startswith("batch") else {"key": key}), key
        say(
            f"got {name} {subscription} {consumer} {key} {message.id} "
            f"{message.attempt} {message.priority}"
        )
        return key

    async def ack(self, name: str, subscription: str, messages: Sequence[Message]) -> None:
        told = f"{name} {subscription} {_keys(messages)}"
        say(f"acking {told}")
        try:
            if len(messages) == 1:
                await messages[0].ack()
            else:
                await self.queues[name].ack(messages)
        except LeaseLostError:
            # Only where leases are short; elsewhere this ends the program.
            if name != JOBS:
                raise
            say(f"undone {told}")
        else:
            say(f"acked {told}")

    async def nack(
        self, name: str, subscription: str, message: Message, delay_seconds: float | None
    ) -> None:
        try:
            await message.nack(delay_seconds, "not now")
        except LeaseLostError:
            if name != JOBS:
                raise
        else:
            say(f"nacked {name} {subscription} {_keys([message])}")

    # --- consumers that do it right ---

    async def receive(self, name: str, subscription: str, consumer: str) -> None:
        cursor = self.cursors[name, subscription]
        while True:
            say(f"ask {name} {subscription} {consumer}")
            message = await cursor.receive()
            assert message is not None
            self.got(name, subscription, consumer, message)
            if name in (ALARMS, VOTES) and self.rng.random() < 0.1:
                await self.nack(name, subscription, message, 0.0)
            else:
                await self.ack(name, subscription, [message])

    async def receive_many(self, name: str, subscription: str, consumer: str) -> None:
        cursor = self.cursors[name, subscription]
        while True:
            say(f"ask {name} {subscription} {consumer}")
            messages = await cursor.receive_many(self.rng.randint(2, 16))
            for message in messages:
                self.got(name, subscription, consumer, message)
            half = len(messages) // 2
            if half:
                await self.ack(name, subscription, messages[half:])
            await self.ack(name, subscription, messages[: half or None])

    async def consume(self, name: str, subscription: str, consumer: str) -> None:
        async for message in self.cursors[name, subscription].consume(prefetch=8):
            self.got(name, subscription, consumer, message)
            await self.ack(name, subscription, [message])

    # --- consumers whose whole effect is one transaction ---

    async def step(self, consumer: str) -> None:
        while True:
            message = await self.queues[STEPS].receive()
            assert message is not None
            self.got(STEPS, DEFAULT, consumer, message)
            fails = self.rng.random() < 0.1
            if not await self.take_step([message], fails=fails):
                await self.nack(STEPS, DEFAULT, message, 0.0)

    async def step_many(self, consumer: str) -> None:
        while True:
            messages = await self.queues[STEPS].receive_many(4)
            for message in messages:
                self.got(STEPS, DEFAULT, consumer, message)
            if self.rng.random() < 0.2:
                await self.take_step(messages, fails=True)
            await self.take_step(messages, fails=False)

    async def take_step(self, messages: Sequence[Message], *, fails: bool) -> bool:
        """Acknowledge, write a key and send on, together. Whether that was done."""
        told = f"{STEPS} {DEFAULT} {_keys(messages)}"
        effects = self.registry.key_value_store(EFFECTS)
        say(f"acking {told}")
        try:
            async with self.registry.transaction() as transaction:
                for message in messages:
                    key = message.payload["key"]
                    # Ends the program where the key is there.
                    effects.put_nowait(key, b"", expected_version=0, transaction=transaction)
                    await self.queues[OUTCOMES].send(
                        message.payload, headers=message.headers, transaction=transaction
                    )
                await self.queues[STEPS].ack(messages, transaction=transaction)
                if fails:
                    raise UndoneError
        except UndoneError:
            say(f"undone {told}")
            return False
        say(f"acked {told}")
        return True

    # --- consumers that do much of it wrong ---

    async def careless(self, consumer: str) -> None:
        while True:
            message = await self.queues[JOBS].receive(wait_seconds=0.02)
            if message is not None:
                self.got(JOBS, DEFAULT, consumer, message)
                await self.decide(message)

    async def decide(self, message: Message) -> None:
        chance = self.rng.random()
        if chance < 0.5:
            await self.ack(JOBS, DEFAULT, [message])
        elif chance < 0.7:
            await self.nack(JOBS, DEFAULT, message, None)
        elif chance < 0.8:
            await self.nack(JOBS, DEFAULT, message, 0.0)
        elif chance < 0.9:
            try:
                await message.extend(0.3)
            except LeaseLostError:
                return
            await anyio.sleep(0.02)
            await self.ack(JOBS, DEFAULT, [message])
        # Else it is left to its lease.

    async def cancelled(self, consumer: str) -> None:
        """Now and then while it waits, or while the attempt is being written."""
        while True:
            messages: list[Message] = []
            with anyio.move_on_after(self.rng.random() * 0.01):
                messages = await self.queues[JOBS].receive_many(4)
                for message in messages:
                    self.got(JOBS, DEFAULT, consumer, message)
            if messages:
                await self.ack(JOBS, DEFAULT, messages)

    async def leaving(self, consumer: str) -> None:
        """Gives back unseen what it took ahead."""
        while True:
            handled = 0
            async with self.queues[JOBS].consume(prefetch=8) as messages:
                async for message in messages:
                    self.got(JOBS, DEFAULT, consumer, message)
                    await self.decide(message)
                    handled += 1
                    if handled >= self.rng.randint(1, 6):
                        break

    async def failing(self, consumer: str) -> None:
        """Gives back also what it was working on."""
        while True:
            try:
                async with self.queues[JOBS].consume(prefetch=3) as messages:
                    async for message in messages:
                        self.got(JOBS, DEFAULT, consumer, message)
                        if self.rng.random() < 0.3:
                            raise UndoneError
                        await self.ack(JOBS, DEFAULT, [message])
            except UndoneError:
                await anyio.sleep(0.01)

    # --- the end ---

    async def drain(self) -> None:
        """Take everything that is left, the steps first: they send something on."""
        self.tell_statistics("opened")
        await self.tell_dead_letters()
        with anyio.move_on_after(DRAIN_SECONDS) as scope:
            await self.drain_queue(STEPS, DEFAULT)
            async with anyio.create_task_group() as task_group:
                for name in self.queues:
                    for subscription in subscriptions_of(name):
                        task_group.start_soon(self.drain_queue, name, subscription)
        if scope.cancelled_caught:
            left = {name: queue.statistics() for name, queue in self.queues.items()}
            raise AssertionError(f"what is left does not come: {left}")

    async def drain_queue(self, name: str, subscription: str) -> None:
        cursor = self.cursors[name, subscription]
        while self.queues[name].statistics().size:
            say(f"ask {name} {subscription} drain")
            messages = await cursor.receive_many(32, wait_seconds=0.02)
            for message in messages:
                self.got(name, subscription, "drain", message)
            if messages and name == STEPS:
                await self.take_step(messages, fails=False)
            elif messages:
                await self.ack(name, subscription, messages)

    async def tell_the_end(self) -> None:
        """After one more opening: nothing comes any more."""
        for (name, subscription), cursor in self.cursors.items():
            for message in await cursor.receive_many(100, wait_seconds=0.0):
                self.got(name, subscription, "end", message)
        self.tell_statistics("final")
        await self.tell_dead_letters()
        async for entry in self.registry.key_value_store(EFFECTS).scan():
            say(f"effect {entry.key!s}")
        say("end")


def _keys(messages: Sequence[Message]) -> str:
    return " ".join(message.payload["key"] for message in messages)


def hurry_upkeep() -> None:
    """Save the state and truncate the logs all the time, so that many a kill meets it."""
    for module, name, value in (
        (core, "SNAPSHOT_AFTER_CHANGES", 96),
        (upkeep, "SNAPSHOT_AFTER_CHANGES", 96),
        (truncation, "FINISHED_MIN", 48),
        (truncation, "FINISHED_PER_COPY", 3),
    ):
        assert hasattr(module, name)
        setattr(module, name, value)


def make_registry(data_dir: Path) -> PersistenceRegistry:
    config = PersistenceConfig(data_dir=data_dir, grace_seconds=600.0, wal_checkpoint_pages=256)
    return PersistenceRegistry(config)


async def work(data_dir: Path, life: int, rng: random.Random, retried_from: int) -> None:
    async with make_registry(data_dir) as registry:
        worker = Worker(registry, rng, life)
        await worker.open()
        await worker.work(retried_from)


async def drain(data_dir: Path) -> None:
    async with make_registry(data_dir) as registry:
        worker = Worker(registry)
        await worker.open()
        await worker.drain()
    async with make_registry(data_dir) as registry:
        worker = Worker(registry)
        await worker.open()
        await worker.tell_the_end()


def main(mode: str, loop: str, directory: str, *rest: str) -> None:
    say("starting")
    data_dir = Path(directory)
    if mode == "drain":
        run(loop, drain, data_dir)
        return
    life, seed, hurried, retried_from = rest
    if int(hurried):
        hurry_upkeep()
    rng = random.Random(f"{seed} {loop} {life}")
    run(loop, work, data_dir, int(life), rng, int(retried_from))


if __name__ == "__main__":
    main(*sys.argv[1:])

"""What producers and consumers of a queue were told, and what must therefore be true."""

from __future__ import annotations

import enum
from collections import Counter, defaultdict
from typing import Any

from attrs import define, field

from mpreg.queues import DeadLetter, Message

__all__ = ["Fate", "Ledger", "Outcomes", "Seen", "Sent", "number_of", "place_of"]

Place = tuple[int, int]
Seen = tuple[str, Place]
"""A message as one subscription has it."""


class Fate(enum.Enum):
    UNKNOWN = "nobody was told"
    ACKED = "certainly done"
    REFUSED = "certainly not done"


@define(eq=False)
class Sent:
    number: int
    producer: int
    priority: int
    topic: str
    delay_seconds: float
    life: int
    time: float
    """Monotonic, in its life."""
    deduplication_id: str | None = None
    fate: Fate = Fate.UNKNOWN
    id: str | None = None
    """Of the message in the queue: another's, where this one was a duplicate."""
    expires: bool = False


@define(eq=False)
class Outcomes:
    """What certainly happened, and what perhaps did: tried, and nobody was told."""

    certain: set[Seen] = field(factory=set)
    _untold: Counter[Seen] = field(factory=Counter)

    def begin(self, seen: Seen) -> None:
        self._untold[seen] += 1

    def end(self, seen: Seen, fate: Fate) -> None:
        if fate is not Fate.UNKNOWN:
            self._untold[seen] -= 1
        if fate is Fate.ACKED:
            assert seen not in self.certain, f"twice: {seen}"
            self.certain.add(seen)

    @property
    def possible(self) -> set[Seen]:
        return self.certain | {seen for seen, count in self._untold.items() if count}


def place_of(message: Message) -> Place:
    assert message._lease is not None
    delivery = message._lease.delivery
    return delivery.lane, delivery.offset


@define(eq=False)
class Ledger:
    """Everything that is told to it is held against all that it was told before."""

    max_deliveries: int
    lives: int = 0
    jumped_at: float = -1.0
    """When the wall clock was last set, in this life."""
    sent: list[Sent] = field(factory=list)
    numbers: dict[Place, int] = field(factory=dict)
    """The message that was seen at a place: never another one."""
    places: dict[int, Place] = field(factory=dict)
    ids: dict[int, str] = field(factory=dict)
    attempts: dict[Seen, int] = field(factory=dict)
    """The last one that was seen."""
    holders: dict[Seen, float] = field(factory=dict)
    """Until when a consumer has a message for itself."""
    acknowledged: Outcomes = field(factory=lambda: Outcomes())
    dead: dict[Seen, DeadLetter] = field(factory=dict)
    first_seen: dict[str, list[int]] = field(factory=lambda: defaultdict(list))
    """By subscription, in the order of the first deliveries."""
    effects: Outcomes = field(factory=lambda: Outcomes())
    """Of transactions: each has one."""

    def new(
        self,
        producer: int,
        time: float,
        *,
        priority: int = 0,
        topic: str = "",
        delay_seconds: float = 0.0,
        deduplication_id: str | None = None,
    ) -> Sent:
        sent = Sent(
            len(self.sent),
            producer,
            priority,
            topic,
            delay_seconds,
            self.lives,
            time,
            deduplication_id,
        )
        self.sent.append(sent)
        return sent

    def begin_life(self) -> None:
        """Nobody of the last one holds anything."""
        self.lives += 1
        self.jumped_at = -1.0
        self.holders.clear()

    def acked(self, sent: Sent, id: str) -> None:
        sent.fate, sent.id = Fate.ACKED, id
        assert self.ids.get(sent.number, id) == id or sent.deduplication_id is not None

    # --- deliveries ---

    def see(self, message: Message, now: float) -> Seen:
        """A consumer has a message in its hands."""
        assert message._lease is not None
        place = place_of(message)
        seen = (message.subscription, place)
        sent = self.sent[number_of(message.payload)]
        what = f"{sent} at {place}, attempt {message.attempt} for {message.subscription}"
        self._identify(sent, place, message.id, what)
        assert (message.topic, message.priority) == (sent.topic, sent.priority), what
        assert sent.fate is not Fate.REFUSED, f"refused, and delivered: {what}"
        if sent.life == self.lives and sent.time > self.jumped_at:
            assert now >= sent.time + sent.delay_seconds, f"too early: {what}"
        assert seen not in self.acknowledged.certain, f"acknowledged before: {what}"
        assert seen not in self.dead, f"dead: {what}"
        before = self.attempts.get(seen, 0)
        assert before < message.attempt <= self.max_deliveries, f"{what}, after {before}"
        assert self.holders.get(seen, 0.0) <= now, f"two have it: {what}"
        if not before:
            self.first_seen[message.subscription].append(sent.number)
        self.attempts[seen] = message.attempt
        self.holders[seen] = message._lease.delivery.due
        return seen

    def _identify(self, sent: Sent, place: Place, id: str, what: str) -> None:
        assert self.numbers.setdefault(place, sent.number) == sent.number, what
        assert self.places.setdefault(sent.number, place) == place, f"twice: {what}"
        assert self.ids.setdefault(sent.number, id) == id, what

    def is_latest(self, seen: Seen, message: Message) -> bool:
        return self.attempts[seen] == message.attempt

    # --- what was found ---

    def bury(self, letters: list[DeadLetter]) -> None:
        """All the dead letters that there are; none that was seen before is missing."""
        found = {}
        for letter in letters:
            assert letter.payload is not None, f"nothing is damaged: {letter.record}"
            seen = (letter.subscription, (letter.priority, letter.offset))
            sent = self.sent[number_of(letter.payload)]
            self._identify(sent, seen[1], str(letter.id), f"dead: {sent}")
            assert sent.fate is not Fate.REFUSED, f"refused, and dead: {sent}"
            assert seen not in self.acknowledged.certain, f"acknowledged, and dead: {sent}"
            assert letter.attempts == self.max_deliveries, f"{letter.record}: {sent}"
            found[seen] = letter
        assert set(self.dead) <= set(found), "dead letters are lost"
        self.dead = found

    def check_order(self, subscription: str) -> None:
        """Where one consumer gets all: each producer's messages in the order they were sent."""
        by_producer: dict[tuple[int, int], list[int]] = defaultdict(list)
        for number in self.first_seen[subscription]:
            sent = self.sent[number]
            if not sent.delay_seconds:
                by_producer[sent.producer, sent.priority].append(number)
        for numbers in by_producer.values():
            assert numbers == sorted(numbers), f"{subscription}: out of order: {numbers}"

    def check_deduplication(self) -> None:
        """Of sends with one id at most one was delivered, and all were told the same."""
        told: dict[str, set[str]] = defaultdict(set)
        delivered: dict[str, list[int]] = defaultdict(list)
        for sent in self.sent:
            if sent.deduplication_id is not None:
                if sent.id is not None:
                    told[sent.deduplication_id].add(sent.id)
                if sent.number in self.places:
                    delivered[sent.deduplication_id].append(sent.number)
                    told[sent.deduplication_id].add(self.ids[sent.number])
        for id, numbers in delivered.items():
            assert len(numbers) == 1, f"{id}: {numbers} are duplicates"
        for id, ids in told.items():
            assert len(ids) == 1, f"{id}: told {ids}"

    def check_complete(self, subscriptions: list[str], quorum: int | None) -> None:
        """At the end, when the queue is empty: nothing that was acked is missing."""
        delivered = {self.ids[number] for number in self.places}
        possible = self.acknowledged.possible
        for sent in self.sent:
            if sent.fate is Fate.REFUSED:
                assert sent.number not in self.places
            if sent.fate is not Fate.ACKED or sent.expires:
                continue
            assert sent.id in delivered, f"lost: {sent}"
            if sent.number not in self.places:
                assert sent.deduplication_id is not None, f"lost: {sent}"
                continue
            place = self.places[sent.number]
            maybe = [one for one in subscriptions if (one, place) in possible]
            dead = [one for one in subscriptions if (one, place) in self.dead]
            if quorum is None or len(maybe) < quorum:
                assert set(maybe) | set(dead) == set(subscriptions), f"lost: {sent} in {maybe}"


def number_of(payload: Any) -> int:
    assert isinstance(payload, dict)
    number = payload["number"]
    assert isinstance(number, int)
    return number

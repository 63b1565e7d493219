"""A queue's life without a queue: the pure core, and a naive model told the same.

The model keeps a plain object for every message and subscription, and decides by looking at all of
them. It knows nothing of intervals, heaps and positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from random import Random
from typing import Final

from attrs import define, field

from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.records import (
    DeadLettersRemoved,
    Died,
    Event,
    HandedOut,
    Kept,
    LaneOpened,
    MessageRecord,
    Place,
    Purged,
    Released,
    Returned,
    Settled,
    SubscriptionChanged,
    SubscriptionDeleted,
    decode_event,
    encode,
)
from mpreg.queues.selection import GONE, Found, choose
from mpreg.queues.snapshot import decode_snapshot, encode_snapshot
from mpreg.queues.state import QueueState, dead_letter_key
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["Life", "Model", "Told", "replayed", "state_of", "told_by", "waits_of"]

LANES: Final = (0, 3, 7)
NAMES: Final = ("default", "audit", "copy", "late")
PATTERNS: Final = (None, "#", "a.*", "b.#")
TOPICS: Final = ("", "a.x", "b.x.y", "c")


@define
class Told:
    """What one subscription was told of one message."""

    attempt: int = 0
    forgiven: int = 0
    held: bool = False
    """With a consumer."""
    until: float = 0.0
    """Not visible before (monotonic)."""
    done: bool = False
    acknowledged: bool = False
    noticed: bool = False
    """Whether anything was decided about it: delays do not count any more."""


@define(eq=False)
class Model:
    """Every message, every subscription, every pair of them."""

    quorum: int | None
    max_deliveries: int
    messages: dict[Place, tuple[MessageRecord, int]] = field(factory=dict)
    told: dict[str, dict[Place, Told]] = field(factory=dict)
    patterns: dict[str, str | None] = field(factory=dict)
    finished: set[Place] = field(factory=set)
    dead: dict[str, float] = field(factory=dict)
    acknowledged: int = 0

    def subscribe(self, name: str, pattern: str | None, start: dict[int, int] | None) -> None:
        if name not in self.told:
            self.told[name] = {place: Told() for place in self.messages}
            for place, told in self.told[name].items():
                began = 0 if start is None else start.get(place[0], 0)
                told.done = place in self.finished or place[1] < began
        self.patterns[name] = pattern

    def unsubscribe(self, name: str) -> None:
        del self.told[name], self.patterns[name]
        self.finished |= {place for place in self.messages if self.is_agreed(place)}

    def send(self, place: Place, record: MessageRecord, size: int) -> None:
        self.messages[place] = record, size
        for told in self.told.values():
            told[place] = Told()

    def is_agreed(self, place: Place) -> bool:
        every = [told[place] for told in self.told.values()]
        if self.quorum is not None:
            return sum(one.acknowledged for one in every) >= self.quorum
        return bool(every) and all(one.done for one in every)

    def finish(self, name: str, place: Place, *, acknowledged: bool = False) -> None:
        told = self.told[name][place]
        told.done, told.held = True, False
        told.acknowledged = told.acknowledged or acknowledged
        self.acknowledged += acknowledged
        if self.is_agreed(place):
            self.finished.add(place)

    def purge(self, ends: dict[int, int]) -> None:
        for place in self.messages:
            if place[1] < ends.get(place[0], 0):
                self.finished.add(place)
                for told in self.told.values():
                    told[place].done, told[place].held = True, False

    def by_priority(self) -> list[Place]:
        return sorted(self.messages, key=lambda place: (-place[0], place[1]))

    def choose(
        self,
        name: str,
        count: int,
        bytes_max: float,
        matches: Callable[[str], bool],
        wall: float,
        now: float,
    ) -> tuple[list[Place], list[Place]]:
        """Which messages are handed out, and which die; the rest is noted."""
        chosen: list[Place] = []
        dying: list[Place] = []
        for place in self.by_priority():
            told, record = self.told[name][place], self.messages[place][0]
            if len(chosen) == count or sum(self.messages[one][1] for one in chosen) >= bytes_max:
                break
            if told.done or told.held or told.until > now:
                continue
            if place in self.finished:
                told.done = True
            elif record.is_expired(wall):
                told.done = True
                self.finished.add(place)
            elif not told.attempt and not matches(record.topic):
                self.finish(name, place)
            elif not told.noticed and (wait := record.visible_in(wall)):
                told.noticed, told.until = True, now + wait
            else:
                told.noticed = told.held = True
                exhausted = told.attempt - told.forgiven >= self.max_deliveries
                (dying if exhausted else chosen).append(place)
        return chosen, dying


@define(eq=False)
class Life:
    """One seed's: random steps of a queue, written as events and told to the model."""

    random: Random
    configuration: QueueConfiguration
    plain: bool = False
    """Without what is not written: patterns, expiry, and releases of the unseen."""
    state: QueueState = field(init=False)
    model: Model = field(init=False)
    events: list[bytes] = field(factory=list)
    leases: list[tuple[str, Delivery]] = field(factory=list)
    dying: list[tuple[str, Delivery]] = field(factory=list)
    wall: float = 1_000.0
    now: float = 0.0

    def __attrs_post_init__(self) -> None:
        limits = self.configuration
        self.state = QueueState(limits)
        is_quorum = limits.delivery_guarantee is DeliveryGuarantee.QUORUM
        quorum = limits.required_acknowledgments if is_quorum else None
        self.model = Model(quorum, limits.max_deliveries)
        for name in self.state.subscriptions:
            self.model.subscribe(name, None, None)

    def live(self, steps: int) -> Iterator[str]:
        """One step after the other, by its name."""
        kinds: list[tuple[Callable[[], None], int]] = [
            (self.send, 6),
            (self.receive, 8),
            (self.settle, 6),
            (self.give_back, 3),
            (self.die, 2),
            (self.pass_time, 2),
            (self.subscribe, 1),
            (self.unsubscribe, 1),
            (self.remove_letters, 1),
            (self.truncate, 2),
            (self.measure, 1),
        ]
        if self.random.random() < 0.5:
            kinds.append((self.purge, 1))
        if not self.plain:
            kinds += [(self.release, 2), (self.jump, 1)]
        weights = [weight for _, weight in kinds]
        for _ in range(steps):
            (step, _), *_ = self.random.choices(kinds, weights)
            step()
            yield step.__name__

    def write(self, event: Event) -> None:
        self.events.append(encode(event))
        self.state.apply(decode_event(self.events[-1], "here"))

    def find(self, place: Place) -> Found:
        number, offset = place
        lane = self.state.lanes[number]
        if offset < lane.first and offset not in lane.kept:
            return GONE
        return self.model.messages[place]

    # --- steps ---

    def send(self) -> None:
        random = self.random
        number = random.choice(LANES)
        if number not in self.state.lanes:
            self.write(LaneOpened(number))
        sized = [self._message() for _ in range(random.randint(1, 6))]
        first = self.state.lanes[number].end
        self.state.sent(number, len(sized), sum(size for _, size in sized))
        self.state.note_delays(number, first, sized, wall=self.wall, now=self.now)
        for offset, (record, size) in enumerate(sized, first):
            self.model.send((number, offset), record, size)
            if wait := record.visible_in(self.wall):
                for name, told in self.model.told.items():
                    if self.state.subscriptions[name].matches(record.topic):
                        told[number, offset].noticed = True
                        told[number, offset].until = self.now + wait

    def _message(self) -> tuple[MessageRecord, int]:
        random = self.random
        topic = "" if self.plain else random.choice(TOPICS)
        delay = random.choice([0.0, 0.0, 0.0, 5.0])
        ttl = None if self.plain or random.random() < 0.7 else random.uniform(0, 20)
        expires_at = None if ttl is None else self.wall + ttl
        return MessageRecord("", self.wall, topic, delay, expires_at, {}, b""), random.randint(1, 9)

    def receive(self) -> None:
        if not self.model.told:
            return
        name = self.random.choice(list(self.model.told))
        count = self.random.randint(1, 6)
        bytes_max = self.random.choice([math.inf, math.inf, 8, 16])
        subscription = self.state.subscriptions[name]
        wanted, lost = self.model.choose(
            name, count, bytes_max, subscription.matches, self.wall, self.now
        )
        choice = choose(
            self.state,
            subscription,
            count,
            self.find,
            wall=self.wall,
            now=self.now,
            bytes_max=bytes_max,
        )
        chosen = [delivery for delivery, _ in choice.deliveries]
        assert [(one.lane, one.offset) for one in chosen] == wanted
        assert [(one.lane, one.offset) for one in choice.dying] == lost
        assert choice.unread is None
        self.dying += [(name, delivery) for delivery in choice.dying]
        if self.random.random() < 0.2:
            self._fail_to_hand_out(name, chosen)
        elif chosen:
            self._hand_out(name, chosen)

    def _fail_to_hand_out(self, name: str, deliveries: list[Delivery]) -> None:
        for one in deliveries:
            self.state.subscriptions[name].cursor(one.lane).make_ready(one)
            self.model.told[name][one.lane, one.offset].held = False

    def _hand_out(self, name: str, deliveries: list[Delivery]) -> None:
        sizes = {one: self.model.messages[one.lane, one.offset][1] for one in deliveries}
        self.write(
            HandedOut(
                name,
                [(o.lane, o.offset, o.attempt + 1, o.forgiven, sizes[o]) for o in deliveries],
            )
        )
        until = self.now + self.random.choice([1.0, 10.0])
        for one in deliveries:
            one.state = DeliveryState.LEASED
            self.state.subscriptions[name].set_due(one, until)
            self.model.told[name][one.lane, one.offset].attempt += 1
            self.leases.append((name, one))

    def _take_lease(self) -> tuple[str, Delivery] | None:
        if not self.leases:
            return None
        return self.leases.pop(self.random.randrange(len(self.leases)))

    def settle(self) -> None:
        if (lease := self._take_lease()) is None:
            return
        name, first = lease
        # Together with others of the subscription, in any order.
        others = [one for other, one in self.leases if other == name and self.random.random() < 0.7]
        self.leases = [(of, one) for of, one in self.leases if one not in others]
        settled = self.random.sample([first, *others], len(others) + 1)
        self.write(Settled(name, [(one.lane, one.offset) for one in settled]))
        for one in settled:
            self.model.finish(name, (one.lane, one.offset), acknowledged=True)

    def give_back(self) -> None:
        if (lease := self._take_lease()) is None:
            return
        name, one = lease
        place = (one.lane, one.offset)
        if self.state.is_exhausted(one):
            one.state = DeliveryState.DYING
            self.dying.append((name, one))
            return
        delay = self.random.choice([0.0, 3.0])
        self.write(Returned(name, place, self.wall + delay, delay, "no"))
        told = self.model.told[name][place]
        told.held, told.until = False, self.now + delay
        self.state.subscriptions[name].set_due(one, told.until)
        self.tick()

    def release(self) -> None:
        if (lease := self._take_lease()) is None:
            return
        name, one = lease
        self.state.subscriptions[name].cursor(one.lane).make_ready(one)
        self.write(Released(name, [(one.lane, one.offset, one.forgiven + 1)]))
        told = self.model.told[name][one.lane, one.offset]
        told.held = False
        told.forgiven += 1

    def die(self) -> None:
        if not self.dying:
            return
        name, one = self.dying.pop()
        place = (one.lane, one.offset)
        self.write(Died(name, place, self.wall))
        self.model.finish(name, place)
        self.model.dead[dead_letter_key(place, name)] = self.wall

    def pass_time(self) -> None:
        seconds = self.random.choice([0.5, 4.0, 12.0])
        self.now += seconds
        self.wall += seconds
        self.tick()

    def tick(self) -> None:
        for name, subscription in self.state.subscriptions.items():
            expected = {
                (one.lane, one.offset)
                for one in subscription.deliveries()
                if one.state in (DeliveryState.LEASED, DeliveryState.WAITING)
                and one.due <= self.now
            }
            ended = subscription.tick(self.now)
            assert {(one.lane, one.offset) for one in ended} == expected
            for one in ended:
                self.model.told[name][one.lane, one.offset].held = False
                if self.state.is_exhausted(one):
                    self.model.told[name][one.lane, one.offset].held = True
                    one.state = DeliveryState.DYING
                    self.dying.append((name, one))
            due = subscription.next_due()
            assert due is None or due > self.now
        self._forget_lost()

    def _forget_lost(self) -> None:
        """Leases that ended, and messages that are gone with their subscription, or purged."""
        self.leases = [
            (name, one) for name, one in self.leases if self._is(name, one, DeliveryState.LEASED)
        ]
        self.dying = [
            (name, one) for name, one in self.dying if self._is(name, one, DeliveryState.DYING)
        ]

    def _is(self, name: str, one: Delivery, state: DeliveryState) -> bool:
        subscription = self.state.subscriptions.get(name)
        return one.state is state and subscription is not None and subscription.holds(one)

    def jump(self) -> None:
        self.wall += self.random.uniform(-30, 30)

    def subscribe(self) -> None:
        name = self.random.choice(NAMES)
        pattern = None if self.plain else self.random.choice(PATTERNS)
        start = None
        if self.random.random() < 0.3:
            start = {number: lane.end for number, lane in self.state.lanes.items()}
        self.write(SubscriptionChanged(name, pattern, start))
        self.model.subscribe(name, pattern, start)

    def unsubscribe(self) -> None:
        names = [name for name in self.model.told if name != "default"]
        if not names:
            return
        name = self.random.choice(names)
        self.write(SubscriptionDeleted(name))
        self.model.unsubscribe(name)
        self._forget_lost()
        self.measure()

    def remove_letters(self) -> None:
        keys = [key for key in self.model.dead if self.random.random() < 0.3]
        self.write(DeadLettersRemoved(keys))
        for key in keys:
            del self.model.dead[key]

    def purge(self) -> None:
        ends = {number: lane.end for number, lane in self.state.lanes.items()}
        self.write(Purged(ends))
        self.model.purge(ends)
        self._forget_lost()
        self.measure()

    def truncate(self) -> None:
        """Any prefix of a log may go, as long as what is unfinished in it is kept."""
        lane = self.state.lanes[self.random.choice(list(self.state.lanes))]
        first = self.random.randint(lane.first, lane.end)
        kept = [each for each in range(lane.first, first) if each not in lane.finished]
        self.write(Kept(lane.number, kept, first))

    def measure(self, *, wholly: bool = False) -> None:
        """As is done where the bytes are to be counted anew: some now, some later."""
        for number, lane in self.state.lanes.items():
            for offset in range(lane.end if wholly else self.random.randint(0, lane.end)):
                lane.measure(offset, self.model.messages[number, offset][1])

    # --- the same again ---

    def restore(self, state: QueueState) -> QueueState:
        """What a restart does after the events."""
        for number in list(state.lanes):
            lane = self.state.lanes[number]
            state.place_lane(number, lane.first, lane.end)
        return state

    def check(self) -> None:
        """The state is the model's."""
        state, model = self.state, self.model
        assert set(state.subscriptions) == set(model.told)
        assert _places(state, lambda n: state.lanes[n].finished.ranges()) == model.finished
        for name, subscription in state.subscriptions.items():
            found = told_by(state, subscription)
            for place, told in model.told[name].items():
                there = found.get(place, Told())
                assert (there.attempt, there.forgiven, there.done) == (
                    (0, 0, True) if told.done else (told.attempt, told.forgiven, False)
                ), (name, place, there, told)
        assert state.dead == model.dead
        assert state.acknowledged == model.acknowledged
        left = [size for place, (_, size) in model.messages.items() if place not in model.finished]
        assert state.size == len(left)
        if all(lane.is_measured for lane in state.lanes.values()):
            assert state.bytes == sum(left)
        else:
            assert state.bytes >= sum(left)


def replayed(
    configuration: QueueConfiguration, events: list[bytes], snapshot: bytes | None = None
) -> QueueState:
    """After a snapshot, or from the beginning."""
    state, start = QueueState(configuration), 0
    if snapshot is not None:
        state, start = decode_snapshot(snapshot, configuration, "here")
    for event in events[start:]:
        state.apply(decode_event(event, "here"))
    return state


def told_by(state: QueueState, subscription: SubscriptionState) -> dict[Place, Told]:
    """What of a subscription's messages is not as if they had just been sent."""
    found: dict[Place, Told] = {}
    for place in _places(state, lambda n: subscription.cursor(n).done.ranges()):
        found[place] = Told(done=True)
    for place in _places(state, lambda n: subscription.cursor(n).acknowledged.ranges()):
        found[place].acknowledged = True
    for one in subscription.deliveries():
        assert (one.lane, one.offset) not in found, "open, and done"
        if one.attempt:
            found[one.lane, one.offset] = Told(one.attempt, one.forgiven)
    return found


def state_of(state: QueueState) -> object:
    """All of a state that a restart has to bring back, to be compared.

    Not, what a subscription has found to be finished by others: it finds that again.
    """
    finished = _places(state, lambda n: state.lanes[n].finished.ranges())

    def told(subscription: SubscriptionState) -> dict[Place, Told]:
        found = told_by(state, subscription)
        return {
            place: one for place, one in found.items() if one.acknowledged or place not in finished
        }

    return (
        finished,
        {number: (lane.first, lane.end, lane.kept) for number, lane in state.lanes.items()},
        {name: (one.pattern, told(one)) for name, one in state.subscriptions.items()},
        state.dead,
        state.acknowledged,
        state.redelivered,
    )


def waits_of(state: QueueState) -> dict[tuple[str, Place], tuple[float, float, str]]:
    """The messages that were given back, and what was said of when they are visible again."""
    return {
        (name, (one.lane, one.offset)): (one.visible_at, one.delay_seconds, one.reason)
        for name, subscription in state.subscriptions.items()
        for one in subscription.deliveries()
        if one.state is DeliveryState.WAITING and one.attempt
    }


def snapshot_of(life: Life) -> bytes:
    return encode_snapshot(life.state, len(life.events))


def _places(state: QueueState, ranges: Callable[[int], tuple[tuple[int, int], ...]]) -> set[Place]:
    return {
        (number, offset)
        for number in state.lanes
        for start, stop in ranges(number)
        for offset in range(start, stop)
    }

"""The messages of one subscription: how far it has come, who has one, and until when."""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterable, Iterator
from typing import Final

import msgspec
from attrs import define, field

from mpreg.queues.cursor import Cursor, Delivery, DeliveryState
from mpreg.queues.intervals import IntervalSet
from mpreg.queues.records import Place
from mpreg.queues.topics import TopicPattern

__all__ = ["Lease", "SubscriptionState"]

#: Up to here deadlines that do not count any more are just kept.
CLEAR_DEADLINES_AT = 256

#: Those in which a delivery's deadline counts.
_TIMED: Final = (DeliveryState.LEASED, DeliveryState.WAITING)


@define(eq=False)
class SubscriptionState:
    name: str
    pattern: TopicPattern | None = None
    cursors: dict[int, Cursor] = field(factory=dict)
    """By lane."""
    deleting: bool = False
    """Whether its deletion is being written: nothing more is written of its messages."""
    passed: dict[int, IntervalSet] = field(factory=dict)
    """By lane, what it has passed over and no event tells of."""
    _deadlines: list[tuple[float, int, Delivery]] = field(factory=list)
    _clear_at: int = CLEAR_DEADLINES_AT
    """How many deadlines there are when those that do not count any more are thrown out."""
    _numbers: Iterator[int] = field(factory=itertools.count)

    def cursor(self, lane: int) -> Cursor:
        if (cursor := self.cursors.get(lane)) is None:
            cursor = self.cursors[lane] = Cursor()
        return cursor

    def passed_in(self, lane: int) -> IntervalSet:
        return self.passed.setdefault(lane, IntervalSet())

    def matches(self, topic: str) -> bool:
        return self.pattern is None or self.pattern.matches(topic)

    def has_no_use_for(self, place: Place, topic: str) -> bool:
        """Whether it never had the message, and is not to get it."""
        delivery = self.find(place)
        # Without an attempt it has only waited for its time, perhaps under another pattern.
        is_new = delivery is None or delivery.is_counted or not delivery.attempt
        return is_new and not self.matches(topic)

    def deliveries(self) -> Iterator[Delivery]:
        """The exceptional messages."""
        for cursor in self.cursors.values():
            yield from cursor.open.values()

    def find(self, place: Place) -> Delivery | None:
        cursor = self.cursors.get(place[0])
        return None if cursor is None else cursor.open.get(place[1])

    def holds(self, delivery: Delivery) -> bool:
        """Whether this very object still stands for its message."""
        cursor = self.cursors.get(delivery.lane)
        return cursor is not None and cursor.open.get(delivery.offset) is delivery

    # --- time ---

    def set_due(self, delivery: Delivery, due: float) -> None:
        """When its lease, or its wait, is over."""
        self.set_all_due((delivery,), due)

    def set_all_due(self, deliveries: Iterable[Delivery], due: float) -> None:
        """`set_due` of each of them."""
        is_timed, deadlines, numbers = due != math.inf, self._deadlines, self._numbers
        for delivery in deliveries:
            delivery.due = due
            if is_timed:
                heapq.heappush(deadlines, (due, next(numbers), delivery))
        if len(self._deadlines) >= self._clear_at:
            # Most are over, and so not asked more than that.
            self._deadlines = [
                entry
                for entry in self._deadlines
                if entry[2].state in _TIMED and self._counts(entry)
            ]
            heapq.heapify(self._deadlines)
            self._clear_at = max(CLEAR_DEADLINES_AT, 2 * len(self._deadlines))

    def next_due(self) -> float | None:
        """When `tick` has something to do."""
        deadlines = self._deadlines
        while deadlines and not self._counts(deadlines[0]):
            heapq.heappop(deadlines)
        return deadlines[0][0] if deadlines else None

    def tick(self, now: float) -> list[Delivery]:
        """Leases and waits that are over: the messages are ready again, and returned."""
        ended = []
        while (due := self.next_due()) is not None and due <= now:
            _, _, delivery = heapq.heappop(self._deadlines)
            if delivery.state is DeliveryState.LEASED:
                delivery.reason = delivery.reason or "its lease ran out"
            self.cursors[delivery.lane].make_ready(delivery)
            ended.append(delivery)
        return ended

    def _counts(self, entry: tuple[float, int, Delivery]) -> bool:
        due, _, delivery = entry
        return delivery.due == due and delivery.state in _TIMED and self.holds(delivery)


class Lease(msgspec.Struct, frozen=True, eq=False, gc=False):
    """A delivery as its holder has it: right for as long as nobody else has got the message."""

    subscription: SubscriptionState
    delivery: Delivery
    attempt: int
    ahead: int = 0
    """How many messages its holder may ask for once this one is acknowledged."""

    @property
    def is_held(self) -> bool:
        """Whether it is right, and nothing is being written of it."""
        delivery = self.delivery
        if delivery.state is not DeliveryState.LEASED or delivery.attempt != self.attempt:
            return False
        # `holds`, without a call: it is asked of every message.
        cursor = self.subscription.cursors.get(delivery.lane)
        return cursor is not None and cursor.open.get(delivery.offset) is delivery

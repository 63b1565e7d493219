"""Which messages are handed out next."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from typing import Final, TypeAlias

import msgspec

from mpreg.errors import CorruptDataError
from mpreg.queues.cursor import Cursor, Delivery, DeliveryState
from mpreg.queues.lane import Lane
from mpreg.queues.records import MessageRecord, Place
from mpreg.queues.state import QueueState
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["GONE", "UNREAD", "Choice", "Found", "Look", "choose"]


class _Missing(enum.Enum):
    UNREAD = "not in memory"
    GONE = "not stored any more"


UNREAD: Final = _Missing.UNREAD
GONE: Final = _Missing.GONE

Found: TypeAlias = tuple[MessageRecord, int] | CorruptDataError | _Missing
"""A message and its size in bytes, or why there is none."""

Look: TypeAlias = Callable[[Place], Found]

#: Messages that are looked at in one go and not handed out: then others get their turn.
PASSED_AT_ONCE_MAX: Final = 1_024


class Choice(msgspec.Struct, eq=False):
    """A msgspec struct, as `_Chooser`, because one is made for every `receive`."""

    deliveries: list[tuple[Delivery, MessageRecord]] = []
    """RESERVED, in the order in which they are to be handed out."""
    dying: list[Delivery] = []
    """DYING: damaged, or out of attempts."""
    unread: Place | None = None
    """What is to be read before more can be chosen."""
    passed: list[Place] = []
    """Passed over: the subscription has no use for them."""
    delayed: bool = False
    """Whether some were found that are not visible yet: there is a new time to wait for."""
    steps: int = 0
    """How often something was looked at."""
    is_cut_short: bool = False
    """Whether others are to get their turn before more is looked at."""
    size: int = 0
    """Of what is to be handed out, in bytes."""
    is_full: bool = False
    """Whether there may be more than is wanted at once."""

    @property
    def is_over(self) -> bool:
        """Whether there is nothing more to be found for now."""
        return self.unread is None and not self.is_cut_short and not self.is_full

    def take(self, delivery: Delivery, record: MessageRecord, size: int) -> None:
        delivery.state = DeliveryState.RESERVED
        self.deliveries.append((delivery, record))
        self.size += size


def choose(
    state: QueueState,
    subscription: SubscriptionState,
    count: int,
    look: Look,
    *,
    wall: float,
    now: float,
    bytes_max: float = math.inf,
) -> Choice:
    """Choose up to ``count`` messages, the highest priority first, then the lowest offset. The
    last one may go beyond ``bytes_max``.

    Messages that the subscription has no use for are passed over; those that are not visible yet
    wait for ``now`` (monotonic) plus what is left of their delay.
    """
    choice = Choice()
    lanes = state.lanes
    for number in sorted(lanes, reverse=True) if len(lanes) > 1 else lanes:
        lane = state.lanes[number]
        cursor = subscription.cursor(number)
        chooser = _Chooser(state, subscription, lane, cursor, look, wall, now)
        chooser.choose(choice, count, bytes_max)
        has_enough = len(choice.deliveries) == count
        if has_enough or cursor.held_back_from is not None or not choice.is_over:
            break
    return choice


class _Chooser(msgspec.Struct, eq=False):
    state: QueueState
    subscription: SubscriptionState
    lane: Lane
    cursor: Cursor
    look: Look
    wall: float
    now: float

    def choose(self, choice: Choice, count: int, bytes_max: float) -> None:
        while len(choice.deliveries) < count:
            if choice.size >= bytes_max:
                choice.is_full = True
                return
            if count > 1 and self._take_untouched(choice, count, bytes_max):
                continue
            offset = self.cursor.candidate(self.lane.end)
            if offset is None or self.cursor.holds_back(offset):
                return
            if choice.steps >= count + PASSED_AT_ONCE_MAX:
                choice.is_cut_short = True
                return
            choice.steps += 1
            if offset in self.lane.finished:
                self.cursor.skip(offset, self.lane.finished.first_missing(offset))
                continue
            found = self.look((self.lane.number, offset))
            if found is UNREAD:
                choice.unread = (self.lane.number, offset)
                return
            if isinstance(found, CorruptDataError):
                delivery = self._ensure(offset, 0)
                delivery.reason = str(found)
                self._let_die(delivery, choice)
            elif isinstance(found, tuple):
                self._consider(offset, *found, choice)
            else:
                self._pass_over(offset, 0, choice)

    def _take_untouched(self, choice: Choice, count: int, bytes_max: float) -> bool:
        """Take what comes next in one go, for as long as nobody has come to it and nothing is to be
        asked about it, as is most often so. Whether there was any."""
        cursor, lane, taken = self.cursor, self.lane, choice.deliveries
        start = cursor.untouched(lane.end)
        if start is None or start < lane.finished.end or self.subscription.pattern is not None:
            return False
        number, open, look, size = lane.number, cursor.open, self.look, choice.size
        offset, stop = start, min(lane.end, start + count - len(taken))
        while offset < stop and size < bytes_max and offset not in open:
            found = look((number, offset))
            if not isinstance(found, tuple) or not found[0].is_plain:
                break
            open[offset] = delivery = Delivery(
                number, offset, found[1], state=DeliveryState.RESERVED
            )
            taken.append((delivery, found[0]))
            size += found[1]
            offset += 1
        choice.size = size
        choice.steps += offset - start
        cursor.come_to(offset)
        return offset > start

    def _consider(self, offset: int, record: MessageRecord, size: int, choice: Choice) -> None:
        delivery = self.cursor.open.get(offset)
        is_new = delivery is None or delivery.is_counted
        if is_new and record.is_plain and self.subscription.pattern is None:
            # As most are. Nothing else is to be asked: nobody has seen it.
            if delivery is None:
                delivery = self.cursor.open[offset] = Delivery(self.lane.number, offset, size)
            choice.take(delivery, record, size)
        elif record.is_expired(self.wall):
            self.state.expire(self.subscription, (self.lane.number, offset), size)
            choice.passed.append((self.lane.number, offset))
        elif self.subscription.has_no_use_for((self.lane.number, offset), record.topic):
            self._pass_over(offset, size, choice)
        elif is_new and (wait := record.visible_in(self.wall)):
            self.state.delay(self.subscription, self._ensure(offset, size), record, self.now + wait)
            choice.delayed = True
        else:
            delivery = self._ensure(offset, size)
            if self.state.is_exhausted(delivery):
                self._let_die(delivery, choice)
            else:
                choice.take(delivery, record, size)

    def _ensure(self, offset: int, size: int) -> Delivery:
        delivery = self.cursor.ensure(self.lane.number, offset)
        assert delivery is not None
        delivery.size = size or delivery.size
        return delivery

    def _let_die(self, delivery: Delivery, choice: Choice) -> None:
        delivery.state = DeliveryState.DYING
        choice.dying.append(delivery)

    def _pass_over(self, offset: int, size: int, choice: Choice) -> None:
        self.state.pass_over(self.subscription, (self.lane.number, offset), size)
        choice.passed.append((self.lane.number, offset))

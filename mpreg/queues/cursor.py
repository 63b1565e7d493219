"""How far one subscription has come in one lane.

A cursor keeps what is finished as intervals, and an object only for what is *exceptional*: handed
out, waiting for its time, or given back. All the rest, however much it is, is the offsets that it
has not come to. So its memory follows the exceptions and not the backlog.
"""

from __future__ import annotations

import enum
import heapq
from collections.abc import Iterable

import msgspec
from attrs import define, field

from mpreg.queues.intervals import IntervalSet

__all__ = ["Cursor", "Delivery", "DeliveryState"]


class DeliveryState(enum.Enum):
    READY = "ready"
    """To be handed out. Followed by RESERVED, or DYING where its attempts are used up."""
    RESERVED = "reserved"
    """Its attempt is being written. Followed by LEASED, or READY where that failed."""
    LEASED = "leased"
    """With a consumer, until `Delivery.due`. Followed by SETTLING, or READY when the lease ends."""
    SETTLING = "settling"
    """Its ack or nack is being written. Followed by nothing, by WAITING, or by LEASED where that
    failed."""
    WAITING = "waiting"
    """For `Delivery.due`. Followed by READY."""
    DYING = "dying"
    """To become a dead letter. Followed by nothing, or READY where writing it failed."""


class Delivery(msgspec.Struct, eq=False, gc=False):
    """One message that a subscription has looked at and not finished.

    A msgspec struct, because one is made for every message that is handed out.
    """

    lane: int
    offset: int
    size: int = 0
    """In bytes, as stored; 0 where it is not known."""
    attempt: int = 0
    """The last one that was begun. It never goes down, so it tells one delivery from another."""
    forgiven: int = 0
    """Attempts that ended before anybody saw the message."""
    state: DeliveryState = DeliveryState.READY
    due: float = 0.0
    """Monotonic: when the lease ends, or when it is visible."""
    visible_at: float = 0.0
    """Wall clock, for WAITING: what survives a restart."""
    delay_seconds: float = 0.0
    """What the wait was at first: the most that can be left of it, wherever the clock is set."""
    reason: str = ""
    """Why the last attempt failed."""
    is_counted: bool = False
    """While it is READY: its attempt is on disk, and nobody has seen the message."""

    def visible_in(self, wall: float) -> float:
        """Seconds that are left of a wait, by the wall clock."""
        return min(max(self.visible_at - wall, 0.0), self.delay_seconds)


@define(eq=False)
class Cursor:
    done: IntervalSet = field(factory=IntervalSet)
    """Acknowledged, dead, expired, not subscribed to: never to be handed out (again)."""
    acknowledged: IntervalSet = field(factory=IntervalSet)
    """Those of them that were acknowledged; only kept where a quorum counts them."""
    open: dict[int, Delivery] = field(factory=dict)
    """By offset; never one that is done."""
    _ready: list[int] = field(factory=list)
    """A heap; an offset that is not READY any more is passed over."""
    held_back_from: int | None = None
    """From here on nothing is to be handed out for now."""
    _position: int = 0
    """Everything below is done or open."""

    def candidate(self, end: int) -> int | None:
        """The lowest offset below ``end`` that may be handed out, as far as can be told here."""
        if not self.ready_most():
            return self.fresh(end)
        offset = self._ready[0]
        if offset < self._position:
            # All that was not come to is above.
            return offset
        fresh = self.fresh(end)
        return offset if fresh is None else min(offset, fresh)

    def ready_most(self) -> int:
        """How many of the exceptional ones may be handed out: never fewer than there are."""
        while self._ready:
            delivery = self.open.get(self._ready[0])
            if delivery is not None and delivery.state is DeliveryState.READY:
                break
            heapq.heappop(self._ready)
        return len(self._ready)

    def holds_back(self, offset: int) -> bool:
        return self.held_back_from is not None and offset >= self.held_back_from

    def fresh(self, end: int) -> int | None:
        """The lowest offset below ``end`` that was not come to yet."""
        position = self._position
        while position < end:
            if position in self.open:
                position += 1
            elif (missing := self.done.first_missing(position)) != position:
                position = missing
            else:
                break
        self._position = min(position, end)
        return position if position < end else None

    def untouched(self, end: int) -> int | None:
        """`fresh`, where nothing comes before it and nothing behind it is done; else None."""
        if self.held_back_from is not None or self.ready_most():
            return None
        offset = self.fresh(end)
        return None if offset is None or offset < self.done.end else offset

    def come_to(self, offset: int) -> None:
        """All from `fresh` up to ``offset`` is open now."""
        self._position = offset

    def make_ready(self, delivery: Delivery) -> None:
        delivery.state = DeliveryState.READY
        # The first one may still be there from the last time, and come back again and again.
        if not self._ready or self._ready[0] != delivery.offset:
            heapq.heappush(self._ready, delivery.offset)

    def ensure(self, lane: int, offset: int) -> Delivery | None:
        """The message as an exceptional one; None where it is done."""
        if (delivery := self.open.get(offset)) is None and offset not in self.done:
            delivery = self.open[offset] = Delivery(lane, offset)
        return delivery

    def finish(self, offset: int) -> int:
        """It is not to be handed out any more. Its size, as far as it is known."""
        delivery = self.open.pop(offset, None)
        self.done.add(offset)
        return 0 if delivery is None else delivery.size

    def finish_run(self, start: int, stop: int) -> int:
        """`finish` of all from ``start`` up to ``stop``. Their size together."""
        pop, size = self.open.pop, 0
        for offset in range(start, stop):
            if (delivery := pop(offset, None)) is not None:
                size += delivery.size
        self.done.add_range(start, stop)
        return size

    def skip(self, start: int, stop: int) -> None:
        """From ``start``, which `candidate` gave, up to ``stop`` nothing is to be handed out any
        more; those that are with a consumer stay with it. However many there are, that is one step
        for each of the exceptional ones at most."""
        if start in self.open:
            self.finish(start)
            return
        for offset in self._open_within(start, stop):
            self.done.add_range(start, offset)
            start = offset + 1
        self.done.add_range(start, stop)

    def _open_within(self, start: int, stop: int) -> list[int]:
        if stop - start < len(self.open):
            return [offset for offset in range(start, stop) if offset in self.open]
        return sorted(offset for offset in self.open if start <= offset < stop)

    def finish_ranges(self, ranges: Iterable[tuple[int, int]]) -> None:
        """All from a start up to its stop."""
        for start, stop in ranges:
            self.done.add_range(start, stop)
        for offset in [offset for offset in self.open if offset in self.done]:
            del self.open[offset]

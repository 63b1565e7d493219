"""Writes of many callers that become one: who comes before the writer takes it, joins it.

Where hundreds of consumers acknowledge in one turn of the event loop, one event says so, not
hundreds: that is one record to be made, checked, written and read back, and one change of the
state. What each caller gets is the same: an answer when that is on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final, Generic, TypeVar

from attrs import define, field

from mpreg.actors import Ack
from mpreg.persistence import LogStore
from mpreg.persistence.growing import GrowingAppend
from mpreg.queues.records import HandedOut, Settled, encode
from mpreg.queues.sizes import PLACE_BYTES

__all__ = ["JointAppends", "JointEvents"]

E = TypeVar("E", HandedOut, Settled)
P = TypeVar("P")

#: Callers that share one write. Each that is cancelled looks for itself among them.
PARTS_MAX: Final = 1_024

#: Items that room is reserved for at once: others who come in time want some, too.
RESERVED_AT_ONCE: Final = 64


@define(eq=False)
class _Joint(Generic[P]):
    append: GrowingAppend
    parts: list[P]
    """What its callers wanted."""
    items: list[Any]
    """What an event tells of: its own list."""
    reserved: int = 0
    """Items that it has room for, beside these."""
    wanted: int = 0
    """Of them, those that are to be found when the writer takes it."""
    is_taken: bool = False
    """Whether the writer has it."""


def _nothing_more(_subscription: str, _room: int, _ack: Ack[int]) -> None:
    return None


@define(eq=False)
class JointEvents(Generic[E, P]):
    """Events of one kind: one for all callers of a subscription that come in time."""

    _log: LogStore
    _make: Callable[[str, list[Any]], E]
    """Makes the event from the subscription's name and what it tells of."""
    _settled: Callable[[E, list[P], Sequence[object] | None], None]
    """Told once for each event what became of it: the results of its append, or None."""
    _items_max: int
    """How much one event may tell of."""
    _fill: Callable[[str, int, Ack[int]], tuple[list[Any], P] | None] = _nothing_more
    """Asked when the writer takes an event in which room was reserved: items for so much room at
    most, and their part. It is given the event's ack, and must not raise."""
    _last: dict[str, _Joint[P]] = field(factory=dict)
    """By subscription."""

    def tell(self, subscription: str, items: list[Any], part: P) -> Ack[int] | None:
        """Have an event tell of these; the ack is answered when it is on disk.

        None: there is no room for it now, and nothing was sent. Where it raises, and where the
        caller is cancelled later, the part is told of all the same.
        """
        if (joint := self._grown(subscription, len(items))) is not None:
            joint.items += items
            joint.parts.append(part)
            return joint.append.ack
        begun = self._begin(subscription, items, [part], 0)
        return None if begun is None else begun.append.ack

    def want(self, subscription: str, count: int) -> bool:
        """Have an event tell of so many items more that are found when the writer takes it. False:
        there is none that waits for it with room for them."""
        joint = self._last.get(subscription)
        if joint is None or joint.is_taken or joint.wanted + count > joint.reserved:
            return False
        joint.wanted += count
        return True

    def reserve(self, subscription: str, count: int) -> None:
        """Make room, so that `want` may be asked for them. Not where there is none."""
        count = min(max(count, RESERVED_AT_ONCE), self._items_max)
        joint = self._grown(subscription, count) or self._begin(subscription, [], [], count)
        if joint is not None:
            joint.reserved += count

    def _grown(self, subscription: str, count: int) -> _Joint[P] | None:
        """The event that waits for the writer, with room for so many items more."""
        joint = self._last.get(subscription)
        if (
            joint is not None
            and len(joint.items) + joint.reserved + count <= self._items_max
            and len(joint.parts) < PARTS_MAX
            and joint.append.grow(PLACE_BYTES * count)
        ):
            return joint
        return None

    def _begin(
        self, subscription: str, items: list[Any], parts: list[P], reserved: int
    ) -> _Joint[P] | None:
        event = self._make(subscription, items)

        def settled(results: Sequence[object] | None) -> None:
            _forget(self._last, subscription, parts)
            self._settled(event, parts, results)

        def make() -> bytes:
            joint.is_taken = True
            if joint.wanted:
                found = self._fill(subscription, joint.wanted, joint.append.ack)
                if found is not None:
                    items.extend(found[0])
                    parts.append(found[1])
            return encode(event)

        size = len(encode(event)) + PLACE_BYTES * reserved
        append = self._log.append_growing([b""], settled, make=make, size_bytes=size)
        if append is None:
            return None
        joint: _Joint[P] = _Joint(append, parts, items)
        self._last[subscription] = joint
        return joint


@define(eq=False)
class JointAppends(Generic[P]):
    """Messages: those of all callers of a lane that come in time, side by side."""

    _settled: Callable[[list[P], Sequence[object] | None], None]
    """As `JointEvents._settled`; the messages are in the order of their parts."""
    _last: dict[int, _Joint[P]] = field(factory=dict)
    """By lane."""

    def append(
        self, lane: int, log: LogStore, records: Sequence[bytes], size_bytes: int, part: P
    ) -> Ack[int] | None:
        """Append records; as `JointEvents.tell`."""
        joint = self._last.get(lane)
        if (
            joint is not None
            and len(joint.parts) < PARTS_MAX
            and joint.append.add(records, size_bytes)
        ):
            joint.parts.append(part)
            return joint.append.ack
        parts = [part]

        def settled(results: Sequence[object] | None) -> None:
            _forget(self._last, lane, parts)
            self._settled(parts, results)

        append = log.append_growing(records, settled)
        if append is None:
            return None
        self._last[lane] = _Joint(append, parts, [])
        return append.ack


K = TypeVar("K", int, str)


def _forget(last: dict[K, _Joint[P]], key: K, parts: list[P]) -> None:
    """Else it would keep all that its callers had, until others come."""
    joint = last.get(key)
    if joint is not None and joint.parts is parts:
        del last[key]

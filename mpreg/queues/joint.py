"""Writes of many callers that become one: who comes before the writer takes it, joins it.

Where hundreds of consumers acknowledge in one turn of the event loop, one event says so, not
hundreds: that is one record to be made, checked, written and read back, and one change of the
state. What each caller gets is the same: an answer when that is on disk.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
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


@define(eq=False)
class _Joint(Generic[P]):
    append: GrowingAppend
    parts: list[P]
    """What its callers wanted."""
    items: list[Any]
    """What an event tells of: its own list."""


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
    _last: dict[str, _Joint[P]] = field(factory=dict)
    """By subscription."""

    def tell(self, subscription: str, items: list[Any], part: P) -> Ack[int] | None:
        """Have an event tell of these; the ack is answered when it is on disk.

        None: there is no room for it now, and nothing was sent. Where it raises, and where the
        caller is cancelled later, the part is told of all the same.
        """
        joint = self._last.get(subscription)
        if (
            joint is not None
            and len(joint.items) + len(items) <= self._items_max
            and len(joint.parts) < PARTS_MAX
            and joint.append.grow(PLACE_BYTES * len(items))
        ):
            joint.items += items
            joint.parts.append(part)
            return joint.append.ack
        return self._begin(subscription, items, [part])

    def _begin(self, subscription: str, items: list[Any], parts: list[P]) -> Ack[int] | None:
        event = self._make(subscription, items)

        def settled(results: Sequence[object] | None) -> None:
            _forget(self._last, subscription, parts)
            self._settled(event, parts, results)

        append = self._log.append_growing(
            [b""], settled, make=partial(encode, event), size_bytes=len(encode(event))
        )
        if append is None:
            return None
        self._last[subscription] = _Joint(append, parts, items)
        return append.ack


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

"""The messages that are in memory: the newest ones, and those read ahead."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, TypeAlias

from attrs import define, field

from mpreg.errors import CorruptDataError
from mpreg.queues.records import MessageRecord, Place

__all__ = ["BODIES_BYTES_MAX", "Bodies", "Body"]

BODIES_BYTES_MAX: Final = 16 << 20
"""Of all queues of a registry together. They are only a shortcut: everything is on disk."""

#: What one costs beside its bytes.
OVERHEAD_BYTES: Final = 400

Body: TypeAlias = tuple[MessageRecord, int] | CorruptDataError
"""A message and its size, or what is wrong with it."""


@define(eq=False)
class Bodies:
    """Bounded by bytes; the oldest goes first. Queues are named by their incarnations."""

    bytes_max: int = BODIES_BYTES_MAX
    bytes: int = 0
    _bodies: OrderedDict[tuple[str, Place], Body] = field(factory=OrderedDict)
    _places: dict[str, set[Place]] = field(factory=dict)
    """By queue."""

    def get(self, queue: str, place: Place) -> Body | None:
        return self._bodies.get((queue, place))

    def put(self, queue: str, place: Place, body: Body) -> None:
        self.pop(queue, place)
        self._bodies[queue, place] = body
        self._places.setdefault(queue, set()).add(place)
        self.bytes += _size(body)
        self._make_room()

    def put_all(
        self, queue: str, lane: int, first: int, bodies: Sequence[tuple[MessageRecord, int]]
    ) -> None:
        """New messages of a lane, from this offset on."""
        places = self._places.setdefault(queue, set())
        for offset, body in enumerate(bodies, first):
            place = (lane, offset)
            self._bodies[queue, place] = body
            places.add(place)
            self.bytes += OVERHEAD_BYTES + body[1]
        self._make_room()

    def _make_room(self) -> None:
        while self.bytes > self.bytes_max and len(self._bodies) > 1:
            self.pop(*next(iter(self._bodies)))

    def pop(self, queue: str, place: Place) -> None:
        """Forget one: it will hardly be asked for again."""
        lane, offset = place
        self.pop_run(queue, lane, offset, offset + 1)

    def pop_run(self, queue: str, lane: int, start: int, stop: int) -> None:
        """`pop` of all from one offset of a lane up to another."""
        if (places := self._places.get(queue)) is None:
            return
        pop = self._bodies.pop
        for offset in range(start, stop):
            place = (lane, offset)
            if (body := pop((queue, place), None)) is not None:
                places.remove(place)
                self.bytes -= _size(body)
        if not places:
            del self._places[queue]

    def forget(self, queue: str) -> None:
        """Forget all of a queue."""
        for place in self._places.pop(queue, ()):
            self.bytes -= _size(self._bodies.pop((queue, place)))


def _size(body: Body) -> int:
    return OVERHEAD_BYTES + (0 if isinstance(body, CorruptDataError) else body[1])

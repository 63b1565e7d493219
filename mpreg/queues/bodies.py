"""The messages that are in memory: the newest ones, and those read ahead."""

from __future__ import annotations

from collections import OrderedDict
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
    """Bounded by bytes; the oldest goes first."""

    bytes_max: int = BODIES_BYTES_MAX
    bytes: int = 0
    _bodies: OrderedDict[tuple[str, Place], Body] = field(factory=OrderedDict)

    def get(self, queue: str, place: Place) -> Body | None:
        return self._bodies.get((queue, place))

    def put(self, queue: str, place: Place, body: Body) -> None:
        bodies = self._bodies
        if (queue, place) in bodies:
            self.pop(queue, place)
        bodies[queue, place] = body
        self.bytes += _size(body)
        while self.bytes > self.bytes_max and len(self._bodies) > 1:
            _, oldest = self._bodies.popitem(last=False)
            self.bytes -= _size(oldest)

    def pop(self, queue: str, place: Place) -> None:
        """Forget one: it will hardly be asked for again."""
        if (body := self._bodies.pop((queue, place), None)) is not None:
            self.bytes -= _size(body)

    def forget(self, queue: str) -> None:
        """Forget all of a queue."""
        for key in [key for key in self._bodies if key[0] == queue]:
            self.pop(*key)


def _size(body: Body) -> int:
    return OVERHEAD_BYTES + (0 if isinstance(body, CorruptDataError) else body[1])

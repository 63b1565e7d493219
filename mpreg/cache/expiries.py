"""When what expires: a heap in which what was put again or removed stays behind, dead."""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable
from typing import Final, TypeAlias

from attrs import define, field

__all__ = ["Expiries"]

_Item: TypeAlias = tuple[float, bytes]

#: Fewer items are not worth being gone through.
HEAP_MIN: Final = 64

#: Items that each new one moves from a heap that has too many dead ones.
MOVED_PER_ADD: Final = 8

#: Dead items that are dropped at one look for the first key.
DROPPED_PER_LOOK: Final = 256


@define(eq=False)
class Expiries:
    """Keys by the time at which they expire. Pure.

    Dead items leave when they come to the top. Where they may be more than the others, the heap is
    emptied into a new one, a few items with each that is added; meanwhile there are two. So no call
    takes more than a bounded number of O(log n) steps, and the heaps together are hardly longer
    than twice the keys.
    """

    _is_alive: Callable[[float, bytes], bool]
    """Whether a key that is there expires at that time."""
    _heap: list[_Item] = field(factory=list)
    _old: list[_Item] = field(factory=list)
    """Being emptied, from its end: what is left is a heap all the while."""

    def __len__(self) -> int:
        """Items, dead ones among them."""
        return len(self._heap) + len(self._old)

    @property
    def next(self) -> float:
        """Nothing expires before; `math.inf`: nothing at all."""
        heap = self._lower()
        return heap[0][0] if heap else math.inf

    def add(self, expires_at: float, key: bytes, keys: int) -> None:
        """``keys``: how many there are now, of all kinds."""
        heapq.heappush(self._heap, (expires_at, key))
        if not self._old:
            if len(self._heap) <= max(HEAP_MIN, 2 * keys):
                return
            self._old, self._heap = self._heap, []
        for _ in range(min(MOVED_PER_ADD, len(self._old))):
            item = self._old.pop()
            if self._is_alive(*item):
                heapq.heappush(self._heap, item)

    def first(self, now: float) -> bytes | None:
        """The key that has expired by ``now``, the longest ago; None where there is none, or only
        behind very many dead items, of which the next look finds fewer."""
        for _ in range(DROPPED_PER_LOOK):
            heap = self._lower()
            if not heap or heap[0][0] > now:
                return None
            if self._is_alive(*heap[0]):
                return heap[0][1]
            heapq.heappop(heap)
        return None

    def take(self, now: float, items_max: int) -> list[bytes]:
        """The keys that have expired by ``now``, the longest ago first, out of so many items. To be
        called until `next` is above it."""
        taken: dict[bytes, None] = {}
        for _ in range(items_max):
            heap = self._lower()
            if not heap or heap[0][0] > now:
                break
            item = heapq.heappop(heap)
            if self._is_alive(*item):
                taken[item[1]] = None
        return list(taken)

    def _lower(self) -> list[_Item]:
        """The heap whose first item is lower; an empty one where both are."""
        heap, old = self._heap, self._old
        return old if old and (not heap or old[0] < heap[0]) else heap

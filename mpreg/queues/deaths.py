"""Which dead letters are the oldest, wherever the clock was when they died.

They are kept in the order in which they died. Where the clock was ahead for a while, one of that
time is younger than those behind it, and must not keep them from growing old.
"""

from __future__ import annotations

import heapq
from collections.abc import Mapping
from typing import Final

from attrs import define

__all__ = ["Deaths"]

#: Up to here, and twice the number of dead letters, those that are gone are just kept.
GONE_MIN: Final = 64


@define(eq=False)
class Deaths:
    _dead: Mapping[str, float]
    """By key, when each died (wall clock). It may change; `note` is told of those that are new."""
    _heap: list[tuple[float, str]] | None = None
    """None: nobody has asked yet, as where dead letters do not grow old."""

    def note(self, key: str, died_at: float) -> None:
        if (heap := self._heap) is not None:
            heapq.heappush(heap, (died_at, key))
            if len(heap) > GONE_MIN + 2 * len(self._dead):
                self._heap = None

    def oldest(self) -> float | None:
        """When the oldest one died."""
        heap = self._built()
        while heap and self._dead.get(heap[0][1]) != heap[0][0]:
            heapq.heappop(heap)
        return heap[0][0] if heap else None

    def until(self, wall: float, count: int) -> list[str]:
        """The keys of those that had died by then, the oldest first: not more than so many, and at
        least one where there is one."""
        if (oldest := self.oldest()) is None or oldest > wall:
            return []
        return [
            key
            for died_at, key in heapq.nsmallest(count, self._built())
            if died_at <= wall and self._dead.get(key) == died_at
        ]

    def _built(self) -> list[tuple[float, str]]:
        if self._heap is None:
            self._heap = [(died_at, key) for key, died_at in self._dead.items()]
            heapq.heapify(self._heap)
        return self._heap

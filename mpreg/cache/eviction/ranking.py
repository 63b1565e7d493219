"""Keys by rank: a heap that is put right only where somebody looks."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from typing import Final, TypeAlias

__all__ = ["Place", "Ranking"]

_Rank: TypeAlias = tuple[float, int, Hashable]

#: Putting the heap right at one look: beyond this share of its keys, building it anew is quicker.
_RIGHTED_SHARE_MAX: Final = 1 / 16


class Place:
    """Where a key stands."""

    __slots__ = ("item", "rank")

    def __init__(self, rank: _Rank) -> None:
        self.rank = rank
        self.item = rank
        """What stands for the key in the heap: never above its rank."""


class Ranking:
    """Keys ordered by a number, and of equal ones by who was ranked longest ago.

    A key that rises only notes its new rank: its item in the heap is moved when it comes to the
    top. The items of keys that fell or are gone stay behind, dead, until they come to the top, or
    are more than the others: then the heap is built anew. So each call takes O(log n) steps,
    amortised, and the heap is never longer than twice the keys.
    """

    __slots__ = ("_heap", "_places", "_turn")

    def __init__(self) -> None:
        self._heap: list[_Rank] = []
        self._places: dict[Hashable, Place] = {}
        self._turn = 0

    def set(self, key: Hashable, number: float) -> Place:
        """Rank a key anew. Its place stays the same object until it is gone."""
        self._turn = turn = self._turn + 1
        rank = (number, turn, key)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(rank)
        elif rank < place.item:
            place.rank = place.item = rank
        else:
            place.rank = rank
            return place
        heapq.heappush(self._heap, rank)
        self._bury()
        return place

    def rise(self, place: Place, number: float) -> None:
        """As `set`, for a number that is not below the one before."""
        self._turn = turn = self._turn + 1
        place.rank = (number, turn, place.rank[2])

    def discard(self, key: Hashable) -> None:
        if self._places.pop(key, None) is not None:
            self._bury()

    def first(self) -> tuple[float, Hashable] | None:
        """The lowest number and its key, or None where there are no keys."""
        heap, places = self._heap, self._places
        righted = 0
        while heap:
            item = heap[0]
            place = places.get(item[2])
            if place is None or place.item is not item:
                heapq.heappop(heap)
            elif place.rank is item:
                return item[0], item[2]
            elif righted <= len(places) * _RIGHTED_SHARE_MAX:
                place.item = place.rank
                heapq.heapreplace(heap, place.rank)
                righted += 1
            else:
                heap = self._rebuild()
        return None

    def pop_first(self, spared: Hashable) -> tuple[float, Hashable] | None:
        """Take out the first key that is not ``spared``; None where there is none."""
        first = self.first()
        if first is not None and first[1] == spared:
            aside = self._places.pop(spared)
            heapq.heappop(self._heap)
            first = self.first()
            self._places[spared] = aside
            heapq.heappush(self._heap, aside.item)
        if first is not None:
            self.discard(first[1])
        return first

    def clear(self) -> None:
        self._heap.clear()
        self._places.clear()

    def _bury(self) -> None:
        if len(self._heap) > 2 * len(self._places):
            self._rebuild()

    def _rebuild(self) -> list[_Rank]:
        for place in self._places.values():
            place.item = place.rank
        self._heap = [place.rank for place in self._places.values()]
        heapq.heapify(self._heap)
        return self._heap

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hashable]:
        """In their order."""
        return (key for _, _, key in sorted(place.rank for place in self._places.values()))

"""Keys by rank: a heap that is put right only where somebody looks, a little at a time."""

from __future__ import annotations

import heapq
from collections.abc import Hashable, Iterator
from itertools import islice
from typing import Final, TypeAlias

__all__ = ["Place", "Ranking"]

_Rank: TypeAlias = tuple[float, int, Hashable]

#: Items that are put right, or dropped, at one look.
STEPS_PER_LOOK: Final = 256

#: Items that each change moves from a heap that has too many dead ones.
MOVED_PER_CHANGE: Final = 8

#: Items, and keys, that are looked at more where a look has not come to the lowest key.
_FEW: Final = 64


class Place:
    """Where a key stands."""

    __slots__ = ("item", "rank")

    def __init__(self, rank: _Rank) -> None:
        self.rank = rank
        self.item = rank
        """What stands for the key in the heap: never above its rank."""

    def renew(self) -> None:
        """Stand there by another item: whatever did it before is dead."""
        number, turn, key = self.rank
        self.rank = self.item = (number, turn, key)


class Ranking:
    """Keys ordered by a number, and of equal ones by who was ranked longest ago.

    A key that rises only notes its new rank: its item in the heap is moved when it comes to the
    top. The items of keys that fell or are gone stay behind, dead, until they come to the top.
    Where they are more than the others, or a look finds too many to be put right, the heap is
    emptied into a new one, a few items at each change and each look; meanwhile there are two. So
    the heaps together are hardly longer than three times the keys.

    No call takes more than a bounded number of O(log n) steps. A look that does not come to the
    lowest key by that gives the lowest of those that are right: where everything was used since
    the last look, the next ones find a key that is only among the lowest.
    """

    __slots__ = ("_heap", "_old", "_places", "_turn")

    def __init__(self) -> None:
        self._heap: list[_Rank] = []
        self._old: list[_Rank] = []
        """Being emptied, from its end: what is left is a heap all the while."""
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
        self._tidy()
        return place

    def rise(self, place: Place, number: float) -> None:
        """As `set`, for a number that is not below the one before."""
        self._turn = turn = self._turn + 1
        place.rank = (number, turn, place.rank[2])

    def discard(self, key: Hashable) -> None:
        if self._places.pop(key, None) is not None:
            self._tidy()

    def first(self) -> tuple[float, Hashable] | None:
        """The lowest number and its key, or None where there are no keys."""
        righted: list[Place] = []
        for _ in range(STEPS_PER_LOOK):
            heap = self._lower_heap()
            if not heap:
                return None
            if (found := self._look_at(heap, righted)) is not None:
                return found
        return self._lowest_known(righted)

    def _look_at(self, heap: list[_Rank], righted: list[Place]) -> tuple[float, Hashable] | None:
        """What is first in a heap; None where that was not right, and is now."""
        item = heap[0]
        place = self._places.get(item[2])
        if place is None or place.item is not item:
            heapq.heappop(heap)
        elif place.rank is item:
            return item[0], item[2]
        else:
            place.item = place.rank
            righted.append(place)
            if heap is self._old:
                heapq.heappop(heap)
                heapq.heappush(self._heap, place.item)
            else:
                heapq.heapreplace(heap, place.item)
        return None

    def _lowest_known(self, righted: list[Place]) -> tuple[float, Hashable] | None:
        if righted and not self._old:
            # From now on what is put right is kept apart.
            self._old, self._heap = self._heap, []
            for place in righted:
                place.renew()
                heapq.heappush(self._heap, place.item)
        for _ in range(_FEW):
            if self._heap and (found := self._look_at(self._heap, righted)) is not None:
                return found
        few = righted or islice(self._places.values(), _FEW)
        lowest = min((place.rank for place in few), default=None)
        return None if lowest is None else (lowest[0], lowest[2])

    def pop_first(self, spared: Hashable) -> tuple[float, Hashable] | None:
        """Take out the first key that is not ``spared``; None where there is none."""
        first = self.first()
        if first is not None and first[1] == spared:
            aside = self._places.pop(spared)
            first = self.first()
            aside.renew()
            self._places[spared] = aside
            heapq.heappush(self._heap, aside.item)
        if first is not None:
            self.discard(first[1])
        return first

    def clear(self) -> None:
        self._heap.clear()
        self._old.clear()
        self._places.clear()

    def _lower_heap(self) -> list[_Rank]:
        """The one whose first item is lower; an empty one where both are."""
        heap, old = self._heap, self._old
        return old if old and (not heap or old[0] < heap[0]) else heap

    def _tidy(self) -> None:
        if not self._old:
            if len(self._heap) <= 2 * len(self._places):
                return
            self._old, self._heap = self._heap, []
        old, places = self._old, self._places
        for _ in range(min(MOVED_PER_CHANGE, len(old))):
            item = old.pop()
            place = places.get(item[2])
            if place is not None and place.item is item:
                place.item = place.rank
                heapq.heappush(self._heap, place.rank)

    def __len__(self) -> int:
        return len(self._places)

    def __iter__(self) -> Iterator[Hashable]:
        """In their order."""
        return (key for _, _, key in sorted(place.rank for place in self._places.values()))

"""What is worth least of all that is held, first."""

from __future__ import annotations

from collections.abc import Hashable, Iterator

from mpreg.cache.eviction.policy import Evictable
from mpreg.cache.eviction.ranking import Place, Ranking

__all__ = ["CostPolicy"]


class _Worth:
    __slots__ = ("per_use", "place", "uses")

    def __init__(self, per_use: float, uses: int, place: Place) -> None:
        self.per_use = per_use
        self.uses = uses
        self.place = place


class CostPolicy:
    """GreedyDual-Size-Frequency: L. Cherkasova, "Improving WWW Proxies Performance with
    Greedy-Dual-Size-Frequency Caching Policy" (HP Laboratories, HPL-98-69R1, 1998).

    The priority of an entry is ``L + uses * cost / size``, computed at each use; the lowest
    leaves, and ``L`` becomes its priority. So what is not used any more grows old beside what is,
    however often it was used before. Of equal ones the least recently used leaves first.
    """

    __slots__ = ("_age", "_ranking", "_worths")

    def __init__(self) -> None:
        self._age = 0.0
        self._ranking = Ranking()
        self._worths: dict[Hashable, _Worth] = {}

    def add(self, entry: Evictable) -> None:
        self._appraise(entry, 1)

    def touch(self, key: Hashable) -> None:
        worth = self._worths[key]
        worth.uses += 1
        self._ranking.rise(worth.place, self._age + worth.uses * worth.per_use)

    def update(self, entry: Evictable) -> None:
        self._appraise(entry, self._worths[entry.key].uses + 1)

    def remove(self, key: Hashable) -> None:
        del self._worths[key]
        self._ranking.discard(key)

    def evict(self, spared: Hashable) -> Hashable:
        first = self._ranking.pop_first(spared)
        assert first is not None, "there is one beside the spared"
        self._age, victim = first
        del self._worths[victim]
        return victim

    def clear(self) -> None:
        self._age = 0.0
        self._ranking.clear()
        self._worths.clear()

    def _appraise(self, entry: Evictable, uses: int) -> None:
        per_use = entry.cost / max(entry.size_bytes, 1)
        place = self._ranking.set(entry.key, self._age + uses * per_use)
        self._worths[entry.key] = _Worth(per_use, uses, place)

    def __len__(self) -> int:
        return len(self._worths)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._ranking)

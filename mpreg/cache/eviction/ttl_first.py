"""What expires soonest, first."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Hashable, Iterator
from itertools import chain

from mpreg.cache.eviction.lru import take_first
from mpreg.cache.eviction.policy import Evictable
from mpreg.cache.eviction.ranking import Ranking

__all__ = ["TtlFirstPolicy"]


class TtlFirstPolicy:
    """The soonest expiry first, of equal ones what was put first; then what never expires, the
    least recently used first."""

    __slots__ = ("_expiring", "_lasting")

    def __init__(self) -> None:
        self._expiring = Ranking()
        self._lasting: OrderedDict[Hashable, object] = OrderedDict()

    def add(self, entry: Evictable) -> None:
        if entry.expires_at == math.inf:
            self._lasting[entry.key] = None
        else:
            self._expiring.set(entry.key, entry.expires_at)

    def touch(self, key: Hashable) -> None:
        if key in self._lasting:
            self._lasting.move_to_end(key)

    def update(self, entry: Evictable) -> None:
        if entry.key in self._lasting or entry.expires_at == math.inf:
            self.remove(entry.key)
        self.add(entry)

    def remove(self, key: Hashable) -> None:
        if key in self._lasting:
            del self._lasting[key]
        else:
            self._expiring.discard(key)

    def evict(self, spared: Hashable) -> Hashable:
        first = self._expiring.pop_first(spared)
        return take_first(self._lasting, spared) if first is None else first[1]

    def clear(self) -> None:
        self._expiring.clear()
        self._lasting.clear()

    def __len__(self) -> int:
        return len(self._expiring) + len(self._lasting)

    def __iter__(self) -> Iterator[Hashable]:
        return chain(self._expiring, self._lasting)

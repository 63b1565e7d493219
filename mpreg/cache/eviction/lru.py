"""Least recently used."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator

from mpreg.cache.eviction.policy import Evictable

__all__ = ["LruPolicy", "take_first"]


def take_first(order: OrderedDict[Hashable, object], spared: Hashable) -> Hashable:
    """Take out the first key that is not ``spared``, and return it."""
    for first in order:
        if first != spared:
            break
    del order[first]
    return first


class LruPolicy:
    __slots__ = ("_order", "touch")

    def __init__(self) -> None:
        self._order: OrderedDict[Hashable, object] = OrderedDict()
        # The dictionary's own method: a hit pays for no further Python call.
        self.touch: Callable[[Hashable], None] = self._order.move_to_end

    def add(self, entry: Evictable) -> None:
        self._order[entry.key] = None

    def update(self, entry: Evictable) -> None:
        self.touch(entry.key)

    def remove(self, key: Hashable) -> None:
        del self._order[key]

    def evict(self, spared: Hashable) -> Hashable:
        return take_first(self._order, spared)

    def clear(self) -> None:
        self._order.clear()

    def __len__(self) -> int:
        return len(self._order)

    def __iter__(self) -> Iterator[Hashable]:
        return iter(self._order)

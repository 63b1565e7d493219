"""Who depends on whom, and so what is invalidated together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from attrs import define

from mpreg.cache.in_flight import InFlight
from mpreg.cache.index import DiskIndex
from mpreg.cache.invalidation import Barriers, Prefix, Target
from mpreg.cache.records import Link
from mpreg.cache.writes import Change

__all__ = ["Dependents"]

_NO_KEYS: Final[set[bytes]] = set()


@define(eq=False)
class Dependents:
    _index: DiskIndex
    _barriers: Barriers
    _in_flight: InFlight

    def is_depended_on(self, encoded: bytes) -> bool:
        return encoded in self._barriers.depended_on or encoded in self._in_flight.linking

    def is_anything_depended_on(self) -> bool:
        return bool(self._barriers.depended_on or self._in_flight.linking)

    def is_not_in_use(self, dependency: bytes) -> bool:
        """Whether nothing depends on a key, nor will."""
        return dependency not in self._index.by_link and dependency not in self._in_flight.linking

    def new_dependencies(self, changes: Sequence[Change]) -> list[bytes]:
        """Also those that a write on its way will note: that one may fail."""
        known = self._barriers.depended_on
        return [
            link
            for change in changes
            if change.entry is not None and change.entry.links
            for link in change.entry.links
            if isinstance(link, bytes) and link not in known
        ]

    def inherited(self, dependencies: Iterable[bytes]) -> tuple[Link, ...]:
        """What invalidates the entries of these keys, and so whatever depends on them: also when
        they are gone by then, evicted or expired. Complete where the index is. Of what is on its
        way, too: if that fails, they are invalidated by more than they had to be."""
        found: dict[Link, None] = {}
        for dependency in dependencies:
            found.update(dict.fromkeys(self._index.links(dependency)))
            for links in self._in_flight.links.get(dependency, ()):
                found.update(dict.fromkeys(links))
        return tuple(found)

    def cascade(self, targets: Iterable[Target]) -> list[Target]:
        """What is invalidated, with the keys on which others depend that are invalidated by that,
        and so on. Complete where the index is."""
        found: dict[Target, None] = dict.fromkeys(targets)
        left = list(found)
        while left:
            target = left.pop()
            if isinstance(target, Prefix):
                known = [*self._barriers.depended_on, *self._in_flight.linking]
                concerned: Iterable[bytes] = (
                    one
                    for one in known
                    if isinstance(one, bytes) and one.startswith(target.encoded)
                )
            else:
                concerned = self._depended_on_with(target)
            for one in concerned:
                if one not in found:
                    found[one] = None
                    left.append(one)
        return list(found)

    def _depended_on_with(self, link: Link) -> Iterable[bytes]:
        """Keys on which others depend, of the entries with a link: those may be all there are."""
        linked = self._index.by_link.get(link, _NO_KEYS)
        found = linked & self._barriers.depended_on
        found.update(
            one for one in self._in_flight.linking if isinstance(one, bytes) and one in linked
        )
        found.update(filter(self.is_depended_on, self._in_flight.linking.get(link, ())))
        return found

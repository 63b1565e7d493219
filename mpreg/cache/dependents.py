"""Who depends on whom."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from attrs import define

from mpreg.cache.in_flight import InFlight
from mpreg.cache.index import DiskIndex
from mpreg.cache.invalidation import Barriers, Target
from mpreg.cache.records import Link
from mpreg.cache.writes import Change, Write

__all__ = ["Dependents"]


@define(eq=False)
class Dependents:
    _index: DiskIndex
    _barriers: Barriers
    _in_flight: InFlight

    def is_depended_on(self, encoded: bytes) -> bool:
        return encoded in self._barriers.depended_on or encoded in self._in_flight.linking

    def invalidated_by(self, write: Write) -> Sequence[Target]:
        """What a write invalidates beside what it changes. What depends on that in turn has the
        same links: see `inherited`."""
        if write.is_tidying or not (self._barriers.depended_on or self._in_flight.linking):
            return write.targets
        changed = [one.encoded for one in write.changes if self.is_depended_on(one.encoded)]
        return list(dict.fromkeys([*write.targets, *changed]))

    def is_not_in_use(self, dependency: bytes) -> bool:
        """Whether nothing depends on a key, nor will."""
        return dependency not in self._index.by_link and dependency not in self._in_flight.linking

    def new_dependencies(self, changes: Sequence[Change]) -> list[bytes]:
        """Also those that a write on its way will note: that one may fail. Each once, however many
        of its entries depend on it."""
        known = self._barriers.depended_on
        new = [
            link
            for change in changes
            if change.entry is not None and change.entry.links
            for link in change.entry.links
            if isinstance(link, bytes) and link not in known
        ]
        return list(dict.fromkeys(new)) if new else new

    def inherited(self, dependencies: Iterable[bytes]) -> tuple[Link, ...]:
        """What invalidates the entries of these keys, and so whatever depends on them: also when
        they are gone by then, evicted or expired. Complete where the index is. Of what is on its
        way, too: if that fails, they are invalidated by more than they had to be. Not of what is
        invalid already: keys that are put in turn, and depend on each other and on ever new ones,
        would have all of these for ever."""
        found: dict[Link, None] = {}
        for dependency in dependencies:
            for stored in self._index.all_of(dependency):
                if not self._barriers.kills(dependency, stored.links, stored.version):
                    found.update(dict.fromkeys(stored.links))
            for links in self._in_flight.links.get(dependency, ()):
                found.update(dict.fromkeys(links))
        return tuple(found)

"""The messages of one open queue: in memory, read when they are asked for, or gone."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Final

import anyio
from attrs import define, field

from mpreg.errors import CorruptDataError
from mpreg.queues.bodies import Bodies
from mpreg.queues.intervals import are_runs, runs
from mpreg.queues.records import MessageRecord, Place
from mpreg.queues.selection import GONE, UNREAD, Found
from mpreg.queues.state import QueueState
from mpreg.queues.storage import QueueStorage

__all__ = ["Contents"]

log: Final = logging.getLogger("mpreg.queues")


@define(eq=False)
class Contents:
    _storage: QueueStorage
    _state: QueueState
    _bodies: Bodies
    """Those that are in memory, of all queues."""
    _stored: bool
    _was_dropped: Callable[[], None]
    """Called where one was found missing that had been finished: there is something to tidy up."""
    _memory: dict[Place, tuple[MessageRecord, int]] = field(factory=dict)
    """The messages of a queue that is not stored."""
    reading: anyio.Lock = field(factory=anyio.Lock)
    """Held while messages are read, and while a log is truncated: what is missing is damaged."""

    def put_all(self, lane: int, first: int, bodies: Sequence[tuple[MessageRecord, int]]) -> None:
        """New messages of a lane, with their sizes, from this offset on."""
        if self._stored:
            self._bodies.put_all(self._storage.incarnation, lane, first, bodies)
        else:
            self._memory.update(((lane, at), body) for at, body in enumerate(bodies, first))

    def look(self, place: Place) -> Found:
        if not self._stored:
            return self._memory.get(place, GONE)
        if (body := self._bodies.get(self._storage.incarnation, place)) is not None:
            return body
        number, offset = place
        lane = self._state.lane(number)
        if offset < lane.first and offset not in lane.kept:
            return GONE
        return UNREAD

    async def read(self, place: Place) -> None:
        """Bring a message, and those after it, into memory."""
        async with self.reading:
            if self.look(place) is not UNREAD:
                return
            number, offset = place
            lane = self._state.lane(number)
            if offset < lane.first:
                await self._read_kept(place)
                return
            ahead = await self._storage.read_ahead(number, offset, lane.end)
            for read, record, _ in ahead:
                if isinstance(record, MessageRecord):
                    lane.send_times.note(read, record.sent_at)
            # The one that is asked for comes last: so it is there, whatever has to make room.
            for read, record, size in reversed(ahead):
                if isinstance(record, CorruptDataError):
                    log.error("%s: %s", self._storage.where(number, read), record)
                    self._bodies.put(self._storage.incarnation, (number, read), record)
                elif read == offset or read not in lane.finished:
                    self._bodies.put(self._storage.incarnation, (number, read), (record, size))

    async def _read_kept(self, place: Place) -> None:
        found = await self._storage.read_kept(*place)
        if found is None:
            # It was finished, and dropped for that, by what is not written: it had expired, say.
            self._state.lose_kept(place)
            self._was_dropped()
            return
        if isinstance(found, CorruptDataError):
            log.error("%s", found)
        else:
            self._state.lane(place[0]).send_times.note(place[1], found[0].sent_at)
        self._bodies.put(self._storage.incarnation, place, found)

    async def find(self, place: Place) -> MessageRecord | None:
        """A message wherever it is; None where it is damaged, or gone."""
        while (found := self.look(place)) is UNREAD:
            await self.read(place)
        return found[0] if isinstance(found, tuple) else None

    def forget(self, place: Place) -> None:
        """Drop a message from memory if nobody can ask for it any more."""
        number, offset = place
        if offset in self._state.lane(number).finished:
            if self._stored:
                self._bodies.pop(self._storage.incarnation, place)
            else:
                self._memory.pop(place, None)

    def forget_all(self, places: Sequence[Place]) -> None:
        """`forget` each of them."""
        if not self._stored or not are_runs(places):
            for place in places:
                self.forget(place)
            return
        for number, start, stop in runs(places):
            if self._state.lane(number).finished.count(start, stop) == stop - start:
                self._bodies.pop_run(self._storage.incarnation, number, start, stop)
            else:
                for offset in range(start, stop):
                    self.forget((number, offset))

    def forget_finished(self) -> None:
        """After much was finished at once."""
        self.forget_read()
        for place in list(self._memory):
            self.forget(place)

    def forget_read(self) -> None:
        """Drop from memory all that is on disk as well."""
        self._bodies.forget(self._storage.incarnation)

    def measure(self) -> None:
        """Count the bytes of a queue that is not stored, after much was finished at once."""
        for (number, offset), (_, size) in sorted(self._memory.items()):
            self._state.lane(number).measure(offset, size)
        for lane in self._state.lanes.values():
            lane.measured_to = lane.end

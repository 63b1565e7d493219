"""One append of many callers: whoever comes before the writer takes it, adds to it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from attrs import define

from mpreg.actors import Mailbox
from mpreg.persistence.batch import (
    OPERATION_OVERHEAD_BYTES,
    RECORDS_JOINED_MAX,
    AppendBatch,
    SharedAck,
)

__all__ = ["GrowingAppend"]

#: Room that is taken beside what is asked for, where there is some: others come in a moment.
ROOM_BYTES: Final = 4_096


@define(eq=False)
class GrowingAppend:
    """Records of one log on their way to the writer. Made by `LogStore.append_growing`.

    It grows only while nothing else was sent after it, whatever to: so whatever is added is where
    an append of its own would have put it. All who added to it await its `ack`, and each gets its
    own copy of an error.
    """

    _writes: Mailbox[Any]
    _bytes_max: int
    """Of the batch as a whole."""
    _batch: AppendBatch
    ack: SharedAck
    """Gives the offset of the first record."""

    def grow(self, size_bytes: int) -> bool:
        """Take room for more in a record that is made when the writer takes it; at most so much.

        False: too late, or no room. Nothing may be added to it then.
        """
        batch = self._batch
        if size_bytes > batch.room:
            if not self._take_room(size_bytes + ROOM_BYTES) and not self._take_room(size_bytes):
                return False
        elif self._writes.last is not batch:
            return False
        batch.room -= size_bytes
        batch.callers += 1
        return True

    def _take_room(self, size_bytes: int) -> bool:
        batch, more = self._batch, size_bytes - self._batch.room
        if batch.size_bytes + more > self._bytes_max or not self._writes.grow(batch, more):
            return False
        batch.size_bytes += more
        batch.room = size_bytes
        return True

    def add(self, records: Sequence[bytes], size_bytes: int) -> bool:
        """Add records, of so many bytes together, right after those before. False: as for `grow`,
        or others have come after it in the same log. They were not added then."""
        batch = self._batch
        if (
            batch.acks[-1] is not self.ack
            or len(batch.records) >= RECORDS_JOINED_MAX
            or not self.grow(size_bytes + OPERATION_OVERHEAD_BYTES * len(records))
        ):
            return False
        batch.records.extend(records)
        return True

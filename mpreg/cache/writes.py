"""Changes of a cache on their way to the writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import anyio
import msgspec

from mpreg.cache.entry import CachedEntry, links_bytes
from mpreg.cache.invalidation import Target
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.records import Link, decode_record, encode_record
from mpreg.persistence import Ack
from mpreg.persistence.operations import Operation

__all__ = ["Change", "OvertakenError", "Write", "linked"]


class Change(msgspec.Struct, eq=False, gc=False):
    """Of one key: another entry, or none."""

    key: GlobalCacheKey
    encoded: bytes
    entry: CachedEntry | None
    """None: it is deleted."""
    size_bytes: int
    """In L2; 0 where it is deleted."""


def linked(change: Change, data: bytes, links: Sequence[Link]) -> tuple[Change, bytes]:
    """A put, and the record that it puts, with more links than it was made with."""
    assert change.entry is not None
    record = decode_record(data)
    record = msgspec.structs.replace(
        record,
        tags=(*record.tags, *(one for one in links if isinstance(one, str))),
        dependencies=(*record.dependencies, *(one for one in links if isinstance(one, bytes))),
    )
    entry = msgspec.structs.replace(
        change.entry,
        links=record.links,
        size_bytes=change.entry.size_bytes + links_bytes(links),
    )
    longer = encode_record(record)
    size_bytes = change.size_bytes + len(longer) - len(data)
    return Change(change.key, change.encoded, entry, size_bytes), longer


class OvertakenError(Exception):
    """A write was not sent: while it waited for room, what it was made for has changed."""


class Write(msgspec.Struct, eq=False):
    """One batch: all of it happens, or nothing.

    Not ``gc=False``, though one is made for every put: an ack that was rejected refers to the frame
    that awaited it, and that to the write.
    """

    own: Sequence[Operation] = ()
    """One for each change, or what is to be done where there is none."""
    targets: Sequence[Target] = ()
    """What is to be invalidated."""
    changes: Sequence[Change] = ()
    raised: Sequence[Target] = ()
    """What is invalidated: ``targets`` first, and what follows from that. Before the changes,
    which so have later versions."""
    dependencies: Sequence[bytes] = ()
    """Keys that are depended on from now on."""
    victims: list[bytes] = []
    """What goes from L2 to make room."""
    more: tuple[int, int] = (0, 0)
    """What `DiskIndex.expect_to_stay` counted."""
    operations: Sequence[Operation] = ()
    """What is raised, dependencies, ``own``, victims: one for each, in this order."""
    before: list[Write | None] = []
    """What was written behind for each change before this."""
    is_wanted: Callable[[], bool] | None = None
    """Asked right before it is sent. None: always."""
    origin: object = None
    """The computation whose result it stores."""
    is_tidying: bool = False
    """It removes what is dead already: no change that anybody is to be told of."""
    is_behind: bool = False
    """Its caller does not wait for it."""
    acks: Sequence[Ack[Any]] = ()
    """Of the operations, once it was sent."""
    settled: anyio.Event | None = None
    """For whoever waits for that."""
    is_settled: bool = False

    @property
    def first_change(self) -> int:
        """The place of the first change among the operations."""
        return len(self.raised) + len(self.dependencies)

"""What a storage backend promises. Nothing else is in this file.

A backend keeps entries (namespace, key → version, expiry, value), logs (name → records by offset)
and four numbers (generation, commit sequence, durable sequence, last version). It is used by one
writer, through `StorageBackend`, and by readers, each through its own `StorageReader`.

**Order.** ``open``, then any number of ``commit``, then ``close``; then perhaps ``open`` again. The
caller never has two calls of one backend under way at a time. Calls of a reader may overlap those
of the backend, and readers outlive a backend that is closed and opened again.

**Ownership.** What is passed in and out belongs to the receiver and is not changed afterwards by
either side. Bytes are immutable.

**One failed, all failed.** After any error but `CommitFailedError` a backend is unusable until it
was closed and opened again: it must not try an fsync a second time on the same handle, because the
operating system may report success for pages that it dropped.

**Cancellation.** ``commit`` is called shielded. Where it is cancelled all the same (the grace time
is over), what it does goes on or not, nobody waits for it, and the backend can only be closed;
``close`` must then return without waiting for it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, Protocol, TypeAlias

from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, LogBounds

__all__ = [
    "BackendStatistics",
    "CheckFound",
    "CommitInDoubtError",
    "FoundState",
    "GetEntry",
    "GetLogBounds",
    "OpenedState",
    "PAGE_BYTES_MAX",
    "READ_BYTES_MAX",
    "PAGE_ITEMS_MAX",
    "ReadQuery",
    "ReadRecords",
    "ReadResult",
    "RecordsPage",
    "ScanEntries",
    "ScanPage",
    "StorageBackend",
    "StorageReader",
    "StoredEntry",
    "StoredRecord",
    "check_nothing",
]


PAGE_ITEMS_MAX: Final = 256
PAGE_BYTES_MAX: Final = 1 << 20
"""Bounds of a page of a scan; a page of one item may be larger."""

READ_BYTES_MAX: Final = 16 << 20
"""Bound of the answers of one call of `StorageReader.read`; a single answer may be larger."""


@frozen
class FoundState:
    """What is on disk, before anything is done to it."""

    commit_sequence: int
    """Of the last group that opening the store would find committed."""
    generation: int
    """Of the last writer that opened it."""


CheckFound: TypeAlias = Callable[[FoundState | None], int]
"""Judges what is on disk; None: there is no store, and one would be made. Returns the generation
that the new writer's must be above, which may be higher than what was found: the disk may have lost
the last one. Where it raises, the store is not to be opened. Called on any thread."""


def check_nothing(_found: FoundState | None) -> int:
    """A `CheckFound` for whoever has nothing to compare with."""
    return 0


@frozen
class OpenedState:
    """What a backend found on disk."""

    commit_sequence: int
    """Of the last group that is committed. Everything up to it is durable: see `open`."""
    generation: int
    """Of the writer that opened it now: above every earlier one, and on disk."""


@frozen(kw_only=True)
class BackendStatistics:
    fsyncs: int = 0
    """Commits that waited for an fsync, since the backend was made."""
    database_bytes: int = 0
    wal_bytes: int = 0
    """Committed and not yet in the database file."""


class CommitInDoubtError(Exception):
    """A commit failed in a way that breaks the backend. Only the writer ever sees this one."""

    def __init__(self, reason: Exception, outcomes: Sequence[BatchOutcome] | None) -> None:
        self.reason = reason
        """What happened, in the words of `mpreg.errors`."""
        self.outcomes = outcomes
        """What the batches get if the store, opened again, turns out to have the group; None where
        the transaction had not come to its commit, so that it certainly has not."""
        super().__init__(
            f"the commit's outcome is in doubt until the store is opened again: {reason}"
        )


class StorageBackend(Protocol):
    """The writer's side of a store."""

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        """Open, or create. Whatever a crash left is settled before it returns.

        ``check`` is told once what is there, before anything is made, moved or cut off. Where it
        raises, that comes out, nothing stays open, and what is stored is as it was.

        All that it reports as committed is durable when it returns, also what was committed by a
        writer whose fsync failed. A writer of a lower generation that still runs somewhere cannot
        commit any more. Where it raises, or is cancelled, nothing stays open.

        Raises:
            ForeignDatabaseError, SchemaVersionError, CorruptDataError: left untouched.
            StorageIOError: the disk failed, or there is no room to open it.
        """
        ...

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        """Commit a group in one transaction, in one thread hop. An outcome for each batch.

        When it returns, the group is as durable as ``group.durability`` asks, and all readers see
        it. Where every batch is refused nothing is written and the sequence stays as it was.

        Raises:
            CommitFailedError, StorageFullError: rolled back as a whole; the next commit may work.
            CommitInDoubtError: broken.
        """
        ...

    async def close(self) -> None:
        """Close. Does nothing where it is not open.

        Raises:
            StorageIOError: closing failed. It is closed all the same; nothing durable is lost.
        """
        ...

    def reader(self) -> StorageReader:
        """A new reader, not yet open."""
        ...

    def statistics(self) -> BackendStatistics:
        """Sizes as they are now. Cheap, and allowed at any time."""
        ...


@frozen
class StoredEntry:
    key: bytes
    version: int
    expires_at: float | None
    value: bytes


@frozen
class StoredRecord:
    offset: int
    data: bytes


@frozen
class GetEntry:
    """The entry of a key, expired or not: `StoredEntry` or None."""

    namespace: bytes
    key: bytes


@frozen
class ScanEntries:
    """The entries with ``start <= key < stop``, in the order of their encoded keys: `ScanPage`."""

    namespace: bytes
    start: bytes
    stop: bytes | None
    """None: to the end of the namespace."""


@frozen
class ReadRecords:
    """The records with ``start <= offset < stop``, in order: `RecordsPage`."""

    log: bytes
    start: int
    stop: int | None
    """None: to the end of the log as it is at that moment."""


@frozen
class GetLogBounds:
    """`LogBounds` of a log."""

    log: bytes


@frozen
class ScanPage:
    """One page, bounded by count and bytes. A damaged entry stands in it as its error."""

    entries: tuple[StoredEntry | CorruptDataError, ...]
    next_start: bytes | None
    """Where the next page starts; None where this is the last."""


@frozen
class RecordsPage:
    """One page, bounded by count and bytes. A damaged record stands in it as its error."""

    records: tuple[StoredRecord | CorruptDataError, ...]
    next_start: int | None


ReadQuery: TypeAlias = GetEntry | ScanEntries | ReadRecords | GetLogBounds
ReadResult: TypeAlias = StoredEntry | ScanPage | RecordsPage | LogBounds | None


class StorageReader(Protocol):
    """A reader's side of a store: committed data only."""

    async def open(self) -> None:
        """Open. The backend is open at that time. Where it raises, nothing stays open."""
        ...

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | CorruptDataError]:
        """Answer queries in one thread hop, from one consistent state.

        Not all of them where the answers become too large: only the first ones then, at least one.

        A damaged item is the answer to its own query only. A page never holds more than a bounded
        number of items and bytes (but at least one item).

        Raises:
            StorageIOError: the reader is unusable until closed and opened again.
        """
        ...

    async def close(self) -> None:
        """Close. Does nothing where it is not open."""
        ...

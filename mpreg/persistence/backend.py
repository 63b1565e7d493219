"""What a storage backend promises. Nothing else is in this file.

A backend keeps entries (namespace, key → version, expiry, value), logs (name → records by offset)
and four numbers (generation, commit sequence, durable sequence, last version). It is used by one
writer, through `StorageBackend`, and by readers, each through its own `StorageReader`.

**Order.** ``open``, then any number of ``commit``, then ``close``; then perhaps ``open`` again. The
caller never has two calls of one backend under way at a time. Calls of a reader may overlap those
of the backend, and readers outlive a backend that is closed and opened again.

**Ownership.** What is passed in and out belongs to the receiver and is not changed afterwards by
either side. Bytes are immutable.

**Housekeeping.** What a backend has to do beside commits it does in ``upkeep``, between them and
one small step at a time. What cannot wait, since its own log would outgrow its bound, it asks for
by ``upkeep_due``; everything else is asked of it.

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

import msgspec
from attrs import frozen

from mpreg.errors import CorruptDataError, StorageIOError
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, LogBounds

__all__ = [
    "BackendStatistics",
    "CheckFound",
    "Checkpoint",
    "CommitInDoubtError",
    "FoundState",
    "FoundEntries",
    "GetEntries",
    "GetEntry",
    "GetLogBounds",
    "GiveBackSpace",
    "KEYS_PER_QUERY_MAX",
    "ListNamespaces",
    "NamespaceExpiry",
    "NamespacesPage",
    "OpenedState",
    "PAGE_BYTES_MAX",
    "READ_BYTES_MAX",
    "PAGE_ITEMS_MAX",
    "ReadQuery",
    "ReadRecords",
    "ReadFailure",
    "ReadResult",
    "RecordsPage",
    "RefreshStatistics",
    "ScanEntries",
    "ScanPage",
    "StorageBackend",
    "StorageReader",
    "StoredEntry",
    "StoredRecord",
    "UpkeepResult",
    "UpkeepStep",
    "check_nothing",
]


PAGE_ITEMS_MAX: Final = 256
PAGE_BYTES_MAX: Final = 1 << 20
"""Bounds of a page of a scan; a page of one item may be larger."""

KEYS_PER_QUERY_MAX: Final = 512
"""Keys asked for by one `GetEntries`."""

READ_BYTES_MAX: Final = 16 << 20
"""Bound of the answers of one call of `StorageReader.read`; a single answer may be larger."""


@frozen
class FoundState:
    """What is on disk, before anything is done to it."""

    commit_sequence: int
    """Of the last group that opening the store would find committed."""
    generation: int
    """Of the last writer that opened it."""
    lost_sequence: int = 0
    """Where the store itself knows that its end is missing: the last commit that was on disk."""
    lost: CorruptDataError | None = None
    """What is to be told then."""


CheckFound: TypeAlias = Callable[[FoundState | None], int]
"""Judges what is on disk; None: there is no store, and one would be made. Returns the generation
that the new writer's must be above, which may be higher than what was found: the disk may have lost
the last one. Where it raises, the store is not to be opened. Where it does not, a loss that the
store knows of is accepted. Called on any thread."""


def check_nothing(found: FoundState | None) -> int:
    """A `CheckFound` for whoever has nothing to compare with, and accepts no loss."""
    if found is not None and found.lost is not None:
        raise found.lost
    return 0


@frozen
class OpenedState:
    """What a backend found on disk."""

    commit_sequence: int
    """Of the last group that is committed. Everything up to it is durable: see `open`."""
    generation: int
    """Of the writer that opened it now: above every earlier one, and on disk."""
    has_left_log: bool = False
    """Whether an earlier process has left a log that upkeep is to move into the store proper."""


@frozen(kw_only=True)
class BackendStatistics:
    fsyncs: int = 0
    """Commits that waited for an fsync, since the backend was made."""
    database_bytes: int = 0
    value_bytes: int = 0
    """Of values that stand in files beside it."""
    wal_bytes: int = 0
    """Committed and not yet in the database file."""
    rewrite_bytes: int = 0
    """About what a truncating checkpoint would have to write; 0 where it writes no more than what
    is in the log."""


@frozen
class Checkpoint:
    """Move what is in the log into the store proper, so that the log can be used anew.

    Where that is more than one step, it is asked for again while it is `UpkeepResult.unfinished`.
    """

    truncate: bool = False
    """Also where the log is short, and give the log's own space back. May wait a moment for
    readers. Only the first of several steps says so."""


@frozen
class GiveBackSpace:
    """Give space that nothing uses any more back to the file system."""

    pages_max: int
    """How much of it at most, in pages of 4 KiB."""


@frozen
class RefreshStatistics:
    """Count what helps to plan queries, where that has changed much. By samples, not all."""


UpkeepStep: TypeAlias = Checkpoint | GiveBackSpace | RefreshStatistics


@frozen(kw_only=True)
class UpkeepResult:
    """What a step found and did. A backend to which the step means nothing leaves all at zero."""

    checkpoints: int = 0
    """1 where the log was moved."""
    unfinished: bool = False
    """Whether a checkpoint is under way. It goes on with the commits, and with each step."""
    log_pages: int = 0
    """In the log, after the step."""
    log_pages_left: int = 0
    """Of these: not in the store proper yet, since a reader was in the way."""
    free_bytes: int = 0
    """Unused inside the store, after the step: what `GiveBackSpace` could give back."""
    freed_bytes: int = 0
    """Given back by this step; below 0 where it took room, so that a later one can give back."""


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

    def upkeep_due(self) -> UpkeepStep | None:
        """What should be done before the next group, if anything. Asked after every group: cheap.

        Not asked for again at once where it was done in vain.
        """
        ...

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        """Do one step of housekeeping, in one thread hop. Readers see the same before and after.

        It is as durable as a relaxed commit: a power cut may undo it, and nothing but it.

        Raises:
            CommitFailedError: not done, for a reason that may pass; commits go on.
            StorageIOError, CorruptDataError: broken.
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


class StoredEntry(msgspec.Struct, frozen=True, gc=False):
    # One is made for every entry that is read: see `mpreg.persistence.operations`.
    key: bytes
    version: int
    expires_at: float | None
    value: bytes


@frozen
class StoredRecord:
    offset: int
    data: bytes


class GetEntry(msgspec.Struct, frozen=True, gc=False):
    """The entry of a key, expired or not: `StoredEntry` or None."""

    # As `StoredEntry`: one is made for every entry that is read by itself.
    namespace: bytes
    key: bytes


@frozen
class GetEntries:
    """The entries of many keys, expired or not: `FoundEntries`."""

    namespace: bytes
    keys: Sequence[bytes]


@frozen
class FoundEntries:
    """In the order of the keys that were asked for, as many of them as fit in a page of bytes, at
    least one. None where there is no entry; a damaged one stands in it as its error."""

    entries: tuple[StoredEntry | CorruptDataError | None, ...]


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
class ListNamespaces:
    """The namespaces from a name on, in order, and when something expires in each:
    `NamespacesPage`."""

    start: bytes
    after: float
    """Expiries up to this instant do not count."""


@frozen
class NamespaceExpiry:
    namespace: bytes
    expires_at: float | None
    """The earliest expiry after `ListNamespaces.after`; None where there is none."""


@frozen
class NamespacesPage:
    """One page, bounded by count. A namespace may be empty."""

    namespaces: tuple[NamespaceExpiry, ...]
    next_start: bytes | None


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


ReadQuery: TypeAlias = (
    GetEntry | GetEntries | ScanEntries | ReadRecords | GetLogBounds | ListNamespaces
)
ReadResult: TypeAlias = (
    StoredEntry | FoundEntries | ScanPage | RecordsPage | LogBounds | NamespacesPage | None
)


ReadFailure: TypeAlias = CorruptDataError | StorageIOError
"""In the place of an answer: something is damaged, or the system does not let it be read now."""


class StorageReader(Protocol):
    """A reader's side of a store: committed data only."""

    async def open(self) -> None:
        """Open. The backend is open at that time. Where it raises, nothing stays open."""
        ...

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        """Answer queries in one thread hop, from one consistent state.

        Not all of them where the answers become too large: only the first ones then, at least one.

        A failure is the answer to its own query only. A page never holds more than a bounded
        number of items and bytes (but at least one item).

        Raises:
            StorageIOError: the reader is unusable until closed and opened again.
        """
        ...

    async def close(self) -> None:
        """Close. Does nothing where it is not open."""
        ...

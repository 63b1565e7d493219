"""What a registry knows about itself, frozen at one moment."""

from __future__ import annotations

from attrs import frozen

from mpreg.actors import ActorState, PastFailure
from mpreg.persistence.participant import ParticipantStatistics

__all__ = ["RegistryStatistics"]


@frozen(kw_only=True)
class RegistryStatistics:
    """Counts are since the registry was opened, unless they say otherwise."""

    commit_sequence: int
    """Of the last commit group; counts on over restarts of the process."""
    durable_sequence: int
    """Everything up to this commit sequence would survive a power cut."""
    generation: int
    """How often a writer has opened this store, over all processes."""

    commits: int
    """Commit groups written."""
    fsyncs: int
    """Commits that waited for an fsync, that of the opening among them."""
    batches: int
    """Batches committed: each is one caller's write or transaction."""
    operations: int
    """Operations in them."""
    rejected: int
    """Batches refused for a condition of their own."""
    failed: int
    """Batches whose group was rolled back."""
    largest_group: int
    """Batches in the largest commit group; of appends that were joined, each caller's."""
    checkpoints: int
    """How often the write-ahead log was moved into the database."""
    checkpointed_at: float | None
    """When the last one was completed (wall clock); None: not since the opening."""
    checkpoint_seconds: float
    """What all steps of checkpoints took together."""
    wal_pages_left: int
    """Pages that the last checkpoint could not move, since somebody was reading them."""

    compactions: int
    """Rounds of upkeep, and calls of `compact`."""
    compacted_at: float | None
    """When the last one ended (wall clock); None: none yet."""
    compaction_seconds: float
    """What all of them took together, with the rests between their steps."""

    mailbox_depth: int
    """Batches that wait for the writer now."""
    mailbox_bytes: int
    waiting_senders: int
    """Callers that wait for room in the mailbox now."""

    writer: ActorState
    writer_restarts: int
    writer_failures: tuple[PastFailure, ...]
    """The last ones, the oldest first."""
    reader: ActorState
    reader_restarts: int
    reader_failures: tuple[PastFailure, ...]
    damaged: int
    """Damaged items that reads have met; one that is read again counts again."""
    acked_sequence: int | None
    """The last sequence on disk in the account of what was acknowledged as durable; None where no
    account is kept."""

    database_bytes: int
    value_bytes: int
    """Values that stand in files beside the database."""
    wal_bytes: int
    """The write-ahead log's file; it is used again and not cut after each checkpoint."""

    opened_at: float = 0.0
    """When opening began (wall clock)."""
    opening_seconds: float = 0.0
    """What opening took, up to the first restore: the directory, the backend, its migrations."""
    restore_seconds: float = 0.0
    """What the restores of all participants took together."""
    participants: tuple[ParticipantStatistics, ...] = ()
    """What was registered, in the order of the restore."""

    @property
    def operations_per_fsync(self) -> float:
        """How well group commit works: durable writes that shared one fsync, on average."""
        return self.operations / self.fsyncs if self.fsyncs else 0.0

"""Metrics of what is written, and of how it is kept."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from mpreg.actors import Running
from mpreg.monitoring.metrics.spec import Read, Sample, counter, gauge, histogram, one
from mpreg.monitoring.snapshot import NodeSnapshot
from mpreg.persistence import ParticipantState

__all__ = ["PERSISTENCE"]


def _actors(read: Callable[[NodeSnapshot], tuple[float, float]]) -> Read:
    return lambda snapshot: zip((("writer",), ("reader",)), read(snapshot), strict=True)


def _restores(snapshot: NodeSnapshot) -> Iterator[Sample]:
    for member in snapshot.registry.participants:
        yield (member.name,), member.restore_seconds


def _restored(snapshot: NodeSnapshot) -> Iterator[Sample]:
    for member in snapshot.registry.participants:
        yield (member.name,), float(member.state is ParticipantState.READY)


def _info(snapshot: NodeSnapshot) -> Iterator[Sample]:
    node = snapshot.node
    yield (node.name, node.version, node.loop, snapshot.config.backend), 1.0


PERSISTENCE: Final = (
    gauge(
        "mpreg_node_info",
        "Always 1; the labels tell of the node.",
        _info,
        "node",
        "version",
        "loop",
        "backend",
    ),
    # What is written.
    counter("mpreg_commits_total", "Commit groups written.", one(lambda s: s.registry.commits)),
    counter(
        "mpreg_fsyncs_total", "Commits that waited for an fsync.", one(lambda s: s.registry.fsyncs)
    ),
    counter(
        "mpreg_batches_total",
        "Batches committed: each is one caller's write or transaction.",
        one(lambda s: s.registry.batches),
    ),
    counter(
        "mpreg_operations_total", "Operations committed.", one(lambda s: s.registry.operations)
    ),
    counter(
        "mpreg_written_bytes_total",
        "Bytes of the batches committed.",
        one(lambda s: s.commits.size_bytes),
    ),
    counter(
        "mpreg_batches_rejected_total",
        "Batches refused for a condition of their own.",
        one(lambda s: s.registry.rejected),
    ),
    counter(
        "mpreg_batches_failed_total",
        "Batches whose group was rolled back.",
        one(lambda s: s.registry.failed),
    ),
    histogram(
        "mpreg_commit_group_batches",
        "Batches in each commit group.",
        one(lambda s: s.commits.group_sizes),
    ),
    histogram(
        "mpreg_commit_seconds",
        "What each commit took in the backend, with its fsync.",
        one(lambda s: s.commits.commit_seconds),
    ),
    histogram(
        "mpreg_ack_seconds",
        "From sending to ack, of the batch of each commit group that waited longest.",
        one(lambda s: s.commits.ack_seconds),
    ),
    gauge(
        "mpreg_commit_sequence",
        "Number of the last commit group, over restarts.",
        one(lambda s: s.registry.commit_sequence),
    ),
    gauge(
        "mpreg_durable_lag_commits",
        "Relaxed commit groups that are not fsynced yet.",
        one(lambda s: s.registry.commit_sequence - s.registry.durable_sequence),
    ),
    # What waits to be written.
    gauge(
        "mpreg_mailbox_depth",
        "Batches that wait for the writer.",
        one(lambda s: s.registry.mailbox_depth),
    ),
    gauge("mpreg_mailbox_bytes", "Their bytes.", one(lambda s: s.registry.mailbox_bytes)),
    gauge(
        "mpreg_mailbox_waiting_senders",
        "Callers that wait for room in the mailbox.",
        one(lambda s: s.registry.waiting_senders),
    ),
    # The actors, and what is on disk.
    gauge(
        "mpreg_actor_running",
        "1 while it runs, 0 while it is started again or has stopped.",
        _actors(
            lambda s: (
                float(isinstance(s.registry.writer, Running)),
                float(isinstance(s.registry.reader, Running)),
            )
        ),
        "actor",
    ),
    counter(
        "mpreg_actor_restarts_total",
        "Restarts after a failure.",
        _actors(lambda s: (s.registry.writer_restarts, s.registry.reader_restarts)),
        "actor",
    ),
    gauge(
        "mpreg_generation",
        "How often a writer has opened this store, over all processes.",
        one(lambda s: s.registry.generation),
    ),
    gauge(
        "mpreg_database_bytes",
        "Size of the database file, or of the newest snapshot.",
        one(lambda s: s.registry.database_bytes),
    ),
    gauge(
        "mpreg_value_file_bytes",
        "Size of the files of values beside the database.",
        one(lambda s: s.registry.value_bytes),
    ),
    gauge(
        "mpreg_wal_bytes",
        "Size of the write-ahead log, or of the journal after the snapshot.",
        one(lambda s: s.registry.wal_bytes),
    ),
    counter(
        "mpreg_damaged_items_total",
        "Damaged items that reads have met.",
        one(lambda s: s.registry.damaged),
    ),
    # Upkeep.
    counter(
        "mpreg_checkpoints_total", "Checkpoints completed.", one(lambda s: s.registry.checkpoints)
    ),
    counter(
        "mpreg_checkpoint_seconds_total",
        "What they took.",
        one(lambda s: s.registry.checkpoint_seconds),
    ),
    gauge(
        "mpreg_checkpoint_timestamp_seconds",
        "When the last one was completed.",
        one(lambda s: s.registry.checkpointed_at),
    ),
    gauge(
        "mpreg_wal_pages_left",
        "Pages that the last checkpoint could not move.",
        one(lambda s: s.registry.wal_pages_left),
    ),
    counter("mpreg_compactions_total", "Rounds of upkeep.", one(lambda s: s.registry.compactions)),
    counter(
        "mpreg_compaction_seconds_total",
        "What they took, with the rests between their steps.",
        one(lambda s: s.registry.compaction_seconds),
    ),
    gauge(
        "mpreg_compaction_timestamp_seconds",
        "When the last round of upkeep ended.",
        one(lambda s: s.registry.compacted_at),
    ),
    # Opening.
    gauge(
        "mpreg_opened_timestamp_seconds",
        "When the opening of the store began.",
        one(lambda s: s.registry.opened_at),
    ),
    gauge(
        "mpreg_opening_seconds",
        "What it took, up to the first restore.",
        one(lambda s: s.registry.opening_seconds),
    ),
    gauge(
        "mpreg_restore_seconds",
        "What the restore of each participant took.",
        _restores,
        "participant",
    ),
    gauge("mpreg_restored", "1 where the participant is restored.", _restored, "participant"),
)

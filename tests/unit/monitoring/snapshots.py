"""Snapshots of a node that never was."""

from __future__ import annotations

from typing import Any

import attrs

from mpreg.actors import PastFailure, Running
from mpreg.cache import CacheStatistics, EvictionCause, NamespaceStatistics, WarmUpState
from mpreg.monitoring.commits import Commits
from mpreg.monitoring.fabric import FabricObserved
from mpreg.monitoring.http import HTTPRecorder
from mpreg.monitoring.snapshot import NodeInfo, NodeSnapshot
from mpreg.persistence import (
    CommitObserved,
    Durability,
    ParticipantState,
    ParticipantStatistics,
    PersistenceConfig,
    RegistryStatistics,
)
from mpreg.queues import QueueStatistics

PARTICIPANT = ParticipantStatistics(
    name="queues", order=100, required=True, state=ParticipantState.READY, done=3, total=3,
    unit="queues", restore_seconds=0.25, snapshots=0, snapshot_seconds=None, close_seconds=None,
    failed_step=None, error=None,
)  # fmt: skip

REGISTRY = RegistryStatistics(
    commit_sequence=12, durable_sequence=10, generation=3, commits=7, fsyncs=8, batches=21,
    operations=42, rejected=1, failed=2, largest_group=9, checkpoints=1, checkpointed_at=990.0,
    checkpoint_seconds=0.5, wal_pages_left=0, compactions=4, compacted_at=995.0,
    compaction_seconds=0.75, mailbox_depth=5, mailbox_bytes=500, waiting_senders=0,
    writer=Running(2), writer_restarts=1, writer_failures=(PastFailure(40.0, "StorageIOError"),),
    reader=Running(1), reader_restarts=0, reader_failures=(), damaged=1, acked_sequence=10,
    database_bytes=4_096, value_bytes=0, wal_bytes=1_024, opened_at=900.0, opening_seconds=0.125,
    restore_seconds=0.25, participants=(PARTICIPANT,),
)  # fmt: skip

QUEUE = QueueStatistics(
    pending=10, in_flight=2, delayed=3, dead=1, size=15, bytes=1_500, sent=100, acknowledged=85,
    redelivered=4, expired=0, oldest_seconds=61.5, subscriptions={},
)  # fmt: skip

CACHE = CacheStatistics(
    memory_entries=5, memory_bytes=50, disk_entries=9, disk_bytes=90, writing_behind=1,
    memory_hits=6, disk_hits=2, misses=2,
    namespaces={"users": NamespaceStatistics(memory_hits=6, disk_hits=2, misses=2)},
    puts=9, deletions=1, invalidations=2, barriers=0,
    evicted_from_memory={EvictionCause.EXPIRED: 3}, evicted_from_disk=4, damaged=0,
    failed_behind=0, computations=2, computations_failed=0, computing_seconds=0.5,
    stampedes_avoided=8, served_stale=0, disk_reads=4, disk_read_seconds=0.25,
    warm_up=WarmUpState.DONE, warmed_entries=5, to_be_warmed=5, warm_up_seconds=0.375,
    counting_seconds=0.1,
)  # fmt: skip


FABRIC = FabricObserved(
    peers={"alive": 2, "away": 1}, nodes={"alive": 3, "away": 0},
    announcements={"news": 4, "known": 50}, forwarded={"answered": 7},
)  # fmt: skip


def commit(sequence: int = 1, batches: int = 3, ack_seconds: float = 0.003) -> CommitObserved:
    return CommitObserved(
        sequence=sequence,
        batches=batches,
        operations=2 * batches,
        size_bytes=100 * batches,
        durability=Durability.DURABLE,
        commit_seconds=0.002,
        ack_seconds=ack_seconds,
    )


def snapshot(**changes: Any) -> NodeSnapshot:
    commits, http = Commits(), HTTPRecorder()
    for sequence in range(1, 8):
        commits.committed(commit(sequence))
    http.begin()
    http.end("/v1/queues/{queue}", "GET", 200, 0.01)
    made = NodeSnapshot(
        node=NodeInfo(name="a", version="0.1.0", loop="trio"),
        config=PersistenceConfig(data_dir="data"),
        wall=1_000.0,
        now=50.0,
        registry=REGISTRY,
        commits=commits.observed(),
        queues={"jobs": QUEUE},
        caches={"default": CACHE},
        http=http.observed(),
        fabric=FABRIC,
    )
    return attrs.evolve(made, **changes)

"""What `/metrics/persistence` answers: how a node's state is kept, and what became of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from mpreg.actors import ActorState, BackingOff, NotStarted, Running, Starting
from mpreg.monitoring.openings import Opening
from mpreg.monitoring.snapshot import NodeSnapshot
from mpreg.persistence import ParticipantStatistics, PersistenceConfig, RegistryStatistics

__all__ = ["JSON", "actor_state", "persistence_report"]

JSON: TypeAlias = dict[str, Any]


def persistence_report(snapshot: NodeSnapshot, openings: Sequence[Opening]) -> JSON:
    """``openings``: of this store, the newest first. No error's text: it may name a path."""
    stats = snapshot.registry
    return {
        "mode": _mode(snapshot.config),
        "sequences": {
            "committed": stats.commit_sequence,
            "durable": stats.durable_sequence,
            "acked_on_record": stats.acked_sequence,
            "durable_lag": stats.commit_sequence - stats.durable_sequence,
        },
        "generation": stats.generation,
        "opened_at": stats.opened_at,
        "opening_seconds": stats.opening_seconds,
        "restore_seconds": stats.restore_seconds,
        "participants": [_participant(one) for one in stats.participants],
        "last_checkpoint": _last(stats.checkpointed_at, stats.checkpoints, stats.checkpoint_seconds)
        | {"wal_pages_left": stats.wal_pages_left},
        "last_compaction": _last(stats.compacted_at, stats.compactions, stats.compaction_seconds),
        "sizes": {
            "database_bytes": stats.database_bytes,
            "value_bytes": stats.value_bytes,
            "wal_bytes": stats.wal_bytes,
        },
        "integrity": _integrity(snapshot.config, stats),
        "actors": {
            "writer": {"state": actor_state(stats.writer), "restarts": stats.writer_restarts},
            "reader": {"state": actor_state(stats.reader), "restarts": stats.reader_restarts},
        },
        "openings": [opening.told() for opening in openings],
    }


def _mode(config: PersistenceConfig) -> JSON:
    survives = config.backend != "memory"
    return {
        "backend": config.backend,
        "durable_acks": "after fsync" if survives else "never: nothing survives the process",
        "survives_kill": survives,
        "survives_power_cut": survives,
    }


def _last(at: float | None, count: int, seconds: float) -> JSON:
    return {"at": at, "count": count, "seconds_in_all": seconds}


def _integrity(config: PersistenceConfig, stats: RegistryStatistics) -> JSON:
    return {
        "damaged_items_met": stats.damaged,
        "account_kept": stats.acked_sequence is not None,
        "acked_data_loss_accepted": config.accept_acked_data_loss is not None,
        "failed_restores": [one.name for one in stats.participants if one.failed_step == "restore"],
    }


def _participant(one: ParticipantStatistics) -> JSON:
    return {
        "name": one.name,
        "state": one.state.value,
        "required": one.required,
        "restored": one.done,
        "of": one.total,
        "unit": one.unit,
        "restore_seconds": one.restore_seconds,
        "snapshots": one.snapshots,
        "snapshot_seconds": one.snapshot_seconds,
        "failed_step": one.failed_step,
        "error": None if one.error is None else type(one.error).__name__,
    }


def actor_state(state: ActorState) -> str:
    match state:
        case NotStarted():
            return "not started"
        case Starting():
            return "starting"
        case Running():
            return "running"
        case BackingOff():
            return "restarting"
        case _:
            return "stopped"

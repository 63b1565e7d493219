"""What `/v1/status` answers: everything that the status page shows. A pure function."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from typing import Any, Final

from attrs import asdict

from mpreg.actors import PastFailure
from mpreg.cache import CacheStatistics
from mpreg.monitoring.history import Depths, Point
from mpreg.monitoring.openings import OPENINGS, Opening
from mpreg.monitoring.persistence_report import JSON, actor_state, persistence_report
from mpreg.monitoring.snapshot import NodeSnapshot
from mpreg.persistence import ParticipantStatistics
from mpreg.queues import QueueStatistics

__all__ = ["EVENTS_MAX", "QUEUES_SHOWN_MAX", "build_status", "count_depths"]

#: Those with the most in them. A page with all of many thousands would be of no use to anybody.
QUEUES_SHOWN_MAX: Final = 200
EVENTS_MAX: Final = 50
SHARED_SHOWN_MAX: Final = 20


def build_status(
    snapshot: NodeSnapshot, points: Iterable[Point], openings: Sequence[Opening]
) -> JSON:
    shown = sorted(snapshot.queues.items(), key=_by_content)[:QUEUES_SHOWN_MAX]
    return {
        "at": snapshot.wall,
        "node": {
            "name": snapshot.node.name,
            "version": snapshot.node.version,
            "loop": snapshot.node.loop,
            "state": node_state(snapshot),
            "up_seconds": max(0.0, snapshot.wall - snapshot.registry.opened_at),
        },
        "persistence": persistence_report(snapshot, openings),
        "writes": {
            "mailbox_depth": snapshot.registry.mailbox_depth,
            "waiting_senders": snapshot.registry.waiting_senders,
            "operations": snapshot.registry.operations,
            "commits": snapshot.registry.commits,
            "operations_per_fsync": snapshot.registry.operations_per_fsync,
        },
        "history": _columns(points),
        "queues": [_queue(name, one) for name, one in shown],
        "queues_in_all": len(snapshot.queues),
        "depths": asdict(count_depths(snapshot)),
        "caches": [_cache(name, one) for name, one in snapshot.caches.items()],
        "nodes": [asdict(one) for one in snapshot.fabric.seen],
        "shared_queues": [
            {"queue": queue, "nodes": list(nodes)}
            for queue, nodes in islice(snapshot.fabric.shared_queues.items(), SHARED_SHOWN_MAX)
        ],
        "shared_queues_in_all": len(snapshot.fabric.shared_queues),
        "events": _events(snapshot, openings),
    }


def node_state(snapshot: NodeSnapshot) -> str:
    """In one word: "ready", "restoring", "restarting" or "stopped"."""
    stats = snapshot.registry
    states = {actor_state(stats.writer), actor_state(stats.reader)}
    if "stopped" in states:
        return "stopped"
    if any(one.state.value in ("registered", "restoring") for one in stats.participants):
        return "restoring"
    return "ready" if states == {"running"} else "restarting"


def count_depths(snapshot: NodeSnapshot) -> Depths:
    counts = list(snapshot.queues.values())
    return Depths(
        pending=sum(one.pending for one in counts),
        in_flight=sum(one.in_flight for one in counts),
        delayed=sum(one.delayed for one in counts),
        dead=sum(one.dead for one in counts),
    )


def _by_content(item: tuple[str, QueueStatistics]) -> tuple[int, str]:
    name, one = item
    return -(one.size + one.dead), name


def _queue(name: str, one: QueueStatistics) -> JSON:
    return {
        "name": name,
        "pending": one.pending,
        "in_flight": one.in_flight,
        "delayed": one.delayed,
        "dead": one.dead,
        "sent": one.sent,
        "acknowledged": one.acknowledged,
        "oldest_seconds": one.oldest_seconds,
    }


def _cache(name: str, one: CacheStatistics) -> JSON:
    hits = one.memory_hits + one.disk_hits
    reads = hits + one.misses
    return {
        "name": name,
        "memory_entries": one.memory_entries,
        "memory_bytes": one.memory_bytes,
        "disk_entries": one.disk_entries,
        "disk_bytes": one.disk_bytes,
        "hit_share": hits / reads if reads else None,
        "memory_hit_share": one.memory_hits / reads if reads else None,
        "warm_up": one.warm_up.value,
    }


def _columns(points: Iterable[Point]) -> dict[str, list[Any]]:
    """Column by column, as a chart draws them."""
    rows = list(points)

    def column(read: Callable[[Point], float | None]) -> list[float | None]:
        return [_short(read(row)) for row in rows]

    def depth(name: str) -> list[float | None]:
        return column(lambda row: None if row.depths is None else getattr(row.depths, name))

    return {
        "at": [round(row.wall, 2) for row in rows],
        "operations_per_second": column(lambda row: row.operations_per_second),
        "commits_per_second": column(lambda row: row.commits_per_second),
        "group_size": column(lambda row: row.group_size),
        "ack_p50_seconds": column(lambda row: row.ack_p50_seconds),
        "ack_p99_seconds": column(lambda row: row.ack_p99_seconds),
        "mailbox_depth": column(lambda row: row.mailbox_depth),
        "pending": depth("pending"),
        "in_flight": depth("in_flight"),
        "delayed": depth("delayed"),
        "dead": depth("dead"),
    }


def _short(value: float | None) -> float | None:
    return float(f"{value:.4g}") if isinstance(value, float) else value


def _events(snapshot: NodeSnapshot, openings: Sequence[Opening]) -> list[JSON]:
    """Restarts and restores, the newest first."""
    stats = snapshot.registry
    events = [
        _event(
            one.opened_at,
            "start",
            _how(openings, at),
            one.opening_seconds + one.restore_seconds,
        )
        for at, one in enumerate(openings)
    ]
    for who, failures in (("writer", stats.writer_failures), ("reader", stats.reader_failures)):
        events += [_event(_wall(snapshot, one), "restart", _why(who, one)) for one in failures]
    restored_at = stats.opened_at + stats.opening_seconds
    for one in stats.participants:
        # That which tells of all this is not worth telling of.
        if one.restore_seconds is not None and one.name != OPENINGS:
            restored_at += one.restore_seconds
            events.append(_event(restored_at, "restore", _restored(one), one.restore_seconds))
    return sorted(events, key=lambda event: -float(event["at"]))[:EVENTS_MAX]


def _event(at: float, kind: str, text: str, seconds: float | None = None) -> JSON:
    return {"at": at, "kind": kind, "text": text, "seconds": seconds}


def _how(openings: Sequence[Opening], at: int) -> str:
    """What is known of the process before."""
    if at + 1 == len(openings):
        return f"generation {openings[at].generation}"
    ended = "" if openings[at + 1].closed_at is not None else ", after one that was cut short"
    return f"generation {openings[at].generation}{ended}"


def _restored(one: ParticipantStatistics) -> str:
    counted = f": {one.done:,} {one.unit}" if one.unit else ""
    return f"{one.name}{counted}" + (" (failed)" if one.failed_step == "restore" else "")


def _why(who: str, failure: PastFailure) -> str:
    return f"{who} failed: {failure.error}"


def _wall(snapshot: NodeSnapshot, failure: PastFailure) -> float:
    return snapshot.wall - (snapshot.now - failure.at)

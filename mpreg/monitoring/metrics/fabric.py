"""Metrics of what a node knows of others, and asks of them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from mpreg.monitoring.fabric import FabricObserved
from mpreg.monitoring.metrics.spec import Read, Sample, counter, gauge
from mpreg.monitoring.snapshot import NodeSnapshot

__all__ = ["FABRIC"]


def _counts(read: Callable[[FabricObserved], Mapping[str, int]]) -> Read:
    def samples(snapshot: NodeSnapshot) -> Iterator[Sample]:
        for label, count in read(snapshot.fabric).items():
            yield (label,), count

    return samples


FABRIC: Final = (
    gauge(
        "mpreg_fabric_peers",
        'Peers of the settings, by state: "alive", "away", or "unknown" until it has answered.',
        _counts(lambda f: f.peers),
        "state",
    ),
    gauge(
        "mpreg_fabric_nodes",
        'Other nodes that are known, by state: "alive", or "away" and not forgotten yet.',
        _counts(lambda f: f.nodes),
        "state",
    ),
    gauge(
        "mpreg_fabric_shared_queues",
        "Names of queues that several nodes have: each serves its own.",
        lambda snapshot: [((), len(snapshot.fabric.shared_queues))] * bool(snapshot.fabric.peers),
    ),
    counter(
        "mpreg_fabric_announcements_total",
        'Announcements heard, by what became of them: "news", "known", "old", "own", "no room", '
        'or "refused".',
        _counts(lambda f: f.announcements),
        "result",
    ),
    counter(
        "mpreg_fabric_forwarded_total",
        'Requests for queues of other nodes, by result: "answered", "unreachable", "away", '
        '"refused", "loop", "stopped" with this node, "left" by the client, or "unheard" where a '
        "peer that may have the queue was waited for.",
        _counts(lambda f: f.forwarded),
        "result",
    ),
)

"""All nodes that are known or to be known, as a table for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from mpreg.fabric import Belief, Fabric
from mpreg.monitoring import NodeSeen
from mpreg.server.peer import Peer, PeerState

__all__ = ["long", "nodes_seen"]


def nodes_seen(
    fabric: Fabric, peers: Mapping[str, Peer], now: float, wall: float
) -> list[NodeSeen]:
    """This node, those that were heard of, and the peers that were not."""
    return list(_rows(fabric, peers, now, wall))


def _rows(fabric: Fabric, peers: Mapping[str, Peer], now: float, wall: float) -> Iterator[NodeSeen]:
    by_node = {
        found.announcement.node: peer
        for url, peer in peers.items()
        if (found := fabric.catalog.node_of(url)) is not None
    }
    yield NodeSeen(
        node=fabric.identity,
        name=fabric.name,
        url=fabric.url,
        incarnation=fabric.incarnation,
        state="self",
        heard_at=None,
        queues=fabric.count_queues(),
        via=None,
        why="",
    )
    for belief in fabric.catalog:
        yield _known(belief, by_node.get(belief.announcement.node), now, wall)
    for peer in peers.values():
        if peer not in by_node.values():
            yield NodeSeen(
                node=None,
                name=None,
                url=peer.url,
                incarnation=None,
                state=peer.state,
                heard_at=None,
                queues=None,
                via=None,
                why=peer.error,
            )


def _known(belief: Belief, peer: Peer | None, now: float, wall: float) -> NodeSeen:
    said, route = belief.announcement, belief.route(now)
    is_alive = route is not None and now < belief.expires_at
    return NodeSeen(
        node=said.node,
        name=said.name,
        url=said.url,
        incarnation=said.incarnation,
        state="alive" if is_alive else "away",
        heard_at=wall - (now - (belief.expires_at - said.ttl_seconds)),
        queues=len(said.contents.queues) + said.contents.left_out,
        via=(route or belief.last_route).via,
        why=_why(belief, peer, now, is_alive=is_alive),
    )


def _why(belief: Belief, peer: Peer | None, now: float, *, is_alive: bool) -> str:
    if peer is not None and peer.error:
        is_away = is_alive and peer.state == PeerState.AWAY
        return f"cannot be asked: {peer.error}" if is_away else peer.error
    if is_alive:
        return ""
    return f"what it said last ran out {long(max(0.0, now - belief.expires_at))} ago"


def long(seconds: float) -> str:
    """For people."""
    for unit, size in (("days", 86_400.0), ("hours", 3_600.0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.0f} {unit}"
    return f"{seconds:.1f} s"

"""What this node knows of the others: for people, and for its peers."""

from __future__ import annotations

from functools import partial
from itertools import islice
from typing import Any, Final

import anyio
import msgspec

from mpreg.errors import InvalidArgumentError, TooManyRequestsError
from mpreg.fabric import Belief, Fabric
from mpreg.fabric.telling import tell
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.seen import nodes_seen
from mpreg.server.state import NodeState

__all__ = ["ENDPOINTS"]

#: Further ones are counted in the metrics.
SHARED_QUEUES_MAX: Final = 100


async def fabric(call: Call) -> Answer:
    """Which node has what: this one, those that are alive, and those that are away and not
    forgotten yet; from which peer that is known, and until when it is believed. With ``revision``
    of an earlier answer it comes when there is news, or after ``wait_seconds``."""
    state, known = call.state, call.state.fabric
    wait_seconds = call.seconds("wait_seconds")
    if wait_seconds is not None and not wait_seconds > 0:
        raise InvalidArgumentError(f"wait_seconds is above 0, not {wait_seconds}")
    if call.query("revision") == _revision(known) and wait_seconds is not None:
        wait_seconds = min(wait_seconds, state.settings.server.long_poll_seconds_max)
        await _wait(call, wait_seconds)
    return Answer(value=_described(state))


async def _wait(call: Call, wait_seconds: float) -> None:
    known = call.state.fabric
    news = partial(known.wait_for_news, known.revision)

    async def wait() -> None:
        with anyio.move_on_after(wait_seconds):
            await news()

    try:
        await call.wait(wait)
    except TooManyRequestsError:
        # A peer that is not answered would take this node for one that is away.
        return


def _described(state: NodeState) -> dict[str, Any]:
    known, now, wall = state.fabric, anyio.current_time(), state.registry.clock.wall()
    told = known.told()
    seen = {one.node: one for one in nodes_seen(known, state.peers.all, now, wall)}
    nodes = [
        {
            **msgspec.to_builtins(one),
            **_state(known.catalog.get(one.node), now),
            "expires_at": wall + one.remaining_seconds,
            "heard_at": seen[one.node].heard_at,
            "why": seen[one.node].why,
        }
        for one in told
    ]
    named = {one.node for one in told}
    for belief in known.catalog:
        if belief.announcement.node not in named:
            away = tell(belief.announcement, remaining_seconds=0.0, hops=belief.last_route.hops)
            expires_at = wall + belief.expires_at - now
            row = seen[belief.announcement.node]
            found = {"expires_at": expires_at, "heard_at": row.heard_at, "why": row.why}
            nodes.append({**msgspec.to_builtins(away), **_state(belief, now), **found})
    return {
        "node": known.identity,
        "name": known.name,
        "revision": _revision(known),
        "nodes": nodes,
        "shared_queues": [
            {"queue": queue, "nodes": names}
            for queue, names in islice(known.shared_queues().items(), SHARED_QUEUES_MAX)
        ],
        "peers": [
            {
                "url": peer.url,
                "node": None
                if (of := known.catalog.node_of(url)) is None
                else of.announcement.node,
                "name": peer.name,
                "state": peer.state,
                "since": peer.since,
                "error": peer.error,
            }
            for url, peer in state.peers.all.items()
        ],
    }


def _identity(belief: Belief | None) -> str | None:
    return None if belief is None else belief.announcement.node


def _state(belief: Belief | None, now: float) -> dict[str, Any]:
    if belief is None:
        return {"state": "self", "via": None}
    route = belief.route(now)
    if route is None or now >= belief.expires_at:
        return {"state": "away", "via": belief.last_route.via}
    return {"state": "alive", "via": route.via}


def _revision(known: Fabric) -> str:
    """Of this life of the node alone."""
    return f"{known.incarnation}-{known.revision}"


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/fabric",
        handler=fabric,
        role=Role.READ,
        summary="Which node has what",
    ),
)

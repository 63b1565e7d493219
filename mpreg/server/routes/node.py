"""The node itself: whether it lives, whether it is ready, what it is."""

from __future__ import annotations

from typing import Any, Final

from mpreg import __version__
from mpreg.errors import WriterStoppedError
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.state import NodeState, Phase

__all__ = ["ENDPOINTS"]


async def live(call: Call) -> Answer:
    """200 as long as the process answers at all."""
    return Answer(value={"live": True})


async def ready(call: Call) -> Answer:
    """200 when everything is restored; 503 before, with how far that has come, and while the node
    stops."""
    state = call.state
    is_ready = state.phase is Phase.READY
    value = {"ready": is_ready, "phase": state.phase.value, "restore": await _restore(state)}
    if is_ready:
        return Answer(value=value)
    return Answer(value=value, status=503, headers={"retry-after": "1"})


async def node(call: Call) -> Answer:
    """Its name, version, and what runs in it."""
    state = call.state
    stats = await state.registry.stats()
    return Answer(
        value={
            "name": state.settings.name,
            "version": __version__,
            "url": state.settings.advertised_url or state.url,
            "phase": state.phase.value,
            "role": call.role.name.lower(),
            "backend": state.settings.persistence.backend,
            "generation": stats.generation,
            "commit_sequence": stats.commit_sequence,
            "opening_seconds": stats.opening_seconds,
            "restore_seconds": stats.restore_seconds,
            "restore": await _restore(state),
            "requests": state.requests,
            "long_polls": state.long_polls.count,
            "leases": len(state.leases),
        }
    )


async def _restore(state: NodeState) -> list[dict[str, Any]]:
    try:
        stats = await state.registry.stats()
    except WriterStoppedError:
        # It is not open yet.
        return []
    return [
        {
            "name": one.name,
            "state": one.state.value,
            "done": one.done,
            "total": one.total,
            "unit": one.unit,
            "seconds": one.restore_seconds,
        }
        for one in stats.participants
    ]


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/health/live",
        handler=live,
        role=None,
        summary="Whether the process lives",
    ),
    Endpoint(
        method="GET",
        path="/health/ready",
        handler=ready,
        role=None,
        summary="Whether it may be asked, and how far the restore is",
    ),
    Endpoint(
        method="GET", path="/v1/node", handler=node, role=Role.READ, summary="What this node is"
    ),
)

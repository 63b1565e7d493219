"""What can be asked of a node: a module for each kind of thing, each with its table of routes."""

from __future__ import annotations

from typing import Final

from mpreg.server.calls import Endpoint
from mpreg.server.routes import (
    cache,
    description,
    fabric,
    keys,
    logs,
    monitoring,
    node,
    queues,
    snapshots,
)

__all__ = ["ENDPOINTS"]

#: All of them. A new module adds its own here.
ENDPOINTS: Final[tuple[Endpoint, ...]] = (
    *node.ENDPOINTS,
    *description.ENDPOINTS,
    *fabric.ENDPOINTS,
    *queues.ENDPOINTS,
    *keys.ENDPOINTS,
    *cache.ENDPOINTS,
    *logs.ENDPOINTS,
    *snapshots.ENDPOINTS,
    *monitoring.ENDPOINTS,
)

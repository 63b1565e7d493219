"""Everything that is known of a node at one moment: what metrics and the status are made of."""

from __future__ import annotations

from collections.abc import Mapping

from attrs import field, frozen

from mpreg.cache import CacheStatistics
from mpreg.monitoring.commits import CommitsObserved
from mpreg.monitoring.fabric import FabricObserved
from mpreg.monitoring.http import HTTPObserved
from mpreg.persistence import PersistenceConfig, RegistryStatistics
from mpreg.queues import QueueStatistics

__all__ = ["NodeInfo", "NodeSnapshot"]


@frozen(kw_only=True)
class NodeInfo:
    """What does not change while a node runs."""

    name: str
    version: str
    loop: str
    """``"asyncio"`` or ``"trio"``."""


@frozen(kw_only=True)
class NodeSnapshot:
    node: NodeInfo
    config: PersistenceConfig
    wall: float
    """When it was taken (wall clock)."""
    now: float
    """The same, monotonic."""
    registry: RegistryStatistics
    commits: CommitsObserved
    queues: Mapping[str, QueueStatistics]
    caches: Mapping[str, CacheStatistics]
    http: HTTPObserved
    fabric: FabricObserved = field(factory=FabricObserved)

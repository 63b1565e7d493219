"""A node as far as monitoring knows it: a registry with queues and a cache."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from attrs import frozen

from mpreg.cache import GlobalCacheManager
from mpreg.clock import Clock
from mpreg.monitoring import NodeInfo, NodeMonitor
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager
from tests.integration.support import config

__all__ = ["Node", "open_node"]


@frozen(eq=False)
class Node:
    registry: PersistenceRegistry
    queues: MessageQueueManager
    cache: GlobalCacheManager
    monitor: NodeMonitor


@asynccontextmanager
async def open_node(
    data_dir: Path, *, clock: Clock | None = None, **settings: object
) -> AsyncIterator[Node]:
    registry = PersistenceRegistry(config(data_dir, **settings), clock=clock)
    queues, cache = MessageQueueManager(registry), GlobalCacheManager(registry)
    info = NodeInfo(name="node-a", version="0.1.0", loop="asyncio")
    monitor = NodeMonitor(info, registry, queues, {"default": cache})
    async with registry:
        monitor.start()
        yield Node(registry, queues, cache, monitor)

"""`NodeMonitor`: what a node knows of itself, for whoever asks. The shell around the pure parts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Final

import anyio
import anyio.lowlevel
import anyio.to_thread
from attrs import define, field

from mpreg.cache import GlobalCacheManager
from mpreg.monitoring.commits import Commits
from mpreg.monitoring.fabric import FabricObserved
from mpreg.monitoring.history import History, Sample
from mpreg.monitoring.http import HTTPRecorder
from mpreg.monitoring.metrics import render
from mpreg.monitoring.openings import Openings
from mpreg.monitoring.persistence_report import JSON, persistence_report
from mpreg.monitoring.snapshot import NodeInfo, NodeSnapshot
from mpreg.monitoring.status import build_status, count_depths
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager, QueueStatistics

__all__ = ["NodeMonitor"]

#: Queues that are counted before others may run: some tenths of a millisecond.
QUEUES_PER_TURN: Final = 16

#: Between two samples for the charts while nobody looks.
SAMPLE_SECONDS: Final = 10.0


@define(eq=False)
class NodeMonitor:
    """Of one registry. To be made before it is opened, after all else that takes part; `start` once
    it is open::

        monitor = NodeMonitor(info, registry, queues, {"default": cache})
        async with registry:
            monitor.start()

    Nothing that is asked of it writes or reads the disk, and each counts the queues in small steps,
    between which others run. Everything but `http` raises `WriterStoppedError` before the opening.
    """

    _info: NodeInfo
    _registry: PersistenceRegistry
    _queues: MessageQueueManager
    _caches: Mapping[str, GlobalCacheManager]
    _observe_fabric: Callable[[], FabricObserved] = FabricObserved
    http: HTTPRecorder = field(factory=HTTPRecorder)
    _commits: Commits = field(factory=Commits)
    _history: History = field(factory=History)
    _openings: Openings = field(init=False)
    _rendering: anyio.Lock = field(factory=anyio.Lock)
    """Held while metrics are rendered: many that scrape at once take no more than one thread."""

    def __attrs_post_init__(self) -> None:
        self._openings = Openings(self._registry)
        self._registry.observe(self._commits)

    def start(self) -> None:
        """Sample from now on, until the registry closes: little, and seldom."""
        self._registry.start_soon(self._sample_now_and_then)

    async def metrics(self, accept: str = "") -> tuple[bytes, str]:
        """For a scrape, with the content type by its ``Accept``. Cancelled: nothing is left."""
        snapshot = await self.snapshot()
        async with self._rendering:
            return await anyio.to_thread.run_sync(partial(render, snapshot, accept))

    async def persistence(self) -> JSON:
        return persistence_report(await self._snapshot({}), self._openings.known)

    async def status(self) -> JSON:
        """For the status page. Asking is what makes the charts fine."""
        snapshot = await self.snapshot()
        self._history.add(_sample(snapshot, with_depths=True))
        return build_status(snapshot, self._history.points(), self._openings.known)

    async def snapshot(self) -> NodeSnapshot:
        counts: dict[str, QueueStatistics] = {}
        for number, queue in enumerate(self._queues.open_queues(), 1):
            counts[queue.name] = queue.statistics()
            if not number % QUEUES_PER_TURN:
                await anyio.lowlevel.checkpoint()
        return await self._snapshot(counts)

    async def _snapshot(self, queues: Mapping[str, QueueStatistics]) -> NodeSnapshot:
        stats = await self._registry.stats()
        return NodeSnapshot(
            node=self._info,
            config=self._registry.config,
            wall=self._registry.clock.wall(),
            now=anyio.current_time(),
            registry=stats,
            commits=self._commits.observed(),
            queues=queues,
            caches={name: cache.statistics() for name, cache in self._caches.items()},
            http=self.http.observed(),
            fabric=self._observe_fabric(),
        )

    async def _sample_now_and_then(self) -> None:
        while True:
            self._history.add(_sample(await self._snapshot({}), with_depths=False))
            await anyio.sleep(SAMPLE_SECONDS)


def _sample(snapshot: NodeSnapshot, *, with_depths: bool) -> Sample:
    return Sample(
        now=snapshot.now,
        wall=snapshot.wall,
        commits=snapshot.commits,
        mailbox_depth=snapshot.registry.mailbox_depth,
        depths=count_depths(snapshot) if with_depths else None,
    )

"""What a running node is: its parts, how far it has come, and the requests under way."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import anyio
from attrs import define, field

from mpreg import __version__
from mpreg.cache import GlobalCacheManager
from mpreg.clock import Clock
from mpreg.errors import NotReadyError
from mpreg.fabric import Fabric
from mpreg.monitoring import NodeInfo, NodeMonitor, Tracing, make_tracing
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager
from mpreg.server.auth import Access
from mpreg.server.leases import Leases
from mpreg.server.limits import Counter, Rates
from mpreg.server.peers import Peers
from mpreg.settings import MPREGSettings

__all__ = ["NodeState", "Phase"]


class Phase(enum.Enum):
    STARTING = "starting"
    """Restoring; only the health routes answer. Followed by READY, or STOPPING."""
    READY = "ready"
    """Followed by STOPPING."""
    STOPPING = "stopping"
    """Nothing new is taken; what is under way has the grace time to end."""


@define(eq=False)
class NodeState:
    """Made before the registry is opened, so that all parts take part in its restore."""

    settings: MPREGSettings
    registry: PersistenceRegistry
    make_token: Callable[[], str]
    """Another one each time, which nobody can guess."""
    access: Access
    chance: Callable[[], float]
    """A number from 0 to 1, another one each time."""
    queues: MessageQueueManager = field(init=False)
    cache: GlobalCacheManager = field(init=False)
    fabric: Fabric = field(init=False)
    peers: Peers = field(init=False)
    monitor: NodeMonitor = field(init=False)
    tracing: Tracing = field(init=False)
    leases: Leases = field(init=False)
    long_polls: Counter = field(init=False)
    rates: Rates | None = field(init=False)
    phase: Phase = Phase.STARTING
    url: str = ""
    """Where it listens; known when it does."""
    _requests: dict[anyio.CancelScope, None] = field(factory=dict)
    _waits: dict[anyio.CancelScope, None] = field(factory=dict)
    """Of the requests that only wait for something to happen."""

    def __attrs_post_init__(self) -> None:
        server = self.settings.server
        self.queues = MessageQueueManager(self.registry)
        self.cache = GlobalCacheManager(self.registry, self.settings.cache)
        self.fabric = Fabric(
            self.registry,
            self.settings.name,
            self.settings.announcement_ttl_seconds,
            [peer.url for peer in self.settings.peers],
            lambda: self.make_token()[:32],
            self._names,
        )
        clock = self.registry.clock
        self.peers = Peers.of(
            self.settings.peers,
            self.fabric,
            wall=clock.wall,
            chance=self.chance,
            patience_seconds=self.settings.peer_patience_seconds,
        )
        # After all that takes part in the restore: it tells what that took.
        info = NodeInfo(name=self.settings.name, version=__version__, loop=server.loop)
        caches = {self.settings.cache.name: self.cache}
        self.monitor = NodeMonitor(info, self.registry, self.queues, caches, self.peers.observed)
        self.tracing = make_tracing(
            self.registry.clock, enabled=self.settings.monitoring.opentelemetry
        )
        if (observer := self.tracing.observer) is not None:
            self.registry.observe(observer)
        self.leases = Leases(self.make_token)
        self.long_polls = Counter(server.long_polls_max, "requests that wait")
        rate = server.requests_per_second_max
        self.rates = None if rate is None else Rates(rate)

    @classmethod
    def of(
        cls,
        settings: MPREGSettings,
        *,
        clock: Clock,
        make_token: Callable[[], str],
        chance: Callable[[], float] = lambda: 1.0,
    ) -> NodeState:
        """
        Raises:
            ConfigurationError: a token cannot be read.
        """
        registry = PersistenceRegistry(settings.persistence, clock=clock)
        return cls(settings, registry, make_token, Access.of(settings.server), chance)

    def _names(self) -> tuple[list[str], list[str]]:
        """Of the queues and the caches that there are."""
        return [queue.name for queue in self.queues.open_queues()], [self.settings.cache.name]

    # --- phases ---

    def check_ready(self) -> None:
        """Raises `NotReadyError` where it is not."""
        if self.phase is not Phase.READY:
            raise NotReadyError(f"the node is {self.phase.value}")

    def begin_to_stop(self) -> None:
        """From now on nothing new is taken, and what only waits ends."""
        self.phase = Phase.STOPPING
        for scope in list(self._waits):
            scope.cancel()

    def end_requests(self) -> None:
        """The grace time is over: whatever is still under way is cancelled."""
        for scope in list(self._requests):
            scope.cancel()

    # --- requests ---

    @property
    def requests(self) -> int:
        return len(self._requests)

    @contextmanager
    def request(self) -> Iterator[anyio.CancelScope]:
        """One request, from its first byte to the last of its answer."""
        with anyio.CancelScope() as scope:
            self._requests[scope] = None
            try:
                yield scope
            finally:
                del self._requests[scope]

    @contextmanager
    def wait(self) -> Iterator[anyio.CancelScope]:
        """A wait for something that may never happen. It ends when the node begins to stop.

        Raises:
            TooManyRequestsError: as many wait as may.
        """
        with self.long_polls.one(), anyio.CancelScope() as scope:
            self._waits[scope] = None
            if self.phase is Phase.STOPPING:
                scope.cancel()
            try:
                yield scope
            finally:
                del self._waits[scope]

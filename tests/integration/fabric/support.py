"""Several nodes in one process: on a network that loses what it is told to, or on real sockets."""

from __future__ import annotations

import random
import socket
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.abc
import httpx
from attrs import define, field, frozen

from mpreg.client import MPREGClient
from mpreg.clock import SystemClock
from mpreg.fabric import Belief
from mpreg.queues import QueueConfiguration
from mpreg.server import run_node
from mpreg.server.app import App
from mpreg.server.state import NodeState, Phase
from mpreg.settings import MPREGSettings, PeerSettings, ServerSettings
from tests.integration.server.support import PATIENCE_SECONDS, Node
from tests.integration.support import config

__all__ = ["LOST_ANSWER", "NOBODY", "Network", "Place", "Sockets", "on_sockets", "open_nodes"]

LOST_ANSWER = "its answer is lost"
NOBODY = "nobody listens"

Answering = Callable[[httpx.Request], Awaitable[httpx.Response]]


def settings_of(
    name: str, data_dir: Path, peers: Mapping[str, str | None], **options: Any
) -> MPREGSettings:
    """``peers``: URLs with the paths of their token files."""
    server = {"port": 0, **options.pop("server", {})}
    queues = options.pop("queues", ())
    return MPREGSettings(
        name=name,
        persistence=config(data_dir / name, backend=options.pop("backend", "memory")),
        peers=[PeerSettings(url=url, token_file=token) for url, token in peers.items()],
        queues={queue: QueueConfiguration(lease_seconds=86_400.0) for queue in queues},
        server=ServerSettings(**server),
        **options,
    )


def tokens() -> Callable[[], str]:
    chance = random.Random()
    return lambda: f"{chance.getrandbits(128):032x}"


# --- without sockets ---


@define(eq=False)
class Network(httpx.AsyncBaseTransport):
    """Between the nodes of one test, by the names of hosts."""

    apps: dict[str, Answering] = field(factory=dict)
    troubles: deque[str] = field(factory=deque)
    """Of the requests about queues that are to come, one after the other."""
    asked: list[httpx.Request] = field(factory=list)
    """About queues."""
    hosts: set[str] = field(factory=set)
    """That were asked for anything."""

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        host = request.url.host
        self.hosts.add(host)
        trouble = ""
        if request.url.path.startswith("/v1/queues"):
            self.asked.append(request)
            trouble = self.troubles.popleft() if self.troubles else ""
        if host not in self.apps or trouble == NOBODY:
            raise httpx.ConnectError(NOBODY)
        answer = await self.apps[host](request)
        if trouble == LOST_ANSWER:
            raise httpx.ReadError(LOST_ANSWER)
        if answer.is_closed:
            # One of a test, with all of its content: over a network it would have to come.
            stream = httpx.ByteStream(answer.content)
            return httpx.Response(answer.status_code, headers=answer.headers, stream=stream)
        return answer

    async def aclose(self) -> None:
        """It outlives its nodes."""

    def join(self, name: str, app: App) -> None:
        self.apps[f"{name}.localhost"] = httpx.ASGITransport(app).handle_async_request


def url_of(name: str) -> str:
    return f"http://{name}.localhost"


@asynccontextmanager
async def open_node(
    network: Network,
    name: str,
    data_dir: Path,
    *,
    peers: Mapping[str, str | None],
    headers: Mapping[str, str] | None = None,
    is_following: bool = True,
    **options: Any,
) -> AsyncIterator[Node]:
    settings = settings_of(name, data_dir, peers, **options)
    state = NodeState.of(settings, clock=SystemClock(), make_token=tokens())
    state.fabric.url = url_of(name)
    state.peers.transport = network
    app = App(state)
    async with state.registry:
        for queue, configuration in settings.queues.items():
            await state.queues.create_queue(queue, configuration)
        async with anyio.create_task_group() as task_group:
            if is_following:
                await task_group.start(state.peers.run)
            state.phase = Phase.READY
            network.join(name, app)
            async with httpx.AsyncClient(
                transport=httpx.ASGITransport(app),
                base_url=url_of(name),
                headers=headers,
                timeout=None,
            ) as client:
                yield Node(state, app, client)
            network.apps.pop(f"{name}.localhost", None)
            task_group.cancel_scope.cancel()


@asynccontextmanager
async def open_nodes(
    data_dir: Path, /, **queues: tuple[str, ...]
) -> AsyncIterator[tuple[Network, dict[str, Node]]]:
    """Nodes with these queues, each a peer of all others, who know of one another."""
    network, nodes = Network(), {}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with AsyncExitStack() as stack:
            for name, names in queues.items():
                peers = {url_of(other): None for other in queues if other != name}
                nodes[name] = await stack.enter_async_context(
                    open_node(network, name, data_dir, peers=peers, queues=names)
                )
            for node in nodes.values():
                await until_direct(
                    node.state, *(name for name in queues if nodes[name] is not node)
                )
            yield network, nodes


# --- on sockets ---


def free_port() -> int:
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port


@define(eq=False)
class Place:
    """Where a node is from time to time: its settings, and what runs now."""

    settings: MPREGSettings
    state: NodeState | None = None
    _stop: anyio.Event = field(factory=anyio.Event)
    _ended: anyio.Event = field(factory=anyio.Event)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.settings.server.port}"

    @property
    def node(self) -> NodeState:
        assert self.state is not None
        return self.state

    async def run(self, *, task_status: anyio.abc.TaskStatus[None]) -> None:
        self._stop, self._ended = anyio.Event(), anyio.Event()
        started = _Started(self, task_status)
        await run_node(
            self.settings,
            clock=SystemClock(),
            make_token=tokens(),
            stop=self._stop,
            task_status=started,
        )
        self.state = None
        self._ended.set()

    def begin_to_stop(self) -> None:
        self._stop.set()

    async def stop(self) -> None:
        self._stop.set()
        await self._ended.wait()


@frozen
class _Started:
    place: Place
    task_status: anyio.abc.TaskStatus[None]

    def started(self, value: Any = None) -> None:
        self.place.state = value
        self.task_status.started()


@define(eq=False)
class Sockets:
    """Nodes that listen, each a peer of all others."""

    places: Mapping[str, Place]
    task_group: anyio.abc.TaskGroup

    def __getitem__(self, name: str) -> Place:
        return self.places[name]

    async def start(self, name: str) -> None:
        await self.task_group.start(self.places[name].run)

    async def until_all_know(self) -> None:
        running = {name: place.state for name, place in self.places.items() if place.state}
        for name, state in running.items():
            await until_direct(state, *(other for other in running if other != name))

    @contextmanager
    def client(self, name: str, **options: Any) -> Iterator[MPREGClient]:
        yield MPREGClient(self.places[name].url, patience_seconds=PATIENCE_SECONDS, **options)


@asynccontextmanager
async def on_sockets(
    data_dir: Path, queues: Mapping[str, tuple[str, ...]], **options: Any
) -> AsyncIterator[Sockets]:
    """They know of one another. ``options`` of all their settings."""
    ports = {name: free_port() for name in queues}
    urls = {name: f"http://127.0.0.1:{port}" for name, port in ports.items()}
    server = options.pop("server", {})
    places = {
        name: Place(
            settings_of(
                name,
                data_dir,
                {url: None for other, url in urls.items() if other != name},
                queues=names,
                server={"port": ports[name], **server},
                **options,
            )
        )
        for name, names in queues.items()
    }
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group:
            sockets = Sockets(places, task_group)
            for name in places:
                await sockets.start(name)
            await sockets.until_all_know()
            yield sockets
            for place in places.values():
                if place.state is not None:
                    await place.stop()


# --- waiting ---


def known_to(state: NodeState) -> dict[str, Belief]:
    """The other nodes that are alive, by their names."""
    found = state.fabric.catalog.alive(anyio.current_time())
    return {one.announcement.name: one for one in found}


async def until(condition: Callable[[], object]) -> None:
    while not condition():
        await anyio.sleep(0.005)


async def until_known(state: NodeState, *names: str) -> None:
    await until(lambda: known_to(state).keys() >= set(names))


async def until_direct(state: NodeState, *names: str) -> None:
    """Until each of these has told of itself: others may have been quicker."""

    def is_direct(name: str) -> bool:
        route = known_to(state)[name].route(anyio.current_time())
        return route is not None and route.hops == 1

    await until(lambda: known_to(state).keys() >= set(names) and all(map(is_direct, names)))


async def until_has(state: NodeState, name: str, queue: str, *, has: bool = True) -> None:
    """Until ``state`` knows whether node ``name`` has the queue."""

    def is_known() -> bool:
        # What began anew in memory is another node, and the one before is alive for a while.
        alive = state.fabric.catalog.alive(anyio.current_time())
        found = [one.announcement.contents for one in alive if one.announcement.name == name]
        return bool(found) and any(queue in one.queues for one in found) is has

    await until(is_known)

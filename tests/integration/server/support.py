"""What the tests of the server share: a node without a socket, and a client of it that can be
slow, leave, and look at an answer while it comes."""

from __future__ import annotations

import itertools
import math
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream
from attrs import define, field, frozen

from mpreg.clock import Clock, SystemClock
from mpreg.queues import QueueConfiguration
from mpreg.server.app import App
from mpreg.server.state import NodeState, Phase
from mpreg.settings import MPREGSettings, ServerSettings
from tests.integration.support import config

__all__ = ["READY", "Conversation", "Node", "error_of", "new_state", "open_node", "talk"]

READY = Phase.READY

#: Longer than anything here takes: it only tells a standstill from an answer.
PATIENCE_SECONDS = 60.0


@frozen
class Node:
    state: NodeState
    app: App
    client: httpx.AsyncClient

    async def post(self, path: str, body: Any = None, **options: Any) -> httpx.Response:
        return await self.client.post(path, json={} if body is None else body, **options)

    async def send(self, *payloads: Any, queue: str = "jobs") -> list[str]:
        body = {"messages": [{"payload": payload} for payload in payloads]}
        answer = await self.post(f"/v1/queues/{queue}/messages", body)
        assert answer.status_code == 201, answer.text
        ids: list[str] = answer.json()["ids"]
        return ids

    async def receive(self, queue: str = "jobs", **options: Any) -> list[dict[str, Any]]:
        answer = await self.post(f"/v1/queues/{queue}/receive", {"messages_max": 10, **options})
        assert answer.status_code == 200, answer.text
        messages: list[dict[str, Any]] = answer.json()["messages"]
        return messages


def new_state(
    data_dir: Path,
    *,
    clock: Clock | None = None,
    backend: str = "memory",
    **server: Any,
) -> NodeState:
    settings = MPREGSettings(
        persistence=config(data_dir, backend=backend), server=ServerSettings(**server)
    )
    numbers = itertools.count()
    return NodeState.of(
        settings, clock=clock or SystemClock(), make_token=lambda: f"token-{next(numbers):08}"
    )


@asynccontextmanager
async def open_node(
    data_dir: Path,
    *,
    clock: Clock | None = None,
    backend: str = "memory",
    headers: Mapping[str, str] | None = None,
    **server: Any,
) -> AsyncIterator[Node]:
    """A node that is ready, with a queue "jobs" whose leases last. Where it is to be opened again,
    ``backend`` is "sqlite"."""
    state = new_state(data_dir, clock=clock, backend=backend, **server)
    app = App(state)
    transport = httpx.ASGITransport(app)
    async with state.registry:
        await state.queues.create_queue("jobs", QueueConfiguration(lease_seconds=86_400.0))
        state.phase = Phase.READY
        async with httpx.AsyncClient(
            transport=transport, base_url="http://localhost", headers=headers, timeout=None
        ) as client:
            with anyio.fail_after(PATIENCE_SECONDS):
                yield Node(state, app, client)


def error_of(answer: httpx.Response) -> tuple[int, str]:
    """Status and class of a problem, which is one in all respects."""
    assert answer.headers["content-type"] == "application/problem+json", answer.text
    problem = answer.json()
    assert problem["status"] == answer.status_code
    assert {"type", "title", "data_state"} <= problem.keys()
    return answer.status_code, problem["error"]


@define(eq=False)
class Conversation:
    """One request as the server sees it, message by message."""

    _to_app: MemoryObjectSendStream[dict[str, Any]]
    _from_app: MemoryObjectReceiveStream[dict[str, Any]]
    ended: anyio.Event = field(factory=anyio.Event)
    status: int = 0
    headers: dict[str, str] = field(factory=dict)

    def say(self, body: bytes, *, more: bool = False) -> None:
        self._to_app.send_nowait({"type": "http.request", "body": body, "more_body": more})

    @property
    def is_answered(self) -> bool:
        """Whether something has come that was not heard yet."""
        return self._from_app.statistics().current_buffer_used > 0

    async def until_heard(self) -> None:
        """Until the server has taken all that was said."""
        while self._to_app.statistics().current_buffer_used:
            await anyio.sleep(0)

    def leave(self) -> None:
        self._to_app.send_nowait({"type": "http.disconnect"})

    async def begin(self) -> None:
        """Wait for the head of the answer."""
        message = await self._from_app.receive()
        assert message["type"] == "http.response.start"
        self.status = message["status"]
        self.headers = {name.decode(): value.decode() for name, value in message["headers"]}

    async def hear(self) -> bytes:
        """The next part of the answer."""
        message = await self._from_app.receive()
        assert message["type"] == "http.response.body"
        part: bytes = message.get("body", b"")
        return part

    async def hear_event(self) -> bytes:
        """The next part that is no comment."""
        while (part := await self.hear()).startswith(b":"):
            pass
        return part

    async def hear_all(self) -> bytes:
        parts = b""
        async for message in self._from_app:
            parts += message.get("body", b"")
            if not message.get("more_body", False):
                break
        return parts


@asynccontextmanager
async def talk(
    app: App,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
) -> AsyncIterator[Conversation]:
    """Begin a request; it has no body until it is said."""
    to_app, receive = anyio.create_memory_object_stream[dict[str, Any]](math.inf)
    send, from_app = anyio.create_memory_object_stream[dict[str, Any]](math.inf)
    conversation = Conversation(to_app, from_app)
    path, _, query = target.partition("?")
    given = {"host": "localhost", "content-type": "application/json", **(headers or {})}
    scope = {
        "type": "http",
        "http_version": "1.1",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": query.encode(),
        "headers": [(name.encode(), value.encode()) for name, value in given.items()],
        "client": ("127.0.0.1", 1),
        "root_path": "",
    }

    async def run() -> None:
        async with send:
            await app(scope, receive.receive, send.send)  # type: ignore[arg-type]
        conversation.ended.set()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(run)
        with to_app, from_app, receive:
            yield conversation
            conversation.leave()
            await conversation.ended.wait()

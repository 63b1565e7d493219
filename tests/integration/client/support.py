"""What the tests of the client share: a way to a node on which things get lost."""

from __future__ import annotations

import math
import random
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
from attrs import define, field

from mpreg.client import MPREGClient
from mpreg.errors import MpregError
from mpreg.server.app import App
from mpreg.server.problems import problem_of
from tests.integration.server.support import PATIENCE_SECONDS, Node, open_node

__all__ = [
    "LOST_ANSWER",
    "NOBODY",
    "PATIENCE_SECONDS",
    "Tiring",
    "Way",
    "client_at",
    "client_of",
    "open_client",
]

LOST_ANSWER = "its answer is lost"
NOBODY = "nobody listens"


@define(eq=False)
class Way(httpx.AsyncBaseTransport):
    """To the application of a node, which may be another one later, or none."""

    app: App | None = None
    troubles: deque[str | MpregError] = field(factory=deque)
    """Of the requests to come, one after the other; an error is what the node answers."""
    asked: list[tuple[str, str]] = field(factory=list)
    keys: list[str | None] = field(factory=list)
    before: Callable[[httpx.Request], None] = lambda _: None

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        self.before(request)
        self.asked.append((request.method, request.url.path))
        self.keys.append(request.headers.get("idempotency-key"))
        trouble = self.troubles.popleft() if self.troubles else ""
        if self.app is None or trouble == NOBODY:
            raise httpx.ConnectError(NOBODY)
        if isinstance(trouble, MpregError):
            told = problem_of(trouble)
            return httpx.Response(told.status, headers={"x-mpreg-api": "1"}, json=told.value)
        answer = await httpx.ASGITransport(self.app).handle_async_request(request)
        if trouble == LOST_ANSWER:
            raise httpx.ReadError(LOST_ANSWER)
        return answer

    def count(self, end: str) -> int:
        return sum(path.endswith(end) for _, path in self.asked)


class Hasty(random.Random):
    """Makes pauses short: here nobody has to come back."""

    def uniform(self, a: float, b: float) -> float:
        return a / 5


class Tiring(Hasty):
    """Once it is tired, the next pause is longer than any patience: so that ends after an attempt,
    and not after a time in which a slow machine gets nowhere."""

    is_tired = False

    def uniform(self, a: float, b: float) -> float:
        return math.inf if self.is_tired else super().uniform(a, b)


def client_of(way: Way, **options: Any) -> MPREGClient:
    options.setdefault("patience_seconds", PATIENCE_SECONDS)
    options.setdefault("randomness", Hasty(1))
    return MPREGClient("http://localhost", transport=way, **options)


def client_at(url: str, **options: Any) -> MPREGClient:
    """Over a socket."""
    return MPREGClient(url, transport=httpx.AsyncHTTPTransport(), **options)


@asynccontextmanager
async def open_client(
    data_dir: Path, **options: Any
) -> AsyncIterator[tuple[MPREGClient, Way, Node]]:
    """Of a node with a queue "jobs"."""
    async with open_node(data_dir) as node:
        way = Way(node.app)
        async with client_of(way, **options) as client:
            with anyio.fail_after(PATIENCE_SECONDS):
                yield client, way, node

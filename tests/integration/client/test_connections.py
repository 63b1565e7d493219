"""How many connections a client opens, and which of them it keeps."""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import anyio
import anyio.abc
import anyio.lowlevel
import httpx
import pytest
from attrs import define, field

from mpreg.client.calls import Calls
from mpreg.client.connections import Connections
from mpreg.errors import NotANodeError
from tests.integration.client.support import PATIENCE_SECONDS

pytestmark = pytest.mark.anyio

HALF = b"HTTP/1.1 404 Not Found\r\ncontent-length: 100\r\n\r\nhalf"
ANSWER = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok"


@define(eq=False)
class Listener:
    """Answers each request when it may, and counts its connections."""

    url: str = ""
    answer: bytes = ANSWER
    broken: int = 0
    """So many answers are to break in their midst."""
    opened: int = 0
    open: int = 0
    waiting: int = 0
    may_answer: anyio.Event = field(factory=anyio.Event)
    changed: anyio.Condition = field(factory=anyio.Condition)

    async def speak(self, stream: anyio.abc.SocketStream) -> None:
        self.opened += 1
        self.open += 1
        async with stream:
            try:
                while b"\r\n\r\n" in await stream.receive():
                    self.waiting += 1
                    await self._tell()
                    await self.may_answer.wait()
                    self.waiting -= 1
                    if self.broken:
                        self.broken -= 1
                        await stream.send(HALF)
                        break
                    await stream.send(self.answer)
            except (anyio.EndOfStream, anyio.BrokenResourceError):
                pass
        self.open -= 1
        await self._tell()

    async def until(self, *, waiting: int | None = None, open: int | None = None) -> None:
        async with self.changed:
            while (waiting is not None and waiting != self.waiting) or (
                open is not None and open != self.open
            ):
                await self.changed.wait()

    async def _tell(self) -> None:
        async with self.changed:
            self.changed.notify_all()


async def _serve(
    listening: anyio.abc.Listener[anyio.abc.SocketStream],
    listener: Listener,
    *,
    task_status: anyio.abc.TaskStatus[anyio.CancelScope],
) -> None:
    with anyio.CancelScope() as scope:
        task_status.started(scope)
        async with listening:
            await listening.serve(listener.speak)


@asynccontextmanager
async def asking(idle_seconds_max: float) -> AsyncIterator[tuple[httpx.AsyncClient, Listener]]:
    found = Listener()
    tls = httpx.create_ssl_context(verify=False)
    connections = Connections(tls, idle_seconds_max)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group:
            listening = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
            serving = await task_group.start(_serve, listening, found)
            port = listening.extra(anyio.abc.SocketAttribute.local_port)
            url = f"http://127.0.0.1:{port}"
            async with httpx.AsyncClient(base_url=url, transport=connections) as client:
                yield client, found
            await found.until(open=0)
            serving.cancel()


async def test_requests_one_after_the_other_share_a_connection() -> None:
    async with asking(3600.0) as (client, listener):
        listener.may_answer.set()
        for _ in range(5):
            assert (await client.get("/")).text == "ok"
        assert listener.opened == 1


async def test_requests_at_once_have_a_connection_each_and_leave_them_to_later_ones() -> None:
    async with asking(3600.0) as (client, listener):
        for _ in range(2):
            async with anyio.create_task_group() as task_group:
                for _ in range(150):
                    task_group.start_soon(client.get, "/")
                await listener.until(waiting=150)
                listener.may_answer.set()
            listener.may_answer = anyio.Event()
        assert (listener.opened, listener.open) == (150, 150)


async def test_connections_that_nobody_needs_any_more_are_closed() -> None:
    async with asking(0.0) as (client, listener):
        async with anyio.create_task_group() as task_group:
            for _ in range(20):
                task_group.start_soon(client.get, "/")
            await listener.until(waiting=20)
            listener.may_answer.set()
        await client.get("/")
        assert listener.open <= 2
        assert (await client.get("/")).text == "ok"


async def test_a_request_that_is_cancelled_leaves_no_connection_behind() -> None:
    async with asking(3600.0) as (client, listener):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(client.get, "/")
            await listener.until(waiting=1)
            task_group.cancel_scope.cancel()
        listener.may_answer.set()
        await listener.until(open=0)
        assert (await client.get("/")).text == "ok"
        assert listener.opened == 2


async def test_closing_closes_a_connection_whose_answer_was_left() -> None:
    async with asking(3600.0) as (client, listener):
        listener.may_answer.set()
        left = await client.send(client.build_request("GET", "/"), stream=True)
        assert listener.open == 1
    assert not left.is_closed


async def test_while_an_old_connection_is_closed_others_may_take_the_idle_ones(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    closing, may_close = anyio.Event(), anyio.Event()

    class SlowToClose(httpx.AsyncBaseTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, stream=httpx.ByteStream(b"ok"))

        async def aclose(self) -> None:
            closing.set()
            await may_close.wait()

    monkeypatch.setattr(httpx, "AsyncHTTPTransport", lambda *_, **__: SlowToClose())
    connections = Connections(httpx.create_ssl_context(verify=False), 0.0)
    async with httpx.AsyncClient(base_url="http://node", transport=connections) as client:
        with anyio.fail_after(PATIENCE_SECONDS):
            first, second = [
                await client.send(client.build_request("GET", "/"), stream=True) for _ in range(2)
            ]
            await first.aclose()
            began = anyio.current_time()
            while anyio.current_time() == began:
                await anyio.lowlevel.checkpoint()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(second.aclose)
                await closing.wait()
                third = await client.send(client.build_request("GET", "/"), stream=True)
                may_close.set()
            await third.aclose()
            assert len(connections._all) == 1


async def test_closing_while_answers_are_read_is_no_trouble_for_those_who_read_them() -> None:
    async with asking(0.0) as (client, listener):
        listener.may_answer.set()
        read = [await client.send(client.build_request("GET", "/"), stream=True) for _ in range(2)]
    for one in read:
        await one.aclose()
        began = anyio.current_time()
        while anyio.current_time() == began:
            await anyio.lowlevel.checkpoint()


async def test_an_answer_that_breaks_in_its_midst_leaves_its_connection_to_others() -> None:
    """Also where it is an error, of somebody who was asked for a stream. The third is whole."""
    async with asking(3600.0) as (http, listener):
        listener.may_answer.set()
        listener.broken = 2
        listener.answer = b"HTTP/1.1 404 Not Found\r\ncontent-length: 4\r\n\r\nnone"
        connections = http._transport
        assert isinstance(connections, Connections)
        calls = Calls(http, random.Random(1), PATIENCE_SECONDS, PATIENCE_SECONDS)
        with pytest.raises(NotANodeError):
            await calls.stream("/", {})
        assert listener.opened == 3
        assert len(connections._all) == len(connections._idle) == 1

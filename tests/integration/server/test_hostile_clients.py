"""Clients on real sockets that are slow, break off, say too much or something else: each is got rid
of in its time, nothing of what it half said is done, and nobody else notices."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import h2.config
import h2.connection
import h2.events
import httpx
import pytest
from anyio.abc import SocketStream

from tests.integration.server.support import error_of
from tests.integration.server.test_connections import (
    ALIVE,
    LIVE,
    SEND,
    Serving,
    read_all,
    read_until,
    serving,
)

pytestmark = pytest.mark.anyio

SEND_HEAD = b"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\n"
JSON = b"Content-Type: application/json\r\n"
UPLOAD = b"PUT /v1/snapshots/images HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100000\r\n\r\n"
CHUNKED = SEND_HEAD + JSON + b"Transfer-Encoding: chunked\r\n\r\n"

#: Between two bytes of those who send one at a time.
TRICKLE_SECONDS = 0.002


@asynccontextmanager
async def patient(data_dir: Path, **server: Any) -> AsyncIterator[Serving]:
    """A node on which nothing happens in the end, whatever a client does, but what is looked for:
    then everybody is gone, and nothing was sent."""
    async with serving(data_dir, **server) as node:
        yield node
        while node.state.requests:
            await anyio.sleep(0.001)
        queue = await node.state.queues.get_queue("jobs")
        assert queue.statistics().sent == 0
        async with await node.connect() as stream:
            await stream.send(LIVE)
            await read_until(stream, ALIVE)


async def trickle(stream: SocketStream, data: bytes) -> bytes:
    """What comes back to who sends one byte at a time, until there is an end."""
    found = b""

    async def listen(scope: anyio.CancelScope) -> None:
        nonlocal found
        found = await read_all(stream)
        scope.cancel()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(listen, task_group.cancel_scope)
        try:
            for byte in data:
                await stream.send(bytes([byte]))
                await anyio.sleep(TRICKLE_SECONDS)
        except (anyio.BrokenResourceError, anyio.ClosedResourceError):
            pass
        await anyio.sleep_forever()
    return found


async def test_the_head_of_a_request_has_its_time_however_it_is_sent(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.connections.IDLE_SECONDS", 1.0)
    async with patient(data_dir) as node, await node.connect() as stream:
        head = LIVE[:-2] + b"X-Slow: " + b"x" * 50_000
        assert await trickle(stream, head) == b""


async def test_a_body_that_trickles_in_is_not_waited_for_to_its_end(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is never silent, and yet slower than any body may be."""
    monkeypatch.setattr("mpreg.server.calls.BODY_SECONDS_MAX", 0.2)
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.01)
    rate = 1_000_000
    async with patient(data_dir, body_bytes_per_second_min=rate) as node:
        for head in (SEND_HEAD + JSON + b"Content-Length: 100000\r\n\r\n", UPLOAD, CHUNKED):
            async with await node.connect() as stream:
                await stream.send(head)
                body = b" " * 100_000 if head is not CHUNKED else b"1\r\n \r\n" * 50_000
                found = await trickle(stream, body)
                assert found.startswith(b"HTTP/1.1 408 ")
                assert b"body_bytes_per_second_min" in found
        assert await node.state.registry.snapshot_store("images").versions() == []


async def test_who_breaks_off_in_the_middle_has_done_nothing(data_dir: Path) -> None:
    """Also where the rest of a body makes no sense: nobody waits for it."""
    halves = (
        SEND[:-1],
        SEND[:-40],
        SEND_HEAD,
        UPLOAD + b"x" * 70_000,
        CHUNKED,
        CHUNKED + b'd\r\n{"payload":',
        CHUNKED + b'd\r\n{"payload":1}\r\n',
        CHUNKED + b'd\r\n{"payload":1}\r\n0\r\n',
    )
    async with patient(data_dir) as node:
        for half in halves:
            async with await node.connect() as stream:
                await stream.send(half)
                await stream.send_eof()
                assert b" 201 " not in await read_all(stream)
        assert await node.state.registry.snapshot_store("images").versions() == []


async def test_who_sends_chunks_that_are_none_is_hung_up_on_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.calls.BODY_SECONDS_MAX", 86_400.0)
    async with patient(data_dir) as node:
        for rest in (
            b"nonsense\r\n",
            b"-1\r\n",
            b"\0\r\n",
            b"f" * 21 + b"\r\n",
            b"d;" + b"x" * 99_999,
            # What stands behind a body has an end, too.
            b"1\r\n{\r\n0\r\nX: " + b"x" * 200_000,
        ):
            async with await node.connect() as stream:
                await stream.send(CHUNKED + rest)
                assert b" 201 " not in await read_all(stream), rest[:20]


async def test_a_crowd_of_requests_on_one_connection_is_answered_one_by_one(
    data_dir: Path,
) -> None:
    count = 500
    async with serving(data_dir) as node, await node.connect() as stream:
        most = 0

        async def send() -> None:
            await stream.send(SEND * count)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(send)
            found = b""
            while found.count(b"HTTP/1.1 201 ") < count or not found.endswith(b"}"):
                found += await stream.receive()
                most = max(most, node.state.requests)
        assert most <= 1
        queue = await node.state.queues.get_queue("jobs")
        assert queue.statistics().sent == count


async def test_requests_behind_one_that_waits_wait_for_it_and_hold_nobody(data_dir: Path) -> None:
    """What is behind a wait is not read before; so that its client has gone is seen late, but not
    never."""
    body = b'{"wait_seconds":600}'
    poll = b"POST /v1/queues/jobs/receive HTTP/1.1\r\nHost: localhost\r\n" + JSON
    poll += b"Content-Length: %d\r\n\r\n" % len(body) + body
    async with patient(data_dir, long_poll_seconds_max=0.3) as node:
        async with await node.connect() as stream:
            await stream.send(poll + LIVE + LIVE)
            found = await read_until(stream, b'{"messages":[]}')
            while found.count(ALIVE) < 2:
                found += await stream.receive()
        async with await node.connect() as stream:
            await stream.send(poll + LIVE * 10_000)
            while not node.state.long_polls.count:
                await anyio.sleep(0.001)
        while node.state.long_polls.count:
            await anyio.sleep(0.001)


async def test_http_2_is_not_spoken_also_where_it_is_taken_for_granted(data_dir: Path) -> None:
    preface = h2.connection.H2Connection(h2.config.H2Configuration(client_side=True))
    preface.initiate_connection()
    async with patient(data_dir) as node, await node.connect() as stream:
        await stream.send(preface.data_to_send())
        found = await read_all(stream)
        # What comes behind the first line is no request, for which the connection may be closed
        # before the answer is on its way.
        assert found == b"" or found.startswith(b"HTTP/1.1 400 ")
        assert found == b"" or b"this node speaks HTTP/1.1" in found


async def test_who_offers_to_change_to_http_2_is_answered_in_http_1(data_dir: Path) -> None:
    async with serving(data_dir) as node, await node.connect() as stream:
        offer = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\n"
        offer += b"HTTP2-Settings: AAMAAABk\r\n"
        await stream.send(LIVE[:-2] + offer + b"\r\n")
        found = await read_until(stream, ALIVE)
        assert found.startswith(b"HTTP/1.1 200 ")
        await stream.send(LIVE)
        await read_until(stream, ALIVE)


async def test_a_web_socket_is_refused(data_dir: Path) -> None:
    async with patient(data_dir) as node, await node.connect() as stream:
        offer = b"Connection: Upgrade\r\nUpgrade: websocket\r\n"
        offer += b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n"
        await stream.send(LIVE[:-2] + offer + b"\r\n")
        assert b" 403 " in await read_until(stream, b"\r\n\r\n")


async def test_who_may_not_is_told_so_before_anything_of_a_body_is_taken(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.01)
    async with (
        patient(data_dir, write_token="w" * 16) as node,
        await node.connect() as stream,
    ):
        for header in (
            b"",
            b"Authorization: Bearer\r\n",
            b"Authorization: Bearer " + b"x" * 16 + b"\r\n",
            b"Authorization: Basic " + b"w" * 16 + b"\r\n",
            b"Authorization: Bearer " + "ü".encode() * 8 + b"\r\n",
            b"Authorization: Bearer " + b"w" * 30_000 + b"\r\n",
            # Of two, both would have to be right.
            b"Authorization: Bearer " + b"w" * 15 + b"\r\nAuthorization: Bearer w\r\n",
        ):
            async with await node.connect() as one:
                await one.send(SEND_HEAD + header + b"Content-Length: 9999999999\r\n\r\n")
                found = await read_until(one, b"}")
                assert found.startswith(b"HTTP/1.1 401 "), header[:60]
                assert b"w" * 15 not in found
        # And who may is answered on a connection that was there before.
        await stream.send(LIVE)
        await read_until(stream, ALIVE)


async def test_many_bad_clients_leave_nothing_behind(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.001)
    bad = (
        b"GET\r\n\r\n",
        SEND[:-3],
        CHUNKED + b"zz\r\n",
        SEND_HEAD + JSON + b"Content-Length: 9999999999\r\n\r\n{",
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    )
    async with patient(data_dir) as node:
        tasks = len(anyio.get_running_tasks())

        async def one(data: bytes) -> None:
            async with await node.connect() as stream:
                await stream.send(data)
                await stream.send_eof()
                await read_all(stream)

        for _ in range(20):
            async with anyio.create_task_group() as task_group:
                for data in bad:
                    task_group.start_soon(one, data)
        while len(anyio.get_running_tasks()) > tasks:
            await anyio.sleep(0.001)


async def test_a_refusal_of_a_body_is_heard_by_an_ordinary_client(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.calls.BODY_SECONDS_MAX", 0.05)
    async with (
        patient(data_dir) as node,
        httpx.AsyncClient(base_url=node.state.url, timeout=None) as client,
    ):

        async def never() -> AsyncIterator[bytes]:
            yield b"{"
            await anyio.sleep(0.3)
            yield b'"payload":1}'

        answer = await client.post(
            "/v1/queues/jobs/messages",
            content=never(),
            headers={"content-type": "application/json"},
        )
        assert error_of(answer) == (408, "RequestRefusedError")

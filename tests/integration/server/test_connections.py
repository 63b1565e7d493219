"""A node on real sockets: how many there are, what is sent over them, and how they end."""

from __future__ import annotations

import itertools
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import attrs
import httpx
import pytest
from anyio.abc import SocketStream, TaskStatus
from attrs import frozen
from starlette.types import ASGIApp, Receive, Scope, Send

from mpreg.clock import SystemClock
from mpreg.errors import ConfigurationError, ParticipantFailedError, PeerUnreachableError
from mpreg.persistence import ReportProgress
from mpreg.queues import MessageQueueManager, QueueConfiguration
from mpreg.server import run_node
from mpreg.server.state import NodeState, Phase
from mpreg.settings import MPREGSettings, ServerSettings
from tests.integration.server.support import PATIENCE_SECONDS
from tests.integration.support import config

pytestmark = pytest.mark.anyio

TLS = Path(__file__).parents[2] / "data" / "tls"


def settings_of(data_dir: Path, *, backend: str = "memory", **server: Any) -> MPREGSettings:
    return MPREGSettings(
        persistence=config(data_dir, backend=backend),
        queues={"jobs": QueueConfiguration(lease_seconds=86_400.0)},
        server=ServerSettings(**({"port": 0} | server)),
    )


async def run(
    settings: MPREGSettings,
    stop: anyio.Event,
    *,
    task_status: TaskStatus[NodeState] = anyio.TASK_STATUS_IGNORED,
) -> None:
    numbers = itertools.count()
    await run_node(
        settings,
        clock=SystemClock(),
        make_token=lambda: f"token-{next(numbers)}",
        stop=stop,
        task_status=task_status,
    )


@frozen
class Serving:
    state: NodeState
    stop: anyio.Event

    @property
    def port(self) -> int:
        return int(self.state.url.rpartition(":")[2])

    async def connect(self) -> SocketStream:
        return await anyio.connect_tcp("127.0.0.1", self.port)


@asynccontextmanager
async def serving(data_dir: Path, **server: Any) -> AsyncIterator[Serving]:
    stop = anyio.Event()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group:
            settings = settings_of(data_dir, **server)
            state = await task_group.start(run, settings, stop)
            yield Serving(state, stop)
            stop.set()


async def read_until(stream: SocketStream, end: bytes) -> bytes:
    found = b""
    while end not in found:
        found += await stream.receive()
    return found


async def read_all(stream: SocketStream) -> bytes:
    found = b""
    try:
        while True:
            found += await stream.receive()
    except (anyio.EndOfStream, anyio.BrokenResourceError):
        return found


LIVE = b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n"
ALIVE = b'{"live":true}'
SEND = (
    b"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\n"
    b'Content-Type: application/json\r\nContent-Length: 13\r\n\r\n{"payload":1}'
)


async def test_a_node_answers_where_it_says_that_it_listens(data_dir: Path) -> None:
    async with serving(data_dir) as node, httpx.AsyncClient(base_url=node.state.url) as client:
        sent = await client.post("/v1/queues/jobs/messages", json={"payload": 1})
        assert (sent.status_code, sent.http_version) == (201, "HTTP/1.1")
        found = await client.post("/v1/queues/jobs/receive", json={})
        assert found.json()["messages"][0]["payload"] == 1
        assert (await client.get("/v1/node")).json()["url"] == node.state.url


async def test_requests_that_come_together_are_answered_in_their_order(data_dir: Path) -> None:
    async with serving(data_dir) as node, await node.connect() as stream:
        await stream.send(LIVE + LIVE.replace(b"live", b"ready") + LIVE)
        found = await read_until(stream, b'{"ready":true')
        while found.count(ALIVE) < 2:
            found += await stream.receive()
        assert found.index(ALIVE) < found.index(b'{"ready"') < found.rindex(ALIVE)


async def test_an_answer_that_breaks_off_has_no_end_and_one_line_in_the_log(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def break_off(_: Scope, __: Receive, send: Send) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"some", "more_body": True})
        raise PeerUnreachableError("its answer broke off", True)

    async def answer(*_: object) -> ASGIApp:
        return break_off

    monkeypatch.setattr("mpreg.server.app.App._answer", answer)
    async with serving(data_dir) as node:
        for _ in range(2):
            async with await node.connect() as stream:
                await stream.send(LIVE)
                found = await read_all(stream)
            assert b"some" in found
            assert not found.endswith(b"0\r\n\r\n")
    told = [one for one in caplog.records if one.levelname in ("WARNING", "ERROR")]
    assert ["cut short" in one.getMessage() for one in told] == [True, True]
    assert not any(one.exc_info for one in caplog.records)


async def test_a_node_that_stops_does_not_wait_for_an_answer_that_its_own_end_has_cancelled(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    began = anyio.Event()

    async def cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        scope.cancel()

    async def answer_at_last(_: Scope, receive: Receive, send: Send) -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cancel_when_gone, receive, task_group.cancel_scope)
            await send({"type": "http.response.start", "status": 200, "headers": []})
            began.set()
            while node.state.phase is not Phase.STOPPING:
                await anyio.sleep(0.001)
            await send({"type": "http.response.body", "body": b"at last"})
            task_group.cancel_scope.cancel()

    async def answer(*_: object) -> ASGIApp:
        return answer_at_last

    monkeypatch.setattr("mpreg.server.app.App._answer", answer)
    async with serving(data_dir, grace_seconds=86_400.0) as node, await node.connect() as stream:
        await stream.send(LIVE)
        await began.wait()
        node.stop.set()
        assert b"at last" in await read_all(stream)


async def test_what_is_no_http_gets_an_end_and_nobody_notices(data_dir: Path) -> None:
    async with serving(data_dir) as node:
        for nonsense in (
            b"\x16\x03\x01\x00\n\n",
            b"GET\r\n\r\n",
            b"GET / HTTP/1.1\r\nA: " + b"x" * 99_999,
        ):
            async with await node.connect() as stream:
                await stream.send(nonsense)
                assert b" 200 " not in await read_all(stream)
        async with await node.connect() as stream:
            await stream.send(b"POST /v1/queues/jobs/messages HTTP/1.1\r\nContent-Le")
        async with await node.connect() as stream:
            await stream.send(LIVE)
            await read_until(stream, ALIVE)


async def test_a_body_whose_end_is_told_in_two_ways_is_refused_with_what_comes_behind_it(
    data_dir: Path,
) -> None:
    async with serving(data_dir) as node, await node.connect() as stream:
        head = SEND.replace(b"Content-Length: 13\r\n", b"Content-Length: 3\r\n")
        head = head.replace(b"\r\n\r\n", b"\r\nTransfer-Encoding: chunked\r\n\r\nd\r\n")
        await stream.send(head + b"\r\n0\r\n\r\n" + LIVE)
        # Of the answer, who sends more than is taken may hear nothing.
        found = await read_all(stream)
        assert b"201" not in found
        assert ALIVE not in found
        queue = await node.state.queues.get_queue("jobs")
        assert queue.statistics().sent == 0


async def test_a_further_connection_waits_until_there_is_room(data_dir: Path) -> None:
    async with serving(data_dir, connections_max=1) as node:
        async with await node.connect() as first:
            await first.send(LIVE)
            await read_until(first, ALIVE)
            second = await node.connect()
            await second.send(LIVE)
            with anyio.move_on_after(0.05) as waiting:
                await second.receive()
            assert waiting.cancelled_caught
        async with second:
            await read_until(second, ALIVE)


async def test_a_body_that_was_refused_is_taken_long_enough_for_the_answer_to_arrive(
    data_dir: Path,
) -> None:
    async with (
        serving(data_dir, body_bytes_max=1_024) as node,
        httpx.AsyncClient(base_url=node.state.url) as client,
    ):
        for body in (b"x" * 3_000_000, chunks()):
            answer = await client.post(
                "/v1/queues/jobs/messages",
                content=body,
                headers={"content-type": "application/json"},
            )
            assert answer.status_code == 413


async def chunks() -> AsyncIterator[bytes]:
    for _ in range(50):
        yield b"x" * 60_000


async def test_a_client_that_sends_for_ever_is_hung_up_on(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.01)
    async with serving(data_dir, body_bytes_max=1_024) as node, await node.connect() as stream:
        head = b"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\n"
        await stream.send(head + b"Content-Length: 10000000000\r\n\r\n")
        try:
            while True:
                await stream.send(b"x" * 65_536)
        except anyio.BrokenResourceError:
            pass
        while node.state.requests:
            await anyio.sleep(0.001)


async def test_a_connection_ends_that_is_idle_for_too_long_and_none_that_waits_for_an_answer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.connections.IDLE_SECONDS", 0.05)
    async with serving(data_dir) as node:
        async with await node.connect() as silent:
            assert await read_all(silent) == b""
        async with await node.connect() as waiting:
            body = b'{"wait_seconds": 0.3}'
            head = SEND.partition(b"Content-Length")[0].replace(b"/messages", b"/receive")
            await waiting.send(head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
            # Longer than it may be idle, and afterwards that begins anew.
            answer = await read_until(waiting, b'{"messages":[]}')
            assert answer.startswith(b"HTTP/1.1 200 ")
            assert await read_all(waiting) == b""


async def test_the_head_of_an_answer_leaves_together_with_its_body(data_dir: Path) -> None:
    async with serving(data_dir) as node, await node.connect() as stream:
        for _ in range(3):
            await stream.send(SEND)
            assert (await stream.receive()).endswith(b"]}")


async def test_the_head_of_a_stream_does_not_wait_for_what_it_streams(data_dir: Path) -> None:
    async with serving(data_dir) as node, await node.connect() as stream:
        await stream.send(LIVE.replace(b"/health/live", b"/v1/keys/n?watch="))
        assert b"text/event-stream" in await read_until(stream, b"\r\n\r\n")


async def test_an_end_waits_for_requests_and_not_for_idle_connections(data_dir: Path) -> None:
    async with serving(data_dir, grace_seconds=60.0) as node:
        idle = await node.connect()
        await idle.send(LIVE)
        await read_until(idle, ALIVE)
        silent = await node.connect()
        async with httpx.AsyncClient(base_url=node.state.url, timeout=None) as client:
            answers = []

            async def wait() -> None:
                body = {"wait_seconds": 50}
                answers.append(await client.post("/v1/queues/jobs/receive", json=body))

            async with anyio.create_task_group() as task_group:
                task_group.start_soon(wait)
                while not node.state.long_polls.count:
                    await anyio.sleep(0.001)
                node.stop.set()
        assert [answer.json() for answer in answers] == [{"messages": []}]
        assert await read_all(idle) == b""
        assert await read_all(silent) == b""
        for stream in (idle, silent):
            await stream.aclose()


async def test_an_end_under_load_answers_what_is_under_way_and_takes_no_grace_time(
    data_dir: Path,
) -> None:
    async with serving(data_dir, grace_seconds=86_400.0) as node:
        answers = []

        async def send() -> None:
            async with await node.connect() as stream:
                with suppress(anyio.EndOfStream, anyio.BrokenResourceError):
                    while True:
                        await stream.send(SEND)
                        answers.append(await read_until(stream, b"}"))

        async with anyio.create_task_group() as task_group:
            for _ in range(8):
                task_group.start_soon(send)
            while len(answers) < 40:
                await anyio.sleep(0.001)
            node.stop.set()
        queue = await node.state.queues.get_queue("jobs")
        done = [answer for answer in answers if b'{"ids":' in answer]
        assert len(done) == queue.statistics().sent
        assert all(b"NotReadyError" in answer for answer in answers if answer not in done)


async def test_who_does_not_read_is_cut_when_the_grace_time_is_over(data_dir: Path) -> None:
    async with serving(data_dir, grace_seconds=0.01) as node:
        store = node.state.registry.key_value_store("n")
        await store.put("large", bytes(12_000_000))
        stream = await node.connect()
        await stream.send(LIVE.replace(b"/health/live", b"/v1/keys/n/large"))
        await stream.receive()
        half = await node.connect()
        await half.send(
            b"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\n"
            b"Content-Type: application/json\r\nContent-Length: 100\r\n\r\n{"
        )
        while node.state.requests < 2:
            await anyio.sleep(0.001)
        node.stop.set()
        # The block ends only where both do.
    assert b"CommitUnknownError" in await read_all(half)
    for one in (stream, half):
        await one.aclose()


async def test_who_leaves_in_the_middle_of_an_answer_makes_room_at_once(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.connections.IDLE_SECONDS", 86_400.0)
    async with serving(data_dir, connections_max=1) as node:
        store = node.state.registry.key_value_store("n")
        await store.put("large", bytes(12_000_000))
        async with await node.connect() as stream:
            await stream.send(LIVE.replace(b"/health/live", b"/v1/keys/n/large"))
            await stream.receive()
        async with await node.connect() as other:
            await other.send(LIVE)
            await read_until(other, ALIVE)


@pytest.mark.skipif(not hasattr(socket, "TCP_USER_TIMEOUT"), reason="only Linux can tell")
async def test_who_takes_nothing_of_an_answer_is_cut_in_the_end(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("mpreg.server.connections.UNREAD_SECONDS_MAX", 0.1)
    monkeypatch.setattr("mpreg.server.connections.IDLE_SECONDS", 86_400.0)
    async with serving(data_dir, connections_max=1) as node:
        store = node.state.registry.key_value_store("n")
        await store.put("large", bytes(12_000_000))
        async with await node.connect() as stream, await node.connect() as other:
            await stream.send(LIVE.replace(b"/health/live", b"/v1/keys/n/large"))
            await stream.receive()
            await other.send(LIVE)
            await read_until(other, ALIVE)
    assert "incident" not in caplog.text


async def test_a_node_is_not_ready_before_everything_is_restored(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    began, may_go_on = anyio.Event(), anyio.Event()

    async def restore_slowly(self: MessageQueueManager, report: ReportProgress) -> None:
        report(3, 10, "queues")
        began.set()
        await may_go_on.wait()

    monkeypatch.setattr(MessageQueueManager, "_restore", restore_slowly)
    stop = anyio.Event()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client,
            anyio.create_task_group() as task_group,
        ):
            task_group.start_soon(run, settings_of(data_dir, port=port), stop)
            await began.wait()
            assert (await client.get("/health/live")).status_code == 200
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["phase"]) == (503, "starting")
            queues = ready.json()["restore"][0]
            assert (queues["state"], queues["done"], queues["total"]) == ("restoring", 3, 10)
            sent = await client.post("/v1/queues/jobs/messages", json={"payload": 1})
            assert sent.json()["error"] == "NotReadyError"
            may_go_on.set()
            while (await client.get("/health/ready")).status_code == 503:
                await anyio.sleep(0.001)
            sent = await client.post("/v1/queues/jobs/messages", json={"payload": 1})
            assert sent.status_code == 201
            stop.set()


async def test_a_store_that_fails_for_good_ends_the_node_and_is_told(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: MessageQueueManager, report: ReportProgress) -> None:
        raise OSError("no")

    monkeypatch.setattr(MessageQueueManager, "_restore", fail)
    with pytest.raises(ParticipantFailedError, match="queues"):
        await run(settings_of(data_dir), anyio.Event())


async def test_a_node_that_is_told_to_stop_before_it_is_ready_does(data_dir: Path) -> None:
    stop = anyio.Event()
    stop.set()
    with anyio.fail_after(PATIENCE_SECONDS):
        await run(settings_of(data_dir), stop)


async def test_a_node_can_be_cancelled(data_dir: Path) -> None:
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group:
            state = await task_group.start(run, settings_of(data_dir), anyio.Event())
            stream = await anyio.connect_tcp("127.0.0.1", int(state.url.rpartition(":")[2]))
            task_group.cancel_scope.cancel()
    async with stream:
        assert await read_all(stream) == b""


async def test_a_queue_that_cannot_become_what_the_settings_say_is_named(data_dir: Path) -> None:
    stored = attrs.evolve(settings_of(data_dir), persistence=config(data_dir))
    changed = attrs.evolve(stored, queues={"jobs": QueueConfiguration(queue_type="priority")})
    stop = anyio.Event()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group:
            await task_group.start(run, stored, stop)
            stop.set()
        with pytest.raises(ConfigurationError, match=r"mpreg\.queues\.jobs: queue_type"):
            await run(changed, anyio.Event())


async def test_a_place_that_is_taken_is_told(data_dir: Path) -> None:
    async with serving(data_dir / "one") as node:
        with pytest.raises(ConfigurationError, match=f"^port: .* port {node.port}: .*another"):
            await run(settings_of(data_dir / "two", port=node.port), anyio.Event())


async def test_an_address_of_another_machine_is_told_as_the_host_that_it_is(
    data_dir: Path,
) -> None:
    # Of the range for documentation: no machine has it.
    elsewhere = {"host": "192.0.2.1", "write_token": "w" * 16}
    with pytest.raises(ConfigurationError, match=r"^host: .*192\.0\.2\.1.*of this machine"):
        await run(settings_of(data_dir, **elsewhere), anyio.Event())
    assert not data_dir.exists()


async def test_a_key_that_is_torn_is_told_with_its_certificate(
    data_dir: Path, tmp_path: Path
) -> None:
    torn = tmp_path / "torn.pem"
    torn.write_text((TLS / "key.pem").read_text().replace("M", "!"))
    files: dict[str, Any] = {"tls_certificate_file": TLS / "certificate.pem", "tls_key_file": torn}
    with pytest.raises(ConfigurationError, match=r"^tls_certificate_file: .*certificate\.pem and"):
        await run(settings_of(data_dir, **files), anyio.Event())


async def test_a_certificate_encrypts_what_is_sent(data_dir: Path) -> None:
    tls = {
        "tls_certificate_file": TLS / "certificate.pem",
        "tls_key_file": TLS / "key.pem",
    }
    trusting = ssl.create_default_context(cafile=str(TLS / "certificate.pem"))
    async with serving(data_dir, **tls) as node:
        assert node.state.url.startswith("https://")
        async with httpx.AsyncClient(base_url=node.state.url, verify=trusting) as client:
            answer = await client.post("/v1/queues/jobs/messages", json={"payload": 1})
            assert answer.status_code == 201
        async with await node.connect() as plain:
            await plain.send(LIVE)
            assert ALIVE not in await read_all(plain)


@pytest.mark.parametrize(
    ("certificate", "key", "problem"),
    [
        ("key.pem", "key.pem", r"^tls_certificate_file: .*key\.pem has no certificate"),
        ("certificate.pem", "certificate.pem", r"^tls_key_file: .*certificate\.pem has no private"),
        ("none.pem", "key.pem", r"^tls_certificate_file: .*none\.pem cannot be read: No such"),
        ("certificate.pem", "none.pem", r"^tls_key_file: .*none\.pem cannot be read: No such"),
        (
            "certificate.pem",
            "another-key.pem",
            r"^tls_key_file: .* is not the key of .*certificate\.pem",
        ),
        ("certificate.pem", "locked-key.pem", r"^tls_key_file: .* asks for a pass phrase"),
    ],
)
async def test_a_certificate_that_cannot_be_used_is_told_before_anything_is_opened(
    data_dir: Path, certificate: str, key: str, problem: str
) -> None:
    files: dict[str, Any] = {
        "tls_certificate_file": TLS / certificate,
        "tls_key_file": TLS / key,
    }
    with pytest.raises(ConfigurationError, match=problem):
        await run(settings_of(data_dir, **files), anyio.Event())
    assert not data_dir.exists()

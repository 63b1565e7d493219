"""Hundreds of clients at work beside as many that wait, at one node: everybody is answered,
nothing is lost, and what it costs is bounded: memory, open files, and no work where nothing
happens."""

from __future__ import annotations

import json
import os
import resource
import signal
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any, Final, Self

import anyio
import pytest
from anyio.abc import SocketStream
from attrs import define, field

from tests.e2e.processes import cpu_ticks, open_files, resident_bytes
from tests.e2e.support import RUNS_LONG, loops
from tests.e2e.test_serve import Served

#: Of each kind.
CLIENTS: Final = 1_000 if RUNS_LONG else 400
#: It only tells a hang, also on a machine that is slow and busy with something else.
PATIENCE_SECONDS: Final = 600.0
#: At the same time, so that nobody is turned away by the listening socket's own queue.
CONNECTING_MAX: Final = 100

#: What a connection with a request that waits costs, as `docs/howto/serve.md` has it. It is twice
#: what is measured.
BYTES_PER_POLL_MAX: Final = 80 * 1_024
#: And what all of them leave behind, whatever they do.
BYTES_LEFT_MAX: Final = 64 << 20
#: Of a second, for each second in which nothing happens: the clock of the operating system counts
#: in hundredths of it, of which that are ten.
IDLE_CPU_MAX: Final = 0.1
IDLE_SECONDS: Final = 1.0

SETTINGS: Final = """
[mpreg.persistence]
data_dir = "data"
[mpreg.server]
connections_max = 2_100
long_poll_seconds_max = 3600.0
[mpreg.queues.jobs]
lease_seconds = 86400.0
[mpreg.queues.silent]
lease_seconds = 86400.0
"""


@define(eq=False)
class Connection:
    """As little of HTTP as will do: all clients are one program here."""

    stream: SocketStream
    _rest: bytearray = field(factory=bytearray)

    async def post(self, path: str, body: Any) -> dict[str, Any]:
        await self.ask("POST", path, body)
        return await self.answer()

    async def get(self, path: str) -> dict[str, Any]:
        await self.ask("GET", path, {})
        return await self.answer()

    async def ask(self, method: str, path: str, body: Any) -> None:
        encoded = json.dumps(body).encode()
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(encoded)}\r\n\r\n"
        )
        await self.stream.send(head.encode() + encoded)

    async def answer(self) -> dict[str, Any]:
        while (end := self._rest.find(b"\r\n\r\n")) < 0:
            self._rest += await self.stream.receive()
        lines = bytes(self._rest[:end]).decode().lower().split("\r\n")
        del self._rest[: end + 4]
        headers = dict(line.split(": ", 1) for line in lines[1:])
        size = int(headers["content-length"])
        while len(self._rest) < size:
            self._rest += await self.stream.receive()
        body = bytes(self._rest[:size])
        del self._rest[:size]
        assert lines[0].split()[1] in ("200", "201"), (lines[0], body)
        found: dict[str, Any] = json.loads(body)
        return found


@define(eq=False)
class Crowd:
    port: int
    _streams: AsyncExitStack = field(factory=AsyncExitStack)
    _door: anyio.Semaphore = field(factory=lambda: anyio.Semaphore(CONNECTING_MAX))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self._streams.aclose()

    async def connect(self) -> Connection:
        async with self._door:
            stream = await anyio.connect_tcp("127.0.0.1", self.port)
        return Connection(await self._streams.enter_async_context(stream))

    async def look(self, path: str) -> dict[str, Any]:
        """At once, over a connection of its own, whatever the others do."""
        async with await anyio.connect_tcp("127.0.0.1", self.port) as stream:
            return await Connection(stream).get(path)


@define(eq=False)
class Waiting:
    """Those who wait for what never comes."""

    crowd: Crowd
    connections: list[Connection] = field(factory=list)

    async def begin(self) -> None:
        async with anyio.create_task_group() as task_group:
            for _ in range(CLIENTS):
                task_group.start_soon(self._one)
        while (await self.crowd.look("/v1/node"))["long_polls"] < CLIENTS:
            await anyio.sleep(0.05)

    async def _one(self) -> None:
        connection = await self.crowd.connect()
        self.connections.append(connection)
        await connection.ask("POST", "/v1/queues/silent/receive", {"wait_seconds": 3_600})

    async def end(self) -> None:
        for connection in self.connections:
            await connection.stream.aclose()
        self.connections.clear()
        while (await self.crowd.look("/v1/node"))["long_polls"]:
            await anyio.sleep(0.05)


@define(eq=False)
class Working:
    """Those who send, receive and acknowledge a message each, one request after the other over one
    connection, all at the same time; and what they know."""

    crowd: Crowd
    sent: dict[str, str] = field(factory=dict)
    """By id, the payload of those whose send was answered."""
    acked: set[str] = field(factory=set)

    async def run(self) -> None:
        async with anyio.create_task_group() as task_group:
            for number in range(CLIENTS):
                task_group.start_soon(self._one, number)

    async def _one(self, number: int) -> None:
        connection = await self.crowd.connect()
        async with connection.stream:
            payload = str(number)
            answer = await connection.post("/v1/queues/jobs/messages", {"payload": payload})
            self.sent[answer["ids"][0]] = payload
            # There are never more who receive than messages.
            body = {"wait_seconds": 3_600}
            [message] = (await connection.post("/v1/queues/jobs/receive", body))["messages"]
            assert message["attempt"] == 1
            assert message["id"] not in self.acked
            await connection.post("/v1/queues/jobs/ack", {"tokens": [message["token"]]})
            self.acked.add(message["id"])


@contextmanager
def many_files() -> Iterator[None]:
    """As many as both programs need: the limit is inherited."""
    wanted = 2 * CLIENTS + 500
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < wanted:
        pytest.skip(f"{wanted} open files are needed, and {hard} are allowed")
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, wanted), hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="only Linux tells of a process")
@pytest.mark.parametrize("loop", loops("asyncio"))
def test_hundreds_of_clients_beside_as_many_that_wait(tmp_path: Path, loop: str) -> None:
    async def story(node: Served, crowd: Crowd) -> None:
        waiting, working = Waiting(crowd), Working(crowd)
        await crowd.look("/v1/node")
        files, at_rest = open_files(node.pid), resident_bytes(node.pid)

        await waiting.begin()
        assert open_files(node.pid) <= files + CLIENTS + 1
        with_polls = resident_bytes(node.pid)
        assert with_polls - at_rest < CLIENTS * BYTES_PER_POLL_MAX
        ticks, began = cpu_ticks(node.pid), anyio.current_time()
        # There is nothing to wait for: that nothing happens is what is looked at.
        await anyio.sleep(IDLE_SECONDS)
        seconds = anyio.current_time() - began
        used = (cpu_ticks(node.pid) - ticks) / os.sysconf("SC_CLK_TCK")
        assert used < IDLE_CPU_MAX * seconds

        await working.run()
        assert len(working.sent) == CLIENTS
        assert working.acked == working.sent.keys()
        queue = (await crowd.look("/v1/queues/jobs"))["statistics"]
        assert (queue["pending"], queue["in_flight"], queue["dead"]) == (0, 0, 0)
        # Nobody who waits was thrown out for them.
        assert (await crowd.look("/v1/node"))["long_polls"] == CLIENTS

        # One who waits is answered as if there was nobody else.
        sender = await crowd.connect()
        await sender.post("/v1/queues/silent/messages", {"payload": "at last"})
        await sender.stream.aclose()
        [message] = (await first_answer(waiting.connections))["messages"]
        assert message["payload"] == "at last"

        await waiting.end()
        while open_files(node.pid) > files:
            await anyio.sleep(0.05)
        left = await crowd.look("/v1/node")
        assert (left["requests"], left["leases"]) == (1, 1)
        after_one = resident_bytes(node.pid)
        print(
            f"{loop}: {at_rest >> 20} MiB at rest, {(with_polls - at_rest) // CLIENTS:,} bytes for "
            f"each that waits, {used:.2f} s of CPU in {seconds:.1f} s, {after_one >> 20} MiB after "
            f"all of it"
        )
        assert after_one - at_rest < CLIENTS * BYTES_PER_POLL_MAX + BYTES_LEFT_MAX
        # And the second time nothing is added.
        await waiting.begin()
        await waiting.end()
        assert resident_bytes(node.pid) - after_one < BYTES_LEFT_MAX // 8

    async def first_answer(connections: list[Connection]) -> dict[str, Any]:
        found: list[dict[str, Any]] = []

        async def listen(connection: Connection, scope: anyio.CancelScope) -> None:
            found.append(await connection.answer())
            scope.cancel()

        async with anyio.create_task_group() as task_group:
            for connection in connections:
                task_group.start_soon(listen, connection, task_group.cancel_scope)
        return found[0]

    async def guarded(node: Served, port: int) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            async with Crowd(port) as crowd:
                await story(node, crowd)

    served = Served(tmp_path, loop, text=SETTINGS, guard_seconds=PATIENCE_SECONDS)
    with many_files(), served as node:
        anyio.run(guarded, node, int(node.url().rpartition(":")[2]))
        node.send(signal.SIGTERM)
        assert node.wait() == 0
        assert "incident" not in node.errors
        assert "Traceback" not in node.errors

"""`mpreg serve` as a process: signals, kills under load, and what is there again afterwards."""

from __future__ import annotations

import itertools
import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, Self

import anyio
import anyio.to_thread
import httpx
import pytest
from attrs import define, field

from tests.e2e.support import GUARD_SECONDS, Program, loops, on_both_loops

#: On one loop; `make crash` sets more, on each.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "2"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))

SETTINGS = """
[mpreg.persistence]
data_dir = "data"
[mpreg.queues.jobs]
max_deliveries = 1000
lease_seconds = 86400.0
"""


class Served(Program):
    """A node in a process of its own."""

    def __init__(
        self,
        place: Path,
        loop: str,
        *arguments: object,
        text: str = SETTINGS,
        guard_seconds: float = GUARD_SECONDS,
    ) -> None:
        super().__init__("none", guard_seconds=guard_seconds)
        place.mkdir(exist_ok=True)
        file = place / "mpreg.toml"
        file.write_text(text)
        self.command = [
            *(sys.executable, "-m", "mpreg.cli", "serve", "--json"),
            *("--config", str(file), "--loop", loop, *map(str, arguments or ("--port", 0))),
        ]

    def __enter__(self) -> Self:
        super().__enter__()
        return self

    def url(self) -> str:
        """Waits until it is ready."""
        found: str = json.loads(self.line())["url"]
        return found


@on_both_loops
def test_sigterm_ends_a_long_poll_and_the_node_in_order(tmp_path: Path, loop: str) -> None:
    async def story(node: Served) -> None:
        async with httpx.AsyncClient(base_url=node.url(), timeout=None) as client:
            ready = await client.get("/health/ready")
            assert (ready.status_code, ready.json()["phase"]) == (200, "ready")
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(wait_for_a_message, client)
                while (await client.get("/v1/node")).json()["long_polls"] == 0:
                    await anyio.sleep(0.01)
                node.send(signal.SIGTERM)

    async def wait_for_a_message(client: httpx.AsyncClient) -> None:
        answer = await client.post("/v1/queues/jobs/receive", json={"wait_seconds": 50})
        assert (answer.status_code, answer.json()) == (200, {"messages": []})

    with Served(tmp_path, loop) as node:
        anyio.run(story, node)
        assert node.wait() == 0
        assert "Traceback" not in node.errors
        assert "stopped" in node.errors.splitlines()[-1]


def test_sigterm_before_the_settings_are_read_ends_it_as_signals_do(tmp_path: Path) -> None:
    """Nothing was opened, and nothing has to be closed."""
    settings = tmp_path / "settings.toml"
    os.mkfifo(settings)
    command = [sys.executable, "-m", "mpreg.cli", "serve", "--config", str(settings)]
    with subprocess.Popen(command, cwd=tmp_path, stderr=subprocess.PIPE) as process:
        try:
            while (written := _opened_by_a_reader(settings)) is None:
                assert process.poll() is None
                time.sleep(0.01)
            process.send_signal(signal.SIGTERM)
            assert process.wait(GUARD_SECONDS) == -signal.SIGTERM
            os.close(written)
            assert process.stderr is not None
            assert process.stderr.read() == b""
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == [settings]


def _opened_by_a_reader(fifo: Path) -> int | None:
    try:
        return os.open(fifo, os.O_WRONLY | os.O_NONBLOCK)
    except OSError:
        return None


@on_both_loops
def test_a_second_signal_does_not_wait(tmp_path: Path, loop: str) -> None:
    patient = f"{SETTINGS}\n[mpreg.server]\ngrace_seconds = 10000.0\n"
    with Served(tmp_path, loop, text=patient) as node:
        port = int(node.url().rpartition(":")[2])
        with socket.create_connection(("127.0.0.1", port)) as half:
            half.sendall(
                b"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: localhost\r\n"
                b"Content-Type: application/json\r\nContent-Length: 99\r\n\r\n{"
            )
            while httpx.get(f"http://127.0.0.1:{port}/v1/node").json()["requests"] < 2:
                pass
            node.send(signal.SIGINT)
            # It listens no more: it has got the first one.
            while True:
                try:
                    with socket.create_connection(("127.0.0.1", port)):
                        pass
                except OSError:
                    break
            node.send(signal.SIGTERM)
            assert node.wait() == -signal.SIGTERM


def test_settings_that_make_no_sense_are_told_and_nothing_is_opened(tmp_path: Path) -> None:
    with Served(tmp_path, "asyncio", "--host", "0.0.0.0") as node:
        assert node.wait() == 2
        told = json.loads(node.errors)
        assert (told["error"], "no token is set" in told["message"]) == ("ConfigurationError", True)
        assert not (tmp_path / "data").exists()


def test_a_port_that_another_program_has_may_be_free_another_time(tmp_path: Path) -> None:
    """Not as settings that make no sense, of which a service manager would try no second start."""
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with Served(tmp_path, "asyncio", "--port", port) as node:
            assert node.wait() == 1
    told = json.loads(node.errors)
    assert (told["error"], told["state"]) == ("ConfigurationError", "unchanged")
    assert f"127.0.0.1 port {port}: Address already in use" in told["message"]
    assert "--port takes another one" in told["advice"][0]
    assert not (tmp_path / "data").exists()


def test_a_directory_that_is_held_is_told(tmp_path: Path) -> None:
    with Served(tmp_path, "asyncio") as first:
        first.url()
        with Served(tmp_path, "asyncio") as second:
            assert second.wait() == 1
            [told] = [line for line in second.errors.splitlines() if line.startswith("{")]
            assert json.loads(told)["error"] == "DataDirectoryLockedError"


@pytest.mark.parametrize("loop", loops("trio"))
def test_a_damaged_database_that_opens_is_told_as_what_it_is(tmp_path: Path, loop: str) -> None:
    with Served(tmp_path, loop) as node:
        node.url()
        node.send(signal.SIGTERM)
        assert node.wait() == 0
    # Its first pages are left, and what they point to is gone.
    os.truncate(tmp_path / "data" / "mpreg.db", 8192)
    with Served(tmp_path, loop) as node:
        assert node.wait() == 3
        [told] = [json.loads(line) for line in node.errors.splitlines() if line.startswith("{")]
        assert "mpreg.db" in told["message"]
        assert "verify" in told["advice"][0]
        assert "Traceback" not in node.errors


def test_what_is_missing_is_told_with_the_setting_that_goes_on_without_it(tmp_path: Path) -> None:
    with Served(tmp_path, "asyncio") as node:
        node.url()
        node.send(signal.SIGTERM)
        assert node.wait() == 0
    (tmp_path / "data" / "mpreg.db").unlink()
    with Served(tmp_path, "asyncio") as node:
        assert node.wait() == 3
        [told] = [json.loads(line) for line in node.errors.splitlines() if line.startswith("{")]
    assert told["state"] == "acked data is missing"
    [(name, value)] = re.findall(r"(MPREG__\w+)=(\S+),", told["advice"][0])
    accepting = Served(tmp_path, "asyncio")
    accepting.environment[name] = value
    with accepting as node:
        assert node.url()


@define(eq=False)
class Load:
    """Senders and consumers over HTTP who try again until they are answered, and what they know.

    Each number is sent with a key of its own, so that it is one message however often it was tried.
    """

    url: str
    numbers: itertools.count[int] = field(factory=itertools.count)
    sent: dict[int, str] = field(factory=dict)
    """Those whose send was answered, and the ids of their messages."""
    acking: set[int] = field(factory=set)
    """Those whose ack may have been made or not."""
    acked: set[int] = field(factory=set)
    """Those whose ack was answered."""
    stopping: bool = False
    ended: anyio.Event = field(factory=anyio.Event)

    async def run(self, count: int) -> None:
        async with anyio.create_task_group() as task_group:
            for _ in range(count):
                task_group.start_soon(self._send)
                task_group.start_soon(self._consume)
        self.ended.set()

    async def _send(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            for number in self.numbers:
                if self.stopping:
                    return
                answer = await self._asked(
                    client, "messages", {"payload": number}, {"idempotency-key": str(number)}
                )
                assert answer.status_code == 201, answer.text
                [self.sent[number]] = answer.json()["ids"]

    async def _consume(self) -> None:
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            while not self.stopping:
                answer = await self._asked(client, "receive", {"wait_seconds": 0.2})
                for message in answer.json()["messages"]:
                    number = message["payload"]
                    self.check(message)
                    self.acking.add(number)
                    body = {"tokens": [message["token"]]}
                    answer = await self._asked(
                        client, "ack", body, {"idempotency-key": f"ack {message['token']}"}
                    )
                    if answer.status_code == 200:
                        self.acked.add(number)
                    else:
                        # The node was killed in between: it comes again.
                        assert answer.json()["error"] == "LeaseLostError"

    async def _asked(
        self,
        client: httpx.AsyncClient,
        route: str,
        body: dict[str, Any],
        headers: dict[str, str] | None = None,
    ) -> httpx.Response:
        while True:
            try:
                answer = await client.post(f"/v1/queues/jobs/{route}", json=body, headers=headers)
            except httpx.TransportError:
                await anyio.sleep(0.01)
                continue
            if answer.status_code != 503:
                return answer
            await anyio.sleep(0.01)

    def check(self, message: dict[str, Any]) -> None:
        number = message["payload"]
        assert number not in self.acked, f"{number} was acknowledged and comes again"
        assert self.sent.get(number, message["id"]) == message["id"], f"{number} was sent twice"

    async def drain(self) -> None:
        """What is left, and nothing else, is what was not acknowledged."""
        left: dict[int, str] = {}
        async with httpx.AsyncClient(base_url=self.url, timeout=60) as client:
            body = {"messages_max": 1_000}
            while messages := (await self._asked(client, "receive", body)).json()["messages"]:
                for message in messages:
                    self.check(message)
                    assert message["payload"] not in left, "one number is two messages"
                    left[message["payload"]] = message["id"]
        lost = self.sent.keys() - left.keys() - self.acking
        assert not lost, f"acknowledged sends are lost: {sorted(lost)}"


@pytest.mark.parametrize("loop", loops("asyncio"))
def test_a_node_that_ends_under_load_loses_no_acked_send_and_brings_back_no_acked_message(
    tmp_path: Path, loop: str
) -> None:
    chance = random.Random(SEED)
    with socket.socket() as free:
        free.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    load = Load(f"http://127.0.0.1:{port}")

    # Each life has a guard of its own: all those of a long run take longer than any one may.
    async def life_that_ends_by(number: signal.Signals) -> None:
        with Served(tmp_path, loop, "--port", port) as node, anyio.fail_after(GUARD_SECONDS):
            await anyio.to_thread.run_sync(node.url)
            enough = len(load.acked) + chance.randint(5, 30)
            while len(load.acked) < enough:
                await anyio.sleep(0.001)
            node.send(number)
            code = await anyio.to_thread.run_sync(node.wait)
            assert code == (0 if number is signal.SIGTERM else -number), node.errors

    async def last_life() -> None:
        with Served(tmp_path, loop, "--port", port) as node, anyio.fail_after(GUARD_SECONDS):
            await anyio.to_thread.run_sync(node.url)
            load.stopping = True
            await load.ended.wait()
            await load.drain()
            node.send(signal.SIGTERM)
            assert await anyio.to_thread.run_sync(node.wait) == 0

    async def story() -> None:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(load.run, 4)
            for life in range(KILLS):
                # In turn: one is told to stop while it is at work, another one is not.
                await life_that_ends_by(signal.SIGTERM if life % 2 else signal.SIGKILL)
            await last_life()

    anyio.run(story)

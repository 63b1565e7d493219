"""What only real connections show: waits, streams, clients that leave, nodes that stop."""

from __future__ import annotations

import os
from pathlib import Path

import anyio
import httpx
import pytest

from mpreg.errors import LeaseLostError
from mpreg.queues import QueueConfiguration
from tests.integration.fabric.support import Sockets, on_sockets, until, until_has
from tests.integration.server.support import error_of

pytestmark = pytest.mark.anyio

RECEIVE = "/v1/queues/jobs/receive"


async def receive_through(
    sockets: Sockets, name: str, found: list[httpx.Response], wait_seconds: float = 50.0
) -> None:
    async with httpx.AsyncClient(base_url=sockets[name].url, timeout=None) as client:
        found.append(await client.post(RECEIVE, json={"wait_seconds": wait_seconds}))


async def test_a_program_does_not_notice_which_node_it_asks(data_dir: Path) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        with sockets.client("a") as client, sockets.client("b") as there:
            async with client, there:
                jobs = await client.message_queues.get_queue("jobs")
                sent = [await jobs.send(number) for number in range(20)]
                got = []
                async for message in jobs.consume(prefetch=4):
                    await message.extend(60.0)
                    await message.ack()
                    got.append(message.id)
                    if len(got) == len(sent):
                        break
                assert got == sent
                # A token is of the node that gave it, whoever brings it.
                await jobs.send("last")
                last = await jobs.receive()
                assert last is not None
                at_home = await there.message_queues.get_queue("jobs")
                await last.ack()
                with pytest.raises(LeaseLostError):
                    await last.ack()
                assert (await at_home.statistics()).acknowledged == len(sent) + 1
                made = await client.message_queues.create_queue(
                    "jobs", QueueConfiguration(max_deliveries=9)
                )
                assert made.configuration.max_deliveries == 9
        assert await sockets["a"].node.queues.queue_names() == []


async def test_a_wait_through_another_node_ends_with_the_message_that_comes(
    data_dir: Path,
) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        found: list[httpx.Response] = []
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive_through, sockets, "a", found)
            # Of each other both nodes wait for news.
            await until(lambda: sockets["b"].node.long_polls.count == 2)
            jobs = await sockets["b"].node.queues.get_queue("jobs")
            await jobs.send("x")
        [message] = found[0].json()["messages"]
        assert message["payload"] == "x"
        await receive_through(sockets, "a", found, 0.001)
        assert found[1].json() == {"messages": []}


async def test_who_leaves_waits_nowhere(data_dir: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(receive_through, sockets, "a", [])
            await until(lambda: sockets["b"].node.long_polls.count == 2)
            task_group.cancel_scope.cancel()
        await until(lambda: sockets["b"].node.long_polls.count == 1)
        await until(lambda: sockets["a"].node.long_polls.count == 1)
        jobs = await sockets["b"].node.queues.get_queue("jobs")
        await jobs.send("x")
        assert await jobs.receive(0.0) is not None
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


async def test_a_wait_ends_where_its_node_stops_and_where_that_of_the_queue_does(
    data_dir: Path,
) -> None:
    for stopped in ("a", "b"):
        async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
            found: list[httpx.Response] = []
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(receive_through, sockets, "a", found)
                await until(lambda: sockets["b"].node.long_polls.count == 2)
                sockets[stopped].begin_to_stop()
            if stopped == "a":
                assert error_of(found[0]) == (503, "NotReadyError")
                assert found[0].json()["data_state"] == "not written"
            else:
                assert found[0].json() == {"messages": []}


async def test_a_write_under_way_has_the_grace_time_of_the_node_that_forwards_it(
    data_dir: Path,
) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        a, b = sockets["a"], sockets["b"]
        port = a.settings.server.port
        body = b'{"payload": "x"}'
        head = (
            f"POST /v1/queues/jobs/messages HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n"
            f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        async with await anyio.connect_tcp("127.0.0.1", port) as stream:
            await stream.send(head.encode() + body[:5])
            await until(lambda: b.node.requests == 2)
            a.begin_to_stop()
            await until(lambda: a.node.phase.value == "stopping")
            await stream.send(body[5:])
            answer = await stream.receive()
            assert answer.startswith(b"HTTP/1.1 201")
        jobs = await b.node.queues.get_queue("jobs")
        assert await jobs.receive(0.0) is not None


async def test_bodies_of_megabytes_go_both_ways(data_dir: Path) -> None:
    payload = os.urandom(6_000_000)
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        with sockets.client("a") as client:
            async with client:
                jobs = await client.message_queues.get_queue("jobs")
                await jobs.send(payload)
                message = await jobs.receive()
                assert message is not None
                assert message.payload == payload


async def test_a_client_that_leaves_in_the_middle_of_an_answer_is_let_go(data_dir: Path) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}) as sockets:
        a, b = sockets["a"].node, sockets["b"].node
        jobs = await b.queues.get_queue("jobs")
        await jobs.send(os.urandom(10_000_000))
        async with (
            httpx.AsyncClient(base_url=sockets["a"].url, timeout=None) as client,
            client.stream("POST", RECEIVE, json={}) as answer,
        ):
            assert answer.status_code == 200
        await until(lambda: a.peers.forwarded["left"] == 1)
        await until(lambda: a.requests == b.requests == 1)


async def test_a_node_that_comes_back_is_found_again(data_dir: Path) -> None:
    ttl = {"announcement_ttl_seconds": 3.0}
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}, backend="sqlite", **ttl) as sockets:
        with sockets.client("a") as client:
            async with client:
                jobs = await client.message_queues.get_queue("jobs")
                await jobs.send(1)
                await sockets["b"].stop()
                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(_send, jobs.send)
                    await until(lambda: sockets["a"].node.peers.forwarded["unreachable"] >= 2)
                    await sockets.start("b")
                assert (await jobs.statistics()).pending == 2
                # The one that forwards comes back as well, and knows it before it has asked.
                await sockets["a"].stop()
                await sockets.start("a")
                await jobs.send(3)
                assert (await jobs.statistics()).pending == 3


async def _send(send: object) -> None:
    await send(2)  # type: ignore[operator]


async def test_a_third_node_takes_part_when_it_comes(data_dir: Path) -> None:
    async with on_sockets(data_dir, {"a": (), "b": (), "c": ()}) as sockets:
        await sockets["c"].stop()
        await sockets.start("c")
        await sockets["c"].node.queues.create_queue("late")
        sockets["c"].node.fabric.look_again()
        for name in ("a", "b"):
            await until_has(sockets[name].node, "c", "late")

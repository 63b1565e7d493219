"""Requests that wait: woken by what they wait for, left by their clients, ended by the node."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from tests.integration.server.support import Conversation, Node, error_of, open_node, talk

pytestmark = pytest.mark.anyio

RECEIVE = "/v1/queues/jobs/receive"


def ask(who: Conversation, wait_seconds: float = 50.0) -> None:
    who.say(json.dumps({"wait_seconds": wait_seconds}).encode())


async def until_it_waits(node: Node, count: int = 1) -> None:
    while node.state.long_polls.count < count:
        await anyio.sleep(0)
    await anyio.wait_all_tasks_blocked()


async def test_a_wait_ends_with_the_message_that_comes(data_dir: Path) -> None:
    async with open_node(data_dir) as node, talk(node.app, "POST", RECEIVE) as who:
        ask(who)
        await until_it_waits(node)
        await node.send("x")
        await who.begin()
        [message] = json.loads(await who.hear_all())["messages"]
        assert (who.status, message["payload"]) == (200, "x")
        assert node.state.long_polls.count == 0


async def test_a_wait_for_nothing_ends_empty(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        assert await node.receive(wait_seconds=0.001) == []


async def test_nobody_waits_longer_than_the_node_allows(data_dir: Path) -> None:
    async with open_node(data_dir, long_poll_seconds_max=0.001) as node:
        assert await node.receive(wait_seconds=86_400) == []


async def test_what_a_client_that_left_waited_for_goes_to_another_one(data_dir: Path) -> None:
    async with open_node(data_dir) as node, talk(node.app, "POST", RECEIVE) as who:
        ask(who)
        await until_it_waits(node)
        who.leave()
        await who.ended.wait()
        await node.send("x")
        [message] = await node.receive()
        assert (message["payload"], message["attempt"]) == ("x", 1)


async def test_a_request_that_is_cancelled_while_it_waits_takes_nothing(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(node.post, RECEIVE, {"wait_seconds": 50})
                await until_it_waits(node)
                scope.cancel()
        assert node.state.long_polls.count == 0
        assert node.state.requests == 0
        await node.send("x")
        assert len(await node.receive()) == 1


async def test_waits_end_empty_when_the_node_stops_and_nothing_new_begins(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        async with (
            talk(node.app, "POST", RECEIVE) as poll,
            talk(node.app, "GET", "/v1/keys/n?watch") as stream,
        ):
            ask(poll)
            stream.say(b"")
            await until_it_waits(node, 2)
            node.state.begin_to_stop()
            await poll.begin()
            assert (poll.status, json.loads(await poll.hear_all())) == (200, {"messages": []})
            await stream.begin()
            assert await stream.hear_all() == b": mpreg\n\n"
        answer = await node.post("/v1/queues/jobs/messages", {"payload": 1})
        assert error_of(answer) == (503, "NotReadyError")
        ready = await node.client.get("/health/ready")
        assert (ready.status_code, ready.json()["phase"]) == (503, "stopping")
        assert (await node.client.get("/health/live")).status_code == 200


async def test_requests_that_do_not_end_are_cut_short_and_told_so(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        async with talk(node.app, "POST", "/v1/queues/jobs/messages") as slow:
            slow.say(b'{"payload"', more=True)
            await anyio.wait_all_tasks_blocked()
            node.state.begin_to_stop()
            node.state.end_requests()
            slow.say(b": 1}")
            await slow.begin()
            assert slow.status == 500
            # Nobody looks any more whether it was done.
            assert json.loads(await slow.hear_all())["data_state"] == "unknown"
        assert node.state.requests == 0


async def test_only_so_many_wait(data_dir: Path) -> None:
    async with (
        open_node(data_dir, long_polls_max=1) as node,
        talk(node.app, "POST", RECEIVE) as who,
    ):
        ask(who)
        await until_it_waits(node)
        refused = await node.post(RECEIVE, {"wait_seconds": 1})
        assert error_of(refused) == (429, "TooManyRequestsError")
        watch = await node.client.get("/v1/keys/n?watch")
        assert error_of(watch) == (429, "TooManyRequestsError")
        # Who does not wait is not one of them.
        assert await node.receive() == []


async def test_a_queue_that_is_deleted_ends_the_waits_for_it(data_dir: Path) -> None:
    async with open_node(data_dir) as node, talk(node.app, "POST", RECEIVE) as who:
        ask(who)
        await until_it_waits(node)
        await node.client.delete("/v1/queues/jobs")
        await who.begin()
        assert (who.status, json.loads(await who.hear_all())["error"]) == (410, "QueueDeletedError")

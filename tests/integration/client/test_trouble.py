"""Requests and answers that get lost, a node that is away or not ready: what is tried again, for
how long, and that nothing is done twice."""

from __future__ import annotations

import itertools
import random
import ssl
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mpreg.cache import GlobalCacheKey
from mpreg.client import MPREGClient, RemoteQueue
from mpreg.client.calls import PAUSE_SECONDS_MAX, pauses
from mpreg.client.connections import Connections
from mpreg.errors import (
    ConfigurationError,
    NodeError,
    NodeUnreachableError,
    NotANodeError,
    NotReadyError,
    QueueFullError,
    QueueNotFoundError,
    RequestRefusedError,
    UnauthorizedError,
    WriteInterruptedError,
)
from mpreg.queues import QueueConfiguration
from mpreg.reasons import reason
from mpreg.server.state import Phase
from tests.integration.client.support import (
    LOST_ANSWER,
    NOBODY,
    Tiring,
    Way,
    client_of,
    open_client,
)
from tests.integration.server.support import open_node
from tests.integration.server.test_connections import serving

pytestmark = pytest.mark.anyio


async def test_a_write_whose_answer_is_lost_is_made_once(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, server):
        lose = [LOST_ANSWER, NOBODY]
        way.troubles.extend(lose)
        jobs = await node.message_queues.create_queue("jobs")
        way.troubles.extend(lose)
        id = await jobs.send("one")
        way.troubles.extend(lose)
        ids = await jobs.send_many(["two", "three"])
        first, second, third = await jobs.receive_many(10, 1.0)
        assert [first.id, second.id, third.id] == [id, *ids]
        way.troubles.extend(lose)
        await first.ack()
        way.troubles.extend(lose)
        await jobs.ack([third])
        way.troubles.extend(lose)
        await second.nack(0.0)
        again = await jobs.receive()
        assert again is not None
        assert (again.id, again.attempt) == (second.id, 2)
        way.troubles.extend(lose)
        await again.extend()
        keys = node.key_value_store("ns")
        way.troubles.extend(lose)
        version = await keys.put("k", b"1", expected_version=0)
        way.troubles.extend(lose)
        entry = await keys.get("k")
        assert entry is not None
        assert entry.version == version
        way.troubles.extend(lose)
        assert await keys.delete("k", expected_version=version)
        way.troubles.extend(lose)
        await node.message_queues.delete_queue("jobs")
        assert await server.state.queues.queue_names() == []


async def test_a_deletion_that_was_made_is_no_error_where_its_answer_was_not_kept(
    data_dir: Path,
) -> None:
    async with open_node(data_dir, idempotency_window_seconds=0.001) as server:
        way = Way(server.app)
        async with client_of(way) as node:
            queues = node.message_queues
            jobs = await queues.get_queue("jobs")
            await jobs.subscription("s")
            way.troubles.extend([LOST_ANSWER, NOBODY])
            await jobs.delete_subscription("s")
            way.troubles.extend([LOST_ANSWER, NOBODY])
            await queues.delete_queue("jobs")
            with pytest.raises(QueueNotFoundError):
                await queues.delete_queue("jobs")


async def test_a_deletion_that_was_cut_short_is_one_where_there_is_nothing_of_that_name(
    data_dir: Path,
) -> None:
    cut_short = WriteInterruptedError("it was begun")
    async with open_client(data_dir) as (node, way, _):
        queues = node.message_queues
        jobs = await queues.get_queue("jobs")
        await jobs.subscription("s")
        way.troubles.append(cut_short)
        with pytest.raises(WriteInterruptedError):
            await jobs.delete_subscription("s")
        await jobs.delete_subscription("s")
        way.troubles.append(cut_short)
        await jobs.delete_subscription("s")
        way.troubles.append(cut_short)
        with pytest.raises(WriteInterruptedError):
            await queues.delete_queue("jobs")
        await queues.delete_queue("jobs")
        way.troubles.append(cut_short)
        await queues.delete_queue("jobs")


async def test_each_write_has_a_key_of_its_own_and_each_attempt_that_of_its_write(
    data_dir: Path,
) -> None:
    async with open_client(data_dir) as (node, way, _):
        jobs = await node.message_queues.get_queue("jobs")
        way.troubles.extend([LOST_ANSWER, "", LOST_ANSWER, ""])
        await jobs.send(1)
        await jobs.send(1)
        created, *keys = way.keys
        assert created is None
        assert keys == [keys[0], keys[0], keys[2], keys[2]]
        assert keys[0] != keys[2]


async def test_a_node_that_is_away_is_waited_for_and_one_that_stays_away_is_told(
    data_dir: Path,
) -> None:
    async with open_client(data_dir) as (node, way, _):
        jobs = await node.message_queues.get_queue("jobs")
        way.troubles.extend([NOBODY] * 4)
        await jobs.send(1)
        node._calls._patience_seconds = 0.01
        calls: list[Callable[[], Awaitable[Any]]] = [lambda: jobs.send(2), jobs.receive]
        for trouble, call in itertools.product((NOBODY, LOST_ANSWER), calls):
            way.troubles.append(trouble)
            way.troubles.extend([NOBODY] * 100)
            with pytest.raises(NodeUnreachableError) as raised:
                await call()
            way.troubles.clear()
            may = trouble == LOST_ANSWER
            assert raised.value.may_have_been_made is may
            assert raised.value.data_state == ("unknown" if may else "not written")
            assert ("may have been" in str(raised.value)) is may


async def test_what_may_have_been_done_is_not_denied_by_what_comes_later(data_dir: Path) -> None:
    chance = Tiring(1)
    async with open_client(data_dir, randomness=chance) as (node, way, server):
        jobs = await node.message_queues.get_queue("jobs")
        way.troubles.append(LOST_ANSWER)
        count = len(way.asked)

        def stop(_: httpx.Request) -> None:
            if len(way.asked) > count:
                server.state.phase = Phase.STARTING
                chance.is_tired = True

        way.before = stop
        with pytest.raises(NodeUnreachableError) as raised:
            await jobs.send(1)
        assert raised.value.may_have_been_made
        with pytest.raises(NotReadyError) as told:
            await jobs.send(2)
        assert told.value.data_state == "not written"


async def test_a_node_that_is_not_ready_is_waited_for(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, server):
        jobs = await node.message_queues.get_queue("jobs")
        server.state.phase = Phase.STARTING

        def start(_: httpx.Request) -> None:
            if len(way.asked) == 4:
                server.state.phase = Phase.READY

        way.before = start
        await jobs.send(1)
        assert way.count("/messages") == 4


async def test_a_node_that_is_there_again_may_keep_a_receiver_waiting_beyond_its_patience(
    data_dir: Path,
) -> None:
    async with open_client(data_dir, patience_seconds=2.0) as (node, way, _):
        jobs = await node.message_queues.create_queue("jobs")
        way.troubles.append(NOBODY)
        assert await jobs.receive(2.5) is None
        assert not way.troubles


async def test_a_send_waits_for_room_as_long_as_it_says(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        small = await node.message_queues.create_queue("small", QueueConfiguration(max_size=1))
        await small.send(1)
        with pytest.raises(QueueFullError):
            await small.send(2, wait_seconds=0.1)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: small.send(3, wait_seconds=None))
            count = way.count("/messages")
            while way.count("/messages") < count + 2:
                await anyio.sleep(0.01)
            message = await small.receive()
            assert message is not None
            await message.ack()
        message = await small.receive()
        assert message is not None
        assert message.payload == 3


async def test_a_wrong_token_is_told_at_once(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        await node.message_queues.queue_names()

        class Guarded(Way):
            async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
                assert request.headers["authorization"] == "Bearer xyz"
                self.asked.append(("", ""))
                body = {"error": "UnauthorizedError", "title": "Who?", "data_state": "not written"}
                return httpx.Response(401, json=body)

        guarded = Guarded()
        async with client_of(guarded, token="xyz") as other:
            with pytest.raises(UnauthorizedError):
                await other.message_queues.queue_names()
            assert "xyz" not in repr(other)
        assert len(guarded.asked) == 1
        assert way.count("/queues") == 1


@pytest.mark.parametrize("token", ["secret\n", "secr et", "secretü", ""])
def test_a_token_that_cannot_be_sent_is_refused_and_not_shown(token: str) -> None:
    with pytest.raises(ConfigurationError) as raised:
        MPREGClient("http://x", token)
    assert raised.value.setting == "token"
    assert "secr" not in repr(raised.value)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (301, RequestRefusedError),
        (307, RequestRefusedError),
        (404, RequestRefusedError),
        (500, NotANodeError),
        (501, NotANodeError),
        (502, NodeUnreachableError),
        (505, NotANodeError),
    ],
)
async def test_what_no_node_has_said_is_told_as_such(status: int, kind: type[Exception]) -> None:
    answers = httpx.MockTransport(lambda _: httpx.Response(status, text="<html>"))
    async with MPREGClient("http://x", transport=answers, patience_seconds=0.01) as node:
        with pytest.raises(kind) as raised:
            await node.message_queues.delete_queue("jobs")
        assert isinstance(raised.value, NodeError)
        # Who fails on the way may have passed it on.
        may_have_been_made = status in (500, 502, 505)
        assert raised.value.data_state == ("unknown" if may_have_been_made else "not written")


async def test_an_error_in_its_block_comes_out_of_it_as_it_is() -> None:
    with pytest.raises(LookupError, match="mine"):
        async with client_of(Way()):
            raise LookupError("mine")


async def test_encryption_where_there_is_none_is_told_with_the_reason(data_dir: Path) -> None:
    connections = Connections.of(ssl.create_default_context())
    async with serving(data_dir) as served, connections:
        url = served.state.url.replace("http://", "https://")
        with pytest.raises(httpx.ConnectError) as raised:
            await connections.handle_async_request(httpx.Request("GET", url))
    # What OpenSSL says of it, in whichever words; on trio it is told by what is behind the error.
    assert "ssl" in reason(raised.value).lower()


def test_pauses_grow_up_to_a_bound() -> None:
    some = list(itertools.islice(pauses(random.Random(0)), 50))
    assert some[0] < some[3] < some[5]
    assert max(some) <= PAUSE_SECONDS_MAX
    assert len(set(some)) == 50


async def test_dead_letters_come_whole_though_an_answer_has_not_room_for_all(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.routes.queues.ANSWER_BYTES_MAX", 1)
    async with open_client(data_dir) as (node, way, _):
        once = await node.message_queues.create_queue("once", QueueConfiguration(max_deliveries=1))
        await once.send_many(range(5))
        for _ in range(5):
            [message] = await once.receive_many(10, 1.0)
            await message.nack()
        way.asked.clear()
        assert [one.payload for one in await once.dead_letters()] == [0, 1, 2, 3, 4]
        assert way.count("/dead-letters") == 5
        assert [one.payload for one in await once.dead_letters(2)] == [0, 1]
        assert await once.dead_letters(0) == []
        assert way.count("/dead-letters") == 7


PORTAL = "<html>Please log in to the network.</html>"


async def test_what_is_no_node_and_says_that_all_is_well_is_told(data_dir: Path) -> None:
    asked: list[str] = []

    def answer(request: httpx.Request) -> httpx.Response:
        asked.append(request.method)
        return httpx.Response(200, text=PORTAL)

    portal = httpx.MockTransport(answer)
    async with MPREGClient("http://x:81", transport=portal) as node:
        jobs = RemoteQueue(node.message_queues._parts, "jobs", QueueConfiguration())

        async def follow() -> None:
            async with node.log_store("log").follow(0):
                pass

        calls: list[Callable[[], Awaitable[Any]]] = [
            lambda: node.message_queues.get_queue("jobs"),
            lambda: jobs.send(1),
            lambda: node.key_value_store("ns").get("k"),
            lambda: node.log_store("log").append(b""),
            lambda: node.snapshot_store("images").load(),
            lambda: node.snapshot_store("images").save(b""),
            lambda: node.cache.get(GlobalCacheKey("ns", "k")),
            lambda: node.cache.increment(GlobalCacheKey("ns", "k")),
            follow,
        ]
        for call in calls:
            with pytest.raises(NotANodeError, match=r"x:81 answered 200.*url") as raised:
                await call()
            assert (raised.value.status, raised.value.data_state) == (200, "unknown")
    # It does not pass by itself.
    assert len(asked) == len(calls)


async def test_what_is_no_node_and_refuses_has_carried_out_nothing() -> None:
    for status in (302, 404, 405):
        answers = httpx.MockTransport(lambda _, status=status: httpx.Response(status, text=PORTAL))
        async with MPREGClient("http://x", transport=answers) as node:
            with pytest.raises(NotANodeError) as raised:
                await node.key_value_store("ns").put("k", b"")
            assert (raised.value.status, raised.value.data_state) == (status, "not written")


async def test_an_answer_of_no_node_after_a_lost_one_leaves_it_open(data_dir: Path) -> None:
    def answer(_: httpx.Request) -> httpx.Response:
        if answers:
            return answers.pop()
        raise httpx.ReadError(LOST_ANSWER)

    answers: list[httpx.Response] = []

    class Changing(httpx.MockTransport):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            try:
                return await super().handle_async_request(request)
            finally:
                answers.append(httpx.Response(404))

    async with MPREGClient("http://x", transport=Changing(answer)) as node:
        with pytest.raises(NodeUnreachableError) as raised:
            await node.key_value_store("ns").put("k", b"")
        assert raised.value.may_have_been_made

"""Requests for a queue that is at another node, and what is told where they do not get there."""

from __future__ import annotations

import json
import math
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from mpreg.errors import PeerUnreachableError
from mpreg.server.forwarding import PASSED, ROLE, TO
from mpreg.server.idempotency import IdempotencyKeys
from mpreg.server.peer import PeerState
from mpreg.server.routes import ENDPOINTS
from tests.integration.fabric.support import (
    LOST_ANSWER,
    NOBODY,
    Network,
    open_node,
    open_nodes,
    until,
    until_has,
    until_known,
    url_of,
)
from tests.integration.server.support import PATIENCE_SECONDS, error_of, talk

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/queues/jobs/messages"

READ, WRITE, ADMIN = "r" * 16, "w" * 16, "a" * 16


def bearer(token: str) -> dict[str, str]:
    return {"authorization": f"Bearer {token}"}


async def test_the_whole_life_of_a_queue_is_had_through_another_node(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        a, b = nodes["a"], nodes["b"]
        base = "/v1/queues/jobs"
        asked: tuple[tuple[str, str, Any], ...] = (
            ("PUT", base, {"max_deliveries": 1}),
            ("GET", base, None),
            ("PUT", f"{base}/subscriptions/audit", {}),
            ("POST", MESSAGES, {"messages": [{"payload": number} for number in range(4)]}),
            ("POST", f"{base}/receive", {"messages_max": 4}),
        )
        for method, path, body in asked:
            answer = await a.client.request(method, path, json=body)
            assert answer.is_success, answer.text
            assert answer.headers["x-mpreg-node"] == "b"
        tokens = [one["token"] for one in answer.json()["messages"]]
        for path, body in (
            (f"{base}/ack", {"tokens": tokens[:1]}),
            (f"{base}/extend", {"token": tokens[1]}),
            (f"{base}/nack", {"token": tokens[1], "reason": "bad"}),
            (f"{base}/release", {"tokens": tokens[2:]}),
        ):
            assert (await a.post(path, body)).is_success, path
        letters = await a.client.get(f"{base}/dead-letters?limit=10")
        assert [one["payload"] for one in letters.json()["dead_letters"]] == [1]
        for method, path in (
            ("POST", f"{base}/dead-letters/redrive"),
            ("POST", f"{base}/dead-letters/purge"),
            ("POST", f"{base}/purge"),
            ("DELETE", f"{base}/subscriptions/audit"),
            ("HEAD", base),
            ("DELETE", base),
        ):
            assert (await a.client.request(method, path)).is_success, path
        assert await b.state.queues.queue_names() == await a.state.queues.queue_names() == []
        # All routes of a queue were among them.
        there = {
            (one.method, one.path.replace("{queue}", "jobs").replace("{subscription}", "audit"))
            for one in ENDPOINTS
            if one.is_of_queue
        }
        assert there <= {(one.method, one.url.path) for one in network.asked}


async def test_answers_and_refusals_come_as_they_are(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (_, nodes):
        a, b = nodes["a"], nodes["b"]
        for path, body in (
            ("/v1/queues/jobs/ack", {"tokens": ["none"]}),
            ("/v1/queues/jobs/receive", {"nothing": 1}),
            (MESSAGES, {"payload": 1, "priority": 999}),
        ):
            through, direct = await a.post(path, body), await b.post(path, body)
            assert (through.status_code, through.json()) == (direct.status_code, direct.json())
            assert error_of(through) == error_of(direct)
        headers = {"accept": "application/msgpack"}
        sent = await a.post(MESSAGES, {"payload": None}, headers=headers)
        assert sent.headers["content-type"] == "application/msgpack"
        assert msgspec.msgpack.decode(sent.content).keys() == {"ids"}


async def test_a_queue_that_is_nowhere_is_not_found_and_made_here(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (_, nodes):
        answer = await nodes["a"].post("/v1/queues/mails/messages", {"payload": 1})
        assert error_of(answer) == (404, "QueueNotFoundError")
        assert (await nodes["a"].client.put("/v1/queues/mails")).is_success
        assert await nodes["a"].state.queues.queue_names() == ["mails"]
        # One that is elsewhere is not made a second time.
        assert (await nodes["a"].client.put("/v1/queues/jobs")).is_success
        assert await nodes["a"].state.queues.queue_names() == ["mails"]


async def test_the_one_that_is_here_wins(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=("jobs",), b=("jobs",)) as (network, nodes):
        for name, node in nodes.items():
            await node.send(name)
        assert network.asked == []
        for name, node in nodes.items():
            assert [one["payload"] for one in await node.receive()] == [name]


async def test_of_two_that_have_it_all_others_ask_the_same(data_dir: Path) -> None:
    async with open_nodes(data_dir, d=(), c=("jobs",), b=("jobs",), a=()) as (_, nodes):
        await nodes["a"].send(1)
        await nodes["d"].send(2)
        assert [one["payload"] for one in await nodes["b"].receive()] == [1, 2]
        assert await nodes["c"].receive() == []


async def test_on_its_way_no_other_node_answers_for_the_one_that_was_chosen(
    data_dir: Path,
) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "a", data_dir, peers={}, queues=["jobs"]) as a,
            open_node(network, "b", data_dir, peers={url_of("a"): None}, queues=["jobs"]) as b,
            open_node(network, "c", data_dir, peers={url_of("b"): None}) as c,
        ):
            await until_known(c.state, "a", "b")
            await c.send("for a")
            assert await b.receive() == []
            assert [one["payload"] for one in await a.receive()] == ["for a"]
            # One may say which is meant, by its identity.
            headers = {TO: b.state.fabric.identity}
            assert (await c.post(MESSAGES, {"payload": 1}, headers=headers)).status_code == 201
            assert len(await b.receive()) == 1
            answer = await c.post(MESSAGES, {"payload": 1}, headers={TO: "nobody"})
            assert error_of(answer) == (502, "PeerUnreachableError")


async def test_keys_values_and_caches_are_a_nodes_own(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=()) as (network, nodes):
        await nodes["b"].client.put("/v1/keys/n/ann", content=b"1")
        await nodes["b"].client.put("/v1/cache/pages/home", json=1)
        for path in ("/v1/keys/n/ann", "/v1/cache/pages/home"):
            assert (await nodes["a"].client.get(path)).status_code == 404
        assert network.asked == []


async def test_names_of_all_kinds_get_there(data_dir: Path) -> None:
    names = ("a b", "%2F", "ä/ö".replace("/", "?"), "..", "#", "a%b", "+", "☃")
    async with open_nodes(data_dir, a=(), b=names) as (_, nodes):
        for name in names:
            path = f"/v1/queues/{'%2E%2E' if name == '..' else _quoted(name)}"
            answer = await nodes["a"].client.get(path)
            assert answer.status_code == 200, name
            assert answer.json()["name"] == name


def _quoted(name: str) -> str:
    return "".join(f"%{byte:02X}" for byte in name.encode())


# --- writes that are sent again ---


async def test_a_write_is_made_once_whichever_way_it_is_sent_again(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        a, b = nodes["a"], nodes["b"]
        key = {"idempotency-key": "one"}
        network.troubles.append(LOST_ANSWER)
        lost = await a.post(MESSAGES, {"payload": 1}, headers=key)
        assert error_of(lost) == (502, "PeerUnreachableError")
        assert lost.json()["data_state"] == "unknown"
        for node in (a, b, a):
            again = await node.post(MESSAGES, {"payload": 1}, headers=key)
            assert (again.status_code, again.headers["idempotency-replayed"]) == (201, "true")
        assert len(await b.receive()) == 1


async def test_what_was_made_here_is_not_made_elsewhere_when_it_is_sent_again(
    data_dir: Path,
) -> None:
    async with open_nodes(data_dir, a=("jobs",), b=("jobs",)) as (_, nodes):
        a, b = nodes["a"], nodes["b"]
        key = {"idempotency-key": "one"}
        for _ in range(2):
            assert (await a.client.delete("/v1/queues/jobs", headers=key)).json() == {
                "deleted": True
            }
        assert await b.state.queues.queue_names() == ["jobs"]


async def test_a_peer_that_does_not_listen_has_certainly_not_made_it(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        network.troubles.extend([NOBODY, NOBODY, LOST_ANSWER])
        for method in ("POST", "GET", "GET"):
            path = MESSAGES if method == "POST" else "/v1/queues/jobs"
            answer = await nodes["a"].client.request(method, path, json={"payload": 1})
            assert error_of(answer) == (502, "PeerUnreachableError")
            problem = answer.json()
            # Reading changes nothing, also where the answer is lost.
            assert problem["data_state"] == "not written"
            assert "'jobs' is at node 'b'" in problem["detail"]
            assert "localhost" not in answer.text
            assert answer.headers["retry-after"] == "1"
        assert await nodes["b"].receive() == []


# --- nodes that are away ---


async def test_a_queue_whose_node_is_away_is_not_called_unknown(data_dir: Path) -> None:
    network = Network()
    ttl: dict[str, Any] = {"announcement_ttl_seconds": 0.3}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("b"): None}, **ttl) as a:
            async with open_node(network, "b", data_dir, peers={}, queues=["jobs"], **ttl):
                await until_has(a.state, "b", "jobs")
            found = a.state.fabric.holder("jobs")
            assert found is not None
            await until(lambda: not a.state.fabric.is_alive(found))
            for method, path in (("POST", MESSAGES), ("PUT", "/v1/queues/jobs")):
                answer = await a.client.request(method, path, json={})
                assert error_of(answer) == (502, "PeerUnreachableError")
                assert "which is away" in answer.json()["detail"]
                assert answer.json()["data_state"] == "not written"
            [_, told] = (await a.client.get("/v1/fabric")).json()["nodes"]
            assert (told["name"], told["state"], told["queues"]) == ("b", "away", ["jobs"])
            assert NOBODY in told["why"]
            # However long it is away, it is not made a second time by itself.
            past = found.expires_at + 1e6
            assert a.state.fabric.catalog.forget(past) == []
            assert a.state.fabric.catalog.holder("jobs", past) == found
            assert (await a.client.put("/v1/queues/jobs?here")).status_code == 200
            assert await a.state.queues.queue_names() == ["jobs"]


@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_after_a_restart_it_is_known_where_a_queue_is_before_anybody_was_asked(
    data_dir: Path, backend: str
) -> None:
    network, peers = Network(), {url_of("b"): None}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "b", data_dir, peers={}, queues=["jobs"]) as b:
            async with open_node(network, "a", data_dir, peers=peers, backend=backend) as a:
                await until_has(a.state, "b", "jobs")
                before = a.state.fabric
            async with open_node(
                network, "a", data_dir, peers=peers, backend=backend, is_following=False
            ) as a:
                assert a.state.fabric.identity == before.identity
                assert a.state.fabric.incarnation > before.incarnation
                stats = await a.state.registry.stats()
                [catalog] = [one for one in stats.participants if one.name == "catalog"]
                assert (catalog.done, catalog.unit) == (1, "nodes")
                found = a.state.fabric.holder("jobs")
                assert found is not None
                assert found.announcement.node == b.state.fabric.identity
            # And one who is no peer any more is not.
            async with open_node(
                network, "a", data_dir, peers={}, backend=backend, is_following=False
            ) as a:
                assert a.state.fabric.holder("jobs") is None


# --- who may ---


def secret(directory: Path, token: str) -> str:
    path = directory / f"token-{token[0]}"
    path.write_text(token)
    path.chmod(0o600)
    return str(path)


TOKENS = {"read_token": READ, "write_token": WRITE, "admin_token": ADMIN}


async def test_the_first_node_looks_at_the_role_and_the_peers_token_carries_on(
    data_dir: Path, tmp_path: Path
) -> None:
    network = Network()
    peers = {url_of("b"): secret(tmp_path, ADMIN)}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "b", data_dir, peers={}, queues=["jobs"], server=TOKENS),
            open_node(
                network,
                "a",
                data_dir,
                peers=peers,
                server={"read_token": "1" * 16, "write_token": "2" * 16, "admin_token": "3" * 16},
            ) as a,
        ):
            await until_has(a.state, "b", "jobs")
            for token, method, status in (
                ("1", "GET", 200),
                ("1", "POST", 403),
                ("2", "POST", 201),
                ("2", "DELETE", 403),
                ("4", "GET", 401),
                ("3", "DELETE", 200),
            ):
                path = MESSAGES if method == "POST" else "/v1/queues/jobs"
                answer = await a.client.request(
                    method, path, json={"payload": 1}, headers=bearer(token * 16)
                )
                assert answer.status_code == status, answer.text
            # What was refused here was asked of nobody, and nobody is told the tokens of others.
            assert [one.method for one in network.asked] == ["GET", "POST", "DELETE"]
            assert {one.headers["authorization"] for one in network.asked} == {f"Bearer {ADMIN}"}
            assert [one.headers[ROLE] for one in network.asked] == ["read", "write", "admin"]


async def test_a_role_can_be_lowered_and_not_raised(data_dir: Path) -> None:
    network = Network()
    async with open_node(network, "b", data_dir, peers={}, queues=["jobs"], server=TOKENS) as b:
        for token, role, status in (
            (ADMIN, "read", 403),
            (ADMIN, "write", 201),
            (READ, "admin", 403),
            (WRITE, "admin", 201),
            (ADMIN, "king", 400),
        ):
            headers = {**bearer(token), ROLE: role}
            answer = await b.post(MESSAGES, {"payload": 1}, headers=headers)
            assert answer.status_code == status, (token, role)


async def test_keys_of_different_roles_stay_apart_on_their_way(
    data_dir: Path, tmp_path: Path
) -> None:
    network = Network()
    peers = {url_of("b"): secret(tmp_path, ADMIN)}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "b", data_dir, peers={}, queues=["jobs"], server=TOKENS) as b,
            open_node(network, "a", data_dir, peers=peers, server=TOKENS) as a,
        ):
            await until_has(a.state, "b", "jobs")
            ids = []
            for node, token in ((a, WRITE), (b, WRITE), (a, ADMIN), (b, ADMIN)):
                headers = {**bearer(token), "idempotency-key": "one"}
                answer = await node.post(MESSAGES, {"payload": 1}, headers=headers)
                ids += answer.json()["ids"]
            assert ids[0] == ids[1] != ids[2] == ids[3]


@pytest.mark.parametrize(("token", "status"), [(READ, 403), ("x" * 16, 502), (None, 502)])
async def test_a_peer_that_does_not_take_the_token_is_no_fault_of_the_caller(
    data_dir: Path, tmp_path: Path, token: str | None, status: int
) -> None:
    network = Network()
    peers = {url_of("b"): secret(tmp_path, token) if token else None}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "b", data_dir, peers={}, queues=["jobs"], server=TOKENS) as b,
            open_node(network, "a", data_dir, peers=peers) as a,
        ):
            [peer] = a.state.peers.all.values()
            if token != READ:
                await until(lambda: "token_file" in peer.error)
                # It was known from before the token was changed.
                a.state.fabric.hear(b.state.fabric.told(), peer.url)
            await until_has(a.state, "b", "jobs")
            answer = await a.post(MESSAGES, {"payload": 1})
            assert answer.status_code == status
            assert "token_file" in answer.json()["detail"]
            assert answer.json()["data_state"] == "not written"
            assert token is None or token not in answer.text


# --- loops ---


async def test_a_request_that_comes_back_is_not_sent_around(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        own = nodes["a"].state.fabric.identity
        for passed in (own, f"x,{own},y", ",".join(f"n{number}" for number in range(8))):
            answer = await nodes["a"].post(MESSAGES, {"payload": 1}, headers={PASSED: passed})
            assert error_of(answer) == (508, "ForwardingLoopError")
            assert "'jobs' is at node 'b'" in answer.json()["detail"]
        assert network.asked == []
        # Where the queue is, nobody counts.
        there = nodes["b"].state.fabric.identity
        answer = await nodes["b"].post("/v1/queues/mails/messages", {}, headers={TO: there})
        assert error_of(answer) == (404, "QueueNotFoundError")
        answer = await nodes["b"].post(MESSAGES, {"payload": 1}, headers={PASSED: there})
        assert answer.status_code == 201


async def test_two_that_take_each_other_for_the_one_that_has_it_end_with_an_error(
    data_dir: Path,
) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "c", data_dir, peers={}, queues=["jobs"]) as c,
            open_node(network, "b", data_dir, peers={url_of("a"): None}) as b,
            open_node(network, "a", data_dir, peers={url_of("b"): None}) as a,
        ):
            await until_known(a.state, "b")
            await until_known(b.state, "a")
            # Each has it from the other one: nothing that nodes do to one another makes this.
            for node, via in ((a, "b"), (b, "a")):
                told = [msgspec.structs.replace(one, hops=1) for one in c.state.fabric.told()]
                node.state.fabric.hear(told, url_of(via))
            answer = await a.post(MESSAGES, {"payload": 1})
            assert error_of(answer) == (508, "ForwardingLoopError")
            assert [one.url.host for one in network.asked] == ["b.localhost", "a.localhost"]


# --- bodies ---


async def test_a_body_that_is_too_large_is_refused_at_the_first_node(data_dir: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "b", data_dir, peers={}, queues=["jobs"]) as b,
            open_node(
                network,
                "a",
                data_dir,
                peers={url_of("b"): None},
                server={"body_bytes_max": 1_024},
            ) as a,
        ):
            await until_has(a.state, "b", "jobs")
            answer = await a.post(MESSAGES, {"payload": "x" * 2_000})
            assert error_of(answer) == (413, "ValueTooLargeError")
            assert network.asked == []
            async with talk(a.app, "POST", MESSAGES, {"transfer-encoding": "chunked"}) as who:
                who.say(b'{"payload": "' + b"x" * 500, more=True)
                who.say(b"x" * 600 + b'"}')
                await who.begin()
                assert json.loads(await who.hear_all())["error"] == "ValueTooLargeError"
            async with talk(a.app, "POST", MESSAGES, {"transfer-encoding": "chunked"}) as who:
                for piece in (b'{"pay', b'load":', b' "x"}'):
                    who.say(piece, more=True)
                who.say(b"")
                await who.begin()
                assert who.status == 201
            assert [one["payload"] for one in await b.receive()] == ["x"]


async def test_a_client_that_leaves_in_the_middle_of_its_body_has_sent_nothing(
    data_dir: Path,
) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (_, nodes):
        async with talk(nodes["a"].app, "POST", MESSAGES, {"content-length": "100"}) as who:
            who.say(b'{"payload":', more=True)
            await who.until_heard()
            who.leave()
            await who.ended.wait()
        assert await nodes["b"].receive() == []
        assert nodes["a"].state.peers.forwarded == {"left": 1}


async def test_no_time_runs_against_a_peer_while_a_client_sends_its_body(data_dir: Path) -> None:
    waiting_for_it: list[float] = []
    passing_it_on: list[float] = []

    class Body(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for piece in (b"1", b"2"):
                waiting_for_it.append(anyio.current_effective_deadline())
                yield piece

    class Reading(Network):
        async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
            assert isinstance(request.stream, httpx.AsyncByteStream)
            passing_it_on.extend([anyio.current_effective_deadline() async for _ in request.stream])
            return await super().handle_async_request(request)

    network = Reading()
    async with open_node(network, "a", data_dir, peers={url_of("b"): None}) as a:
        [peer] = a.state.peers.all.values()
        now = anyio.current_time()
        with pytest.raises(PeerUnreachableError):
            await a.state.peers.ask(peer, "POST", peer.target("/"), [], Body(), 3600.0)
    assert waiting_for_it == [math.inf, math.inf]
    assert [now + 3600.0 <= one < math.inf for one in passing_it_on] == [True, True]


class Stuck(httpx.AsyncByteStream):
    """The beginning of an answer, and then nothing, or a byte now and then for ever."""

    def __init__(self, pause_seconds: float) -> None:
        self.pause_seconds = pause_seconds
        self.closed = False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        yield b'{"messages": '
        while True:
            await anyio.sleep(self.pause_seconds)
            yield b" "

    async def aclose(self) -> None:
        self.closed = True


@pytest.mark.parametrize("pause_seconds", [math.inf, 0.005])
async def test_an_answer_that_does_not_come_on_is_given_up(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, pause_seconds: float
) -> None:
    monkeypatch.setattr("mpreg.server.calls.BODY_SECONDS_MAX", 0.1)
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        stuck = Stuck(pause_seconds)

        async def answer(request: httpx.Request) -> httpx.Response:
            if request.url.path.startswith("/v1/fabric"):
                await anyio.sleep_forever()
            return httpx.Response(200, headers={"x-mpreg-api": "1"}, stream=stuck)

        network.apps["b.localhost"] = answer
        a = nodes["a"]
        # It is cut, so that nobody takes what has come for the whole.
        with pytest.raises(PeerUnreachableError, match="does not come on"):
            await a.post("/v1/queues/jobs/receive")
        assert stuck.closed
        assert a.state.peers.forwarded == {"unreachable": 1}


async def test_who_takes_an_answer_slowly_is_not_the_fault_of_the_peer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the waits for the peer count."""
    waits: list[tuple[float, float]] = []

    class Answer(httpx.AsyncByteStream):
        async def __aiter__(self) -> AsyncIterator[bytes]:
            for _ in range(3):
                waits.append((anyio.current_time(), anyio.current_effective_deadline()))
                yield b"x" * 100_000

    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):

        async def answer(request: httpx.Request) -> httpx.Response:
            return httpx.Response(200, headers={"x-mpreg-api": "1"}, stream=Answer())

        network.apps["b.localhost"] = answer
        given, patience = anyio.current_time(), anyio.current_effective_deadline()
        got = await nodes["a"].client.get("/v1/queues/jobs")
        assert len(got.content) == 300_000
    assert len(waits) == 3
    # At a rate of 500 bytes a second each of them makes up for what it took.
    for now, deadline in waits:
        assert min(given + 30.0, patience) <= deadline <= now + 30.0
        given = now


async def test_what_became_of_requests_is_counted(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        a = nodes["a"]
        network.troubles.extend(["", NOBODY])
        for _ in range(3):
            await a.post(MESSAGES, {"payload": 1})
        await a.post(MESSAGES, {}, headers={PASSED: a.state.fabric.identity})
        assert a.state.peers.forwarded == {"answered": 2, "unreachable": 1, "loop": 1}


@pytest.mark.parametrize("status", [200, 302, 404, 503])
async def test_what_answers_in_the_place_of_a_peer_is_not_told_as_the_answer_of_a_node(
    data_dir: Path, status: int
) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):

        async def other(_: httpx.Request) -> httpx.Response:
            return httpx.Response(status, content=b"all is well")

        network.apps["b.localhost"] = other
        answer = await nodes["a"].post(MESSAGES, {"payload": 1})
        assert error_of(answer) == (502, "PeerUnreachableError")
        assert answer.json()["data_state"] == "unknown"
        assert str(status) in answer.json()["detail"]


async def test_headers_that_are_between_neighbours_do_not_go_on(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):

        async def moved(_: httpx.Request) -> httpx.Response:
            headers = {"location": "http://elsewhere", "set-cookie": "a=b", "server": "x"}
            headers["x-mpreg-api"] = "1"
            return httpx.Response(302, headers=headers, content=b"moved")

        network.apps["b.localhost"] = moved
        answer = await nodes["a"].post(MESSAGES, {"payload": 1})
        assert (answer.status_code, answer.content) == (302, b"moved")
        assert not {"location", "set-cookie", "server"} & answer.headers.keys()


async def test_a_key_is_read_once_where_the_queue_is_here(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_nodes(data_dir, a=("mails",), b=("jobs",)) as (_, nodes):
        asked: list[str] = []
        knows = IdempotencyKeys.knows

        async def note(self: IdempotencyKeys, owner: str, key: str) -> bool:
            asked.append(key)
            return await knows(self, owner, key)

        monkeypatch.setattr(IdempotencyKeys, "knows", note)

        async def send(queue: str, key: str) -> None:
            path, headers = f"/v1/queues/{queue}/messages", {"idempotency-key": key}
            answer = await nodes["a"].client.post(path, json={"payload": 1}, headers=headers)
            assert answer.status_code == 201

        await send("mails", "here")
        await send("jobs", "there")
        # Also where it cannot be told what else a peer has.
        [peer] = nodes["a"].state.peers.all.values()
        peer.state = PeerState.AWAY
        await send("mails", "here again")
        assert asked == ["there"]

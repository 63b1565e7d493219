"""Nodes that come to know of one another, and what is told of that."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import httpx
import msgspec
import pytest

from mpreg.errors import InvalidArgumentError
from mpreg.fabric import NODES_MAX
from mpreg.server.peer import PeerState
from tests.integration.fabric.support import (
    Network,
    known_to,
    open_node,
    open_nodes,
    until,
    until_has,
    until_known,
    url_of,
)
from tests.integration.server.support import PATIENCE_SECONDS, Node, error_of, talk

pytestmark = pytest.mark.anyio


async def told(node: Node) -> dict[str, Any]:
    answer = await node.client.get("/v1/fabric")
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def test_each_node_comes_to_know_what_the_others_have(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=("jobs",), b=("mails", "orders"), c=()) as (_, nodes):
        nodes["c"].state.fabric.register_function("resize")
        await until(
            lambda: known_to(nodes["a"].state)["c"].announcement.contents.functions == ("resize",)
        )
        found = await told(nodes["a"])
        assert found["name"] == "a"
        assert [
            (one["name"], one["state"], one["via"], one["hops"], one["queues"], one["functions"])
            for one in found["nodes"]
        ] == [
            ("a", "self", None, 0, ["jobs"], []),
            ("b", "alive", url_of("b"), 1, ["mails", "orders"], []),
            ("c", "alive", url_of("c"), 1, [], ["resize"]),
        ]
        assert all(one["caches"] == ["default"] for one in found["nodes"])
        now = nodes["a"].state.registry.clock.wall()
        assert all(now < one["expires_at"] <= now + 15.1 for one in found["nodes"])
        assert [
            (one["url"], one["name"], one["state"], one["error"]) for one in found["peers"]
        ] == [
            (url_of("b"), "b", "alive", ""),
            (url_of("c"), "c", "alive", ""),
        ]


async def test_what_is_made_or_deleted_is_known_elsewhere_at_once(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=()) as (_, nodes):
        a, b = nodes["a"], nodes["b"]
        assert (await b.client.put("/v1/queues/jobs")).status_code == 200
        await until_has(a.state, "b", "jobs")
        assert (await b.client.delete("/v1/queues/jobs")).status_code == 200
        await until_has(a.state, "b", "jobs", has=False)


async def test_what_is_made_by_a_program_in_the_node_is_told_to_the_next_who_asks(
    data_dir: Path,
) -> None:
    async with open_nodes(data_dir, a=()) as (_, nodes):
        before = await told(nodes["a"])
        await nodes["a"].state.queues.create_queue("jobs")
        after = await told(nodes["a"])
        assert (before["nodes"][0]["queues"], after["nodes"][0]["queues"]) == ([], ["jobs"])
        assert before["revision"] != after["revision"]


async def test_who_knows_it_already_waits_for_news(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=()) as (_, nodes):
        node = nodes["a"]
        revision = (await told(node))["revision"]
        same = await node.client.get(f"/v1/fabric?revision={revision}&wait_seconds=0.001")
        assert same.json()["revision"] == revision
        other = await node.client.get("/v1/fabric?revision=other&wait_seconds=50")
        assert other.json()["revision"] == revision
        target = f"/v1/fabric?revision={revision}&wait_seconds=50"
        async with talk(node.app, "GET", target) as who:
            who.say(b"")
            await until(lambda: node.state.long_polls.count)
            node.state.fabric.register_function("resize")
            await who.begin()
            news = msgspec.json.decode(await who.hear_all())
        assert news["nodes"][0]["functions"] == ["resize"]


async def test_who_finds_no_room_to_wait_is_answered_at_once(data_dir: Path) -> None:
    network = Network()
    async with (
        open_node(
            network, "a", data_dir, peers={}, queues=["jobs"], server={"long_polls_max": 1}
        ) as node,
        talk(node.app, "POST", "/v1/queues/jobs/receive") as who,
    ):
        who.say(b'{"wait_seconds": 50}')
        await until(lambda: node.state.long_polls.count)
        revision = (await told(node))["revision"]
        answer = await node.client.get(f"/v1/fabric?revision={revision}&wait_seconds=50")
        assert answer.status_code == 200


async def test_nobody_is_asked_to_wait_for_hours_whatever_the_ttl(data_dir: Path) -> None:
    network, asked = Network(), list[str]()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "b", data_dir, peers={}, announcement_ttl_seconds=1e9) as b:
            asks_b = network.apps["b.localhost"]

            async def listen(request: httpx.Request) -> httpx.Response:
                asked.append(request.url.params["wait_seconds"])
                return await asks_b(request)

            network.apps["b.localhost"] = listen
            async with open_node(
                network, "a", data_dir, peers={url_of("b"): None}, announcement_ttl_seconds=1e6
            ) as a:
                await until(lambda: len(asked) == 2)
                b.state.fabric.register_function("resize")
                await until(
                    lambda: known_to(a.state)["b"].announcement.contents.functions == ("resize",)
                )
                # What is believed for longer than a day is believed for a day.
                assert known_to(a.state)["b"].announcement.ttl_seconds == 86_400.0
    assert set(asked) == {"20.000"}


@pytest.mark.parametrize("seconds", ["-1", "nan", "0", "x"])
async def test_what_is_no_time_to_wait_is_refused(data_dir: Path, seconds: str) -> None:
    async with open_nodes(data_dir, a=()) as (_, nodes):
        for revision in ((await told(nodes["a"]))["revision"], "other"):
            target = f"/v1/fabric?revision={revision}&wait_seconds={seconds}"
            answer = await nodes["a"].client.get(target)
            assert error_of(answer) == (400, "InvalidArgumentError")


async def test_a_name_that_cannot_be_told_is_no_function(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=()) as (_, nodes):
        fabric = nodes["a"].state.fabric
        for name in ("", "a" * 201, "a\n"):
            with pytest.raises(InvalidArgumentError):
                fabric.register_function(name)
        fabric.register_function("resize")
        fabric.unregister_function("resize")
        fabric.unregister_function("never")
        assert (await told(nodes["a"]))["nodes"][0]["functions"] == []


async def test_who_is_away_is_told_to_people_and_is_no_fault_of_the_peer_that_tells_it(
    data_dir: Path,
) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "b", data_dir, peers={url_of("c"): None}) as b:
            ttl: dict[str, Any] = {"announcement_ttl_seconds": 0.3}
            async with open_node(network, "c", data_dir, peers={}, queues=["jobs"], **ttl):
                await until_known(b.state, "c")
            await until(lambda: not known_to(b.state))
            assert [one["state"] for one in (await told(b))["nodes"]] == ["self", "away"]
            async with open_node(network, "a", data_dir, peers={url_of("b"): None}) as a:
                await until_known(a.state, "b")
                [peer] = a.state.peers.all.values()
                assert (peer.state, peer.error) == (PeerState.ALIVE, "")
                assert a.state.peers.counts["refused"] == 0


async def test_a_node_that_nobody_asks_directly_is_known_through_others(data_dir: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "c", data_dir, peers={}, queues=["jobs"]),
            open_node(network, "b", data_dir, peers={url_of("c"): None}) as b,
            open_node(network, "a", data_dir, peers={url_of("b"): None}) as a,
        ):
            await until_known(a.state, "b", "c")
            route = known_to(a.state)["c"].route(anyio.current_time())
            assert route is not None
            assert (route.via, route.hops) == (url_of("b"), 2)
            sent = await a.send("x")
            [message] = await b.receive()
            assert [message["id"]] == sent
            answer = await a.post("/v1/queues/jobs/ack", {"tokens": [message["token"]]})
            assert answer.json() == {"acknowledged": 1}
            assert answer.headers["x-mpreg-node"] == "c"
            # Where somebody says that it is, is asked by those alone who have it in their settings.
            assert [one.url.host for one in network.asked if one.url.path.endswith("messages")] == [
                "b.localhost",
                "c.localhost",
            ]


async def test_nobody_follows_an_announced_url(data_dir: Path, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text("t" * 16)
    token.chmod(0o600)
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "b", data_dir, peers={}, queues=["jobs"]) as b,
            open_node(network, "a", data_dir, peers={url_of("b"): str(token)}) as a,
        ):
            b.state.fabric.url = "http://elsewhere.example"
            b.state.fabric.register_function("anything new")
            await until(
                lambda: (
                    "b" in known_to(a.state)
                    and known_to(a.state)["b"].announcement.url == "http://elsewhere.example"
                )
            )
            await a.send("x")
            assert network.hosts == {"b.localhost"}
            assert network.asked[0].headers["authorization"] == "Bearer " + "t" * 16


async def test_what_a_peer_is_told_of_once_per_change_and_not_per_attempt(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpreg.server.peers")
    network, count = Network(), 0

    async def refuse(_: httpx.Request) -> httpx.Response:
        nonlocal count
        count += 1
        return httpx.Response(401)

    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(
            network, "a", data_dir, peers={url_of("b"): None}, announcement_ttl_seconds=0.06
        ) as a:
            [peer] = a.state.peers.all.values()
            await until(lambda: peer.state == PeerState.AWAY)
            network.apps["b.localhost"] = refuse
            await until(lambda: count > 3)
            assert "token_file" in peer.error
            async with open_node(network, "b", data_dir, peers={}):
                await until(lambda: peer.state == PeerState.ALIVE)
            await until(lambda: peer.state == PeerState.AWAY)
    said = [line.partition("peer http://b.localhost: ")[2] for line in caplog.messages]
    assert [line.split(":")[0] for line in said if line] == [
        "cannot be asked, and is asked again",
        "cannot be asked, and is asked again",
        "heard of, it is node 'b'",
        "cannot be asked, and is asked again",
    ]


def answering(content: bytes, status: int = 200) -> Callable[[httpx.Request], Awaitable[Any]]:
    async def answer(_: httpx.Request) -> httpx.Response:
        return httpx.Response(status, content=content)

    return answer


def as_news(*nodes: Any) -> bytes:
    return msgspec.msgpack.encode({"revision": "1-1", "nodes": nodes})


@pytest.mark.parametrize(
    ("content", "error"),
    [
        (b"", "not what a node does"),
        (b"\xc1", "not what a node does"),
        (b"<html>", "not what a node does"),
        (msgspec.msgpack.encode({"revision": 1, "nodes": []}), "not what a node does"),
        (as_news(), "does not tell of itself"),
        (as_news(3), "not what a node does"),
        (as_news({"node": "b"}), "not an announcement"),
        (as_news(*[{"node": "b"}] * (NODES_MAX * 2)), "not an announcement"),
    ],
)
async def test_a_peer_that_answers_nonsense_is_away_and_harms_nobody(
    data_dir: Path, content: bytes, error: str
) -> None:
    network = Network()
    network.apps["b.localhost"] = answering(content)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(
            network, "a", data_dir, peers={url_of("b"): None}, queues=["jobs"]
        ) as a:
            [peer] = a.state.peers.all.values()
            await until(lambda: error in peer.error)
            assert peer.state == PeerState.AWAY
            await a.send("x")
            async with open_node(network, "b", data_dir, peers={}):
                await until(lambda: peer.state == PeerState.ALIVE)


async def test_the_other_announcements_are_learned_where_one_of_them_is_refused(
    data_dir: Path,
) -> None:
    async with open_nodes(data_dir, b=(), c=()) as (network, nodes):
        asks_b = network.apps["b.localhost"]

        async def spoiled(request: httpx.Request) -> httpx.Response:
            answer = await asks_b(request)
            news = msgspec.msgpack.decode(await answer.aread())
            if "nodes" in news:
                news["nodes"].append({**news["nodes"][0], "hops": 1, "url": "nowhere"})
                news["nodes"][1], news["nodes"][-1] = news["nodes"][-1], news["nodes"][1]
            return httpx.Response(answer.status_code, content=msgspec.msgpack.encode(news))

        network.apps["b.localhost"] = spoiled
        async with open_node(network, "a", data_dir, peers={url_of("b"): None}) as a:
            await until_known(a.state, "b", "c")
            [peer] = a.state.peers.all.values()
            assert peer.state == PeerState.ALIVE
            assert "not a URL" in peer.error
            assert a.state.peers.counts["refused"] >= 1
        network.apps["b.localhost"] = asks_b
        assert nodes


async def test_a_node_that_is_its_own_peer_is_told_so(data_dir: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("a"): None}) as a:
            [peer] = a.state.peers.all.values()
            await until(lambda: "the node itself" in peer.error)
            assert known_to(a.state) == {}


async def test_two_nodes_of_one_name_are_told_so_and_work(data_dir: Path, tmp_path: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={}, queues=["jobs"]) as first:
            network.apps["other.localhost"] = network.apps["a.localhost"]
            async with open_node(
                network, "a", tmp_path / "2", peers={url_of("other"): None}
            ) as second:
                await until_known(second.state, "a")
                [peer] = second.state.peers.all.values()
                await until(lambda: "give each its own" in peer.error)
                assert await second.send("x")
                assert len(await first.receive()) == 1

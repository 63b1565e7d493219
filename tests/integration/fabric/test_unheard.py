"""Queues that nobody is known to have, while a peer that may have them was not heard of; and what
is told of those that were made twice all the same."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mpreg.server.peer import PeerState
from tests.integration.fabric.support import (
    NOBODY,
    Network,
    on_sockets,
    open_node,
    open_nodes,
    until,
    until_has,
    until_known,
    url_of,
)
from tests.integration.server.support import PATIENCE_SECONDS, Node, error_of

pytestmark = pytest.mark.anyio

JOBS = "/v1/queues/jobs"
MESSAGES = f"{JOBS}/messages"
FOREVER: dict[str, Any] = {"peer_patience_seconds": None}


async def until_asked(node: Node) -> None:
    await until(lambda: all(NOBODY in one.error for one in node.state.peers.all.values()))


async def test_while_a_peer_was_not_heard_of_nothing_is_called_missing_and_nothing_is_made(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network, peers = Network(), {url_of("b"): None, url_of("c"): None}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with (
            open_node(network, "c", data_dir, peers={}),
            open_node(network, "a", data_dir, peers=peers, queues=("mails",), **FOREVER) as a,
        ):
            await until_known(a.state, "c")
            await until(lambda: NOBODY in a.state.peers.all[url_of("b")].error)
            for method, path in (
                ("GET", JOBS),
                ("POST", MESSAGES),
                ("PUT", JOBS),
                ("DELETE", JOBS),
            ):
                answer = await a.client.request(method, path, json={})
                assert error_of(answer) == (503, "PeersUnheardError")
                said = answer.json()
                assert said["data_state"] == "not written"
                assert (
                    "1 of 2 peers is not heard of: http://b.localhost (ConnectError"
                    in (said["detail"])
                )
                assert answer.headers["retry-after"] == "1"
            # What is here is here.
            await a.send(1, queue="mails")
            assert (await a.client.put("/v1/queues/mails", json={})).status_code == 200
            assert await a.state.queues.queue_names() == ["mails"]
            assert a.state.peers.forwarded["unheard"] == 4
            async with open_node(network, "b", data_dir, peers={}, queues=("jobs",)) as b:
                await until_known(a.state, "b")
                assert (await a.client.put(JOBS, json={})).headers["x-mpreg-node"] == "b"
                assert await a.send("x")
                assert len(await b.receive()) == 1
            assert await a.state.queues.queue_names() == ["mails"]
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


async def test_a_peer_that_is_given_up_is_named_where_a_queue_is_not_found_and_where_one_is_made(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(
            network, "a", data_dir, peers={url_of("b"): None}, peer_patience_seconds=0.0
        ) as a:
            await until_asked(a)
            answer = await a.post(MESSAGES, {"payload": 1})
            assert error_of(answer) == (404, "QueueNotFoundError")
            assert "1 of 1 peers is not heard of: http://b.localhost" in answer.json()["detail"]
            assert (await a.client.put(JOBS, json={})).status_code == 200
            assert (await a.client.put(JOBS, json={})).status_code == 200
            await a.send(1)
    said = [line for line in caplog.messages if "is made here, though 1 of 1 peers" in line]
    assert len(said) == 1


async def test_a_peer_is_given_up_when_its_time_is_over_and_waited_for_anew_when_it_is_lost(
    data_dir: Path,
) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(
            network,
            "a",
            data_dir,
            peers={url_of("b"): None},
            peer_patience_seconds=0.3,
            announcement_ttl_seconds=0.06,
        ) as a:
            [peer] = a.state.peers.all.values()

            async def until_given_up() -> None:
                while (answer := await a.client.get(JOBS)).status_code == 503:
                    await anyio.sleep(0.005)
                assert answer.status_code == 404

            await until_given_up()
            async with open_node(network, "b", data_dir, peers={}):
                await until(lambda: peer.state == PeerState.ALIVE)
                assert (await a.client.get(JOBS)).status_code == 404
                alive_at = anyio.current_time()
            await until(lambda: peer.state == PeerState.AWAY)
            assert alive_at <= peer.quiet_since <= anyio.current_time()
            await until_given_up()
            assert anyio.current_time() >= peer.quiet_since + 0.3


async def test_one_may_be_made_here_whatever_others_have(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpreg.fabric")
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("b"): None}, **FOREVER) as a:
            await until_asked(a)
            assert (await a.client.put(f"{JOBS}?here", json={})).status_code == 200
            assert await a.state.queues.queue_names() == ["jobs"]
            async with open_node(
                network, "b", data_dir, peers={url_of("a"): None}, queues=("jobs", "mails")
            ) as b:
                await until_has(a.state, "b", "jobs")
                await until_has(b.state, "a", "jobs")
                assert (await a.client.put("/v1/queues/mails?here")).status_code == 200
                for node, other in ((a, "b"), (b, "a")):
                    await until_has(node.state, other, "mails")
                    await check_told(node, other)
                # Each of its own; one of them is emptied, and deleted where it is.
                for name in ("jobs", "mails"):
                    assert (await a.client.delete(f"/v1/queues/{name}")).status_code == 200
                    await until_has(b.state, "a", name, has=False)
                    assert (await a.client.get(f"/v1/queues/{name}")).headers["x-mpreg-node"] == "b"
                for node in (a, b):
                    assert node.state.fabric.shared_queues() == {}
                await until(lambda: len(told_of(caplog, "is not at several nodes any more")) == 4)
    # Two queues, each told of by both nodes once.
    assert len(told_of(caplog, "is at several nodes")) == 4


def told_of(caplog: pytest.LogCaptureFixture, words: str) -> list[str]:
    return [line for line in caplog.messages if words in line]


async def check_told(node: Node, other: str) -> None:
    own = node.state.fabric.name
    expected = [
        {"queue": "jobs", "nodes": [own, other]},
        {"queue": "mails", "nodes": [own, other]},
    ]
    for path in ("/v1/fabric", "/v1/status"):
        assert (await node.client.get(path)).json()["shared_queues"] == expected, path
    metrics = (await node.client.get("/metrics")).text
    assert "mpreg_fabric_shared_queues 2.0" in metrics


async def test_the_node_itself_among_its_peers_is_not_waited_for(data_dir: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("a"): None}, **FOREVER) as a:
            [peer] = a.state.peers.all.values()
            await until(lambda: "the node itself" in peer.error)
            assert (await a.client.put(JOBS, json={})).status_code == 200


async def test_a_write_that_was_made_here_is_answered_as_before_also_while_a_peer_is_not_heard_of(
    data_dir: Path,
) -> None:
    network, key = Network(), {"idempotency-key": "one"}
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(
            network, "a", data_dir, peers={url_of("b"): None}, queues=("jobs",), **FOREVER
        ) as a:
            await until_asked(a)
            for _ in range(2):
                answer = await a.client.delete(JOBS, headers=key)
                assert (answer.status_code, answer.json()) == (200, {"deleted": True})
            assert error_of(await a.client.delete(JOBS)) == (503, "PeersUnheardError")


async def test_who_is_meant_by_name_makes_it_without_a_look_at_others(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (_, nodes):
        identity = nodes["a"].state.fabric.identity
        answer = await nodes["a"].client.put(JOBS, headers={"x-mpreg-to": identity})
        assert answer.status_code == 200
        assert await nodes["a"].state.queues.queue_names() == ["jobs"]


async def test_a_client_waits_until_it_is_known_or_says_where(data_dir: Path) -> None:
    async with on_sockets(data_dir, {"a": (), "b": ("jobs",)}, **FOREVER) as sockets:
        await sockets["b"].stop()
        await sockets["a"].stop()
        # It keeps nothing on disk, and knows nothing of before.
        await sockets.start("a")
        a = sockets["a"].node
        with sockets.client("a") as client:
            async with client:
                made: list[Any] = []

                async def make() -> None:
                    made.append(await client.message_queues.create_queue("mails"))

                async with anyio.create_task_group() as task_group:
                    task_group.start_soon(make)
                    await until(lambda: a.peers.forwarded["unheard"] >= 2)
                    here = await client.message_queues.create_queue("orders", here=True)
                    assert here.name == "orders"
                    assert made == []
                    await sockets.start("b")
                assert [one.name for one in made] == ["mails"]
        assert await a.queues.queue_names() == ["mails", "orders"]


# --- who is away ---


async def test_what_is_asked_of_a_node_that_is_away_is_told_once_and_counted(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "mpreg.server")
    async with open_nodes(data_dir, a=(), b=("jobs",)) as (network, nodes):
        a = nodes["a"]
        network.troubles.extend([NOBODY] * 5)
        for _ in range(5):
            assert (await a.post(MESSAGES, {"payload": 1})).status_code == 502
        for _ in range(2):
            assert (await a.post(MESSAGES, {"payload": 1})).status_code == 201
        assert a.state.peers.forwarded == {"unreachable": 5, "answered": 2}
    said = [one for one in caplog.records if one.getMessage().startswith("node 'b': ")]
    assert [one.levelname for one in said] == ["WARNING", "INFO"]
    assert "after 5 that were not" in said[1].getMessage()
    assert not [one for one in caplog.records if one.levelname == "ERROR"]


async def test_a_mute_peer_is_shown_with_the_reason(data_dir: Path) -> None:
    network, asked = Network(), anyio.Event()

    async def say_nothing(_: httpx.Request) -> httpx.Response:
        asked.set()
        await anyio.sleep_forever()
        raise AssertionError

    network.apps["b.localhost"] = say_nothing
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("b"): None}) as a:
            await asked.wait()
            [peer] = (await a.client.get("/v1/fabric")).json()["peers"]
            assert (peer["state"], peer["node"]) == ("unknown", None)
            assert peer["error"] == "it was asked, and has not answered"
            [own, row] = (await a.client.get("/v1/status")).json()["nodes"]
            assert (own["state"], own["name"]) == ("self", "a")
            assert (row["state"], row["url"], row["name"]) == ("unknown", url_of("b"), None)
            assert row["why"] == peer["error"]


async def test_each_node_is_shown_with_what_is_known_of_it(data_dir: Path) -> None:
    network = Network()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with open_node(network, "a", data_dir, peers={url_of("b"): None}) as a:
            async with open_node(network, "b", data_dir, peers={}, queues=("jobs",)) as b:
                await until_has(a.state, "b", "jobs")
                [_, row] = (await a.client.get("/v1/status")).json()["nodes"]
                wall = a.state.registry.clock.wall()
                assert wall - 15.0 <= row.pop("heard_at") <= wall
                assert row == {
                    "node": b.state.fabric.identity,
                    "name": "b",
                    "url": url_of("b"),
                    "incarnation": b.state.fabric.incarnation,
                    "state": "alive",
                    "queues": 1,
                    "via": url_of("b"),
                    "why": "",
                }
            [peer] = a.state.peers.all.values()
            await until(lambda: peer.state == PeerState.AWAY)
            [_, row] = (await a.client.get("/v1/status")).json()["nodes"]
            assert (row["state"], row["why"]) == ("alive", f"cannot be asked: {peer.error}")


async def test_a_node_without_peers_shows_no_table_of_nodes(data_dir: Path) -> None:
    async with open_nodes(data_dir, a=()) as (_, nodes):
        assert (await nodes["a"].client.get("/v1/status")).json()["nodes"] == []

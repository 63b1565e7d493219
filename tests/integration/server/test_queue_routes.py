"""Queues over HTTP: what is done, and what is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.integration.server.support import Node, error_of, open_node
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

JOBS = "/v1/queues/jobs"
MSGPACK = {"content-type": "application/msgpack", "accept": "application/msgpack"}


async def test_a_message_goes_round(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        [sent] = await node.send({"file": "a.py"})
        [message] = await node.receive()
        token = message.pop("token")
        assert message.pop("sent_at") > 0
        assert message == {
            "id": sent,
            "payload": {"file": "a.py"},
            "attempt": 1,
            "topic": "",
            "priority": 0,
            "headers": {},
            "lease_seconds": 86_400.0,
        }
        answer = await node.post(f"{JOBS}/ack", {"tokens": [token]})
        assert answer.json() == {"acknowledged": 1}
        assert await node.receive() == []
        assert len(node.state.leases) == 0


async def test_what_is_acked_or_sent_is_there_after_a_restart(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        await node.send(1, 2)
        tokens = [one["token"] for one in await node.receive(messages_max=1)]
        await node.post(f"{JOBS}/ack", {"tokens": tokens})
    async with open_node(data_dir, backend="sqlite") as node:
        assert [one["payload"] for one in await node.receive()] == [2]
        # What was handed out before is not known any more, and says so.
        late = await node.post(f"{JOBS}/ack", {"tokens": ["token-00000000-of-before"]})
        assert error_of(late) == (409, "LeaseLostError")


async def test_bytes_go_round_in_json_and_in_messagepack(data_dir: Path) -> None:
    payload = {"raw": b"\x00\xff", "nothing": None, "n": 2**63 - 1, "f": 1.0}
    async with open_node(data_dir) as node:
        body = msgspec.msgpack.encode({"payload": payload})
        answer = await node.client.post(f"{JOBS}/messages", content=body, headers=MSGPACK)
        assert answer.status_code == 201
        assert answer.headers["content-type"] == "application/msgpack"
        json = {**payload, "raw": {"$base64": "AP8="}}
        await node.send(json)
        body = msgspec.msgpack.encode({"messages_max": 2})
        answer = await node.client.post(f"{JOBS}/receive", content=body, headers=MSGPACK)
        found = msgspec.msgpack.decode(answer.content)["messages"]
        assert [one["payload"] for one in found] == [payload, payload]
        tokens = [one["token"] for one in found]
        await node.post(f"{JOBS}/nack", {"token": tokens[0], "delay_seconds": 0})
        assert [one["payload"] for one in await node.receive()] == [json]


async def test_a_message_has_its_options(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put("/v1/queues/urgent", json={"queue_type": "priority"})
        for priority, topic in ((1, "low"), (9, "high")):
            body = {"payload": None, "priority": priority, "topic": topic, "headers": {"k": "v"}}
            assert (await node.post("/v1/queues/urgent/messages", body)).status_code == 201
        found = await node.receive("urgent")
        assert [(one["topic"], one["priority"]) for one in found] == [("high", 9), ("low", 1)]
        assert found[0]["headers"] == {"k": "v"}


async def test_messages_with_options_of_their_own_are_sent_all_or_none(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        messages: list[dict[str, Any]] = [
            {"payload": 1, "topic": "a"},
            {"payload": 2, "topic": "b", "deduplication_id": "x"},
        ]
        answer = await node.post(f"{JOBS}/messages", {"messages": messages})
        assert answer.status_code == 201
        assert [one["topic"] for one in await node.receive()] == ["a", "b"]
        again = await node.post(f"{JOBS}/messages", {"messages": messages[1:]})
        assert again.json()["ids"] == answer.json()["ids"][1:]
        messages[1]["priority"] = 7
        refused = await node.post(f"{JOBS}/messages", {"messages": messages})
        assert error_of(refused) == (400, "InvalidArgumentError")
        assert await node.receive() == []


async def test_no_messages_are_sent_by_an_empty_list(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        answer = await node.post(f"{JOBS}/messages", {"messages": []})
        assert (answer.status_code, answer.json()) == (201, {"ids": []})


async def test_a_message_that_is_given_back_comes_again_until_it_is_dead(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put("/v1/queues/twice", json={"max_deliveries": 2})
        await node.send("x", queue="twice")
        for attempt in (1, 2):
            [message] = await node.receive("twice")
            assert message["attempt"] == attempt
            body = {"token": message["token"], "delay_seconds": 0, "reason": f"no {attempt}"}
            assert (await node.post("/v1/queues/twice/nack", body)).json() == {"returned": 1}
        answer = await node.client.get("/v1/queues/twice/dead-letters")
        [letter] = answer.json()["dead_letters"]
        assert (letter["payload"], letter["attempts"], letter["last_error"]) == ("x", 2, "no 2")

        redriven = await node.post("/v1/queues/twice/dead-letters/redrive", {"to": "jobs"})
        assert redriven.json() == {"redriven": 1}
        assert [one["payload"] for one in await node.receive()] == ["x"]
        purged = await node.post("/v1/queues/twice/dead-letters/purge", {"keys": ["none"]})
        assert purged.json() == {"removed": 0}


async def test_a_lease_is_made_longer_and_settled_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.send("x")
        [message] = await node.receive()
        token = message["token"]
        extended = await node.post(f"{JOBS}/extend", {"token": token, "lease_seconds": 90_000})
        assert extended.json() == {"lease_seconds": 90_000.0}
        assert (await node.post(f"{JOBS}/extend", {"token": token})).status_code == 200
        assert (await node.post(f"{JOBS}/ack", {"tokens": [token, token]})).status_code == 200
        for route, body in (
            ("ack", {"tokens": [token]}),
            ("nack", {"token": token}),
            ("extend", {"token": token}),
        ):
            assert error_of(await node.post(f"{JOBS}/{route}", body)) == (409, "LeaseLostError")


async def test_one_token_that_is_not_valid_keeps_all_of_an_ack_from_happening(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        await node.send("x")
        [message] = await node.receive()
        both = {"tokens": [message["token"], "no token"]}
        assert error_of(await node.post(f"{JOBS}/ack", both)) == (409, "LeaseLostError")
        await node.client.put("/v1/queues/other", json={})
        own = {"tokens": [message["token"]]}
        assert error_of(await node.post("/v1/queues/other/ack", own)) == (409, "LeaseLostError")
        assert (await node.post(f"{JOBS}/ack", own)).status_code == 200


@pytest.mark.parametrize("by", ["a request", "the process"])
async def test_a_delivery_of_a_queue_that_was_deleted_is_none_of_its_namesake(
    data_dir: Path, by: str
) -> None:
    async with open_node(data_dir) as node:
        await node.send("x")
        [message] = await node.receive()
        token = message["token"]
        if by == "a request":
            await node.client.delete(JOBS)
            await node.client.put(JOBS, json={})
        else:
            await node.state.queues.delete_queue("jobs")
            await node.state.queues.create_queue("jobs")
        for route, body in (
            ("ack", {"tokens": [token]}),
            ("nack", {"token": token}),
            ("extend", {"token": token}),
        ):
            assert error_of(await node.post(f"{JOBS}/{route}", body)) == (409, "LeaseLostError")
        released = await node.post(f"{JOBS}/release", {"tokens": [token]})
        assert released.json() == {"released": 0}


async def test_a_queue_is_made_changed_listed_and_deleted(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        made = await node.client.put("/v1/queues/a", json={"max_deliveries": 3})
        assert made.json()["configuration"]["max_deliveries"] == 3
        changed = await node.client.put("/v1/queues/a", json={"max_size": 1})
        assert changed.json()["configuration"]["max_deliveries"] == 5
        # Without a body it is as it is.
        assert (await node.client.put("/v1/queues/a")).json()["configuration"]["max_size"] == 1
        await node.send("x", queue="a")
        full = await node.post("/v1/queues/a/messages", {"payload": "y"})
        assert error_of(full) == (429, "QueueFullError")
        assert full.headers["retry-after"] == "1"

        listed = (await node.client.get("/v1/queues")).json()["queues"]
        assert [(one["name"], one["statistics"]["pending"]) for one in listed] == [
            ("a", 1),
            ("jobs", 0),
        ]
        one = (await node.client.get("/v1/queues/a")).json()
        assert (one["statistics"]["sent"], one["configuration"]["max_size"]) == (1, 1)
        purged = await node.post("/v1/queues/a/purge", {"dead_letters": False})
        assert purged.json() == {"removed": 1}
        assert (await node.client.delete("/v1/queues/a")).json() == {"deleted": True}
        gone = await node.client.delete("/v1/queues/a")
        assert error_of(gone) == (404, "QueueNotFoundError")
        assert gone.json()["detail"] == "there is no queue 'a'; nothing was changed"
        assert "PUT /v1/queues/NAME makes a queue" in gone.json()["advice"]


async def test_each_subscription_gets_what_is_of_its_topics(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        audit = f"{JOBS}/subscriptions/audit"
        made = await node.client.put(audit, json={"topic_pattern": "jobs.#"})
        assert made.json() == {"name": "audit", "topic_pattern": "jobs.#"}
        await node.post(f"{JOBS}/messages", {"payload": 1, "topic": "jobs.created"})
        await node.post(f"{JOBS}/messages", {"payload": 2, "topic": "other"})
        found = await node.receive(subscription="audit")
        assert [one["payload"] for one in found] == [1]
        assert len(await node.receive()) == 2
        assert (await node.client.delete(audit)).json() == {"deleted": True}
        assert error_of(await node.client.delete(audit)) == (404, "QueueNotFoundError")
        # Receiving from one that is not there does not make it.
        missing = await node.post(f"{JOBS}/receive", {"subscription": "audit"})
        assert error_of(missing) == (404, "QueueNotFoundError")
        assert missing.json()["detail"].endswith("'audit' (there is: 'default')")
        assert "PUT /v1/queues/NAME/subscriptions/NAME" in missing.json()["advice"]


async def test_a_lease_that_ran_out_is_lost_and_the_message_comes_again(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put("/v1/queues/brief", json={"lease_seconds": 0.01})
        await node.send("x", queue="brief")
        [first] = await node.receive("brief")
        [second] = await node.receive("brief", wait_seconds=60)
        assert (first["attempt"], second["attempt"]) == (1, 2)
        late = await node.post("/v1/queues/brief/ack", {"tokens": [first["token"]]})
        assert error_of(late) == (409, "LeaseLostError")


async def test_messages_expire_by_the_clock_of_the_node(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock) as node:
        await node.post(f"{JOBS}/messages", {"payload": 1, "ttl_seconds": 10})
        clock.now += 11
        assert await node.receive() == []


REFUSED: list[tuple[str, str, Any, int, str]] = [
    ("POST", "/messages", {}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "more": 2}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "topic": 7}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "priority": 1}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "delay_seconds": -1}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "headers": {"a": 1}}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"messages": [{}]}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"messages": 1}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 1, "messages": []}, 400, "InvalidArgumentError"),
    ("POST", "/messages", {"payload": 2**64}, 400, "InvalidArgumentError"),
    ("POST", "/messages", [1], 400, "InvalidArgumentError"),
    ("POST", "/receive", {"messages_max": 0}, 400, "InvalidArgumentError"),
    ("POST", "/receive", {"wait_seconds": -1}, 400, "InvalidArgumentError"),
    ("POST", "/receive", {"wait_seconds": "1"}, 400, "InvalidArgumentError"),
    ("POST", "/ack", {}, 400, "InvalidArgumentError"),
    ("POST", "/ack", {"tokens": ["x"]}, 409, "LeaseLostError"),
    ("POST", "/nack", {"token": "x"}, 409, "LeaseLostError"),
    ("POST", "/extend", {"token": "x"}, 409, "LeaseLostError"),
    ("PUT", "", {"max_deliverys": 1}, 400, "ConfigurationError"),
    ("PUT", "", {"max_deliveries": "1"}, 400, "ConfigurationError"),
    ("PUT", "", {"delivery_guarantee": "quorum"}, 400, "ConfigurationError"),
    ("PUT", "/subscriptions/a", {"topic_pattern": "a*"}, 400, "InvalidArgumentError"),
    ("PUT", "/subscriptions/a", {"start": "now"}, 400, "InvalidArgumentError"),
    ("DELETE", "/subscriptions/default", None, 400, "InvalidArgumentError"),
    ("GET", "/dead-letters?limit=0", None, 400, "InvalidArgumentError"),
    ("GET", "/dead-letters?limit=x", None, 400, "InvalidArgumentError"),
    ("POST", "/dead-letters/redrive", {"to": "none"}, 404, "QueueNotFoundError"),
]


async def test_what_makes_no_sense_is_refused_and_changes_nothing(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for method, path, body, status, error in REFUSED:
            answer = await node.client.request(method, JOBS + path, json=body)
            assert error_of(answer) == (status, error), (method, path, body, answer.text)
        statistics = (await node.client.get(JOBS)).json()["statistics"]
        assert (statistics["sent"], list(statistics["subscriptions"])) == (0, ["default"])


OF_NO_QUEUE = [
    ("GET", ""),
    ("DELETE", ""),
    ("POST", "/purge"),
    ("POST", "/messages"),
    ("POST", "/receive"),
    ("POST", "/ack"),
    ("POST", "/nack"),
    ("POST", "/extend"),
    ("PUT", "/subscriptions/a"),
    ("DELETE", "/subscriptions/a"),
    ("GET", "/dead-letters"),
    ("POST", "/dead-letters/redrive"),
    ("POST", "/dead-letters/purge"),
]


async def test_every_route_of_a_queue_that_is_not_there_says_so(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await _each(node, "none", (404, "QueueNotFoundError"))
        await _each(node, "a%0Ab", (400, "InvalidArgumentError"))
        await _each(node, "x" * 201, (400, "InvalidArgumentError"))


async def _each(node: Node, queue: str, expected: tuple[int, str]) -> None:
    for method, path in OF_NO_QUEUE:
        answer = await node.client.request(method, f"/v1/queues/{queue}{path}", json={})
        assert error_of(answer) == expected, (method, path)


async def test_a_last_attempt_comes_alone_to_who_works_on_one_after_the_other(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        await node.client.put(JOBS, json={"max_deliveries": 1})
        await node.send(1, 2, 3, 4, 5, 6)
        for path, given in (
            ("receive?one_by_one", [1]),
            ("receive?one_by_one=true", [2]),
            ("receive?one_by_one=false", [3, 4, 5, 6]),
        ):
            answer = await node.post(f"{JOBS}/{path}", {"messages_max": 10})
            assert [one["payload"] for one in answer.json()["messages"]] == given


async def test_what_was_taken_ahead_goes_to_others_at_once_and_uncounted(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.send(1, 2)
        first, second = await node.receive()
        body = {"tokens": [first["token"], "of nothing"]}
        for released in (1, 0):
            answer = await node.post("/v1/queues/jobs/release", body)
            assert answer.json() == {"released": released}
        answer = await node.post(
            "/v1/queues/jobs/release", {"tokens": [second["token"]], "unseen": False}
        )
        assert answer.json() == {"released": 1}
        again = await node.receive()
        assert [(one["payload"], one["attempt"]) for one in again] == [(1, 1), (2, 2)]
        late = await node.post("/v1/queues/jobs/ack", {"tokens": [first["token"]]})
        assert error_of(late) == (409, "LeaseLostError")

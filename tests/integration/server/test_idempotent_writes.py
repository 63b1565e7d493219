"""A write that is sent again with its key is made once, and answered as before."""

from __future__ import annotations

from pathlib import Path

import anyio
import anyio.lowlevel
import httpx
import pytest

from mpreg.errors import StorageFullError
from mpreg.persistence import KeyValueStore, Transaction
from mpreg.server.answers import Answer
from tests.integration.server.support import Node, error_of, open_node
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

JOBS = "/v1/queues/jobs"
KEY = {"idempotency-key": "one"}


async def depth(node: Node) -> int:
    pending: int = (await node.client.get(JOBS)).json()["statistics"]["pending"]
    return pending


def check_replayed(first: httpx.Response, second: httpx.Response) -> None:
    assert (first.status_code, first.content) == (second.status_code, second.content)
    assert "idempotency-replayed" not in first.headers
    assert second.headers["idempotency-replayed"] == "true"
    assert first.headers.get("etag") == second.headers.get("etag")


async def test_a_send_is_made_once_also_after_a_restart(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        first = await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)
        check_replayed(first, await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY))
    async with open_node(data_dir, backend="sqlite") as node:
        check_replayed(first, await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY))
        assert await depth(node) == 1


async def test_sends_with_one_key_at_the_same_time_are_one(data_dir: Path) -> None:
    answers: list[httpx.Response] = []
    async with open_node(data_dir) as node:

        async def send() -> None:
            body = {"messages": [{"payload": 1}, {"payload": 2}]}
            answers.append(await node.post(f"{JOBS}/messages", body, headers=KEY))

        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(send)
        assert len({answer.content for answer in answers}) == 1
        assert await depth(node) == 2


async def test_an_ack_and_a_nack_are_made_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.send(1, 2)
        one, two = (message["token"] for message in await node.receive())
        for route, body in (("ack", {"tokens": [one]}), ("nack", {"token": two})):
            headers = {"idempotency-key": route}
            first = await node.post(f"{JOBS}/{route}", body, headers=headers)
            assert first.status_code == 200
            check_replayed(first, await node.post(f"{JOBS}/{route}", body, headers=headers))


async def test_a_put_is_made_once_and_answered_with_its_version(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        path = "/v1/keys/n/ann"
        first = await node.client.put(path, content=b"1", headers=KEY)
        assert first.headers["etag"] == (await node.client.get(path)).headers["etag"]
        await node.client.put(path, content=b"2")
        check_replayed(first, await node.client.put(path, content=b"1", headers=KEY))
        assert (await node.client.get(path)).content == b"2"


async def test_a_delete_is_made_once_and_says_each_time_whether_it_was_there(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        path = "/v1/keys/n/ann"
        await node.client.put(path, content=b"1")
        first = await node.client.delete(path, headers=KEY)
        assert first.json() == {"deleted": True}
        await node.client.put(path, content=b"2")
        check_replayed(first, await node.client.delete(path, headers=KEY))
        assert (await node.client.get(path)).content == b"2"
        missing = await node.client.delete("/v1/keys/n/bob", headers={"idempotency-key": "two"})
        assert missing.json() == {"deleted": False}


async def test_a_queue_is_made_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        first = await node.client.put("/v1/queues/new", json={}, headers=KEY)
        await node.client.delete("/v1/queues/new")
        check_replayed(first, await node.client.put("/v1/queues/new", json={}, headers=KEY))
        assert (await node.client.get("/v1/queues/new")).status_code == 404


@pytest.mark.parametrize("is_new", [True, False])
async def test_the_configuration_of_a_queue_that_others_gave_it_since_is_not_replaced(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, *, is_new: bool
) -> None:
    path = "/v1/queues/new" if is_new else JOBS
    ours, theirs = {"max_deliveries": 3}, {"max_deliveries": 7}
    async with open_node(data_dir, backend="sqlite") as node:

        async def cut(*_: object) -> None:
            node.state.end_requests()
            await anyio.lowlevel.checkpoint()
            raise AssertionError

        # Whatever is noted when it is made comes too late.
        with monkeypatch.context() as patched:
            for late in ("keep_alone", "complete"):
                patched.setattr(f"mpreg.server.idempotency.Claim.{late}", cut)
            answer = await node.client.put(path, json=ours, headers=KEY)
            assert error_of(answer) == (500, "CommitUnknownError")
    async with open_node(data_dir, backend="sqlite") as node:
        assert (await node.client.put(path, json=theirs)).status_code == 200
        again = await node.client.put(path, json=ours, headers=KEY)
        assert again.headers["idempotency-replayed"] == "true"
        told = again.json()
        assert (told["name"], told["statistics"]) == (path.rpartition("/")[2], None)
        assert told["configuration"]["max_deliveries"] == 3
        now = (await node.client.get(path)).json()
        assert now["configuration"]["max_deliveries"] == 7


async def test_a_queue_that_has_not_to_be_changed_is_answered_as_before(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        settings = (await node.client.get(JOBS)).json()["configuration"]
        first = await node.client.put(JOBS, json=settings, headers=KEY)
        await node.client.put(JOBS, json={**settings, "max_deliveries": 9})
        check_replayed(first, await node.client.put(JOBS, json=settings, headers=KEY))
        assert first.json()["statistics"]["pending"] == 0


async def test_a_key_that_came_with_another_request_is_refused(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)
        for path, body in (
            (f"{JOBS}/messages", {"payload": 2}),
            (f"{JOBS}/purge", {"payload": 1}),
            (f"{JOBS}/messages?x=1", {"payload": 1}),
        ):
            answer = await node.post(path, body, headers=KEY)
            assert error_of(answer) == (422, "IdempotencyKeyReusedError")
        assert await depth(node) == 1
        for wrong in ("", "x" * 256, "a\tb"):
            answer = await node.post(
                f"{JOBS}/messages", {"payload": 1}, headers={"idempotency-key": wrong}
            )
            assert error_of(answer) == (400, "InvalidArgumentError")


async def test_another_key_or_condition_is_another_request(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        first = await node.client.put("/v1/keys/n/ab", content=b"1", headers=KEY)
        again = {**KEY, "if-match": first.headers["etag"]}
        for key, headers in (("a%0Ab", KEY), ("ab", again), ("ab", {**KEY, "if-none-match": "*"})):
            answer = await node.client.put(f"/v1/keys/n/{key}", content=b"1", headers=headers)
            assert error_of(answer) == (422, "IdempotencyKeyReusedError")


async def test_a_write_that_was_made_is_not_denied_where_its_answer_cannot_be_kept(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(data_dir) as node:

        async def fail(self: KeyValueStore, *_: object, **__: object) -> int:
            raise StorageFullError("no room for the answer")

        monkeypatch.setattr(KeyValueStore, "put", fail)
        made = await node.client.put("/v1/queues/new", headers=KEY)
        assert (made.status_code, made.json()["name"]) == (200, "new")
        assert await node.state.queues.queue_names() == ["jobs", "new"]


async def test_what_was_refused_may_be_sent_again_with_its_key(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        body = {"payload": 1}
        refused = await node.post("/v1/queues/later/messages", body, headers=KEY)
        assert error_of(refused) == (404, "QueueNotFoundError")
        await node.client.put("/v1/queues/later", json={})
        sent = await node.post("/v1/queues/later/messages", body, headers=KEY)
        assert sent.status_code == 201


async def test_a_key_is_forgotten_after_its_window(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock, idempotency_window_seconds=60.0) as node:
        await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)
        clock.now += 61
        await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)
        assert await depth(node) == 2


async def test_a_write_and_its_answer_are_one_or_neither_is(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the answer cannot be kept, the message is not sent either."""
    async with open_node(data_dir) as node:

        def fail(self: object, answer: Answer, transaction: Transaction) -> None:
            raise OSError("no room for the answer")

        with monkeypatch.context() as patched:
            patched.setattr("mpreg.server.idempotency.Claim.keep", fail)
            answer = await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)
            assert error_of(answer) == (500, "UnexpectedError")
        assert await depth(node) == 0
        assert (await node.post(f"{JOBS}/messages", {"payload": 1}, headers=KEY)).status_code == 201


async def cut_short(
    node: Node, method: str, path: str, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The node ends while ``what`` is under way, or before it is noted that it is done: nobody can
    tell these from outside."""

    async def cut(*_: object, **__: object) -> int:
        node.state.end_requests()
        await anyio.lowlevel.checkpoint()
        raise AssertionError

    with monkeypatch.context() as patched:
        patched.setattr(what, cut)
        answer = await node.client.request(method, path, headers=KEY)
        assert error_of(answer) == (500, "CommitUnknownError")


BULK = {
    "purge": "mpreg.queues.MessageQueue.purge",
    "dead-letters/redrive": "mpreg.queues.MessageQueue.redrive",
    "dead-letters/purge": "mpreg.queues.MessageQueue.purge_dead_letters",
}


@pytest.mark.parametrize("path", BULK)
async def test_what_meets_all_that_is_there_is_begun_once_also_after_a_restart(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """Made again, it would meet what has come since."""
    async with open_node(data_dir, backend="sqlite") as node:
        await cut_short(node, "POST", f"{JOBS}/{path}", BULK[path], monkeypatch)
    async with open_node(data_dir, backend="sqlite") as node:
        await node.send("came later")
        again = await node.client.post(f"{JOBS}/{path}", headers=KEY)
        assert error_of(again) == (409, "WriteInterruptedError")
        assert again.json()["data_state"] == "unknown"
        assert await depth(node) == 1
        other = await node.post(f"{JOBS}/{path}", {}, headers={"idempotency-key": "two"})
        assert other.status_code == 200


async def test_a_purge_whose_answer_was_not_kept_any_more_is_not_made_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        await node.send(1, 2)
        kept = "mpreg.server.idempotency.Claim.keep_alone"
        await cut_short(node, "POST", f"{JOBS}/purge", kept, monkeypatch)
        assert await depth(node) == 0
        await node.send("came later")
        again = await node.client.post(f"{JOBS}/purge", headers=KEY)
        assert error_of(again) == (409, "WriteInterruptedError")
        assert await depth(node) == 1


#: What is deleted, and how it is made.
DELETED = {
    JOBS: ("PUT", JOBS),
    f"{JOBS}/subscriptions/audit": ("PUT", f"{JOBS}/subscriptions/audit"),
    "/v1/snapshots/state": ("PUT", "/v1/snapshots/state?versions_max=9"),
}


async def make(node: Node, path: str) -> None:
    answer = await node.client.request(*DELETED[path], json={})
    assert answer.is_success, answer.text


@pytest.mark.parametrize("path", DELETED)
async def test_a_deletion_that_was_cut_short_does_not_meet_what_was_made_since(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        await make(node, path)
        kept = "mpreg.server.idempotency.Claim.keep_alone"
        await cut_short(node, "DELETE", path, kept, monkeypatch)
    async with open_node(data_dir, backend="sqlite") as node:
        await make(node, path)
        again = await node.client.delete(path, headers=KEY)
        assert error_of(again) == (409, "WriteInterruptedError")
        # It is there: with another key it can be deleted.
        other = await node.client.delete(path, headers={"idempotency-key": "two"})
        assert (other.status_code, other.json()) == (200, {"deleted": True})


@pytest.mark.parametrize("path", DELETED)
async def test_a_deletion_is_answered_as_before_and_a_refused_one_may_be_sent_again(
    data_dir: Path, path: str
) -> None:
    async with open_node(data_dir) as node:
        if path.endswith("audit"):
            refused = await node.client.delete(path, headers=KEY)
            assert error_of(refused) == (404, "QueueNotFoundError")
        await make(node, path)
        first = await node.client.delete(path, headers=KEY)
        assert first.json() == {"deleted": True}
        await make(node, path)
        check_replayed(first, await node.client.delete(path, headers=KEY))
        assert (await node.client.delete(path)).json() == {"deleted": True}


async def test_a_version_that_was_deleted_may_be_deleted_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has a number that no other one gets."""
    path = "/v1/snapshots/state"
    async with open_node(data_dir, backend="sqlite") as node:
        version = (await node.client.put(path, content=b"1")).json()["version"]
        one = f"{path}?version={version}"
        kept = "mpreg.server.idempotency.Claim.keep_alone"
        await cut_short(node, "DELETE", one, kept, monkeypatch)
        again = await node.client.delete(one, headers=KEY)
        assert (again.status_code, again.json()) == (200, {"deleted": False})


async def test_a_purge_is_answered_as_before(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.send(1, 2)
        first = await node.post(f"{JOBS}/purge", {}, headers=KEY)
        assert first.json() == {"removed": 2}
        await node.send("came later")
        check_replayed(first, await node.post(f"{JOBS}/purge", {}, headers=KEY))
        assert await depth(node) == 1


async def test_a_redrive_that_was_refused_may_be_sent_again_with_its_key(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put("/v1/queues/once", json={"max_deliveries": 1})
        await node.client.put("/v1/queues/small", json={"max_size": 1})
        await node.send("x", queue="once")
        [message] = await node.receive("once")
        await node.post("/v1/queues/once/nack", {"token": message["token"]})
        await node.send("in the way", queue="small")
        path, body = "/v1/queues/once/dead-letters/redrive", {"to": "small"}
        refused = await node.post(path, body, headers=KEY)
        assert error_of(refused) == (429, "QueueFullError")
        await node.post("/v1/queues/small/purge")
        answer = await node.post(path, body, headers=KEY)
        assert (answer.status_code, answer.json()) == (200, {"redriven": 1})

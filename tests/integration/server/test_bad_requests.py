"""Requests that nobody should send: each gets an answer, and no other request notices."""

from __future__ import annotations

import json
from pathlib import Path

import anyio
import pytest

from mpreg.server.app import App
from tests.integration.server.support import error_of, new_state, open_node, talk

pytestmark = pytest.mark.anyio

MESSAGES = "/v1/queues/jobs/messages"


async def test_a_body_over_its_limit_is_refused_while_it_is_read(data_dir: Path) -> None:
    async with open_node(data_dir, body_bytes_max=1_024) as node:
        async with talk(node.app, "POST", MESSAGES) as who:
            for _ in range(3):
                who.say(b"x" * 512, more=True)
            who.say(b"")
            await who.begin()
            assert who.status == 413
            assert json.loads(await who.hear_all())["error"] == "ValueTooLargeError"
        announced = {"content-length": "100000"}
        async with talk(node.app, "POST", MESSAGES, announced) as who:
            # Nothing of it has come, and it is refused.
            await who.begin()
            assert who.status == 413
            who.say(b"")
            await who.hear_all()


async def test_a_client_that_goes_on_sending_what_was_refused_holds_nobody_up(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.001)
    async with (
        open_node(data_dir, body_bytes_max=1_024) as node,
        talk(node.app, "POST", MESSAGES) as who,
    ):
        who.say(b"x" * 2_048, more=True)
        await who.begin()
        await who.hear_all()
        await who.ended.wait()


async def test_a_body_that_does_not_come_on_is_not_waited_for(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.calls.BODY_SECONDS_MAX", 0.001)
    monkeypatch.setattr("mpreg.server.app.LINGER_SECONDS", 0.001)
    async with open_node(data_dir) as node, talk(node.app, "POST", MESSAGES) as who:
        who.say(b"{", more=True)
        await who.begin()
        assert who.status == 408
        await who.hear_all()


async def test_a_client_that_leaves_in_the_middle_of_its_request_does_nothing(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:
        async with talk(node.app, "POST", MESSAGES) as who:
            who.say(b'{"payload": 1}', more=True)
            who.leave()
            await who.ended.wait()
            assert who.status == 0
        assert await node.receive() == []
        assert node.state.requests == 0


SENSELESS = [
    (b"{", "application/json", 400),
    (b"\xff\xfe", "application/json", 400),
    (b"[" * 10_000, "application/json", 400),
    (b'{"payload": {"$base64": "?"}}', "application/json", 400),
    (b"\xc1", "application/msgpack", 400),
    (b"\x81\xa7payload\xd4\x01\x00", "application/msgpack", 400),
    (b"payload=1", "application/x-www-form-urlencoded", 415),
    (b"{}", "", 415),
]


async def test_a_body_that_makes_no_sense_is_refused(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for body, kind, status in SENSELESS:
            headers = {"content-type": kind}
            answer = await node.client.post(MESSAGES, content=body, headers=headers)
            assert error_of(answer)[0] == status, (body, kind)
        assert await node.receive() == []


STREAMS = [
    *(("/v1/keys/n", "watch"), ("/v1/cache", "watch"), ("/v1/cache/n", "watch")),
    ("/v1/logs/audit/records", "follow"),
]


async def test_a_flag_of_a_query_stands_alone_or_says_what_it_is(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for path, flag in STREAMS:
            for said in ("", "=", "=true", "=1"):
                answer = await node.client.head(f"{path}?{flag}{said}")
                assert answer.headers["content-type"].startswith("text/event-stream"), path
            for said in ("=false", "=0"):
                answer = await node.client.head(f"{path}?{flag}{said}")
                assert answer.headers["content-type"] == "application/json", path


@pytest.mark.parametrize("said", ["no", "False", "2", "00", "true,false"])
async def test_a_flag_of_a_query_with_another_value_is_refused(data_dir: Path, said: str) -> None:
    async with open_node(data_dir) as node:
        await node.send("x")
        for path, flag in STREAMS:
            assert (await node.client.head(f"{path}?{flag}={said}")).status_code == 400, path
        for method, path, flag in (
            ("POST", "/v1/queues/jobs/receive", "one_by_one"),
            ("PUT", "/v1/queues/new", "here"),
        ):
            answer = await node.client.request(method, f"{path}?{flag}={said}", json={})
            assert error_of(answer) == (400, "InvalidArgumentError"), path
            assert said in answer.json()["detail"]
        assert [one["attempt"] for one in await node.receive()] == [1]
        assert await node.state.queues.queue_names() == ["jobs"]


async def test_a_route_or_method_that_is_not_there_is_told_so(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for path in ("/none", "/v1", "/v1/queues/", "/v1/queues/a/b/c", "/v1/keys", "/v1//queues"):
            answer = await node.client.get(path)
            assert error_of(answer) == (404, "NotFoundError"), path
        answer = await node.client.patch("/v1/queues/jobs")
        assert error_of(answer) == (405, "RequestRefusedError")
        assert answer.headers["allow"] == "DELETE, GET, HEAD, PUT"


async def test_an_address_that_asks_too_fast_is_told_when_to_come_again(data_dir: Path) -> None:
    async with open_node(data_dir, requests_per_second_max=0.001) as node:
        assert (await node.client.get("/health/live")).status_code == 200
        answer = await node.client.get("/v1/queues")
        assert error_of(answer) == (429, "TooManyRequestsError")
        assert "retry-after" in answer.headers


async def test_a_bug_is_told_by_an_id_that_is_in_the_log_and_by_nothing_else(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def fail(self: object) -> list[str]:
        raise OSError(f"/secret/place of {data_dir}")

    async with open_node(data_dir) as node:
        monkeypatch.setattr("mpreg.queues.MessageQueueManager.queue_names", fail)
        answer = await node.client.get("/v1/queues")
        assert error_of(answer) == (500, "UnexpectedError")
        assert "secret" not in answer.text
        assert "Traceback" not in answer.text
        assert answer.json()["incident"] in caplog.text
        assert "/secret/place" in caplog.text


async def test_before_it_is_ready_only_the_health_of_a_node_can_be_asked(data_dir: Path) -> None:
    state = new_state(data_dir)
    app = App(state)
    async with talk(app, "GET", "/health/live") as who:
        await who.begin()
        assert who.status == 200
        who.say(b"")
        await who.hear_all()
    async with talk(app, "GET", "/health/ready") as who:
        who.say(b"")
        await who.begin()
        found = json.loads(await who.hear_all())
        assert (who.status, found) == (503, {"ready": False, "phase": "starting", "restore": []})
    async with talk(app, "GET", "/v1/queues") as who:
        who.say(b"")
        await who.begin()
        assert (who.status, who.headers["retry-after"]) == (503, "1")
        await who.hear_all()


async def test_a_store_that_has_closed_is_told_as_such(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        path = "/v1/keys/n/a"
        await node.client.put(path, content=b"1")
    async with talk(node.app, "GET", path) as who:
        who.say(b"")
        await who.begin()
        assert who.status == 503
        assert json.loads(await who.hear_all())["error"] == "ReaderStoppedError"


async def test_what_is_no_http_request_is_closed(data_dir: Path) -> None:
    app = App(new_state(data_dir))
    sent: list[object] = []

    async def send(message: object) -> None:
        sent.append(message)

    async def receive() -> dict[str, str]:
        await anyio.sleep_forever()
        raise AssertionError

    await app({"type": "websocket"}, receive, send)
    await app({"type": "lifespan"}, receive, send)
    assert sent == [{"type": "websocket.close", "code": 1008}]

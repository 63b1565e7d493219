"""Keys over HTTP: bytes, versions, conditions, pages and changes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from tests.integration.server.support import error_of, open_node, talk
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

KEYS = "/v1/keys/sessions"
ANN = f"{KEYS}/ann"


async def test_bytes_come_back_as_they_were_put_with_their_version(data_dir: Path) -> None:
    value = bytes(range(256))
    async with open_node(data_dir, backend="sqlite") as node:
        put = await node.client.put(ANN, content=value)
        version = put.json()["version"]
        assert (put.status_code, put.headers["etag"]) == (200, f'"{version}"')
        got = await node.client.get(ANN)
        assert (got.status_code, got.content, got.headers["etag"]) == (200, value, f'"{version}"')
        assert got.headers["content-type"] == "application/octet-stream"
        assert "x-mpreg-expires-at" not in got.headers
        head = await node.client.head(ANN)
        assert (head.status_code, head.headers["etag"]) == (200, f'"{version}"')
        same = await node.client.get(ANN, headers={"if-none-match": f'"{version}"'})
        assert (same.status_code, same.content) == (304, b"")
    async with open_node(data_dir, backend="sqlite") as node:
        assert (await node.client.get(ANN)).content == value


async def test_any_text_is_a_key(data_dir: Path) -> None:
    keys = {
        "a/b//c": "a/b//c",
        "%2Fa": "/a",
        "Gr%C3%B6%C3%9Fe": "Größe",
        "a%20b": "a b",
        "..%2F..": "../..",
        "a%3Fb": "a?b",
        "a%00b": "a\0b",
        "a%0Ab": "a\nb",
        "ab": "ab",
        "ab%0A": "ab\n",
    }
    async with open_node(data_dir) as node:
        store = node.state.registry.key_value_store("sessions")
        for written, key in keys.items():
            put = await node.client.put(f"{KEYS}/{written}", content=key.encode())
            assert put.status_code == 200
            assert (await node.client.get(f"{KEYS}/{written}")).content == key.encode()
            entry = await store.get(key)
            assert entry is not None
            assert entry.value == key.encode()
        assert len([entry async for entry in store.scan()]) == len(keys)


async def test_a_condition_that_is_not_met_writes_nothing(data_dir: Path) -> None:
    async with open_node(data_dir) as node:

        async def put(value: bytes, **headers: str) -> Any:
            named = {name.replace("_", "-"): text for name, text in headers.items()}
            return await node.client.put(ANN, content=value, headers=named)

        assert error_of(await put(b"0", if_match="*")) == (412, "VersionConflictError")
        first = await put(b"1", if_none_match="*")
        conflict = await put(b"2", if_none_match="*")
        assert error_of(conflict) == (412, "VersionConflictError")
        assert conflict.headers["x-mpreg-version"] == str(first.json()["version"])
        second = await put(b"3", if_match=first.headers["etag"])
        assert second.status_code == 200
        assert error_of(await put(b"4", if_match=first.headers["etag"])) == (
            412,
            "VersionConflictError",
        )
        assert (await put(b"5", if_match="*")).status_code == 200
        assert error_of(await put(b"6", if_match="5")) == (400, "InvalidArgumentError")
        assert (await node.client.get(ANN)).content == b"5"
        old = await node.client.delete(ANN, headers={"if-match": first.headers["etag"]})
        assert error_of(old) == (412, "VersionConflictError")
        gone = await node.client.delete(ANN, headers={"if-match": "*"})
        assert gone.json() == {"deleted": True}


async def test_a_key_is_deleted_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await node.client.put(ANN, content=b"x")
        assert (await node.client.delete(ANN)).json() == {"deleted": True}
        assert (await node.client.delete(ANN)).json() == {"deleted": False}
        assert error_of(await node.client.get(ANN)) == (404, "NotFoundError")


async def test_a_key_lives_as_long_as_it_was_given(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock) as node:
        await node.client.put(f"{ANN}?ttl_seconds=10", content=b"x")
        got = await node.client.get(ANN)
        assert float(got.headers["x-mpreg-expires-at"]) == clock.now + 10
        clock.now += 11
        assert (await node.client.get(ANN)).status_code == 404
        for wrong in ("0", "-1", "x", "nan", "inf", ""):
            answer = await node.client.put(f"{ANN}?ttl_seconds={wrong}", content=b"x")
            assert error_of(answer) == (400, "InvalidArgumentError"), wrong


async def test_keys_are_listed_in_pages(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for name in ("b1", "a2", "a1", "a3"):
            await node.client.put(f"{KEYS}/{name}", content=name.encode())
        # What only a program of its own can have written is no key that has an address here.
        await node.state.registry.key_value_store("sessions").put(b"\xff", b"bytes")
        pages, after = [], ""
        while True:
            answer = await node.client.get(f"{KEYS}?prefix=a&limit=2{after}")
            page = answer.json()
            pages.append([entry["key"] for entry in page["entries"]])
            if page["next"] is None:
                break
            after = f"&after={page['next']}"
        assert pages == [["a1", "a2"], ["a3"]]
        entries = (await node.client.get(KEYS)).json()["entries"]
        assert [entry["key"] for entry in entries] == ["a1", "a2", "a3", "b1"]
        assert entries[0]["value"] == {"$base64": "YTE="}
        assert (await node.client.get("/v1/keys/none")).json() == {"entries": [], "next": None}
        assert error_of(await node.client.get(f"{KEYS}?limit=none")) == (
            400,
            "InvalidArgumentError",
        )


async def test_names_are_looked_at_before_anything_else(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for path in ("/v1/keys/a%00b/k", f"/v1/keys/{'x' * 201}/k"):
            for method in ("GET", "PUT", "DELETE"):
                answer = await node.client.request(method, path)
                assert error_of(answer) == (400, "InvalidArgumentError")
        answer = await node.client.get(f"{KEYS}/%FF")
        assert error_of(answer) == (400, "RequestRefusedError")
        answer = await node.client.put("/v1/cache/n/a?tags=%FF", json=1)
        assert error_of(answer) == (400, "RequestRefusedError")


def event(part: bytes) -> tuple[str, str | None, Any]:
    fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if line)
    return fields["event"], fields.get("id"), json.loads(fields["data"])


async def test_changes_are_told_as_they_are_committed(data_dir: Path) -> None:
    async with open_node(data_dir) as node, talk(node.app, "GET", f"{KEYS}?watch&prefix=a") as who:
        who.say(b"")
        await who.begin()
        assert who.headers["content-type"].startswith("text/event-stream")
        assert (await who.hear()).startswith(b":")
        store = node.state.registry.key_value_store("sessions")
        version = await store.put("ann", b"1")
        await store.put("bob", b"2")
        await store.delete("ann")
        put = {"key": "ann", "version": version, "value": {"$base64": "MQ=="}}
        assert event(await who.hear_event()) == ("put", str(version), put)
        assert event(await who.hear_event()) == ("delete", None, {"key": "ann"})
        assert node.state.long_polls.count == 1
        who.leave()
        await who.ended.wait()
        assert node.state.long_polls.count == 0


async def test_a_watch_goes_on_after_the_last_event_that_was_seen(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        store = node.state.registry.key_value_store("sessions")
        seen = await store.put("ann", b"1")
        missed = await store.put("bob", b"2")
        headers = {"last-event-id": str(seen)}
        async with talk(node.app, "GET", f"{KEYS}?watch", headers) as who:
            who.say(b"")
            await who.begin()
            kind, id, data = event(await who.hear_event())
            assert (kind, id, data["key"], data["version"]) == ("put", None, "bob", missed)
            assert event(await who.hear_event())[0] == "resumed"
            later = await store.put("eve", b"3")
            assert event(await who.hear_event())[1] == str(later)
        assert (await node.client.head(f"{KEYS}?watch")).status_code == 200
        wrong = await node.client.get(f"{KEYS}?watch", headers={"last-event-id": "x"})
        assert error_of(wrong) == (400, "InvalidArgumentError")


async def test_who_does_not_take_changes_is_told_that_some_are_missing(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.persistence.kv_store.WATCHED_CHANGES_MAX", 2)
    async with open_node(data_dir) as node, talk(node.app, "GET", f"{KEYS}?watch") as who:
        who.say(b"")
        await who.begin()
        await anyio.wait_all_tasks_blocked()
        store = node.state.registry.key_value_store("sessions")
        async with node.state.registry.transaction() as transaction:
            for number in range(5_000):
                store.put_nowait(f"k{number}", b"", transaction=transaction)
        parts = (await who.hear_all()).split(b"\n\n")
        kind, _, data = event(parts[-2])
        assert (kind, data["error"]) == ("error", "WatchLaggedError")


async def test_a_watch_says_now_and_then_that_it_is_there(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.server.streams.HEARTBEAT_SECONDS", 0.001)
    async with open_node(data_dir) as node, talk(node.app, "GET", f"{KEYS}?watch") as who:
        who.say(b"")
        await who.begin()
        assert await who.hear() == b": mpreg\n\n"
        assert [await who.hear() for _ in range(3)] == [b":\n\n"] * 3
        # It has missed nothing by that.
        await node.state.registry.key_value_store("sessions").put("ann", b"1")
        assert event(await who.hear_event())[2]["key"] == "ann"

"""The cache over HTTP: values, versions, numbers, invalidations and changes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import httpx
import msgspec
import pytest

from mpreg.cache import GlobalCacheKey
from tests.integration.server.support import Node, error_of, open_node, talk
from tests.integration.server.test_idempotent_writes import check_replayed
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

PAGES = "/v1/cache/pages"
HOME = f"{PAGES}/home"
MSGPACK = {"content-type": "application/msgpack", "accept": "application/msgpack"}


async def put(node: Node, path: str, value: Any, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): text for name, text in headers.items()}
    named["content-type"] = "application/json"
    return await node.client.put(path, content=json.dumps(value), headers=named)


async def is_cached(node: Node, path: str) -> bool:
    return (await node.client.get(path)).status_code == 200


async def test_any_value_comes_back_in_both_forms_and_after_a_restart(data_dir: Path) -> None:
    value = {"bytes": bytes(range(256)), "list": [1, -1.5, None, True], "inf": math.inf, "": {}}
    async with open_node(data_dir, backend="sqlite") as node:
        packed = msgspec.msgpack.encode(value)
        written = await node.client.put(HOME, content=packed, headers=MSGPACK)
        assert written.status_code == 200
        plain: Any
        for plain in (None, 0, "", [], {"$base64": "eA=="}):
            assert (await put(node, f"{PAGES}/plain", plain)).status_code == 200
            assert (await node.client.get(f"{PAGES}/plain")).json() == plain
    async with open_node(data_dir, backend="sqlite") as node:
        got = await node.client.get(HOME, headers=MSGPACK)
        assert msgspec.msgpack.decode(got.content) == value
        assert got.headers["x-mpreg-cache-level"] in ("L1", "L2")
        in_json = await node.client.get(HOME)
        again = await node.client.put(
            f"{PAGES}/copy",
            content=in_json.content,
            headers={"content-type": "application/json"},
        )
        assert again.status_code == 200
        copy = await node.state.cache.get(GlobalCacheKey("pages", "copy"))
        assert copy is not None
        assert copy.value == value


async def test_what_is_no_value_is_refused(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        json_type = {"content-type": "application/json"}
        for content, headers, expected in (
            (b"", json_type, (400, "RequestRefusedError")),
            (b"{", json_type, (400, "RequestRefusedError")),
            (b"x", {"content-type": "text/plain"}, (415, "RequestRefusedError")),
            (b"%d" % 2**70, json_type, (400, "InvalidArgumentError")),
        ):
            answer = await node.client.put(HOME, content=content, headers=headers)
            assert error_of(answer) == expected, content
        for query in ("ttl_seconds=0", "ttl_seconds=x", "tags=", "cost=x", "dependencies=[]"):
            answer = await put(node, f"{HOME}?{query}", 1)
            assert error_of(answer) == (400, "InvalidArgumentError"), query
        assert error_of(await node.client.get(HOME)) == (404, "NotFoundError")


async def test_a_key_has_one_part_from_the_path_or_any_parts(data_dir: Path) -> None:
    keys = {
        "a/b": ("a/b",),
        "": ("",),
        f"?parts={quote(json.dumps(['a', 1, {'$base64': 'AA=='}]))}": ("a", 1, b"\0"),
    }
    async with open_node(data_dir) as node:
        for written, parts in keys.items():
            assert (await put(node, f"{PAGES}/{written}", list(map(str, parts)))).is_success
            found = await node.state.cache.get(GlobalCacheKey("pages", *parts))
            assert found is not None
            assert found.value == list(map(str, parts))
            assert await is_cached(node, f"{PAGES}/{written}")
        for wrong in ("?parts=[]", "?parts=1", "?parts=[", "?parts=[1.5]", "x?parts=[1]"):
            answer = await node.client.get(f"{PAGES}/{wrong}")
            assert error_of(answer) == (400, "InvalidArgumentError"), wrong


async def test_a_value_is_set_over_the_version_that_was_seen(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        first = await put(node, HOME, 1, if_none_match="*")
        tag = first.headers["etag"]
        assert tag == f'"{first.json()["version"]}"'
        got = await node.client.get(HOME)
        assert got.headers["etag"] == tag
        same = await node.client.get(HOME, headers={"if-none-match": tag})
        assert (same.status_code, same.content) == (304, b"")
        there = await put(node, HOME, 2, if_none_match="*")
        assert error_of(there) == (412, "VersionConflictError")
        assert (await put(node, HOME, 3, if_match=tag)).status_code == 200
        assert error_of(await put(node, HOME, 4, if_match=tag)) == (412, "VersionConflictError")
        for headers in ({"if-match": "*"}, {"if-match": "7"}):
            answer = await node.client.put(HOME, json=5, headers=headers)
            assert error_of(answer) == (400, "InvalidArgumentError")
        kept = await node.client.delete(HOME, headers={"if-match": tag})
        assert error_of(kept) == (400, "InvalidArgumentError")
        assert (await node.client.get(HOME)).json() == 3


async def test_a_value_lives_as_long_as_it_was_given(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_node(data_dir, clock=clock) as node:
        await put(node, f"{HOME}?ttl_seconds=10", 1)
        got = await node.client.get(HOME)
        assert float(got.headers["x-mpreg-expires-at"]) == clock.now + 10
        clock.now += 11
        assert not await is_cached(node, HOME)


async def test_a_value_is_deleted_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await put(node, HOME, 1)
        assert (await node.client.delete(HOME)).json() == {"deleted": True}
        assert (await node.client.delete(HOME)).json() == {"deleted": False}


async def test_a_number_is_added_to(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        path = f"{PAGES}/views/increment"
        values = [
            (await node.post(path, body)).json()["value"]
            for body in ({}, {"by": 5}, {"by": -2, "initial": 100})
        ]
        assert values == [1, 6, 4]
        other = await node.post(f"{PAGES}//increment?parts=[1]", {"initial": 10})
        assert other.json() == {"value": 11}
        await put(node, HOME, "text")
        wrong = await node.post(f"{HOME}/increment")
        assert error_of(wrong) == (400, "InvalidArgumentError")
        too_large = await node.post(path, {"by": 2**63})
        assert error_of(too_large) == (400, "InvalidArgumentError")


async def test_a_number_is_added_to_as_durably_as_is_asked(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        path = f"{PAGES}/views/increment"
        for durability, is_durable in (("relaxed", False), ("durable", True), (None, True)):
            answer = await node.post(path, {"durability": durability})
            assert answer.status_code == 200, answer.text
            stats = await node.state.registry.stats()
            assert (stats.durable_sequence == stats.commit_sequence) is is_durable
        for wrong in ("DURABLE", "", 1):
            refused = await node.post(path, {"durability": wrong})
            assert error_of(refused) == (400, "InvalidArgumentError")
        assert (await node.client.get(f"{PAGES}/views")).json() == 3


async def test_values_are_invalidated_by_namespace_prefix_tag_and_dependency(
    data_dir: Path,
) -> None:
    async with open_node(data_dir) as node:

        async def left(body: dict[str, Any]) -> list[str]:
            depends = quote(json.dumps(["users", "ann"]))
            await put(node, f"{PAGES}/ab?tags=red&tags=blue", 1)
            await put(node, f"{PAGES}/ac?dependencies={depends}", 1)
            await put(node, "/v1/cache/other/ab", 1)
            answer = await node.post("/v1/cache/invalidate", body)
            assert answer.status_code == 200, answer.text
            assert answer.json()["version"] > 0
            paths = ("pages/ab", "pages/ac", "other/ab")
            return [path for path in paths if await is_cached(node, f"/v1/cache/{path}")]

        assert await left({"namespace": "pages"}) == ["other/ab"]
        assert await left({"namespace": "pages", "prefix": "ab"}) == ["pages/ac", "other/ab"]
        assert await left({"namespace": "pages", "prefix": ["ac"]}) == ["pages/ab", "other/ab"]
        assert await left({"tag": "blue"}) == ["pages/ac", "other/ab"]
        assert await left({"dependency": ["users", "ann"]}) == ["pages/ab", "other/ab"]
        wrong: dict[str, Any]
        for wrong in ({}, {"tag": "a", "namespace": "b"}, {"prefix": "a"}, {"dependency": []}):
            answer = await node.post("/v1/cache/invalidate", wrong)
            assert error_of(answer) == (400, "InvalidArgumentError"), wrong


async def test_no_namespace_and_no_key_is_taken_for_a_verb(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for path in ("/v1/cache/invalidate/home", "/v1/cache/pages/home/increment"):
            assert (await put(node, path, 1)).status_code == 200
            assert (await node.client.get(path)).json() == 1
            number = await node.post(f"{path}/increment")
            assert number.json() == {"value": 2}
            assert (await node.client.delete(path)).json() == {"deleted": True}
        assert (await node.client.get("/v1/cache/invalidate")).json()["misses"] == 0
        answer = await node.client.request("PATCH", "/v1/cache/pages/home")
        assert error_of(answer) == (405, "RequestRefusedError")


async def test_a_put_is_made_once_and_answered_with_its_version(data_dir: Path) -> None:
    headers = {"idempotency-key": "one"}
    async with open_node(data_dir, backend="sqlite") as node:
        first = await node.client.put(HOME, json=1, headers=headers)
        await put(node, HOME, 2)
    async with open_node(data_dir, backend="sqlite") as node:
        check_replayed(first, await node.client.put(HOME, json=1, headers=headers))
        assert (await node.client.get(HOME)).json() == 2


async def test_reads_of_a_namespace_are_counted(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await put(node, HOME, 1)
        await node.client.get(HOME)
        await node.client.get(f"{PAGES}/none")
        counts = {"memory_hits": 1, "disk_hits": 0, "misses": 1}
        assert (await node.client.get(PAGES)).json() == {"namespace": "pages", **counts}
        assert (await node.client.get("/v1/cache/none")).json()["misses"] == 0


def event(part: bytes) -> tuple[str, Any]:
    fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if line)
    assert "id" not in fields
    return fields["event"], json.loads(fields["data"])


async def test_changes_are_told_as_they_are_committed(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        async with talk(node.app, "GET", f"{PAGES}?watch&prefix=h") as who:
            who.say(b"")
            await who.begin()
            assert who.headers["content-type"].startswith("text/event-stream")
            await anyio.wait_all_tasks_blocked()
            version = (await put(node, HOME, 1)).json()["version"]
            await put(node, f"{PAGES}/other", 1)
            await node.client.delete(HOME)
            first = await node.post("/v1/cache/invalidate", {"namespace": "pages"})
            second = await node.post("/v1/cache/invalidate", {"tag": "red"})
            key = ["pages", "home"]
            assert event(await who.hear_event()) == ("put", {"version": version, "key": key})
            kind, deleted = event(await who.hear_event())
            assert (kind, deleted["key"]) == ("deleted", key)
            assert event(await who.hear_event()) == (
                "invalidated",
                {"version": first.json()["version"], "namespace": "pages"},
            )
            assert event(await who.hear_event()) == (
                "invalidated",
                {"version": second.json()["version"], "tag": "red"},
            )
        assert node.state.long_polls.count == 0


async def test_several_values_are_put_and_read_together(data_dir: Path) -> None:
    entries = [{"key": ["pages", "a"], "value": 1}, {"key": ["other", 7], "value": {"x": None}}]
    body = {"entries": entries, "ttl_seconds": 60.0, "tags": ["t"], "dependencies": [["d", 1]]}
    key = {"idempotency-key": "one"}
    async with open_node(data_dir, clock=TurnedClock()) as node:
        first = await node.post("/v1/cache/put-many", body, headers=key)
        assert first.status_code == 200, first.text
        check_replayed(first, await node.post("/v1/cache/put-many", body, headers=key))
        keys = [["other", 7], ["pages", "a"], ["pages", "none"]]
        found = (await node.post("/v1/cache/get-many", {"keys": keys})).json()["found"]
        assert [(one["key"], one["value"]) for one in found] == [
            (["other", 7], {"x": None}),
            (["pages", "a"], 1),
        ]
        assert found[0]["version"] == first.json()["version"]
        assert found[1]["expires_at"] == 1060.0
        await node.post("/v1/cache/invalidate", {"dependency": ["d", 1]})
        assert (await node.post("/v1/cache/get-many", {"keys": keys})).json() == {
            "found": [],
            "next": None,
        }
        empty = await node.post("/v1/cache/put-many", {"entries": []})
        assert empty.json() == {"version": None}
        for wrong in (
            {"entries": [{"key": ["pages"], "value": 1}]},
            {"entries": [{"key": [], "value": 1}]},
            {"entries": [{"key": ["pages", 1.5], "value": 1}]},
            {"entries": entries, "ttl_seconds": 0.0},
            {"entries": entries, "tags": [""]},
            {"entries": [{"key": ["pages", "a"]}]},
        ):
            answer = await node.post("/v1/cache/put-many", wrong)
            assert error_of(answer) == (400, "InvalidArgumentError"), wrong
        answer = await node.post("/v1/cache/get-many", {"keys": [["pages"]]})
        assert error_of(answer) == (400, "InvalidArgumentError")


async def test_all_changes_and_those_of_some_parts_are_told(data_dir: Path) -> None:
    parts = quote('["a", 1]')
    async with (
        open_node(data_dir) as node,
        talk(node.app, "GET", "/v1/cache?watch") as everybody,
        talk(node.app, "GET", f"{PAGES}?watch&parts={parts}") as some,
    ):
        for who in (everybody, some):
            who.say(b"")
            await who.begin()
        await anyio.wait_all_tasks_blocked()
        for key in (["other", "x"], ["pages", "a"], ["pages", "a", 1, "b"]):
            await node.post("/v1/cache/put-many", {"entries": [{"key": key, "value": 1}]})
        keys = [event(await everybody.hear_event())[1]["key"] for _ in range(3)]
        assert keys == [["other", "x"], ["pages", "a"], ["pages", "a", 1, "b"]]
        assert event(await some.hear_event())[1]["key"] == ["pages", "a", 1, "b"]
    async with open_node(data_dir) as node:
        both = await node.client.get(f"{PAGES}?watch&prefix=a&parts={parts}")
        assert error_of(both) == (400, "InvalidArgumentError")


async def test_the_cache_tells_how_it_is_used(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await put(node, HOME, 1)
        await node.client.get(HOME)
        found = (await node.client.get("/v1/cache")).json()
        assert (found["puts"], found["memory_hits"], found["warm_up"]) == (1, 1, "done")
        assert found["namespaces"]["pages"] == {"memory_hits": 1, "disk_hits": 0, "misses": 0}

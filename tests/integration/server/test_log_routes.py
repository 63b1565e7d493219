"""Logs over HTTP: records in pages, as they come, and none twice."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.errors import StorageFullError
from mpreg.persistence import KeyValueStore
from tests.integration.server.support import Node, error_of, open_node, talk
from tests.integration.server.test_idempotent_writes import check_replayed
from tests.integration.support import tamper

pytestmark = pytest.mark.anyio

LOG = "/v1/logs/audit"
RECORDS = f"{LOG}/records"
KEY = {"idempotency-key": "one"}


def in_json(*records: bytes) -> dict[str, Any]:
    return {"records": [{"$base64": base64.b64encode(record).decode()} for record in records]}


async def append(node: Node, *records: bytes) -> tuple[int, int]:
    answer = await node.post(RECORDS, in_json(*records))
    assert answer.status_code == 201, answer.text
    return answer.json()["first_offset"], answer.json()["next_offset"]


async def bounds(node: Node) -> tuple[int, int]:
    found = (await node.client.get(LOG)).json()
    return found["first_offset"], found["next_offset"]


async def test_records_come_back_as_they_were_appended(data_dir: Path) -> None:
    one = bytes(range(256))
    async with open_node(data_dir, backend="sqlite") as node:
        assert await bounds(node) == (0, 0)
        raw = await node.client.post(
            RECORDS, content=one, headers={"content-type": "application/octet-stream"}
        )
        assert (raw.status_code, raw.json()) == (201, {"first_offset": 0, "next_offset": 1})
        assert await append(node, b"", b"three") == (1, 3)
    async with open_node(data_dir, backend="sqlite") as node:
        assert await bounds(node) == (0, 3)
        records = (await node.client.get(RECORDS)).json()["records"]
        assert [record["offset"] for record in records] == [0, 1, 2]
        assert [base64.b64decode(record["data"]["$base64"]) for record in records] == [
            one,
            b"",
            b"three",
        ]


async def test_what_is_no_record_is_refused_and_so_are_those_beside_it(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        for records in ([], [{"$base64": "eA=="}, "text"], [1], "eA==", None):
            answer = await node.post(RECORDS, {"records": records})
            assert error_of(answer) == (400, "InvalidArgumentError"), records
        assert await bounds(node) == (0, 0)


async def test_a_log_is_read_in_pages(data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with open_node(data_dir) as node:
        await append(node, *(b"%d" % number for number in range(5)))

        async def page(query: str) -> tuple[list[int], int | None]:
            found = (await node.client.get(f"{RECORDS}?{query}")).json()
            return [record["offset"] for record in found["records"]], found["next"]

        assert await page("limit=2") == ([0, 1], 2)
        assert await page("limit=2&start=2") == ([2, 3], 4)
        assert await page("limit=2&start=4") == ([4], None)
        assert await page("start=1&stop=3") == ([1, 2], None)
        assert await page("start=5") == ([], None)
        for wrong in ("limit=0", "start=-1", "stop=x", "start=1.5"):
            answer = await node.client.get(f"{RECORDS}?{wrong}")
            assert error_of(answer) == (400, "InvalidArgumentError"), wrong
        # A page is bounded by bytes as well.
        monkeypatch.setattr("mpreg.server.routes.logs.READ_BYTES_MAX", 1)
        assert await page("limit=5") == ([0, 1], 2)


async def test_a_log_is_truncated_but_not_beyond_its_end(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0", b"1", b"2")
        answer = await node.post(f"{LOG}/truncate", {"before": 2})
        assert answer.json() == {"first_offset": 2}
        assert await bounds(node) == (2, 3)
        assert (await node.post(f"{LOG}/truncate", {"before": 1})).json() == {"first_offset": 2}
        beyond = await node.post(f"{LOG}/truncate", {"before": 4})
        assert error_of(beyond) == (416, "OffsetOutOfRangeError")
        wrong = await node.post(f"{LOG}/truncate", {"before": -1})
        assert error_of(wrong) == (400, "InvalidArgumentError")
        assert await bounds(node) == (2, 3)


async def test_records_are_appended_once_also_after_a_restart(data_dir: Path) -> None:
    body = in_json(b"a", b"b")
    async with open_node(data_dir, backend="sqlite") as node:
        await append(node, b"before")
        first = await node.post(RECORDS, body, headers=KEY)
        assert first.json() == {"first_offset": 1, "next_offset": 3}
        await append(node, b"after")
        check_replayed(first, await node.post(RECORDS, body, headers=KEY))
    async with open_node(data_dir, backend="sqlite") as node:
        check_replayed(first, await node.post(RECORDS, body, headers=KEY))
        assert await bounds(node) == (0, 4)


async def test_records_whose_offset_could_not_be_noted_are_not_appended_again(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fail(self: KeyValueStore, *args: Any, **options: Any) -> int:
        raise StorageFullError("no room for the offset")

    async with open_node(data_dir) as node:
        with monkeypatch.context() as patched:
            patched.setattr(KeyValueStore, "put", fail)
            first = await node.post(RECORDS, in_json(b"a"), headers=KEY)
        assert (first.status_code, first.json()["first_offset"]) == (201, 0)
        again = await node.post(RECORDS, in_json(b"a"), headers=KEY)
        assert (again.status_code, again.json()) == (
            201,
            {"first_offset": None, "next_offset": None},
        )
        assert await bounds(node) == (0, 1)


def event(part: bytes) -> tuple[str, int, bytes]:
    fields = dict(line.split(": ", 1) for line in part.decode().splitlines() if line)
    data = json.loads(fields["data"])
    assert fields["id"] == str(data["offset"])
    return fields["event"], data["offset"], base64.b64decode(data["data"]["$base64"])


async def test_a_log_is_followed_from_an_offset_and_then_as_it_grows(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0", b"1")
        async with talk(node.app, "GET", f"{RECORDS}?follow&start=1") as who:
            who.say(b"")
            await who.begin()
            assert who.headers["content-type"].startswith("text/event-stream")
            assert event(await who.hear_event()) == ("record", 1, b"1")
            await append(node, b"2", b"3")
            assert event(await who.hear_event()) == ("record", 2, b"2")
            assert event(await who.hear_event()) == ("record", 3, b"3")
            assert node.state.long_polls.count == 1
        assert node.state.long_polls.count == 0


async def test_who_comes_back_goes_on_behind_the_last_record_seen(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0", b"1", b"2")
        headers = {"last-event-id": "1"}
        async with talk(node.app, "GET", f"{RECORDS}?follow&start=0", headers) as who:
            who.say(b"")
            await who.begin()
            assert event(await who.hear_event()) == ("record", 2, b"2")
        wrong = await node.client.get(f"{RECORDS}?follow", headers={"last-event-id": "x"})
        assert error_of(wrong) == (400, "InvalidArgumentError")


async def test_the_head_of_a_stream_is_all_of_it(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0")
        head = await node.client.head(f"{RECORDS}?follow&start=0")
        assert (head.status_code, head.content) == (200, b"")
        assert head.headers["content-type"].startswith("text/event-stream")
        assert node.state.long_polls.count == 0


async def test_without_an_offset_only_what_comes_is_told(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0")
        async with talk(node.app, "GET", f"{RECORDS}?follow") as who:
            who.say(b"")
            await who.begin()
            await anyio.wait_all_tasks_blocked()
            await append(node, b"1")
            assert event(await who.hear_event()) == ("record", 1, b"1")
            # It ends with the node.
            node.state.begin_to_stop()
            assert await who.hear_all() == b""


async def test_a_log_is_not_followed_from_beyond_its_end(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0", b"1")
        for target, headers in (("&start=3", {}), ("", {"last-event-id": "2"})):
            answer = await node.client.get(f"{RECORDS}?follow{target}", headers=headers)
            assert error_of(answer) == (416, "OffsetOutOfRangeError")
            assert answer.headers["x-mpreg-next-offset"] == "2"
        assert node.state.long_polls.count == 0


async def test_a_log_is_deleted_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await append(node, b"0", b"1")
        assert (await node.client.delete(LOG)).json() == {"deleted": 2}
        assert await bounds(node) == (0, 0)
        await append(node, b"0", b"1", b"2")
        first = await node.client.delete(LOG, headers=KEY)
        assert first.json() == {"deleted": 3}
        await append(node, b"anew")
        check_replayed(first, await node.client.delete(LOG, headers=KEY))
        assert await bounds(node) == (0, 1)


async def test_records_before_a_damaged_one_are_a_page(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        await append(node, b"0", b"1", b"2")
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 1")
    async with open_node(data_dir, backend="sqlite") as node:
        page = (await node.client.get(RECORDS)).json()
        assert ([record["offset"] for record in page["records"]], page["next"]) == ([0], 1)
        assert error_of(await node.client.get(f"{RECORDS}?start=1"))[1] == "CorruptDataError"
        page = (await node.client.get(f"{RECORDS}?start=2")).json()
        assert [record["offset"] for record in page["records"]] == [2]

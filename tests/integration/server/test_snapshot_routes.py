"""Snapshots over HTTP: whole states, up and down in pieces, and nothing of what did not end."""

from __future__ import annotations

import tracemalloc
import zlib
from pathlib import Path

import anyio
import httpx
import pytest

from mpreg.persistence.snapshots.chunks import CHUNK_BYTES
from mpreg.server.idempotency import Claim
from tests.integration.server.support import PATIENCE_SECONDS, Node, error_of, open_node, talk
from tests.integration.server.test_connections import serving
from tests.integration.server.test_idempotent_writes import check_replayed
from tests.integration.support import TurnedClock
from tests.integration.test_snapshot_store import rows

pytestmark = pytest.mark.anyio

IMAGES = "/v1/snapshots/images"

#: One chunk and a part of a second one.
LARGE = bytes(range(256)) * (CHUNK_BYTES // 256 + 1)


async def save(node: Node, data: bytes, query: str = "") -> int:
    answer = await node.client.put(f"{IMAGES}{query}", content=data)
    assert answer.status_code == 200, answer.text
    version: int = answer.json()["version"]
    assert answer.headers["etag"] == f'"{version}"'
    return version


async def versions(node: Node) -> list[int]:
    found = (await node.client.get(f"{IMAGES}/versions")).json()["versions"]
    return [one["version"] for one in found]


async def test_a_snapshot_comes_back_as_it_was_saved(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite", clock=TurnedClock()) as node:
        assert error_of(await node.client.get(IMAGES)) == (404, "SnapshotNotFoundError")
        version = await save(node, LARGE)
    async with open_node(data_dir, backend="sqlite") as node:
        got = await node.client.get(IMAGES)
        assert (got.status_code, got.content) == (200, LARGE)
        assert got.headers["content-type"] == "application/octet-stream"
        assert got.headers["content-length"] == str(len(LARGE))
        assert (got.headers["etag"], got.headers["x-mpreg-saved-at"]) == (f'"{version}"', "1000.0")
        head = await node.client.head(IMAGES)
        assert (head.content, head.headers["content-length"]) == (b"", str(len(LARGE)))
        same = await node.client.get(IMAGES, headers={"if-none-match": got.headers["etag"]})
        assert (same.status_code, same.content) == (304, b"")
        await save(node, b"")
        assert (await node.client.get(IMAGES)).content == b""


async def test_as_many_versions_are_kept_as_is_said(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        first = await save(node, b"1")
        second = await save(node, b"2", "?versions_max=2")
        assert await versions(node) == [first, second]
        # It holds from then on.
        third = await save(node, b"3")
        assert await versions(node) == [second, third]
        old = await node.client.get(f"{IMAGES}?version={second}")
        assert (old.content, old.headers["etag"]) == (b"2", f'"{second}"')
        gone = await node.client.get(f"{IMAGES}?version={first}")
        assert error_of(gone) == (404, "SnapshotNotFoundError")
        for wrong in ("versions_max=0", "seconds_max=0", "seconds_max=nan"):
            answer = await node.client.put(f"{IMAGES}?{wrong}", content=b"4")
            assert answer.status_code == 400, wrong
        assert error_of(await node.client.get(f"{IMAGES}?version=x"))[0] == 400
        assert await versions(node) == [second, third]


async def test_versions_are_deleted_one_by_one_or_all_at_once(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        first, second, third = [await save(node, b"x", "?versions_max=3") for _ in range(3)]
        gone = await node.client.delete(f"{IMAGES}?version={second}")
        assert (gone.json(), await versions(node)) == ({"deleted": True}, [first, third])
        again = await node.client.delete(f"{IMAGES}?version={second}")
        assert again.json() == {"deleted": False}
        assert (await node.client.delete(IMAGES)).json() == {"deleted": True}
        assert await versions(node) == []
        assert (await node.client.delete(IMAGES)).json() == {"deleted": False}


async def test_a_snapshot_is_saved_once_also_after_a_restart(data_dir: Path) -> None:
    key = {"idempotency-key": "one"}
    async with open_node(data_dir, backend="sqlite") as node:
        first = await node.client.put(f"{IMAGES}?versions_max=9", content=LARGE, headers=key)
        await save(node, b"later")
    async with open_node(data_dir, backend="sqlite") as node:
        target = f"{IMAGES}?versions_max=9"
        check_replayed(first, await node.client.put(target, content=LARGE, headers=key))
        assert (await node.client.get(IMAGES)).content == b"later"
        other = await node.client.put(target, content=b"x", headers=key)
        assert error_of(other) == (422, "IdempotencyKeyReusedError")


async def test_what_is_sent_again_is_heard_to_its_end_before_it_is_answered(
    data_dir: Path,
) -> None:
    headers = {"idempotency-key": "one", "content-length": "4"}
    async with open_node(data_dir) as node:
        for _ in range(2):
            async with talk(node.app, "PUT", IMAGES, headers) as who:
                who.say(b"da", more=True)
                await who.until_heard()
                await anyio.wait_all_tasks_blocked()
                assert not who.is_answered
                who.say(b"ta")
                await who.begin()
                assert who.status == 200
        assert len(await versions(node)) == 1
        assert "idempotency-replayed" in who.headers


async def test_a_body_larger_than_any_other_is_saved_and_never_held(data_dir: Path) -> None:
    pieces = 40
    async with open_node(data_dir, body_bytes_max=1_024, backend="sqlite") as node:
        async with talk(node.app, "PUT", IMAGES) as who:
            tracemalloc.start()
            try:
                for number in range(pieces):
                    who.say(bytes([number]) * CHUNK_BYTES, more=True)
                    await who.until_heard()
                who.say(b"")
                await who.begin()
                assert tracemalloc.get_traced_memory()[1] < pieces * CHUNK_BYTES // 2
            finally:
                tracemalloc.stop()
            assert who.status == 200
        got = await node.client.get(IMAGES)
        assert got.content == b"".join(bytes([number]) * CHUNK_BYTES for number in range(pieces))


async def test_what_is_read_is_never_held_however_slowly_it_is_taken(data_dir: Path) -> None:
    data = LARGE * 40
    async with (
        serving(data_dir) as node,
        httpx.AsyncClient(base_url=node.state.url, timeout=PATIENCE_SECONDS) as client,
    ):
        await node.state.registry.snapshot_store("images").save(data)
        checksum = size = 0
        tracemalloc.start()
        try:
            async with client.stream("GET", IMAGES) as answer:
                # All that is sent without being taken is sent now.
                await anyio.wait_all_tasks_blocked()
                async for part in answer.aiter_raw():
                    checksum, size = zlib.crc32(part, checksum), size + len(part)
            assert tracemalloc.get_traced_memory()[1] < len(data) // 2
        finally:
            tracemalloc.stop()
        assert (checksum, size) == (zlib.crc32(data), len(data))


async def test_a_client_that_goes_away_in_the_middle_of_a_save_leaves_nothing(
    data_dir: Path,
) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        before = await save(node, b"before")
        kept = rows(data_dir)
        async with talk(node.app, "PUT", IMAGES) as who:
            who.say(LARGE, more=True)
            while rows(data_dir) == kept:
                await anyio.sleep(0)
            who.leave()
            await who.ended.wait()
        assert who.status == 0
        assert rows(data_dir) == kept
        assert await versions(node) == [before]
        assert node.state.requests == 0


async def test_a_client_that_goes_away_in_the_middle_of_a_read_ends_it(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as node:
        version = await save(node, LARGE)
        async with talk(node.app, "GET", IMAGES) as who:
            who.say(b"")
            await who.begin()
            assert await who.hear() == LARGE[:CHUNK_BYTES]
        assert node.state.requests == 0
        # Nobody reads it any more: with its deletion all of it goes.
        await node.client.delete(f"{IMAGES}?version={version}")
        assert not any(key[:1] == b"\0" for key in rows(data_dir))


async def test_a_body_cut_short_on_its_way_is_not_saved(data_dir: Path) -> None:
    async with serving(data_dir) as node:
        async with await node.connect() as stream:
            head = f"PUT {IMAGES} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"
            await stream.send(head.encode() + LARGE)
            while not node.state.requests:
                await anyio.sleep(0)
        while node.state.requests:
            await anyio.sleep(0)
        assert await node.state.registry.snapshot_store("images").versions() == []


async def test_a_read_that_meets_damage_ends_before_its_end(data_dir: Path) -> None:
    async with (
        serving(data_dir) as node,
        httpx.AsyncClient(base_url=node.state.url, timeout=PATIENCE_SECONDS) as client,
    ):
        await client.put(IMAGES, content=LARGE)
        inside = node.state.registry.reserved("snapshot").key_value_store("images")
        [last] = [entry.key async for entry in inside.scan() if entry.value == LARGE[CHUNK_BYTES:]]
        await inside.delete(last)
        parts = bytearray()
        with pytest.raises(httpx.RemoteProtocolError):
            await read(client, parts)
        assert LARGE[:CHUNK_BYTES].startswith(parts)
        # Another connection is not concerned.
        assert (await client.get("/health/live")).status_code == 200


async def read(client: httpx.AsyncClient, parts: bytearray) -> None:
    async with client.stream("GET", IMAGES) as answer:
        assert answer.headers["content-length"] == str(len(LARGE))
        async for part in answer.aiter_raw():
            parts += part


async def test_a_part_is_given_where_one_is_asked_for(data_dir: Path) -> None:
    size = len(LARGE)
    async with open_node(data_dir) as node:
        version = await save(node, LARGE)
        whole = await node.client.get(IMAGES)
        assert whole.headers["accept-ranges"] == "bytes"
        assert whole.headers["x-mpreg-size"] == str(size)
        assert whole.headers["x-mpreg-crc32"] == f"{zlib.crc32(LARGE):08x}"
        for asked, start, stop in (
            ("bytes=0-", 0, size),
            ("bytes=5-", 5, size),
            (f"bytes={CHUNK_BYTES}-", CHUNK_BYTES, size),
            (f"bytes={size - 1}-", size - 1, size),
            ("bytes=0-0", 0, 1),
            (f"bytes=7-{CHUNK_BYTES + 7}", 7, CHUNK_BYTES + 8),
            ("bytes=9-999999999", 9, size),
            ("bytes=-10", size - 10, size),
            ("bytes=-999999999", 0, size),
        ):
            got = await node.client.get(IMAGES, headers={"range": asked})
            assert (got.status_code, got.content == LARGE[start:stop]) == (206, True), asked
            assert got.headers["content-range"] == f"bytes {start}-{stop - 1}/{size}"
            assert got.headers["content-length"] == str(stop - start)
            assert got.headers["x-mpreg-crc32"] == whole.headers["x-mpreg-crc32"]
            head = await node.client.head(IMAGES, headers={"range": asked})
            assert (head.status_code, head.content) == (206, b"")
        for asked in (f"bytes={size}-", "bytes=-0", "bytes=99999999999999999999-"):
            got = await node.client.get(IMAGES, headers={"range": asked})
            if asked.startswith("bytes=9"):
                assert got.status_code == 200
            else:
                assert error_of(got) == (416, "RequestRefusedError")
        for asked in ("bytes=5-1", "bytes=0-1,5-6", "lines=1-2", "bytes=-", "", "bytes=a-"):
            got = await node.client.get(IMAGES, headers={"range": asked})
            assert (got.status_code, got.content == LARGE) == (200, True), asked
        for tag, status in ((f'"{version}"', 206), (f'"{version + 1}"', 200)):
            headers = {"range": "bytes=5-", "if-range": tag}
            assert (await node.client.get(IMAGES, headers=headers)).status_code == status
        headers = {"range": f"bytes={size}-", "if-none-match": f'"{version}"'}
        assert (await node.client.get(IMAGES, headers=headers)).status_code == 304


async def test_a_part_that_begins_with_damage_is_told_in_words(data_dir: Path) -> None:
    async with open_node(data_dir) as node:
        await save(node, LARGE)
        inside = node.state.registry.reserved("snapshot").key_value_store("images")
        [last] = [entry.key async for entry in inside.scan() if entry.value == LARGE[CHUNK_BYTES:]]
        await inside.delete(last)
        got = await node.client.get(IMAGES, headers={"range": f"bytes={CHUNK_BYTES}-"})
        assert error_of(got) == (500, "CorruptDataError")


async def test_a_snapshot_is_saved_once_though_its_answer_was_kept_by_nothing_but_its_own_commit(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed_before(self: Claim, answer: object) -> None:
        raise AssertionError("it would be a commit too late")

    monkeypatch.setattr(Claim, "keep_alone", killed_before)
    key = {"idempotency-key": "one"}
    async with open_node(data_dir, backend="sqlite") as node:
        first = await node.client.put(f"{IMAGES}?versions_max=9", content=LARGE, headers=key)
    async with open_node(data_dir, backend="sqlite") as node:
        target = f"{IMAGES}?versions_max=9"
        check_replayed(first, await node.client.put(target, content=LARGE, headers=key))
        assert len(await versions(node)) == 1

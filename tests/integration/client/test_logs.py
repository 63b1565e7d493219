"""Logs of a node: appended once, and followed without a gap over all that breaks."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import httpx
import pytest

from mpreg.client import MPREGClient
from mpreg.errors import CorruptDataError, NodeUnreachableError, OffsetOutOfRangeError
from mpreg.persistence import LogRecord
from mpreg.server.idempotency import Claim
from tests.integration.client.support import (
    LOST_ANSWER,
    NOBODY,
    Hasty,
    Way,
    client_at,
    client_of,
    open_client,
)
from tests.integration.client.test_snapshots import Cutting
from tests.integration.server.support import open_node
from tests.integration.server.test_connections import Serving, serving
from tests.integration.support import tamper

pytestmark = pytest.mark.anyio


@asynccontextmanager
async def at_a_node(
    data_dir: Path, **options: Any
) -> AsyncIterator[tuple[MPREGClient, Cutting, Serving]]:
    way = Cutting()
    async with serving(data_dir) as server:
        url = server.state.url
        async with MPREGClient(url, transport=way, randomness=Hasty(1), **options) as node:
            yield node, way, server


# --- appending ---


async def test_records_whose_answer_is_lost_are_appended_once(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, _):
        log = node.log_store("audit")
        way.troubles.extend([LOST_ANSWER, NOBODY])
        assert await log.append_many([b"0", b"1"]) == 0
        way.troubles.extend([LOST_ANSWER, LOST_ANSWER])
        assert await log.append(b"2") == 2
        way.troubles.extend([LOST_ANSWER])
        assert await log.truncate_before(1) == 1
        way.troubles.extend([LOST_ANSWER])
        assert await log.delete() == 2
        assert await log.bounds() == (0, 0)


async def test_an_offset_that_the_node_has_forgotten_is_found(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def killed_before(self: Claim, answer: object) -> None:
        return None

    async with open_client(data_dir) as (node, way, server):
        log = node.log_store("audit")
        await log.append_many([b"a", b"b", b"a", b"b"])
        monkeypatch.setattr(Claim, "complete", killed_before)
        embedded = server.state.registry.log_store("audit")
        await embedded.append_many([b"x", b"a"])
        way.troubles.append(LOST_ANSWER)
        # Such are there before, but not so late.
        assert await log.append_many([b"a", b"b"]) == 6
        await embedded.append(b"b")
        way.troubles.append(LOST_ANSWER)
        with pytest.raises(NodeUnreachableError, match="appended, once") as raised:
            await node.log_store("audit").append(b"b")
        assert raised.value.may_have_been_made
        assert await log.next_offset() == 10


# --- reading ---


async def test_records_before_a_damaged_one_are_read(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as server:
        await server.state.registry.log_store("audit").append_many([b"0", b"1", b"2"])
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 1")
    async with (
        open_node(data_dir, backend="sqlite") as server,
        client_of(Way(server.app)) as node,
    ):
        read = node.log_store("audit").read_range()
        assert await anext(read) == LogRecord(0, b"0")
        with pytest.raises(CorruptDataError, match="log 'audit', the first record from offset 1"):
            await anext(read)
        [last] = [one async for one in node.log_store("audit").read_range(2)]
        assert last == LogRecord(2, b"2")


# --- following ---


async def test_a_damaged_record_ends_a_loop_and_says_where(data_dir: Path) -> None:
    async with open_node(data_dir, backend="sqlite") as opened:
        await opened.state.registry.log_store("audit").append_many([b"0", b"1", b"2"])
    tamper(data_dir, "UPDATE records SET data = x'00' WHERE offset = 1")
    async with serving(data_dir, backend="sqlite") as server, client_at(server.state.url) as node:
        log = node.log_store("audit")
        async with log.follow(0) as followed:
            assert await anext(followed) == LogRecord(0, b"0")
            with pytest.raises(
                CorruptDataError, match="log 'audit', the first record from offset 1"
            ):
                await anext(followed)
        async with log.follow(2) as followed:
            assert await anext(followed) == LogRecord(2, b"2")


async def test_each_record_comes_once_however_often_the_connection_breaks(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (node, way, _):
        log = node.log_store("audit")
        records = [b"%d" % number for number in range(300)]
        await log.append_many(records)
        way.downs += list(range(0, 4_000, 37))
        async with log.follow(0) as followed:
            seen = [await anext(followed) for _ in range(200)]
            await log.append(b"300")
            seen += [await anext(followed) for _ in range(101)]
        assert [one.offset for one in seen] == list(range(301))
        assert [one.data for one in seen] == [*records, b"300"]


async def test_who_follows_what_comes_misses_nothing_before_the_first_record(
    data_dir: Path,
) -> None:
    async with at_a_node(data_dir) as (node, way, _):
        log = node.log_store("audit")
        await log.append(b"before")
        # The first answer is that of the end of the log.
        way.downs += [10_000, 0, 0]
        async with log.follow() as followed:
            await log.append(b"1")
            assert await anext(followed) == LogRecord(1, b"1")


async def test_a_log_that_is_shorter_than_what_was_seen_of_it_is_told(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (node, _, server):
        log = node.log_store("audit")
        await log.append_many([b"0", b"1", b"2"])
        with pytest.raises(OffsetOutOfRangeError):
            async with log.follow(4):
                pass
        async with log.follow(0) as followed:
            assert [(await anext(followed)).offset for _ in range(3)] == [0, 1, 2]
            await followed._leave()
            embedded = server.state.registry.log_store("audit")
            await embedded.delete()
            await embedded.append(b"anew")
            with pytest.raises(OffsetOutOfRangeError) as raised:
                await anext(followed)
        error = raised.value
        assert (error.log, error.offset, error.next_offset) == ("audit", 3, 1)


async def test_what_was_truncated_away_meanwhile_is_passed_over(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (node, _, _):
        log = node.log_store("audit")
        await log.append_many([b"0", b"1", b"2"])
        async with log.follow(0) as followed:
            assert (await anext(followed)).offset == 0
            await followed._leave()
            await log.truncate_before(2)
            assert (await anext(followed)).offset == 2


async def test_a_node_that_stays_away_is_told_and_may_be_gone_on_with(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (node, way, _):
        log = node.log_store("audit")
        await log.append_many([b"0", b"1"])
        async with log.follow(1) as followed:
            assert (await anext(followed)).offset == 1
            await followed._leave()
            network, way._network = way._network, httpx.MockTransport(refuse)
            # What the node does answer may take a slow machine longer.
            patience_seconds, node._calls._patience_seconds = node._calls._patience_seconds, 0.2
            with pytest.raises(NodeUnreachableError):
                await anext(followed)
            node._calls._patience_seconds, way._network = patience_seconds, network
            await log.append(b"2")
            assert (await anext(followed)).offset == 2


def refuse(request: httpx.Request) -> httpx.Response:
    raise httpx.ConnectError(NOBODY)


async def test_a_connection_that_ends_at_once_each_time_is_not_tried_for_ever(
    data_dir: Path,
) -> None:
    async with at_a_node(data_dir, patience_seconds=0.2) as (node, way, _):
        log = node.log_store("audit")
        way.downs += [len(": mpreg\n\n")] * 10_000
        with pytest.raises(NodeUnreachableError):
            async with log.follow(0) as followed:
                await anext(followed)


async def test_a_cancelled_wait_for_a_record_passes_over_nothing_at_a_node(data_dir: Path) -> None:
    async with at_a_node(data_dir) as (node, _, server):
        log = node.log_store("audit")
        async with log.follow(0) as followed:
            for number in range(3):
                with anyio.move_on_after(0.02):
                    await anext(followed)
                await log.append(b"%d" % number)
                assert await anext(followed) == LogRecord(number, b"%d" % number)
        while server.state.long_polls.count:
            await anyio.sleep(0.001)

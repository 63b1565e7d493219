"""Loops over messages: what they hold, what they give back, and what they go on after."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.client import MPREGClient, RemoteQueue
from mpreg.client.message import RemoteMessage
from mpreg.errors import (
    LeaseLostError,
    MpregError,
    NodeUnreachableError,
    NotReadyError,
    PeerUnreachableError,
    QueueDeletedError,
    QueueNotFoundError,
    WatchLaggedError,
)
from mpreg.persistence import KeyChange
from mpreg.queues import MessageQueue, QueueConfiguration
from mpreg.queues.message import release_all
from tests.integration.client.support import NOBODY, Way, client_at, client_of, open_client
from tests.integration.server.support import Node, open_node
from tests.integration.server.test_connections import serving

pytestmark = pytest.mark.anyio


async def left_in(queue: MessageQueue, count: int) -> list[tuple[Any, int]]:
    """All that is there, with their attempts; waits until it is so many."""
    found: list[tuple[Any, int]] = []
    while len(found) < count:
        found += [(one.payload, one.attempt) for one in await queue.receive_many(count)]
    return sorted(found)


async def queues_of(node: MPREGClient, server: Node) -> tuple[RemoteQueue, MessageQueue]:
    jobs = await node.message_queues.get_queue("jobs")
    await jobs.send_many([1, 2, 3, 4])
    return jobs, await server.state.queues.get_queue("jobs")


async def test_a_loop_that_is_left_gives_back_what_nobody_saw(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        jobs, queue = await queues_of(node, server)
        async for message in jobs.consume(prefetch=3):
            assert message.payload == 1
            break
        assert await left_in(queue, 3) == [(2, 1), (3, 1), (4, 1)]
        await message.ack()


async def test_a_loop_that_another_task_closes_is_over_and_keeps_nothing(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        jobs = await node.message_queues.get_queue("jobs")
        queue = await server.state.queues.get_queue("jobs")
        messages = jobs.consume(prefetch=2)
        seen: list[Any] = []

        async def work() -> None:
            seen.extend([message.payload async for message in messages])

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(work)
            while messages._waiting is None:
                await anyio.lowlevel.checkpoint()
            with pytest.raises(anyio.BusyResourceError):
                await anext(messages)
            messages.close()
        with pytest.raises(StopAsyncIteration):
            await anext(messages)
        await jobs.send_many([1, 2])
        assert seen == []
        assert await left_in(queue, 2) == [(1, 1), (2, 1)]


async def test_what_comes_while_a_loop_is_closed_is_given_back_unseen(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        jobs, queue = await queues_of(node, server)
        messages = jobs.consume(prefetch=3)
        take, reached, go_on = messages._take, anyio.Event(), anyio.Event()

        async def gated() -> list[RemoteMessage]:
            found = await take()
            reached.set()
            with anyio.CancelScope(shield=True):
                await go_on.wait()
            return found

        messages._take = gated
        async with anyio.create_task_group() as task_group:

            async def work() -> None:
                with pytest.raises(StopAsyncIteration):
                    await anext(messages)

            task_group.start_soon(work)
            await reached.wait()
            messages.close()
            go_on.set()
        assert await left_in(queue, 4) == [(1, 1), (2, 1), (3, 1), (4, 1)]


async def test_the_lease_of_a_message_whose_queue_was_deleted_is_not_kept_up(
    data_dir: Path,
) -> None:
    async with open_client(data_dir) as (node, _, server):
        jobs, _ = await queues_of(node, server)
        async with jobs.consume() as messages:
            message = await anext(messages)
            await server.state.queues.delete_queue("jobs")
            message._extend_at = 0.0
            node._keeper._wake.set()
            while message in node._keeper:
                await anyio.sleep(0.001)


async def test_a_loop_that_is_cancelled_gives_back_the_message_in_work_too(data_dir: Path) -> None:
    async def work() -> None:
        async for message in jobs.consume(prefetch=3):
            if message.payload == 2:
                began.set()
                await anyio.sleep_forever()
            await message.ack()

    async with open_client(data_dir) as (node, _, server):
        jobs, queue = await queues_of(node, server)
        began = anyio.Event()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(work)
            await began.wait()
            task_group.cancel_scope.cancel()
        assert await left_in(queue, 3) == [(2, 2), (3, 1), (4, 1)]


@pytest.mark.parametrize("is_cancelled", [False, True])
async def test_the_end_of_a_client_gives_back_what_it_holds(
    data_dir: Path, is_cancelled: bool
) -> None:
    async with open_node(data_dir) as server:
        with anyio.CancelScope() as scope:
            async with client_of(Way(server.app)) as node:
                jobs, queue = await queues_of(node, server)
                consumer = jobs.consume(prefetch=3)
                assert (await anext(consumer)).payload == 1
                if is_cancelled:
                    scope.cancel()
                    await anyio.sleep_forever()
        expected = [(2, 1), (3, 1), (4, 1)]
        if is_cancelled:
            expected = [(1, 2), *expected]
        assert await left_in(queue, len(expected)) == expected
        assert len(server.state.leases) == 1 - is_cancelled


async def test_a_block_of_a_loop_gives_back_at_its_end(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, server):
        jobs, queue = await queues_of(node, server)
        with suppress(LookupError):
            async with jobs.consume(prefetch=2) as messages:
                async for _ in messages:
                    raise LookupError
        assert await left_in(queue, 4) == [(1, 2), (2, 1), (3, 1), (4, 1)]


async def test_leases_are_made_longer_of_what_is_worked_on_and_what_was_taken_ahead(
    data_dir: Path,
) -> None:
    async with open_client(data_dir) as (node, way, _):
        configuration = QueueConfiguration(lease_seconds=0.9)
        jobs = await node.message_queues.create_queue("short", configuration)
        await jobs.send_many([1, 2])
        async for _ in jobs.consume(prefetch=2):
            while way.count("/extend") < 4:
                await anyio.sleep(0.01)
            break


async def test_a_message_whose_lease_was_lost_is_not_handed_out_before_it_comes_again(
    data_dir: Path,
) -> None:
    seen: list[tuple[Any, int]] = []
    async with open_client(data_dir) as (node, _, server):
        configuration = QueueConfiguration(lease_seconds=0.9)
        jobs = await node.message_queues.create_queue("short", configuration)
        await jobs.send_many([1, 2])
        async for message in jobs.consume(prefetch=2):
            seen.append((message.payload, message.attempt))
            if len(seen) > 1:
                break
            server.state.leases.forget(list(server.state.leases._held))
            while node._keeper._held:
                await anyio.sleep(0.01)
            with pytest.raises(LeaseLostError, match=r"is not yours any more\. token"):
                await message.ack()
    assert seen == [(1, 1), (1, 2)]


def take_all_back(server: Node) -> None:
    """As a restart does, or the end of the leases: all that is out comes again."""
    held = dict(server.state.leases._held)
    release_all([one.receipt for one in held.values()], unseen=False)
    server.state.leases.forget(held)


@pytest.mark.parametrize("max_deliveries", [1, 3])
async def test_a_message_that_kills_its_client_takes_none_along(
    data_dir: Path, max_deliveries: int
) -> None:
    seen: list[Any] = []
    async with open_client(data_dir) as (node, _, server):
        settings = QueueConfiguration(max_deliveries=max_deliveries)
        jobs = await node.message_queues.create_queue("deadly", settings)
        await jobs.send_many(["poison", 1, 2, 3])
        while len(seen) < 3:
            async with jobs.consume(prefetch=4) as messages:
                while (message := await anext(messages)).payload != "poison":
                    seen.append(message.payload)
                    await message.ack()
                    if len(seen) == 3:
                        break
                # Its process ends with all that it has: nothing is given back.
                take_all_back(server)
        assert seen == [1, 2, 3]
        [letter] = await jobs.dead_letters()
        assert (letter.payload, letter.attempts) == ("poison", max_deliveries)
        assert (await jobs.statistics()).size == 0


async def test_a_client_receives_one_by_one_where_it_says_so(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, _, _):
        settings = QueueConfiguration(max_deliveries=1)
        jobs = await node.message_queues.create_queue("deadly", settings)
        await jobs.send_many([1, 2, 3])
        assert [one.payload for one in await jobs.receive_many(3, one_by_one=True)] == [1]
        assert [one.payload for one in await jobs.receive_many(3)] == [2, 3]


async def test_what_was_taken_ahead_is_not_handed_out_after_a_restart_that_no_request_has_met(
    data_dir: Path,
) -> None:
    way = Way()
    async with client_of(way) as node:
        async with open_node(data_dir, backend="sqlite") as server:
            way.app = server.app
            jobs, _ = await queues_of(node, server)
            messages = jobs.consume(prefetch=3)
            first = await anext(messages)
            assert (first.payload, first.attempt) == (1, 1)
        async with open_node(data_dir, backend="sqlite") as server:
            way.app = server.app
            failures = node._calls.failures
            # Any answer tells that it is another process.
            assert await node.message_queues.queue_names() == ["jobs"]
            assert node._calls.failures == failures + 1
            again = [await anext(messages) for _ in range(4)]
            assert [(one.payload, one.attempt) for one in again] == [(1, 2), (2, 2), (3, 2), (4, 1)]
            for message in again:
                await message.ack()
            with pytest.raises(LeaseLostError):
                await first.ack()
            # And of each answer of one process it is the same one.
            assert node._calls.failures == failures + 1


@pytest.mark.parametrize(
    "told",
    [
        PeerUnreachableError("its node is away", False),
        PeerUnreachableError("its answer broke off", True),
        NotReadyError("the node is stopping"),
    ],
)
async def test_what_was_taken_ahead_is_not_handed_out_after_the_node_behind_another_was_away(
    data_dir: Path, told: MpregError
) -> None:
    async with open_client(data_dir) as (node, way, server):
        jobs, _ = await queues_of(node, server)
        seen = []
        async for message in jobs.consume(prefetch=2):
            seen.append((message.payload, message.attempt))
            if len(seen) == 1:
                take_all_back(server)
                way.troubles.append(told)
                await jobs.statistics()
            if len(seen) == 3:
                break
        assert seen == [(1, 1), (1, 2), (2, 2)]


async def test_what_was_taken_ahead_is_asked_for_where_its_lease_may_be_over(
    data_dir: Path,
) -> None:
    async with open_client(data_dir) as (node, way, server):
        jobs, _ = await queues_of(node, server)
        async with jobs.consume(prefetch=4) as messages:
            assert (await anext(messages)).attempt == 1
            for is_over in (False, True):
                for one in messages._ahead:
                    one._holds_until = 0.0
                if is_over:
                    take_all_back(server)
                asked = way.count("/extend")
                message = await anext(messages)
                assert way.count("/extend") - asked == (2 if is_over else 1)
                expected = (1, 2) if is_over else (2, 1)
                assert (message.payload, message.attempt) == expected


async def test_a_lease_that_was_made_longer_is_known_to_last(data_dir: Path) -> None:
    async with open_client(data_dir) as (node, way, server):
        jobs, _ = await queues_of(node, server)
        async with jobs.consume(prefetch=2) as messages:
            await anext(messages)
            message = messages._ahead[0]
            message._holds_until = 0.0
            await message.extend()
            assert await anext(messages) is message
            assert way.count("/extend") == 1


async def test_a_loop_goes_on_when_its_node_was_started_again(data_dir: Path) -> None:
    seen: list[tuple[Any, int]] = []
    way = Way()

    async def work() -> None:
        async for message in jobs.consume(prefetch=3):
            seen.append((message.payload, message.attempt))
            if len(seen) == 1:
                first_is_there.set()
                await is_again.wait()
                with pytest.raises(LeaseLostError):
                    await message.ack()
                continue
            await message.ack()
            if len(seen) == 5:
                break

    async with client_of(way) as node, anyio.create_task_group() as task_group:
        first_is_there, is_again = anyio.Event(), anyio.Event()
        async with open_node(data_dir, backend="sqlite") as server:
            way.app = server.app
            jobs, _ = await queues_of(node, server)
            task_group.start_soon(work)
            await first_is_there.wait()
            way.app = None
        with pytest.raises(NodeUnreachableError):
            async with client_of(way, patience_seconds=0.01) as other:
                await other.message_queues.queue_names()
        async with open_node(data_dir, backend="sqlite") as server:
            way.app = server.app
            way.troubles.append(NOBODY)
            is_again.set()
            while len(seen) < 5:
                await anyio.sleep(0.01)
            queue = await server.state.queues.get_queue("jobs")
            while queue.statistics().size:
                await anyio.sleep(0.01)
    assert seen == [(1, 1), (1, 2), (2, 2), (3, 2), (4, 1)]


async def test_who_waits_for_a_queue_that_is_deleted_is_told(data_dir: Path) -> None:
    async def delete() -> None:
        while way.count("/receive") == 0 or not server.state.long_polls.count:
            await anyio.sleep(0.01)
        await server.state.queues.delete_queue("jobs")

    async with open_client(data_dir) as (node, way, server):
        jobs = await node.message_queues.get_queue("jobs")
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(delete)
            with pytest.raises((QueueDeletedError, QueueNotFoundError)):
                await jobs.receive()


async def test_changes_are_watched_from_the_moment_the_block_is_entered(data_dir: Path) -> None:
    async with serving(data_dir) as node, client_at(node.state.url) as client:
        keys = client.key_value_store("ns")
        async with keys.watch("a") as changes:
            version = await keys.put("a", b"\x00")
            await keys.put("b", b"")
            await keys.delete("a")
            assert await anext(changes) == KeyChange("a", b"\x00", version)
            assert await anext(changes) == KeyChange("a", None, None)
            with anyio.move_on_after(0.05):
                await anext(changes)
            await keys.put("a", b"")
            assert (await anext(changes)).value == b""
            await keys.put("a\u2028\x85\r\n", b"2")
            assert (await anext(changes)).key == "a\u2028\x85\r\n"
            async with keys.watch("a") as others:
                await keys.put("a", b"1")
                async for change in others:
                    assert change.value == b"1"
                    break
            assert (await anext(changes)).value == b"1"
            node.stop.set()
            with pytest.raises(WatchLaggedError):
                await anext(changes)


async def test_a_wait_over_a_socket_ends_with_a_message_and_with_its_client(data_dir: Path) -> None:
    async with serving(data_dir) as node, client_at(node.state.url) as client:
        jobs = await client.message_queues.get_queue("jobs")
        with anyio.move_on_after(0.1):
            await jobs.receive()
        while node.state.long_polls.count:
            await anyio.sleep(0.01)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(jobs.send, "hello")
            message = await jobs.receive()
        assert message is not None
        assert message.payload == "hello"

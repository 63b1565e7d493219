"""Stores belong to one event loop: in another thread they say so before anything is done."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.from_thread
import anyio.lowlevel
import anyio.to_thread
import pytest

from mpreg.persistence import (
    PersistenceRegistry,
    SnapshotRetention,
    WriterStoppedError,
    open_read_only,
)
from mpreg.persistence.following import CommitObserved
from mpreg.persistence.operations import Put
from mpreg.queues import MessageQueueManager
from tests.integration.support import listed, registry
from tests.integration.threads import LIBRARIES, refused_elsewhere

pytestmark = pytest.mark.anyio


async def pieces() -> AsyncIterator[bytes]:
    yield b"2"


class Observer:
    def committed(self, commit: CommitObserved) -> None:
        raise AssertionError


async def entered(block: Any) -> None:
    async with block:
        pass


async def written(opened: PersistenceRegistry) -> None:
    async with opened.transaction() as transaction:
        opened.key_value_store("shelf").put_nowait("new", b"1", transaction=transaction)


def calls(opened: PersistenceRegistry) -> list[Callable[[], Awaitable[object]]]:
    shelf, log = opened.key_value_store("shelf"), opened.log_store("audit")
    images = opened.snapshot_store("images")
    reserved = opened.reserved("test")
    put = Put(b"shelf", b"new", b"1")

    async def nowait(send: Callable[[], object]) -> None:
        send()

    return [
        lambda: shelf.put("new", b"1"),
        lambda: nowait(lambda: shelf.put_nowait("new", b"1")),
        lambda: shelf.delete("key"),
        lambda: shelf.sweep_expired(),
        lambda: shelf.get("key"),
        lambda: shelf.get_many(["key"]),
        lambda: listed(shelf.scan()),
        lambda: entered(shelf.watch()),
        lambda: log.append(b"2"),
        lambda: log.append_many([b"2", b"3"]),
        lambda: nowait(lambda: log.append_nowait(b"2")),
        lambda: log.append_followed([b"2"], lambda _: None),
        lambda: nowait(lambda: log.append_growing([b"2"], lambda _: None)),
        lambda: log.truncate_before(1),
        lambda: log.delete(),
        lambda: log.next_offset(),
        lambda: listed(log.read_range()),
        lambda: entered(log.follow()),
        lambda: images.save(b"2"),
        lambda: images.save(pieces()),
        lambda: images.load(),
        lambda: entered(images.open()),
        lambda: images.versions(),
        lambda: images.delete(),
        lambda: entered(opened.transaction()),
        lambda: written(opened),
        lambda: nowait(lambda: reserved.send_nowait([put], lambda _: None)),
        lambda: nowait(lambda: reserved.reserve_nowait(1)),
        lambda: reserved.reserve(1),
        lambda: opened.compact(),
        lambda: opened.save_snapshots(),
        lambda: nowait(lambda: opened.start_soon(anyio.lowlevel.checkpoint)),
        lambda: nowait(lambda: opened.observe(Observer())),
    ]


@LIBRARIES
async def test_a_store_in_another_threads_event_loop_is_refused_and_nothing_is_done(
    data_dir: Path, library: str
) -> None:
    async with registry(data_dir) as opened:
        shelf, log = opened.key_value_store("shelf"), opened.log_store("audit")
        images = opened.snapshot_store("images", retention=SnapshotRetention(versions_max=9))
        await shelf.put("key", b"0")
        await log.append(b"1")
        await images.save(b"1")
        before = await opened.stats()
        for call in calls(opened):
            await refused_elsewhere(call, library)
        after = await opened.stats()
        assert after.commit_sequence == before.commit_sequence
        assert (after.mailbox_depth, after.compactions) == (0, before.compactions)
        assert not opened._gateway.followers.keys
        assert not opened._gateway.followers.logs
        assert not opened._gateway.followers.observers
        # And here all of it goes on.
        assert [entry.key for entry in await listed(shelf.scan())] == ["key"]
        assert await log.append(b"2") == 1
        assert len(await images.versions()) == 1
        assert await images.delete()


@LIBRARIES
async def test_who_follows_an_append_is_told_that_it_was_refused(
    data_dir: Path, library: str
) -> None:
    async with registry(data_dir) as opened:
        log, settled = opened.log_store("audit"), list[object]()

        async def grow() -> None:
            log.append_growing([b"1"], settled.append)

        await refused_elsewhere(lambda: log.append_followed([b"1"], settled.append), library)
        await refused_elsewhere(grow, library)
        assert settled == [None, None]


@LIBRARIES
async def test_a_transaction_and_what_is_being_read_are_not_gone_on_with_in_another_thread(
    data_dir: Path, library: str
) -> None:
    async with registry(data_dir) as opened:
        shelf, images = opened.key_value_store("shelf"), opened.snapshot_store("images")
        await images.save(b"1")
        async with opened.transaction() as transaction:

            async def add() -> None:
                shelf.put_nowait("new", b"1", transaction=transaction)

            async def listen() -> None:
                transaction.on_settled(lambda _: None)

            await refused_elsewhere(add, library)
            await refused_elsewhere(listen, library)
            shelf.put_nowait("own", b"1", transaction=transaction)
        assert [entry.key for entry in await listed(shelf.scan())] == ["own"]
        async with images.open() as reader:
            await refused_elsewhere(lambda: anext(reader), library)
            assert await anext(reader) == b"1"
        async with shelf.watch() as changes, opened.log_store("audit").follow() as follow:
            await refused_elsewhere(lambda: anext(changes), library)
            await refused_elsewhere(lambda: anext(follow), library)
            await shelf.delete("own")
            assert (await anext(changes)).key == "own"


@LIBRARIES
async def test_what_is_read_only_is_not_read_in_another_thread(
    data_dir: Path, library: str
) -> None:
    async with registry(data_dir) as opened:
        await opened.key_value_store("shelf").put("key", b"0")
    async with open_read_only(data_dir) as looked_at:
        shelf = looked_at.key_value_store("shelf")
        await refused_elsewhere(lambda: shelf.get("key"), library)
        assert await shelf.get("key") is not None


@LIBRARIES
async def test_what_was_closed_says_so_in_every_thread(data_dir: Path, library: str) -> None:
    """There is no event loop any more in which it could be used."""
    async with registry(data_dir) as opened:
        queue = await MessageQueueManager(opened).create_queue("jobs")

    async def late() -> None:
        assert queue.statistics().pending == 0
        for call in (lambda: opened.compact(), lambda: written(opened)):
            with pytest.raises(WriterStoppedError):
                await call()

    await anyio.to_thread.run_sync(partial(anyio.run, late, backend=library))


async def test_a_write_is_made_from_another_thread_through_its_event_loop(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        shelf = opened.key_value_store("shelf")

        def elsewhere() -> int:
            return anyio.from_thread.run(shelf.put, "key", b"1")

        version = await anyio.to_thread.run_sync(elsewhere)
        assert (entry := await shelf.get("key")) is not None
        assert entry.version == version

"""Deletions beside other queues, and what is left of those that did not come to their end."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

from mpreg.codec import encode_name
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager
from tests.integration.queues.support import (
    GatedBackend,
    finished,
    log_named,
    open_queues,
    rows,
    tamper,
    until,
)

pytestmark = pytest.mark.anyio


async def test_an_open_queue_is_got_at_once_while_another_one_is_deleted(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queues(data_dir, backend=backend) as (_, queues):
        hot = await queues.create_queue("hot")
        await (await queues.create_queue("large")).send_many(range(10))
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(queues.delete_queue, "large")
            # First that it is deleted, and then what gives its space back.
            for _ in range(2):
                await backend.reached()
                with anyio.fail_after(60):
                    assert await queues.get_queue("hot") is hot
                    assert await queues.create_queue("hot") is hot
                backend.open_gate()
                backend.close_gate()
            await backend.reached()
            backend.open_gate()
        assert await queues.queue_names() == ["hot"]


async def die_while_deleting(
    registry: PersistenceRegistry, queues: MessageQueueManager, name: str
) -> str:
    """What a process leaves that dies right after a queue was deleted: its incarnation."""
    found = queues._queues.open[name]
    stores, incarnation = queues._queues.stores, found.stored.incarnation
    async with registry.transaction() as transaction:
        stores.configurations.delete_nowait(name, transaction=transaction)
        stores.deleted.put_nowait(incarnation, encode_name(name), transaction=transaction)
    return incarnation


def has_logs(data_dir: Path, incarnation: str) -> bool:
    return any(incarnation.encode() in name for (name,) in rows(data_dir, "SELECT name FROM logs"))


async def test_a_damaged_left_over_of_a_deletion_keeps_nothing_else_from_working(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        for name in ("damaged", "other", "ok"):
            await (await queues.create_queue(name)).send_many([1, 2])
        damaged = await die_while_deleting(registry, queues, "damaged")
        other = await die_while_deleting(registry, queues, "other")
    log = log_named(data_dir, f"{damaged}/0")
    assert has_logs(data_dir, other)
    tamper(data_dir, "UPDATE logs SET first_offset = 'x' WHERE id = ?", (log,))
    with caplog.at_level(logging.ERROR, "mpreg.queues"):
        async with open_queues(data_dir) as (_, queues):
            assert await finished(await queues.get_queue("ok"), 1) == [1]
            # The one after it is removed all the same.
            await until(lambda: not has_logs(data_dir, other))
            # A queue may have their names.
            again = await queues.create_queue("damaged")
            await again.send("new")
            assert await finished(again, 1) == ["new"]
            await queues.delete_queue("damaged")
            assert await queues.queue_names() == ["ok"]
    assert "queue 'damaged' was deleted; its space is not free yet" in caplog.text
    # It goes when it can be read.
    tamper(data_dir, "UPDATE logs SET first_offset = 0 WHERE id = ?", (log,))
    async with open_queues(data_dir) as (_, queues):
        assert await finished(await queues.get_queue("ok"), 1) == [2]
        await until(lambda: not has_logs(data_dir, damaged))

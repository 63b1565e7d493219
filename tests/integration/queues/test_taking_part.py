"""Queues in the life of a registry: read back while it opens, their last notes written at close."""

from __future__ import annotations

import logging
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import (
    CommitFailedError,
    CorruptDataError,
    ParticipantFailedError,
    ParticipantState,
    PersistenceRegistry,
    StorageFullError,
)
from mpreg.persistence.backend import ReadRecords
from mpreg.queues import MessageQueueManager, keeper
from mpreg.queues.configuration import StoredQueue
from mpreg.queues.core import QueueCore
from mpreg.queues.keeper import SAVED_AT_CLOSE_MIN
from mpreg.queues.storage import SharedStores
from tests.integration.queues.support import open_queues, take
from tests.integration.support import OpenBackend, config

pytestmark = pytest.mark.anyio


async def make(data_dir: Path, *names: str) -> None:
    async with open_queues(data_dir) as (_, queues):
        for name in names:
            await (await queues.create_queue(name)).send(name)


def is_of_messages(query: object) -> bool:
    return isinstance(query, ReadRecords) and query.log.endswith(b"/0")


async def test_a_manager_made_before_the_registry_opens_has_all_queues_read_back_in_it(
    data_dir: Path,
) -> None:
    await make(data_dir, "a", "b", "c")
    backend = OpenBackend(data_dir)
    registry = PersistenceRegistry(config(data_dir), backend=backend)
    queues = MessageQueueManager(registry)
    async with registry:
        (told,) = (await registry.stats()).participants
        assert (told.name, told.state) == ("queues", ParticipantState.READY)
        assert (told.done, told.total, told.unit) == (3, 3, "queues")
        backend.queries.clear()
        for name in ("a", "b", "c"):
            jobs = await queues.get_queue(name)
            assert jobs.statistics().pending == 1
        # But for the messages, which upkeep looks through for any that has expired.
        states = [one for one in backend.queries if not is_of_messages(one)]
        assert states == [], "they are in memory already"
        assert (await take(await queues.get_queue("b"))).payload == "b"


async def test_a_manager_made_in_the_open_registry_reads_back_what_is_asked_for(
    data_dir: Path,
) -> None:
    await make(data_dir, "a", "b")
    async with open_queues(data_dir) as (registry, queues):
        assert (await registry.stats()).participants == ()
        assert (await take(await queues.get_queue("a"))).payload == "a"
        (told,) = (await registry.stats()).participants
        assert (told.name, told.state, told.done) == ("queues", ParticipantState.READY, 0)


async def test_managers_made_before_and_after_are_the_same(data_dir: Path) -> None:
    registry = PersistenceRegistry(config(data_dir))
    before = MessageQueueManager(registry)
    also_before = MessageQueueManager(registry)
    async with registry:
        after = MessageQueueManager(registry)
        jobs = await after.create_queue("jobs")
        assert await before.get_queue("jobs") is jobs
        assert await also_before.get_queue("jobs") is jobs


def test_a_manager_can_be_made_where_no_event_loop_runs(data_dir: Path, anyio_backend: str) -> None:
    registry = PersistenceRegistry(config(data_dir))
    queues = MessageQueueManager(registry)

    async def use() -> None:
        async with registry:
            jobs = await queues.create_queue("jobs")
            await jobs.send(1)
            assert (await take(jobs)).payload == 1

    anyio.run(use, backend=anyio_backend)


async def test_a_queue_whose_configuration_is_damaged_keeps_no_other_from_being_read_back(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await make(data_dir, "a", "b")
    async with PersistenceRegistry(config(data_dir)) as registry:
        configurations = registry.reserved("queues").key_value_store("configurations")
        await configurations.put("a", b"no configuration")
    registry = PersistenceRegistry(config(data_dir))
    queues = MessageQueueManager(registry)
    async with registry:
        assert (await take(await queues.get_queue("b"))).payload == "b"
        said = [one.getMessage() for one in caplog.records if one.levelno == logging.ERROR]
        assert len(said) == 1
        assert "queue 'a': cannot be read back" in said[0]


async def test_a_queue_with_settings_of_another_mpreg_keeps_no_other_from_being_read_back(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    await make(data_dir, "a", "b")
    async with PersistenceRegistry(config(data_dir)) as registry:
        stores = SharedStores(registry)
        stored = await stores.find("a")
        assert stored is not None
        settings = {**stored.configuration, "colour": "red"}
        async with registry.transaction() as transaction:
            stores.put("a", StoredQueue(stored.incarnation, settings), transaction)
    registry = PersistenceRegistry(config(data_dir))
    queues = MessageQueueManager(registry)
    async with registry:
        assert (await take(await queues.get_queue("b"))).payload == "b"
        assert "queue 'a': cannot be read back" in caplog.text
        with pytest.raises(CorruptDataError, match=r"queue 'a'.*colour"):
            await queues.get_queue("a")


async def test_what_cannot_be_read_back_is_told_as_itself(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not as one of a group: queues are read back side by side."""
    await make(data_dir, *map(str, range(40)))

    async def fail(*_: object) -> None:
        raise CommitFailedError("no luck")

    monkeypatch.setattr("mpreg.queues.manager.restore", fail)
    registry = PersistenceRegistry(config(data_dir))
    MessageQueueManager(registry)
    with pytest.raises(ParticipantFailedError, match="no luck") as told:
        async with registry:
            pass
    assert isinstance(told.value.__cause__, CommitFailedError)


async def test_what_was_given_back_unseen_is_noted_also_when_the_nursery_is_cancelled(
    data_dir: Path,
) -> None:
    registry = PersistenceRegistry(config(data_dir))
    queues = MessageQueueManager(registry)
    async with anyio.create_task_group() as server:
        await server.start(registry.serve)
        jobs = await queues.create_queue("jobs")
        await jobs.send_many([0, 1])
        async with jobs.consume(prefetch=2) as consumer:
            async for message in consumer:
                await message.ack()
                break
        server.cancel_scope.cancel()
    async with open_queues(data_dir) as (_, again):
        assert (await take(await again.get_queue("jobs"))).attempt == 1, "nobody has seen it"


async def test_the_state_of_queues_is_saved_on_demand_where_it_is_worth_it(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        large, small = await queues.create_queue("large"), await queues.create_queue("small")
        await large.send_many(range(SAVED_AT_CLOSE_MIN))
        await small.send(1)
        await registry.save_snapshots()
        assert (large._core.changes, small._core.changes) == (0, 1)


@pytest.mark.parametrize("step", ["write_released", "save"])
async def test_a_queue_whose_last_notes_fail_keeps_no_other_from_writing_its_own(
    data_dir: Path, step: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    written: list[str] = []
    writes = getattr(keeper, step)

    async def fail_for_the_first(core: QueueCore, *rest: object) -> None:
        if core.name == "first":
            raise StorageFullError("no room for it")
        written.append(core.name)
        await writes(core, *rest)

    async with open_queues(data_dir) as (_, queues):
        for name in ("first", "second"):
            queue = await queues.create_queue(name)
            # The first one has changed more, and so is the first to be saved.
            await queue.send_many(range(SAVED_AT_CLOSE_MIN + (name == "first")))
            async with queue.consume(prefetch=2) as consumer:
                await (await anext(consumer)).ack()
        monkeypatch.setattr(keeper, step, fail_for_the_first)
    assert "second" in written
    assert "no room for it" in caplog.text
    async with open_queues(data_dir) as (_, queues):
        second = await queues.get_queue("second")
        message = await take(second)
        assert (message.payload, message.attempt) == (1, 1), "nobody has seen it"
        if step == "save":
            assert second._core.changes < SAVED_AT_CLOSE_MIN

"""Writes of many callers in one turn of the event loop are one, and each caller gets its own."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import StorageFullError
from mpreg.queues import Message
from tests.integration.queues.support import (
    GatedBackend,
    count_rows,
    open_queue,
    payloads,
    take,
    until,
)

pytestmark = pytest.mark.anyio


async def test_acks_of_one_turn_are_one_event_and_so_are_the_attempts(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        events = jobs._core.storage.events
        await jobs.send_many(range(50))
        async with anyio.create_task_group() as task_group:
            taken: list[Message] = []

            async def receive() -> None:
                taken.append(await take(jobs))

            for _ in range(50):
                task_group.start_soon(receive)
        # The first one may have been on its way before the others came.
        assert await events.next_offset() <= 2
        assert sorted(payloads(taken)) == list(range(50))
        before = await events.next_offset()
        async with anyio.create_task_group() as task_group:
            for message in taken:
                task_group.start_soon(message.ack)
        assert await events.next_offset() <= before + 2
        assert jobs.statistics().acknowledged == 50
    async with open_queue(data_dir) as jobs:
        assert (jobs.statistics().size, jobs.statistics().acknowledged) == (0, 50)


async def test_one_that_is_cancelled_leaves_the_others_to_their_answers(data_dir: Path) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send_many(range(3))
        messages = await jobs.receive_many(3)
        backend.close_gate()
        done: list[int] = []

        async def acknowledge(message: Message) -> None:
            await message.ack()
            done.append(message.payload)

        async with anyio.create_task_group() as task_group:
            scope = anyio.CancelScope()

            async def cancelled() -> None:
                with scope:
                    await acknowledge(messages[0])

            task_group.start_soon(cancelled)
            for message in messages[1:]:
                task_group.start_soon(acknowledge, message)
            await backend.reached()
            scope.cancel()
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert sorted(done) == [1, 2]
        await until(lambda: jobs.statistics().acknowledged == 3)


async def test_where_it_is_rolled_back_each_gets_its_own_error_and_nothing_is_changed(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queue(data_dir, backend=backend) as jobs:
        await jobs.send("first")
        await backend.fill_up()
        errors: list[StorageFullError] = []

        async def send(number: int) -> None:
            try:
                await jobs.send(bytes(50_000) + b"%d" % number)
            except StorageFullError as error:
                errors.append(error)

        async with anyio.create_task_group() as task_group:
            for number in range(5):
                task_group.start_soon(send, number)
        assert len(set(map(id, errors))) == 5
        assert jobs.statistics().size == 1
        await backend.make_room()
        await jobs.send("second")
        assert payloads(await jobs.receive_many(9)) == ["first", "second"]


async def test_an_event_tells_of_no_more_than_fits_into_a_record(data_dir: Path) -> None:
    async with open_queue(data_dir, value_bytes_max=4_096, batch_bytes_max=1 << 20) as jobs:
        await jobs.send_many(range(300))
        taken = [message for _ in range(15) for message in await jobs.receive_many(20)]
        async with anyio.create_task_group() as task_group:
            for message in taken:
                task_group.start_soon(message.ack)
        assert jobs.statistics().acknowledged == 300
        events = jobs._core.storage.events.read_range()
        largest = max([len(event.data) async for event in events])
        assert largest <= 4_096


async def test_an_event_counts_for_what_a_restart_does_with_it(data_dir: Path) -> None:
    async with open_queue(data_dir) as jobs:
        await jobs.send_many(range(400))
        before = jobs._core.changes
        messages = await jobs.receive_many(400)
        assert jobs._core.changes == before + 51
        await jobs.ack(messages)
        assert jobs._core.changes == before + 102


@pytest.mark.parametrize("mailbox_batches_max", [1, 2])
async def test_where_the_mailbox_is_full_everybody_is_served_all_the_same(
    data_dir: Path, mailbox_batches_max: int
) -> None:
    async with open_queue(data_dir, mailbox_batches_max=mailbox_batches_max) as jobs:
        done: list[int] = []

        async def consume() -> None:
            for _ in range(5):
                message = await take(jobs)
                await message.ack()
                done.append(message.payload)

        async with anyio.create_task_group() as task_group:
            for first in range(0, 100, 5):
                task_group.start_soon(consume)
                for number in range(first, first + 5):
                    task_group.start_soon(jobs.send, number)
        assert sorted(done) == list(range(100))
        assert jobs.statistics().size == 0
    assert count_rows(data_dir, "records") >= 100

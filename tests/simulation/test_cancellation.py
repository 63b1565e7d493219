"""A caller cancelled at any await leaves no waiter, no lost ack and no half batch behind."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

import anyio
import pytest

from mpreg.codec import encode_key
from mpreg.persistence import Ack, CorruptDataError, PersistenceRegistry, WriterStoppedError
from mpreg.persistence.backend import GetEntry, ReadQuery, ReadResult
from mpreg.testing import RecordingBackend, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.scenario import every_schedule, make_config


class Caller:
    """Does something that can be cancelled, and remembers how it ended."""

    def __init__(self, write: Callable[[], Awaitable[object]]) -> None:
        self._write = write
        self.scope = anyio.CancelScope()
        self.result: object = None

    async def run(self) -> None:
        with self.scope:
            try:
                self.result = await self._write()
            except WriterStoppedError as error:
                self.result = error

    @property
    def is_served(self) -> bool:
        return isinstance(self.result, int)


@every_schedule
async def test_cancelled_while_waiting_for_room_nothing_was_sent(simulation: Simulation) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(mailbox_batches_max=1), backend=backend) as registry:
        store = registry.key_value_store("n")
        async with anyio.create_task_group() as task_group:
            store.put_nowait("in flight", b"")
            await anyio.wait_all_tasks_blocked()
            store.put_nowait("in the mailbox", b"")
            cancelled = Caller(lambda: store.put("cancelled", b""))
            task_group.start_soon(cancelled.run)
            await anyio.wait_all_tasks_blocked()
            behind = Caller(lambda: store.put("behind", b""))
            task_group.start_soon(behind.run)
            await anyio.wait_all_tasks_blocked()
            assert (await registry.stats()).waiting_senders == 2

            cancelled.scope.cancel()
            await anyio.wait_all_tasks_blocked()
            assert (await registry.stats()).waiting_senders == 1
            for _ in range(3):
                await anyio.wait_all_tasks_blocked()
                backend.held.finish()
        assert backend.is_idle
        assert [entry.key async for entry in store.scan()] == [
            "behind",
            "in flight",
            "in the mailbox",
        ]
        assert behind.is_served
        assert not cancelled.is_served


@every_schedule
async def test_a_place_granted_to_a_cancelled_caller_goes_to_the_next(
    simulation: Simulation,
) -> None:
    """The room comes free and the first in line is cancelled at the same moment."""
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(mailbox_batches_max=1), backend=backend) as registry:
        store = registry.key_value_store("n")
        async with anyio.create_task_group() as task_group:
            store.put_nowait("in flight", b"")
            await anyio.wait_all_tasks_blocked()
            store.put_nowait("in the mailbox", b"")
            first, second = (
                Caller(lambda: store.put("first", b"")),
                Caller(lambda: store.put("second", b"")),
            )
            for caller in (first, second):
                task_group.start_soon(caller.run)
                await anyio.wait_all_tasks_blocked()
            backend.held.finish()
            for _ in range(simulation.stream("steps").randint(0, 8)):
                await anyio.sleep(0)
            first.scope.cancel()
            while not second.is_served:
                await anyio.wait_all_tasks_blocked()
                if not backend.is_idle:
                    backend.held.finish()
        stats = await registry.stats()
        assert stats.mailbox_depth == stats.mailbox_bytes == stats.waiting_senders == 0


@every_schedule
async def test_cancelled_while_awaiting_the_ack_the_write_may_happen_and_can_be_awaited_again(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        store = registry.key_value_store("n")
        ack: Ack[int] = store.put_nowait("key", b"1")
        with anyio.move_on_after(1) as scope:
            await ack
        assert scope.cancelled_caught
        assert not ack.done
        backend.held.finish()
        assert [await ack, await ack] == [1, 1]
        entry = await store.get("key")
        assert entry is not None
        assert entry.value == b"1"


@every_schedule
async def test_a_transaction_cancelled_while_awaiting_its_ack_is_whole(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    async with PersistenceRegistry(make_config(), backend=backend) as registry:
        keys, log = registry.key_value_store("n"), registry.log_store("log")
        with anyio.move_on_after(1) as scope:
            async with registry.transaction() as tx:
                put = keys.put_nowait("key", b"1", transaction=tx)
                append = log.append_nowait(b"1", transaction=tx)
        assert scope.cancelled_caught
        backend.held.finish()
        assert (await put, await append) == (1, 0)


@pytest.mark.parametrize("checkpoints", range(24))
def test_cancelled_after_any_number_of_steps_nothing_is_left_behind(checkpoints: int) -> None:
    """Some wait for room, some for the ack, some have their answer: each is cut off somewhere."""

    async def scenario(simulation: Simulation) -> None:
        backend = SimulatedBackend(SimulatedDisk())
        config = make_config(mailbox_batches_max=2, group_batches_max=2)
        async with PersistenceRegistry(config, backend=backend) as registry:
            keys, log = registry.key_value_store("n"), registry.log_store("log")

            async def write(number: int) -> int:
                async with registry.transaction() as tx:
                    keys.put_nowait(f"{number}", b"", transaction=tx)
                    log.append_nowait(b"%d" % number, transaction=tx)
                return number

            callers = [Caller(lambda number=number: write(number)) for number in range(10)]  # type: ignore[misc]
            async with anyio.create_task_group() as task_group:
                for caller in callers:
                    task_group.start_soon(caller.run)
                for _ in range(checkpoints):
                    await anyio.sleep(0)
                for caller in callers[::2]:
                    caller.scope.cancel()
            assert all(caller.is_served for caller in callers[1::2])
            # FIFO: when this one is acked, all that the cancelled ones sent is settled too.
            last = await log.append(b"-1")
            logged = [int(record.data) async for record in log.read_range(0, last)]
            assert sorted(logged) == sorted([int(str(entry.key)) async for entry in keys.scan()])
            acked = {number for number, caller in enumerate(callers) if caller.is_served}
            assert acked <= set(logged)
            assert len(logged) == len(set(logged))
            stats = await registry.stats()
            assert stats.mailbox_depth == stats.mailbox_bytes == stats.waiting_senders == 0

    every_schedule(scenario)()


class HeldReader:
    """Writes down what it is asked, and answers when it may."""

    def __init__(self) -> None:
        self.asked: list[list[ReadQuery]] = []
        self.may_answer = anyio.Event()

    async def open(self) -> None:
        return

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | CorruptDataError]:
        self.asked.append(list(queries))
        await self.may_answer.wait()
        return [None for _ in queries]

    async def close(self) -> None:
        return


class HeldReaderBackend(SimulatedBackend):
    def __init__(self, reader: HeldReader) -> None:
        super().__init__(SimulatedDisk())
        self._held_reader = reader

    def reader(self) -> Any:
        return self._held_reader


@every_schedule
async def test_what_a_cancelled_caller_asked_for_is_not_read(simulation: Simulation) -> None:
    reader = HeldReader()
    config = make_config(upkeep_interval_seconds=None)
    async with PersistenceRegistry(config, backend=HeldReaderBackend(reader)) as registry:
        store = registry.key_value_store("n")
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(store.get, "first")
            await anyio.wait_all_tasks_blocked()
            async with anyio.create_task_group() as cancelled:
                for number in range(5):
                    cancelled.start_soon(store.get, f"cancelled {number}")
                task_group.start_soon(store.get, "second")
                await anyio.wait_all_tasks_blocked()
                cancelled.cancel_scope.cancel()
            reader.may_answer.set()
        keys = [
            query.key
            for queries in reader.asked
            for query in queries
            if isinstance(query, GetEntry)
        ]
        assert keys == [encode_key("first"), encode_key("second")]
        async with anyio.create_task_group() as only_cancelled:
            only_cancelled.start_soon(store.get, "cancelled")
            only_cancelled.cancel_scope.cancel()
        assert await store.get("third") is None

"""A cancelled nursery: what was accepted is committed within the grace time, all are answered."""

from __future__ import annotations

import anyio
import pytest

from mpreg.actors.supervisor import CLOSE_SECONDS_MIN
from mpreg.persistence import CommitUnknownError, PersistenceRegistry, WriterStoppedError
from mpreg.testing import (
    Fault,
    FaultInjector,
    RecordingBackend,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from tests.simulation.scenario import every_schedule, make_config

GRACE_SECONDS = 10.0


@every_schedule
async def test_what_was_accepted_is_committed_and_acked_and_who_waits_outside_is_told(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    registry = PersistenceRegistry(
        make_config(mailbox_batches_max=5, grace_seconds=GRACE_SECONDS), backend=backend
    )
    log = registry.log_store("log")
    told = []

    async def wait_outside() -> None:
        with pytest.raises(WriterStoppedError) as caught:
            await log.append(b"outside")
        told.append(caught.value)

    async def finish_two_commits() -> None:
        for _ in range(2):
            await anyio.sleep(GRACE_SECONDS / 3)
            backend.held.finish()

    async with anyio.create_task_group() as outside:
        async with anyio.create_task_group() as server:
            await server.start(registry.serve)
            accepted = [log.append_nowait(b"in flight")]
            await anyio.wait_all_tasks_blocked()
            accepted += [log.append_nowait(b"in the mailbox") for _ in range(5)]
            for _ in range(3):
                outside.start_soon(wait_outside)
            await anyio.wait_all_tasks_blocked()
            assert (await registry.stats()).waiting_senders == 3
            outside.start_soon(finish_two_commits)
            server.cancel_scope.cancel()
        assert [await ack for ack in accepted] == list(range(6))
    assert len(told) == 3
    assert backend.is_idle
    assert backend.take_calls() == ["open", "commit 1: 1 batches", "commit 2: 5 batches", "close"]
    with pytest.raises(WriterStoppedError):
        log.append_nowait(b"too late")


@every_schedule
async def test_what_is_in_flight_when_the_grace_ends_is_unknown_and_the_rest_not_written(
    simulation: Simulation,
) -> None:
    backend = RecordingBackend()
    registry = PersistenceRegistry(
        make_config(group_batches_max=1, grace_seconds=GRACE_SECONDS), backend=backend
    )
    async with anyio.create_task_group() as server:
        await server.start(registry.serve)
        log = registry.log_store("log")
        in_flight = log.append_nowait(b"in flight")
        await anyio.wait_all_tasks_blocked()
        in_mailbox = log.append_nowait(b"in the mailbox")
        cancelled_at = anyio.current_time()
        server.cancel_scope.cancel()
    assert anyio.current_time() - cancelled_at == pytest.approx(GRACE_SECONDS)
    with pytest.raises(CommitUnknownError):
        await in_flight
    with pytest.raises(WriterStoppedError):
        await in_mailbox


@every_schedule
async def test_a_stop_while_the_writer_waits_to_start_again_still_commits_what_was_accepted(
    simulation: Simulation,
) -> None:
    disk = SimulatedDisk()
    faults = FaultInjector()
    registry = PersistenceRegistry(
        make_config(backoff_initial_seconds=2.0, grace_seconds=GRACE_SECONDS),
        backend=SimulatedBackend(disk, faults),
    )
    async with anyio.create_task_group() as server:
        await server.start(registry.serve)
        log = registry.log_store("log")
        faults.order(Fault.COMMIT_LOST)
        in_flight = log.append_nowait(b"0")
        await anyio.sleep(1.0)
        in_mailbox = log.append_nowait(b"1")
        server.cancel_scope.cancel()
    assert (await in_flight, await in_mailbox) == (0, 1)


@every_schedule
async def test_a_store_that_cannot_be_opened_again_in_time_leaves_no_caller_waiting(
    simulation: Simulation,
) -> None:
    faults = FaultInjector()
    registry = PersistenceRegistry(
        make_config(grace_seconds=GRACE_SECONDS, restarts_max=1_000_000),
        backend=SimulatedBackend(SimulatedDisk(), faults),
    )
    async with anyio.create_task_group() as server:
        await server.start(registry.serve)
        log = registry.log_store("log")
        faults.order(Fault.COMMIT_UNTOLD)
        faults.order(Fault.OPEN_FAILS, times=1_000_000)
        in_flight = log.append_nowait(b"in flight")
        await anyio.sleep(1.0)
        in_mailbox = log.append_nowait(b"in the mailbox")
        server.cancel_scope.cancel()
    with pytest.raises(CommitUnknownError):
        await in_flight
    with pytest.raises(WriterStoppedError):
        await in_mailbox


@every_schedule
async def test_a_block_that_ends_commits_what_was_sent_in_it(simulation: Simulation) -> None:
    disk = SimulatedDisk()
    async with PersistenceRegistry(make_config(), backend=SimulatedBackend(disk)) as registry:
        acks = [registry.log_store("log").append_nowait(b"") for _ in range(100)]
    assert [await ack for ack in acks] == list(range(100))
    disk.cut_power()
    assert disk.state.log_bounds(b"log") == (0, 100)


@every_schedule
async def test_a_block_that_ends_waits_no_longer_than_the_grace_time(
    simulation: Simulation,
) -> None:
    """Nobody cancels here: a commit that hangs must not keep the block for ever."""
    registry = PersistenceRegistry(
        make_config(group_batches_max=1, grace_seconds=GRACE_SECONDS), backend=RecordingBackend()
    )
    async with registry:
        log = registry.log_store("log")
        in_flight = log.append_nowait(b"in flight")
        await anyio.wait_all_tasks_blocked()
        in_mailbox = log.append_nowait(b"in the mailbox")
        left_at = anyio.current_time()
    assert anyio.current_time() - left_at == pytest.approx(GRACE_SECONDS)
    with pytest.raises(CommitUnknownError):
        await in_flight
    with pytest.raises(WriterStoppedError):
        await in_mailbox


class HangsAtClosing(SimulatedBackend):
    async def close(self) -> None:
        await anyio.sleep_forever()


@every_schedule
async def test_a_device_that_hangs_at_closing_does_not_keep_the_block_for_ever(
    simulation: Simulation,
) -> None:
    backend = HangsAtClosing(SimulatedDisk())
    async with PersistenceRegistry(make_config(grace_seconds=1.0), backend=backend) as registry:
        assert await registry.log_store("log").append(b"") == 0
        left_at = anyio.current_time()
    assert anyio.current_time() - left_at == pytest.approx(CLOSE_SECONDS_MIN)

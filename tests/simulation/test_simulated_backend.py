"""The simulated disk and its backend: what they keep, what they lose, what they complain of."""

from __future__ import annotations

from random import Random

import anyio
import pytest

from mpreg.errors import CommitFailedError, StorageFullError, StorageIOError
from mpreg.persistence.backend import CommitInDoubtError
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append
from mpreg.testing import (
    ContractBrokenError,
    Fault,
    FaultInjector,
    FaultPlan,
    SimulatedBackend,
    SimulatedDisk,
    Simulation,
)
from mpreg.testing.contract import make_batch
from tests.simulation.scenario import every_schedule


def _group(sequence: int, durability: Durability = Durability.DURABLE) -> CommitGroup:
    batch = make_batch(Append(b"log", (b"%d" % sequence,)), durability=durability)
    return CommitGroup(sequence, 0.0, (batch,))


async def _relaxed_commits(disk: SimulatedDisk) -> None:
    backend = SimulatedBackend(disk)
    await backend.open()
    await backend.commit(_group(1))
    for sequence in range(2, 6):
        await backend.commit(_group(sequence, Durability.RELAXED))


def test_a_power_cut_leaves_some_of_the_relaxed_groups_from_the_oldest_on() -> None:
    survivors = set()
    for seed in range(60):
        disk = SimulatedDisk(Random(seed))
        Simulation(seed).run(_relaxed_commits, disk)
        disk.cut_power()
        survivors.add(disk.sequence)
        assert disk.state.log_bounds(b"log") == (0, disk.sequence)
    assert survivors == {1, 2, 3, 4, 5}


def test_a_killed_process_loses_nothing_that_was_committed() -> None:
    disk = SimulatedDisk()
    Simulation(0).run(_relaxed_commits, disk)
    disk.kill_process()
    assert disk.sequence == 5


@every_schedule
async def test_nothing_done_after_a_crash_reaches_the_disk(simulation: Simulation) -> None:
    disk = SimulatedDisk()
    backend = SimulatedBackend(disk)
    await backend.open()
    disk.cut_power()
    with anyio.move_on_after(1_000) as scope:
        await backend.commit(_group(1))
    assert scope.cancelled_caught
    await backend.close()
    assert disk.sequence == 0


@pytest.mark.parametrize(("fault", "sequence"), [(Fault.COMMIT_LOST, 0), (Fault.COMMIT_UNTOLD, 1)])
def test_after_a_commit_in_doubt_the_sequence_tells_what_became_of_it(
    fault: Fault, sequence: int
) -> None:
    async def scenario(simulation: Simulation) -> None:
        faults = FaultInjector()
        backend = SimulatedBackend(SimulatedDisk(), faults)
        await backend.open()
        faults.order(fault)
        with pytest.raises(CommitInDoubtError):
            await backend.commit(_group(1))
        with pytest.raises(ContractBrokenError, match="broken"):
            await backend.commit(_group(1))
        await backend.close()
        assert (await backend.open()).commit_sequence == sequence

    every_schedule(scenario)()


@every_schedule
async def test_failures_that_are_rolled_back_leave_the_backend_usable(
    simulation: Simulation,
) -> None:
    faults = FaultInjector(FaultPlan(full_seconds_max=5.0), simulation.stream("faults"))
    disk = SimulatedDisk()
    backend = SimulatedBackend(disk, faults)
    await backend.open()
    faults.order(Fault.ROLLED_BACK)
    with pytest.raises(CommitFailedError):
        await backend.commit(_group(1))
    faults.order(Fault.DISK_FULL)
    with pytest.raises(StorageFullError):
        await backend.commit(_group(1))
    await anyio.sleep(5.0)
    await backend.commit(_group(1))
    assert disk.sequence == 1


@every_schedule
async def test_a_failed_open_leaves_nothing_open_and_a_failed_close_closes(
    simulation: Simulation,
) -> None:
    faults = FaultInjector()
    backend = SimulatedBackend(SimulatedDisk(), faults)
    faults.order(Fault.OPEN_FAILS)
    with pytest.raises(StorageIOError):
        await backend.open()
    await backend.open()
    faults.order(Fault.CLOSE_FAILS)
    with pytest.raises(StorageIOError):
        await backend.close()
    assert (await backend.open()).generation == 2


@every_schedule
async def test_a_slow_commit_takes_virtual_time(simulation: Simulation) -> None:
    faults = FaultInjector(FaultPlan(slow_seconds_max=30.0), simulation.stream("faults"))
    backend = SimulatedBackend(SimulatedDisk(), faults)
    await backend.open()
    faults.order(Fault.SLOW_COMMIT)
    started = anyio.current_time()
    await backend.commit(_group(1))
    assert 0 < anyio.current_time() - started <= 30


@every_schedule
async def test_who_breaks_the_contract_is_told_and_it_is_written_down(
    simulation: Simulation,
) -> None:
    disk = SimulatedDisk()
    backend = SimulatedBackend(disk)
    with pytest.raises(ContractBrokenError):
        await backend.commit(_group(1))
    await backend.open()
    with pytest.raises(ContractBrokenError):
        await backend.open()
    with pytest.raises(ContractBrokenError):
        await backend.commit(_group(2))
    assert disk.complaints == [
        "commit on a closed backend",
        "open, and opened again",
        "commit 2 after commit 0",
    ]

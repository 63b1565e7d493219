"""What was acknowledged is written down a little later, never too early, and found missing where
it is missing; never where it is not, whatever is cut off where."""

from __future__ import annotations

import errno
from collections.abc import Callable
from pathlib import Path

import anyio
import pytest
from attrs import define, field

from mpreg.actors import Mailbox, RestartPolicy, Supervisor
from mpreg.errors import AckedDataLostError, StorageIOError
from mpreg.persistence import Durability, WriteBatch, WriterStoppedError
from mpreg.persistence.accounting import RETRY_SECONDS, Accounting
from mpreg.persistence.acked_file import AckedFile
from mpreg.persistence.acked_record import AckedRecord
from mpreg.persistence.backend import FoundState, OpenedState
from mpreg.persistence.operations import Append
from mpreg.persistence.upkeep_command import WriterMessage
from mpreg.persistence.writer import GroupLimits, Writer
from mpreg.testing import FaultInjector, FaultPlan, SimulatedBackend, SimulatedDisk, Simulation
from tests.simulation.scenario import SCHEDULES
from tests.simulation.seeds import ordinarily


@define
class Notebook:
    """Stands in for a disk below the accounting: writes down when it was written to."""

    path: Path
    failure: OSError | None = None
    hangs: bool = False
    hanging: list[Callable[[], None]] = field(factory=list)
    """Writes that were begun and do not end."""
    times: list[float] = field(factory=list)
    holders: int = 0

    async def work(self, write: Callable[[], None]) -> None:
        self.times.append(anyio.current_time())
        if self.hangs:
            self.hanging.append(write)
            await anyio.sleep_forever()
        await anyio.sleep(0.01)
        if self.failure is not None:
            raise self.failure
        write()

    def hold(self) -> Callable[[], None]:
        self.holders += 1

        held = [self]

        def let_go() -> None:
            if held:
                held.pop().holders -= 1

        return let_go

    def accounting(self, accepted: str | None = None) -> Accounting:
        return Accounting(AckedFile(self.path), accepted, 1.0, self.hold, self.work)

    def read(self) -> AckedRecord | None:
        return AckedFile(self.path).read()


@pytest.fixture
def notebook(tmp_path: Path) -> Notebook:
    return Notebook(tmp_path / "ACKED")


async def opened(accounting: Accounting, sequence: int, generation: int = 1) -> None:
    accounting.check(FoundState(sequence, generation - 1))
    await accounting.opened(OpenedState(sequence, generation))


def test_it_writes_at_most_once_an_interval_and_not_at_all_while_nothing_is_acked(
    notebook: Notebook,
) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 0)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(accounting.run)
            await anyio.sleep(99.99)
            assert len(notebook.times) == 1, "that of the opening"
            for sequence in range(1, 26):
                accounting.acked(sequence)
                await anyio.sleep(0.1)
            await anyio.sleep(1_000)
            task_group.cancel_scope.cancel()
        assert [round(time, 1) for time in notebook.times] == [0.0, 101.0, 102.1, 103.2]
        assert notebook.read() == AckedRecord(1, 0, 25)
        assert notebook.holders == 0

    Simulation(0).run(scenario)


def test_after_a_checkpoint_it_is_written_at_once(notebook: Notebook) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 0)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(accounting.run)
            await anyio.sleep(10)
            accounting.checkpointed()
            await anyio.sleep(10)
            accounting.acked(1)
            await anyio.sleep(0.5)
            accounting.checkpointed()
            await anyio.sleep(10)
            task_group.cancel_scope.cancel()
        assert [round(time, 1) for time in notebook.times] == [0.0, 20.5]
        assert notebook.read() == AckedRecord(1, 0, 1)

    Simulation(0).run(scenario)


def test_what_was_acked_last_is_written_at_the_end(notebook: Notebook) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 7, generation=3)
        accounting.acked(9)
        assert notebook.read() == AckedRecord(3, 7, 7)
        await accounting.finish()
        assert notebook.read() == AckedRecord(3, 7, 9)
        await accounting.finish()
        assert len(notebook.times) == 2, "and not again"

    Simulation(0).run(scenario)


def test_where_it_cannot_be_written_it_is_tried_again(notebook: Notebook) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 0)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(accounting.run)
            notebook.failure = OSError(errno.ENOSPC, "no room")
            accounting.acked(1)
            await anyio.sleep(1 + 3.5 * (1 + RETRY_SECONDS))
            assert len(notebook.times) == 1 + 4
            notebook.failure = None
            await anyio.sleep(1 + RETRY_SECONDS)
            assert notebook.read() == AckedRecord(1, 0, 1)
            accounting.acked(2)
            await anyio.sleep(2)
            assert notebook.read() == AckedRecord(1, 0, 2), "as soon as before"
            task_group.cancel_scope.cancel()
        assert notebook.holders == 0

    Simulation(0).run(scenario)


def test_on_a_device_that_hangs_no_second_write_is_begun(notebook: Notebook) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 0)
        notebook.hangs = True
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(accounting.run)
            accounting.acked(1)
            await anyio.sleep(100_000)
            assert notebook.holders == len(notebook.hanging) == 1
            notebook.hangs = False
            notebook.hanging[0]()
            accounting.acked(2)
            await anyio.sleep(1 + 2 * RETRY_SECONDS)
            task_group.cancel_scope.cancel()
        assert notebook.read() == AckedRecord(1, 0, 2)
        assert notebook.holders == 0

    Simulation(0).run(scenario)


def test_an_opening_that_cannot_be_written_down_is_tried_again(notebook: Notebook) -> None:
    async def scenario() -> None:
        notebook.failure = OSError(errno.EROFS, "read-only")
        accounting = notebook.accounting()
        await opened(accounting, 5)
        assert notebook.read() is None
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(accounting.run)
            notebook.failure = None
            await anyio.sleep(RETRY_SECONDS + 2)
            assert notebook.read() == AckedRecord(1, 5, 5)
            task_group.cancel_scope.cancel()

    Simulation(0).run(scenario)


def test_an_accepted_loss_that_cannot_be_written_down_is_not_passed_over(
    notebook: Notebook,
) -> None:
    AckedFile(notebook.path).write(AckedRecord(7, 0, 100))

    async def scenario() -> None:
        notebook.failure = OSError(errno.ENOSPC, "no room")
        with pytest.raises(StorageIOError, match="cannot be written down"):
            await opened(notebook.accounting("7/51-100"), 50, generation=8)
        with pytest.raises(AckedDataLostError):
            notebook.accounting().check(FoundState(50, 8))
        notebook.failure = None
        await opened(notebook.accounting("7/51-100"), 50, generation=9)
        assert notebook.read() == AckedRecord(9, 50, 50)

    Simulation(0).run(scenario)


@pytest.mark.parametrize("accepted", ["7/51-99", "7/50-100", "6/51-100", "7/1-100", None])
def test_the_acceptance_of_another_loss_is_none(notebook: Notebook, accepted: str | None) -> None:
    AckedFile(notebook.path).write(AckedRecord(7, 0, 100))
    with pytest.raises(AckedDataLostError) as caught:
        notebook.accounting(accepted).check(FoundState(50, 7))
    assert caught.value.acceptance == "7/51-100"


def test_the_next_generation_is_above_the_one_written_down(notebook: Notebook) -> None:
    AckedFile(notebook.path).write(AckedRecord(7, 50, 50))
    assert notebook.accounting().check(FoundState(50, 3)) == 7


def test_a_store_opened_again_is_held_to_what_was_acked_and_not_yet_written(
    notebook: Notebook,
) -> None:
    async def scenario() -> None:
        accounting = notebook.accounting()
        await opened(accounting, 0)
        accounting.acked(3)
        assert notebook.read() == AckedRecord(1, 0, 0)
        with pytest.raises(AckedDataLostError) as caught:
            accounting.check(FoundState(2, 1))
        assert caught.value.acceptance == "1/3-3"
        await accounting.finish()
        assert notebook.read() == AckedRecord(1, 0, 3), "so the next opening finds it out as well"

    Simulation(0).run(scenario)


# --- power cuts ---


@define
class _Machine:
    """A disk for the store, and one file beside it that a power cut may tear."""

    simulation: Simulation
    path: Path
    disk: SimulatedDisk = field(init=False)
    unsynced: bytes | None = None
    """The file before a write that has not been synced."""

    def __attrs_post_init__(self) -> None:
        self.disk = SimulatedDisk(self.simulation.stream("disk"))

    def accounting(self, interval_seconds: float) -> Accounting:
        crashes = self.disk.crashes

        async def work(write: Callable[[], None]) -> None:
            await anyio.sleep(self.simulation.stream("work").uniform(0, 0.05))
            if self.disk.crashes != crashes:
                await anyio.sleep_forever()
            self.unsynced = self.path.read_bytes() if self.path.exists() else b""
            write()
            await anyio.sleep(self.simulation.stream("work").uniform(0, 0.05))
            if self.disk.crashes == crashes:
                self.unsynced = None

        return Accounting(AckedFile(self.path), None, interval_seconds, work=work)

    def cut_power(self) -> None:
        self.disk.cut_power()
        before, self.unsynced = self.unsynced, None
        if before == b"":
            # The name of a new file is there once it is complete.
            if self.simulation.stream("tear").random() < 0.5:
                self.path.unlink()
        elif before is not None:
            after = self.path.read_bytes()
            at = self.simulation.stream("tear").randrange(len(after))
            self.path.write_bytes(after[:at] + before[at:])


async def _live(machine: _Machine, acked: list[int]) -> None:
    """A writer and callers, until the power is cut."""
    luck = machine.simulation.stream("callers")
    mailbox: Mailbox[WriterMessage] = Mailbox(messages_max=64, bytes_max=1 << 20)
    plan = FaultPlan(commit_seconds_max=0.02)
    backend = SimulatedBackend(machine.disk, FaultInjector(plan, machine.simulation.stream("f")))
    accounting = machine.accounting(luck.choice([0.01, 0.1, 1.0]))
    limits = GroupLimits(batches_max=8, bytes_max=1 << 20)
    writer = Writer(mailbox, backend, machine.simulation.clock, limits, accounting)
    supervisor = Supervisor(
        writer,
        mailbox,
        RestartPolicy(),
        grace_seconds=1.0,
        make_stopped_error=WriterStoppedError,
    )

    async def call() -> None:
        while True:
            durability = luck.choice(list(Durability))
            ack = mailbox.new_ack()
            await mailbox.send(WriteBatch.of((Append(b"log", (b"x",)),), (ack,), durability))
            offset = await ack
            if durability is Durability.DURABLE:
                acked.append(offset)
            await anyio.sleep(luck.choice([0.0, 0.005, 0.5]))

    async with anyio.create_task_group() as task_group:
        await task_group.start(supervisor.run)
        record = AckedFile(machine.path).read()
        assert record is not None, "it is there as soon as the store is open"
        task_group.start_soon(accounting.run)
        for _ in range(3):
            task_group.start_soon(call)


@pytest.mark.parametrize("seed", range(ordinarily(6, of=SCHEDULES)))
def test_a_power_cut_at_any_moment_is_no_reason_for_an_alarm(seed: int, tmp_path: Path) -> None:
    simulation = Simulation(seed)
    machine = _Machine(simulation, tmp_path / "ACKED")
    for _ in range(8):
        acked: list[int] = []
        step = simulation.stream("crash").randrange(5, 2_000)
        simulation.run(_live, machine, acked, crash_at_step=step, on_crash=machine.cut_power)
        assert simulation.crashed, "an alarm would have ended it before"
        if machine.path.exists():
            record = AckedFile(machine.path).read()
            assert record is not None
            assert record.sequence <= machine.disk.sequence
    assert machine.disk.complaints == []
    assert machine.disk.sequence > 50

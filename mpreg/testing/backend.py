"""A storage backend on a simulated disk, with faults on demand."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NoReturn

import anyio
import anyio.lowlevel

from mpreg.errors import CommitFailedError, StorageFullError, StorageIOError
from mpreg.persistence.backend import (
    BackendStatistics,
    CheckFound,
    CommitInDoubtError,
    FoundState,
    OpenedState,
    ReadFailure,
    ReadQuery,
    ReadResult,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, CommitPlan, plan_group
from mpreg.testing.disk import SimulatedDisk
from mpreg.testing.faults import Fault, FaultInjector

__all__ = ["ContractBrokenError", "SimulatedBackend", "SimulatedReader"]


class ContractBrokenError(AssertionError):
    """The caller of a backend did what the contract forbids. It is the caller that has a bug."""


class _Process:
    """What backend and reader share: the disk as long as their process lives, and its faults."""

    def __init__(self, disk: SimulatedDisk, faults: FaultInjector | None = None) -> None:
        self.disk = disk
        self.faults = FaultInjector() if faults is None else faults
        self._crashes = disk.crashes

    @property
    def is_dead(self) -> bool:
        """Whether the disk has gone through a crash: nothing done here reaches it any more."""
        return self.disk.crashes != self._crashes

    async def _work(self, seconds: float = 0.0) -> None:
        """Let the disk work for a while. Over a crash it never comes back; it can be cancelled."""
        if not self.is_dead:
            await anyio.sleep(seconds)
        if self.is_dead:
            await anyio.sleep_forever()


class SimulatedBackend(_Process):
    """A `StorageBackend` on a `SimulatedDisk`: one process's, as long as that process lives.

    It keeps the contract in `mpreg.persistence.backend`, and holds its caller to it
    (`ContractBrokenError`). What may fail is listed in `Fault`; when is told by its injector. It
    waits in virtual time only and starts no thread, so a whole run with it is a function of its
    seed.
    """

    def __init__(self, disk: SimulatedDisk, faults: FaultInjector | None = None) -> None:
        super().__init__(disk, faults)
        self._generation: int | None = None
        self._broken = False
        self._busy = False
        self._full_until = float("-inf")
        self._fsyncs = 0

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        if self._generation is not None:
            self._complain("open, and opened again")
        await self._work()
        if self.faults.strikes(Fault.OPEN_FAILS):
            raise StorageIOError("simulated: the disk failed while the store was opened")
        disk = self.disk
        found = FoundState(disk.sequence, disk.generation) if disk.generation else None
        disk.generation = max(disk.generation, check(found)) + 1
        self.disk.publish()
        self.disk.sync()
        self._generation = self.disk.generation
        self._broken = False
        return OpenedState(self.disk.sequence, self._generation)

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        self._hold_to_contract(group)
        self._busy = True
        try:
            return await self._commit(group)
        except anyio.get_cancelled_exc_class():
            self._broken = True
            raise
        finally:
            self._busy = False

    def upkeep_due(self) -> UpkeepStep | None:
        return None

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        if self._generation is None or self._broken or self._busy:
            self._complain("upkeep of a backend that is closed, broken or at work")
        self._busy = True
        try:
            await self._work(self.faults.commit_seconds())
        finally:
            self._busy = False
        if self.faults.strikes(Fault.UPKEEP_PUT_OFF):
            raise CommitFailedError("simulated: the upkeep was put off")
        if self.faults.strikes(Fault.UPKEEP_FAILS):
            self._broken = True
            raise StorageIOError("simulated: the disk failed during upkeep")
        return UpkeepResult()

    async def close(self) -> None:
        if self._generation is None:
            return
        self._generation = None
        if self.is_dead:
            return
        await anyio.lowlevel.checkpoint()
        if self.faults.strikes(Fault.CLOSE_FAILS):
            raise StorageIOError("simulated: the disk failed while the store was closed")
        if not self._broken:
            self.disk.sync()

    def reader(self) -> SimulatedReader:
        return SimulatedReader(self.disk, self.faults)

    def statistics(self) -> BackendStatistics:
        return BackendStatistics(fsyncs=self._fsyncs)

    # --- committing ---

    def _hold_to_contract(self, group: CommitGroup) -> None:
        if self._generation is None:
            self._complain("commit on a closed backend")
        if self._broken:
            self._complain("commit on a broken backend: close and open it first")
        if self._busy:
            self._complain("two commits under way at a time")
        if not self.is_dead and self._is_newest and group.sequence != self.disk.sequence + 1:
            self._complain(f"commit {group.sequence} after commit {self.disk.sequence}")

    def _complain(self, what: str) -> NoReturn:
        self.disk.complaints.append(what)
        raise ContractBrokenError(what)

    @property
    def _is_newest(self) -> bool:
        return self._generation == self.disk.generation

    async def _commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        await self._begin(group)
        plan = self._plan(group)
        self._fail_unharmed()
        if not self._is_newest:
            self._break("another writer has taken over", None)
        if not plan.accepted:
            return plan.outcomes
        if self.faults.strikes(Fault.COMMIT_LOST):
            told = self.faults.chance(0.5)
            self._break("the commit failed", plan.outcomes if told else None)
        self._write(group, plan)
        await self._work()
        if self.faults.strikes(Fault.COMMIT_UNTOLD):
            self._break("the fsync failed", plan.outcomes)
        self._finish(group)
        await self._work()
        return plan.outcomes

    async def _begin(self, group: CommitGroup) -> None:
        try:
            await self._work(self.faults.commit_seconds())
        except anyio.get_cancelled_exc_class():
            # Nobody waits any more, but a thread cannot be cancelled: it may come to its end.
            if not self.is_dead and self._is_newest and self.faults.chance(0.5):
                plan = self._plan(group)
                if plan.accepted:
                    self._write(group, plan)
            raise

    def _plan(self, group: CommitGroup) -> CommitPlan:
        return plan_group(group, self.disk.state)

    def _write(self, group: CommitGroup, plan: CommitPlan) -> None:
        self.disk.write(group.sequence, plan)

    def _finish(self, group: CommitGroup) -> None:
        if group.durability is Durability.DURABLE:
            self._fsyncs += 1
            self.disk.sync()
        self.disk.publish()

    # --- failing ---

    def _fail_unharmed(self) -> None:
        """Fail in a way after which the next commit may work."""
        now = anyio.current_time()
        if self.faults.strikes(Fault.DISK_FULL):
            self._full_until = now + self.faults.full_seconds()
        if self.disk.full or now < self._full_until:
            raise StorageFullError("simulated: no room left on the device")
        if self.faults.strikes(Fault.ROLLED_BACK):
            raise CommitFailedError("simulated: the commit was rolled back")

    def _break(self, what: str, outcomes: Sequence[BatchOutcome] | None) -> NoReturn:
        self._broken = True
        raise CommitInDoubtError(StorageIOError(f"simulated: {what}"), outcomes)


class SimulatedReader(_Process):
    """A `StorageReader` of what is published on the disk."""

    async def open(self) -> None:
        await self._work()

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        await self._work()
        if self.faults.strikes(Fault.READ_FAILS):
            raise StorageIOError("simulated: the disk failed while it was read")
        return [self.disk.state.read(query) for query in queries]

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

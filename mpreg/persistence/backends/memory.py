"""The reference backend: the same decisions, a dict for a disk. Nothing survives the process."""

from __future__ import annotations

from collections.abc import Sequence

import anyio.lowlevel

from mpreg.persistence.backend import (
    BackendStatistics,
    CheckFound,
    FoundState,
    OpenedState,
    ReadQuery,
    ReadResult,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup, plan_group

__all__ = ["MemoryBackend", "MemoryReader", "MemoryState"]


class MemoryBackend:
    """A `StorageBackend` that keeps its state while the object lives, also over close and open."""

    def __init__(self) -> None:
        self._state = MemoryState()
        self._sequence = 0
        self._generation = 0

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        await anyio.lowlevel.checkpoint()
        found = FoundState(self._sequence, self._generation) if self._generation else None
        self._generation = max(self._generation, check(found)) + 1
        return OpenedState(self._sequence, self._generation)

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        await anyio.lowlevel.checkpoint()
        plan = plan_group(group, self._state)
        if plan.accepted:
            self._state.carry_out(plan)
            self._sequence = group.sequence
        return plan.outcomes

    def upkeep_due(self) -> UpkeepStep | None:
        return None

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        await anyio.lowlevel.checkpoint()
        return UpkeepResult()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

    def reader(self) -> MemoryReader:
        return MemoryReader(self._state)

    def statistics(self) -> BackendStatistics:
        return BackendStatistics()


class MemoryReader:
    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def open(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult]:
        await anyio.lowlevel.checkpoint()
        return [self._state.read(query) for query in queries]

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

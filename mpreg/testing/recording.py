"""A backend driven by hand: a test sees each commit arrive, and says how it ends."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import anyio.lowlevel

from mpreg.persistence.backend import (
    BackendStatistics,
    CheckFound,
    OpenedState,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends.memory import MemoryBackend, MemoryReader
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup

__all__ = ["HeldCommit", "RecordingBackend"]


class HeldCommit:
    """A commit that waits for the test: let it `finish`, or `fail`."""

    def __init__(self, group: CommitGroup) -> None:
        self.group = group
        self._event = anyio.Event()
        self._error: Exception | None = None
        self._takes_effect = True

    def finish(self) -> None:
        """Let it take effect and return."""
        self._event.set()

    def fail(self, error: Exception, *, takes_effect: bool = False) -> None:
        """Let it raise, before or after it took effect."""
        self._error = error
        self._takes_effect = takes_effect
        self._event.set()

    @property
    def done(self) -> bool:
        return self._event.is_set()

    async def wait(self, memory: MemoryBackend) -> Sequence[BatchOutcome]:
        await self._event.wait()
        outcomes = await memory.commit(self.group) if self._takes_effect else ()
        if self._error is not None:
            raise self._error
        return outcomes

    def __repr__(self) -> str:
        return f"commit {self.group.sequence}: {len(self.group.batches)} batches"


class RecordingBackend:
    """A `StorageBackend` in memory that writes down its calls and holds every commit.

    The test runs until all tasks wait, looks at `take_calls`, finishes `held` commits by hand, and
    asserts at the end that none is left: "drive and compare".

    ::

        ack = store.put_nowait("ann", b"1")
        await anyio.wait_all_tasks_blocked()
        assert backend.take_calls() == ["open", "commit 1: 1 batches"]
        backend.held.finish()
        await ack
    """

    def __init__(self) -> None:
        self._memory = MemoryBackend()
        self._calls: list[str] = []
        self._held: HeldCommit | None = None

    @property
    def held(self) -> HeldCommit:
        """The commit that waits now."""
        assert self._held is not None, "no commit is waiting"
        return self._held

    @property
    def is_idle(self) -> bool:
        """Whether no commit waits."""
        return self._held is None

    def take_calls(self) -> list[str]:
        """The calls since the last time, in order."""
        calls, self._calls = self._calls, []
        return calls

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        self._calls.append("open")
        return await self._memory.open(check)

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        self._held = HeldCommit(group)
        self._calls.append(repr(self._held))
        try:
            return await self._held.wait(self._memory)
        finally:
            self._held = None

    def upkeep_due(self) -> UpkeepStep | None:
        return None

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        self._calls.append(f"upkeep {step}")
        return await self._memory.upkeep(step)

    async def close(self) -> None:
        self._calls.append("close")
        await self._memory.close()

    def reader(self) -> MemoryReader:
        return self._memory.reader()

    def statistics(self) -> BackendStatistics:
        return self._memory.statistics()

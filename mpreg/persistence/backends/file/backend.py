"""The file backend: the shell that carries calls to the session's thread."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import anyio.lowlevel

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    BackendStatistics,
    CheckFound,
    OpenedState,
    ReadQuery,
    ReadResult,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends.answers import answer_bytes
from mpreg.persistence.backends.file.files import FileSystem, OperatingSystem
from mpreg.persistence.backends.file.session import FileOptions, FileSession
from mpreg.persistence.backends.holding import (
    Hold,
    close_and_release,
    hold_nothing,
    open_held,
)
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.backends.worker_thread import WorkerThread, start_worker
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup

__all__ = ["FileBackend", "FileReader"]


class FileBackend:
    """A `StorageBackend` in an append-only journal, with its state in memory.

    The files are written on a thread of its own. The state is changed on the event loop, once the
    thread has said that it is on disk.
    """

    def __init__(
        self,
        directory: Path,
        options: FileOptions,
        *,
        hold: Hold | None = None,
        files: FileSystem | None = None,
    ) -> None:
        self._directory = directory
        self._options = options
        self._hold = hold or hold_nothing
        self._files = files or OperatingSystem()
        self._thread: WorkerThread | None = None
        self._session: FileSession | None = None
        self._release = hold_nothing()
        self._before = BackendStatistics()
        self.state = MemoryState()
        """As readers see it; that of the last opening while it is closed."""

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        self._thread, session = await start_worker(
            "mpreg-journal", lambda: self._open_session(check)
        )
        self._session = session
        self.state = session.state
        return session.opened

    def _open_session(self, check: CheckFound) -> FileSession:
        session, self._release = open_held(
            self._hold,
            lambda: FileSession.open(self._directory, self._options, self._files, check=check),
        )
        return session

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        assert self._thread is not None
        assert self._session is not None
        plan = await self._thread.run(self._session.commit, group)
        if plan.accepted:
            self._session.apply(plan)
        return plan.outcomes

    def upkeep_due(self) -> UpkeepStep | None:
        return None if self._session is None else self._session.upkeep_due

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        assert self._thread is not None
        assert self._session is not None
        return await self._thread.run(self._session.upkeep, step)

    async def close(self) -> None:
        thread, session = self._thread, self._session
        if thread is None or session is None:
            return
        self._before = self.statistics()
        self._thread = self._session = None
        await close_and_release(thread, session, self._release)

    def reader(self) -> FileReader:
        return FileReader(self)

    def statistics(self) -> BackendStatistics:
        session, before = self._session, self._before
        if session is None:
            return before
        return BackendStatistics(
            fsyncs=before.fsyncs + session.fsyncs,
            database_bytes=session.segments.snapshot_bytes,
            wal_bytes=session.segments.journal_bytes,
            rewrite_bytes=session.state.live_bytes,
        )


class FileReader:
    """Answers from memory, on the event loop: the state changes there, so it needs no lock."""

    def __init__(self, backend: FileBackend) -> None:
        self._backend = backend

    async def open(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | CorruptDataError]:
        await anyio.lowlevel.checkpoint()
        state = self._backend.state
        answers: list[ReadResult | CorruptDataError] = []
        # The loop does nothing else meanwhile, so not much more than a page at once.
        size = 0
        for query in queries:
            answers.append(state.read(query))
            size += answer_bytes(answers[-1])
            if size >= PAGE_BYTES_MAX:
                break
        return answers

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

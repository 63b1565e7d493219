"""The SQLite backend: the shell that carries calls to the connections' threads."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from mpreg.persistence.backend import (
    BackendStatistics,
    CheckFound,
    OpenedState,
    ReadFailure,
    ReadQuery,
    ReadResult,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends.holding import (
    Hold,
    close_and_release,
    hold_nothing,
    open_held,
)
from mpreg.persistence.backends.sqlite.connection import ConnectionThread, start_thread
from mpreg.persistence.backends.sqlite.read_session import ReadSession
from mpreg.persistence.backends.sqlite.upgrade import Upgrade
from mpreg.persistence.backends.sqlite.write_session import SqliteOptions, WriteSession
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup

__all__ = ["SqliteBackend", "SqliteOptions", "SqliteReader"]


class SqliteBackend:
    """A `StorageBackend` in one SQLite database in WAL mode.

    One connection both writes and checkpoints. SQLite 3.7.0 to 3.51.2 can corrupt a database when
    one connection checkpoints while another writes; with a single one that cannot happen.
    """

    def __init__(
        self,
        path: Path,
        options: SqliteOptions,
        *,
        hold: Hold | None = None,
        upgrade: Upgrade | None = None,
    ) -> None:
        """``hold`` keeps the data directory locked until what it returns is called: while there is
        a connection, also one that nobody waits for any more. Both are called on its thread.

        ``upgrade`` is how a database of an older schema becomes one of the newest."""
        self._path = path
        self._options = options
        self._upgrade = upgrade or Upgrade()
        self._hold = hold or hold_nothing
        self._thread: ConnectionThread | None = None
        self._session: WriteSession | None = None
        self._release = hold_nothing()
        self._fsyncs_before = 0
        self._opened_before = False

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        self._thread, self._session = await start_thread(lambda: self._open_session(check))
        self._opened_before = True
        return self._session.opened

    def _open_session(self, check: CheckFound) -> WriteSession:
        session, self._release = open_held(
            self._hold,
            lambda: WriteSession.open(
                self._path,
                self._options,
                again=self._opened_before,
                check=check,
                upgrade=self._upgrade,
            ),
        )
        return session

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        assert self._thread is not None
        assert self._session is not None
        return await self._thread.run(self._session.commit, group)

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
        self._fsyncs_before += session.fsyncs
        self._thread = self._session = None
        await close_and_release(thread, session, self._release)

    def reader(self) -> SqliteReader:
        return SqliteReader(self._path, self._options)

    def statistics(self) -> BackendStatistics:
        return BackendStatistics(
            fsyncs=self._fsyncs_before + (0 if self._session is None else self._session.fsyncs),
            database_bytes=_size(self._path),
            value_bytes=0 if self._session is None else self._session.value_bytes,
            wal_bytes=_size(Path(f"{self._path}-wal")),
        )


class SqliteReader:
    def __init__(self, path: Path, options: SqliteOptions) -> None:
        self._path = path
        self._options = options
        self._thread: ConnectionThread | None = None
        self._session: ReadSession | None = None

    async def open(self) -> None:
        self._thread, self._session = await start_thread(
            lambda: ReadSession.open(self._path, self._options)
        )

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        assert self._thread is not None
        assert self._session is not None
        return await self._thread.run(self._session.read, queries)

    async def close(self) -> None:
        thread, session = self._thread, self._session
        if thread is None or session is None:
            return
        self._thread = self._session = None
        await thread.close(session.close)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0

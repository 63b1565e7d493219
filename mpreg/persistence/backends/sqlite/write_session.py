"""The writer's connection, used only on its own thread: one call, one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path

from attrs import frozen

from mpreg.errors import CommitFailedError, StorageFullError, StorageIOError
from mpreg.persistence.backend import CheckFound, CommitInDoubtError, OpenedState, check_nothing
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import is_full, is_transient, translate
from mpreg.persistence.backends.sqlite.files import (
    create_database,
    look_at,
    look_into,
    read_meta,
    rewrite_wal,
)
from mpreg.persistence.backends.sqlite.tables import Added, Tables
from mpreg.persistence.backends.sqlite.wal_room import WalRoom, pages_at_most
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import (
    BatchOutcome,
    CommitGroup,
    plan_group,
)

__all__ = ["SqliteOptions", "WriteSession"]


@frozen(kw_only=True)
class SqliteOptions:
    cache_bytes: int
    wal_checkpoint_pages: int
    busy_timeout_seconds: float

    def prepare(self, connection: sqlite3.Connection) -> None:
        """What every connection needs."""
        connection.execute(f"PRAGMA busy_timeout = {_clamped(self.busy_timeout_seconds * 1000)}")
        connection.execute(f"PRAGMA cache_size = -{_clamped(self.cache_bytes / 1024)}")
        # No column holds text, but a damaged one may say so: it must not fail to be read.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")


def _clamped(value: float) -> int:
    """SQLite takes a larger number for 0, without a word."""
    return round(min(value, 2**31 - 1))


class WriteSession:
    """One incarnation of the writer's connection. Made and used on the connection's thread.

    How groups become transactions, and what a failure of one means. The rows are `Tables`' work.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.fsyncs = 0
        self._path = path
        self._tables = Tables(connection, path)
        self._synchronous = Durability.DURABLE
        self._checkpoint_pages = 0
        self._wal_room = WalRoom(path, pages_max=0)
        self._relaxed_pages = 0
        self._generation = 0
        self._sequence = 0
        self._broken = False
        self._closed = False

    # --- opening ---

    @classmethod
    def open(
        cls,
        path: Path,
        options: SqliteOptions,
        *,
        again: bool = False,
        check: CheckFound = check_nothing,
    ) -> WriteSession:
        """Connect, creating the database where there is none. See `StorageBackend.open`.

        ``check`` is told what is there before anything is done to it.

        ``again``: this process has opened it before and may have other connections to it. The file
        is not looked at then: to close it would drop the locks that they hold on it, and another
        program that came by could take itself for the only one, and remove the WAL.
        """
        try:
            if again and not path.exists():
                raise StorageIOError("the database is gone", path)
            found = look_into(path) if again else look_at(path)
            generation_min = check(found)
            if found is None:
                create_database(path)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        except OSError as error:
            raise StorageIOError(f"cannot be opened: {error.strerror}", path) from error
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=128
        )
        session = cls(connection, path)
        try:
            session._configure(options)
            session._make_durable()
            session._take_over(generation_min)
        except BaseException as error:
            session.let_go()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
            if isinstance(error, OSError):
                raise StorageIOError(f"the WAL cannot be synced: {error.strerror}", path) from error
            raise
        return session

    @property
    def opened(self) -> OpenedState:
        return OpenedState(self._sequence, self._generation)

    def _configure(self, options: SqliteOptions) -> None:
        execute = self.connection.execute
        options.prepare(self.connection)
        for pragma in schema.WRITER_PRAGMAS:
            execute(pragma)
        execute("PRAGMA synchronous = FULL")
        self._checkpoint_pages = _clamped(options.wal_checkpoint_pages)
        execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_pages}")
        self._wal_room = WalRoom(self._path, pages_max=self._checkpoint_pages)
        # A WAL that one huge transaction has blown up gives its space back at the next restart.
        page_size = execute("PRAGMA page_size").fetchone()[0]
        execute(f"PRAGMA journal_size_limit = {2 * options.wal_checkpoint_pages * page_size}")

    def _make_durable(self) -> None:
        """Move what a crash left in the WAL into the database, and start an empty WAL.

        After a failed fsync the WAL's pages may be in the system's cache and never reach the disk,
        while SQLite reads them as committed; a later, successful fsync would not write them again,
        and everything after them would be lost with them. The checkpoint writes them anew, into
        the database file, and syncs that.

        Not before the WAL itself is whole on the disk: a power cut after the checkpoint would find
        a new database, and an old WAL up to the first page that is missing, and apply that.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        rewrite_wal(self._path)
        self.connection.execute("ROLLBACK")
        busy, *_ = self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
        if busy:
            raise StorageIOError(
                "what the last run left in the WAL cannot be moved into the database while another "
                "process uses it; close it",
                self._path,
            )

    def _take_over(self, generation_min: int) -> None:
        """Commit a new generation: proves that the store can be written, fences older writers."""
        execute = self.connection.execute
        execute("BEGIN IMMEDIATE")
        found, self._sequence, last_version = read_meta(self.connection, self._path)
        self._tables.committed(Added(last_version))
        self._generation = max(found, generation_min) + 1
        execute(schema.NEW_GENERATION, (self._generation, found)).fetchall()
        execute("COMMIT")
        self.fsyncs += 1

    def close(self) -> None:
        """Close; after a clean run with an empty WAL, so that the next open finds all in one file.

        A broken session only lets go: what it may not have written it must not sync again. Where
        there is no room to empty the WAL, it stays: what it holds is durable there as well.
        """
        if self._closed:
            return
        self._closed = True
        try:
            if self._broken:
                self.let_go()
                return
            try:
                self.connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            finally:
                self.connection.close()
        except sqlite3.Error as error:
            if not is_transient(error):
                raise translate(error, self._path) from error

    def let_go(self) -> None:
        """Close and leave the files as they are. Twice does nothing.

        SQLite moves the WAL into the database when the last connection to it is closed. After a
        failure that would sync again what may not be retried, so a read-only connection, which
        moves nothing, is made to be the last.
        """
        self._closed = True
        with contextlib.suppress(sqlite3.Error):
            last = sqlite3.connect(
                f"{self._path.as_uri()}?mode=ro", uri=True, check_same_thread=False
            )
            with contextlib.closing(last):
                last.execute(schema.READ_META).fetchone()
                self.connection.close()
        self.connection.close()

    # --- committing ---

    def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        """One group, one transaction. See `StorageBackend.commit`."""
        outcomes: Sequence[BatchOutcome] | None = None
        durability = self._durability_of(group)
        self._wal_room.make(group)
        try:
            self._set_synchronous(durability)
            self.connection.execute("BEGIN IMMEDIATE")
            plan = plan_group(group, self._tables)
            if not plan.accepted:
                self.connection.execute("ROLLBACK")
                return plan.outcomes
            self._expect_removals(plan.rows_removed)
            added = self._tables.carry_out(plan)
            self._number(group.sequence, plan.last_version)
            outcomes = plan.outcomes
            self.connection.execute("COMMIT")
        except Exception as error:
            raise self._failure(error, outcomes) from error
        self._tables.committed(added)
        self._sequence = group.sequence
        if durability is Durability.DURABLE:
            self.fsyncs += 1
            self._relaxed_pages = 0
        return outcomes

    def _durability_of(self, group: CommitGroup) -> Durability:
        """What the group asks for; more, once relaxed groups have filled the WAL.

        A relaxed commit must not checkpoint. The checkpoint would sync the WAL, and SQLite says
        nothing where that fails; the system may then take the WAL's pages for written, the next
        durable commit would sync only its own, and a power cut would leave a WAL with a hole in
        front of it. A durable commit syncs the WAL before the checkpoint, and fails where that
        does. So checkpoints are left to those, and when it is time for one, one is made.
        """
        if group.durability is Durability.DURABLE:
            return Durability.DURABLE
        self._relaxed_pages += pages_at_most(group)
        full = self._relaxed_pages >= self._checkpoint_pages
        return Durability.DURABLE if full else Durability.RELAXED

    def _expect_removals(self, rows: int) -> None:
        """A page for each row: what `pages_at_most` could not know of before the group was planned.

        It is too late for this commit's durability. The next one's will see it.
        """
        if rows:
            self._relaxed_pages += rows
            self._wal_room.make_pages(rows)

    def _set_synchronous(self, durability: Durability) -> None:
        if durability is not self._synchronous:
            durable = durability is Durability.DURABLE
            execute = self.connection.execute
            execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
            execute(f"PRAGMA wal_autocheckpoint = {self._checkpoint_pages if durable else 0}")
            self._synchronous = durability

    def _number(self, sequence: int, last_version: int) -> None:
        parameters = (sequence, last_version, self._generation, self._sequence)
        if not self.connection.execute(schema.UPDATE_META, parameters).fetchall():
            raise StorageIOError(
                f"another writer has taken over from generation {self._generation}", self._path
            )

    def _failure(
        self, error: Exception, outcomes: Sequence[BatchOutcome] | None
    ) -> CommitFailedError | CommitInDoubtError:
        if isinstance(error, sqlite3.Error) and is_transient(error) and self._rolled_back():
            if is_full(error):
                return StorageFullError(
                    f"{self._path}: no room left on the device; the write was rolled back, "
                    "reads go on, writes work again when there is room"
                )
            return CommitFailedError(f"{self._path}: {error}; the write was rolled back")
        self._broken = True
        if not isinstance(error, sqlite3.Error):
            return CommitInDoubtError(error, outcomes)
        reason = translate(error, self._path)
        reason.__cause__ = error
        return CommitInDoubtError(reason, outcomes)

    def _rolled_back(self) -> bool:
        # SQLite has rolled back some failures by itself; ours to do for the others.
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        return not self.connection.in_transaction

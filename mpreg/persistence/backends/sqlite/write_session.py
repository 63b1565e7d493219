"""The writer's connection, used only on its own thread: one call, one transaction."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from attrs import frozen

from mpreg.errors import CommitFailedError, StorageFullError, StorageIOError
from mpreg.persistence.backend import (
    CheckFound,
    Checkpoint,
    CommitInDoubtError,
    GiveBackSpace,
    OpenedState,
    RefreshStatistics,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.backends import system_errors
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.checkpoint_policy import CheckpointPolicy
from mpreg.persistence.backends.sqlite.failures import (
    is_corrupt,
    is_full,
    is_transient,
    translate,
)
from mpreg.persistence.backends.sqlite.files import (
    create_database,
    looking_at,
    looking_into,
    read_meta,
    rewrite_wal,
)
from mpreg.persistence.backends.sqlite.places import Together, alone
from mpreg.persistence.backends.sqlite.tables import Added, Tables
from mpreg.persistence.backends.sqlite.upgrade import Upgrade
from mpreg.persistence.backends.sqlite.value_files import ValueFiles
from mpreg.persistence.backends.sqlite.wal_room import PAGE_BYTES, WalRoom, pages_at_most
from mpreg.persistence.backends.system_errors import told_as
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import (
    BatchOutcome,
    CommitGroup,
    plan_group,
)

__all__ = ["SqliteOptions", "WriteSession"]


#: How long a truncating checkpoint waits for readers, in milliseconds.
TRUNCATE_WAIT_MS: Final = 50
UPGRADE: Final = Upgrade()
#: What SQLite says of a database whose free pages can be given back in steps.
INCREMENTAL: Final = 2


@frozen(kw_only=True)
class SqliteOptions:
    cache_bytes: int
    wal_checkpoint_pages: int
    busy_timeout_seconds: float
    together: Together = alone
    """Which values are parts of one whole."""

    def prepare(self, connection: sqlite3.Connection) -> None:
        """What every connection needs."""
        connection.execute(f"PRAGMA busy_timeout = {_clamped(self.busy_timeout_seconds * 1000)}")
        connection.execute(f"PRAGMA cache_size = -{_clamped(self.cache_bytes / 1024)}")
        # No column holds text, but a damaged one may say so: it must not fail to be read.
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")


def _clamped(value: float) -> int:
    """SQLite takes a larger number for 0, without a word."""
    return round(min(value, 2**31 - 1))


def _is_for_want_of_room(error: Exception) -> bool:
    if isinstance(error, OSError):
        return system_errors.is_full(error)
    return isinstance(error, sqlite3.Error) and is_full(error)


class WriteSession:
    """One incarnation of the writer's connection. Made and used on the connection's thread.

    How groups become transactions, and what a failure of one means. The rows are `Tables`' work.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, values: ValueFiles) -> None:
        self.connection = connection
        self.fsyncs = 0
        self._path = path
        self._values = values
        self._tables = Tables(connection, path, values)
        self._synchronous = Durability.DURABLE
        self._pages_max = self._busy_timeout = 0
        self._policy = CheckpointPolicy(0)
        self._wal_room = WalRoom(path, pages_max=0)
        self.upkeep_due: UpkeepStep | None = None
        """What should be done before the next group."""
        self._moved_sequence = -1
        """Up to where the WAL was moved, or tried to be, when the disk was found full."""
        self._generation = 0
        self._sequence = 0
        self._has_left_log = False
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
        upgrade: Upgrade = UPGRADE,
        system: FileSystem | None = None,
    ) -> WriteSession:
        """Connect, creating the database where there is none. See `StorageBackend.open`.

        One of an older schema is migrated: see `Upgrade.run`.

        ``check`` is told what is there before anything is done to it.

        ``again``: this process has opened it before and may have other connections to it. The file
        is not looked at then: to close it would drop the locks that they hold on it, and another
        program that came by could take itself for the only one, and remove the WAL.
        """
        newest = upgrade.schema.version
        try:
            if again and not path.exists():
                raise StorageIOError("the database is gone", path)
            with (looking_into if again else looking_at)(path, newest) as found:
                generation_min = check(found)
                if found is None:
                    create_database(path, upgrade.schema)
                session = cls._connect(path, options, system)
        except sqlite3.Error as error:
            raise translate(error, path) from error
        except OSError as error:
            raise told_as(error, path, "cannot be opened") from error
        try:
            session._has_left_log = session._wal_bytes() > 0
            session._make_durable()
            if upgrade.is_due(session.connection):
                session._empty_wal()
                upgrade.run(session.connection, path)
            session._take_over(generation_min)
            session.upkeep_due = session._policy.decide(session._wal_bytes())
        except BaseException as error:
            session.let_go()
            if isinstance(error, sqlite3.Error):
                raise translate(error, path) from error
            if isinstance(error, OSError):
                what = "opening the store failed here"
                where = Path(error.filename) if isinstance(error.filename, str) else path
                raise told_as(error, where, what) from error
            raise
        return session

    @classmethod
    def _connect(
        cls, path: Path, options: SqliteOptions, system: FileSystem | None
    ) -> WriteSession:
        connection = sqlite3.connect(
            path, isolation_level=None, check_same_thread=False, cached_statements=256
        )
        session = cls(connection, path, ValueFiles(connection, path, options.together, system))
        try:
            session._configure(options)
        except BaseException:
            session.let_go()
            raise
        return session

    @property
    def opened(self) -> OpenedState:
        return OpenedState(self._sequence, self._generation, has_left_log=self._has_left_log)

    def _configure(self, options: SqliteOptions) -> None:
        execute = self.connection.execute
        options.prepare(self.connection)
        for pragma in schema.WRITER_PRAGMAS:
            execute(pragma)
        execute("PRAGMA synchronous = FULL")
        self._pages_max = _clamped(options.wal_checkpoint_pages)
        self._busy_timeout = _clamped(options.busy_timeout_seconds * 1000)
        self._wal_room = WalRoom(self._path, pages_max=self._pages_max)
        self._policy = CheckpointPolicy(self._pages_max)
        # A longer WAL gives its space back when it is begun anew.
        execute(f"PRAGMA journal_size_limit = {self._policy.limit_bytes}")

    def _make_durable(self) -> None:
        """Have what a crash left in the WAL on the disk for certain, and go on behind it.

        After a failed fsync the WAL's pages may be in the system's cache and never reach the disk,
        while SQLite reads them as committed; a later, successful fsync would not write them again,
        and everything after them would be lost with them. So the WAL is written anew and synced.
        It is moved into the database when that is due, as in a run without a crash.
        """
        self.connection.execute("BEGIN IMMEDIATE")
        rewrite_wal(self._path)
        self.connection.execute("ROLLBACK")

    def _empty_wal(self) -> None:
        """Move what is in the WAL into the database."""
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
        # A new WAL is synced with its length now, and so not again with the first group.
        self._wal_room.make(1)
        execute("BEGIN IMMEDIATE")
        found, self._sequence, last_version = read_meta(self.connection, self._path)
        self._tables.committed(Added(last_version))
        self._generation = max(found, generation_min) + 1
        execute(schema.NEW_GENERATION, (self._generation, found)).fetchall()
        self._values.take_over(self._generation)
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
            self._sync_values()
            try:
                self._record_synced()
                _, log, moved = self.connection.execute(
                    "PRAGMA wal_checkpoint(TRUNCATE)"
                ).fetchone()
                if log == moved:
                    self._values.made_durable()
            finally:
                self._values.let_go()
                self.connection.close()
                self._values.finish_giving_back()
        except sqlite3.Error as error:
            if not is_transient(error):
                raise translate(error, self._path) from error

    @property
    def value_bytes(self) -> int:
        """Of the files of values."""
        return self._values.size_bytes

    def _sync_values(self) -> None:
        """Raises `StorageIOError` with the log as it is: to move it would make durable what names
        the value that could not be synced."""
        try:
            self._values.sync_all()
        except OSError as error:
            self.let_go()
            raise told_as(error, self._path, "a value cannot be synced") from error

    def _record_synced(self) -> None:
        """Or the next opening would write anew what it cannot know to be on the device."""
        if self._values.is_record_behind:
            self.connection.execute("BEGIN IMMEDIATE")
            self._values.record_synced()
            self.connection.execute("COMMIT")

    def let_go(self) -> None:
        """Close and leave the files as they are. Twice does nothing.

        SQLite moves the WAL into the database when the last connection to it is closed. After a
        failure that would sync again what may not be retried, so a read-only connection, which
        moves nothing, is made to be the last.
        """
        self._closed = True
        self._values.let_go()
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
        durable = group.durability is Durability.DURABLE or self._values.wants_durable_commit
        pages = pages_at_most(group)
        self._wal_room.make(pages)
        try:
            self._set_synchronous(Durability.DURABLE if durable else Durability.RELAXED)
            self.connection.execute("BEGIN IMMEDIATE")
            plan = plan_group(group, self._tables)
            if not plan.accepted:
                self.connection.execute("ROLLBACK")
                return plan.outcomes
            if plan.rows_removed:
                self._wal_room.make(plan.rows_removed)
            # First: a writer that was fenced makes no files.
            self._number(group.sequence, plan.last_version)
            added = self._tables.carry_out(plan)
            self._values.sync(plan.entries, durable=durable)
            outcomes = plan.outcomes
            self.connection.execute("COMMIT")
        except Exception as error:
            raise self._failure(error, outcomes) from error
        self._tables.committed(added)
        self._values.committed(durable=durable)
        self._sequence = group.sequence
        if durable:
            self.fsyncs += 1
        self._look_at_wal(pages + plan.rows_removed)
        return outcomes

    def _look_at_wal(self, pages: int) -> None:
        """After something was written, of at most so many pages."""
        if self._policy.wants_look(pages):
            self.upkeep_due = self._policy.decide(self._wal_bytes())

    def _wal_bytes(self) -> int:
        try:
            return Path(f"{self._path}-wal").stat().st_size
        except OSError:
            return 0

    def _set_synchronous(self, durability: Durability) -> None:
        if durability is not self._synchronous:
            mode = "FULL" if durability is Durability.DURABLE else "NORMAL"
            self.connection.execute(f"PRAGMA synchronous = {mode}")
            self._synchronous = durability

    def _number(self, sequence: int, last_version: int) -> None:
        parameters = (sequence, last_version, self._generation, self._sequence)
        if not self.connection.execute(schema.UPDATE_META, parameters).fetchall():
            raise StorageIOError(
                f"another writer has taken over from generation {self._generation}", self._path
            )

    # --- upkeep ---

    def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        """One step, between two transactions. See `StorageBackend.upkeep`."""
        self.upkeep_due = None
        try:
            match step:
                case Checkpoint():
                    return self._checkpoint(truncate=step.truncate)
                case GiveBackSpace():
                    return self._give_back(step.pages_max)
                case RefreshStatistics():
                    return self._refresh_statistics()
        except OSError as error:
            if self._is_transient(error) and self._rolled_back():
                raise CommitFailedError(f"{self._path}: upkeep was put off: {error}") from error
            self._broken = True
            raise told_as(error, self._path, "a value cannot be synced") from error
        except sqlite3.Error as error:
            # A damaged page that only upkeep has met is no reason to stop those who do not need it.
            passes = is_transient(error) or (is_corrupt(error) and not isinstance(step, Checkpoint))
            if passes and self._rolled_back():
                raise CommitFailedError(f"{self._path}: upkeep was put off: {error}") from error
            self._broken = True
            raise translate(error, self._path) from error

    def _checkpoint(self, *, truncate: bool) -> UpkeepResult:
        """Whatever the durability of what is in the WAL: it is synced before it is moved, and here
        SQLite tells where that fails."""
        before = self._wal_bytes()
        self._policy.failed(before)
        execute = self.connection.execute
        self._values.sync_all()
        if truncate:
            # Our readers' transactions are short. Whoever else reads must not hold up the writer.
            execute(f"PRAGMA busy_timeout = {min(self._busy_timeout, TRUNCATE_WAIT_MS)}")
        try:
            mode = "TRUNCATE" if truncate else "PASSIVE"
            _, log, moved = execute(f"PRAGMA wal_checkpoint({mode})").fetchone()
        finally:
            if truncate:
                execute(f"PRAGMA busy_timeout = {self._busy_timeout}")
        if log == moved:
            self._policy.succeeded()
            self._values.made_durable()
        if truncate and not log:
            self._wal_room = WalRoom(self._path, pages_max=self._pages_max)
        return UpkeepResult(
            checkpoints=1,
            log_pages=log,
            log_pages_left=log - moved,
            free_bytes=self._free_pages() * PAGE_BYTES,
            freed_bytes=max(0, before - self._wal_bytes()),
        )

    def _give_back(self, pages_max: int) -> UpkeepResult:
        """Where the database was made by an mpreg that did not provide for it, there is nothing to
        be given back: its free pages are only used again."""
        (provided,) = self.connection.execute("PRAGMA auto_vacuum").fetchone()
        before = self._free_pages()
        if provided != INCREMENTAL or not before:
            return UpkeepResult(free_bytes=before * PAGE_BYTES)
        self._set_synchronous(Durability.RELAXED)
        self.connection.execute(f"PRAGMA incremental_vacuum({pages_max})").fetchall()
        after = self._free_pages()
        self._look_at_wal(2 * pages_max)
        return UpkeepResult(
            free_bytes=after * PAGE_BYTES, freed_bytes=max(0, before - after) * PAGE_BYTES
        )

    def _refresh_statistics(self) -> UpkeepResult:
        self._set_synchronous(Durability.RELAXED)
        self.connection.execute("PRAGMA optimize").fetchall()
        return UpkeepResult()

    def _free_pages(self) -> int:
        pages: int = self.connection.execute("PRAGMA freelist_count").fetchone()[0]
        return pages

    # --- failures ---

    def _failure(
        self, error: Exception, outcomes: Sequence[BatchOutcome] | None
    ) -> CommitFailedError | CommitInDoubtError:
        if self._is_transient(error) and self._rolled_back():
            if _is_for_want_of_room(error):
                self._values.finish_giving_back()
                self._make_room()
                return StorageFullError(
                    f"{self._path}: no room left on the device; the write was rolled back, "
                    "reads go on, writes work again when there is room"
                )
            return CommitFailedError(f"{self._path}: {error}; the write was rolled back")
        self._broken = True
        if isinstance(error, OSError):
            told = told_as(error, self._path, "a value cannot be written")
            told.__cause__ = error
            return CommitInDoubtError(told, outcomes)
        if not isinstance(error, sqlite3.Error):
            return CommitInDoubtError(error, outcomes)
        reason = translate(error, self._path)
        reason.__cause__ = error
        return CommitInDoubtError(reason, outcomes)

    def _is_transient(self, error: Exception) -> bool:
        if isinstance(error, OSError):
            # What a sync did not take, even for want of room, no later one will write.
            passes = system_errors.is_full(error) or system_errors.is_out_of_handles(error)
            return passes and not self._values.sync_failed
        return isinstance(error, sqlite3.Error) and is_transient(error)

    def _make_room(self) -> None:
        """What was moved into the database leaves room in the WAL: also for what removes something,
        which is all that helps on a full disk. Once for what is in it: more is not to be had."""
        if self._moved_sequence != self._sequence:
            self._moved_sequence = self._sequence
            self.upkeep_due = Checkpoint()

    def _rolled_back(self) -> bool:
        # SQLite has rolled back some failures by itself; ours to do for the others.
        try:
            if self.connection.in_transaction:
                self.connection.execute("ROLLBACK")
        except sqlite3.Error:
            return False
        if self.connection.in_transaction:
            return False
        self._values.rolled_back()
        return True

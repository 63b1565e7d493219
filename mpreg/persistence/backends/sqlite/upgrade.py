"""Bringing a database of an earlier schema version to the newest, while it is being opened.

::

    mpreg.db   version 1 ──copy──→ mpreg.db.schema-1     synced, verified, then renamed
       │  one transaction: the steps, and version 2
       ▼
    mpreg.db   version 2 ── … ──→ the newest

A process killed at any moment leaves the database at one version or the next one, whole, and the
next opening goes on from there. The copy is made once, before the first transaction: where an
upgrade was cut short after it, the numbers in ``meta`` tell that it is of the same state. It stays
until somebody removes it.

Used on the writer's thread and with its connection, when what a crash left in the WAL is in the
database already.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final

from attrs import field, frozen

from mpreg.clock import Clock, SystemClock
from mpreg.errors import (
    CorruptDataError,
    DataDirectoryError,
    MigrationFailedError,
    PersistenceError,
    StorageFullError,
)
from mpreg.persistence.backend import FoundState
from mpreg.persistence.backends.sqlite.failures import translate
from mpreg.persistence.backends.sqlite.files import look_into, read_meta, read_stamp
from mpreg.persistence.backends.sqlite.migrations import (
    CURRENT,
    FIRST_VERSION,
    Migration,
    Schema,
)
from mpreg.persistence.backends.system_errors import told_as
from mpreg.persistence.data_directory import sync_directory

__all__ = ["Progress", "Upgrade", "copy_name"]

_log = logging.getLogger("mpreg.persistence")

#: Pages copied between two reports, at least: often enough to be followed in the log.
COPY_PAGES_MIN: Final = 4_096
REPORTS_PER_COPY: Final = 10


@frozen
class Progress:
    """How far one part of an upgrade has come."""

    what: str
    done: int
    total: int
    unit: str

    def __str__(self) -> str:
        return f"{self.what}: {self.done:,} of {self.total:,} {self.unit}"


def copy_name(path: Path, version: int) -> Path:
    """Where the copy of a database of this schema version is kept."""
    return path.with_name(f"{path.name}.schema-{version}")


def _free_bytes(directory: Path) -> int:
    return shutil.disk_usage(directory).free


def _log_progress(progress: Progress) -> None:
    _log.info("%s", progress)


@frozen(kw_only=True)
class Upgrade:
    """What an upgrade needs to know of the world. Tests give it another one."""

    schema: Schema = CURRENT
    clock: Clock = field(factory=SystemClock)
    """For the times in the log."""
    free_bytes: Callable[[Path], int] = _free_bytes
    on_progress: Callable[[Progress], object] = _log_progress

    def is_due(self, connection: sqlite3.Connection) -> bool:
        """Whether the database has an older schema."""
        return bool(self.schema.pending(read_stamp(connection)[1]))

    def run(self, connection: sqlite3.Connection, path: Path) -> None:
        """Migrate a database to the newest schema, where that `is_due`.

        ``connection`` is in autocommit mode, with ``synchronous = FULL``, and the only one that
        writes.

        Raises:
            StorageFullError: no room for the copy. Nothing was changed.
            DataDirectoryError: there is a copy of this version already, of another state of the
                store. Nothing was changed.
            CorruptDataError: SQLite finds the database damaged. Nothing was changed.
            StorageIOError: the copy could not be made. Nothing was changed.
            MigrationFailedError: a migration failed; the ones before it have been made.
        """
        _, version = read_stamp(connection)
        pending = self.schema.pending(version)
        began = self.clock.wall()
        _log.info("%s: schema version %d is migrated to %d", path, version, self.schema.version)
        copy = self._keep_copy(connection, path, version)
        for migration in pending:
            self._migrate(connection, path, migration, version, copy)
            version += 1
        _log.info(
            "%s: has schema version %d now, after %.1f s; a copy of it as it was before is kept as "
            "%s: remove it when it is not needed any more",
            path,
            version,
            self._seconds_since(began),
            copy.name,
        )

    def _seconds_since(self, began: float) -> float:
        return max(0.0, self.clock.wall() - began)

    # --- the copy ---

    def _keep_copy(self, connection: sqlite3.Connection, path: Path, version: int) -> Path:
        """The copy of the database as it was before the first migration, made where it is not."""
        state = _state(connection, path)
        for earlier in range(version, FIRST_VERSION - 1, -1):
            copy = copy_name(path, earlier)
            if _state_of_copy(copy, earlier) == state:
                return copy
        copy = copy_name(path, version)
        if os.path.lexists(copy):
            raise DataDirectoryError(
                copy,
                f"here is a copy of another state of {path.name}, kept by an earlier migration; "
                "it is not overwritten, and nothing was changed: move it away, or remove it, and "
                "open the store again",
            )
        with _told(path, f"it could not be copied to {copy.name}; nothing was changed"):
            self._make_copy(connection, path, copy, state)
        return copy

    def _make_copy(
        self, connection: sqlite3.Connection, path: Path, copy: Path, state: FoundState
    ) -> None:
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
        (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
        free = self.free_bytes(path.parent)
        if free < pages * page_bytes:
            raise StorageFullError(
                f"{path}: before its schema is migrated a copy of {pages * page_bytes:,} bytes is "
                f"made, and only {free:,} bytes are free on the device; nothing was changed: make "
                "room on it"
            )
        unfinished = copy.with_name(f"{copy.name}.creating")
        unfinished.unlink(missing_ok=True)
        try:
            self._copy_pages(connection, unfinished, copy.name, pages)
            self._verify(unfinished, path, state)
            unfinished.rename(copy)
        except BaseException:
            unfinished.unlink(missing_ok=True)
            raise
        sync_directory(copy.parent)

    def _copy_pages(
        self, connection: sqlite3.Connection, unfinished: Path, name: str, pages: int
    ) -> None:
        descriptor = os.open(unfinished, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)

        def report(_status: int, left: int, total: int) -> None:
            self.on_progress(Progress(f"copying to {name}", total - left, total, "pages"))

        try:
            with closing(sqlite3.connect(unfinished, isolation_level=None)) as target:
                # It counts only once it has its name.
                target.execute("PRAGMA journal_mode = OFF")
                target.execute("PRAGMA synchronous = OFF")
                step = max(COPY_PAGES_MIN, pages // REPORTS_PER_COPY)
                connection.backup(target, pages=step, progress=report)
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _verify(self, copy: Path, path: Path, state: FoundState) -> None:
        """See that the copy is whole, and of the same state.

        A migration would carry damage on into tables of which nobody knows what they should be.
        """
        began = self.clock.wall()
        with closing(_connect_alone(copy)) as connection:
            (said,) = connection.execute("PRAGMA quick_check(1)").fetchone()
            found = _state(connection, copy)
        if said != "ok" or found != state:
            raise CorruptDataError(
                f"SQLite finds its copy damaged ({said}), so that its schema was not migrated; "
                "nothing was changed: restore it from a backup, or go on with the mpreg before",
                path,
            )
        _log.info("%s: its copy was verified in %.1f s", path, self._seconds_since(began))

    # --- the migrations ---

    def _migrate(
        self,
        connection: sqlite3.Connection,
        path: Path,
        migration: Migration,
        version: int,
        copy: Path,
    ) -> None:
        began = self.clock.wall()
        try:
            self._transact(connection, migration, version)
        except Exception as error:
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            raise MigrationFailedError(
                path, version, version + 1, copy, _cause(error, path)
            ) from error
        _log.info(
            "%s: migrated to schema version %d in %.1f s: %s",
            path,
            version + 1,
            self._seconds_since(began),
            migration.summary,
        )
        # Or the WAL would hold all migrations at once.
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def _transact(self, connection: sqlite3.Connection, migration: Migration, version: int) -> None:
        what = f"migrating to schema version {version + 1}"
        total = len(migration.steps)
        connection.execute("BEGIN IMMEDIATE")
        for done, step in enumerate(migration.steps):
            self.on_progress(Progress(what, done, total, "steps"))
            if isinstance(step, str):
                connection.execute(step)
            else:
                step(connection)
        self.on_progress(Progress(what, total, total, "steps"))
        if not connection.in_transaction:
            raise RuntimeError("a step has ended the transaction: some of it may be committed")
        connection.execute(f"PRAGMA user_version = {version + 1}")
        connection.execute("COMMIT")


def _cause(error: Exception, path: Path) -> str:
    return str(translate(error, path) if isinstance(error, sqlite3.Error) else error)


def _state(connection: sqlite3.Connection, path: Path) -> FoundState:
    generation, sequence, _ = read_meta(connection, path)
    return FoundState(sequence, generation)


def _state_of_copy(copy: Path, version: int) -> FoundState | None:
    """Of which state it is a copy; None where there is none, or none that can be read."""
    try:
        return look_into(copy, version, mode="mode=ro&immutable=1")
    except (sqlite3.Error, PersistenceError):
        return None


def _connect_alone(path: Path) -> sqlite3.Connection:
    """Nothing is made beside the file, though its header says that there is a WAL."""
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


@contextmanager
def _told(path: Path, what: str) -> Iterator[None]:
    """Errors of the system and of SQLite, as mpreg's."""
    try:
        yield
    except sqlite3.Error as error:
        raise translate(error, path) from error
    except OSError as error:
        raise told_as(error, path, what) from error

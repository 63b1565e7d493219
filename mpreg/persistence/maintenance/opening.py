"""Connecting to a store to read all of it: read-only, in one transaction.

Beside a running server this is safe: the connection cannot write, and so can never checkpoint,
which only the writer's connection may do. All reads see one state, that of the first of them. The
price is that SQLite cannot start its WAL anew while the transaction lasts: the WAL grows by what is
written meanwhile, and is emptied by the first checkpoint after it. Files of values that the writer
has no use for any more stay until then as well.

Everything here is blocking, and used on one worker thread.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

from mpreg.errors import CorruptDataError, StorageIOError
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import is_corrupt, translate
from mpreg.persistence.backends.sqlite.files import check_length, check_readable
from mpreg.persistence.backends.sqlite.opening_read_only import (
    Still,
    Way,
    choose_way,
    connecting,
    copied,
    look_at,
    read_wal_header,
)
from mpreg.persistence.backends.sqlite.places import directory_of
from mpreg.persistence.backends.sqlite.value_reading import held
from mpreg.persistence.backends.sqlite.wal_match import match_log
from mpreg.persistence.data_directory import STORES
from mpreg.persistence.found_directory import FoundDirectory, find_holder
from mpreg.persistence.maintenance.manifest import MANIFEST_NAME
from mpreg.persistence.maintenance.source import SqliteSource, is_damage
from mpreg.persistence.maintenance.worker import Control

__all__ = ["FoundStore", "open_source", "store_in"]

#: SQLite's virtual machine looks whether it is still wanted after this many of its steps.
_STEPS_BETWEEN_LOOKS: Final = 50_000

#: What SQLite says where it can neither find nor make the index of a WAL.
_NO_INDEX: Final = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_IOERR_SHMLOCK,
    sqlite3.SQLITE_IOERR_SHMMAP,
    sqlite3.SQLITE_IOERR_SHMOPEN,
    sqlite3.SQLITE_IOERR_SHMSIZE,
    sqlite3.SQLITE_READONLY_CANTINIT,
    sqlite3.SQLITE_READONLY_CANTLOCK,
    sqlite3.SQLITE_READONLY_DIRECTORY,
}


@frozen
class FoundStore:
    """The store of a data directory."""

    backend: str
    path: Path
    """The file that it is known by: the database, or the journal's control file."""


def store_in(data_dir: Path) -> FoundStore:
    """
    Raises:
        DataDirectoryError: there is none, there are two, or it may not be looked at.
    """
    backend = FoundDirectory.at(data_dir).backend
    return FoundStore(backend, data_dir / STORES[backend])


@contextmanager
def open_source(path: Path, control: Control, *, immutable: bool = False) -> Iterator[SqliteSource]:
    """Connect read-only and begin the one transaction.

    ``immutable``: nobody else uses the file, and it has no WAL: a backup. Then nothing is made
    beside it; so too where nothing can be made. Where a registry has the database open, it is not
    opened but by SQLite: closing it would drop the locks that one of this process holds on it.

    Raises:
        ForeignDatabaseError, SchemaVersionError: not ours to read.
        CorruptDataError: not even its header can be read.
        StorageIOError: it cannot be opened.
    """
    with ExitStack() as stack:
        with _opening(path):
            check_length(path.stat().st_size, path)
            connection, still = _connect_and_hold(path, stack, immutable=immutable)
        try:
            connection.set_progress_handler(lambda: control.stopped, _STEPS_BETWEEN_LOOKS)
            yield SqliteSource(connection, path)
        except sqlite3.OperationalError:
            # Interrupted by the handler above, at a statement that did not expect it.
            control.step("stopping", 0)
            raise
        finally:
            connection.close()
            # No lock was taken that would have kept a writer away, or told of it.
            if still is not None and look_at(path) != still:
                raise StorageIOError("it was changed while it was read; run it again", path)


def _connect_and_hold(
    path: Path, stack: ExitStack, *, immutable: bool
) -> tuple[sqlite3.Connection, Still | None]:
    """`_connect`, with all files of values held that its transaction may name."""
    holds = stack.enter_context(held(path))
    connection, still = _connect(path, stack, immutable=immutable)
    if not holds and directory_of(path).is_dir():
        # Made between the two, with the first file: it may be removed while the view names it.
        connection.close()
        stack.enter_context(held(path))
        connection, still = _connect(path, stack, immutable=immutable)
    return connection, still


def _connect(
    path: Path, stack: ExitStack, *, immutable: bool
) -> tuple[sqlite3.Connection, Still | None]:
    """A connection in its transaction; and what tells afterwards that the files stayed as they
    are, where SQLite has taken no locks.

    Beside a writer SQLite needs an index of the WAL, and makes one where there is none: not on a
    disk that is full, and not where nothing may be written. To read is still possible then.
    """
    if immutable or _is_to_be_left_alone(path):
        still = look_at(path)
        return _begin(path, Way.IMMUTABLE, path), still
    is_held = find_holder(path.parent) is not None
    # A writer moves what is in the log into the database meanwhile.
    check_end = None if is_held else match_log(path)
    try:
        return _begin(path, Way.SHARED, path, check_end), None
    except sqlite3.Error as error:
        if getattr(error, "sqlite_errorcode", None) not in _NO_INDEX or is_held:
            raise
    still = look_at(path)
    way = choose_way(still, read_wal_header(path), held=False)
    if way is not Way.COPY:
        return _begin(path, way, path, check_end), still
    copy = Path(stack.enter_context(copied(path)), path.name)
    return _begin(copy, way, path, check_end), still


def _begin(
    file: Path, way: Way, path: Path, check_end: Callable[[int], None] | None = None
) -> sqlite3.Connection:
    with connecting(file, way) as connection:
        connection.text_factory = lambda raw: raw.decode("utf-8", "replace")
        check_readable(connection, path)
        if check_end is not None and (end := _end_of(connection)) is not None:
            check_end(end)
        for pragma in schema.READER_PRAGMAS:
            connection.execute(pragma)
        connection.execute("PRAGMA busy_timeout = 5000")
        connection.execute("BEGIN")
        # The transaction begins with the first page that is read.
        connection.execute("PRAGMA schema_version").fetchone()
    return connection


def _end_of(connection: sqlite3.Connection) -> int | None:
    """Its commit sequence; None where that is damaged, which is found with all the rest."""
    try:
        meta = connection.execute(schema.READ_META).fetchone()
    except sqlite3.Error as error:
        if not is_damage(error):
            raise
        return None
    return meta[1] if meta is not None and type(meta[1]) is int else None


def _is_to_be_left_alone(path: Path) -> bool:
    """Whether all is in one file, and SQLite may make none beside it: in a backup, or where the
    directory cannot be written to."""
    wal = Path(f"{path}-wal")
    try:
        if wal.exists() and wal.stat().st_size:
            return False
        return (path.parent / MANIFEST_NAME).exists() or not os.access(path.parent, os.W_OK)
    except OSError:
        return False


@contextmanager
def _opening(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error) and not is_corrupt(error):
            raise CorruptDataError(f"SQLite cannot open it: {error}", path=path) from error
        raise translate(error, path) from error
    except OSError as error:
        raise StorageIOError(f"cannot be opened: {error.strerror}", path) from error

"""The database file: made complete or not at all, and looked at before SQLite touches it."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from mpreg.errors import CorruptDataError, ForeignDatabaseError, SchemaVersionError
from mpreg.persistence.backend import FoundState
from mpreg.persistence.backends.sqlite.migrations import CURRENT, FIRST_VERSION, Schema
from mpreg.persistence.backends.sqlite.names_check import check_names
from mpreg.persistence.backends.sqlite.schema import APPLICATION_ID, CREATION_PRAGMAS, READ_META
from mpreg.persistence.backends.sqlite.schema_check import check_schema
from mpreg.persistence.backends.sqlite.wal_match import match_log
from mpreg.persistence.data_directory import sync_directory

__all__ = [
    "check_header",
    "check_length",
    "check_readable",
    "check_stamp",
    "create_database",
    "look_at",
    "look_into",
    "looking_at",
    "looking_into",
    "read_meta",
    "read_stamp",
    "rewrite_wal",
]

_MAGIC: Final = b"SQLite format 3\x00"
_HEADER_BYTES: Final = 100
_CHUNK_BYTES: Final = 1 << 20
#: As many names as a store may have are looked at once, in another order than they stand in.
_LOOKING_CACHE_KIB: Final = 16 << 10
# Where the file format keeps them: https://www.sqlite.org/fileformat.html#the_database_header
_USER_VERSION: Final = slice(60, 64)
_APPLICATION_ID: Final = slice(68, 72)


def look_at(path: Path, newest: int = CURRENT.version) -> FoundState | None:
    """`looking_at`, for who needs no more than that."""
    with looking_at(path, newest) as found:
        return found


@contextmanager
def looking_at(path: Path, newest: int = CURRENT.version) -> Iterator[FoundState | None]:
    """See that the database is ours, and where it ends; None where there is none.

    Nothing is written to. ``newest`` is the schema version up to which it can be read. Where a
    crash left something in the WAL, SQLite has to read all of it: who connects within the block
    finds that done.

    Raises:
        ForeignDatabaseError: not an SQLite database, or another program's.
        CorruptDataError: the file is shorter than an SQLite header, or its numbers, or the names of
            its namespaces and logs, are damaged; or the WAL beside it is another one's.
        SchemaVersionError: made by a newer mpreg.
    """
    try:
        with path.open("rb") as file:
            header = file.read(_HEADER_BYTES)
    except FileNotFoundError:
        header = None
    if header is None:
        yield None
        return
    check_header(header, path, newest)
    if any(_is_filled(Path(f"{path}{ending}")) for ending in ("-wal", "-journal")):
        check_end = match_log(path)
        with looking_into(path, newest) as found:
            check_end(found.commit_sequence)
            yield found
        return
    # All in one file, as a clean close leaves it. SQLite then makes none beside it, even to look.
    # Closed before anybody else connects: it knows of no locks, and would drop theirs.
    yield look_into(path, newest, mode="mode=ro&immutable=1")


def _is_filled(path: Path) -> bool:
    return path.exists() and path.stat().st_size > 0


def check_header(header: bytes, path: Path, newest: int = CURRENT.version) -> None:
    """Judge the first 100 bytes of a database file."""
    if not header.startswith(_MAGIC[: len(header)]):
        raise ForeignDatabaseError(
            path,
            "this is not an SQLite database, or its first bytes are damaged; it was left "
            "untouched: move it away, and restore a backup if it was a store",
        )
    check_length(len(header), path)
    check_stamp(
        application_id=int.from_bytes(header[_APPLICATION_ID], "big"),
        version=int.from_bytes(header[_USER_VERSION], "big", signed=True),
        path=path,
        newest=newest,
    )


def check_length(size: int, path: Path) -> None:
    """Whether a database file has its header. One that is empty may not be connected to, not even
    to be read: SQLite takes it for new, and removes the WAL beside it.

    Raises:
        CorruptDataError: it has not.
    """
    if size < _HEADER_BYTES:
        raise CorruptDataError(
            f"the file ends after {size} bytes, inside its header; it was left untouched: "
            "restore it from a backup",
            path=path,
        )


def look_into(path: Path, newest: int = CURRENT.version, *, mode: str = "mode=ro") -> FoundState:
    """Judge a database as it is with what a crash left in the WAL, and see where it ends."""
    with looking_into(path, newest, mode=mode) as found:
        return found


@contextmanager
def looking_into(
    path: Path, newest: int = CURRENT.version, *, mode: str = "mode=ro"
) -> Iterator[FoundState]:
    """`look_into`, connected until the end of the block."""
    # Read-only, since the last connection to be closed would otherwise empty the WAL.
    connection = sqlite3.connect(f"{path.absolute().as_uri()}?{mode}", uri=True)
    try:
        application_id, version = read_stamp(connection)
        check_stamp(application_id=application_id, version=version, path=path, newest=newest)
        if version == CURRENT.version:
            check_schema(connection, path)
        connection.execute(f"PRAGMA cache_size = -{_LOOKING_CACHE_KIB}")
        check_names(connection, path)
        generation, sequence, _ = read_meta(connection, path)
        yield FoundState(sequence, generation)
    finally:
        connection.close()


def read_stamp(connection: sqlite3.Connection) -> tuple[int, int]:
    """(application id, schema version)."""
    (application_id,) = connection.execute("PRAGMA application_id").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    return application_id, version


def read_meta(connection: sqlite3.Connection, path: Path) -> tuple[int, int, int]:
    """The store's own numbers: generation, commit sequence, last version.

    Raises:
        CorruptDataError: they are missing or damaged.
    """
    meta = connection.execute(READ_META).fetchone()
    if meta is None or not all(type(number) is int for number in meta):
        raise CorruptDataError(
            "the row with the store's own numbers is missing or damaged; restore the file from "
            "a backup",
            path,
        )
    generation, sequence, last_version = meta
    return generation, sequence, last_version


def rewrite_wal(path: Path) -> None:
    """Write the database's WAL over itself, byte by byte the same, and sync it.

    After a failed fsync the system may take pages for written that are only in its cache, and no
    later fsync writes them: only writing them anew does. Nobody else may write meanwhile.
    """
    try:
        with Path(f"{path}-wal").open("r+b") as wal:
            while chunk := wal.read(_CHUNK_BYTES):
                wal.seek(-len(chunk), os.SEEK_CUR)
                wal.write(chunk)
            # An empty one has nothing to lose, and to sync a new file takes as long as a commit.
            if wal.tell():
                wal.flush()
                os.fsync(wal.fileno())
                # Whoever made it may have been killed before its name was on the disk.
                sync_directory(path.parent)
    except FileNotFoundError:
        return


def check_stamp(
    *, application_id: int, version: int, path: Path, newest: int = CURRENT.version
) -> None:
    """Whether the database is mpreg's, and can be brought to the schema version ``newest``."""
    if application_id != APPLICATION_ID:
        raise ForeignDatabaseError(
            path,
            f"this SQLite database was not made by mpreg (its application id is "
            f"{application_id:#x}, mpreg's is {APPLICATION_ID:#x}); it was left untouched",
        )
    if version < FIRST_VERSION:
        raise CorruptDataError(
            f"schema version {version} was never given; the file was left untouched: restore it "
            "from a backup",
            path,
        )
    if version > newest:
        raise SchemaVersionError(path, version, newest)


def check_readable(
    connection: sqlite3.Connection, path: Path, newest: int = CURRENT.version
) -> None:
    """For whoever only reads, and so cannot migrate. To be called before any other statement.

    Raises:
        ForeignDatabaseError: the database is another program's.
        SchemaVersionError: it has an older schema, or a newer one.
        CorruptDataError: its tables are not those of the schema.
    """
    application_id, version = read_stamp(connection)
    check_stamp(application_id=application_id, version=version, path=path, newest=newest)
    if version != newest:
        raise SchemaVersionError(path, version, newest)
    if version == CURRENT.version:
        check_schema(connection, path)


def create_database(path: Path, schema: Schema = CURRENT) -> None:
    """Make an empty database, 0600, so that ``path`` names a complete one or nothing.

    It is made under another name in one synced transaction and then renamed: a process killed here
    leaves at most that other file, and the next one starts it anew.

    Raises:
        CorruptDataError: there is the WAL of a database that is gone. SQLite would take it for the
            new one's.
    """
    wal = Path(f"{path}-wal")
    if _is_filled(wal):
        raise CorruptDataError(
            f"the database is gone, and its write-ahead log is there: put back {path.name}, or, to "
            "begin anew, move the log away",
            wal,
        )
    unfinished = path.with_name(path.name + ".creating")
    _remove_unfinished(unfinished)
    try:
        _fill(unfinished, schema)
        unfinished.rename(path)
    except BaseException:
        # On a full disk it would keep the last of the room.
        with suppress(OSError):
            _remove_unfinished(unfinished)
        raise
    sync_directory(path.parent)


def _remove_unfinished(path: Path) -> None:
    for ending in ("", "-journal", "-wal", "-shm"):
        Path(f"{path}{ending}").unlink(missing_ok=True)


def _fill(path: Path, schema: Schema) -> None:
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
    connection = sqlite3.connect(path, isolation_level=None)
    try:
        for pragma in CREATION_PRAGMAS:
            connection.execute(pragma)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("BEGIN")
        for statement in schema.create:
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {schema.version}")
        connection.execute("COMMIT")
        # Here, or the first writer would turn to it in the file that has the name already: cut off
        # in that, it would leave a journal that only a writer can roll back.
        connection.execute("PRAGMA journal_mode = WAL").fetchall()
    finally:
        connection.close()

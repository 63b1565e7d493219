"""How a database is opened so that reading it leaves every file as it is.

SQLite's read-only mode is not enough for that: on a database in WAL mode it makes the two files
beside it where they are missing, and writes the index anew after a crash. What does leave all as it
is depends on what is there:

===========================  =====================================================================
found                        opened
===========================  =====================================================================
held by a live process       as its own reader does, ``mode=ro``: both files are there
a WAL with its index         ``readonly_shm``: SQLite keeps an index of its own in memory
no WAL, or an empty one      ``immutable``: all is in one file, and nobody has it open
a WAL without its index      a copy of both files, made for the time: SQLite cannot do without
===========================  =====================================================================

The last two ways take no locks, so a writer that comes later would not be noticed. So the files'
names, sizes and times are looked at before and after each read (`Still`); where they have changed,
what was read is thrown away, and the database is opened once more.
"""

from __future__ import annotations

import enum
import shutil
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import frozen

__all__ = ["Still", "Way", "choose_way", "connecting", "copied", "look_at", "read_wal_header"]

#: The first four bytes of a WAL that something was written to, but for the last bit.
_WAL_MAGIC: Final = 0x377F0682
_HEADER_BYTES: Final = 32


class Way(enum.Enum):
    SHARED = "mode=ro"
    OWN_INDEX = "mode=ro&readonly_shm=1"
    IMMUTABLE = "mode=ro&immutable=1"
    COPY = "a copy"


@contextmanager
def connecting(file: Path, way: Way) -> Iterator[sqlite3.Connection]:
    """A connection that may only read, for any thread; closed where the block raises. ``file`` is
    the copy where ``way`` is one.

    Raises:
        sqlite3.Error: it cannot be opened.
    """
    mode = Way.SHARED.value if way is Way.COPY else way.value
    connection = sqlite3.connect(
        f"{file.absolute().as_uri()}?{mode}",
        uri=True,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        yield connection
    except BaseException:
        connection.close()
        raise


@frozen
class Still:
    """What tells that nobody has changed the files."""

    database: tuple[int, int, int] | None
    """(inode, size, time of the last change); None where there is none."""
    wal: tuple[int, int, int] | None
    has_index: bool


def look_at(path: Path) -> Still:
    return Still(_stamp(path), _stamp(Path(f"{path}-wal")), _stamp(Path(f"{path}-shm")) is not None)


def _stamp(path: Path) -> tuple[int, int, int] | None:
    try:
        found = path.stat()
    except FileNotFoundError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns


def choose_way(found: Still, wal_header: bytes, *, held: bool) -> Way:
    """``wal_header`` is the first bytes of the WAL; empty where there is none."""
    if held and found.wal is not None and found.has_index:
        return Way.SHARED
    magic = int.from_bytes(wal_header[:4], "big") & ~1
    if len(wal_header) < _HEADER_BYTES or magic != _WAL_MAGIC:
        return Way.IMMUTABLE
    return Way.OWN_INDEX if found.has_index else Way.COPY


def read_wal_header(path: Path) -> bytes:
    try:
        with Path(f"{path}-wal").open("rb") as wal:
            return wal.read(_HEADER_BYTES)
    except FileNotFoundError:
        return b""


def copied(path: Path) -> tempfile.TemporaryDirectory[str]:
    """A directory of one's own with a copy of the database and its WAL, under the same names.

    It is removed by its ``cleanup``, and at the latest with the process.
    """
    directory = tempfile.TemporaryDirectory(prefix="mpreg-read-only-")
    try:
        for name in (path.name, f"{path.name}-wal"):
            copy = Path(directory.name, name)
            shutil.copyfile(path.with_name(name), copy)
            copy.chmod(0o600)
    except BaseException:
        directory.cleanup()
        raise
    return directory

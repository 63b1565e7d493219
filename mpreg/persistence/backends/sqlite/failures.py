"""SQLite's errors as mpreg's, in one table."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mpreg.errors import CorruptDataError, PersistenceError, StorageIOError
from mpreg.persistence.backends.system_errors import no_room

__all__ = ["is_corrupt", "is_full", "is_transient", "translate"]

_FULL: Final = sqlite3.SQLITE_FULL
#: The transaction did not happen, and nothing is wrong with the handle.
_TRANSIENT: Final = frozenset({sqlite3.SQLITE_FULL, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})
_CORRUPT: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})

#: What to do, by primary result code; said after SQLite's own words.
_HINTS: Final = {
    sqlite3.SQLITE_BUSY: "another process holds a lock on the database; close it",
    sqlite3.SQLITE_CANTOPEN: "check that the directory exists and that its permissions allow it",
    sqlite3.SQLITE_PERM: "check the file's permissions",
    sqlite3.SQLITE_READONLY: "check the file's permissions and that the device is writable",
    sqlite3.SQLITE_IOERR: "check the device and the system's log",
}


def _code(error: sqlite3.Error) -> int:
    code: int = getattr(error, "sqlite_errorcode", 0)
    return code


def _primary(error: sqlite3.Error) -> int:
    # Extended codes keep the primary one in their lowest byte.
    return _code(error) & 0xFF


def is_full(error: sqlite3.Error) -> bool:
    # SQLite tells a shared-memory file that cannot grow from other failures by its code alone.
    return _primary(error) == _FULL or _code(error) == sqlite3.SQLITE_IOERR_SHMSIZE


def is_transient(error: sqlite3.Error) -> bool:
    return _primary(error) in _TRANSIENT


def is_corrupt(error: sqlite3.Error) -> bool:
    return _primary(error) in _CORRUPT


def translate(error: sqlite3.Error, path: Path) -> PersistenceError:
    """The error to raise ``from`` this one where the whole database is concerned."""
    name = getattr(error, "sqlite_errorname", type(error).__name__)
    said = f"{error} ({name})"
    if is_corrupt(error):
        return CorruptDataError(
            f"SQLite finds the file damaged: {said}; restore it from a backup", path=path
        )
    if is_full(error):
        return no_room(path, said)
    hint = _HINTS.get(_primary(error))
    return StorageIOError(f"{said}; {hint}" if hint else said, path)

"""What mpreg names its own in a data directory, and that only files may have such a name."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Collection
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError

__all__ = [
    "ACKED_NAME",
    "BACKUP_NAME",
    "DATABASE_NAME",
    "JOURNAL_NAME",
    "LOCK_NAME",
    "VALUES_NAME",
    "is_never_finished",
    "is_of_a_backup",
    "is_of_a_store",
    "refuse_what_is_no_file",
]

DATABASE_NAME: Final = "mpreg.db"
JOURNAL_NAME: Final = "mpreg.journal"
"""The control file of the file backend: where it is, there is a journal."""
LOCK_NAME: Final = "LOCK"
VALUES_NAME: Final = "values"
"""The directory of the SQLite backend's files of values."""

ACKED_NAME: Final = "ACKED"
BACKUP_NAME: Final = "BACKUP"
"""Says what a backup is of, and what its files must be: beside it nothing else may be written."""

_DATABASE: Final = re.escape(DATABASE_NAME)
_JOURNAL: Final = rf"{re.escape(JOURNAL_NAME)}|(journal|snapshot)-\d{{20}}"
_BACKUP: Final = re.compile(rf"{BACKUP_NAME}|{_DATABASE}(-wal|-shm)?|{_JOURNAL}")
_STORE: Final = re.compile(
    rf"{LOCK_NAME}|{ACKED_NAME}(\.damaged|\.creating)?"
    rf"|{_DATABASE}(\.schema-\d+)?(\.creating)?(-wal|-shm|-journal)?"
    rf"|({_JOURNAL})(\.new)?"
)

_BEGUN: Final = re.compile(
    rf"{LOCK_NAME}|{_DATABASE}\.creating(-wal|-shm|-journal)?|{re.escape(JOURNAL_NAME)}\.new"
)

_KINDS: Final[dict[int, str]] = {
    stat.S_IFREG: "a file",
    stat.S_IFDIR: "a directory",
    stat.S_IFIFO: "a named pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def is_of_a_backup(name: str) -> bool:
    return _BACKUP.fullmatch(name) is not None


def is_of_a_store(name: str) -> bool:
    return _STORE.fullmatch(name) is not None


def is_never_finished(names: Collection[str]) -> bool:
    """Whether the first opening has begun to make a store here, and no more. Before anything is
    acknowledged there are other files."""
    own = [name for name in names if is_of_a_store(name)]
    return bool(own) and all(_BEGUN.fullmatch(name) for name in own)


def refuse_what_is_no_file(directory: Path, *, is_for_database: bool = False) -> None:
    """Before anything in a store, or backup, is opened: a named pipe would be waited for until
    somebody opens its other end, and a device be read without end. Links are left to who opens
    them; so are the files of values, of which one that cannot be read is one damaged value.

    ``is_for_database``: one is to be there, also where none is yet, and so its directory of values.

    Raises:
        DataDirectoryError: something else than a file has the name of one, or something else than a
            directory that of the directory of values.
        OSError: the directory cannot be read.
    """
    has_values = is_for_database or (directory / DATABASE_NAME).exists()
    with os.scandir(directory) as found:
        entries = [entry for entry in found if not entry.is_symlink()]
    for entry in entries:
        if is_of_a_store(entry.name) or is_of_a_backup(entry.name):
            expected, is_it = "a file", entry.is_file(follow_symlinks=False)
        elif entry.name == VALUES_NAME and has_values:
            expected, is_it = "a directory", entry.is_dir(follow_symlinks=False)
        else:
            continue
        # One that has gone meanwhile, as a log does when a process ends, is none either.
        if not is_it and os.path.lexists(entry):
            raise _refused(directory / entry.name, expected)


def _refused(path: Path, expected: str) -> DataDirectoryError:
    kind = _KINDS.get(stat.S_IFMT(path.lstat().st_mode), "something else")
    return DataDirectoryError(
        path, f"this is {kind}, where {expected} is expected; nothing was changed: move it away"
    )

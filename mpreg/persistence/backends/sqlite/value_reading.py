"""Reading values that stand in files: by readers, by the writer, and by who examines a store.

Beside a writer a file can be gone, or going, and shorter than it was, though the reader's view
still names it: the value was removed meanwhile. A file is only unlinked after the commit that
removed its last value, so a view that is begun afterwards does not name it any more. Where a second
view does, it is damage.

Who has one view for long, and cannot take another, keeps all files that are there from being
removed: with a shared lock on their directory, taken before the view is begun. The writer removes
files with an exclusive one, and waits for nobody: what is held up is removed some time later.
"""

from __future__ import annotations

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mpreg.persistence.backends.sqlite.places import Place, directory_of, file_name

__all__ = ["ValueGoneError", "ValueReader", "held", "read_value", "removable"]

#: Not waiting: a named pipe would be waited for until somebody opens its other end.
_OPEN: Final = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
#: Of the file, and not of the system as a whole: what cannot be read of it is damaged.
_DAMAGE: Final = frozenset({errno.EIO, errno.ELOOP, errno.EISDIR, errno.ESPIPE, errno.ENXIO})


class ValueGoneError(Exception):
    """The file is not there. Asked in a newer view, the value may be another one, or removed."""


def read_value(database: Path, place: Place) -> bytes | None:
    """The bytes at a place, fewer where the file is too short; None where they cannot be read.

    Raises:
        FileNotFoundError: there is no such file.
        PermissionError: it is not this user's to read.
        OSError: the system refuses it, for a reason that is not the file's.
    """
    path = directory_of(database) / file_name(place.number)
    try:
        file = os.open(path, _OPEN)
        try:
            return _read_all(file, place)
        finally:
            os.close(file)
    except OSError as error:
        if error.errno in _DAMAGE:
            return None
        raise


def _read_all(file: int, place: Place) -> bytes:
    data = os.pread(file, place.length, place.offset)
    while 0 < len(data) < place.length:
        more = os.pread(file, place.length - len(data), place.offset + len(data))
        if not more:
            break
        data += more
    return data


@contextmanager
def held(database: Path) -> Iterator[bool]:
    """No file of values is removed while the block runs. Where this gives False, there was no
    directory of them, and those in one that is made later are not held."""
    try:
        directory = os.open(directory_of(database), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        # There is none, or nothing in it can be read.
        yield False
        return
    try:
        _lock(directory, fcntl.LOCK_SH)
        yield True
    finally:
        os.close(directory)


@contextmanager
def removable(directory: Path) -> Iterator[bool]:
    """Whether files may be removed while the block runs: nobody holds them. For the writer."""
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        yield True
        return
    except OSError:
        # Who holds them cannot be asked.
        yield False
        return
    try:
        yield _lock(opened, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(opened)


def _lock(directory: int, how: int) -> bool:
    try:
        fcntl.flock(directory, how)
    except BlockingIOError:
        return False
    except OSError:
        # A file system without locks: no registry can hold anything there either.
        return True
    return True


class ValueReader:
    """Reads values for one call of a reader, in as many views as that takes."""

    def __init__(self, database: Path) -> None:
        self._database = database
        self._gone: set[int] = set()

    def read(self, place: Place) -> bytes | None:
        """None where it is damaged, or not this user's to read.

        Raises:
            ValueGoneError: ask again in a new view, with this same reader.
            OSError: see `read_value`.
        """
        try:
            value = read_value(self._database, place)
        except FileNotFoundError:
            value = b""
        except PermissionError:
            # Others are read by the same call.
            return None
        if value is None or len(value) == place.length:
            return value
        if place.number not in self._gone:
            self._gone.add(place.number)
            raise ValueGoneError
        return None

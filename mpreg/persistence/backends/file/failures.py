"""The system's errors, and bad bytes, as mpreg's own."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mpreg.errors import CorruptDataError, SchemaVersionError, StorageFullError, StorageIOError
from mpreg.persistence.backends.file.format import FORMAT_VERSION, DamageError, NewerFormatError
from mpreg.persistence.backends.system_errors import is_full, no_room

__all__ = ["corrupt", "reading", "translate", "translated"]

_HINTS: Final = {
    errno.EACCES: "check the file's permissions",
    errno.EPERM: "check the file's permissions",
    errno.EROFS: "check that the device is writable",
    errno.EIO: "check the device and the system's log",
    errno.EFBIG: "check the limit on the size of files",
    errno.ELOOP: "this is a link; put the file itself here",
}


def translate(error: OSError, path: Path) -> StorageIOError | StorageFullError:
    """The error to raise ``from`` this one where nothing is to be rolled back."""
    said = error.strerror or (os.strerror(error.errno) if error.errno else str(error))
    if is_full(error):
        return no_room(path, said)
    hint = _HINTS.get(error.errno or 0)
    return StorageIOError(f"{said}; {hint}" if hint else said, path)


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """Turn what the system says in the block into mpreg's errors."""
    try:
        yield
    except OSError as error:
        raise translate(error, path) from error


def corrupt(path: Path, offset: int, message: str) -> CorruptDataError:
    return CorruptDataError(
        f"{message}; nothing was changed: restore the directory from a backup",
        path=path,
        where=f"byte {offset}",
    )


@contextmanager
def reading(path: Path, base: int = 0) -> Iterator[None]:
    """Turn what is found wrong with a file's bytes into errors that name it.

    ``base`` is where the bytes looked at begin in the file.
    """
    try:
        with translated(path):
            yield
    except DamageError as error:
        raise corrupt(path, base + error.offset, error.message) from error
    except NewerFormatError as error:
        raise SchemaVersionError(path, error.version, FORMAT_VERSION) from error

"""What the operating system refuses, as mpreg's errors; for all backends that keep files."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Final

from mpreg.errors import StorageFullError, StorageIOError

__all__ = ["is_full", "is_out_of_handles", "no_room", "told_as"]

_FULL: Final = frozenset({errno.ENOSPC, errno.EDQUOT})
_OUT_OF_HANDLES: Final = frozenset({errno.EMFILE, errno.ENFILE})


def is_full(error: OSError) -> bool:
    return error.errno in _FULL


def is_out_of_handles(error: OSError) -> bool:
    """Whether too many files are open, of the process or of the system: nothing was done."""
    return error.errno in _OUT_OF_HANDLES


def no_room(path: Path, said: str | None) -> StorageFullError:
    """Where nothing is to be rolled back."""
    return StorageFullError(f"{path}: no room left on the device: {said}; make room on it")


def told_as(error: OSError, path: Path, what: str) -> StorageIOError | StorageFullError:
    """The error to raise ``from`` this one; ``what`` could not be done."""
    if is_full(error):
        return no_room(path, f"{what}: {error.strerror}")
    return StorageIOError(f"{what}: {error.strerror}", path)

"""The one directory: made for its owner alone, and held by one registry at a time."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError, DataDirectoryLockedError

__all__ = ["DATABASE_NAME", "LOCK_NAME", "DataDirectory", "sync_directory"]

DATABASE_NAME: Final = "mpreg.db"
LOCK_NAME: Final = "LOCK"


class DataDirectory:
    """A data directory and the lock on it.

    The lock is ``flock`` on a file of its own: the kernel lets go of it when the process ends,
    however it ends, so a crash never leaves a lock behind; and it also holds between two registries
    of one process. The file says the holder's pid, for the error that the second one gets.
    """

    def __init__(self, path: Path) -> None:
        # Absolute: it is opened again later, when the process may work in another directory.
        self.path = path.absolute()
        self._lock: int | None = None

    @property
    def database(self) -> Path:
        return self.path / DATABASE_NAME

    def acquire(self) -> None:
        """Make the directory (0700) where it is missing, and lock it.

        Raises:
            DataDirectoryLockedError: another registry holds it.
            DataDirectoryError: it cannot be made or written to.
        """
        try:
            self._make()
            lock = os.open(self.path / LOCK_NAME, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except (OSError, ValueError) as error:
            # ValueError is Python's own, for a path with a NUL in it.
            said = error.strerror if isinstance(error, OSError) else error
            raise DataDirectoryError(
                self.path, f"the data directory cannot be used: {said}"
            ) from error
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            pid = _read_pid(lock)
            os.close(lock)
            raise DataDirectoryLockedError(self.path, pid) from error
        except OSError as error:
            os.close(lock)
            raise DataDirectoryError(
                self.path, f"the data directory cannot be locked: {error.strerror}"
            ) from error
        self._lock = lock
        self._write_pid(lock)

    def release(self) -> None:
        """Let go of the lock. Does nothing where it is not held."""
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def _make(self) -> None:
        if self.path.is_dir():
            return
        self.path.mkdir(mode=0o700, parents=True)
        sync_directory(self.path.parent)

    def _write_pid(self, lock: int) -> None:
        # Only for another's error message: a full disk must not keep a registry from opening.
        try:
            os.ftruncate(lock, 0)
            os.pwrite(lock, f"{os.getpid()}\n".encode(), 0)
        except OSError:
            return


def _read_pid(lock: int) -> int | None:
    text = os.pread(lock, 32, 0).strip()
    return int(text) if text.isdigit() else None


def sync_directory(path: Path) -> None:
    """fsync a directory, so that the names in it survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

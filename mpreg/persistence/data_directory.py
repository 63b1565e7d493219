"""The one directory: made for its owner alone, and held by one registry at a time."""

from __future__ import annotations

import errno
import fcntl
import os
import threading
import time  # noqa: TID251  (a pause in a thread, before there is a loop to pause in)
from collections.abc import Callable
from pathlib import Path
from typing import Final

from attrs import frozen

from mpreg.errors import DataDirectoryError, DataDirectoryLockedError
from mpreg.persistence.own_names import (
    ACKED_NAME,
    BACKUP_NAME,
    DATABASE_NAME,
    JOURNAL_NAME,
    LOCK_NAME,
    VALUES_NAME,
    refuse_what_is_no_file,
)

__all__ = [
    "STORES",
    "DataDirectory",
    "Holder",
    "holder_of",
    "sync_directory",
]

STORES: Final = {"sqlite": DATABASE_NAME, "file": JOURNAL_NAME}
"""What a backend's store is known by in its directory."""

#: More than a pid and the name of a host have.
_LOCK_BYTES: Final = 512
_PID_DIGITS_MAX: Final = 20

#: Longer than a look takes (`_lock_exclusively`), and how many in a row are waited for.
_LOOK_SECONDS: Final = 0.001
_LOOKERS_MAX: Final = 20


@frozen
class Holder:
    """Whoever holds a data directory, as the lock file says."""

    pid: int | None
    """Its process, as its own machine or container counts them; None where it left none."""
    host: str | None = None
    """The name of that machine or container; None where it left none."""
    since: float | None = None
    """When it took the directory: wall clock, in seconds since 1970."""


def holder_of(lock: int) -> Holder:
    """Who an open lock file names. Whatever it has in it, there is an answer."""
    pid, _, host = os.pread(lock, _LOCK_BYTES, 0).partition(b"\n")
    if not pid.isdigit() or len(pid) > _PID_DIGITS_MAX:
        return Holder(None)
    # It is written to when the directory is taken, and never again.
    since = os.fstat(lock).st_mtime
    return Holder(int(pid), host.strip().decode("utf-8", "replace") or None, since)


class DataDirectory:
    """A data directory and the lock on it.

    The lock is ``flock`` on a file of its own: the kernel lets go of it when the process ends,
    however it ends, so a crash never leaves a lock behind; and it also holds between two registries
    of one process. The file says the holder's pid and host, for the error that the second one gets.

    It is held by whoever called `acquire` or `hold`, and let go when all of them have let go: a
    registry may be closed while a commit that it gave up waiting for is still at work.
    """

    def __init__(self, path: Path, *, backend: str = "sqlite") -> None:
        """``backend``: whose store is to be there, one of `STORES`."""
        self._backend = backend
        # Resolved once: it is opened again later, when the process may work in another directory
        # or a link may point elsewhere. A path that cannot be resolved is refused by `acquire`.
        try:
            self.path = path.resolve()
        except (OSError, ValueError, RuntimeError):
            self.path = path.absolute()
        self._lock: int | None = None
        self._holders = 0
        self._counting = threading.Lock()

    @property
    def database(self) -> Path:
        return self.path / DATABASE_NAME

    @property
    def acked(self) -> Path:
        return self.path / ACKED_NAME

    def acquire(self) -> Callable[[], None]:
        """Make the directory (0700) where it is missing, and lock it. Returns what lets go of it.

        Raises:
            DataDirectoryLockedError: another registry holds it.
            DataDirectoryError: it cannot be made or written to, its files are links or no files, or
                it holds the store of another backend, or a backup.
        """
        try:
            _make(self.path)
            self._refuse_backup()
            refuse_what_is_no_file(self.path, is_for_database=self._backend == "sqlite")
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.path / LOCK_NAME, flags, 0o600)
        except (OSError, ValueError) as error:
            # ValueError is Python's own, for a path with a NUL in it.
            said = error.strerror if isinstance(error, OSError) else error
            raise DataDirectoryError(
                self.path, f"the data directory cannot be used: {said}"
            ) from error
        try:
            self._take(lock)
        except BaseException:
            os.close(lock)
            raise
        self._lock = lock
        _held_locks.add(lock)
        return self.hold()

    def _take(self, lock: int) -> None:
        try:
            _lock_exclusively(lock)
            if not os.path.samestat(os.fstat(lock), os.lstat(self.path / LOCK_NAME)):
                raise FileNotFoundError(errno.ENOENT, "another process has replaced it just now")
        except BlockingIOError as error:
            holder = holder_of(lock)
            raise DataDirectoryLockedError(
                self.path, holder.pid, holder.host, holder.since
            ) from error
        except OSError as error:
            raise DataDirectoryError(
                self.path, f"the data directory cannot be locked: {error.strerror}"
            ) from error
        self._refuse_other_stores()
        if self._backend == "sqlite" and self.database.is_symlink():
            raise DataDirectoryError(
                self.database,
                "this is a link: SQLite would keep its log beside the file that it names, where "
                "nobody else looks; move the file here",
            )
        values = self.path / VALUES_NAME
        if self._backend == "sqlite" and values.is_symlink():
            raise DataDirectoryError(
                values, "this is a link, and no copy of the directory would have what is behind it"
            )
        _write_holder(lock)

    def _refuse_backup(self) -> None:
        if os.path.lexists(self.path / BACKUP_NAME):
            raise DataDirectoryError(
                self.path,
                f"this is a backup ({BACKUP_NAME} is here), and with anything written to it could "
                "not be restored any more; nothing was changed: make a directory of it with mpreg "
                f"restore, and work on that. Where it is to be a store from now on, remove "
                f"{BACKUP_NAME}",
            )

    def _refuse_other_stores(self) -> None:
        for backend, name in STORES.items():
            if backend != self._backend and (self.path / name).exists():
                raise DataDirectoryError(
                    self.path,
                    f"{name} is here, the store of the {backend} backend, and this was opened with "
                    f"backend={self._backend!r}; open it with backend={backend!r} (in a file of "
                    "settings, in [mpreg.persistence]), or use another data directory",
                )

    def hold(self) -> Callable[[], None]:
        """Keep the lock until the function returned is called. Any thread; twice does nothing."""
        with self._counting:
            self._holders += 1
        held = [self]

        def let_go() -> None:
            if held:
                held.pop()._let_go()

        return let_go

    def _let_go(self) -> None:
        with self._counting:
            self._holders -= 1
            if self._holders or self._lock is None:
                return
            _held_locks.discard(self._lock)
            os.close(self._lock)
            self._lock = None


def _lock_exclusively(lock: int) -> None:
    """Raises `BlockingIOError` where somebody else holds the directory.

    Who only looks whether it is held has a shared lock for an instant. That is waited for.
    """
    for _ in range(_LOOKERS_MAX):
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
            fcntl.flock(lock, fcntl.LOCK_UN)
            time.sleep(_LOOK_SECONDS)
        else:
            return
    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)


#: To be closed in a forked child: it would keep the lock when this process has ended.
_held_locks: set[int] = set()


def _close_locks_in_child() -> None:
    while _held_locks:
        os.close(_held_locks.pop())


os.register_at_fork(after_in_child=_close_locks_in_child)


def _make(path: Path) -> None:
    """Make a directory and those above it, so that they survive a power cut."""
    missing = [parent for parent in (path, *path.parents) if not parent.exists()]
    if path.exists() and not path.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    path.mkdir(mode=0o700, parents=True, exist_ok=True)
    for made in missing:
        sync_directory(made.parent)


def _write_holder(lock: int) -> None:
    # Only for another's error message: a full disk must not keep a registry from opening.
    try:
        os.ftruncate(lock, 0)
        os.pwrite(lock, f"{os.getpid()}\n{os.uname().nodename}\n".encode(), 0)
    except OSError:
        return


def sync_directory(path: Path) -> None:
    """fsync a directory, so that the names in it survive a power cut."""
    directory = os.open(path, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)

"""A directory that is made beside its place and put there whole, or not at all.

::

    .NAME.mpreg-new    being made; locked by who makes it
    .NAME.mpreg-old    what was at the place, where the system cannot exchange two names

Linux exchanges two directories in one step, so that there is no moment without one: what was at
the place has the other name then, and is removed. Elsewhere replacing one takes two renames. A
process killed between them leaves the old one under its second name: whoever stages for the same
place next puts it back first, unless there is something at the place by then. What a killed process
was making is removed by the next one. So no temporary stays for longer than until the command is
run again.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from mpreg.errors import DataDirectoryError, StorageFullError, StorageIOError
from mpreg.persistence.data_directory import STORES, sync_directory
from mpreg.persistence.maintenance.leftovers import remove_leftovers
from mpreg.persistence.maintenance.mount_points import is_mount_point, no_place

__all__ = [
    "Staging",
    "busy",
    "file_errors",
    "is_same",
    "naming",
    "no_room",
    "refuse_inside_store",
    "refuse_nested",
    "resolved",
    "staged",
    "sync_file",
]

_AT_FDCWD: Final = -100
_RENAME_EXCHANGE: Final = 2

_FULL: Final = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)

#: No failures of a device: not there, or not allowed.
_REFUSED: Final = {
    errno.ENOENT: "there is no such file or directory",
    errno.EACCES: "this user may not do that: check the owner and the permissions",
    errno.EPERM: "this user may not do that: check the owner and the permissions",
    errno.EROFS: "the file system is mounted read-only",
    errno.ENOTDIR: "a part of the path is no directory",
    errno.EISDIR: "this is a directory, where a file is expected",
    errno.ENAMETOOLONG: "the name is too long",
}


class Staging:
    """The directory being made. `publish` puts it in its place; without that it is removed."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.path = place.with_name(f".{place.name}.mpreg-new")
        self._old = place.with_name(f".{place.name}.mpreg-old")

    @property
    def beside(self) -> frozenset[str]:
        """Names in the place that are nobody's, and no part of what is there."""
        return frozenset()

    def check(self) -> None:
        """Raises `DataDirectoryError` where it is certain that nothing can be put in the place."""

    def put_back(self) -> None:
        """`settle` for what only one who holds the place may do."""

    def settle(self) -> None:
        """Put back what a process that was killed has moved away."""
        if self._old.exists():
            if self.place.exists():
                # Somebody has made a store meanwhile, or the old one was only not removed yet:
                # that cannot be told, so nothing is thrown away.
                raise DataDirectoryError(
                    self._old,
                    f"left by a command that was killed while it replaced {self.place}; it holds "
                    "what was there before: look at both, and remove the one that is not wanted",
                )
            self._old.rename(self.place)
            sync_directory(self.place.parent)

    def publish(self) -> None:
        """Sync all that was made and give it its name; what had the name before is removed.

        When it returns the new one survives a power cut. Where it raises, the one before is there.
        """
        self._sync()
        if not self.place.exists():
            self.path.rename(self.place)
        elif _exchange(self.path, self.place):
            sync_directory(self.place.parent)
            shutil.rmtree(self.path, ignore_errors=True)
        else:
            self._rename_twice()
        sync_directory(self.place.parent)

    def _sync(self) -> None:
        for path in sorted(self.path.rglob("*"), reverse=True):
            (sync_directory if path.is_dir() else sync_file)(path)
        sync_directory(self.path)

    def _rename_twice(self) -> None:
        self.place.rename(self._old)
        try:
            self.path.rename(self.place)
        except BaseException:
            self._old.rename(self.place)
            raise
        sync_directory(self.place.parent)
        shutil.rmtree(self._old, ignore_errors=True)


def _exchange(one: Path, other: Path) -> bool:
    """Give each of two directories the other's name, in one step; False where that cannot be."""
    try:
        renameat2 = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return False
    names = (os.fsencode(one), os.fsencode(other))
    result: int = renameat2(_AT_FDCWD, names[0], _AT_FDCWD, names[1], _RENAME_EXCHANGE)
    return result == 0


@contextmanager
def staged(place: Path, *, inside: Callable[[Path], Staging] | None = None) -> Iterator[Staging]:
    """Make a directory for ``place``, 0700. What is not published when the block ends is removed.

    ``inside`` is for a mount point, which without it is refused.

    Raises:
        DataDirectoryError: somebody else is making one for the same place, nothing can take its
            place, or it is inside a directory with a store.
    """
    place = place.absolute()
    if place.name in ("", ".."):
        place = place.resolve()
    if not place.name:
        raise DataDirectoryError(place, "nothing can be put in this place: name a directory in it")
    staging = Staging(place)
    if is_mount_point(place):
        if inside is None:
            raise no_place(place)
        staging = inside(place)
    with file_errors(place):
        staging.check()
        refuse_inside_store(place)
        place.parent.mkdir(parents=True, exist_ok=True)
        lock = _lock(staging)
    try:
        with file_errors(place):
            staging.settle()
        remove_leftovers(staging.path, lock)
        yield staging
    finally:
        # Also after a publication: the name is free again then, or somebody else's.
        if is_same(staging.path, lock):
            shutil.rmtree(staging.path, ignore_errors=True)
        os.close(lock)


def _lock(staging: Staging) -> int:
    """Make the directory anew and lock it; the lock ends with the process.

    Raises:
        DataDirectoryError: there is a link or a file, or somebody else has it.
    """
    path = staging.path
    # Not through a link: what it leads to would be emptied.
    flags = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        path.mkdir(mode=0o700, exist_ok=True)
        lock = os.open(path, flags)
    except (FileExistsError, NotADirectoryError) as error:
        raise DataDirectoryError(
            path,
            "this is the name under which a directory is made before it is put in its place, and "
            "there is a link or a file; nothing was changed: remove it",
        ) from error
    try:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise busy(staging.place) from error
        if not is_same(path, lock):
            # Published or removed by somebody else between our two calls.
            raise busy(staging.place)
        for left in path.iterdir():
            shutil.rmtree(left) if left.is_dir() else left.unlink()
    except BaseException:
        os.close(lock)
        raise
    return lock


def busy(place: Path) -> DataDirectoryError:
    return DataDirectoryError(
        place, "another command is writing to this place; wait for it, or choose another"
    )


def resolved(place: Path) -> Path:
    """Where it really is, also where it does not exist yet: what is made beside a link would be on
    another device, and would take the place of the link and not of what it leads to.

    Raises:
        DataDirectoryError: its links lead nowhere but to themselves.
    """
    try:
        found = place.resolve()
        # From Python 3.13 on that is no error.
        is_loop = found.is_symlink()
    except (OSError, RuntimeError) as error:
        raise DataDirectoryError(place, f"it cannot be resolved: {error}") from error
    if is_loop:
        raise DataDirectoryError(place, "it cannot be resolved: it is a link that leads to itself")
    return found


def refuse_nested(place: Path, source: Path, what: str) -> None:
    """A place that is to be written may not be, hold, or be inside, what it is written from.

    Raises:
        DataDirectoryError: it is, or cannot be resolved.
    """
    one, other = resolved(place), resolved(source)
    if one == other or one in other.parents or other in one.parents:
        raise DataDirectoryError(
            place,
            f"it and {what} {source} are the same, or one is inside the other, and would be lost "
            "with it; nothing was changed: name another place",
        )


def refuse_inside_store(place: Path) -> None:
    """Nothing else is made in the directory of a store, or of a backup, nor put in the place of
    one of its files.

    Raises:
        DataDirectoryError: it would be.
    """
    store = next(
        (
            parent / name
            for parent in resolved(place).parents
            for name in STORES.values()
            if (parent / name).is_file()
        ),
        None,
    )
    if store is not None:
        raise DataDirectoryError(
            place,
            f"it is inside a directory with a store ({store}), and would be lost with that; "
            "nothing was changed: name another place",
        )


def is_same(path: Path, descriptor: int) -> bool:
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except OSError:
        return False


def sync_file(path: Path) -> None:
    """fsync a file."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def no_room(place: Path, rest: str) -> StorageFullError:
    """What to raise where no commit was rolled back: what was being made there was to take its
    place when it was whole."""
    error = StorageFullError(f"{place}: no room left on the device{rest}")
    vars(error)["data_state"] = "unchanged"
    return error


@contextmanager
def naming(path: Path) -> Iterator[None]:
    """Have the system's errors name the file that is read or written in the block, as they do by
    themselves only where it is opened: where one is copied, the two may be on two devices.

    Raises:
        OSError: as the block does.
    """
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


@contextmanager
def file_errors(path: Path) -> Iterator[None]:
    """The system's errors in mpreg's words; but for a pipe that nobody reads any more: no device
    has failed then, and who writes to it decides.

    Raises:
        BrokenPipeError: as the block does.
        StorageFullError: no room, a quota, or a limit on file sizes.
        DataDirectoryError: something is not there, or not allowed.
        StorageIOError: anything else.
    """
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        is_full = error.errno in _FULL
        # Of two the second is the one that is written to.
        name = (error.filename2 if is_full else None) or error.filename
        where = Path(name) if isinstance(name, str) else path
        if is_full:
            raise no_room(where, f" ({error.strerror}); make room and run it again") from error
        if (why := _REFUSED.get(error.errno or 0)) is not None:
            raise DataDirectoryError(where, why) from error
        raise StorageIOError(f"{error.strerror or error}", where) from error

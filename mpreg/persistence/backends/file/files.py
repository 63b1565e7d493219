"""The operating system below the journal: all file calls of the backend, and nothing else.

A test puts another `FileSystem` in its place, one that loses what was not synced.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Final, Protocol, TypeAlias

from mpreg.persistence.backends.aside import Aside
from mpreg.persistence.backends.file.format import Buffer
from mpreg.persistence.data_directory import sync_directory

__all__ = ["FileSystem", "OperatingSystem", "Synced"]

Synced: TypeAlias = Callable[[], None]
"""Waits for a sync that was begun, and raises the OSError that it has met."""


class FileSystem(Protocol):
    """Every call raises OSError where the system refuses it."""

    def names(self, directory: Path) -> list[str]: ...

    def create(self, path: Path) -> int:
        """Open a new, empty file (0600) for reading and writing; one that is there is emptied."""
        ...

    def open(self, path: Path) -> int:
        """Open a file that is there for reading and writing. A link is refused."""
        ...

    def close(self, file: int) -> None: ...

    def size(self, file: int) -> int: ...

    def links(self, file: int) -> int:
        """How many names the file has."""
        ...

    def read(self, file: int, count: int, offset: int) -> bytes:
        """``count`` bytes; fewer at the end of the file."""
        ...

    def write(self, file: int, data: Buffer, offset: int) -> None:
        """Write all of it. Where that fails, any part of it may have been written."""
        ...

    def truncate(self, file: int, size: int) -> None: ...

    def sync(self, file: int) -> None:
        """What was written to the file is on the device when this returns."""
        ...

    def start_sync(self, file: int, offset: int, count: int) -> None:
        """A hint: these bytes will be synced. It waits for nothing and promises nothing."""
        ...

    def begin_sync(self, file: int) -> Synced:
        """`sync`, beside what the caller does, of all that was written so far. The file may be
        closed meanwhile. Where this raises, nothing was begun."""
        ...

    def rename(self, source: Path, target: Path) -> None: ...

    def remove(self, path: Path) -> None: ...

    def sync_directory(self, directory: Path) -> None: ...


_OPEN: Final = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
#: Absent on macOS, where an ordinary fsync leaves the data in the drive's cache.
_fdatasync: Final = getattr(os, "fdatasync", None)
_fadvise: Final = getattr(os, "posix_fadvise", None)


class OperatingSystem:
    """The real one."""

    def names(self, directory: Path) -> list[str]:
        return [entry.name for entry in directory.iterdir()]

    def create(self, path: Path) -> int:
        return os.open(path, _OPEN | os.O_CREAT | os.O_TRUNC, 0o600)

    def open(self, path: Path) -> int:
        return os.open(path, _OPEN)

    def close(self, file: int) -> None:
        os.close(file)

    def size(self, file: int) -> int:
        return os.fstat(file).st_size

    def links(self, file: int) -> int:
        return os.fstat(file).st_nlink

    def read(self, file: int, count: int, offset: int) -> bytes:
        data = os.pread(file, count, offset)
        while 0 < len(data) < count:
            more = os.pread(file, count - len(data), offset + len(data))
            if not more:
                break
            data += more
        return data

    def write(self, file: int, data: Buffer, offset: int) -> None:
        written = os.pwrite(file, data, offset)
        while written < len(data):
            with memoryview(data) as rest:
                written += os.pwrite(file, rest[written:], offset + written)

    def truncate(self, file: int, size: int) -> None:
        os.ftruncate(file, size)

    def sync(self, file: int) -> None:
        if _fdatasync is not None:
            _fdatasync(file)
        else:
            _full_sync(file)

    def start_sync(self, file: int, offset: int, count: int) -> None:
        if _fadvise is not None:
            _fadvise(file, offset, count, os.POSIX_FADV_DONTNEED)

    def begin_sync(self, file: int) -> Synced:
        # Its number may be given to another file as soon as it is closed.
        own = os.dup(file)

        def work() -> None:
            try:
                self.sync(own)
            finally:
                os.close(own)

        try:
            return Aside("mpreg-sync", work).wait
        except OSError:
            os.close(own)
            raise

    def rename(self, source: Path, target: Path) -> None:
        source.rename(target)

    def remove(self, path: Path) -> None:
        path.unlink(missing_ok=True)

    def sync_directory(self, directory: Path) -> None:
        sync_directory(directory)


def _full_sync(file: int) -> None:
    import fcntl

    fcntl.fcntl(file, getattr(fcntl, "F_FULLFSYNC", 51))

"""The operating system below a real store, refusing one call, or all from one call on.

What is refused is what a store asks of its device: to write, to make a file or a name, to sync. It
is counted over all files of a data directory, in whatever way they are reached: SQLite is reached
through APSW, whose VFS can be written in Python, everything else through the `os` module. The files
are real ones, but nothing is ever synced: no power is cut here.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import apsw
import pytest
from attrs import define, field

from tests.integration.simulated_disk import Connection

__all__ = ["RefusingSystem", "refusing"]

ROOM, SYNC = "room", "sync"


@define(eq=False)
class RefusingSystem:
    directory: Path
    asks_for: str
    """``"room"`` (writes, new files, new names), ``"sync"``, or ``"anything"``: what is counted,
    and refused."""
    first: int
    """The first call to be refused, counted from 0."""
    lasts: bool = False
    """Whether all that come after it are refused as well, until the device is `mended`."""
    mended: bool = False
    asked: list[str] = field(factory=list)
    """The name of the file of each call that was counted."""
    refused: list[str] = field(factory=list)
    on_refusal: Callable[[], None] = lambda: None
    _counting: Any = field(factory=threading.Lock)

    def refuses(self, kind: str, path: Path) -> bool:
        counts = self.asks_for in (kind, "anything")
        if not counts or not path.is_relative_to(self.directory):
            return False
        with self._counting:
            number = len(self.asked)
            self.asked.append(path.name)
            if self.mended or number < self.first or (number > self.first and not self.lasts):
                return False
            self.refused.append(path.name)
            return True

    def place_of(self, descriptor: int) -> Path:
        """Where the open file is, if it is in the directory; the root where it is not."""
        status = os.fstat(descriptor)
        for path in (self.directory, *self.directory.rglob("*")):
            with suppress(FileNotFoundError):
                if os.path.samestat(path.stat(), status):
                    return path
        return Path("/")

    def check(self, kind: str, path: Path, in_part: Callable[[], object] | None = None) -> None:
        """Raises OSError where the call is refused, when it was made in part."""
        if self.refuses(kind, path):
            if in_part is not None:
                in_part()
            self.on_refusal()
            code = errno.ENOSPC if kind == ROOM else errno.EIO
            raise OSError(code, os.strerror(code))


# --- below SQLite ---


class _Vfs(apsw.VFS):
    def __init__(self, name: str, system: RefusingSystem) -> None:
        self._system = system
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._system, name, flags)


class _File(apsw.VFSFile):
    def __init__(self, system: RefusingSystem, name: Any, flags: list[int]) -> None:
        self._system = system
        self._path = Path(name.filename() if hasattr(name, "filename") else name or "")
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        if self._system.refuses(ROOM, self._path):
            # A part of it is there: that is what a full disk leaves.
            super().xWrite(data[: len(data) // 2], offset)
            self._system.on_refusal()
            raise _with_codes(apsw.FullError("the disk is full"), apsw.SQLITE_FULL)
        super().xWrite(data, offset)

    def xSync(self, flags: int) -> None:  # noqa: N802
        if self._system.refuses(SYNC, self._path):
            self._system.on_refusal()
            raise _with_codes(apsw.IOError("the disk took nothing"), apsw.SQLITE_IOERR_FSYNC)


def _with_codes(error: Any, code: int) -> Exception:
    error.result, error.extendedresult = code & 0xFF, code
    assert isinstance(error, Exception)
    return error


def _driver(vfs: str) -> SimpleNamespace:
    """Stands in for the `sqlite3` module."""

    def connect(database: Path | str, *, uri: bool = False, **_options: Any) -> Connection:
        write = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        # All URIs are for reading only.
        flags = apsw.SQLITE_OPEN_READONLY | apsw.SQLITE_OPEN_URI if uri else write
        return Connection(str(database), vfs, flags)

    return SimpleNamespace(connect=connect, Error=sqlite3.Error, Connection=sqlite3.Connection)


# --- below all else ---


def _calls(system: RefusingSystem) -> dict[str, Callable[..., Any]]:
    """Of the `os` module, by name."""
    real = {name: getattr(os, name) for name in ("open", "pwrite", "rename", "mkdir")}

    def open_(path: Any, flags: int, *rest: Any, **options: Any) -> int:
        there = Path(path) if isinstance(path, str | os.PathLike) else None
        if there is not None and flags & os.O_CREAT and not there.exists():
            system.check(ROOM, there)
        return int(real["open"](path, flags, *rest, **options))

    def pwrite(descriptor: int, data: Any, offset: int) -> int:
        half = bytes(data)[: len(data) // 2]
        place = system.place_of(descriptor)
        system.check(ROOM, place, lambda: real["pwrite"](descriptor, half, offset))
        return int(real["pwrite"](descriptor, data, offset))

    def rename(source: Any, target: Any, **options: Any) -> None:
        system.check(ROOM, Path(target))
        real["rename"](source, target, **options)

    def mkdir(path: Any, *rest: Any, **options: Any) -> None:
        system.check(ROOM, Path(path))
        real["mkdir"](path, *rest, **options)

    def fsync(descriptor: int) -> None:
        system.check(SYNC, system.place_of(descriptor))

    return {
        "open": open_, "pwrite": pwrite, "rename": rename, "mkdir": mkdir,
        "fsync": fsync, "fdatasync": fsync,
    }  # fmt: skip


@contextmanager
def refusing(system: RefusingSystem) -> Iterator[None]:
    """The store in the system's directory runs on it while the block does."""
    vfs_name = f"refusing-{id(system)}"
    vfs = _Vfs(vfs_name, system)
    sqlite = "mpreg.persistence.backends.sqlite"
    with pytest.MonkeyPatch.context() as patch:
        for module in ("files", "write_session", "read_session"):
            patch.setattr(f"{sqlite}.{module}.sqlite3", _driver(vfs_name))
        for name, call in _calls(system).items():
            patch.setattr(os, name, call)
        patch.setattr("mpreg.persistence.backends.file.files._fdatasync", os.fdatasync)
        yield
    vfs.unregister()

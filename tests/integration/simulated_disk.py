"""A disk below real SQLite: it knows what an fsync has made durable, and can lose the rest.

The files are real ones, and what SQLite reads from them is what an operating system's cache would
give. Beside them `Disk` keeps, for each file, what is on the platters: a write gets there with the
next sync of its file, or at a power cut by luck. A sync that fails is the nasty kind: the cache
keeps the pages and takes them for clean, so that no later sync will write them.

SQLite is reached through APSW, whose VFS can be written in Python; the session under test runs on
it unchanged, through `Driver`, which speaks as the `sqlite3` module does.
"""

from __future__ import annotations

import copy
import errno
import random
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import apsw
import pytest
from attrs import define, field, frozen

from mpreg.persistence.backends.file.files import OperatingSystem

__all__ = ["Connection", "Disk", "Driver", "driven_by"]

SECTOR = 512


@frozen
class Write:
    file: str
    offset: int
    data: bytes

    def apply(self, content: bytearray) -> None:
        end = self.offset + len(self.data)
        if len(content) < end:
            content.extend(bytes(end - len(content)))
        content[self.offset : end] = self.data

    def torn(self, luck: random.Random) -> Iterator[Write]:
        """The sectors of it that made it to the disk."""
        for start in range(0, len(self.data), SECTOR):
            if luck.random() < 0.5:
                yield Write(self.file, self.offset + start, self.data[start : start + SECTOR])


@frozen
class Truncate:
    file: str
    size: int

    def apply(self, content: bytearray) -> None:
        del content[self.size :]
        content.extend(bytes(self.size - len(content)))


@frozen
class Named:
    """A file got its name, which is for certain once the directory is synced."""

    file: str


@frozen
class Unnamed:
    """A file lost its name."""

    file: str


@frozen
class Sync:
    file: str
    failed: bool = False


@frozen
class SyncBegun:
    """Of what was written to a file until then."""

    file: str


@frozen
class SyncEnded:
    file: str
    failed: bool = False


@frozen
class Mark:
    """Something the test said, among what SQLite did."""

    word: str
    sequence: int


Event = Write | Truncate | Named | Unnamed | Sync | SyncBegun | SyncEnded | Mark

VALUES = "values"
"""The directory of the files of values. Their names here begin with it."""


@define
class Disk:
    """What happened to the files of one directory since ``durable``, in order."""

    durable: dict[str, bytes]
    events: list[Event] = field(factory=list)
    sync_fails: Callable[[str], bool] = lambda _file: False

    def mark(self, word: str, sequence: int) -> None:
        self.events.append(Mark(word, sequence))

    def sync(self, file: str) -> None:
        failed = self.sync_fails(file)
        self.events.append(Sync(file, failed))
        self._raise_where(file, failed=failed)

    def begin_sync(self, file: str) -> Callable[[], None]:
        self.events.append(SyncBegun(file))
        failed = self.sync_fails(file)

        def end() -> None:
            self.events.append(SyncEnded(file, failed))
            self._raise_where(file, failed=failed)

        return end

    @staticmethod
    def _raise_where(file: str, *, failed: bool) -> None:
        if failed:
            error: Any = apsw.IOError(f"the disk did not take {file}")
            error.result, error.extendedresult = apsw.SQLITE_IOERR, apsw.SQLITE_IOERR_FSYNC
            raise error

    def rewrite(self, path: Path) -> None:
        """A program writes a file over itself: what was only in the cache is on its way again."""
        if path.exists():
            self.events += [Write(path.name, 0, path.read_bytes())]
            try:
                self.sync(path.name)
            except apsw.IOError as error:
                raise OSError(errno.EIO, str(error)) from error

    def unsynced(self, file: str) -> int:
        """How many writes to a file have not been synced yet."""
        count = 0
        for event in self.events:
            if isinstance(event, Write) and event.file == file:
                count += 1
            elif isinstance(event, Sync) and event.file == file and not event.failed:
                count = 0
        return count

    def cut(self, luck: random.Random, at: int | None = None, *, keeps: bool = True) -> Disk:
        """The disk as it is found after a power cut, before the event with number ``at``.

        ``keeps=False``: nothing survives but what was synced.
        """
        content = {name: bytearray(data) for name, data in self.durable.items()}
        named = {name for name in content if name.startswith(VALUES)}
        renamed: list[Named | Unnamed] = []
        waiting: dict[str, list[Write | Truncate]] = {}
        under_way: dict[str, list[Write | Truncate]] = {}
        for event in self.events[:at]:
            match event:
                case Write() | Truncate():
                    waiting.setdefault(event.file, []).append(event)
                case Named() | Unnamed():
                    renamed.append(event)
                case Sync(file, failed) if file == VALUES:
                    if not failed:
                        _rename(named, renamed)
                    renamed = []
                case SyncBegun(file):
                    under_way[file] = list(waiting.get(file, []))
                case Sync(file, failed) | SyncEnded(file, failed):
                    changes = waiting.pop(file, [])
                    if isinstance(event, SyncEnded):
                        begun = set(map(id, under_way.pop(file)))
                        waiting[file] = [one for one in changes if id(one) not in begun]
                        changes = [one for one in changes if id(one) in begun]
                    if not failed:
                        for change in changes:
                            change.apply(content.setdefault(file, bytearray()))
        if keeps:
            _survive_by_luck(waiting, content, luck)
            # A file system writes names down in their order.
            _rename(named, renamed[: luck.randint(0, len(renamed))])
        return Disk(
            {
                name: bytes(content.get(name, b""))
                for name in content.keys() | named
                if name in named or not name.startswith(VALUES)
            }
        )

    def put_into(self, directory: Path) -> Path:
        directory.mkdir()
        for name, data in self.durable.items():
            (directory / name).parent.mkdir(exist_ok=True)
            (directory / name).write_bytes(data)
        return directory

    def after_a_kill(self, source: Path, directory: Path) -> Disk:
        """The process dies, the machine goes on: the cache stays as it is, and so does the disk."""
        directory.mkdir()
        for name in ("mpreg.db", "mpreg.db-wal"):
            (directory / name).write_bytes((source / name).read_bytes())
        if (source / VALUES).exists():
            shutil.copytree(source / VALUES, directory / VALUES)
        return Disk(dict(self.durable), copy.copy(self.events))


def _rename(named: set[str], renamed: Iterable[Named | Unnamed]) -> None:
    for event in renamed:
        (named.add if isinstance(event, Named) else named.discard)(event.file)


def _survive_by_luck(
    waiting: dict[str, list[Write | Truncate]], content: dict[str, bytearray], luck: random.Random
) -> None:
    share = luck.choice([0.0, 0.5, 0.9, 1.0])
    for file, changes in waiting.items():
        for change in changes:
            if luck.random() >= share:
                continue
            tears = isinstance(change, Write) and luck.random() < 0.2
            parts: Iterable[Write | Truncate] = [change]
            if tears and isinstance(change, Write):
                parts = change.torn(luck)
            for part in parts:
                part.apply(content.setdefault(file, bytearray()))


# --- below SQLite ---


class _Vfs(apsw.VFS):
    def __init__(self, name: str, disk: Disk) -> None:
        self._disk = disk
        super().__init__(name, "unix")

    def xOpen(self, name: Any, flags: list[int]) -> _File:  # noqa: N802
        return _File(self._disk, name, flags)

    def xDelete(self, filename: str, syncdir: bool) -> None:  # noqa: N802
        super().xDelete(filename, syncdir)
        name = Path(filename).name
        self._disk.events += [Truncate(name, 0), Sync(name)]


class _File(apsw.VFSFile):
    def __init__(self, disk: Disk, name: Any, flags: list[int]) -> None:
        self._disk = disk
        self._name = Path(name.filename() if hasattr(name, "filename") else name or "").name
        super().__init__("unix", name, flags)

    def xWrite(self, data: bytes, offset: int) -> None:  # noqa: N802
        super().xWrite(data, offset)
        self._disk.events.append(Write(self._name, offset, bytes(data)))

    def xTruncate(self, newsize: int) -> None:  # noqa: N802
        super().xTruncate(newsize)
        self._disk.events.append(Truncate(self._name, newsize))

    def xSync(self, flags: int) -> None:  # noqa: N802
        self._disk.sync(self._name)


# --- beside SQLite ---


class SimulatedValues(OperatingSystem):
    """The files of values of one store, on a `Disk`."""

    def __init__(self, disk: Disk, directory: Path) -> None:
        self._disk = disk
        self._directory = directory
        self._open: dict[int, str] = {}

    def _is_ours(self, path: Path) -> bool:
        return path.parent == self._directory / VALUES

    def create(self, path: Path) -> int:
        handle = super().create(path)
        if self._is_ours(path):
            self._open[handle] = f"{VALUES}/{path.name}"
            self._disk.events.append(Named(self._open[handle]))
        return handle

    def open(self, path: Path) -> int:
        handle = super().open(path)
        if self._is_ours(path):
            self._open[handle] = f"{VALUES}/{path.name}"
        return handle

    def close(self, file: int) -> None:
        super().close(file)
        self._open.pop(file, None)

    def write(self, file: int, data: bytes | bytearray | memoryview, offset: int) -> None:
        super().write(file, data, offset)
        if file in self._open:
            self._disk.events.append(Write(self._open[file], offset, bytes(data)))

    def truncate(self, file: int, size: int) -> None:
        super().truncate(file, size)
        if file in self._open:
            self._disk.events.append(Truncate(self._open[file], size))

    def sync(self, file: int) -> None:
        if file in self._open:
            self._synced(self._open[file])

    def begin_sync(self, file: int) -> Callable[[], None]:
        if file not in self._open:
            return super().begin_sync(file)
        synced = self._disk.begin_sync(self._open[file])

        def end() -> None:
            with _told():
                synced()

        return end

    def remove(self, path: Path) -> None:
        super().remove(path)
        if self._is_ours(path):
            self._disk.events.append(Unnamed(f"{VALUES}/{path.name}"))

    def sync_directory(self, directory: Path) -> None:
        if directory == self._directory / VALUES:
            self._synced(VALUES)

    def _synced(self, name: str) -> None:
        with _told():
            self._disk.sync(name)


@contextmanager
def _told() -> Iterator[None]:
    try:
        yield
    except apsw.IOError as error:
        raise OSError(errno.EIO, str(error)) from error


# --- above SQLite: the words of the `sqlite3` module ---


def _translated(error: Any) -> sqlite3.Error:
    own: Any = sqlite3.OperationalError(str(error))
    own.sqlite_errorcode = error.extendedresult
    own.sqlite_errorname = apsw.mapping_extended_result_codes.get(error.extendedresult, "?")
    assert isinstance(own, sqlite3.Error)
    return own


class _Rows:
    def __init__(self, rows: list[Any], rowcount: int) -> None:
        self._rows = rows
        self.rowcount = rowcount

    def fetchone(self) -> Any:
        return self._rows.pop(0) if self._rows else None

    def fetchall(self) -> list[Any]:
        rows, self._rows = self._rows, []
        return rows

    def __iter__(self) -> Iterator[Any]:
        return iter(self.fetchall())

    def close(self) -> None:
        self._rows = []


class Connection:
    text_factory: Any = str

    def __init__(self, path: Path | str, vfs: str, flags: int) -> None:
        try:
            self._connection = apsw.Connection(str(path), vfs=vfs, flags=flags)
        except apsw.Error as error:
            raise _translated(error) from error

    def execute(self, statement: str, parameters: Sequence[Any] = ()) -> _Rows:
        before = self._connection.total_changes()
        try:
            rows = list(self._connection.execute(statement, tuple(parameters)))
        except apsw.Error as error:
            raise _translated(error) from error
        return _Rows(rows, self._connection.total_changes() - before)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]]) -> _Rows:
        before = self._connection.total_changes()
        try:
            found = list(self._connection.executemany(statement, list(rows)))
        except apsw.Error as error:
            raise _translated(error) from error
        return _Rows(found, self._connection.total_changes() - before)

    @property
    def in_transaction(self) -> bool:
        return self._connection.in_transaction

    def close(self) -> None:
        # What fails in it SQLite passes over, and so does `sqlite3`; APSW tells it all the same.
        with suppress(apsw.Error):
            self._connection.close()


class Driver:
    """Stands in for the `sqlite3` module, on a `Disk`."""

    Error = sqlite3.Error
    Connection = sqlite3.Connection

    def __init__(self, directory: Path, disk: Disk) -> None:
        self._directory = directory
        self._name = f"simulated-{id(disk)}"
        self._vfs = _Vfs(self._name, disk)

    def connect(self, database: Path | str, *, uri: bool = False, **options: Any) -> Any:
        """A URI is always one for reading only."""
        path = Path(unquote(urlsplit(database).path)) if isinstance(database, str) else database
        if path.parent != self._directory:
            return sqlite3.connect(database, uri=uri, **options)
        write = apsw.SQLITE_OPEN_READWRITE | apsw.SQLITE_OPEN_CREATE
        return Connection(path, self._name, apsw.SQLITE_OPEN_READONLY if uri else write)


@contextmanager
def driven_by(disk: Disk, directory: Path) -> Iterator[Driver]:
    """`WriteSession` reaches the files in the directory through the disk while the block runs."""
    driver = Driver(directory, disk)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("mpreg.persistence.backends.sqlite.write_session.sqlite3", driver)
        patch.setattr(
            "mpreg.persistence.backends.sqlite.write_session.rewrite_wal",
            lambda path: disk.rewrite(Path(f"{path}-wal")) if path.parent == directory else None,
        )
        patch.setattr(
            "mpreg.persistence.backends.sqlite.value_files.OperatingSystem",
            lambda: SimulatedValues(disk, directory),
        )
        yield driver

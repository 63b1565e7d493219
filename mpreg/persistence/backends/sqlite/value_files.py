"""The files of values as the writer has them: written, synced and removed around its transactions.

::

    write          bytes in a new file, or at the end of that of their whole
    sync           these files, and then their names, are on the device
    COMMIT         SQLite: rows that name them
    remove         files whose last value this commit has removed, once it is durable itself

What a crash leaves, step by step:

- before COMMIT: files, or bytes at the end of one, that no row names. Such files are numbered above
  all that are committed, and the next opening removes them; such bytes are never read.
- after COMMIT, before the removal: files of which a row says that no value in them is any entry's.
  The next opening removes them, and then the rows.

A value that is written by itself has a file of its own, which is synced before its transaction is
committed, also where that is relaxed: so what a power cut leaves is a whole state. Parts of a whole
(see `Together`) share one file, and nobody waits for the device after each: it is synced before the
next durable commit of their namespace, before a checkpoint, and when much has been written, beside
the commits that follow. After a power cut a part may be named and not be there. Nothing has named
its whole then.

A file is removed only once the commit that emptied it is durable: a relaxed one may be undone by a
power cut, and would then name what is gone. That is its name; the room of a large one is given back
after that, a piece at a time, see `room`.
"""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from attrs import define

from mpreg.persistence.backends.file.files import FileSystem, OperatingSystem, Synced
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.places import (
    Place,
    Together,
    alone,
    directory_of,
    file_name,
    first_number,
    never_committed,
    number_of,
)
from mpreg.persistence.backends.sqlite.room import RoomGivenBack
from mpreg.persistence.backends.sqlite.value_reading import removable
from mpreg.persistence.backends.system_errors import is_out_of_handles
from mpreg.persistence.operations import EntryKey

__all__ = ["EMPTIED_MAX", "UNSYNCED_BYTES_MAX", "WHOLES_OPEN_MAX", "ValueFiles"]

#: Parts that were written, and of which no sync was begun, in bytes: with more, a later commit
#: would wait longer for them.
UNSYNCED_BYTES_MAX: Final = 16 << 20

#: Wholes that are being written at the same time, without opening their files anew.
WHOLES_OPEN_MAX: Final = 8

#: Files that are empty and stay until a commit is durable. With more of them the next one is.
EMPTIED_MAX: Final = 32

_PIECE_BYTES: Final = 1 << 20


@define(eq=False)
class _File:
    """A file that is open for writing."""

    number: int
    handle: int
    namespace: bytes
    """Of its values."""
    end: int = 0
    """Where its committed bytes end. What lies behind may be written over."""
    written: int = 0
    """The same, with those of the group under way."""
    values: int = 0
    """Written by the group under way."""
    unsynced: int = 0
    """Bytes of which no sync was begun."""
    synced: int = 0
    """Up to where it is on the device for certain."""
    recorded: int = 0
    """Where its row says that it is synced to."""

    @property
    def is_record_behind(self) -> bool:
        return self.recorded < self.synced


@define(eq=False)
class _SyncUnderWay:
    """Begun after a commit, of what is committed: no later group changes any of it."""

    file: _File
    end: int
    wait: Synced


class ValueFiles:
    """Of one session, and used on its thread."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        database: Path,
        together: Together = alone,
        system: FileSystem | None = None,
    ) -> None:
        self._connection = connection
        self._directory = directory_of(database)
        self._system = system or OperatingSystem()
        self._together = together
        self._next = 0
        self._wholes: dict[object, _File] = {}
        self._group: list[_File] = []
        """Files that the group under way has written to, each once."""
        self._created: list[_File] = []
        """Of these, the new ones."""
        self._group_emptied: dict[int, int] = {}
        self._emptied: dict[int, int] = {}
        """Files without a value, by number, and their bytes, where that is not durable yet."""
        self._removable: dict[int, int] = {}
        """Where it is, and somebody still holds them."""
        self._removed: list[int] = []
        """Files that are gone, perhaps not yet for good; their rows are still there."""
        self._forgetting = False
        """Whether the group under way removes those rows."""
        self._room = RoomGivenBack(self._system)
        self._under_way: list[_SyncUnderWay] = []
        self._names_synced = True
        self._directory_synced = False
        """Whether the name of the directory is. Whoever made it may have been killed before."""
        self.sync_failed = False
        """Whether what was written is in doubt for good: nothing may be synced any more."""
        self.size_bytes = 0
        """Of all files with a value, as far as they are committed."""

    # --- opening ---

    def take_over(self, generation: int) -> None:
        """Remove what a crash has left, and have the rest on the device. Inside the transaction
        that fences older writers, so that none of them is making files; all that is committed is
        durable.

        A file that cannot be removed keeps its row, and is tried again at the next opening.

        Raises:
            OSError: the directory cannot be read or synced, or a file not be written anew.
        """
        self._next = first_number(generation)
        rows = [
            (number, *map(_number, rest))
            for number, *rest in self._connection.execute(schema.VALUE_FILES)
        ]
        known = {number: live for number, _, _, live in rows}
        self.size_bytes = sum(size for _, size, _, live in rows if live != schema.EMPTIED)
        names = self._names()
        left = never_committed(names, known)
        emptied = {number: size for number, size, _, live in rows if live == schema.EMPTIED}
        if (left or emptied) and self._is_in_doubt(rows, names):
            left, emptied = [], {}
        # No view names a file that was never committed, so nobody can hold it.
        gone = [number for number in left if self._is_removed(number)]
        with removable(self._directory) as may_go:
            if may_go:
                gone += [number for number in emptied if self._is_removed(number, emptied[number])]
            else:
                self._removable = emptied
        if gone and names:
            self._system.sync_directory(self._directory)
        self._connection.executemany(schema.FORGET_FILE, [(number,) for number in gone])
        for number, size, synced, live in rows:
            if live != schema.EMPTIED and synced < size:
                self._write_anew(number, synced, size)

    def _is_in_doubt(self, rows: list[tuple[int, int, int, int]], names: list[str]) -> bool:
        """Whether the rows may not be all, or not those of these files, so that none may be removed
        for what they do not say: a page of the table is damaged, or the number in a row; or the
        database is an older one, put back beside newer files."""
        there = {number_of(name) for name in names}
        if any(
            live != schema.EMPTIED and size and synced >= size and number not in there
            for number, size, synced, live in rows
        ):
            return True
        return self._connection.execute(schema.CHECK_VALUE_FILES).fetchall() != [("ok",)]

    def _write_anew(self, number: int, start: int, end: int) -> None:
        """After a failed sync the system may take pages for written that are only in its cache, and
        no later sync writes them: only writing them anew does. Who writes the whole may go on."""
        try:
            handle = self._system.open(self._path(number))
        except FileNotFoundError:
            # Lost in a power cut, with parts of a whole that nothing names. Its row does not say
            # that it was synced, so nothing else is concluded from it.
            return
        try:
            for offset in range(start, end, _PIECE_BYTES):
                piece = self._system.read(handle, min(_PIECE_BYTES, end - offset), offset)
                if piece:
                    self._system.write(handle, piece, offset)
            self._system.sync(handle)
        finally:
            self._system.close(handle)
        self._system.sync_directory(self._directory)
        self._connection.execute(schema.SYNCED_FILE, (end, number))

    def _names(self) -> list[str]:
        try:
            return self._system.names(self._directory)
        except FileNotFoundError:
            return []

    def _is_removed(self, number: int, size: int = 0) -> bool:
        path = self._path(number)
        # Open, it keeps its room when it loses its name, which then takes no time.
        handle = self._opened(path) if self._room.is_worth_while(size) else None
        try:
            self._system.remove(path)
        except OSError:
            if handle is not None:
                self._system.close(handle)
            return False
        if handle is not None:
            self._room.take(handle)
        return True

    def _opened(self, path: Path) -> int | None:
        try:
            return self._system.open(path)
        except OSError:
            return None

    def _path(self, number: int) -> Path:
        return self._directory / file_name(number)

    # --- inside a transaction ---

    @property
    def wants_durable_commit(self) -> bool:
        """Whether the next commit should be durable, whatever its batches ask for."""
        return len(self._emptied) > EMPTIED_MAX

    def write(self, namespace: bytes, key: bytes, value: bytes) -> Place:
        """Write a value, which counts with the group.

        Raises:
            OSError: the group is to be rolled back.
        """
        whole = self._together(namespace, key)
        file = self._wholes.get(whole) if whole is not None else None
        if file is None:
            if whole is not None:
                self._make_room_for_whole()
            file = self._create(namespace)
            if whole is not None:
                self._wholes[whole] = file
        if not file.values:
            self._group.append(file)
        place = Place(file.number, file.written, len(value))
        file.values += 1
        file.unsynced += len(value)
        self._system.write(file.handle, value, place.offset)
        file.written += len(value)
        # The device has something to do until it is waited for.
        self._system.start_sync(file.handle, place.offset, place.length)
        return place

    def _create(self, namespace: bytes) -> _File:
        if not self._directory_synced:
            self._directory.mkdir(mode=0o700, exist_ok=True)
            self._sync_directory(self._directory.parent)
            self._directory_synced = True
        number, self._next = self._next, self._next + 1
        file = _File(number, self._system.create(self._path(number)), namespace)
        self._created.append(file)
        self._names_synced = False
        return file

    def _make_room_for_whole(self) -> None:
        if len(self._wholes) < WHOLES_OPEN_MAX:
            return
        for whole, file in self._wholes.items():
            if not file.values:
                self._end_syncs()
                self._sync([file])
                if not self._names_synced:
                    self._sync_names()
                self._record_synced([file])
                del self._wholes[whole]
                self._system.close(file.handle)
                return

    def record(self, dropped: dict[int, int]) -> None:
        """Put into the rows of the files what the group has written, and how many values of which
        file it has ``dropped``."""
        execute = self._connection.execute
        if self._group or dropped:
            self._forget_removed()
        for file in self._group:
            execute(schema.PUT_INTO_FILE, (file.number, file.written, 0, file.values))
        for number, count in dropped.items():
            # Without its row, nothing says that the file may go.
            dropping = {"number": number, "count": count}
            for live, size in execute(schema.DROP_FROM_FILE, dropping).fetchall():
                if live == schema.EMPTIED:
                    self._group_emptied[number] = size

    def _forget_removed(self) -> None:
        """A row goes only when its file is gone for good."""
        if self._removed:
            self._sync_names()
            self._connection.executemany(schema.FORGET_FILE, [(one,) for one in self._removed])
            self._forgetting = True

    def sync(self, entries: Iterable[EntryKey], *, durable: bool) -> None:
        """Before COMMIT of a group that writes to these entries: have on the device what it must
        not be ahead of. Of wholes those that it may name.

        Raises:
            OSError: the session is broken.
        """
        if not self._group and not self._wholes:
            return
        parts = list(self._wholes.values())
        singles = [file for file in self._group if file not in parts]
        named = {namespace for namespace, _ in entries} if durable and parts else set()
        due = [file for file in parts if file.namespace in named]
        unsynced = sum(file.unsynced for file in parts)
        if unsynced >= 2 * UNSYNCED_BYTES_MAX:
            # It could not be begun.
            due = parts
        is_ended = bool(due) or unsynced >= UNSYNCED_BYTES_MAX
        if is_ended:
            self._end_syncs()
        self._sync([*due, *singles])
        if not self._names_synced and (is_ended or singles):
            self._sync_names()
        if self._names_synced:
            self._record_synced([*parts, *singles])

    @property
    def is_record_behind(self) -> bool:
        """Whether files are synced that the rows do not know to be."""
        return any(file.is_record_behind for file in self._wholes.values())

    def record_synced(self) -> None:
        """After `sync_all`, inside a transaction of its own."""
        self._record_synced(list(self._wholes.values()))

    def _record_synced(self, files: list[_File]) -> None:
        for file in files:
            if file.is_record_behind:
                self._connection.execute(schema.SYNCED_FILE, (file.synced, file.number))
                # Where the group is rolled back, too little is recorded.
                file.recorded = file.synced

    def _sync(self, files: list[_File]) -> None:
        for file in files:
            if file.unsynced:
                try:
                    self._system.sync(file.handle)
                except OSError:
                    self.sync_failed = True
                    raise
                file.unsynced, file.synced = 0, file.written

    def _begin_syncs(self) -> None:
        """After a commit: of what is committed of wholes."""
        for file in self._wholes.values():
            if file.unsynced:
                try:
                    synced = self._system.begin_sync(file.handle)
                except OSError:
                    # Left to `sync`, which tries it again, and which may fail.
                    return
                self._under_way.append(_SyncUnderWay(file, file.end, synced))
                file.unsynced = 0

    def _end_syncs(self) -> None:
        under_way, self._under_way = self._under_way, []
        for one in under_way:
            try:
                one.wait()
            except OSError:
                self.sync_failed = True
                raise
            one.file.synced = max(one.file.synced, one.end)

    def _sync_names(self) -> None:
        self._sync_directory(self._directory)
        self._names_synced = True

    def _sync_directory(self, directory: Path) -> None:
        try:
            self._system.sync_directory(directory)
        except OSError as error:
            # Without a handle it was not even tried, and can be tried again.
            self.sync_failed = not is_out_of_handles(error)
            raise

    # --- after it ---

    def committed(self, *, durable: bool) -> None:
        """The transaction has been committed, and all before it are as durable as it is."""
        if self._group or self._group_emptied:
            self._count_group()
            unsynced = sum(file.unsynced for file in self._wholes.values())
            if unsynced >= UNSYNCED_BYTES_MAX:
                self._begin_syncs()
        if durable and (self._emptied or self._removable):
            self.made_durable()

    def _count_group(self) -> None:
        for file in self._group:
            self.size_bytes += file.written - file.end
            file.end, file.values = file.written, 0
        for file in self._group:
            if file not in self._wholes.values():
                self._system.close(file.handle)
        self._group, self._created = [], []
        if self._forgetting:
            self._removed, self._forgetting = [], False
        self.size_bytes -= sum(self._group_emptied.values())
        # Whatever else is written of their wholes goes into other files.
        for whole in [
            one for one, file in self._wholes.items() if file.number in self._group_emptied
        ]:
            self._system.close(self._wholes.pop(whole).handle)
        self._emptied |= self._group_emptied
        self._group_emptied = {}

    def made_durable(self) -> None:
        """All that was committed is: what it has emptied can go, unless somebody holds it.

        What cannot be removed stays with its row until the next opening.
        """
        self._removable |= self._emptied
        self._emptied = {}
        if not self._removable:
            return
        with removable(self._directory) as may_go:
            if may_go:
                self._removed += [
                    number
                    for number, size in self._removable.items()
                    if self._is_removed(number, size)
                ]
                self._removable = {}

    def rolled_back(self) -> None:
        """Nothing of the group counts: its files go, and what it has added to others."""
        for file in self._group:
            file.values, file.written = 0, file.end
            # What is written there next is not what was synced.
            file.synced = min(file.synced, file.end)
            if file not in self._created:
                # To give room back; it would be written over in any case.
                with contextlib.suppress(OSError):
                    self._system.truncate(file.handle, file.end)
        for file in self._created:
            self._system.close(file.handle)
            self._is_removed(file.number)
        self._wholes = {
            whole: file for whole, file in self._wholes.items() if file not in self._created
        }
        self._group, self._created = [], []
        self._group_emptied, self._forgetting = {}, False

    # --- between two ---

    def sync_all(self) -> None:
        """Before what was committed is made durable by other means than a commit.

        Raises:
            OSError: the session is broken.
        """
        self._end_syncs()
        self._sync(list(self._wholes.values()))
        if not self._names_synced:
            self._sync_names()

    def finish_giving_back(self) -> None:
        """What was removed takes no room any more when this returns."""
        self._room.finish()

    def let_go(self) -> None:
        """Close the files, and leave them as they are. Twice does nothing."""
        files = (*self._wholes.values(), *self._group, *self._created)
        open_ones = {file.handle for file in files}
        with contextlib.suppress(OSError):
            self._end_syncs()
        self._wholes, self._group, self._created = {}, [], []
        for handle in open_ones:
            with contextlib.suppress(OSError):
                self._system.close(handle)


def _number(column: object) -> int:
    """A damaged column can come back as another type."""
    return column if type(column) is int else 0

"""A store's rows as they are on disk, damaged ones too, as a read-only connection finds them.

Everything here is blocking, and used on one worker thread.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, TypeAlias

from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import is_corrupt, is_transient, translate
from mpreg.persistence.backends.sqlite.large_records import owner
from mpreg.persistence.backends.sqlite.places import Place, directory_of, file_name, number_of
from mpreg.persistence.backends.sqlite.value_reading import read_value
from mpreg.persistence.backends.system_errors import told_as
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.rows import (
    DamagedRowsError,
    EntryRow,
    LargeRecordRow,
    LargeValueRow,
    LogRow,
    RecordRow,
)
from mpreg.persistence.own_names import VALUES_NAME

__all__ = ["SqliteSource", "is_damage"]

_MARKER: Final = object()

_NEXT_NAMESPACE: Final = "SELECT min(namespace_id) FROM entries WHERE namespace_id > ?"
_FIRST_NAMESPACE: Final = "SELECT min(namespace_id) FROM entries"
_NAMESPACE_NAME: Final = "SELECT name FROM namespaces WHERE id = ?"
_NAMESPACES: Final = "SELECT id, name FROM namespaces ORDER BY id"
# By their names, of which both tables have a tree or a row: no value is read for it.
_LOST_VALUES: Final = (
    "SELECT large_values.id, large_values.namespace_id, large_values.key FROM large_values "
    "LEFT JOIN entries ON entries.namespace_id = large_values.namespace_id "
    "AND entries.key = large_values.key AND entries.value = large_values.id "
    "WHERE entries.key IS NULL ORDER BY large_values.id"
)
_LARGE_VALUE: Final = "SELECT value FROM large_values WHERE id = ?"
_LOGS: Final = "SELECT id, name, first_offset FROM logs ORDER BY id"
_LOG_NAME: Final = "SELECT name FROM logs WHERE id = ?"
_LOG_ID: Final = "SELECT id FROM logs WHERE id = ?"
_NEXT_LOG: Final = "SELECT min(log_id) FROM records WHERE log_id > ?"
_FIRST_LOG: Final = "SELECT min(log_id) FROM records"
_OF_LOG: Final = (
    f"SELECT offset, checksum, {schema.DATA} FROM records {schema.JOIN_LARGE_RECORDS} "  # noqa: S608
    "WHERE log_id = ?"
)
_RECORDS: Final = f"{_OF_LOG} ORDER BY offset"
_RECORDS_FROM: Final = f"{_OF_LOG} AND offset >= ? ORDER BY offset"
# By their ids, which both tables have without the data.
_LOST_LARGE_RECORDS: Final = (
    "SELECT large_records.id FROM large_records LEFT JOIN records "  # noqa: S608
    f"ON {schema.BELONG_TOGETHER} "
    "WHERE records.log_id IS NULL ORDER BY large_records.id"
)
_LARGE_RECORD: Final = "SELECT data FROM large_records WHERE id = ?"
# Page by page, without a look at a key.
_COUNT: Final = {
    "entries": "SELECT count(*) FROM entries NOT INDEXED",
    "records": "SELECT count(*) FROM records NOT INDEXED",
}

_COUNT_OF: Final = {
    "entries": f"{_COUNT['entries']} WHERE namespace_id = ?",
    "records": f"{_COUNT['records']} WHERE log_id = ?",
}

#: All that tells one content from another, without the values.
_SUMS: Final = (
    "SELECT id, name FROM namespaces ORDER BY id",
    "SELECT namespace_id, key, version, checksum FROM entries ORDER BY namespace_id, key",
    "SELECT id, name, first_offset FROM logs ORDER BY id",
    "SELECT log_id, offset, checksum FROM records ORDER BY log_id, offset",
)


def _file_told(number: int) -> str:
    return f"file {VALUES_NAME}/{file_name(number)}"


Rows: TypeAlias = Iterator[tuple[Any, ...]]


class SqliteSource:
    """The rows of one store, in one state."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self.path = path

    def pages(self) -> tuple[int, int]:
        """(pages, bytes of a page)."""
        with self._damage():
            (count,) = self.connection.execute("PRAGMA page_count").fetchone()
            (size,) = self.connection.execute("PRAGMA page_size").fetchone()
            return count, size

    def meta(self) -> tuple[Any, Any, Any] | None:
        """(generation, commit sequence, last version)."""
        with self._damage():
            found: tuple[Any, Any, Any] | None = self.connection.execute(
                schema.READ_META
            ).fetchone()
            return found

    def sums(self) -> Rows:
        """Every item by its names and numbers, with its checksum in the place of its value.

        Raises:
            DamagedRowsError: when it gets to a row that cannot be read.
        """
        for statement in _SUMS:
            yield from self._rows(statement)

    def check(self, *, full: bool) -> Iterator[Finding]:
        """What SQLite's own check says; nothing where it is content."""
        pragma = "integrity_check" if full else "quick_check"
        for (line,) in self._rows(f"PRAGMA {pragma}(1000)"):
            if line != "ok":
                yield Finding(FindingKind.STRUCTURE, "the file", str(line))

    def rows_in(self, table: str) -> int | None:
        """How many there are, also such as nothing leads to: a changed key parts its row, and those
        behind it, from whoever looks for theirs, and SQLite's quick check compares no keys."""
        count: int = self._one(_COUNT[table], ())
        return count

    def rows_found(self, table: str) -> int:
        """How many of them are found by their keys."""
        ids = {"entries": (_FIRST_NAMESPACE, _NEXT_NAMESPACE), "records": (_FIRST_LOG, _NEXT_LOG)}
        return sum(self._one(_COUNT_OF[table], (id,)) for id in self._distinct(*ids[table]))

    def namespaces(self) -> Iterator[tuple[Any, Any]]:
        """(id, name) of each."""
        for row in self._rows(_NAMESPACES):
            yield row[0], row[1]

    def namespaces_used(self) -> Iterator[tuple[Any, Any]]:
        """(id, name) of those that have entries; name None where the id is nobody's."""
        for id in self._distinct(_FIRST_NAMESPACE, _NEXT_NAMESPACE):
            yield id, self._one(_NAMESPACE_NAME, (id,))

    def name_of_namespace(self, id: Any) -> Any:
        return self._one(_NAMESPACE_NAME, (id,))

    def name_of_log(self, id: Any) -> Any:
        return self._one(_LOG_NAME, (id,))

    def namespace_id(self, name: bytes) -> Any:
        """As the writer and readers find it."""
        return self._one(schema.FIND_NAMESPACE, (name,))

    def entries(self, namespace_id: Any) -> Iterator[EntryRow]:
        """In the order of their keys.

        Raises:
            DamagedRowsError: when it gets to a row that cannot be read, or is out of order.
        """
        last: Any = _MARKER
        for row in self._rows(schema.ALL_ENTRIES, (namespace_id,)):
            if last is not _MARKER and not _sorts_before(last, row[0]):
                raise DamagedRowsError("the rows are not in the order of their keys")
            last = row[0]
            yield self._entry(namespace_id, row)

    def entries_with(self, namespace_id: Any, prefix: bytes) -> Iterator[EntryRow]:
        """Those whose keys start with ``prefix``."""
        for row in self._rows(schema.SCAN_ENTRIES_TO_END, (namespace_id, prefix)):
            if not isinstance(row[0], bytes) or not row[0].startswith(prefix):
                return
            yield self._entry(namespace_id, row)

    def entry(self, namespace_id: Any, key: bytes) -> EntryRow | None:
        for row in self._rows(schema.GET_ENTRY, (namespace_id, key)):
            # See `ReadSession._get`: it may be another key's.
            return self._entry(namespace_id, (key, *row[1:]))
        return None

    def _entry(self, namespace_id: Any, row: tuple[Any, ...]) -> EntryRow:
        key, version, expires_at, checksum, stored = row
        value = self._value(stored)
        return EntryRow(namespace_id, key, version, expires_at, checksum, value)

    def lost_values(self) -> Iterator[LargeValueRow]:
        """Large values that are no entry's."""
        for row in self._rows(_LOST_VALUES):
            yield LargeValueRow(*row)

    def large_value(self, id: Any) -> Any:
        return self._value(self._one(_LARGE_VALUE, (id,)))

    # --- values in files ---

    def _value(self, stored: Any) -> Any:
        """What a column has, or the file that it names: see `EntryRow.value`.

        Raises:
            StorageIOError: the system refuses to read it.
        """
        if not isinstance(stored, str) or (place := Place.parse(stored)) is None:
            return stored
        try:
            return read_value(self.path, place)
        except FileNotFoundError:
            return place
        except OSError as error:
            # Also where it is not ours to read: that is no damage, and it must not be repaired.
            file = directory_of(self.path) / file_name(place.number)
            raise told_as(error, file, "a value cannot be read") from error

    def files_listed(self) -> dict[int, bool]:
        """By the numbers of those that have a row: whether they are to be removed."""
        rows = self._rows(schema.VALUE_FILES)
        return {number: live == schema.EMPTIED for number, _, _, live in rows}

    def files_used(self) -> list[tuple[int, int]]:
        """(number, bytes) of the files that have a value."""
        rows = self._rows(schema.VALUE_FILES)
        return [
            (number, size)
            for number, size, _, live in rows
            if live != schema.EMPTIED and type(size) is int
        ]

    def files_counted(self) -> dict[int, tuple[int, int]]:
        """By the number of each file that a large value names: how many do, and where the last of
        them ends. That is what its row should say."""
        counted: dict[int, tuple[int, int]] = {}
        for (text,) in self._rows(schema.PLACES):
            if (place := Place.parse(text)) is not None:
                live, end = counted.get(place.number, (0, 0))
                counted[place.number] = live + 1, max(end, place.offset + place.length)
        return counted

    def value_files(self) -> Iterator[Finding]:
        """The rows of the files against the values, and against the directory."""
        counted = self.files_counted()
        rows = {number: (live, size) for number, size, _, live in self._rows(schema.VALUE_FILES)}
        for number in sorted(counted.keys() | rows.keys()):
            live, end = counted.get(number, (0, 0))
            told, size = rows.get(number, (0, 0))
            if (live or schema.EMPTIED) != told or type(size) is not int or end > size:
                message = f"{live} values name it, and its row says {told}"
                yield Finding(FindingKind.ENTRY, _file_told(number), message)
        for number in self.nobodys_files(rows, max(rows, default=-1)):
            yield Finding(FindingKind.LEFTOVER, _file_told(number), "no value names it")

    def nobodys_files(self, known: Collection[int], last: int) -> list[int]:
        """Of the files in the directory: those that are not ``known``, in order.

        Not those after the ``last`` that was committed: they may be of a group that is not yet;
        where it never is, the next opening removes them.
        """
        try:
            names = [path.name for path in directory_of(self.path).iterdir()]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise told_as(error, self.path, "the values cannot be listed") from error
        numbers = [number_of(name) for name in names]
        return sorted(
            one for one in numbers if one is not None and one <= last and one not in known
        )

    def logs(self) -> Iterator[LogRow]:
        for row in self._rows(_LOGS):
            yield LogRow(*row)

    def log_row(self, name: bytes) -> tuple[Any, Any] | None:
        """(id, first offset), as the writer and readers find it."""
        for id, first in self._rows(schema.FIND_LOG, (name,)):
            return id, first
        return None

    def has_log(self, id: Any) -> bool:
        """Whether a log has this number."""
        return self._one(_LOG_ID, (id,)) is not None

    def last_offset(self, log_id: Any) -> Any:
        """None where the log has no records."""
        return self._one(schema.LAST_OFFSET, (log_id,))

    def logs_used(self) -> Iterator[Any]:
        """The ids of logs that have records."""
        return self._distinct(_FIRST_LOG, _NEXT_LOG)

    def records(self, log_id: Any, start: int | None = None) -> Iterator[RecordRow]:
        """In order; from an offset on, or all, also those whose offset is no number.

        Raises:
            DamagedRowsError: as `entries`.
        """
        statement, parameters = (
            (_RECORDS, (log_id,)) if start is None else (_RECORDS_FROM, (log_id, start))
        )
        last: Any = _MARKER
        for row in self._rows(statement, parameters):
            if last is not _MARKER and not _sorts_before(last, row[0]):
                raise DamagedRowsError("the rows are not in the order of their offsets")
            last = row[0]
            yield RecordRow(log_id, *row)

    def lost_large_records(self) -> Iterator[LargeRecordRow]:
        """Data of large records that is no record's."""
        for (id,) in self._rows(_LOST_LARGE_RECORDS):
            yield LargeRecordRow(id, *owner(id))

    def large_record(self, id: Any) -> Any:
        return self._one(_LARGE_RECORD, (id,))

    # --- SQLite ---

    def _distinct(self, first: str, following: str) -> Iterator[Any]:
        id = self._one(first, ())
        while id is not None:
            yield id
            found = self._one(following, (id,))
            if found is not None and not _sorts_before(id, found):
                raise DamagedRowsError("the rows are not in order")
            id = found

    def _one(self, statement: str, parameters: tuple[Any, ...]) -> Any:
        for row in self._rows(statement, parameters):
            return row[0]
        return None

    def _rows(self, statement: str, parameters: tuple[Any, ...] = ()) -> Rows:
        # Around all of it: what whoever takes the rows raises does not come by here.
        with self._damage():
            rows = self.connection.execute(statement, parameters)
            try:
                yield from rows
            finally:
                rows.close()

    @contextmanager
    def _damage(self) -> Iterator[None]:
        """Tell what is damaged from what cannot be reached."""
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            if isinstance(error, sqlite3.Error) and not is_damage(error):
                raise translate(error, self.path) from error
            raise DamagedRowsError(f"SQLite cannot read it: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Also what SQLite calls a mistake in a statement: ours have none, so the schema has."""
    if is_corrupt(error):
        return True
    code = getattr(error, "sqlite_errorcode", None)
    if code is None:
        # Raised by Python's own module, of what SQLite has given it.
        return not is_transient(error)
    return code & 0xFF in (
        sqlite3.SQLITE_ERROR,
        sqlite3.SQLITE_FORMAT,
        sqlite3.SQLITE_MISMATCH,
        sqlite3.SQLITE_RANGE,
        sqlite3.SQLITE_SCHEMA,
        sqlite3.SQLITE_TOOBIG,
    )


_RANKS: Final[dict[type, int]] = {int: 1, float: 1, str: 2, bytes: 3}


def _sorts_before(one: Any, other: Any) -> bool:
    """As SQLite sorts: nothing, numbers, text, bytes."""
    if type(one) is bytes and type(other) is bytes:
        return one < other
    ranks = _RANKS.get(type(one), 0), _RANKS.get(type(other), 0)
    if ranks[0] != ranks[1]:
        return ranks[0] < ranks[1]
    if one is None:
        # No key is: it is damage, and no two of them have an order.
        return False
    if isinstance(one, str):
        # The text of a damaged row was decoded with marks for what is none: equal does no harm.
        return True
    return bool(one < other)

"""A reader's connection, read-only, used only on its own thread."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path
from typing import Any, TypeAlias

from mpreg.codec import checksum_entry, checksum_record, decode_key, shown_name
from mpreg.errors import CorruptDataError, StorageIOError
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    PAGE_ITEMS_MAX,
    READ_BYTES_MAX,
    FoundEntries,
    GetEntries,
    GetEntry,
    GetLogBounds,
    ListNamespaces,
    NamespaceExpiry,
    NamespacesPage,
    ReadFailure,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.backends.answers import answer_bytes
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import is_corrupt, translate
from mpreg.persistence.backends.sqlite.places import Place, file_name
from mpreg.persistence.backends.sqlite.tables import checked_bounds, is_intact
from mpreg.persistence.backends.sqlite.value_reading import ValueGoneError, ValueReader
from mpreg.persistence.backends.sqlite.write_session import SqliteOptions
from mpreg.persistence.commit_group import LogBounds
from mpreg.persistence.own_names import VALUES_NAME

__all__ = ["ReadSession"]

_Entries: TypeAlias = tuple[list[StoredEntry | ReadFailure | None], int]
"""For the first of some keys, and how many bytes their values have."""

_Answers: TypeAlias = tuple[Sequence[ReadResult | ReadFailure], int]
"""To the first of some queries, and how many bytes they hold."""


class ReadSession:
    """One incarnation of a reader's connection. Its transactions end with each call of `read`,
    so that no checkpoint ever waits for it."""

    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self.connection = connection
        self._path = path
        # Namespaces are never removed or renumbered, so what was found once holds.
        self._namespace_ids: dict[bytes, int] = {}
        self._values = ValueReader(path)

    @classmethod
    def open(cls, path: Path, options: SqliteOptions) -> ReadSession:
        """Connect to a database that the writer has open."""
        try:
            connection = sqlite3.connect(
                f"{path.absolute().as_uri()}?mode=ro",
                uri=True,
                isolation_level=None,
                check_same_thread=False,
            )
        except sqlite3.Error as error:
            raise translate(error, path) from error
        try:
            options.prepare(connection)
            for pragma in schema.READER_PRAGMAS:
                connection.execute(pragma)
        except sqlite3.Error as error:
            connection.close()
            raise translate(error, path) from error
        return cls(connection, path)

    def close(self) -> None:
        self.connection.close()

    def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        """See `StorageReader.read`."""
        try:
            return self._read_in_one_view(queries)
        except ValueGoneError:
            return self._read_again(queries)

    def _read_again(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        """At most once for each file: what is missing in two views is damage."""
        try:
            while True:
                with suppress(ValueGoneError):
                    return self._read_in_one_view(queries)
        finally:
            # The next call has views of its own.
            self._values = ValueReader(self._path)

    def _read_in_one_view(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | ReadFailure]:
        try:
            if len(queries) == 1 and _is_of_one_entry(queries[0]):
                # A single row is one state by itself.
                return [self._answer_or_error(queries[0])]
            self.connection.execute("BEGIN")
            try:
                return self._answer_some(queries)
            finally:
                # Nothing was written. A COMMIT would repeat the error of a damaged page.
                self.connection.execute("ROLLBACK")
        except sqlite3.Error as error:
            raise translate(error, self._path) from error

    def _answer_some(self, queries: Sequence[ReadQuery]) -> list[ReadResult | ReadFailure]:
        answers: list[ReadResult | ReadFailure] = []
        room = READ_BYTES_MAX
        while len(answers) < len(queries) and room > 0:
            some, size = self._answer_next(queries, len(answers), room)
            answers += some
            room -= size
        return answers

    def _answer_next(self, queries: Sequence[ReadQuery], start: int, room: int) -> _Answers:
        """One query; or several together, where they ask for single entries of one namespace."""
        query = queries[start]
        # Looking for a namespace may meet damage, which is told to each by itself.
        if isinstance(query, GetEntry) and query.namespace in self._namespace_ids:
            keys = _keys_together(query.namespace, queries, start)
            if len(keys) > 1:
                return self._get_together(query.namespace, keys, min(room, PAGE_BYTES_MAX))
        answer = self._answer_or_error(query)
        return [answer], answer_bytes(answer)

    def _answer_or_error(self, query: ReadQuery) -> ReadResult | ReadFailure:
        try:
            return self._answer(query)
        except (CorruptDataError, StorageIOError) as error:
            return error
        except OSError as error:
            # Of a file of values, and not of the connection: others can be read.
            failed = StorageIOError(f"a value cannot be read: {error.strerror}", self._path)
            failed.__cause__ = error
            return failed
        except sqlite3.Error as error:
            if not is_corrupt(error):
                raise
            damaged = translate(error, self._path)
            assert isinstance(damaged, CorruptDataError)
            damaged.__cause__ = error
            return damaged

    def _answer(self, query: ReadQuery) -> ReadResult:
        match query:
            case GetEntry():
                return self._get(query)
            case GetEntries():
                return self._get_many(query)
            case ScanEntries():
                return self._scan(query)
            case ReadRecords():
                return self._read_records(query)
            case GetLogBounds():
                found = self._find_log(query.log)
                return (0, 0) if found is None else found[1]
            case ListNamespaces():
                return self._list_namespaces(query)

    # --- entries ---

    def _namespace_id(self, namespace: bytes) -> int | None:
        if (known := self._namespace_ids.get(namespace)) is not None:
            return known
        found = self.connection.execute(schema.FIND_NAMESPACE, (namespace,)).fetchone()
        if found is None:
            return None
        self._namespace_ids[namespace] = found[0]
        return self._namespace_ids[namespace]

    def _list_namespaces(self, query: ListNamespaces) -> NamespacesPage:
        parameters = (query.after, query.start, PAGE_ITEMS_MAX + 1)
        rows = self.connection.execute(schema.LIST_NAMESPACES, parameters).fetchall()
        page = tuple(
            # What is damaged can come back as another type.
            NamespaceExpiry(name, expires_at if isinstance(expires_at, float) else None)
            for name, expires_at in rows[:PAGE_ITEMS_MAX]
        )
        return NamespacesPage(page, rows[-1][0] if len(rows) > PAGE_ITEMS_MAX else None)

    def _get(self, query: GetEntry) -> StoredEntry | None:
        namespace_id = self._namespace_id(query.namespace)
        if namespace_id is None:
            return None
        place = (namespace_id, query.key)
        row = self.connection.execute(schema.GET_SMALL_ENTRY, place).fetchone()
        if row is not None and type(row[-1]) is int:
            # All of it anew: what was found may have been overwritten since.
            row = self.connection.execute(schema.GET_ENTRY, place).fetchone()
        if row is None:
            return None
        # On a damaged page, SQLite's search can end at the row of another key, which is whole: its
        # checksum is held against the key that was asked for.
        entry = self._verified_entry(query.namespace, (query.key, *row[1:]))
        if isinstance(entry, CorruptDataError):
            raise entry
        return entry

    def _get_many(self, query: GetEntries) -> FoundEntries:
        found: list[StoredEntry | CorruptDataError | None] = []
        entries, _ = self._get_together(query.namespace, query.keys, PAGE_BYTES_MAX)
        for entry in entries:
            if isinstance(entry, StorageIOError):
                raise entry
            found.append(entry)
        return FoundEntries(tuple(found))

    def _get_together(self, namespace: bytes, keys: Sequence[bytes], room: int) -> _Entries:
        """Until there is no room for more, in bytes."""
        namespace_id = self._namespace_id(namespace)
        if namespace_id is None:
            return [None] * len(keys), 0
        found: list[StoredEntry | ReadFailure | None] = []
        size, seed = 0, zlib.crc32(namespace)
        while (left := len(keys) - len(found)) and size < room:
            count = next((one for one in schema.GET_ENTRIES if one <= left), 1)
            step = keys[len(found) : len(found) + count]
            some = None if count == 1 else self._get_intact(namespace_id, seed, step, room - size)
            entries, more = some or self._get_one_by_one(namespace, step, room - size)
            found += entries
            size += more
        return found, size

    def _get_intact(
        self, namespace_id: int, seed: int, keys: Sequence[bytes], room: int
    ) -> _Entries | None:
        """Until there is no room for more, in bytes. None where one of them is damaged, or stands
        in a file."""
        found: list[StoredEntry | ReadFailure | None] = []
        size, get = 0, schema.GET_ENTRIES[len(keys)]
        # For bytes, sqlite3 looks for an adapter each time, which takes as long as the row.
        parameters = (*map(bytearray, keys), namespace_id)
        try:
            with closing(self.connection.execute(get, parameters)) as rows:
                for key, (id, version, expires_at, checksum, value) in zip(keys, rows, strict=True):
                    if id is None:
                        found.append(None)
                        continue
                    if checksum_entry(seed, key, version, expires_at, value) != checksum:
                        return None
                    found.append(StoredEntry(key, version, expires_at, value))
                    size += len(value)
                    if size >= room:
                        break
        except (TypeError, ValueError, struct.error):
            # A damaged row can come back with a column of another type; a place is a text.
            return None
        except sqlite3.Error as error:
            if is_corrupt(error):
                return None
            raise
        return found, size

    def _get_one_by_one(self, namespace: bytes, keys: Sequence[bytes], room: int) -> _Entries:
        """The same, where what is damaged must not cost the others."""
        found: list[StoredEntry | ReadFailure | None] = []
        size = 0
        for key in keys:
            answer = self._answer_or_error(GetEntry(namespace, key))
            assert answer is None or isinstance(
                answer, StoredEntry | CorruptDataError | StorageIOError
            )
            found.append(answer)
            size += answer_bytes(answer)
            if size >= room:
                break
        return found, size

    def _scan(self, query: ScanEntries) -> ScanPage:
        namespace_id = self._namespace_id(query.namespace)
        if namespace_id is None:
            return ScanPage((), None)
        if query.stop is None:
            rows = self.connection.execute(schema.SCAN_ENTRIES_TO_END, (namespace_id, query.start))
        else:
            rows = self.connection.execute(
                schema.SCAN_ENTRIES, (namespace_id, query.start, query.stop)
            )
        page, following = _take_page(rows, value_column=4)
        entries = tuple(self._verified_entry(query.namespace, row) for row in page)
        return ScanPage(entries, None if following is None else following[0])

    def _verified_entry(
        self, namespace: bytes, row: tuple[Any, ...]
    ) -> StoredEntry | CorruptDataError:
        key, version, expires_at, checksum, stored = row
        value = self._value(stored)
        if is_intact(zlib.crc32(namespace), key, version, expires_at, value, checksum):
            return StoredEntry(key, version, expires_at, value)
        return self._damaged_entry(namespace, key, stored)

    def _value(self, stored: Any) -> Any:
        """What a column has, or the file that it names."""
        if not isinstance(stored, str) or (place := Place.parse(stored)) is None:
            return stored
        return self._values.read(place)

    def _damaged_entry(self, namespace: bytes, key: object, stored: object) -> CorruptDataError:
        place = Place.parse(stored) if isinstance(stored, str) else None
        # There a file that is missing, or that this user may not read, looks like damage.
        file = "" if place is None else f"; its value is in {VALUES_NAME}/{file_name(place.number)}"
        return CorruptDataError(
            f"the stored entry does not match its checksum{file}",
            path=self._path,
            where=f"namespace {shown_name(namespace)!r}, key {_shown(key)!r}",
        )

    # --- logs ---

    def _find_log(self, log: bytes) -> tuple[int, LogBounds] | None:
        found = self.connection.execute(schema.FIND_LOG, (log,)).fetchone()
        if found is None:
            return None
        id, first = found
        (last,) = self.connection.execute(schema.LAST_OFFSET, (id,)).fetchone()
        return id, checked_bounds(log, first, last, self._path)

    def _read_records(self, query: ReadRecords) -> RecordsPage:
        found = self._find_log(query.log)
        if found is None:
            return RecordsPage((), None)
        id, (first, next_offset) = found
        start = max(query.start, first)
        stop = next_offset if query.stop is None else min(query.stop, next_offset)
        rows = self.connection.execute(schema.READ_RECORDS, (id, start, stop))
        page, following = _take_page(rows, value_column=2)
        end = stop if following is None else following[0]
        records = tuple(self._verified_records(query.log, page, start, end))
        return RecordsPage(records, None if following is None else end)

    def _verified_records(
        self, log: bytes, rows: Sequence[tuple[Any, ...]], start: int, end: int
    ) -> Iterator[StoredRecord | CorruptDataError]:
        seed = zlib.crc32(log)
        expected_offset = start
        for offset, checksum, data in rows:
            if type(offset) is int:
                if offset != expected_offset:
                    yield self._missing_records(log, expected_offset, offset)
                expected_offset = offset + 1
            if _is_record(offset, data) and checksum == checksum_record(seed, offset, data):
                yield StoredRecord(offset, data)
            else:
                yield CorruptDataError(
                    "the stored record does not match its checksum",
                    path=self._path,
                    where=f"log {shown_name(log)!r}, offset {offset}",
                )
        if expected_offset < end:
            yield self._missing_records(log, expected_offset, end)

    def _missing_records(self, log: bytes, start: int, stop: int) -> CorruptDataError:
        return CorruptDataError(
            "records are missing between others",
            path=self._path,
            where=f"log {shown_name(log)!r}, offsets {start} to {stop - 1}",
        )


def _is_of_one_entry(query: ReadQuery) -> bool:
    return isinstance(query, GetEntry) or (isinstance(query, GetEntries) and len(query.keys) == 1)


def _keys_together(namespace: bytes, queries: Sequence[ReadQuery], start: int) -> list[bytes]:
    """Those of the queries from ``start`` on that ask for one entry of the same namespace."""
    keys: list[bytes] = []
    for query in islice(queries, start, None):
        if not isinstance(query, GetEntry) or query.namespace != namespace:
            break
        keys.append(query.key)
    return keys


def _is_record(offset: object, data: object) -> bool:
    return type(offset) is int and isinstance(data, bytes)


def _shown(key: object) -> object:
    """A key as its owner knows it; one that is none any more as it is stored."""
    try:
        return decode_key(key) if isinstance(key, bytes) else key
    except UnicodeDecodeError:
        return key


def _bytes_of(stored: object) -> int:
    if isinstance(stored, str):
        place = Place.parse(stored)
        return 0 if place is None else place.length
    return len(stored) if isinstance(stored, bytes) else 0


def _take_page(
    rows: sqlite3.Cursor, *, value_column: int
) -> tuple[list[tuple[Any, ...]], tuple[Any, ...] | None]:
    """As many rows as fit into a page, and the row after them if there is one."""
    page: list[tuple[Any, ...]] = []
    size = 0
    try:
        for row in rows:
            if page and (len(page) >= PAGE_ITEMS_MAX or size >= PAGE_BYTES_MAX):
                return page, row
            page.append(row)
            size += _bytes_of(row[value_column])
        return page, None
    finally:
        rows.close()

"""The tables as the writer sees them: what `plan_group` asks, and how a plan becomes rows."""

from __future__ import annotations

import sqlite3
import struct
import zlib
from collections import Counter
from collections.abc import Collection, Container, Iterable
from contextlib import closing
from pathlib import Path
from typing import Any, Final, TypeAlias

from attrs import define, field, frozen

from mpreg.codec import checksum_entry, checksum_record, shown_name
from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.large_records import (
    LARGE_RECORD_BYTES,
    ids_before,
    ids_of,
    large_record_id,
)
from mpreg.persistence.backends.sqlite.places import FILE_VALUE_BYTES, Place
from mpreg.persistence.backends.sqlite.schema import LARGE_VALUE_BYTES, MultiRow
from mpreg.persistence.backends.sqlite.value_files import ValueFiles
from mpreg.persistence.backends.sqlite.value_reading import read_value
from mpreg.persistence.commit_group import CommitPlan, Expired, LogBounds, NewEntry
from mpreg.persistence.operations import EntryKey

__all__ = ["Added", "Tables", "checked_bounds", "is_intact"]

BOUND_BYTES_MAX: Final = 4096
"""Up to here what is bound to a statement is given as a bytearray. Python's sqlite3 takes one as it
is; bytes, and None, it first offers to every adapter there could be, and that costs more than to
copy them, for a row of 100 bytes as much as half of what SQLite takes to write it."""

DAMAGED_VERSION: Final = -1
"""That of an entry whose stored one is no number: it is there, and matches no expected version."""


@frozen
class _Name:
    """A namespace or log as the tables know it."""

    id: int
    seed: int
    """CRC-32 of its name: where the checksums of its items start."""


_Large: TypeAlias = tuple[int | None, str | None]
"""(id, place in a file) of a large value; None where there is none."""


@define(eq=False)
class Added:
    """What a group changes of what is known. It counts only once the group is committed."""

    last_version: int
    namespaces: dict[bytes, _Name] = field(factory=dict)
    logs: dict[bytes, tuple[_Name, LogBounds]] = field(factory=dict)
    deleted_logs: Collection[bytes] = ()


class Tables:
    """The `StoredState` that `plan_group` asks, and the rows that its plan becomes.

    What it knows of the committed state it may remember, because nobody else writes.
    """

    def __init__(self, connection: sqlite3.Connection, path: Path, values: ValueFiles) -> None:
        self._connection = connection
        self._path = path
        self._values = values
        self._dropped: Counter[int] = Counter()
        """Values of the group's that files lose, by number."""
        self._last_version = 0
        self._namespaces: dict[bytes, _Name] = {}
        self._logs: dict[bytes, tuple[_Name, LogBounds]] = {}

    def committed(self, added: Added) -> None:
        """The transaction of `carry_out` has been committed."""
        self._last_version = added.last_version
        self._namespaces.update(added.namespaces)
        for log in added.deleted_logs:
            self._logs.pop(log, None)
        self._logs.update(added.logs)

    # --- carrying out a plan ---

    def carry_out(self, plan: CommitPlan) -> Added:
        """Write the rows. What it returns is known only if the transaction commits."""
        added = Added(plan.last_version)
        if plan.entries:
            self._dropped.clear()
            self._write_entries(plan.entries, added)
            self._values.record(self._dropped)
        if plan.records or plan.truncated or plan.deleted:
            self._write_logs(plan, added)
        return added

    def _write_entries(self, entries: dict[EntryKey, NewEntry | None], added: Added) -> None:
        name, last = None, b""
        puts: list[Any] = []
        lasting: list[Any] = []
        large: list[Any] = []
        deletes = []
        for (namespace, key), entry in entries.items():
            if name is None or namespace != last:
                name, last = self._name(namespace, added), namespace
            if entry is None:
                deletes.append((name.id, key))
            else:
                version, expires_at, value = entry
                checksum = checksum_entry(name.seed, key, version, expires_at, value)
                if len(value) > LARGE_VALUE_BYTES:
                    stored = self._stored(namespace, key, value)
                    large.append((name.id, key, version, expires_at, checksum, stored))
                    continue
                bound, held = bytearray(key), bytearray(value)
                if expires_at is None:
                    lasting += (name.id, bound, version, checksum, held)
                else:
                    puts += (name.id, bound, version, expires_at, checksum, held)
        self._put_small(puts, schema.PUT_SMALL_ENTRIES, schema.PUT_ENTRIES)
        self._put_small(lasting, schema.PUT_SMALL_LASTING_ENTRIES, schema.PUT_LASTING_ENTRIES)
        if large:
            self._put_large(large)
        if deletes:
            self._delete(deletes)

    def _name(self, namespace: bytes, added: Added) -> _Name:
        name = self._namespaces.get(namespace) or added.namespaces.get(namespace)
        if name is None:
            name = added.namespaces[namespace] = self._namespace(namespace)
        return name

    def _stored(self, namespace: bytes, key: bytes, value: bytes) -> bytes | str:
        """What a large value's row has of it."""
        if len(value) < FILE_VALUE_BYTES:
            return value
        return str(self._values.write(namespace, key, value))

    def _put_small(self, puts: list[Any], put: MultiRow, put_all: MultiRow) -> None:
        """``put`` leaves those as they are that have a large value, and ``put_all`` none."""
        columns = put.columns
        if columns * put.execute(self._connection, puts) < len(puts):
            self._drop_large(list(zip(puts[::columns], puts[1::columns], strict=True)))
            put_all.execute(self._connection, puts)

    def _put_large(self, rows: list[tuple[Any, ...]]) -> None:
        """What has a large value already keeps its row, which is mostly written over in place."""
        found = self._find_large([row[:2] for row in rows])
        # Its place is about to be written over.
        self._drop_places(found)
        (last,) = self._connection.execute(schema.LAST_LARGE_VALUE).fetchone()
        values: list[Any] = []
        puts: list[Any] = []
        for *row, value in rows:
            namespace_id, key, *_ = row
            id, _ = found.get((namespace_id, key), (None, None))
            if id is None:
                id = last = last + 1
            values += (id, namespace_id, key, value)
            puts += (*row, id)
        schema.PUT_LARGE_VALUES.execute(self._connection, values)
        schema.PUT_ENTRIES.execute(self._connection, puts)

    def _delete(self, keys: list[tuple[int, bytes]]) -> None:
        deleted = self._connection.executemany(schema.DELETE_SMALL_ENTRY, keys).rowcount
        if deleted < len(keys) and (left := self._drop_large(keys)):
            self._connection.executemany(schema.DELETE_ENTRY, left)

    def _drop_large(self, keys: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
        """Remove the large values that some of the entries have. Which of the entries there are."""
        found = self._find_large(keys)
        self._drop_places(found)
        ids = [(id,) for id, _ in found.values() if id is not None]
        self._connection.executemany(schema.DELETE_LARGE_VALUE, ids)
        return list(found)

    def _drop_places(self, found: dict[tuple[int, bytes], _Large]) -> None:
        for _, text in found.values():
            place = None if text is None else Place.parse(text)
            if place is not None:
                self._dropped[place.number] += 1

    def _find_large(self, keys: list[tuple[int, bytes]]) -> dict[tuple[int, bytes], _Large]:
        """Of those entries that there are: their large values, if they have one."""
        wanted = [part for key in keys for part in key]
        rows = schema.FIND_LARGE_VALUES.fetch(self._connection, wanted)
        return {(namespace_id, key): (id, place) for namespace_id, key, id, place in rows}

    def _namespace(self, name: bytes) -> _Name:
        found = self._connection.execute(schema.FIND_NAMESPACE, (name,)).fetchone()
        if found is None:
            found = self._connection.execute(schema.CREATE_NAMESPACE, (name,)).fetchone()
        return _Name(found[0], zlib.crc32(name))

    def _write_logs(self, plan: CommitPlan, added: Added) -> None:
        changed = added.logs
        added.deleted_logs = plan.deleted
        for log in plan.deleted:
            self._delete_log(log)
        for log in {log for log, _, _ in plan.records} | plan.truncated.keys():
            known = None if log in plan.deleted else self._logs.get(log)
            changed[log] = (self._log(log) if known is None else known[0], plan.logs[log])
        for log, first in plan.truncated.items():
            id = changed[log][0].id
            self._connection.execute(schema.SET_FIRST_OFFSET, (first, id))
            self._connection.execute(schema.DELETE_RECORDS, (id, first))
            self._delete_large_records(ids_before(id, first))
        self._append(plan.records, changed)

    def _append(
        self,
        records: Iterable[tuple[bytes, int, bytes]],
        logs: dict[bytes, tuple[_Name, LogBounds]],
    ) -> None:
        rows: list[Any] = []
        large: list[Any] = []
        for log, offset, data in records:
            name, (first, _) = logs[log]
            if offset >= first:
                checksum = checksum_record(name.seed, offset, data)
                stored: Any = bytearray(data) if len(data) <= BOUND_BYTES_MAX else data
                large_id = (
                    large_record_id(name.id, offset) if len(data) > LARGE_RECORD_BYTES else None
                )
                if large_id is not None:
                    large += (large_id, stored)
                    stored = large_id
                rows += (name.id, offset, checksum, stored)
        schema.APPEND_RECORDS.execute(self._connection, rows)
        schema.APPEND_LARGE_RECORDS.execute(self._connection, large)

    def _delete_log(self, log: bytes) -> None:
        for (id,) in self._connection.execute(schema.DELETE_LOG, (log,)).fetchall():
            self._connection.execute(schema.DELETE_LOG_RECORDS, (id,))
            self._delete_large_records(ids_of(id))

    def _delete_large_records(self, ids: tuple[int, int] | None) -> None:
        if ids is not None:
            self._connection.execute(schema.DELETE_LARGE_RECORDS, ids)

    def _log(self, log: bytes) -> _Name:
        found = self._connection.execute(schema.FIND_LOG, (log,)).fetchone()
        if found is None:
            found = self._connection.execute(schema.CREATE_LOG, (log,)).fetchone()
        return _Name(found[0], zlib.crc32(log))

    # --- what `plan_group` asks ---

    @property
    def last_version(self) -> int:
        return self._last_version

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        namespace, encoded = key
        name = self._namespaces.get(namespace) or self._stored_namespace(namespace)
        if name is None:
            return None
        found = self._connection.execute(schema.GET_ENTRY_VERSION, (name.id, encoded)).fetchone()
        if found is None:
            return None
        version, expires_at = found
        if type(version) is not int or not isinstance(expires_at, float | None):
            return DAMAGED_VERSION, None
        return version, expires_at

    def expired_entries(
        self, namespace: bytes, now: float, count: int, *, without: Container[EntryKey]
    ) -> list[Expired]:
        name = self._namespaces.get(namespace) or self._stored_namespace(namespace)
        if name is None:
            return []
        found: list[Expired] = []
        # A statement that is not closed would keep the WAL in use after the transaction.
        with closing(self._connection.execute(schema.EXPIRED_ENTRIES, (name.id, now))) as rows:
            for expires_at, key, version, checksum, value in rows:
                if (namespace, key) not in without and is_intact(
                    name.seed, key, version, expires_at, self._read(value), checksum
                ):
                    found.append((expires_at, key))
                    if len(found) >= count:
                        break
        return found

    def _read(self, value: object) -> object:
        """A stored value; None where it stands in a file that cannot be read."""
        if not isinstance(value, str) or (place := Place.parse(value)) is None:
            return value
        try:
            return read_value(self._path, place)
        except OSError:
            # Whatever it is, it is no failure of what is being written.
            return None

    def _stored_namespace(self, namespace: bytes) -> _Name | None:
        found = self._connection.execute(schema.FIND_NAMESPACE, (namespace,)).fetchone()
        if found is None:
            return None
        # Stored, so committed: to be remembered whatever becomes of this group.
        name = self._namespaces[namespace] = _Name(found[0], zlib.crc32(namespace))
        return name

    def log_bounds(self, log: bytes) -> LogBounds:
        if log in self._logs:
            return self._logs[log][1]
        found = self._connection.execute(schema.FIND_LOG, (log,)).fetchone()
        if found is None:
            return (0, 0)
        id, first = found
        (last,) = self._connection.execute(schema.LAST_OFFSET, (id,)).fetchone()
        bounds = checked_bounds(log, first, last, self._path)
        self._logs[log] = (_Name(id, zlib.crc32(log)), bounds)
        return bounds


def is_intact(
    name_seed: int, key: Any, version: Any, expires_at: Any, value: Any, checksum: object
) -> bool:
    """Whether a stored entry matches its checksum."""
    try:
        return checksum_entry(name_seed, key, version, expires_at, value) == checksum
    except (TypeError, ValueError, struct.error):
        # A damaged row can come back with a column of another type.
        return False


def checked_bounds(log: bytes, first: object, last: object, path: Path) -> LogBounds:
    """A log's bounds from its first offset and the last one that is stored, if any is."""
    if type(first) is not int or not (last is None or type(last) is int):
        raise CorruptDataError(
            "the stored offsets are damaged", path, where=f"log {shown_name(log)!r}"
        )
    return (first, first if last is None else max(first, last + 1))

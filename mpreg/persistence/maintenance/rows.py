"""The items of a store as it has them on disk, and where they come from."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

from attrs import frozen

from mpreg.persistence.maintenance.findings import Finding

__all__ = [
    "DamagedRowsError",
    "EntryRow",
    "LargeRecordRow",
    "LargeValueRow",
    "LogRow",
    "NewEntryRow",
    "RecordRow",
    "Source",
]


@frozen
class EntryRow:
    """A row of ``entries``; after damage its columns may hold anything."""

    namespace_id: Any
    key: Any
    version: Any
    expires_at: Any
    checksum: Any
    value: Any
    """A number where it is the id of a large value that is missing; a `Place` where the file that
    it stands in is."""


@frozen
class LargeValueRow:
    """A row of ``large_values`` without its value."""

    id: Any
    namespace_id: Any
    key: Any


@frozen
class NewEntryRow:
    """An entry that a repair writes."""

    namespace_id: Any
    name: bytes
    key: bytes
    value: bytes


@frozen
class LogRow:
    id: Any
    name: Any
    first_offset: Any


@frozen
class RecordRow:
    log_id: Any
    offset: Any
    checksum: Any
    data: Any
    """A number where it is the id of a large record whose data is missing."""


@frozen
class LargeRecordRow:
    """A row of ``large_records`` without its data: the record that its id was made of."""

    id: Any
    log_id: Any
    offset: Any


class DamagedRowsError(Exception):
    """SQLite could not go on reading a table. Only this package ever sees it."""


class Source(Protocol):
    """All items of one store, in one state. See `SqliteSource` for what the methods are."""

    path: Path

    def pages(self) -> tuple[int, int]: ...
    def meta(self) -> tuple[Any, Any, Any] | None: ...
    def check(self, *, full: bool) -> Iterator[Finding]: ...
    def namespaces(self) -> Iterator[tuple[Any, Any]]: ...
    def namespaces_used(self) -> Iterator[tuple[Any, Any]]: ...
    def namespace_id(self, name: bytes) -> Any: ...
    def entries(self, namespace_id: Any) -> Iterator[EntryRow]: ...
    def entries_with(self, namespace_id: Any, prefix: bytes) -> Iterator[EntryRow]: ...
    def entry(self, namespace_id: Any, key: bytes) -> EntryRow | None: ...
    def lost_values(self) -> Iterator[LargeValueRow]: ...
    def value_files(self) -> Iterator[Finding]: ...
    def name_of_namespace(self, id: Any) -> Any: ...
    def name_of_log(self, id: Any) -> Any: ...
    def logs(self) -> Iterator[LogRow]: ...
    def log_row(self, name: bytes) -> tuple[Any, Any] | None: ...
    def has_log(self, id: Any) -> bool: ...
    def last_offset(self, log_id: Any) -> Any: ...
    def logs_used(self) -> Iterator[Any]: ...
    def records(self, log_id: Any, start: int | None = None) -> Iterator[RecordRow]: ...
    def lost_large_records(self) -> Iterator[LargeRecordRow]: ...
    def rows_in(self, table: str) -> int | None: ...
    def rows_found(self, table: str) -> int | None: ...

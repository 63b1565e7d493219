"""The items of a journal as rows, so that they are examined and exported as those of a database."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any

from mpreg.codec import checksum_entry, checksum_record
from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.file.following import ReadOnlyFiles, read_journal
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.maintenance.findings import Finding
from mpreg.persistence.maintenance.journal.salvage import salvage
from mpreg.persistence.maintenance.rows import (
    EntryRow,
    LargeRecordRow,
    LargeValueRow,
    LogRow,
    RecordRow,
)
from mpreg.persistence.maintenance.worker import Control
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["JournalSource", "WatchedFiles", "open_damaged_journal", "open_journal_source"]


class WatchedFiles(ReadOnlyFiles):
    """Stops where nobody waits any more, and says how far it is."""

    def __init__(self, control: Control) -> None:
        self._control = control
        self._done = 0

    def read(self, file: int, count: int, offset: int) -> bytes:
        data = super().read(file, count, offset)
        self._done += len(data)
        self._control.step("reading bytes", self._done)
        return data


class JournalSource:
    """A `Source`. Names stand for the numbers that a database has for them; what the frames' own
    checksums vouched for has those of rows computed."""

    def __init__(
        self,
        path: Path,
        state: MemoryState,
        numbers: tuple[int, int],
        findings: list[Finding] | None = None,
    ) -> None:
        """``numbers``: generation and commit sequence."""
        self.path = path
        self.state = state
        self._numbers = numbers
        self._findings = findings or []

    def pages(self) -> tuple[int, int]:
        return self.state.live_bytes, 1

    def meta(self) -> tuple[Any, Any, Any] | None:
        return (*self._numbers, self.state.last_version)

    def check(self, *, full: bool) -> Iterator[Finding]:
        return iter(self._findings)

    # --- entries ---

    def namespaces(self) -> Iterator[tuple[Any, Any]]:
        return ((name, name) for name in self.state.namespaces())

    def namespaces_used(self) -> Iterator[tuple[Any, Any]]:
        return self.namespaces()

    def namespace_id(self, name: bytes) -> Any:
        return name

    def entries(self, namespace_id: Any) -> Iterator[EntryRow]:
        return self._from_key(namespace_id, b"")

    def entries_with(self, namespace_id: Any, prefix: bytes) -> Iterator[EntryRow]:
        rows = self._from_key(namespace_id, prefix)
        return takewhile(lambda row: row.key.startswith(prefix), rows)

    def entry(self, namespace_id: Any, key: bytes) -> EntryRow | None:
        row = next(self._from_key(namespace_id, key), None)
        return row if row is not None and row.key == key else None

    def lost_values(self) -> Iterator[LargeValueRow]:
        """A journal keeps a value where its entry is."""
        return iter(())

    def value_files(self) -> Iterator[Finding]:
        return iter(())

    def name_of_namespace(self, id: Any) -> Any:
        return id

    def name_of_log(self, id: Any) -> Any:
        return id

    def _from_key(self, namespace: bytes, start: bytes) -> Iterator[EntryRow]:
        seed = zlib.crc32(namespace)
        for key, version, expires_at, value in self.state.entries(namespace, start):
            checksum = checksum_entry(seed, key, version, expires_at, value)
            yield EntryRow(namespace, key, version, expires_at, checksum, value)

    # --- logs ---

    def logs(self) -> Iterator[LogRow]:
        for name in self.state.logs():
            yield LogRow(name, name, self.state.log_bounds(name)[0])

    def log_row(self, name: bytes) -> tuple[Any, Any] | None:
        return name, self.state.log_bounds(name)[0]

    def has_log(self, id: Any) -> bool:
        return True

    def last_offset(self, log_id: Any) -> Any:
        first, following = self.state.log_bounds(log_id)
        return following - 1 if following > first else None

    def logs_used(self) -> Iterator[Any]:
        return iter(self.state.logs())

    def records(self, log_id: Any, start: int | None = None) -> Iterator[RecordRow]:
        seed = zlib.crc32(log_id)
        for offset, data in self.state.records(log_id):
            if start is None or offset >= start:
                yield RecordRow(log_id, offset, checksum_record(seed, offset, data), data)

    def lost_large_records(self) -> Iterator[LargeRecordRow]:
        """A journal keeps all of a record in one place."""
        return iter(())

    def rows_in(self, table: str) -> None:
        """Nothing in memory is out of order."""

    def rows_found(self, table: str) -> None:
        """As `rows_in`."""


def open_journal_source(directory: Path, control: Control) -> JournalSource:
    """One state of a journal, also beside a process that writes it.

    Raises:
        CorruptDataError: damaged, with file and byte.
        SchemaVersionError, ForeignDatabaseError, StorageIOError: it cannot be read.
    """
    loaded = read_journal(directory, WatchedFiles(control))
    if loaded.lost is not None:
        raise loaded.lost
    numbers = (loaded.generation, loaded.sequence)
    return JournalSource(directory / JOURNAL_NAME, loaded.state, numbers)


def open_damaged_journal(directory: Path, control: Control) -> JournalSource:
    """As `open_journal_source`, and what can be read where it is damaged."""
    try:
        return open_journal_source(directory, control)
    except CorruptDataError:
        found = salvage(WatchedFiles(control), directory)
    numbers = (found.generation, found.sequence)
    return JournalSource(directory / JOURNAL_NAME, found.state, numbers, found.findings)

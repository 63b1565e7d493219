"""Setting damaged items aside, so that the rest of a store is whole. Nothing is thrown away.

First everything that is to go is written to a new file in ``quarantine/``, as it is on disk, and
synced with the names above it. Only then are the rows removed, in one transaction. Killed between
the two, the items are in both places, and the next repair sets them aside once more.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator
from contextlib import closing, suppress
from os import PathLike
from pathlib import Path
from typing import Any, Final

import msgspec
from attrs import define, field, frozen

from mpreg.codec import checksum_entry
from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.failures import translate
from mpreg.persistence.backends.sqlite.places import Place
from mpreg.persistence.backends.sqlite.wal_match import match_log
from mpreg.persistence.data_directory import sync_directory
from mpreg.persistence.maintenance.acked import read_acked, unaccounted
from mpreg.persistence.maintenance.checks import check_entry, check_name, check_record
from mpreg.persistence.maintenance.findings import FindingKind, VerificationReport
from mpreg.persistence.maintenance.indexes import is_of_an_index, mend_expiries, mend_names
from mpreg.persistence.maintenance.journal.repair import repair_journal
from mpreg.persistence.maintenance.opening import open_source, store_in
from mpreg.persistence.maintenance.quarantine import Quarantine, read_set_aside
from mpreg.persistence.maintenance.restore import held_place
from mpreg.persistence.maintenance.rows import (
    DamagedRowsError,
    EntryRow,
    LargeRecordRow,
    LargeValueRow,
    LogRow,
    NewEntryRow,
    RecordRow,
    Source,
)
from mpreg.persistence.maintenance.snapshots import (
    SnapshotCheck,
    find_entries,
)
from mpreg.persistence.maintenance.source import SqliteSource
from mpreg.persistence.maintenance.staging import file_errors
from mpreg.persistence.maintenance.value_repair import (
    count_anew,
    file_items,
    is_of_a_file,
    nobodys_files,
    remove_files,
)
from mpreg.persistence.maintenance.verify import examine_database, examine_journal
from mpreg.persistence.maintenance.worker import Control, run_stoppable
from mpreg.persistence.own_names import ACKED_NAME
from mpreg.persistence.snapshots import is_snapshot_namespace
from mpreg.persistence.snapshots.layout import VERSION, VERSIONS_KEY, chunk_place, numbered_key
from mpreg.progress import OnProgress

__all__ = ["repair"]

#: Of a damaged file `ACKED`: more than it ever has.
ACKED_BYTES: Final = 64 << 10

_DELETE_ENTRY: Final = "DELETE FROM entries WHERE namespace_id IS ? AND key IS ?"
_DELETE_RECORD: Final = "DELETE FROM records WHERE log_id IS ? AND offset IS ?"
_DELETE_LOST_VALUE: Final = "DELETE FROM large_values WHERE id IS ? AND namespace_id IS ?"
_DELETE_LOST_LARGE_RECORD: Final = "DELETE FROM large_records WHERE id IS ?"
#: What belongs to an item goes before it, as long as the item tells what that is.
_DELETE_ITS_DATA: Final = {
    _DELETE_ENTRY: (
        "DELETE FROM large_values WHERE id = (SELECT large_values.id "  # noqa: S608
        f"FROM entries {schema.JOIN_LARGE} "
        "WHERE entries.namespace_id IS ? AND entries.key IS ?)"
    ),
    _DELETE_RECORD: (
        "DELETE FROM large_records WHERE id = (SELECT large_records.id "  # noqa: S608
        f"FROM records {schema.JOIN_LARGE_RECORDS} WHERE log_id IS ? AND offset IS ?)"
    ),
}
_INSERT_ENTRY: Final = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?)"
_NEXT_VERSION: Final = (
    "UPDATE meta SET last_version = last_version + 1 WHERE id = 1 RETURNING last_version"
)


async def repair(
    data_dir: str | PathLike[str], *, full: bool = False, on_progress: OnProgress | None = None
) -> VerificationReport:
    """Put damaged entries, records and snapshots into quarantine; report what is there afterwards.

    ``mended`` of the report is what was damaged before and is no more: with it what is lost, as far
    as that can be known.

    Only for a store that nobody has open. A snapshot of which a part is lost goes as a whole. Of a
    value whose file is missing the place is kept. A file of values that no value names is set aside
    as bytes. The offset of a record that was set aside stays without one, and is told by `verify`
    as a notice.

    An index that differs from its table is made anew: that of the names of namespaces and logs,
    and, where ``full`` has SQLite compare them as in `verify`, that of the entries that expire. A
    name that was changed is put right where an item is there whose checksum tells which it is.

    Left as it is, and still in the report: what is missing and cannot be set aside, a log's last
    record (without it the offset would be given again: append to the log, then repair), and damaged
    names, offsets and numbers of the store itself, for which there is only a backup.

    A journal is written anew from all whole frames. Damaged bytes go into quarantine as bytes. What
    a lost commit has changed stays as it was before; a log that lost records keeps those after the
    gap, and those before it go into quarantine. A file ``ACKED`` of which nothing can be read goes
    there as well; acknowledged commits that are missing stay told.

    Cancelled, or killed: every item is in the store or in quarantine, perhaps in both.

    Raises:
        DataDirectoryLockedError: a process has it open.
        CorruptDataError: SQLite's own structure is damaged, or its WAL is of another time, or
            nothing tells which of two names is right; nothing was changed.
        DataDirectoryError, StorageFullError, StorageIOError: nothing was removed.
    """
    directory = Path(data_dir)

    def work(control: Control) -> VerificationReport:
        store_in(directory)
        with held_place(directory.absolute()), file_errors(directory):
            acked = read_acked(directory)
            report = _repair(directory, control, full=full)
            if acked.is_damaged:
                damage = unaccounted(acked, report.generation, report.commit_sequence)
                _set_acked_aside(directory)
                acked = read_acked(directory)
                report = report.with_mended(damage)
            lost = unaccounted(acked, report.generation, report.commit_sequence)
            return report.with_damage(lost)

    return await run_stoppable(work, on_progress)


def _set_acked_aside(data_dir: Path) -> None:
    """Account is kept anew from the next opening on."""
    path = data_dir / ACKED_NAME
    data = path.read_bytes()[:ACKED_BYTES]
    with Quarantine(data_dir) as quarantine:
        quarantine.write({"kind": "bytes", "file": ACKED_NAME, "offset": 0, "data": data})
        quarantine.sync()
    path.unlink()
    sync_directory(data_dir)


def _repair(data_dir: Path, control: Control, *, full: bool) -> VerificationReport:
    store = store_in(data_dir)
    if store.backend == "file":
        return _repair_journal(data_dir, control, full=full)
    path = store.path
    _refuse_another_log(path, control)
    # Before anything is judged by its name.
    names = mend_names(path, control)
    before = examine_database(path, control, full=full, set_aside=read_set_aside(data_dir))
    for finding in before.findings:
        if finding.kind is FindingKind.STRUCTURE and not is_of_an_index(finding):
            raise CorruptDataError(
                f"{finding.message}; nothing was changed: rows cannot be removed from a file whose "
                "structure is damaged, restore a backup",
                path,
                finding.where,
            )
    if before.sound and not any(is_of_a_file(finding) for finding in before.findings):
        return before.with_mended(names)
    # Before anything is removed from an index that does not have it.
    mend_expiries(path, before.findings)
    with _Rows(data_dir) as quarantine:
        with open_source(path, control) as source:
            for row in _damaged_rows(source):
                control.step("setting aside", len(quarantine.rows))
                quarantine.add(row, source)
            for lost in source.lost_values():
                control.step("setting aside", len(quarantine.rows))
                quarantine.add_lost_value(lost, source)
            for data in source.lost_large_records():
                control.step("setting aside", len(quarantine.rows))
                quarantine.add_lost_large_record(data, source)
            written = list(_lists_anew(source))
            files = nobodys_files(source)
            for number in files:
                control.step("setting aside", len(quarantine.rows))
                for item in file_items(path, number):
                    quarantine.write(item)
        quarantine.sync()
        _change(path, quarantine.rows, written)
        remove_files(path, files)
    after = examine_database(path, control, full=full, set_aside=read_set_aside(data_dir))
    return after.with_mended([*names, *before.findings])


def _refuse_another_log(path: Path, control: Control) -> None:
    """What is written would make one of the two. `open_source` does not ask while a process holds
    the directory, and here this one does."""
    check_end, meta = match_log(path), None
    # What is damaged is told by who examines it.
    with suppress(CorruptDataError, DamagedRowsError), open_source(path, control) as source:
        meta = source.meta()
    if meta is not None and type(meta[1]) is int:
        check_end(meta[1])


def _repair_journal(data_dir: Path, control: Control, *, full: bool) -> VerificationReport:
    before = examine_journal(data_dir, control, full=full, set_aside=read_set_aside(data_dir))
    if before.sound:
        return before
    with Quarantine(data_dir) as quarantine:
        repair_journal(
            data_dir, control, _damaged_rows, _lists_anew, quarantine.write, quarantine.sync
        )
    after = examine_journal(data_dir, control, full=full, set_aside=read_set_aside(data_dir))
    return after.with_mended(before.findings)


# --- what is to go ---


def _damaged_rows(source: Source) -> Iterator[EntryRow | RecordRow]:
    for id, name in source.namespaces_used():
        if name is None or check_name(FindingKind.NAMESPACE, name) is None:
            yield from _damaged_entries(source, id, name)
    for log in source.logs():
        if check_name(FindingKind.LOG, log.name) is None and type(log.first_offset) is int:
            yield from _damaged_records(source, log)
    for id in source.logs_used():
        if not source.has_log(id):
            yield from source.records(id)


def _damaged_entries(source: Source, id: Any, name: bytes | None) -> Iterator[EntryRow]:
    lost = _Lost()
    if name and is_snapshot_namespace(name):
        lost = _lost_versions(_checked_snapshot(source, id, name))
    for row in source.entries(id):
        if lost.has(row.key) or check_entry(name, row) is not None:
            yield row


def _lists_anew(source: Source) -> Iterator[NewEntryRow]:
    """Lists of versions in the place of those that are damaged, or name versions that are lost."""
    for id, name in source.namespaces_used():
        if name and is_snapshot_namespace(name):
            anew = _checked_snapshot(source, id, name).list_anew()
            if anew is not None:
                yield NewEntryRow(id, name, VERSIONS_KEY, msgspec.msgpack.encode(anew))


@frozen
class _Lost:
    """The entries of versions of a snapshot that cannot be loaded."""

    keys: frozenset[bytes] = frozenset()
    saves: frozenset[int] = frozenset()

    def has(self, key: object) -> bool:
        place = chunk_place(key)
        return key in self.keys if place is None else place[0] in self.saves


def _checked_snapshot(source: Source, id: Any, name: bytes) -> SnapshotCheck:
    check = SnapshotCheck(name, find_entries(source, id, name))
    for row in source.entries(id):
        for _ in check.follow(row.key, row.value, intact=check_entry(name, row) is None):
            pass
    for _ in check.finish():
        pass
    return check


def _lost_versions(check: SnapshotCheck) -> _Lost:
    keys = {row.key for row in check.found.damaged}
    keys |= {numbered_key(VERSION, kept.number) for kept in check.broken}
    if check.broken or any(True for _ in check.listed()):
        keys.add(VERSIONS_KEY)
    return _Lost(frozenset(keys), frozenset(kept.manifest.save for kept in check.broken))


def _damaged_records(source: Source, log: LogRow) -> Iterator[RecordRow]:
    last = source.last_offset(log.id)
    for row in source.records(log.id):
        below = type(row.offset) is int and row.offset < log.first_offset
        if below or (row.offset != last and check_record(log.name, row) is not None):
            yield row


# --- where it goes ---


@define
class _Rows(Quarantine):
    """What goes from a database into quarantine, and how it is removed afterwards."""

    rows: list[tuple[str, tuple[Any, ...]]] = field(factory=list)
    """(statement, its parameters), of all that was written."""

    def add(self, row: EntryRow | RecordRow, source: SqliteSource) -> None:
        if isinstance(row, EntryRow):
            item = _entry_item(row, source)
            self.rows.append((_DELETE_ENTRY, (row.namespace_id, row.key)))
        else:
            item = _record_item(row, source)
            self.rows.append((_DELETE_RECORD, (row.log_id, row.offset)))
        self.write(item)

    def add_lost_value(self, row: LargeValueRow, source: SqliteSource) -> None:
        self.rows.append((_DELETE_LOST_VALUE, (row.id, row.namespace_id)))
        self.write(_lost_value_item(row, source))

    def add_lost_large_record(self, row: LargeRecordRow, source: SqliteSource) -> None:
        self.rows.append((_DELETE_LOST_LARGE_RECORD, (row.id,)))
        # Nothing vouches for it any more.
        found = RecordRow(row.log_id, row.offset, None, source.large_record(row.id))
        self.write(_record_item(found, source))


def _entry_item(row: EntryRow, source: SqliteSource) -> dict[str, Any]:
    return {
        "kind": "entry",
        "namespace_id": row.namespace_id,
        "namespace_name": source.name_of_namespace(row.namespace_id),
        "key": row.key,
        "version": row.version,
        "expires_at": row.expires_at,
        "checksum": row.checksum,
        "value": str(row.value) if isinstance(row.value, Place) else row.value,
    }


def _lost_value_item(row: LargeValueRow, source: SqliteSource) -> dict[str, Any]:
    return {
        "kind": "large value",
        "id": row.id,
        "namespace_id": row.namespace_id,
        "namespace_name": source.name_of_namespace(row.namespace_id),
        "key": row.key,
        "value": source.large_value(row.id),
    }


def _record_item(row: RecordRow, source: SqliteSource) -> dict[str, Any]:
    return {
        "kind": "record",
        "log_id": row.log_id,
        "log_name": source.name_of_log(row.log_id),
        "offset": row.offset,
        "checksum": row.checksum,
        "data": row.data,
    }


def _change(
    path: Path, rows: list[tuple[str, tuple[Any, ...]]], written: list[NewEntryRow]
) -> None:
    """In one transaction. The lock on the directory says that nobody else writes."""
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("BEGIN IMMEDIATE")
            for statement, parameters in rows:
                if (of_item := _DELETE_ITS_DATA.get(statement)) is not None:
                    connection.execute(of_item, parameters)
                if connection.execute(statement, parameters).rowcount != 1:
                    connection.execute("ROLLBACK")
                    # Nobody else writes, and SQLite's quick check does not see that.
                    raise CorruptDataError(
                        "a row that is there is not found by its key, so that rows are out of "
                        "order; nothing was removed: restore a backup",
                        path,
                    )
            for row in written:
                (version,) = connection.execute(_NEXT_VERSION).fetchone()
                checksum = checksum_entry(zlib.crc32(row.name), row.key, version, None, row.value)
                values = (row.namespace_id, row.key, version, None, checksum, row.value)
                connection.execute(_INSERT_ENTRY, values)
            count_anew(connection)
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translate(error, path) from error

"""A store as JSON Lines, read in one transaction, one item in memory at a time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from os import PathLike
from pathlib import Path
from typing import Any, TypeAlias

from attrs import define, field, frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.maintenance.checks import (
    check_entry,
    check_large_record,
    check_large_value,
    check_meta,
    check_order,
    check_record,
    gap_in,
    shown_name,
)
from mpreg.persistence.maintenance.findings import FINDINGS_KEPT_MAX, Finding, FindingKind
from mpreg.persistence.maintenance.journal.source import open_journal_source
from mpreg.persistence.maintenance.lines import (
    FORMAT_VERSION,
    dump_line,
    encode_data,
    encode_store_name,
    encode_stored_key,
)
from mpreg.persistence.maintenance.naming import check_log, check_namespace, lost_records
from mpreg.persistence.maintenance.opening import open_source, store_in
from mpreg.persistence.maintenance.rows import DamagedRowsError, EntryRow, LogRow, Source
from mpreg.persistence.maintenance.snapshots import (
    KeptVersion,
    find_entries,
    read_versions,
)
from mpreg.persistence.maintenance.staging import file_errors
from mpreg.persistence.maintenance.worker import Control, run_stoppable
from mpreg.persistence.snapshots import is_snapshot_namespace
from mpreg.persistence.snapshots.layout import VersionList, chunk_key
from mpreg.progress import OnProgress

__all__ = ["ExportReport", "export_lines"]

LINES_PER_STEP = 256

Write: TypeAlias = Callable[[bytes], object]


@frozen(kw_only=True)
class ExportReport:
    """What was exported."""

    lines: int
    entries: int
    records: int
    snapshots: int
    commit_sequence: int
    """Of the state that was exported."""
    missing: int = 0
    """Records that are missing from their logs; only with ``allow_gaps``."""
    gaps: tuple[Finding, ...] = ()
    """Where, at most 10,000 of them."""

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "lines": self.lines,
            "entries": self.entries,
            "records": self.records,
            "snapshots": self.snapshots,
            "commit_sequence": self.commit_sequence,
            "missing": self.missing,
            "gaps": [finding.as_mapping() for finding in self.gaps],
        }


async def export_lines(
    data_dir: str | PathLike[str],
    write: Write,
    *,
    allow_gaps: bool = False,
    on_progress: OnProgress | None = None,
) -> ExportReport:
    """Give every line of an export to ``write``, with its line end.

    ``write`` is called on a worker thread, once for each line, in order. All lines are one state,
    also beside a server that goes on writing; its WAL grows meanwhile. Queues are in it, and
    entries that have expired and were not removed yet. Snapshots go as what they are, not as the
    entries that they are kept in; saves under way are left out.

    ``allow_gaps``: also where records are missing from logs, since a repair has set them aside, or
    for no reason that is known. Each gap is a line of the export, and told in the report.

    Cancelled, or failed: what was written has no line of type ``end``, and cannot be imported.

    Raises:
        CorruptDataError: something is damaged; ``where`` names it. Repair the store first. Or
            records are missing from a log, and that was not allowed.
        DataDirectoryError, ForeignDatabaseError, SchemaVersionError, StorageIOError: as `verify`.
        StorageFullError: there is no room for what ``write`` writes.
    """
    directory = Path(data_dir)

    def work(control: Control) -> ExportReport:
        with _opened(directory, control) as source, file_errors(Path("the export")):
            return _Export(source, control, write, allow_gaps).run()

    return await run_stoppable(work, on_progress)


def _opened(directory: Path, control: Control) -> AbstractContextManager[Source]:
    store = store_in(directory)
    if store.backend == "file":
        return nullcontext(open_journal_source(directory, control))
    return open_source(store.path, control)


@define
class _Export:
    source: Source
    control: Control
    write: Write
    allow_gaps: bool
    _lines: int = 0
    _entries: int = 0
    _records: int = 0
    _snapshots: int = 0
    _missing: int = 0
    _gaps: list[Finding] = field(factory=list)
    _highest_version: int = 0
    _digest: hashlib._Hash = field(factory=hashlib.sha256)

    def run(self) -> ExportReport:
        try:
            return self._run()
        except DamagedRowsError as damage:
            raise CorruptDataError(f"{damage}; the export is not complete", self.source.path) from (
                damage
            )

    def _run(self) -> ExportReport:
        meta = self.source.meta()
        for finding in check_meta(meta, highest_version=0, items=0):
            self._check(finding)
        assert meta is not None
        generation, sequence, last_version = meta
        self._check_names()
        self._line(
            type="mpreg-export",
            format_version=FORMAT_VERSION,
            generation=generation,
            commit_sequence=sequence,
            last_version=last_version,
        )
        for id, name in self.source.namespaces_used():
            self._namespace(id, name)
        for log in self.source.logs():
            self._log(log)
        items = self._entries + self._records + self._snapshots
        for finding in check_meta(meta, highest_version=self._highest_version, items=items):
            self._check(finding)
        self._line(type="end", lines=self._lines, sha256=self._digest.hexdigest())
        return ExportReport(
            lines=self._lines,
            entries=self._entries,
            records=self._records,
            snapshots=self._snapshots,
            commit_sequence=sequence,
            missing=self._missing,
            gaps=tuple(self._gaps),
        )

    def _check_names(self) -> None:
        """What is not found by its name, or belongs to no log or entry, would be left out."""
        for id, name in self.source.namespaces():
            self._check(check_namespace(self.source, id, name))
        for log in self.source.logs():
            self._check(check_log(self.source, log))
        for finding in lost_records(self.source):
            self._check(finding)
        for table in ("entries", "records"):
            stored, found = self.source.rows_in(table), self.source.rows_found(table)
            self._check(check_order(table, stored=stored, found=found))
        for lost in self.source.lost_values():
            self._check(check_large_value(self.source.name_of_namespace(lost.namespace_id), lost))
        for data in self.source.lost_large_records():
            self._check(check_large_record(self.source.name_of_log(data.log_id), data))

    def _line(self, **item: Any) -> None:
        line = dump_line(item)
        self.write(line)
        self._digest.update(line)
        self._lines += 1
        if self._lines % LINES_PER_STEP == 0:
            self.control.step("exporting lines", self._lines)

    # --- entries and snapshots ---

    def _namespace(self, id: Any, name: bytes) -> None:
        if is_snapshot_namespace(name):
            self._snapshot(id, name)
            return
        for row in self.source.entries(id):
            self._check(check_entry(name, row))
            self._highest_version = max(self._highest_version, row.version)
            self._entries += 1
            self._line(
                type="entry",
                store=encode_store_name(name),
                key=encode_stored_key(row.key),
                value=encode_data(row.value),
                version=row.version,
                expires_at=row.expires_at,
            )

    def _snapshot(self, id: Any, name: bytes) -> None:
        listed = find_entries(self.source, id, name).listed or VersionList()
        for kept in read_versions(self.source, id, name):
            if isinstance(kept, Finding):
                self._check(kept)
                continue
            self._snapshots += 1
            self._line(
                type="snapshot",
                store=encode_store_name(name),
                version=kept.number,
                saved_at=kept.manifest.saved_at,
                chunks=kept.manifest.chunks,
                versions_max=listed.versions_max,
                seconds_max=listed.seconds_max,
            )
            for chunk in self._chunks(id, name, kept):
                self._line(type="chunk", data=encode_data(chunk.value))

    def _chunks(self, id: Any, name: bytes, kept: KeptVersion) -> Iterator[EntryRow]:
        for index in range(kept.manifest.chunks):
            row = self.source.entry(id, chunk_key(kept.manifest.save, index))
            if row is None:
                where = f"snapshot {shown_name(name)}, version {kept.number}"
                self._check(Finding(FindingKind.SNAPSHOT, where, f"chunk {index} is missing"))
                return
            self._check(check_entry(name, row))
            self._highest_version = max(self._highest_version, row.version)
            yield row

    # --- logs ---

    def _log(self, log: LogRow) -> None:
        last = self.source.last_offset(log.id)
        next_offset = log.first_offset if last is None else max(log.first_offset, last + 1)
        store = encode_store_name(log.name)
        self._line(type="log", store=store, first_offset=log.first_offset, next_offset=next_offset)
        expected = log.first_offset
        for row in self.source.records(log.id):
            self._check(check_record(log.name, row))
            if row.offset < log.first_offset:
                where = f"log {shown_name(log.name)}, offset {row.offset}"
                self._check(Finding(FindingKind.RECORD, where, "stored below the first offset"))
            if row.offset != expected:
                self._gap(log.name, expected, row.offset)
            expected = row.offset + 1
            self._records += 1
            self._line(type="record", store=store, offset=row.offset, data=encode_data(row.data))

    def _gap(self, log: bytes, start: int, stop: int) -> None:
        gap = gap_in(log, start, stop)
        if not self.allow_gaps:
            self._check(gap, "see mpreg verify, or export what is there with --allow-gaps")
        self._missing += stop - start
        if len(self._gaps) < FINDINGS_KEPT_MAX:
            self._gaps.append(gap)
        self._line(type="gap", store=encode_store_name(log), offset=start, next_offset=stop)

    def _check(self, finding: Finding | None, advice: str = "see mpreg verify") -> None:
        if finding is not None:
            raise CorruptDataError(
                f"{finding.message}; the export is not complete: {advice}",
                self.source.path,
                finding.where,
            )

"""Examining a store: every checksum, every offset, every snapshot, and SQLite's own structure."""

from __future__ import annotations

from collections.abc import Iterator
from os import PathLike
from pathlib import Path
from typing import Any, Final

from attrs import define, evolve, field

from mpreg.errors import CorruptDataError
from mpreg.persistence.maintenance.acked import read_acked, unaccounted
from mpreg.persistence.maintenance.checks import (
    OffsetCheck,
    check_entry,
    check_large_record,
    check_large_value,
    check_meta,
    check_order,
    check_record,
    shown_name,
)
from mpreg.persistence.maintenance.findings import (
    FINDINGS_KEPT_MAX,
    Finding,
    FindingKind,
    VerificationReport,
)
from mpreg.persistence.maintenance.journal.source import open_damaged_journal
from mpreg.persistence.maintenance.lines import is_own_name
from mpreg.persistence.maintenance.naming import check_log, check_namespace, lost_records
from mpreg.persistence.maintenance.opening import open_source, store_in
from mpreg.persistence.maintenance.quarantine import SetAside, read_set_aside
from mpreg.persistence.maintenance.rows import DamagedRowsError, EntryRow, LogRow, Source
from mpreg.persistence.maintenance.snapshots import (
    SnapshotCheck,
    find_entries,
)
from mpreg.persistence.maintenance.staging import file_errors
from mpreg.persistence.maintenance.worker import Control, run_stoppable
from mpreg.persistence.snapshots import is_snapshot_namespace
from mpreg.progress import OnProgress

__all__ = ["Examination", "examine_database", "examine_journal", "verify"]

#: Items between two looks at whether the result is still wanted.
ITEMS_PER_STEP = 256

_USERS_SNAPSHOT: Final = b"\xffsnapshot/"


async def verify(
    data_dir: str | PathLike[str], *, full: bool = False, on_progress: OnProgress | None = None
) -> VerificationReport:
    """Examine the store of a data directory, open in another process, in this one, or in none.

    Nothing is changed, and nobody waits for it: a shared lock on the directory of values keeps
    those that are there from being removed meanwhile. It reads everything once. Of a database in
    one transaction: beside a running server the WAL grows meanwhile by what is written, and is
    emptied by the first checkpoint afterwards; memory is bounded by the largest value. A journal is
    read into memory as a whole.

    ``full`` has SQLite compare every index with its table as well (``integrity_check``), which
    takes several times as long as ``quick_check``.

    Damage is no error here: it stands in the report. Cancelled: it ends at the next step.

    Raises:
        DataDirectoryError: there is no store.
        ForeignDatabaseError, SchemaVersionError: there is one that is not ours to read.
        StorageIOError: the device failed, or the files may not be read.
    """
    directory = Path(data_dir)

    def work(control: Control) -> VerificationReport:
        store = store_in(directory)
        with file_errors(directory):
            set_aside = read_set_aside(directory)
            acked = read_acked(directory)
        if store.backend == "file":
            report = examine_journal(directory, control, full=full, set_aside=set_aside)
        else:
            report = examine_database(store.path, control, full=full, set_aside=set_aside)
        lost = unaccounted(acked, report.generation, report.commit_sequence)
        return report.with_damage(lost)

    return await run_stoppable(work, on_progress)


def examine_database(
    path: Path,
    control: Control,
    *,
    full: bool = False,
    immutable: bool = False,
    set_aside: SetAside | None = None,
) -> VerificationReport:
    """`verify`, blocking, for one database file."""
    try:
        with open_source(path, control, immutable=immutable) as source:
            return _examined(source, control, full=full, set_aside=set_aside)
    except CorruptDataError as damage:
        finding = Finding(FindingKind.STRUCTURE, damage.where or "the file", damage.message)
        return VerificationReport(path=path, full=full, findings=(finding,), damaged=1)


def examine_journal(
    directory: Path, control: Control, *, full: bool = False, set_aside: SetAside | None = None
) -> VerificationReport:
    """`verify`, blocking, for the journal of one directory."""
    with file_errors(directory):
        source = open_damaged_journal(directory, control)
    return _examined(source, control, full=full, set_aside=set_aside)


def _examined(
    source: Source, control: Control, *, full: bool, set_aside: SetAside | None
) -> VerificationReport:
    examination = Examination(source, control, set_aside or SetAside())
    for finding in examination.run(full=full):
        examination.keep(finding)
    return examination.report


@define
class Examination:
    """One walk over a store. It yields what it finds and counts what it sees."""

    source: Source
    control: Control
    set_aside: SetAside = field(factory=SetAside)
    _findings: list[Finding] = field(factory=list)
    _damaged: int = 0
    _notices: int = 0
    _entries: int = 0
    _records: int = 0
    _logs: int = 0
    _snapshots: int = 0
    _own_entries: int = 0
    _own_records: int = 0
    _own_logs: int = 0
    _own_snapshots: int = 0
    _bytes: int = 0
    _highest_version: int = 0
    _total: int | None = None
    _meta: tuple[Any, Any, Any] | None = None
    _full: bool = False
    _passed_over: int = 0
    """Records of logs that cannot be examined."""
    _is_read: bool = True
    """Nothing has kept it from a row."""

    def keep(self, finding: Finding) -> None:
        if finding.kind.is_damage:
            self._damaged += 1
        else:
            self._notices += 1
        if len(self._findings) < FINDINGS_KEPT_MAX:
            self._findings.append(finding)

    @property
    def report(self) -> VerificationReport:
        report = VerificationReport(
            path=self.source.path,
            entries=self._entries,
            records=self._records,
            logs=self._logs,
            snapshots=self._snapshots,
            own_entries=self._own_entries,
            own_records=self._own_records,
            own_logs=self._own_logs,
            own_snapshots=self._own_snapshots,
            bytes=self._bytes,
            full=self._full,
            findings=tuple(self._findings),
            damaged=self._damaged,
            notices=self._notices,
        )
        if self._meta is None:
            return report
        generation, sequence, last_version = (
            number if type(number) is int else None for number in self._meta
        )
        return evolve(
            report, generation=generation, commit_sequence=sequence, last_version=last_version
        )

    def run(self, *, full: bool) -> Iterator[Finding]:
        """All findings. Raises what `open_source` raises where the device fails."""
        self._full = full
        yield from self.set_aside.findings
        yield from self._guarded("the file", self._structure(full=full))
        yield from self._guarded("table namespaces", self._namespaces())
        yield from self._guarded("table entries", self._all_entries())
        yield from self._guarded("table large_values", self._lost_values())
        yield from self._guarded("table value_files", self.source.value_files())
        yield from self._guarded("table logs", self._all_logs())
        yield from self._guarded("table records", self._lost_records())
        yield from self._guarded("table large_records", self._lost_large_records())
        yield from self._guarded("the file", self._hidden_rows())
        yield from self._guarded("table meta", self._numbers())

    def _guarded(self, where: str, findings: Iterator[Finding]) -> Iterator[Finding]:
        """What cannot be read is a finding, and the rest is examined all the same."""
        try:
            yield from findings
        except DamagedRowsError as damage:
            self._is_read = False
            yield Finding(FindingKind.STRUCTURE, where, f"the rest cannot be read: {damage}")

    def _step(self, *, force: bool = False) -> None:
        seen = self._entries + self._records
        if force or seen % ITEMS_PER_STEP == 0:
            self.control.step("examining", self._bytes, self._total)

    # --- SQLite's own ---

    def _structure(self, *, full: bool) -> Iterator[Finding]:
        pages, page_bytes = self.source.pages()
        self._total = pages * page_bytes
        self.control.step("checking the structure", 0, self._total)
        yield from self.source.check(full=full)

    def _numbers(self) -> Iterator[Finding]:
        self._meta = self.source.meta()
        items = self._entries + self._records
        yield from check_meta(self._meta, highest_version=self._highest_version, items=items)

    # --- entries ---

    def _namespaces(self) -> Iterator[Finding]:
        for id, name in self.source.namespaces():
            if (finding := check_namespace(self.source, id, name)) is not None:
                yield finding

    def _all_entries(self) -> Iterator[Finding]:
        for id, name in self.source.namespaces_used():
            where = f"namespace {shown_name(name)}"
            before = self._entries
            if is_snapshot_namespace(name):
                yield from self._guarded(where, self._snapshot(id, name))
            else:
                yield from self._guarded(where, self._namespace(id, name))
            if _is_own(name):
                self._own_entries += self._entries - before

    def _namespace(self, id: Any, name: Any) -> Iterator[Finding]:
        for row in self.source.entries(id):
            if (finding := self._entry(name, row)) is not None:
                yield finding

    def _entry(self, name: Any, row: EntryRow) -> Finding | None:
        self._entries += 1
        self._bytes += len(row.value) if isinstance(row.value, bytes) else 0
        self._step()
        finding = check_entry(name, row)
        if finding is None:
            self._highest_version = max(self._highest_version, row.version)
        return finding

    def _snapshot(self, id: Any, name: bytes) -> Iterator[Finding]:
        check = SnapshotCheck(name, find_entries(self.source, id, name))
        self._snapshots += len(check.found.versions)
        if not name.startswith(_USERS_SNAPSHOT):
            self._own_snapshots += len(check.found.versions)
        yield from check.listed()
        for row in self.source.entries(id):
            finding = self._entry(name, row)
            if finding is not None and not check.is_nobodys(row.key):
                yield finding
            yield from check.follow(row.key, row.value, intact=finding is None)
        yield from check.finish()

    def _lost_values(self) -> Iterator[Finding]:
        for row in self.source.lost_values():
            yield check_large_value(self.source.name_of_namespace(row.namespace_id), row)

    # --- logs ---

    def _all_logs(self) -> Iterator[Finding]:
        for row in self.source.logs():
            self._logs += 1
            before = self._records
            if (damage := check_log(self.source, row)) is not None:
                yield damage
                yield from self._guarded(damage.where, self._pass_over(row.id))
            else:
                yield from self._guarded(f"log {shown_name(row.name)}", self._log(row))
            if _is_own(row.name):
                self._own_logs += 1
                self._own_records += self._records - before

    def _log(self, row: LogRow) -> Iterator[Finding]:
        offsets = OffsetCheck(row.name, row.first_offset, self.set_aside.offsets(row.name))
        for record in self.source.records(row.id):
            self._records += 1
            self._bytes += len(record.data) if isinstance(record.data, bytes) else 0
            self._step()
            yield from offsets.follow(record.offset)
            if (finding := check_record(row.name, record)) is not None:
                yield finding

    def _lost_records(self) -> Iterator[Finding]:
        yield from lost_records(self.source)
        for id in self.source.logs_used():
            if not self.source.has_log(id):
                yield from self._pass_over(id)

    def _pass_over(self, log_id: Any) -> Iterator[Finding]:
        for _ in self.source.records(log_id):
            self._passed_over += 1
        yield from ()

    def _lost_large_records(self) -> Iterator[Finding]:
        for row in self.source.lost_large_records():
            yield check_large_record(self.source.name_of_log(row.log_id), row)

    def _hidden_rows(self) -> Iterator[Finding]:
        found = {"entries": self._entries, "records": self._records + self._passed_over}
        for table, count in found.items():
            stored = self.source.rows_in(table) if self._is_read else None
            if (finding := check_order(table, stored=stored, found=count)) is not None:
                yield finding


def _is_own(name: Any) -> bool:
    """A damaged name may be none at all."""
    return isinstance(name, bytes) and is_own_name(name)

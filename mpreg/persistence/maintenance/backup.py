"""A copy of a store that is in use, in one state, verified, complete or not there.

The copy is made by SQLite's online backup from a read-only connection. It cannot write to the
store and never checkpoints, so the writer's connection stays the only one that does; and it reads
in one transaction, so the copy is the state at its beginning however much is written meanwhile.
Without that transaction SQLite would begin anew at every commit of the writer, and never end.
``VACUUM INTO`` would be as safe, but it can neither be slowed down nor stopped.
"""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Callable
from contextlib import closing
from itertools import zip_longest
from os import PathLike
from pathlib import Path
from typing import Final

from attrs import define, evolve, field

from mpreg.clock import Clock, SystemClock
from mpreg.errors import (
    CorruptDataError,
    DataDirectoryError,
    InvalidArgumentError,
    PersistenceError,
)
from mpreg.persistence.backends.sqlite.failures import translate
from mpreg.persistence.maintenance.acked import Acked, read_acked, unaccounted
from mpreg.persistence.maintenance.findings import VerificationReport
from mpreg.persistence.maintenance.journal.backup import JournalBackup
from mpreg.persistence.maintenance.manifest import (
    MANIFEST_NAME,
    BackupManifest,
    check_quarantine,
    describe_file,
    file_digest,
    read_manifest,
    source_name,
    write_manifest,
)
from mpreg.persistence.maintenance.opening import open_source, store_in
from mpreg.persistence.maintenance.own_files import has_store, refuse_foreign_files
from mpreg.persistence.maintenance.quarantine import SetAside, copy_quarantine, read_set_aside
from mpreg.persistence.maintenance.reports import BackupReport, damage_in
from mpreg.persistence.maintenance.rows import DamagedRowsError
from mpreg.persistence.maintenance.source import SqliteSource
from mpreg.persistence.maintenance.staging import (
    Staging,
    file_errors,
    refuse_nested,
    resolved,
    staged,
)
from mpreg.persistence.maintenance.value_copies import ValueCopies, changed_values
from mpreg.persistence.maintenance.verify import examine_database
from mpreg.persistence.maintenance.worker import Control, run_stoppable
from mpreg.persistence.own_names import DATABASE_NAME
from mpreg.progress import OnProgress

__all__ = ["backup"]

#: Copied between two looks at the throttle and at whether it is still wanted.
STEP_BYTES: Final = 256 << 10

#: Compared between two looks at whether it is still wanted.
ROWS_PER_STEP: Final = 256


async def backup(
    data_dir: str | PathLike[str],
    destination: str | PathLike[str],
    *,
    bytes_per_second: float | None = None,
    allow_damaged: bool = False,
    clock: Clock | None = None,
    on_progress: OnProgress | None = None,
) -> BackupReport:
    """Copy a store, in use or not, into the directory ``destination``.

    The copy is written beside its place, synced, verified with every checksum, and then renamed:
    ``destination`` is always a complete backup or what was there before. A backup that is there is
    replaced; anything else is refused, also a backup with other files beside it: they would be
    lost. Where it holds this very state already (same store, same commit sequence, same items), it
    is only verified. A database that has changed is copied as a whole. Of its files of values, and
    of a journal's segments, those that the backup before has already, by size and checksum, are not
    copied again: they become files of both. Where ``destination`` is a link, that is done where it
    leads to.

    ``bytes_per_second`` slows it down. While it copies the database, the store's WAL grows by what
    is written, and is emptied by the first checkpoint afterwards; and files of values that have no
    use any more stay until the end: do not slow it down so much that the device fills.

    Cancelled, or failed: nothing is left of it. Killed: what is left is removed by the next one.

    Raises:
        DataDirectoryError: no store, ``destination`` is no backup or has other files in it, is in
            the data directory, may not be written, or another command writes to it.
        CorruptDataError: the store is damaged, and with ``allow_damaged`` only where SQLite cannot
            copy it at all. The backup that was there is still there.
        StorageFullError, StorageIOError: not made.
    """
    if bytes_per_second is not None and not 1 <= bytes_per_second < math.inf:
        raise InvalidArgumentError(
            f"bytes_per_second must be finite and at least 1, not {bytes_per_second!r}"
        )
    work = _Backup(
        Path(data_dir),
        Path(destination),
        bytes_per_second,
        allow_damaged,
        (clock or SystemClock()).wall,
    )
    return await run_stoppable(work.run, on_progress)


@define
class _Backup:
    data_dir: Path
    destination: Path
    bytes_per_second: float | None
    allow_damaged: bool
    wall: Callable[[], float]
    _set_aside: SetAside = field(factory=SetAside)
    _acked: Acked = field(factory=lambda: Acked(None))

    def run(self, control: Control) -> BackupReport:
        self.data_dir, self.destination = self.data_dir.absolute(), resolved(self.destination)
        store = store_in(self.data_dir)
        refuse_nested(self.destination, self.data_dir, "the data directory")
        with file_errors(self.data_dir):
            self._set_aside = read_set_aside(self.data_dir)
            self._acked = read_acked(self.data_dir)
        with staged(self.destination) as staging:
            previous = self._previous()
            if previous is not None and previous.backend != store.backend:
                raise DataDirectoryError(
                    self.destination,
                    f"the backup that is here is of a store of the {previous.backend} backend; "
                    "nothing was changed: name another place",
                )
            if store.backend == "file":
                return self._of_a_journal(control).run(staging, previous)
            values = self._value_copies(staging, previous, control)
            with open_source(store.path, control) as source:
                meta = _numbers(source)
                if (
                    previous is not None
                    and self._is_of(previous, meta)
                    and self._has_the_same(source, control)
                ):
                    source.connection.rollback()
                    if (report := self._still_good(previous, control)) is not None:
                        return self._report(previous, report, copied_bytes=None)
                    source.connection.execute("BEGIN")
                    meta = _numbers(source)
                used = _files_used(source)
                self._copy(source, staging, control)
                # The log need not grow while they are copied: they are held without that.
                source.connection.rollback()
                with file_errors(self.data_dir):
                    values.take(used)
            return self._finish(staging, meta, values, control)

    def _value_copies(
        self, staging: Staging, previous: BackupManifest | None, control: Control
    ) -> ValueCopies:
        def after_piece(size: int) -> None:
            control.step("copying values", values.copied_bytes)
            if self.bytes_per_second is not None:
                control.pause(size / self.bytes_per_second)

        values = ValueCopies(
            self.data_dir, staging.path, self.destination, previous, after_piece, control
        )
        return values

    def _of_a_journal(self, control: Control) -> JournalBackup:
        return JournalBackup(
            self.data_dir,
            self.destination,
            self.bytes_per_second,
            self.allow_damaged,
            self.wall,
            self._set_aside,
            self._acked,
            control,
        )

    def _previous(self) -> BackupManifest | None:
        """The backup that is at the destination. Raises `DataDirectoryError` for anything else."""
        if not self.destination.exists():
            return None
        if self.destination.is_dir() and not any(self.destination.iterdir()):
            return None
        try:
            previous = read_manifest(self.destination)
        except CorruptDataError as error:
            if not has_store(self.destination):
                raise self._no_backup(f"no store beside {MANIFEST_NAME}") from error
            # A backup that nobody can restore: to be replaced.
            previous = None
        except DataDirectoryError as error:
            raise self._no_backup(f"no {MANIFEST_NAME} in it") from error
        with file_errors(self.destination):
            refuse_foreign_files(self.destination, of_a_backup=True)
        return previous

    def _no_backup(self, why: str) -> DataDirectoryError:
        return DataDirectoryError(
            self.destination,
            f"there is something that is no backup ({why}); nothing was changed: name another "
            "place",
        )

    def _is_of(self, previous: BackupManifest, meta: tuple[int, int, int]) -> bool:
        made_of = (previous.generation, previous.commit_sequence, previous.last_version)
        return made_of == meta and previous.source == source_name(self.data_dir)

    def _has_the_same(self, source: SqliteSource, control: Control) -> bool:
        """Whether the backup that is there has the items of the store. A store that was restored
        from an earlier one, and went on from there, counts the same numbers for other commits."""
        path = self.destination / DATABASE_NAME
        try:
            with open_source(path, control, immutable=True) as before:
                for number, (one, other) in enumerate(zip_longest(source.sums(), before.sums())):
                    if one != other:
                        return False
                    if number % ROWS_PER_STEP == 0:
                        control.step("comparing", number)
        except (PersistenceError, DamagedRowsError):
            # Of either of them: the verification of a new copy tells.
            return False
        return True

    def _still_good(self, previous: BackupManifest, control: Control) -> VerificationReport | None:
        """The verification of the backup that is there; None where it is to be made anew."""
        try:
            report = self._verified(self.destination, control)
            with file_errors(self.destination):
                digest = file_digest(self.destination / DATABASE_NAME, control)
                changed, _ = changed_values(self.destination, previous, control)
                check_quarantine(self.destination, previous, control)
        except PersistenceError:
            return None
        intact = digest == previous.sha256 and not changed
        return report if report.sound and intact else None

    def _copy(self, source: SqliteSource, staging: Staging, control: Control) -> None:
        copy = staging.path / DATABASE_NAME
        with file_errors(copy):
            copy.touch(mode=0o600)
        pages, page_bytes = source.pages()
        step_pages = max(1, STEP_BYTES // page_bytes)

        def after_step(_status: int, remaining: int, total: int) -> None:
            control.step("copying", (total - remaining) * page_bytes, total * page_bytes)
            if self.bytes_per_second is not None and remaining:
                control.pause(step_pages * page_bytes / self.bytes_per_second)

        try:
            with closing(sqlite3.connect(copy, isolation_level=None)) as target:
                # Nothing reads it before it was synced as a whole.
                target.execute("PRAGMA synchronous = OFF")
                target.execute("PRAGMA journal_mode = OFF")
                source.connection.backup(target, pages=step_pages, progress=after_step)
        except sqlite3.Error as error:
            control.step("copying", 0, pages * page_bytes)
            raise translate(error, copy) from error

    def _finish(
        self,
        staging: Staging,
        meta: tuple[int, int, int],
        values: ValueCopies,
        control: Control,
    ) -> BackupReport:
        generation, sequence, last_version = meta
        report = self._verified(staging.path, control).with_damage(
            unaccounted(self._acked, generation, sequence)
        )
        if not report.sound and not self.allow_damaged:
            raise damage_in(
                report,
                self.data_dir,
                "no backup was made, and the one before, if any, is still there; see mpreg verify, "
                "or ask for it with --allow-damaged",
            )
        copy = staging.path / DATABASE_NAME
        with file_errors(copy):
            size = copy.stat().st_size
            manifest = BackupManifest(
                source=source_name(self.data_dir),
                made_at=self.wall(),
                generation=generation,
                commit_sequence=sequence,
                last_version=last_version,
                size_bytes=size + sum(file.size_bytes for file in values.files.values()),
                sha256=file_digest(copy, control),
                files=values.files,
                quarantine={
                    one.name: describe_file(one, control)
                    for one in copy_quarantine(self.data_dir, staging.path)
                },
                damaged=report.damaged,
            )
            write_manifest(staging.path, manifest)
            control.step("syncing", manifest.size_bytes, manifest.size_bytes)
            staging.publish()
        return self._report(manifest, report, copied_bytes=size + values.copied_bytes)

    def _verified(self, directory: Path, control: Control) -> VerificationReport:
        return examine_database(
            directory / DATABASE_NAME, control, immutable=True, set_aside=self._set_aside
        )

    def _report(
        self, manifest: BackupManifest, report: VerificationReport, *, copied_bytes: int | None
    ) -> BackupReport:
        """``copied_bytes``: None where it is the one before."""
        return BackupReport(
            path=self.destination,
            commit_sequence=manifest.commit_sequence,
            first_sequence=manifest.earliest,
            size_bytes=manifest.size_bytes,
            copied_bytes=copied_bytes or 0,
            unchanged=copied_bytes is None,
            # It was examined where it was made, under a name that is gone.
            verification=evolve(report, path=self.destination / DATABASE_NAME),
        )


def _files_used(source: SqliteSource) -> list[tuple[int, int]]:
    try:
        return source.files_used()
    except DamagedRowsError:
        # Which the verification of the copy tells.
        return []


def _numbers(source: SqliteSource) -> tuple[int, int, int]:
    """(generation, commit sequence, last version); what is damaged counts as 0, and is told by the
    verification of the copy."""
    try:
        meta = source.meta() or (0, 0, 0)
    except DamagedRowsError:
        meta = (0, 0, 0)
    generation, sequence, last_version = (n if type(n) is int else 0 for n in meta)
    return generation, sequence, last_version

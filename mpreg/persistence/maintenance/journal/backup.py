"""A copy of a journal that is in use: its snapshot and segments, up to a commit."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path

from attrs import define, evolve, field

from mpreg.errors import CorruptDataError, PersistenceError
from mpreg.persistence.backends.file.control import Control
from mpreg.persistence.backends.file.failures import reading
from mpreg.persistence.maintenance.acked import Acked, unaccounted
from mpreg.persistence.maintenance.findings import Finding, FindingKind, VerificationReport
from mpreg.persistence.maintenance.journal.copying import (
    PIECE_BYTES,
    OpenFile,
    OpenJournal,
    end_of_commit,
    opened_journal,
    write_control,
)
from mpreg.persistence.maintenance.manifest import (
    BackupManifest,
    FileInBackup,
    check_quarantine,
    describe_file,
    file_digest,
    source_name,
    write_manifest,
)
from mpreg.persistence.maintenance.quarantine import SetAside, copy_quarantine
from mpreg.persistence.maintenance.reports import BackupReport, damage_in
from mpreg.persistence.maintenance.staging import Staging, file_errors, naming
from mpreg.persistence.maintenance.verify import examine_journal
from mpreg.persistence.maintenance.worker import Control as Work
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["JournalBackup"]


@define
class JournalBackup:
    data_dir: Path
    destination: Path
    bytes_per_second: float | None
    allow_damaged: bool
    wall: Callable[[], float]
    set_aside: SetAside
    acked: Acked
    work: Work
    _copied_bytes: int = 0
    _done_bytes: int = 0
    _total_bytes: int = 0
    _durable_sequence: int = 0
    _files: dict[str, FileInBackup] = field(factory=dict)

    def run(self, staging: Staging, previous: BackupManifest | None) -> BackupReport:
        with file_errors(self.data_dir), opened_journal(self.data_dir) as journal:
            self._total_bytes = sum(file.size for file in journal.files)
            self._durable_sequence = journal.durable_sequence
            last, sequence = self._cut(journal)
            if (
                previous is not None
                and self._is_of(previous, journal.generation, sequence)
                and self._has_the_same(previous, journal)
            ):
                report = self._still_good(previous)
                if report is not None:
                    return self._report(previous, report, unchanged=True)
            for file in journal.files:
                self._copy(file, staging, previous, is_last=file is last)
        control = Control(journal.generation, sequence)
        with file_errors(staging.path):
            write_control(staging.path, control)
        return self._finish(staging, control, journal.base_sequence)

    def _cut(self, journal: OpenJournal) -> tuple[OpenFile, int]:
        """Let the last segment end where its last whole frame ends."""
        last = journal.files[-1]
        first = int(last.name.rpartition("-")[2])
        said: str | None = None
        while True:
            content = b"".join(last.pieces())
            try:
                with reading(self.data_dir / last.name):
                    last.size, sequence = end_of_commit(content, first, None)
            except CorruptDataError as error:
                # What was half written when it was read looks different the next time.
                if str(error) == said:
                    raise
                said = str(error)
            else:
                return last, sequence

    def _is_of(self, previous: BackupManifest, generation: int, sequence: int) -> bool:
        made_of = (previous.generation, previous.commit_sequence, previous.source)
        return made_of == (generation, sequence, source_name(self.data_dir))

    def _has_the_same(self, previous: BackupManifest, journal: OpenJournal) -> bool:
        """Whether the backup that is there has the bytes of the store. A store that was restored
        from an earlier one, and went on from there, counts the same numbers for other commits."""
        names = {file.name for file in journal.files}
        return names == previous.files.keys() - {JOURNAL_NAME} and all(
            file.digest(self._after_compared) == previous.files[file.name].sha256
            for file in journal.files
        )

    def _after_compared(self, size: int) -> None:
        self.work.step("comparing", 0)

    def _still_good(self, previous: BackupManifest) -> VerificationReport | None:
        """The verification of the backup that is there; None where it is to be made anew."""
        try:
            report = self._verified(self.destination)
            with file_errors(self.destination):
                check_quarantine(self.destination, previous, self.work)
                intact = all(
                    file_digest(self.destination / name, self.work) == found.sha256
                    for name, found in previous.files.items()
                )
        except PersistenceError:
            return None
        return report if report.sound and intact else None

    # --- copying ---

    def _copy(
        self, file: OpenFile, staging: Staging, previous: BackupManifest | None, *, is_last: bool
    ) -> None:
        copy = staging.path / file.name
        before = None if previous is None or is_last else previous.files.get(file.name)
        if before is not None and before.size_bytes == file.size:
            sha256 = file.digest(self._after_piece)
            if sha256 == before.sha256 and self._linked(copy, sha256):
                self._files[file.name] = before
                return
            self._done_bytes -= file.size
        digest = hashlib.sha256()
        copy.touch(mode=0o600)
        with naming(copy), copy.open("r+b") as target:
            for piece in file.pieces():
                target.write(piece)
                digest.update(piece)
                self._after_piece(len(piece))
        self._copied_bytes += file.size
        self._files[file.name] = FileInBackup(file.size, digest.hexdigest())

    def _linked(self, copy: Path, sha256: str) -> bool:
        """Whether the backup before has the same file, whole; then it is this one's as well."""
        before = self.destination / copy.name
        try:
            if file_digest(before, self.work) != sha256:
                return False
            os.link(before, copy)
        except OSError:
            return False
        return True

    def _after_piece(self, size: int) -> None:
        self._done_bytes += size
        self.work.step("copying", self._done_bytes, self._total_bytes)
        if self.bytes_per_second is not None and size == PIECE_BYTES:
            self.work.pause(size / self.bytes_per_second)

    # --- the end ---

    def _finish(self, staging: Staging, control: Control, base: int) -> BackupReport:
        report = self._verified(staging.path).with_damage(self._lost(control))
        if not report.sound and not self.allow_damaged:
            raise damage_in(
                report,
                self.data_dir,
                "no backup was made, and the one before, if any, is still there; see mpreg verify, "
                "or ask for it with --allow-damaged",
            )
        with file_errors(staging.path):
            control_path = staging.path / JOURNAL_NAME
            self._files[JOURNAL_NAME] = describe_file(control_path, self.work)
            manifest = BackupManifest(
                backend="file",
                source=source_name(self.data_dir),
                made_at=self.wall(),
                generation=control.generation,
                commit_sequence=control.durable_sequence,
                first_sequence=base,
                last_version=report.last_version or 0,
                size_bytes=sum(file.size_bytes for file in self._files.values()),
                files=self._files,
                quarantine={
                    one.name: describe_file(one, self.work)
                    for one in copy_quarantine(self.data_dir, staging.path)
                },
                damaged=report.damaged,
            )
            write_manifest(staging.path, manifest)
            self.work.step("syncing", self._total_bytes, self._total_bytes)
            staging.publish()
        return self._report(manifest, report, unchanged=False)

    def _lost(self, control: Control) -> list[Finding]:
        """What the store should have and what the copy, being one of it as it is, cannot show."""
        lost = unaccounted(self.acked, control.generation, control.durable_sequence)
        if self._durable_sequence > control.durable_sequence:
            message = f"commits up to {self._durable_sequence} were on disk: data is missing"
            lost.append(Finding(FindingKind.STRUCTURE, "the journal's end", message))
        return lost

    def _verified(self, directory: Path) -> VerificationReport:
        return examine_journal(directory, self.work, set_aside=self.set_aside)

    def _report(
        self, manifest: BackupManifest, report: VerificationReport, *, unchanged: bool
    ) -> BackupReport:
        return BackupReport(
            path=self.destination,
            commit_sequence=manifest.commit_sequence,
            first_sequence=manifest.earliest,
            size_bytes=manifest.size_bytes,
            copied_bytes=self._copied_bytes,
            unchanged=unchanged,
            # It was examined where it was made, under a name that is gone.
            verification=evolve(report, path=self.destination / JOURNAL_NAME),
        )

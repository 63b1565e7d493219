"""Putting a backup in the place of a data directory, whole or not at all.

The backup of a database is one point in time: the commit sequence that its manifest names. That of
a journal holds the commits since its snapshot, and can be restored as of each of them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from os import PathLike
from pathlib import Path
from typing import Final

from attrs import define, evolve, frozen

from mpreg.errors import (
    CorruptDataError,
    DataDirectoryError,
    InvalidArgumentError,
    MpregError,
    SchemaVersionError,
)
from mpreg.persistence.data_directory import STORES, DataDirectory
from mpreg.persistence.maintenance.acked import read_acked, write_acked
from mpreg.persistence.maintenance.findings import VerificationReport
from mpreg.persistence.maintenance.journal.restore import check_journal, copy_journal
from mpreg.persistence.maintenance.manifest import (
    BackupManifest,
    check_quarantine,
    file_digest,
    read_manifest,
)
from mpreg.persistence.maintenance.own_files import has_store, refuse_foreign_files
from mpreg.persistence.maintenance.quarantine import copy_quarantine, read_set_aside
from mpreg.persistence.maintenance.reports import RestoreReport, changed_file, damage_in
from mpreg.persistence.maintenance.staging import (
    Staging,
    file_errors,
    refuse_nested,
    staged,
)
from mpreg.persistence.maintenance.staging_inside import StagingInside
from mpreg.persistence.maintenance.value_copies import changed_values, copy_values
from mpreg.persistence.maintenance.verify import examine_database
from mpreg.persistence.maintenance.worker import Control, run_stoppable
from mpreg.persistence.own_names import ACKED_NAME, DATABASE_NAME, LOCK_NAME, refuse_what_is_no_file
from mpreg.progress import OnProgress

__all__ = ["held_place", "restore"]

_PIECE_BYTES: Final = 1 << 20


async def restore(
    source: str | PathLike[str],
    data_dir: str | PathLike[str],
    *,
    overwrite: bool = False,
    allow_damaged: bool = False,
    to_commit: int | None = None,
    on_progress: OnProgress | None = None,
) -> RestoreReport:
    """Make ``data_dir`` from a backup.

    The backup is verified first, with the checksum of the whole and that of every item. It is
    copied beside ``data_dir``, synced, and then renamed. With ``overwrite`` a store that is there
    is kept until the new one is in its place, and then removed. A directory with anything else in
    it is refused. Nothing can take the place of a mount point: an empty one is filled, and one with
    anything in it is refused.

    What was acknowledged after the backup is given up with that: the file ``ACKED`` is written
    anew, so that the store opens.

    With ``allow_damaged`` a backup is taken as it is, also where its files are not what was
    written; the report says what was found. One whose manifest is damaged, or that lacks a file, is
    not.

    ``to_commit`` restores the state right after that commit. The backup of a journal holds every
    commit since its snapshot; that of a database only its last.

    Cancelled, or failed: ``data_dir`` is as it was. Killed: it is as it was or, for the moment
    between two renames, under another name beside its place; run it again, and it is put back
    before anything else is done. A mount point is empty then, or whole; or, for a moment, it is not
    opened (`AckedDataLostError`, `CorruptDataError`), until this is run again.

    Raises:
        DataDirectoryError: ``source`` is no backup; or ``data_dir`` is not empty, without
            ``overwrite``, or has with it no store or other files as well, or one of the two is
            inside the other.
        DataDirectoryLockedError: a process holds ``data_dir``.
        InvalidArgumentError: the backup does not hold the state after ``to_commit``.
        CorruptDataError: the backup is damaged, and that was not allowed, or nothing can be made of
            it.
        SchemaVersionError: made by a newer mpreg. One of an older mpreg is restored as it is, and
            migrated when it is opened.
        StorageFullError, StorageIOError: not restored.
    """
    work = _Restore(Path(source), Path(data_dir), overwrite, allow_damaged, to_commit)
    return await run_stoppable(work.run, on_progress)


@define
class _Restore:
    source: Path
    data_dir: Path
    overwrite: bool
    allow_damaged: bool
    to_commit: int | None

    def run(self, control: Control) -> RestoreReport:
        self.data_dir = self.data_dir.absolute()
        with file_errors(self.source):
            if self.source.is_dir():
                refuse_what_is_no_file(self.source)
        manifest = read_manifest(self.source)
        refuse_nested(self.data_dir, self.source, "the backup")
        sequence = self._sequence(manifest)
        with (
            staged(self.data_dir, inside=StagingInside) as staging,
            held_place(self.data_dir, staging) as is_empty,
        ):
            if not is_empty and isinstance(staging, StagingInside):
                raise staging.not_empty()
            if not is_empty and not self.overwrite:
                raise DataDirectoryError(
                    self.data_dir,
                    "it is not empty; nothing was changed: restore into another directory, or "
                    "replace what is there with --overwrite",
                )
            if not is_empty:
                self._refuse_what_is_no_store()
            before = _Before.of(self.data_dir)
            report, digests = self._check(manifest, control)
            with file_errors(self.data_dir):
                if manifest.backend == "file":
                    copy_journal(self.source, manifest, digests, staging.path, sequence, control)
                else:
                    self._copy(staging, manifest, digests, control)
                copy_quarantine(self.source, staging.path)
                write_acked(staging.path, manifest.generation, sequence)
                staging.publish()
        return RestoreReport(
            path=self.data_dir,
            commit_sequence=sequence,
            size_bytes=manifest.size_bytes,
            replaced=not is_empty,
            replaced_backend=before.backend,
            replaced_sequence=before.acked_sequence,
            verification=evolve(report, path=self.data_dir / STORES[manifest.backend]),
        )

    def _refuse_what_is_no_store(self) -> None:
        """It goes as a whole: so it must be a store, or what is left of one, and nothing else."""
        with file_errors(self.data_dir):
            refuse_foreign_files(self.data_dir, of_a_backup=False)
        if not has_store(self.data_dir) and not (self.data_dir / ACKED_NAME).exists():
            raise DataDirectoryError(
                self.data_dir,
                "there is no store here that could be replaced; nothing was changed: restore into "
                "another directory",
            )

    def _sequence(self, manifest: BackupManifest) -> int:
        if self.to_commit is None:
            return manifest.commit_sequence
        if not manifest.earliest <= self.to_commit <= manifest.commit_sequence:
            raise InvalidArgumentError(
                f"{self.source} can be restored as of commit {manifest.earliest} to "
                f"{manifest.commit_sequence}, not {self.to_commit}; nothing was changed"
            )
        return self.to_commit

    def _check(
        self, manifest: BackupManifest, control: Control
    ) -> tuple[VerificationReport, dict[str, str]]:
        """What is found in the backup, and the digest of each file as it is."""
        if not self.allow_damaged:
            with file_errors(self.source):
                check_quarantine(self.source, manifest, control)
        if manifest.backend == "file":
            with file_errors(self.source):
                return check_journal(
                    self.source, manifest, control, allow_damaged=self.allow_damaged
                )
        database = self.source / DATABASE_NAME
        with file_errors(database):
            digest = file_digest(database, control)
            changed, digests = changed_values(self.source, manifest, control)
        hint = "nothing was restored; use another backup, or take it with --allow-damaged"
        if digest != manifest.sha256:
            changed.insert(0, changed_file(DATABASE_NAME))
        if changed and not self.allow_damaged:
            # Before it is looked into: it may be no database any more.
            raise CorruptDataError(
                f"{changed[0].message}; {hint}", path=self.source / changed[0].where
            )
        report = self._examined_if_readable(manifest, control).with_damage(changed)
        if not report.sound and not self.allow_damaged:
            raise damage_in(report, database, hint)
        return report, {DATABASE_NAME: digest, **digests}

    def _examined_if_readable(
        self, manifest: BackupManifest, control: Control
    ) -> VerificationReport:
        """One of an older mpreg cannot be examined by this one, but restored, and then migrated."""
        database = self.source / DATABASE_NAME
        try:
            return self._examined(control)
        except SchemaVersionError as error:
            if error.found_version > error.supported_version:
                raise
            # It is what was written, and the mpreg that wrote it has counted what was damaged.
            if manifest.damaged and not self.allow_damaged:
                raise CorruptDataError(
                    "the backup was made of a damaged store; nothing was restored; use another "
                    "backup, or take it with --allow-damaged",
                    path=database,
                ) from error
            return VerificationReport(path=database, damaged=manifest.damaged)

    def _examined(self, control: Control) -> VerificationReport:
        with file_errors(self.source):
            set_aside = read_set_aside(self.source)
        return examine_database(
            self.source / DATABASE_NAME, control, immutable=True, set_aside=set_aside
        )

    def _copy(
        self,
        staging: Staging,
        manifest: BackupManifest,
        digests: dict[str, str],
        control: Control,
    ) -> None:
        copy = staging.path / DATABASE_NAME
        copy.touch(mode=0o600)
        done = 0

        def after_piece(size: int) -> None:
            nonlocal done
            done += size
            control.step("copying", done, manifest.size_bytes)

        with (self.source / DATABASE_NAME).open("rb") as source, copy.open("r+b") as target:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
                after_piece(len(piece))
            target.flush()
            os.fsync(target.fileno())
        if file_digest(copy, control) != digests[DATABASE_NAME]:
            raise CorruptDataError("the copy differs from the backup; nothing was restored", copy)
        values = {name: digest for name, digest in digests.items() if name != DATABASE_NAME}
        copy_values(self.source, staging.path, values, after_piece)


@frozen
class _Before:
    """What is told of the store that goes; whatever its state, it is to be replaced."""

    backend: str | None
    acked_sequence: int | None

    @classmethod
    def of(cls, data_dir: Path) -> _Before:
        backend = next((one for one, name in STORES.items() if (data_dir / name).exists()), None)
        try:
            record = read_acked(data_dir).record
        except (MpregError, OSError):
            record = None
        return cls(backend, None if record is None else record.sequence)


@contextmanager
def held_place(data_dir: Path, staging: Staging | None = None) -> Iterator[bool]:
    """Keep others from opening a data directory; gives whether there is nothing in it, but for what
    is of ``staging``.

    One with something in it, but neither a store nor a lock, is nobody's: no lock is left in it;
    nor in one with nothing in it, where the block raises.

    Raises:
        DataDirectoryLockedError: somebody has it open.
        DataDirectoryError: it is no directory.
    """
    if not data_dir.exists() and not data_dir.is_symlink():
        yield True
        return
    if data_dir.is_symlink() or not data_dir.is_dir():
        raise DataDirectoryError(
            data_dir, "this is a link or a file; name the directory itself; nothing was changed"
        )
    beside: frozenset[str] = frozenset() if staging is None else staging.beside
    with file_errors(data_dir):
        names = {path.name for path in data_dir.iterdir()} - beside
    if names and LOCK_NAME not in names and names.isdisjoint(STORES.values()):
        yield False
        return
    lock = data_dir / LOCK_NAME
    let_go = DataDirectory(data_dir, backend=_backend_of(data_dir)).acquire()
    try:
        held = lock.lstat()
        try:
            if staging is not None:
                with file_errors(data_dir):
                    staging.put_back()
            found = {path.name for path in data_dir.iterdir()}
            yield found - beside <= {LOCK_NAME}
        except BaseException:
            if not names:
                # Before it is let go: afterwards it may be somebody else's. So may the one of a
                # directory that was put there whole, before something else failed.
                with suppress(OSError):
                    if os.path.samestat(held, lock.lstat()):
                        lock.unlink()
            raise
    finally:
        let_go()


def _backend_of(data_dir: Path) -> str:
    """Whose store is there now: that is the one to be replaced."""
    return next((one for one, name in STORES.items() if (data_dir / name).exists()), "sqlite")

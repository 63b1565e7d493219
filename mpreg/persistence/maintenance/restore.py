"""Putting a backup in the place of a data directory, whole or not at all.

A backup is one point in time: the commit sequence that its manifest names. Between two backups
nothing is kept that could be replayed, so no other point can be restored.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from os import PathLike
from pathlib import Path
from typing import Any, Final

from attrs import define, frozen

from mpreg.errors import CorruptDataError, DataDirectoryError
from mpreg.persistence.data_directory import DATABASE_NAME, LOCK_NAME, DataDirectory
from mpreg.persistence.maintenance.backup import damage_in
from mpreg.persistence.maintenance.findings import VerificationReport
from mpreg.persistence.maintenance.manifest import BackupManifest, file_digest, read_manifest
from mpreg.persistence.maintenance.quarantine import copy_quarantine, read_set_aside
from mpreg.persistence.maintenance.staging import Staging, file_errors, staged
from mpreg.persistence.maintenance.verify import examine_database
from mpreg.persistence.maintenance.worker import Control, OnProgress, run_stoppable

__all__ = ["RestoreReport", "held_place", "restore"]

_PIECE_BYTES: Final = 1 << 20


@frozen(kw_only=True)
class RestoreReport:
    """What was restored."""

    path: Path
    commit_sequence: int
    """Of the last group that is there. Whatever was committed after it is not."""
    size_bytes: int
    replaced: bool
    """Whether there was a store before; it is gone."""

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "path": str(self.path),
            "commit_sequence": self.commit_sequence,
            "size_bytes": self.size_bytes,
            "replaced": self.replaced,
        }


async def restore(
    source: str | PathLike[str],
    data_dir: str | PathLike[str],
    *,
    overwrite: bool = False,
    allow_damaged: bool = False,
    on_progress: OnProgress | None = None,
) -> RestoreReport:
    """Make ``data_dir`` from a backup.

    The backup is verified first, with the checksum of the whole and that of every item. It is
    copied beside ``data_dir``, synced, and then renamed. With ``overwrite`` a store that is there
    is kept until the new one is in its place, and then removed.

    Cancelled, or failed: ``data_dir`` is as it was. Killed: it is as it was or, for the moment
    between two renames, under another name beside its place; run it again, and it is put back
    before anything else is done.

    Raises:
        DataDirectoryError: ``source`` is no backup; or ``data_dir`` is not empty, without
            ``overwrite``.
        DataDirectoryLockedError: a process holds ``data_dir``.
        CorruptDataError: the backup is damaged.
        SchemaVersionError: made by a newer mpreg.
        StorageFullError, StorageIOError: not restored.
    """
    work = _Restore(Path(source), Path(data_dir), overwrite, allow_damaged)
    return await run_stoppable(work.run, on_progress)


@define
class _Restore:
    source: Path
    data_dir: Path
    overwrite: bool
    allow_damaged: bool

    def run(self, control: Control) -> RestoreReport:
        self.data_dir = self.data_dir.absolute()
        manifest = read_manifest(self.source)
        with staged(self.data_dir) as staging, held_place(self.data_dir) as is_empty:
            if not is_empty and not self.overwrite:
                raise DataDirectoryError(
                    self.data_dir,
                    "it is not empty; nothing was changed: restore into another directory, or "
                    "replace what is there with --overwrite",
                )
            self._check(manifest, control)
            with file_errors(self.data_dir):
                self._copy(staging, manifest, control)
                staging.publish()
        return RestoreReport(
            path=self.data_dir,
            commit_sequence=manifest.commit_sequence,
            size_bytes=manifest.size_bytes,
            replaced=not is_empty,
        )

    def _check(self, manifest: BackupManifest, control: Control) -> None:
        database = self.source / DATABASE_NAME
        hint = "nothing was restored; use another backup"
        with file_errors(database):
            if file_digest(database, control) != manifest.sha256:
                raise CorruptDataError(
                    f"the file is not what the backup wrote; {hint}", path=database
                )
        report = self._examined(control)
        if not report.sound and not self.allow_damaged:
            raise damage_in(report, database, f"{hint}, or take it with --allow-damaged")

    def _examined(self, control: Control) -> VerificationReport:
        return examine_database(
            self.source / DATABASE_NAME,
            control,
            immutable=True,
            set_aside=read_set_aside(self.source),
        )

    def _copy(self, staging: Staging, manifest: BackupManifest, control: Control) -> None:
        copy = staging.path / DATABASE_NAME
        copy.touch(mode=0o600)
        done = 0
        with (self.source / DATABASE_NAME).open("rb") as source, copy.open("r+b") as target:
            while piece := source.read(_PIECE_BYTES):
                target.write(piece)
                done += len(piece)
                control.step("copying", done, manifest.size_bytes)
            target.flush()
            os.fsync(target.fileno())
        if file_digest(copy, control) != manifest.sha256:
            raise CorruptDataError("the copy differs from the backup; nothing was restored", copy)
        copy_quarantine(self.source, staging.path)


@contextmanager
def held_place(data_dir: Path) -> Iterator[bool]:
    """Keep others from opening a data directory; gives whether there is nothing in it.

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
    let_go = DataDirectory(data_dir).acquire()
    try:
        yield all(path.name == LOCK_NAME for path in data_dir.iterdir())
    finally:
        let_go()

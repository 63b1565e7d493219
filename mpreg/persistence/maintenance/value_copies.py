"""Files of values in backups: copied once, and shared by the backups of one place.

What is committed of a file never changes; one that a snapshot is being saved to grows behind that.
So a file is copied as far as the database of the copy says, and where the backup before has the
same bytes, they become a file of both.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from attrs import define, field

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite.places import file_name, number_of
from mpreg.persistence.maintenance.findings import Finding
from mpreg.persistence.maintenance.manifest import BackupManifest, FileInBackup, file_digest
from mpreg.persistence.maintenance.reports import changed_file
from mpreg.persistence.maintenance.staging import naming
from mpreg.persistence.maintenance.worker import Control
from mpreg.persistence.own_names import VALUES_NAME

__all__ = ["ValueCopies", "changed_values", "copy_values"]

_PIECE_BYTES: Final = 256 << 10


def _is_value_file(name: str) -> bool:
    """Of the names in a manifest."""
    directory, slash, file = name.partition("/")
    return directory == VALUES_NAME and bool(slash) and number_of(file) is not None


@define
class ValueCopies:
    """What one backup has of the files of values."""

    source: Path
    """The data directory."""
    target: Path
    """Where the backup is being made."""
    before: Path
    """Where the backup before is, if there is one."""
    manifest_before: BackupManifest | None
    after_piece: Callable[[int], None]
    """Told of the bytes that were copied, for progress and the throttle."""
    control: Control
    files: dict[str, FileInBackup] = field(factory=dict)
    copied_bytes: int = 0

    def take(self, used: list[tuple[int, int]]) -> None:
        """Have a copy of each of these files, given as (number, bytes). Of one that is missing
        there is none: that is damage, which the verification of the copy tells.

        Raises:
            OSError: one cannot be read or written.
        """
        if used:
            (self.target / VALUES_NAME).mkdir(mode=0o700)
        for number, size in used:
            name = f"{VALUES_NAME}/{file_name(number)}"
            if (self.source / name).is_file():
                self.files[name] = self._linked(name, size) or self._copied(name, size)

    def _linked(self, name: str, size: int) -> FileInBackup | None:
        """Where the backup before has the same bytes, and they are whole."""
        before = None if self.manifest_before is None else self.manifest_before.files.get(name)
        if before is None or before.size_bytes != size:
            return None
        digest = hashlib.sha256()
        for piece in _pieces(self.source / name, size):
            digest.update(piece)
            self.control.step("comparing", 0)
        if digest.hexdigest() != before.sha256:
            return None
        try:
            if file_digest(self.before / name, self.control) != before.sha256:
                return None
            os.link(self.before / name, self.target / name)
        except OSError:
            return None
        return before

    def _copied(self, name: str, size: int) -> FileInBackup:
        copy = self.target / name
        copy.touch(mode=0o600)
        digest, copied = hashlib.sha256(), 0
        with naming(copy), copy.open("r+b") as target:
            for piece in _pieces(self.source / name, size):
                target.write(piece)
                digest.update(piece)
                copied += len(piece)
                self.after_piece(len(piece))
        self.copied_bytes += copied
        return FileInBackup(copied, digest.hexdigest())


def _pieces(path: Path, size: int) -> Iterator[bytes]:
    """The first bytes of a file; fewer where it is shorter."""
    with naming(path), path.open("rb") as file:
        while size and (piece := file.read(min(size, _PIECE_BYTES))):
            size -= len(piece)
            yield piece


def changed_values(
    directory: Path, manifest: BackupManifest, control: Control
) -> tuple[list[Finding], dict[str, str]]:
    """What is wrong with the files in a backup of a database, and the digests that they have.

    Raises:
        OSError: one is there and cannot be read.
    """
    findings, digests = [], {}
    for name, file in manifest.files.items():
        path = directory / name
        if _is_value_file(name) and path.is_file() and not path.is_symlink():
            digests[name] = file_digest(path, control)
        if digests.get(name) != file.sha256:
            findings.append(changed_file(name))
    return findings, digests


def copy_values(
    source: Path, target: Path, digests: dict[str, str], after_piece: Callable[[int], None]
) -> None:
    """Copy files of values out of a backup, and see that the copies have these digests. Whoever
    calls it syncs them.

    Raises:
        CorruptDataError: a copy differs.
        OSError: not copied.
    """
    if digests:
        (target / VALUES_NAME).mkdir(mode=0o700)
    for name, expected in digests.items():
        digest, copy = hashlib.sha256(), target / name
        copy.touch(mode=0o600)
        with naming(copy), copy.open("r+b") as file:
            for piece in _pieces(source / name, (source / name).stat().st_size):
                file.write(piece)
                digest.update(piece)
                after_piece(len(piece))
        if digest.hexdigest() != expected:
            raise CorruptDataError("the copy differs from the backup; nothing was restored", copy)

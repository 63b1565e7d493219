"""The file ``BACKUP`` in a backup: what it is a backup of, and what its database must be."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Final

import msgspec

from mpreg.errors import CorruptDataError, DataDirectoryError, SchemaVersionError
from mpreg.persistence.maintenance.worker import Control

__all__ = [
    "MANIFEST_NAME",
    "BackupManifest",
    "FileInBackup",
    "file_digest",
    "read_manifest",
    "write_manifest",
]

MANIFEST_NAME: Final = "BACKUP"
FORMAT_VERSION: Final = 1

_PIECE_BYTES: Final = 1 << 20


class FileInBackup(msgspec.Struct, frozen=True):
    size_bytes: int
    sha256: str


class BackupManifest(msgspec.Struct, frozen=True, kw_only=True):
    """What `backup` writes beside the database."""

    format_version: int = FORMAT_VERSION
    backend: str = "sqlite"
    source: str
    """The data directory, as an absolute path on the machine that made it."""
    made_at: float
    """Wall clock, in seconds since 1970."""
    generation: int
    commit_sequence: int
    """All groups up to this one are in the backup, and none after it."""
    last_version: int
    size_bytes: int
    sha256: str = ""
    """Of the database file."""
    first_sequence: int | None = None
    """Of a journal: the commit of its snapshot, the earliest as of which it can be restored."""
    files: dict[str, FileInBackup] = {}
    """Of a journal: its files by name."""
    damaged: int = 0
    """Findings that were there when it was made, with ``allow_damaged``."""

    @property
    def earliest(self) -> int:
        """The earliest commit as of which it can be restored."""
        return self.commit_sequence if self.first_sequence is None else self.first_sequence


def write_manifest(directory: Path, manifest: BackupManifest) -> None:
    path = directory / MANIFEST_NAME
    path.touch(mode=0o600)
    path.write_bytes(msgspec.json.format(msgspec.json.encode(manifest), indent=2) + b"\n")


def read_manifest(directory: Path) -> BackupManifest:
    """Of a backup.

    Raises:
        DataDirectoryError: there is none, so this is no backup.
        CorruptDataError: it cannot be read.
        SchemaVersionError: made by a newer mpreg.
    """
    path = directory / MANIFEST_NAME
    try:
        found = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        raise DataDirectoryError(directory, f"no {MANIFEST_NAME} in it: not a backup") from error
    except OSError as error:
        raise DataDirectoryError(path, f"it cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(found, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise SchemaVersionError(path, version, FORMAT_VERSION)
        return msgspec.json.decode(found, type=BackupManifest)
    except msgspec.MsgspecError as error:
        raise CorruptDataError(f"the manifest is damaged: {error}", path=path) from error


class _Version(msgspec.Struct, frozen=True):
    format_version: int


def file_digest(path: Path, control: Control) -> str:
    """SHA-256 of a file that no connection of this process uses, in hexadecimal."""
    digest = hashlib.sha256()
    done, total = 0, path.stat().st_size
    with path.open("rb") as file:
        while piece := file.read(_PIECE_BYTES):
            digest.update(piece)
            done += len(piece)
            control.step("reading back", done, total)
    return digest.hexdigest()

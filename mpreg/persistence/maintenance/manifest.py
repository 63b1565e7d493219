"""The file ``BACKUP`` in a backup: what it is a backup of, and what its database must be."""

from __future__ import annotations

import hashlib
import os
import zlib
from pathlib import Path
from typing import Final

import msgspec

from mpreg.errors import CorruptDataError, DataDirectoryError, SchemaVersionError
from mpreg.persistence.maintenance.quarantine import QUARANTINE_NAME
from mpreg.persistence.maintenance.worker import Control
from mpreg.persistence.own_names import BACKUP_NAME

__all__ = [
    "MANIFEST_NAME",
    "BackupManifest",
    "FileInBackup",
    "check_quarantine",
    "describe_file",
    "file_digest",
    "read_manifest",
    "source_name",
    "write_manifest",
]

MANIFEST_NAME: Final = BACKUP_NAME
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
    """The data directory, as an absolute path on the machine that made it: see `source_name`."""
    made_at: float
    """Wall clock, in seconds since 1970."""
    generation: int
    commit_sequence: int
    """All groups up to this one are in the backup, and none after it."""
    last_version: int
    size_bytes: int
    """Of all that it is a copy of."""
    sha256: str = ""
    """Of the database file."""
    first_sequence: int | None = None
    """Of a journal: the commit of its snapshot, the earliest as of which it can be restored."""
    files: dict[str, FileInBackup] = {}
    """Of a journal: its files by name; of a database: those of its values, with their directory."""
    quarantine: dict[str, FileInBackup] = {}
    """What repairs had set aside, by the names of the files."""
    damaged: int = 0
    """Findings that were there when it was made, with ``allow_damaged``."""
    crc32: int = 0
    """Of all that stands above."""

    @property
    def earliest(self) -> int:
        """The earliest commit as of which it can be restored."""
        return self.commit_sequence if self.first_sequence is None else self.first_sequence


def source_name(data_dir: Path) -> str:
    """A path as text, also where it is not UTF-8: then with ``\\xff`` for a byte that is none."""
    return os.fsencode(data_dir).decode("utf-8", "backslashreplace")


def write_manifest(directory: Path, manifest: BackupManifest) -> None:
    path = directory / MANIFEST_NAME
    path.touch(mode=0o600)
    sealed = msgspec.structs.replace(manifest, crc32=_checksum(manifest))
    path.write_bytes(msgspec.json.format(msgspec.json.encode(sealed), indent=2) + b"\n")


def _checksum(manifest: BackupManifest) -> int:
    return zlib.crc32(msgspec.json.encode(msgspec.structs.replace(manifest, crc32=0)))


def read_manifest(directory: Path) -> BackupManifest:
    """Of a backup.

    Raises:
        DataDirectoryError: there is none, so this is no backup.
        CorruptDataError: it cannot be read.
        SchemaVersionError: made by a newer mpreg.
    """
    path = directory / MANIFEST_NAME
    if path.exists() and not path.is_file():
        # A named pipe would be waited for.
        raise DataDirectoryError(path, "this is no file: not a backup")
    try:
        found = path.read_bytes()
    except (FileNotFoundError, NotADirectoryError) as error:
        why = f"no {MANIFEST_NAME} in it" if directory.exists() else "there is no such directory"
        raise DataDirectoryError(directory, f"{why}: not a backup") from error
    except OSError as error:
        raise DataDirectoryError(path, f"it cannot be read: {error.strerror}") from error
    try:
        version = msgspec.json.decode(found, type=_Version).format_version
        if version > FORMAT_VERSION:
            raise SchemaVersionError(path, version, FORMAT_VERSION)
        manifest = msgspec.json.decode(found, type=BackupManifest)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise CorruptDataError(
            f"the manifest is damaged: {error}; nothing was changed: use another backup", path=path
        ) from error
    if manifest.crc32 != _checksum(manifest):
        raise CorruptDataError(
            "the manifest does not match its checksum; nothing was changed: use another backup",
            path=path,
        )
    return manifest


def check_quarantine(directory: Path, manifest: BackupManifest, control: Control) -> None:
    """
    Raises:
        CorruptDataError: what was set aside is not what the backup wrote.
        OSError: a file cannot be read.
    """
    for name, file in manifest.quarantine.items():
        path = directory / QUARANTINE_NAME / name
        if not path.is_file() or file_digest(path, control) != file.sha256:
            raise CorruptDataError("the file is not what the backup wrote", path=path)


class _Version(msgspec.Struct, frozen=True):
    format_version: int


def describe_file(path: Path, control: Control) -> FileInBackup:
    return FileInBackup(path.stat().st_size, file_digest(path, control))


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

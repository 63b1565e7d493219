"""The control file on disk: made, read, and written over slot by slot."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

from mpreg.errors import ForeignDatabaseError
from mpreg.persistence.backends.file.control import (
    CONTROL_BYTES,
    SLOT_OFFSETS,
    Control,
    decode_control,
    encode_slot,
    new_control,
)
from mpreg.persistence.backends.file.failures import reading
from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import CONTROL_MAGIC
from mpreg.persistence.backends.file.journal import put_in_place
from mpreg.persistence.backends.file.names import UNFINISHED

__all__ = ["ControlFile"]


class ControlFile:
    """The control file, and the slot that holds what was written last."""

    def __init__(self, files: FileSystem, path: Path, content: Control, slot: int) -> None:
        self.content = content
        self._files = files
        self._path = path
        self._slot = slot

    @classmethod
    def create(cls, files: FileSystem, path: Path) -> None:
        """Raises OSError or JournalBrokenError."""
        unfinished = path.with_name(path.name + UNFINISHED)
        file = files.create(unfinished)
        try:
            try:
                files.write(file, new_control(), 0)
                files.sync(file)
            finally:
                files.close(file)
        except OSError:
            with suppress(OSError):
                files.remove(unfinished)
            raise
        put_in_place(files, path)

    @classmethod
    def read(cls, files: FileSystem, path: Path) -> ControlFile:
        """Raises ForeignDatabaseError, CorruptDataError, SchemaVersionError or StorageIOError."""
        with reading(path):
            file = files.open(path)
            try:
                data = files.read(file, CONTROL_BYTES, 0)
            finally:
                files.close(file)
            if data[: len(CONTROL_MAGIC)] != CONTROL_MAGIC[: len(data)]:
                raise ForeignDatabaseError(
                    path, "this is not mpreg's control file; it was left untouched: move it away"
                )
            return cls(files, path, *decode_control(data))

    def write(self, content: Control) -> None:
        """Write the slot that is not the newest, and sync it.

        Raises:
            OSError: the newest slot stands. The next call writes the same one as this: it may hold
                anything now.
        """
        other = 1 - self._slot
        file = self._files.open(self._path)
        try:
            self._files.write(file, encode_slot(content), SLOT_OFFSETS[other])
            self._files.sync(file)
        finally:
            self._files.close(file)
        self._slot, self.content = other, content

"""One state of a journal as a set of files: which they are, and how each is copied.

A journal is a snapshot and the segments after it. All but the last segment stay as they are until
they are removed. They are opened before anything is copied, so that none can go meanwhile; of the
last one that is copied which stands, so that the copy ends with a commit.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from attrs import define, field

from mpreg.errors import CorruptDataError, StorageIOError
from mpreg.persistence.backends.file.control import SLOT_OFFSETS as SLOT_OFFSETS
from mpreg.persistence.backends.file.control import Control, encode_slot, new_control
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.following import READINGS_MAX, ReadOnlyFiles
from mpreg.persistence.backends.file.format import (
    HEADER_BYTES,
    SEGMENT_MAGIC,
    FrameKind,
    decode_header,
)
from mpreg.persistence.backends.file.names import Names, segment_name, snapshot_name
from mpreg.persistence.backends.file.segment import scan_segment
from mpreg.persistence.maintenance.staging import naming
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["OpenFile", "OpenJournal", "end_of_commit", "opened_journal", "write_control"]

PIECE_BYTES: Final = 256 << 10


@define
class OpenFile:
    """A file of the journal that cannot go any more."""

    path: Path
    descriptor: int
    size: int

    @property
    def name(self) -> str:
        return self.path.name

    def pieces(self) -> Iterator[bytes]:
        """Its bytes up to ``size``."""
        at = 0
        while at < self.size:
            with naming(self.path):
                piece = os.pread(self.descriptor, min(PIECE_BYTES, self.size - at), at)
            if not piece:
                raise StorageIOError(f"{self.name} became shorter while it was read")
            at += len(piece)
            yield piece

    def digest(self, after_piece: Callable[[int], None]) -> str:
        """SHA-256, in hexadecimal."""
        digest = hashlib.sha256()
        for piece in self.pieces():
            digest.update(piece)
            after_piece(len(piece))
        return digest.hexdigest()


@define
class OpenJournal:
    """All files of one state."""

    generation: int
    durable_sequence: int
    """The journal was on disk up to this commit."""
    base_sequence: int
    """Of the snapshot; 0: there is none."""
    files: list[OpenFile] = field(factory=list)
    """The last one is the segment that was being written."""


@contextmanager
def opened_journal(directory: Path) -> Iterator[OpenJournal]:
    """Open the files of a directory's journal, while somebody may be writing to it.

    Raises:
        ForeignDatabaseError, SchemaVersionError, CorruptDataError: the control file cannot be used,
            or there is no segment.
        StorageIOError: the files change faster than they can be opened.
        OSError: they cannot be opened.
    """
    journal = None
    for _ in range(READINGS_MAX):
        try:
            journal = _open_files(directory)
        except FileNotFoundError:
            continue
        break
    if journal is None:
        raise StorageIOError("its files change each time they are opened; try it again", directory)
    try:
        yield journal
    finally:
        for file in journal.files:
            os.close(file.descriptor)


def _open_files(directory: Path) -> OpenJournal:
    files = ReadOnlyFiles()
    control = ControlFile.read(files, directory / JOURNAL_NAME).content
    names = Names.of(files.names(directory), JOURNAL_NAME)
    journal = OpenJournal(control.generation, control.durable_sequence, names.base)
    wanted = [snapshot_name(names.base)] if names.snapshots else []
    wanted += [segment_name(first) for first in names.needed_segments]
    if not names.needed_segments:
        raise CorruptDataError("the segment is missing", directory / segment_name(names.base + 1))
    try:
        for name in wanted:
            descriptor = files.open(directory / name)
            journal.files.append(OpenFile(directory / name, descriptor, files.size(descriptor)))
    except BaseException:
        for file in journal.files:
            os.close(file.descriptor)
        raise
    return journal


def end_of_commit(content: bytes, first_sequence: int, up_to: int | None) -> tuple[int, int]:
    """(where the frames up to a commit end, the last commit before that); None: all that stand.

    Raises:
        DamageError: the segment is damaged.
        NewerFormatError: written by a newer mpreg.
    """
    decode_header(content[:HEADER_BYTES], SEGMENT_MAGIC)
    segment = scan_segment(content, first_sequence, is_last=True)
    end, last = HEADER_BYTES, first_sequence - 1
    for frame in segment.frames:
        if frame.kind == FrameKind.COMMIT:
            if up_to is not None and frame.sequence > up_to:
                break
            last = frame.sequence
        end = frame.end
    return end, last


def write_control(directory: Path, control: Control) -> None:
    """A control file that says what the copy holds."""
    content = bytearray(new_control())
    slot = encode_slot(control)
    for offset in SLOT_OFFSETS:
        content[offset : offset + len(slot)] = slot
    path = directory / JOURNAL_NAME
    path.touch(mode=0o600)
    path.write_bytes(content)

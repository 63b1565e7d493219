"""A journal that somebody else may be writing to, or nobody: read, and followed as it grows.

What is read is a consistent prefix: whole frames in order, up to the last one that stands. Whoever
writes is not hindered, and knows nothing of it. What changes under the reader (a segment that a
snapshot has replaced, a journal that was opened anew) makes it read the directory again.

A frame can be seen the moment it is written, before it is synced and acknowledged; a power cut may
still take it then.
"""

from __future__ import annotations

import os
import zlib
from pathlib import Path
from typing import Final

from attrs import define

from mpreg.errors import CorruptDataError, DataDirectoryMissingError, MpregError, StorageIOError
from mpreg.persistence.backends.file.control_file import ControlFile
from mpreg.persistence.backends.file.files import FileSystem, OperatingSystem
from mpreg.persistence.backends.file.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    SEGMENT_MAGIC,
    DamageError,
    Frame,
    FrameKind,
    NewerFormatError,
    decode_frame_header,
    decode_header,
    salt_of,
)
from mpreg.persistence.backends.file.loading import Loaded, load
from mpreg.persistence.backends.file.names import Names, segment_name
from mpreg.persistence.backends.file.payload import apply_payload
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.own_names import JOURNAL_NAME

__all__ = ["JournalFollower", "ReadOnlyFiles", "read_journal"]

#: How often a directory is read before what is wrong with it counts. Each time a file must have
#: gone, or been written to, within the moment that reading takes.
READINGS_MAX: Final = 8


class ReadOnlyFiles(OperatingSystem):
    """Opens nothing for writing."""

    def open(self, path: Path) -> int:
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)


def read_journal(directory: Path, files: FileSystem | None = None) -> Loaded:
    """All that the files of a directory hold, while somebody may write to them.

    Raises:
        DataDirectoryMissingError: there is no journal.
        CorruptDataError: damaged, each time it was read in the same way.
        SchemaVersionError, ForeignDatabaseError, StorageIOError: it cannot be read.
    """
    files = files or ReadOnlyFiles()
    said: str | None = None
    for reading in range(READINGS_MAX):
        try:
            return _read_once(files, directory)
        except (CorruptDataError, StorageIOError) as error:
            # What looks damaged may have been half written when it was read: then it looks
            # different the next time. A file may have gone between its name and its reading.
            if str(error) == said or reading == READINGS_MAX - 1:
                raise
            said = str(error)
    raise AssertionError


def _read_once(files: FileSystem, directory: Path) -> Loaded:
    names = Names.of(files.names(directory), JOURNAL_NAME)
    if not names.has_control:
        raise DataDirectoryMissingError(directory, f"there is no store here: no {JOURNAL_NAME}")
    # First: the journal is at least as long as it says.
    control = ControlFile.read(files, directory / JOURNAL_NAME).content
    names = Names.of(files.names(directory), JOURNAL_NAME)
    return load(files, directory, names, control)


@define
class _Segment:
    """The one that is read from."""

    file: int
    identity: tuple[int, int]
    salt: int
    at: int
    """Up to where it was read."""


class JournalFollower:
    """The state of a journal, brought up to date when asked. Used on one thread."""

    def __init__(self, directory: Path) -> None:
        """Read it. Raises what `read_journal` raises."""
        self.directory = directory
        self.state: MemoryState
        self.sequence: int
        self.generation: int
        self._files = ReadOnlyFiles()
        self._segment: _Segment | None = None
        self._read()

    def catch_up(self) -> None:
        """Take in what was written since. Raises what `read_journal` raises."""
        try:
            is_followed = self._follow()
        except (OSError, DamageError, NewerFormatError, ValueError):
            is_followed = False
        if not is_followed:
            self._read()

    def close(self) -> None:
        """Twice does nothing."""
        segment, self._segment = self._segment, None
        if segment is not None:
            self._files.close(segment.file)

    # --- from the beginning ---

    def _read(self) -> None:
        self.close()
        loaded = read_journal(self.directory)
        self.state, self.sequence = loaded.state, loaded.sequence
        self.generation = loaded.generation
        last = loaded.last_segment
        if last is None:
            return
        try:
            self._open(last.first_sequence, len(last.content))
        except (OSError, MpregError, DamageError, NewerFormatError):
            # Gone meanwhile: it is found out when there is something to be read.
            self._segment = None

    # --- what was written since ---

    def _follow(self) -> bool:
        """Whether the journal is the same one, only longer."""
        segment = self._segment
        if segment is None:
            return False
        while True:
            self._read_frames(segment)
            reached = self.sequence
            following = _identity(self.directory / segment_name(reached + 1))
            if following is None or following == segment.identity:
                break
            # Complete before the next one begins: what was written in between is read first.
            self._read_frames(segment)
            if self.sequence == reached:
                segment = self._open(reached + 1, HEADER_BYTES)
        # Otherwise removed, or replaced by a copy of which it is not known what it has.
        return os.fstat(segment.file).st_nlink > 0

    def _open(self, first: int, at: int) -> _Segment:
        file = self._files.open(self.directory / segment_name(first))
        try:
            header = self._files.read(file, HEADER_BYTES, 0)
            decode_header(header, SEGMENT_MAGIC)
            status = os.fstat(file)
        except BaseException:
            self._files.close(file)
            raise
        self.close()
        self._segment = _Segment(file, (status.st_dev, status.st_ino), salt_of(header), at)
        return self._segment

    def _read_frames(self, segment: _Segment) -> None:
        while (frame := self._next_frame(segment)) is not None:
            payload = self._files.read(segment.file, frame.payload_bytes, frame.payload_start)
            if len(payload) < frame.payload_bytes or zlib.crc32(payload) != frame.payload_checksum:
                # Being written just now.
                return
            if frame.kind == FrameKind.COMMIT:
                if frame.sequence != self.sequence + 1:
                    raise DamageError(f"commit {frame.sequence} stands here", frame.offset)
                apply_payload(payload, self.state)
                self.sequence = frame.sequence
            segment.at = frame.end

    def _next_frame(self, segment: _Segment) -> Frame | None:
        header = self._files.read(segment.file, FRAME_BYTES, segment.at)
        return decode_frame_header(header, 0, segment.salt, base=segment.at)


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = path.stat(follow_symlinks=False)
    except FileNotFoundError:
        return None
    return status.st_dev, status.st_ino

"""The segment that is being written: made complete or not at all, appended to, sealed."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from attrs import define, field

from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import (
    FRAME_BYTES,
    SEGMENT_MAGIC,
    FileHeader,
    FrameKind,
    encode_header,
    fill_in_frame,
    salt_of,
)
from mpreg.persistence.backends.file.loading import LastSegment
from mpreg.persistence.backends.file.names import UNFINISHED, segment_name
from mpreg.persistence.backends.file.payload import Mark, encode_struct
from mpreg.persistence.backends.file.policy import room_ahead

__all__ = ["Journal", "JournalBrokenError", "put_in_place"]

_FRAME_KEPT_BYTES: Final = 1 << 20


class JournalBrokenError(Exception):
    """What is on disk is something that nobody knows."""

    def __init__(self, reason: OSError) -> None:
        self.reason = reason
        """What the system said."""
        super().__init__(reason)


def put_in_place(files: FileSystem, path: Path) -> None:
    """Give a complete, synced file its name.

    Raises:
        OSError: it certainly has not got it.
        JournalBrokenError: it has, or will have after a power cut, or not.
    """
    files.rename(path.with_name(path.name + UNFINISHED), path)
    try:
        files.sync_directory(path.parent)
    except OSError as error:
        raise JournalBrokenError(error) from error


@define(eq=False)
class Journal:
    """An open segment. Every method raises OSError where the system refuses what it asks for."""

    path: Path
    first_sequence: int
    commits: int
    """In this segment."""
    end: int
    """Where the next frame goes."""
    frame: bytearray = field(factory=lambda: bytearray(FRAME_BYTES), init=False)
    """Where a payload is encoded, after the room for the frame's header; see `append`."""
    _files: FileSystem
    _file: int
    _salt: int
    _bytes_max: int
    _synced: int = field(init=False)
    _filled: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._synced = self._filled = self.end

    # --- making one ---

    @classmethod
    def begin(
        cls, files: FileSystem, directory: Path, header: FileHeader, bytes_max: int
    ) -> Journal:
        """Make an empty segment."""
        start = LastSegment(header.sequence, encode_header(SEGMENT_MAGIC, header), commits=0)
        return cls.take_over(files, directory, start, header.generation, bytes_max)

    @classmethod
    def take_over(
        cls,
        files: FileSystem,
        directory: Path,
        last: LastSegment,
        generation: int,
        bytes_max: int,
    ) -> Journal:
        """Go on with a segment: with a copy of what stands of it, and a mark after that.

        A copy, because the old file may be only in the system's cache: after a failed fsync the
        system takes its pages for written, and no later fsync writes them. It also leaves behind a
        torn tail. The mark vouches for all that is before it, as it is on disk once the copy has
        the segment's name.
        """
        path = directory / segment_name(last.first_sequence)
        unfinished = path.with_name(path.name + UNFINISHED)
        file = files.create(unfinished)
        try:
            files.write(file, last.content, 0)
            salt = salt_of(last.content)
            journal = cls(
                path, last.first_sequence, last.commits, len(last.content), files, file, salt,
                bytes_max,
            )  # fmt: skip
            journal.mark(generation)
            journal.sync()
            put_in_place(files, path)
        except BaseException as error:
            with contextlib.suppress(OSError):
                files.close(file)
                if isinstance(error, OSError):
                    # Where there is no room, half a copy only takes more of it.
                    files.remove(unfinished)
            raise
        return journal

    # --- writing ---

    @property
    def last_sequence(self) -> int:
        return self.first_sequence + self.commits - 1

    def append(self, kind: FrameKind, sequence: int) -> None:
        """Write the frame whose payload is in `frame`: one write, at its place.

        Raises:
            OSError: it is not written, and the segment ends as before.
            JournalBrokenError: a part of it may be there, and could not be taken back.
        """
        fill_in_frame(self.frame, self._salt, kind, sequence, self._synced)
        try:
            self._files.write(self._file, self.frame, self.end)
        except OSError as error:
            self._take_back(error)
            raise
        self.end += len(self.frame)
        if len(self.frame) > _FRAME_KEPT_BYTES:
            self.frame = bytearray(FRAME_BYTES)
        self.commits += kind == FrameKind.COMMIT
        if self.end > self._filled:
            self._fill_ahead()

    def _take_back(self, cause: OSError) -> None:
        try:
            self._files.truncate(self._file, self.end)
        except OSError:
            raise JournalBrokenError(cause) from cause
        self._filled = self.end

    def _fill_ahead(self) -> None:
        """Zeros, so that the next commits need not make the file longer. They are only room: where
        there is none, it goes on without."""
        self._filled = self.end
        target = room_ahead(self.end, self._bytes_max)
        with contextlib.suppress(OSError):
            self._files.write(self._file, bytes(target - self.end), self.end)
            self._filled = target

    def mark(self, generation: int) -> None:
        """Write a frame that vouches for all that was synced before it, and names the writer."""
        encode_struct(Mark(generation), self.frame)
        self.append(FrameKind.MARK, self.last_sequence)

    def sync(self) -> None:
        """Not to be called again once it has failed."""
        self._files.sync(self._file)
        self._synced = self.end

    def seal(self) -> None:
        """End the file where the last frame ends, and sync it."""
        self._files.truncate(self._file, self.end)
        self._filled = self.end
        self.sync()

    def finish(self, generation: int) -> None:
        """Seal it with a mark, so that whatever is damaged later is found out."""
        if self._synced != self.end:
            # First: a power cut could leave the mark, and not all of what it vouches for.
            self.sync()
        self.mark(generation)
        self.seal()

    def close(self) -> None:
        file, self._file = self._file, -1
        if file >= 0:
            self._files.close(file)

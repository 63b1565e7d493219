"""Writing a snapshot, a step beside each commit: all that is alive, as it was at one commit."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Final

from mpreg.persistence.backends.file.files import FileSystem
from mpreg.persistence.backends.file.format import (
    FRAME_BYTES,
    SNAPSHOT_MAGIC,
    FileHeader,
    FrameKind,
    encode_header,
    fill_in_frame,
    salt_of,
)
from mpreg.persistence.backends.file.journal import put_in_place
from mpreg.persistence.backends.file.names import UNFINISHED, snapshot_name
from mpreg.persistence.backends.file.payload import SnapshotEnd, encode_piece, encode_struct
from mpreg.persistence.backends.state import MemoryState
from mpreg.persistence.commit_group import NewRecord

__all__ = ["SnapshotWriter"]

_PIECE_BYTES_MAX: Final = 1 << 20


class SnapshotWriter:
    """A snapshot under way. Until it is complete nothing depends on it: it may fail at any time.

    The state is frozen when it is made, and goes on changing; see `FrozenState`.
    """

    def __init__(
        self, files: FileSystem, directory: Path, state: MemoryState, header: FileHeader
    ) -> None:
        self.sequence = header.sequence
        self.bytes_written = 0
        self._files = files
        self._path = directory / snapshot_name(header.sequence)
        self._unfinished = self._path.with_name(self._path.name + UNFINISHED)
        self._state = state
        self._parts = 0
        self._frame = bytearray(FRAME_BYTES)
        start = encode_header(SNAPSHOT_MAGIC, header)
        self._salt = salt_of(start)
        self._file = files.create(self._unfinished)
        try:
            self._write(start)
        except OSError:
            self.abandon()
            raise
        self._frozen = state.freeze()

    def step(self, bytes_max: int) -> bool:
        """Write about so much of it. True: it is complete, on disk, and has its name.

        Raises:
            OSError, JournalBrokenError: it is of no use any more; `abandon` it.
        """
        target = self.bytes_written + bytes_max
        while self.bytes_written < target:
            if not self._write_piece(min(bytes_max, _PIECE_BYTES_MAX)):
                self._complete()
                return True
        return False

    def _write_piece(self, bytes_max: int) -> bool:
        begun: dict[bytes, int] = {}
        records: list[NewRecord] = []
        entries = self._frozen.take_entries(bytes_max)
        if not entries:
            begun, records = self._frozen.take_records(bytes_max)
            if not begun and not records:
                return False
        encode_piece(self._frozen.last_version, entries, begun, records, self._frame)
        self._append(FrameKind.PART)
        self._parts += 1
        return True

    def _append(self, kind: FrameKind) -> None:
        fill_in_frame(self._frame, self._salt, kind, self._parts, 0)
        self._write(self._frame)

    def _write(self, data: bytes | bytearray) -> None:
        self._files.write(self._file, data, self.bytes_written)
        # Without it all of a large snapshot would be waited for at its end.
        self._files.start_sync(self._file, self.bytes_written, len(data))
        self.bytes_written += len(data)

    def _complete(self) -> None:
        encode_struct(SnapshotEnd(self._frozen.last_version, self._parts), self._frame)
        self._append(FrameKind.END)
        self._files.sync(self._file)
        self.let_go()
        put_in_place(self._files, self._path)

    def abandon(self) -> None:
        """Give it up, and its room back."""
        self.let_go()
        with contextlib.suppress(OSError):
            self._files.remove(self._unfinished)

    def let_go(self) -> None:
        """Only close the file. Whoever opens the journal next removes it."""
        self._state.thaw()
        file, self._file = self._file, -1
        if file >= 0:
            with contextlib.suppress(OSError):
                self._files.close(file)

"""Room in the write-ahead log, made ahead of the commits that use it."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Final

from mpreg.persistence.backends.sqlite.places import FILE_VALUE_BYTES
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Put

__all__ = ["WalRoom", "pages_at_most"]

PAGE_BYTES: Final = 4096
#: A page in the WAL, with its frame's header.
FRAME_BYTES: Final = PAGE_BYTES + 24
#: The first step is small, since who has just opened the store waits for it; then they double.
FIRST_STEP_BYTES: Final = 1 << 16
STEP_BYTES_MAX: Final = 1 << 20


def pages_at_most(group: CommitGroup) -> int:
    """A page for each row, those that large values fill, and that of the meta row. Values that are
    written to files fill none.

    An expiry is a row in the index besides, and moves there from one page to another.
    What is removed without being named is not among them: see `CommitPlan.rows_removed`.
    """
    size = rows = 0
    for batch in group.batches:
        size += batch.filled_bytes
        for operation in batch.operations:
            if type(operation) is Put:
                rows += 1 if operation.expires_at is None else 3
                if len(operation.value) >= FILE_VALUE_BYTES:
                    # Its own row, and that of its file.
                    rows += 2
                    size -= len(operation.value)
            else:
                rows += 1
    return rows + size // PAGE_BYTES + 1


class WalRoom:
    """Keeps the WAL's file a little longer than what is in it, up to its size at a checkpoint.

    To sync a file that has grown, the file system also writes where its new blocks are, which
    takes several times as long as the data alone. SQLite uses the file again after a checkpoint,
    and is fast from then on; until then each commit would make it grow. So it is made to grow by
    larger steps, with zeros, and the next commits write over those. For SQLite they are what the
    rest of a used WAL is: no frame with the right salt, so the end.
    """

    def __init__(self, database: Path, *, pages_max: int) -> None:
        self._wal = Path(f"{database}-wal")
        self._bytes_max = pages_max * FRAME_BYTES
        # All of one that a crash has left may be in use.
        self._size = self._used = _bytes_of(self._wal)
        self._step = FIRST_STEP_BYTES

    def make(self, group: CommitGroup) -> None:
        """Before a group's transaction. A full disk is left for the transaction to meet."""
        if self._size < self._bytes_max:
            self.make_pages(pages_at_most(group))

    def make_pages(self, pages: int) -> None:
        """For what only the plan tells. Its transaction may have begun, and even spilled pages:
        zeros are only ever added behind all that is there."""
        if self._size >= self._bytes_max:
            return
        self._used += pages * FRAME_BYTES
        if self._used <= self._size:
            return
        wanted = min(self._used + self._step, self._bytes_max)
        self._step = min(2 * self._step, STEP_BYTES_MAX)
        # Not to be made where it is missing: SQLite gives it the database's own modes.
        with contextlib.suppress(OSError), self._wal.open("r+b") as wal:
            wal.write(bytes(max(0, wanted - wal.seek(0, os.SEEK_END))))
        # Also where it failed: to be tried again only when there is more to write.
        self._size = wanted


def _bytes_of(wal: Path) -> int:
    try:
        return wal.stat().st_size
    except OSError:
        return 0

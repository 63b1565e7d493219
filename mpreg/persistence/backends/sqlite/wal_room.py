"""Room in the write-ahead log, made ahead of the commits that use it."""

from __future__ import annotations

import contextlib
import os
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Final

from mpreg.persistence.backends.sqlite.large_records import LARGE_RECORD_BYTES
from mpreg.persistence.backends.sqlite.places import FILE_VALUE_BYTES
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, Put

__all__ = ["WalRoom", "pages_at_most"]

PAGE_BYTES: Final = 4096
#: A page in the WAL, with its frame's header.
FRAME_BYTES: Final = PAGE_BYTES + 24
#: The first step is small, since who has just opened the store waits for it; then they double.
FIRST_STEP_BYTES: Final = 1 << 16
STEP_BYTES_MAX: Final = 1 << 20
#: Never written to, so that they are no memory, and the system need not make pages of them anew.
_ZEROS: Final = memoryview(bytes(STEP_BYTES_MAX))

_SIZE: Final = attrgetter("size_bytes")
_ROOM: Final = attrgetter("room")
_OPERATIONS: Final = attrgetter("operations")


def pages_at_most(group: CommitGroup) -> int:
    """A page for each row, those that large values fill, and that of the meta row. Values that are
    written to files fill none. The records of an append lie together, but for large ones: they may
    leave so much of a page that each takes one.

    An expiry is a row in the index besides, and moves there from one page to another.
    What is removed without being named is not among them: see `CommitPlan.rows_removed`.
    """
    size: int = sum(map(_SIZE, group.batches)) - sum(map(_ROOM, group.batches))
    rows = 0
    for operation in chain.from_iterable(map(_OPERATIONS, group.batches)):
        rows += 1
        if type(operation) is Put:
            if operation.expires_at is not None:
                rows += 2
            if len(operation.value) >= FILE_VALUE_BYTES:
                # Its own row, and that of its file.
                rows += 2
                size -= len(operation.value)
        elif type(operation) is Append:
            rows += sum([len(data) > LARGE_RECORD_BYTES for data in operation.records])
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

    def make(self, pages: int) -> None:
        """Before a group's transaction, or in it, for what only the plan tells: it may even have
        spilled pages, as zeros are only ever added behind all that is there. A full disk is left
        for the transaction to meet."""
        if self._size >= self._bytes_max:
            return
        self._used += pages * FRAME_BYTES
        if self._used <= self._size:
            return
        wanted = min(self._used + self._step, self._bytes_max)
        self._step = min(2 * self._step, STEP_BYTES_MAX)
        # Not to be made where it is missing: SQLite gives it the database's own modes.
        with contextlib.suppress(OSError), self._wal.open("r+b", buffering=0) as wal:
            missing = wanted - wal.seek(0, os.SEEK_END)
            while missing > 0:
                missing -= wal.write(_ZEROS[:missing])
        # Also where it failed: to be tried again only when there is more to write.
        self._size = wanted


def _bytes_of(wal: Path) -> int:
    try:
        return wal.stat().st_size
    except OSError:
        return 0

"""When to move the WAL's pages into the database: a function of the size of its file."""

from __future__ import annotations

from typing import Final

from attrs import define, field

from mpreg.persistence.backend import Checkpoint
from mpreg.persistence.backends.sqlite.wal_room import FRAME_BYTES

__all__ = ["HEADER_BYTES", "LOOKS", "TRUNCATE_FACTOR", "CheckpointPolicy"]

#: Of the WAL's file.
HEADER_BYTES: Final = 32

#: How often the file is looked at, at most, until there is as much in it as there may be.
LOOKS: Final = 8

#: From so many times the size on readers are waited for, so that the WAL can begin anew.
TRUNCATE_FACTOR: Final = 4


@define
class CheckpointPolicy:
    """The file says when it is time, since it is made no longer than ``limit_bytes`` ahead of what
    is in it, and cut to that when SQLite begins it anew: where it is longer, it is in use.

    To ask for its size costs a system call, and a hand-over of the interpreter lock, so that is
    only done when as many pages may have been written since.
    """

    _pages_max: int
    limit_bytes: int = field(init=False)
    _due_bytes: int = field(init=False)
    _unseen_pages: int = 0

    def __attrs_post_init__(self) -> None:
        self.limit_bytes = self._due_bytes = HEADER_BYTES + self._pages_max * FRAME_BYTES

    def wants_look(self, pages: int) -> bool:
        """Whether to look at the file, after a commit of at most so many pages."""
        self._unseen_pages += pages
        if self._unseen_pages < max(1, self._pages_max // LOOKS):
            return False
        self._unseen_pages = 0
        return True

    def decide(self, wal_bytes: int) -> Checkpoint | None:
        """What is due, with a file of this size."""
        if wal_bytes <= self.limit_bytes:
            self._due_bytes = self.limit_bytes
        if wal_bytes <= self._due_bytes:
            return None
        return Checkpoint(truncate=wal_bytes > TRUNCATE_FACTOR * self.limit_bytes)

    def failed(self, wal_bytes: int) -> None:
        """A checkpoint failed, or was held up by a reader, with a file of this size: it is time
        again when it has grown by a good part, and not at each commit."""
        self._due_bytes = max(wal_bytes, self.limit_bytes) + self.limit_bytes // 4

    def succeeded(self) -> None:
        """All was moved: the next write begins the file anew."""
        self._due_bytes = self.limit_bytes

"""The durable commits of a database, counted from outside: the same way for every contender."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Final

__all__ = ["count_commits"]

#: SQLite's index of a WAL begins with its version, four bytes that are not used, and a number that
#: grows by one with each transaction that has written something: in the machine's own byte order.
_HEADER: Final = struct.Struct("=III")


def count_commits(directory: Path) -> int:
    """Those of all databases in a directory that are open, since they were opened. With
    ``synchronous=FULL``, as everybody here has it, each is one fsync of the WAL; what checkpoints
    sync is not counted."""
    return sum(_changes(index) for index in directory.glob("*-shm"))


def _changes(index: Path) -> int:
    with index.open("rb") as file:
        _version, _unused, changes = _HEADER.unpack(file.read(_HEADER.size))
    return int(changes)

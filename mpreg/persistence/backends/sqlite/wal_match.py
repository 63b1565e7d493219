"""Whether a database and the write-ahead log beside it belong together.

SQLite takes any log for the database's own: it has no number that both of them have. Where one of
the two is from another time, because a directory was copied while a process wrote, or one file was
put back alone, pages of different times are read as one database, and nothing of it is damaged by
itself. The log may also have lost its end, when a part of it was in the database already.

The commit sequence tells. A log is only ever begun when all before it is in the database, and only
what is in the log is moved there. So what the database has by itself is never before the first
commit of the log less one, and never behind the last one.

The log's format: https://www.sqlite.org/fileformat.html#the_write_ahead_log
"""

from __future__ import annotations

import sqlite3
import struct
from collections.abc import Callable, Iterator
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import BinaryIO, Final

from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite.schema import READ_META

__all__ = ["match_log"]

_MAGIC: Final = 0x377F0682
_BIG_ENDIAN: Final = 1
"""In the magic number: how the words that are summed up are read."""
_LOG_HEADER: Final = struct.Struct(">IIII8sII")
"""Magic, version, page size, checkpoint, salt, and a checksum of two words over all before it."""
_FRAME_HEADER: Final = struct.Struct(">II8sII")
"""Page, size of the database after a commit, salt, and the checksum up to here."""
_SUMMED_IN_HEADER: Final = 24
_SUMMED_IN_FRAME: Final = 8

_ROOTS: Final = (
    "SELECT (SELECT rootpage FROM sqlite_master WHERE name = 'meta'), max(rootpage) "
    "FROM sqlite_master"
)
#: The tables are made with the database, and their first pages lie at its beginning.
_ROOT_MAX: Final = 256
#: Within a commit the pages of a log are in their order, so that this one is among the first.
_FRAMES_MAX: Final = 1_024

# In the header of a database: whether it is in WAL mode, and its size in pages.
_MODE: Final = slice(18, 20)
_NO_LOG: Final = b"\x01\x01"
_PAGES: Final = slice(28, 32)

_REMEDY: Final = (
    "both were left untouched: where the directory was copied while a process wrote, copy it "
    "again, with `mpreg backup`; else restore a backup"
)


@frozen
class _InDatabase:
    """What a database file has by itself, without what its log would add."""

    sequence: int
    root: int
    """The number of the page that this stands in; the first one is 1."""
    page_bytes: int
    first_pages: bytes
    """With the first page of each table: without, SQLite would not read any."""


def match_log(path: Path) -> Callable[[int], None]:
    """See that the log may be the database's. What it returns is to be told with which commit
    sequence the two of them end.

    Nobody may have the database open in this process: its locks would be dropped.

    Raises, as what it returns does:
        CorruptDataError: they do not belong together.
        OSError: one of them cannot be read.
    """
    alone = _look_without_log(path)
    first = None if alone is None else _first_sequence(path, alone)
    if alone is not None and first is not None and first > alone.sequence + 1:
        # A process that has come meanwhile may have moved the log, and begun it anew.
        alone = _look_without_log(path)
    if alone is None:
        return lambda _: None
    if first is not None and first > alone.sequence + 1:
        raise CorruptDataError(
            "the database is older than the write-ahead log beside it: it has the commits up to "
            f"{alone.sequence}, and the log begins with {first}; {_REMEDY}",
            path,
        )

    def check_end(sequence: int) -> None:
        if sequence < alone.sequence:
            raise CorruptDataError(
                "the write-ahead log is older than the database, or its end is damaged: it ends "
                f"with commit {sequence}, and the database has commits up to {alone.sequence} by "
                f"itself, so the log's pages would take the place of newer ones; {_REMEDY}, or "
                "move the log away and see with `mpreg verify` what the database is without it",
                Path(f"{path}-wal"),
            )

    return check_end


def _look_without_log(path: Path) -> _InDatabase | None:
    """What the database has by itself; None where that cannot be told: a checkpoint that was cut
    short may have left pages that only the log makes whole."""
    uri = f"{path.absolute().as_uri()}?mode=ro&immutable=1"
    try:
        with closing(sqlite3.connect(uri, uri=True)) as connection:
            (page_bytes,) = connection.execute("PRAGMA page_size").fetchone()
            root, last_root = connection.execute(_ROOTS).fetchone()
            _, sequence, _ = connection.execute(READ_META).fetchone()
            if type(sequence) is not int or not 0 < root <= last_root <= _ROOT_MAX:
                return None
    except (sqlite3.Error, TypeError):
        # TypeError: there is no such row, or no number in it.
        return None
    with path.open("rb") as file:
        return _InDatabase(sequence, root, page_bytes, file.read(last_root * page_bytes))


def _first_sequence(path: Path, alone: _InDatabase) -> int | None:
    """That of the first commit in the log; None where there is none."""
    try:
        with Path(f"{path}-wal").open("rb") as log:
            for number, page in islice(_frames(log, alone.page_bytes), _FRAMES_MAX):
                if number == alone.root:
                    return _sequence_in(alone, page)
    except FileNotFoundError:
        pass
    return None


def _frames(log: BinaryIO, page_bytes: int) -> Iterator[tuple[int, bytes]]:
    """The pages in a log that are whole, with their numbers, as they were written."""
    header = log.read(_LOG_HEADER.size)
    if len(header) < _LOG_HEADER.size:
        return
    magic, _, size, _, salt, *found = _LOG_HEADER.unpack(header)
    order = ">" if magic & _BIG_ENDIAN else "<"
    checksum = _add(header[:_SUMMED_IN_HEADER], (0, 0), order)
    if magic & ~_BIG_ENDIAN != _MAGIC or size != page_bytes or checksum != tuple(found):
        return
    whole = _FRAME_HEADER.size + page_bytes
    while len(frame := log.read(whole)) == whole:
        number, _, of_log, *found = _FRAME_HEADER.unpack_from(frame)
        page = frame[_FRAME_HEADER.size :]
        checksum = _add(frame[:_SUMMED_IN_FRAME] + page, checksum, order)
        if of_log != salt or checksum != tuple(found):
            return
        yield number, page


def _add(data: bytes, checksum: tuple[int, int], order: str) -> tuple[int, int]:
    first, second = checksum
    words = iter(struct.unpack(f"{order}{len(data) // 4}I", data))
    for one, other in zip(words, words, strict=True):
        first = (first + one + second) & 0xFFFFFFFF
        second = (second + other + first) & 0xFFFFFFFF
    return first, second


def _sequence_in(alone: _InDatabase, page: bytes) -> int | None:
    """The commit sequence in a later state of the page that it is in."""
    image, start = bytearray(alone.first_pages), (alone.root - 1) * alone.page_bytes
    image[start : start + alone.page_bytes] = page
    image[_MODE] = _NO_LOG
    image[_PAGES] = (len(image) // alone.page_bytes).to_bytes(4, "big")
    try:
        with closing(sqlite3.connect(":memory:")) as connection:
            connection.deserialize(bytes(image))
            _, sequence, _ = connection.execute(READ_META).fetchone()
    except (sqlite3.Error, TypeError, AttributeError):
        # AttributeError: SQLite was built without it, and nothing can be told.
        return None
    return sequence if type(sequence) is int else None

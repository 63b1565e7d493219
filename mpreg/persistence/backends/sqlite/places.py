"""Where a value stands that is not in the database: names of files, and places in them.

Plain functions and values; `value_files` and `value_reading` do what they say.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Final, TypeAlias

from attrs import frozen

from mpreg.persistence.own_names import VALUES_NAME

__all__ = [
    "FILE_VALUE_BYTES",
    "FILES_PER_GENERATION_MAX",
    "Place",
    "Together",
    "alone",
    "directory_of",
    "file_name",
    "first_number",
    "never_committed",
    "number_of",
]

#: A value of at least so many bytes stands in a file. Nothing on disk depends on the number.
FILE_VALUE_BYTES: Final = 128 << 10

FILES_PER_GENERATION_MAX: Final = 1 << 32
_NAME: Final = re.compile(r"[0-9a-f]{16}")
_PLACE: Final = re.compile(r"([0-9a-f]{16}):(\d{1,15}):(\d{1,10})")

Together: TypeAlias = Callable[[bytes, bytes], object]
"""Given the namespace and the key of a value: of what whole it is a part; None where of none.

The parts of a whole are written one after the other, are worth nothing before a durable commit
names the whole in the same namespace, and go together. So they share a file, and that is synced
when it has to be."""


def alone(namespace: bytes, key: bytes) -> object:
    """A `Together` by which no value is part of anything."""
    return None


@frozen
class Place:
    """A value in a file: as many bytes, from an offset on."""

    number: int
    """Of the file."""
    offset: int
    length: int

    def __str__(self) -> str:
        return f"{file_name(self.number)}:{self.offset}:{self.length}"

    @classmethod
    def parse(cls, text: str) -> Place | None:
        """None where this is none: it is damaged."""
        found = _PLACE.fullmatch(text)
        return None if found is None else cls(int(found[1], 16), int(found[2]), int(found[3]))


def directory_of(database: Path) -> Path:
    return database.with_name(VALUES_NAME)


def first_number(generation: int) -> int:
    """Of the files that a writer of this generation makes. No other has the same, so that a number
    is never given twice, not even after a crash or for a group that was rolled back."""
    return generation * FILES_PER_GENERATION_MAX


def file_name(number: int) -> str:
    return f"{number:016x}"


def number_of(name: str) -> int | None:
    """None where it is no name of such a file."""
    return int(name, 16) if _NAME.fullmatch(name) else None


def never_committed(names: Iterable[str], committed: Mapping[int, object]) -> list[int]:
    """Of the files in the directory: those that a crash has left of groups that were not committed,
    or that a power cut has lost.

    They come after all that are committed. One in between, that nothing names, is no trace of a
    crash: where damage hides what names it, it must not be removed.
    """
    last = max(committed, default=-1)
    return [number for name in names if (number := number_of(name)) is not None and number > last]

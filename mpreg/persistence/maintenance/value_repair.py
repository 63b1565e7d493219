"""Files of values in a repair: their rows counted anew, and those that nothing names set aside."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.places import Place, directory_of, file_name
from mpreg.persistence.data_directory import sync_directory
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.source import SqliteSource
from mpreg.persistence.own_names import VALUES_NAME

__all__ = ["count_anew", "file_items", "is_of_a_file", "nobodys_files", "remove_files"]

_PIECE_BYTES: Final = 1 << 20
_PUT: Final = "INSERT OR REPLACE INTO value_files VALUES (?, ?, ?, ?)"


def is_of_a_file(finding: Finding) -> bool:
    """Whether it is of a file that no value names, which harms nothing but for its room."""
    return finding.kind is FindingKind.LEFTOVER and finding.where.startswith(f"file {VALUES_NAME}/")


def nobodys_files(source: SqliteSource) -> list[int]:
    """The files that no value names, but for those that have lost their last one to a commit.

    What only a value names gets a row. What only a row names has a value of which the place is
    damaged: that is set aside as damaged, and the bytes it should lead to are these."""
    named, listed = source.files_counted(), source.files_listed()
    emptied = [number for number, is_emptied in listed.items() if is_emptied]
    return source.nobodys_files({*named, *emptied}, max((*named, *listed), default=-1))


def file_items(database: Path, number: int) -> Iterator[dict[str, Any]]:
    """A file for the quarantine, piece by piece."""
    name = file_name(number)
    if not (directory_of(database) / name).is_file():
        # A device has no end, and a named pipe none before somebody opens its other one.
        return
    with (directory_of(database) / name).open("rb") as file:
        offset = 0
        while data := file.read(_PIECE_BYTES):
            yield {
                "kind": "bytes",
                "file": f"{VALUES_NAME}/{name}",
                "offset": offset,
                "data": data,
            }
            offset += len(data)


def remove_files(database: Path, numbers: list[int]) -> None:
    """When they are in quarantine."""
    for number in numbers:
        (directory_of(database) / file_name(number)).unlink()
    if numbers:
        sync_directory(directory_of(database))


def count_anew(connection: sqlite3.Connection) -> None:
    """Let the rows of the files say what the large values say, inside a transaction. A file that
    has none any more is removed by the next opening."""
    counted: dict[int, tuple[int, int]] = {}
    for (text,) in connection.execute(schema.PLACES).fetchall():
        if (place := Place.parse(text)) is not None:
            live, end = counted.get(place.number, (0, 0))
            counted[place.number] = live + 1, max(end, place.offset + place.length)
    for number, size, _, live in connection.execute(schema.VALUE_FILES).fetchall():
        found, end = counted.pop(number, (0, 0))
        if (found or schema.EMPTIED) != live or type(size) is not int or end > size:
            row = (number, end, 0, found or schema.EMPTIED)
            connection.execute(_PUT, row)
    for number, (live, end) in counted.items():
        connection.execute(_PUT, (number, end, end, live))

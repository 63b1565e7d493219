"""Whether the names of namespaces and logs lead to their rows, before anything relies on it."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Final

from mpreg.errors import CorruptDataError

__all__ = ["NAMED_TABLES", "check_names"]

NAMED_TABLES: Final = ("namespaces", "logs")
_SOUND: Final = [("ok",)]


def check_names(connection: sqlite3.Connection, path: Path) -> None:
    """Compare the two tables of names with their indexes, row by row.

    They have no checksums of ours, and all else is found through them: where a changed bit hides a
    name, its namespace would be taken for empty and its log for new, and an offset that was given
    be given again. A name takes SQLite about a microsecond.

    Raises:
        CorruptDataError: a row is not found by its name, or an indexed name leads to another.
        sqlite3.Error: they cannot be read.
    """
    for table in NAMED_TABLES:
        found = connection.execute(f"PRAGMA integrity_check({table})").fetchall()
        if found != _SOUND:
            raise CorruptDataError(
                f"its names and their index differ ({found[0][0]}), so that whole "
                f"{table} would seem to be empty; it was left untouched: see mpreg verify, and "
                "mpreg verify --repair, or restore a backup",
                path,
                where=f"table {table}",
            )

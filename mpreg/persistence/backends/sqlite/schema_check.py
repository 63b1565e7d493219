"""Whether the tables of a database are, letter by letter, those that mpreg makes."""

from __future__ import annotations

import sqlite3
from functools import cache
from pathlib import Path
from typing import Final

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite.schema import CREATE

__all__ = ["check_schema"]

# What SQLite makes for itself, statistics for its planner say, comes and goes.
_READ_SCHEMA: Final = (
    "SELECT name, sql FROM sqlite_master WHERE name NOT LIKE 'sqlite~_%' ESCAPE '~'"
)


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Compare the stored schema with the one that is meant, before anything relies on it.

    SQLite keeps it as text and takes the text at its word: with a changed letter there is another
    column, or a key that is not unique. It also repeats the text in its messages, which fail to be
    decoded where it is none.

    Raises:
        CorruptDataError: they differ.
    """
    try:
        found = dict(connection.execute(_READ_SCHEMA).fetchall())
    except UnicodeDecodeError:
        found = {}
    if found != _meant():
        wrong = sorted(name for name, sql in _meant().items() if found.get(name) != sql)
        raise CorruptDataError(
            "the definitions of the tables are damaged; it was left untouched: restore it from a "
            "backup",
            path,
            where=f"schema: {', '.join(wrong) or 'there is more than mpreg makes'}",
        )


@cache
def _meant() -> dict[str, str]:
    connection = sqlite3.connect(":memory:")
    try:
        for statement in CREATE:
            connection.execute(statement)
        return dict(connection.execute(_READ_SCHEMA).fetchall())
    finally:
        connection.close()

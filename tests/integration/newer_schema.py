"""Migrations of an mpreg to come, and what tells how far a database has come."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

from mpreg.persistence.backends.sqlite.migrations import CURRENT, Migration, Schema

__all__ = [
    "ADD_A_COLUMN",
    "ADD_A_TABLE",
    "MIGRATIONS",
    "NEW",
    "OLD",
    "dumped",
    "upgraded",
    "version",
]


def double_sizes(connection: sqlite3.Connection) -> None:
    connection.execute("UPDATE sizes SET bytes = 2 * bytes")


ADD_A_TABLE = Migration(
    "sizes of values have a table of their own",
    (
        "CREATE TABLE sizes (key BLOB PRIMARY KEY, bytes INTEGER NOT NULL) WITHOUT ROWID",
        "INSERT INTO sizes SELECT key, length(value) FROM entries",
    ),
)
ADD_A_COLUMN = Migration(
    "logs know when they were made",
    ("ALTER TABLE logs ADD COLUMN created_at REAL", double_sizes),
)
MIGRATIONS = (ADD_A_TABLE, ADD_A_COLUMN)


def upgraded(*migrations: Migration) -> Schema:
    return Schema(CURRENT.create, (*CURRENT.migrations, *migrations))


#: The version after the last of them, and those between.
OLD = CURRENT.version
NEW = OLD + len(MIGRATIONS)


def version(path: Path) -> int:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        found: int = connection.execute("PRAGMA user_version").fetchone()[0]
        return found


def dumped(path: Path) -> list[str]:
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as connection:
        return list(connection.iterdump())

"""The schema versions, and the way from each to the next.

A version is never changed once it was released. What changes the tables raises `SCHEMA_VERSION`,
changes `CREATE`, and adds a `Migration` at the end of `MIGRATIONS`; and a database of the version
before is kept for the tests, whole: see ``tests/data/schemas``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from contextlib import closing
from typing import Final, TypeAlias

from attrs import frozen

from mpreg.persistence.backends.sqlite import schema

__all__ = ["CURRENT", "FIRST_VERSION", "MIGRATIONS", "Migration", "Schema", "Step"]

FIRST_VERSION: Final = 1

Step: TypeAlias = str | Callable[[sqlite3.Connection], object]
"""One statement, or a function of the connection. It is inside a transaction, and leaves it open:
no ``executescript``, which would commit it."""


@frozen
class Migration:
    """From one schema version to the next one, in one transaction with its number.

    It leaves ``generation`` and ``commit_sequence`` in the table ``meta`` as they are: they are
    read before a database is migrated, and tell that a copy is of the same state.
    """

    summary: str
    """What changes, in a few words, for the log."""
    steps: tuple[Step, ...]


@frozen
class Schema:
    """How a new database is made, and how those of all earlier versions become like it."""

    create: tuple[str, ...]
    migrations: tuple[Migration, ...] = ()
    """The first one leads from `FIRST_VERSION` to the next."""

    @property
    def version(self) -> int:
        return FIRST_VERSION + len(self.migrations)

    def pending(self, version: int) -> tuple[Migration, ...]:
        """What a database of this version still needs, in order."""
        return self.migrations[version - FIRST_VERSION :]


def _let_columns_be_null(connection: sqlite3.Connection) -> None:
    """Take `NOT NULL` from columns of ``entries``: by their definition alone, so that no row is
    touched, however many there are. For this one change SQLite says how that is done:
    https://www.sqlite.org/lang_altertable.html. Some systems build it so that it does not let
    anybody; then the rows are moved.
    """
    try:
        _redefine(connection, "entries", schema.CREATE_ENTRIES)
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode != sqlite3.SQLITE_ERROR:
            raise
        for step in _MOVE_ENTRIES:
            connection.execute(step)


def _redefine(connection: sqlite3.Connection, table: str, create: str) -> None:
    execute = connection.execute
    defined = _definition(table, create)
    execute("PRAGMA writable_schema = ON")
    try:
        execute("UPDATE sqlite_master SET sql = ? WHERE name = ?", (defined, table))
        (number,) = execute("PRAGMA schema_version").fetchone()
        # Other connections read the definitions anew.
        execute(f"PRAGMA schema_version = {number + 1}")
    finally:
        # This one does, too.
        execute("PRAGMA writable_schema = RESET")


def _definition(table: str, create: str) -> str:
    """What SQLite keeps of a statement."""
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(create)
        (kept,) = connection.execute(
            "SELECT sql FROM sqlite_master WHERE name = ?", (table,)
        ).fetchone()
    defined: str = kept
    return defined


_MOVE_ENTRIES: Final = (
    "ALTER TABLE entries RENAME TO entries_before",
    "DROP INDEX entries_expiry",
    schema.CREATE_ENTRIES,
    "INSERT INTO entries SELECT * FROM entries_before",
    "DROP TABLE entries_before",
    schema.CREATE_EXPIRIES,
)

MIGRATIONS: Final[tuple[Migration, ...]] = (
    # Large values that are there already stay in their entries until they are written anew, and
    # large records where they are until they are truncated. To move them would write them all
    # through the WAL in one transaction, so that it would take as much room again, and a long time
    # in which nobody is served. To leave them costs no code: what stands in its entry or record is
    # read, overwritten and deleted in the same way at any length.
    Migration(
        "large values and records have tables of their own, the largest values files; "
        "puts copy no pages",
        (
            schema.CREATE_LARGE_VALUES,
            schema.CREATE_VALUE_FILES,
            schema.CREATE_LARGE_RECORDS,
            _let_columns_be_null,
        ),
    ),
)

CURRENT: Final = Schema(schema.CREATE, MIGRATIONS)

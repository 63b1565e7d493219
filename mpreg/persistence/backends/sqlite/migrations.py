"""The schema versions, and the way from each to the next.

A version is never changed once it was released. What changes the tables raises `SCHEMA_VERSION`,
changes `CREATE`, and adds a `Migration` at the end of `MIGRATIONS`; and a database of the version
before is kept for the tests, whole: see ``tests/data/schemas``.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
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


MIGRATIONS: Final[tuple[Migration, ...]] = (
    # Large values that are there already stay in their entries until they are written anew. To move
    # them would write them all through the WAL in one transaction, so that it would take as much
    # room again, and a long time in which nobody is served. To leave them costs no code: a value
    # that stands in its entry is read, overwritten and deleted in the same way at any length.
    Migration(
        "large values have a table of their own, and the largest of them files",
        (schema.CREATE_LARGE_VALUES, schema.CREATE_VALUE_FILES),
    ),
)

CURRENT: Final = Schema(schema.CREATE, MIGRATIONS)

"""The tables on disk, every statement by name, and the pragmas with the reason for each.

::

    meta         one row: the writer's generation, the commit sequence, the last version given
    namespaces   name → id        (so that an entry does not repeat its namespace's name)
    entries      (namespace, key) → version, expiry, checksum, value
                 and those that have an expiry, in the order of it
    logs         name → id, first offset
    records      (log, offset) → checksum, data

Names and keys are blobs, as `mpreg.codec` makes them: SQLite compares blobs byte by byte, so a
range of keys is exact, whatever characters are in them. The two large tables are WITHOUT ROWID:
a put under a random key then touches one page and not two. Of records it would be no better with
rowids: most logs end somewhere in the middle of the table, where a page is split just as often, so
a commit writes as many pages. The index has only what expires in it,
so that it costs other entries nothing.
"""

from __future__ import annotations

import sqlite3
from typing import Any, Final

__all__ = [
    "APPLICATION_ID",
    "APPEND_RECORDS",
    "CREATE",
    "CREATION_PRAGMAS",
    "CREATE_LOG",
    "CREATE_NAMESPACE",
    "EXPIRED_ENTRIES",
    "DELETE_ENTRY",
    "DELETE_LOG",
    "DELETE_LOG_RECORDS",
    "DELETE_RECORDS",
    "FIND_LOG",
    "FIND_NAMESPACE",
    "GET_ENTRIES",
    "GET_ENTRY",
    "GET_ENTRY_VERSION",
    "LAST_OFFSET",
    "LIST_NAMESPACES",
    "MultiRow",
    "NEW_GENERATION",
    "PUT_ENTRIES",
    "READER_PRAGMAS",
    "READ_META",
    "READ_RECORDS",
    "SCAN_ENTRIES",
    "SCAN_ENTRIES_TO_END",
    "SCHEMA_VERSION",
    "SET_FIRST_OFFSET",
    "UPDATE_META",
    "WRITER_PRAGMAS",
]


class MultiRow:
    """A statement that writes up to `ROWS_MAX` rows at once.

    Between statements the thread hands the interpreter lock back and forth, and beside a busy
    event loop each time it may wait for its turn. A statement a row would wait for every row.
    """

    ROWS_MAX: Final = 32

    def __init__(self, head: str, tail: str = "", *, columns: int) -> None:
        row = f"({', '.join('?' * columns)})"
        self._columns = columns
        self._by_rows = [head + ", ".join([row] * rows) + tail for rows in range(self.ROWS_MAX + 1)]

    def execute(self, connection: sqlite3.Connection, parameters: list[Any]) -> None:
        """Write all rows; ``parameters`` has their columns one after the other."""
        step = self.ROWS_MAX * self._columns
        for start in range(0, len(parameters), step):
            rows = parameters[start : start + step]
            connection.execute(self._by_rows[len(rows) // self._columns], rows)


APPLICATION_ID: Final = int.from_bytes(b"mprg", "big")
SCHEMA_VERSION: Final = 1
"""Of the tables below. Raised together with a migration, in `migrations`."""

CREATE: Final = (
    f"PRAGMA application_id = {APPLICATION_ID}",
    """
    CREATE TABLE meta (
        id INTEGER PRIMARY KEY CHECK (id = 1),
        generation INTEGER NOT NULL,
        commit_sequence INTEGER NOT NULL,
        last_version INTEGER NOT NULL
    )
    """,
    "INSERT INTO meta VALUES (1, 0, 0, 0)",
    "CREATE TABLE namespaces (id INTEGER PRIMARY KEY, name BLOB NOT NULL UNIQUE)",
    """
    CREATE TABLE entries (
        namespace_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER NOT NULL,
        expires_at REAL,
        checksum INTEGER NOT NULL,
        value BLOB NOT NULL,
        PRIMARY KEY (namespace_id, key)
    ) WITHOUT ROWID
    """,
    """
    CREATE INDEX entries_expiry ON entries (namespace_id, expires_at)
        WHERE expires_at IS NOT NULL
    """,
    """
    CREATE TABLE logs (
        id INTEGER PRIMARY KEY,
        name BLOB NOT NULL UNIQUE,
        first_offset INTEGER NOT NULL
    )
    """,
    """
    CREATE TABLE records (
        log_id INTEGER NOT NULL,
        offset INTEGER NOT NULL,
        checksum INTEGER NOT NULL,
        data BLOB NOT NULL,
        PRIMARY KEY (log_id, offset)
    ) WITHOUT ROWID
    """,
)

#: Before there is a table, or the file could never be made smaller in small steps.
CREATION_PRAGMAS: Final = ("PRAGMA auto_vacuum = INCREMENTAL",)

WRITER_PRAGMAS: Final = (
    # Readers and the writer do not wait for each other, and a commit is one append and one fsync.
    "PRAGMA journal_mode = WAL",
    # A flipped bit in a page is found when the page is read, not when its rows are.
    "PRAGMA cell_size_check = ON",
    # Only mpreg's own statements run here; what a damaged schema says must not.
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",
    # A checkpoint inside a commit would be waited for by its callers, and SQLite says nothing where
    # it fails. The writer makes them between groups.
    "PRAGMA wal_autocheckpoint = 0",
    # Some systems build SQLite so that it writes zeros over all that is deleted, through the log:
    # to remove a large value would cost as much as to write it.
    "PRAGMA secure_delete = OFF",
    # Of each index so many rows are looked at, however large it is.
    "PRAGMA analysis_limit = 400",
    # On macOS an ordinary fsync leaves the data in the drive's cache; elsewhere these do nothing.
    "PRAGMA fullfsync = ON",
    "PRAGMA checkpoint_fullfsync = ON",
)
"""The sizes and times among the pragmas come from the configuration and are set beside these."""

READER_PRAGMAS: Final = (
    # Opened read-only already; this also refuses what read-only mode would still let by.
    "PRAGMA query_only = ON",
    "PRAGMA cell_size_check = ON",
    "PRAGMA trusted_schema = OFF",
    "PRAGMA temp_store = MEMORY",
)

# Asked of databases of every schema version, before anything is done to them: what it names stays.
READ_META: Final = "SELECT generation, commit_sequence, last_version FROM meta WHERE id = 1"

# RETURNING tells whether the row was there: an older generation updates nothing.
NEW_GENERATION: Final = "UPDATE meta SET generation = ? WHERE id = 1 AND generation = ? RETURNING 1"
UPDATE_META: Final = (
    "UPDATE meta SET commit_sequence = ?, last_version = ? "
    "WHERE id = 1 AND generation = ? AND commit_sequence = ? RETURNING 1"
)

FIND_NAMESPACE: Final = "SELECT id FROM namespaces WHERE name = ?"
CREATE_NAMESPACE: Final = "INSERT INTO namespaces (name) VALUES (?) RETURNING id"

# Not REPLACE: for a table that has an index, it deletes the row and inserts another.
PUT_ENTRIES: Final = MultiRow(
    "INSERT INTO entries VALUES ",
    " ON CONFLICT (namespace_id, key) DO UPDATE SET version = excluded.version, "
    "expires_at = excluded.expires_at, checksum = excluded.checksum, value = excluded.value",
    columns=6,
)
DELETE_ENTRY: Final = "DELETE FROM entries WHERE namespace_id = ? AND key = ?"
GET_ENTRY_VERSION: Final = (
    "SELECT version, expires_at FROM entries WHERE namespace_id = ? AND key = ?"
)
EXPIRED_ENTRIES: Final = (
    "SELECT expires_at, key, version, checksum, value FROM entries "
    "WHERE namespace_id = ? AND expires_at <= ? ORDER BY expires_at, key"
)
GET_ENTRY: Final = (
    "SELECT key, version, expires_at, checksum, value FROM entries "
    "WHERE namespace_id = ? AND key = ?"
)


def _get_entries(count: int) -> str:
    # A row for each key, in their order: one that is not there has NULL for everything.
    wanted = ", ".join(["(?)"] * count)
    return (
        "SELECT namespace_id, version, expires_at, checksum, value "  # noqa: S608
        f"FROM (VALUES {wanted}) AS wanted "
        "LEFT JOIN entries ON namespace_id = ? AND key = wanted.column1"
    )


GET_ENTRIES: Final = {count: _get_entries(count) for count in (64, 16, 4, 1)}
"""By how many keys they are given, before the namespace. For each key that is about half of what a
statement of its own costs."""
SCAN_ENTRIES: Final = (
    "SELECT key, version, expires_at, checksum, value FROM entries "
    "WHERE namespace_id = ? AND key >= ? AND key < ? ORDER BY key"
)
SCAN_ENTRIES_TO_END: Final = (
    "SELECT key, version, expires_at, checksum, value FROM entries "
    "WHERE namespace_id = ? AND key >= ? ORDER BY key"
)

# The index has just what is asked for, in the order of the expiries.
LIST_NAMESPACES: Final = (
    "SELECT name, (SELECT expires_at FROM entries WHERE namespace_id = namespaces.id "
    "AND expires_at > ? ORDER BY expires_at LIMIT 1) "
    "FROM namespaces WHERE name >= ? ORDER BY name LIMIT ?"
)

FIND_LOG: Final = "SELECT id, first_offset FROM logs WHERE name = ?"
CREATE_LOG: Final = "INSERT INTO logs (name, first_offset) VALUES (?, 0) RETURNING id"
DELETE_LOG: Final = "DELETE FROM logs WHERE name = ? RETURNING id"
SET_FIRST_OFFSET: Final = "UPDATE logs SET first_offset = ? WHERE id = ?"
LAST_OFFSET: Final = "SELECT max(offset) FROM records WHERE log_id = ?"
APPEND_RECORDS: Final = MultiRow("INSERT INTO records VALUES ", columns=4)
DELETE_RECORDS: Final = "DELETE FROM records WHERE log_id = ? AND offset < ?"
DELETE_LOG_RECORDS: Final = "DELETE FROM records WHERE log_id = ?"
READ_RECORDS: Final = (
    "SELECT offset, checksum, data FROM records "
    "WHERE log_id = ? AND offset >= ? AND offset < ? ORDER BY offset"
)

"""The tables on disk, every statement by name, and the pragmas with the reason for each.

::

    meta         one row: the writer's generation, the commit sequence, the last version given
    namespaces   name → id        (so that an entry does not repeat its namespace's name)
    entries      (namespace, key) → version, expiry, checksum, value or the id of a large one
                 and those that have an expiry, in the order of it
    large_values id → namespace, key, value or its place in a file
    value_files  number → bytes, how many of them are synced, how many values are an entry's
    logs         name → id, first offset
    records      (log, offset) → checksum, data or the id of a large one's
    large_records id → data

Names and keys are blobs, as `mpreg.codec` makes them: SQLite compares blobs byte by byte, so a
range of keys is exact, whatever characters are in them. The two large tables are WITHOUT ROWID:
a put under a random key then touches one page and not two. Of records it would be no better with
rowids: most logs end somewhere in the middle of the table, where a page is split just as often, so
a commit writes as many pages. The index has only what expires in it,
so that it costs other entries nothing.

Such a table is an index B-tree, and those keep little of a long row: one of more than 1,002 bytes
goes on in pages of its own, of which nothing else uses the rest, and SQLite reads all of them each
time that a search compares with the row. So a value of more than `LARGE_VALUE_BYTES` is a row of
``large_values``, a table with rowids, and the entry's column ``value`` has its id: a number, where
a value is a blob. The bound is where a row with a key of up to some 70 bytes is still kept whole.
Measured with keys of 14 bytes, in microseconds of CPU and bytes of the database for each of some
thousand values, put under random keys, 64 in a transaction:

====== ============== ============== ============== ============== ================
bytes  put            overwrite      get            delete         database
====== ============== ============== ============== ============== ================
 750   34 → 22        16 → 33        10 → 10        18 → 24          986 →   858
1,024  46 → 22        33 → 26        16 → 9         26 → 24        4,701 → 1,407
2,048  45 → 30        36 → 27        18 → 11        26 → 32        4,701 → 4,146
8,192  68 → 54        58 → 48        23 → 17        29 → 25        8,801 → 8,750
20,000 109 → 69       123 → 68       43 → 20        49 → 37       21,103 → 20,560
====== ============== ============== ============== ============== ================

Below, what is overwritten would pay for what is new. A large value stands with the name of its
entry, so that one that belongs to nobody can be told by name; only where both agree is it that
entry's. It keeps its row, and mostly its pages, as long as the key has a large value.

SQLite writes every byte twice, to its log and from there into the database, page by page. So a
value of at least `FILE_VALUE_BYTES` (see `places`) is written to a file beside the database, and
its row of ``large_values`` has the place: a text, where a value is a blob. ``value_files`` has a
row for each of these files, from the transaction on that first names it. Where no value in it is
any entry's, the row stays until the file is gone: so a file of a committed group is only ever
removed because a row says so.

What a put writes over is not declared ``NOT NULL``, though none of it ever is: an upsert fails in
the middle for such a column, whatever it says about conflicts, and so has SQLite copy pages (see
`UPDATE_META`). A damaged row can have NULL in any case, and is found out by its checksum.

A value of any length may stand in ``entries`` itself: those written with schema version 1 do, and
so the bounds can be moved without a migration.

It is the same with records, and their data of more than `LARGE_RECORD_BYTES`: it is a row of
``large_records``, and the record's column ``data`` has the id, which is made of log and offset (see
`large_records`). Measured for each of 20,000 records, 64 in a transaction, to 50 logs in turn:

====== ============== ============== ============== ==============
bytes  append         read           truncate       database
====== ============== ============== ============== ==============
1,024  39 → 16        4.5 → 3.0      19 → 13        4,680 → 1,400
2,048  34 → 32        3.9 → 4.3      19 → 23        4,670 → 4,140
8,192  79 → 43        8.1 → 6.0      38 → 43        8,770 → 8,770
====== ============== ============== ============== ==============
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from typing import Any, Final

from mpreg.persistence.backends.sqlite.large_records import OFFSET_BITS

__all__ = [
    "APPLICATION_ID",
    "ALL_ENTRIES",
    "APPEND_LARGE_RECORDS",
    "APPEND_RECORDS",
    "BELONG_TOGETHER",
    "CHECK_VALUE_FILES",
    "CREATE",
    "CREATE_ENTRIES",
    "CREATE_EXPIRIES",
    "CREATION_PRAGMAS",
    "CREATE_LARGE_RECORDS",
    "CREATE_LARGE_VALUES",
    "CREATE_LOG",
    "CREATE_NAMESPACE",
    "CREATE_VALUE_FILES",
    "EMPTIED",
    "EXPIRED_ENTRIES",
    "DELETE_ENTRY",
    "DELETE_LARGE_RECORDS",
    "DELETE_LARGE_VALUE",
    "DELETE_SMALL_ENTRY",
    "DELETE_LOG",
    "DELETE_LOG_RECORDS",
    "DELETE_RECORDS",
    "DATA",
    "DROP_FROM_FILE",
    "FIND_LARGE_VALUES",
    "FIND_LOG",
    "FIND_NAMESPACE",
    "FORGET_FILE",
    "GET_ENTRIES",
    "GET_ENTRY",
    "GET_ENTRY_VERSION",
    "GET_SMALL_ENTRY",
    "JOIN_LARGE",
    "JOIN_LARGE_RECORDS",
    "LARGE_VALUE_BYTES",
    "LAST_LARGE_VALUE",
    "LAST_OFFSET",
    "LIST_NAMESPACES",
    "MultiRow",
    "NEW_GENERATION",
    "PLACES",
    "PUT_ENTRIES",
    "PUT_INTO_FILE",
    "PUT_LARGE_VALUES",
    "PUT_LASTING_ENTRIES",
    "PUT_SMALL_ENTRIES",
    "PUT_SMALL_LASTING_ENTRIES",
    "READER_PRAGMAS",
    "READ_META",
    "READ_RECORDS",
    "SCAN_ENTRIES",
    "SCAN_ENTRIES_TO_END",
    "SCHEMA_VERSION",
    "SET_FIRST_OFFSET",
    "SYNCED_FILE",
    "UPDATE_META",
    "VALUE",
    "VALUE_FILES",
    "WRITER_PRAGMAS",
]


class MultiRow:
    """A statement that is given up to `ROWS_MAX` rows at once.

    Between statements the thread hands the interpreter lock back and forth, and beside a busy
    event loop each time it may wait for its turn. A statement a row would wait for every row.
    """

    ROWS_MAX: Final = 32

    def __init__(self, head: str, tail: str = "", *, row: str) -> None:
        self.columns = row.count("?")
        self._by_rows = [head + ", ".join([row] * rows) + tail for rows in range(self.ROWS_MAX + 1)]

    def execute(self, connection: sqlite3.Connection, parameters: list[Any]) -> int:
        """Write all rows; ``parameters`` has their columns one after the other. How many of them
        were written: not those that a condition of the statement has left out."""
        return sum([one.rowcount for one in self._executed(connection, parameters)])

    def fetch(self, connection: sqlite3.Connection, parameters: list[Any]) -> list[Any]:
        """The same for a statement that answers with rows."""
        return [row for one in self._executed(connection, parameters) for row in one.fetchall()]

    def _executed(
        self, connection: sqlite3.Connection, parameters: list[Any]
    ) -> Iterator[sqlite3.Cursor]:
        step = self.ROWS_MAX * self.columns
        for start in range(0, len(parameters), step):
            rows = parameters[start : start + step]
            yield connection.execute(self._by_rows[len(rows) // self.columns], rows)


APPLICATION_ID: Final = int.from_bytes(b"mprg", "big")
SCHEMA_VERSION: Final = 2
"""Of the tables below. Raised together with a migration, in `migrations`."""

LARGE_VALUE_BYTES: Final = 900
"""A value of more bytes has a row of its own: see above. Nothing on disk depends on the number."""

CREATE_ENTRIES: Final = """
    CREATE TABLE entries (
        namespace_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        version INTEGER,
        expires_at REAL,
        checksum INTEGER,
        value BLOB,
        PRIMARY KEY (namespace_id, key)
    ) WITHOUT ROWID
    """

CREATE_EXPIRIES: Final = """
    CREATE INDEX entries_expiry ON entries (namespace_id, expires_at)
        WHERE expires_at IS NOT NULL
    """

CREATE_LARGE_VALUES: Final = """
    CREATE TABLE large_values (
        id INTEGER PRIMARY KEY,
        namespace_id INTEGER NOT NULL,
        key BLOB NOT NULL,
        value BLOB
    )
    """

CREATE_LARGE_RECORDS: Final = """
    CREATE TABLE large_records (
        id INTEGER PRIMARY KEY,
        data BLOB
    )
    """

CREATE_VALUE_FILES: Final = """
    CREATE TABLE value_files (
        number INTEGER PRIMARY KEY,
        bytes INTEGER NOT NULL,
        synced_bytes INTEGER NOT NULL,
        live INTEGER NOT NULL
    )
    """

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
    CREATE_ENTRIES,
    CREATE_EXPIRIES,
    CREATE_LARGE_VALUES,
    CREATE_VALUE_FILES,
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
    CREATE_LARGE_RECORDS,
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

# Why OR ROLLBACK, here and below: where a statement of several rows, or one with RETURNING, may
# fail in the middle and leave the transaction as it was, SQLite copies each page before it changes
# it: of the CPU of a put or an append that is about a sixth. A group is lost in any case then.

# RETURNING tells whether the row was there: an older generation updates nothing.
NEW_GENERATION: Final = "UPDATE meta SET generation = ? WHERE id = 1 AND generation = ? RETURNING 1"
UPDATE_META: Final = (
    "UPDATE OR ROLLBACK meta SET commit_sequence = ?, last_version = ? "
    "WHERE id = 1 AND generation = ? AND commit_sequence = ? RETURNING 1"
)

FIND_NAMESPACE: Final = "SELECT id FROM namespaces WHERE name = ?"
CREATE_NAMESPACE: Final = "INSERT INTO namespaces (name) VALUES (?) RETURNING id"

# Not REPLACE: for a table that has an index, it deletes the row and inserts another.
_PUT: Final = (
    " ON CONFLICT (namespace_id, key) DO UPDATE SET version = excluded.version, "
    "expires_at = excluded.expires_at, checksum = excluded.checksum, value = excluded.value"
)
# Numbers sort before blobs. So it costs a comparison to see that there is no large value that would
# be left behind, and where there is one, the row is left as it is, and is missing in the count.
_IS_SMALL: Final = "entries.value >= x''"
_PUT_SMALL: Final = f"{_PUT} WHERE {_IS_SMALL}"
_INTO_ENTRIES: Final = "INSERT OR ROLLBACK INTO entries VALUES "
_ROW: Final = "(?, ?, ?, ?, ?, ?)"
_LASTING_ROW: Final = "(?, ?, ?, NULL, ?, ?)"
"""Without an expiry: to bind None is not free, see `tables`."""
PUT_ENTRIES: Final = MultiRow(_INTO_ENTRIES, _PUT, row=_ROW)
PUT_LASTING_ENTRIES: Final = MultiRow(_INTO_ENTRIES, _PUT, row=_LASTING_ROW)
PUT_SMALL_ENTRIES: Final = MultiRow(_INTO_ENTRIES, _PUT_SMALL, row=_ROW)
PUT_SMALL_LASTING_ENTRIES: Final = MultiRow(_INTO_ENTRIES, _PUT_SMALL, row=_LASTING_ROW)
DELETE_ENTRY: Final = "DELETE FROM entries WHERE namespace_id = ? AND key = ?"
DELETE_SMALL_ENTRY: Final = f"{DELETE_ENTRY} AND {_IS_SMALL}"

JOIN_LARGE: Final = (
    "LEFT JOIN large_values ON large_values.id = entries.value "
    "AND large_values.namespace_id = entries.namespace_id AND large_values.key = entries.key"
)
VALUE: Final = "ifnull(large_values.value, entries.value)"
"""Of an entry, after `JOIN_LARGE`. A text, where it stands in a file; a number, where its large
value is missing."""

# Ids are given here and not by SQLite: to return them, it would copy all values once more.
PUT_LARGE_VALUES: Final = MultiRow(
    "INSERT OR ROLLBACK INTO large_values VALUES ",
    " ON CONFLICT (id) DO UPDATE SET value = excluded.value",
    row="(?, ?, ?, ?)",
)
# A damaged id can be as large as any number. None that was given ever is.
LAST_LARGE_VALUE: Final = f"SELECT ifnull(max(id), 0) FROM large_values WHERE id < {1 << 62}"  # noqa: S608
FIND_LARGE_VALUES: Final = MultiRow(
    "SELECT entries.namespace_id, entries.key, large_values.id, "
    "CASE WHEN typeof(large_values.value) = 'text' THEN large_values.value END FROM (VALUES ",
    ") AS wanted JOIN entries "
    "ON entries.namespace_id = wanted.column1 AND entries.key = wanted.column2 " + JOIN_LARGE,
    row="(?, ?)",
)
"""Those entries that there are, with the ids of their large values, or NULL, and the places of
those that stand in a file."""
DELETE_LARGE_VALUE: Final = "DELETE FROM large_values WHERE id = ?"

PUT_INTO_FILE: Final = (
    "INSERT INTO value_files VALUES (?, ?, ?, ?) ON CONFLICT (number) DO UPDATE "
    "SET bytes = excluded.bytes, live = live + excluded.live"
)
EMPTIED: Final = -1
"""In the place of ``live`` where no value is left. Not 0, which one changed bit makes of 1."""
DROP_FROM_FILE: Final = (
    "UPDATE value_files "  # noqa: S608
    f"SET live = CASE WHEN live > :count THEN live - :count ELSE {EMPTIED} END "
    "WHERE number = :number RETURNING live, bytes"
)
CHECK_VALUE_FILES: Final = "PRAGMA integrity_check(value_files)"
"""Whether a page of the table hides rows. It is small: a row for each file."""
FORGET_FILE: Final = "DELETE FROM value_files WHERE number = ?"
PLACES: Final = "SELECT value FROM large_values WHERE typeof(value) = 'text'"
"""Of all values that stand in files. It reads every row of the table, but no value."""
SYNCED_FILE: Final = "UPDATE value_files SET synced_bytes = ? WHERE number = ?"
VALUE_FILES: Final = "SELECT number, bytes, synced_bytes, live FROM value_files ORDER BY number"

GET_ENTRY_VERSION: Final = (
    "SELECT version, expires_at FROM entries WHERE namespace_id = ? AND key = ?"
)
EXPIRED_ENTRIES: Final = (
    f"SELECT expires_at, entries.key, version, checksum, {VALUE} FROM entries {JOIN_LARGE} "  # noqa: S608
    "WHERE entries.namespace_id = ? AND expires_at <= ? ORDER BY expires_at, entries.key"
)
_SELECT: Final = (
    f"SELECT entries.key, version, expires_at, checksum, {VALUE} FROM entries {JOIN_LARGE} "  # noqa: S608
    "WHERE entries.namespace_id = ?"
)
GET_ENTRY: Final = f"{_SELECT} AND entries.key = ?"
GET_SMALL_ENTRY: Final = (
    "SELECT key, version, expires_at, checksum, value FROM entries "
    "WHERE namespace_id = ? AND key = ?"
)
"""The same without its large value, which costs others a twentieth of the statement."""


def _get_entries(count: int) -> str:
    # A row for each key, in their order: one that is not there has NULL for everything.
    wanted = ", ".join(["(?)"] * count)
    return (
        f"SELECT entries.namespace_id, version, expires_at, checksum, {VALUE} "  # noqa: S608
        f"FROM (VALUES {wanted}) AS wanted "
        f"LEFT JOIN entries ON entries.namespace_id = ? AND entries.key = wanted.column1 "
        f"{JOIN_LARGE}"
    )


GET_ENTRIES: Final = {count: _get_entries(count) for count in (64, 32, *range(16, 1, -1))}
"""By how many keys they are given, before the namespace. For each key that is about half of what a
statement of its own costs, from eight of them on. Every small number has its own, as reads that
are waiting come in all numbers."""
SCAN_ENTRIES: Final = f"{_SELECT} AND entries.key >= ? AND entries.key < ? ORDER BY entries.key"
SCAN_ENTRIES_TO_END: Final = f"{_SELECT} AND entries.key >= ? ORDER BY entries.key"
ALL_ENTRIES: Final = f"{_SELECT} ORDER BY entries.key"

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
APPEND_RECORDS: Final = MultiRow("INSERT OR ROLLBACK INTO records VALUES ", row="(?, ?, ?, ?)")
# Only damage leaves one behind that is no record's, and it must keep nobody from appending.
APPEND_LARGE_RECORDS: Final = MultiRow("INSERT OR REPLACE INTO large_records VALUES ", row="(?, ?)")
DELETE_RECORDS: Final = "DELETE FROM records WHERE log_id = ? AND offset < ?"
DELETE_LOG_RECORDS: Final = "DELETE FROM records WHERE log_id = ?"
DELETE_LARGE_RECORDS: Final = "DELETE FROM large_records WHERE id BETWEEN ? AND ?"

# From the id, and not to it: of a damaged number the bits that an id has no room for would be lost.
BELONG_TOGETHER: Final = (
    "large_records.id = records.data "
    f"AND large_records.id >> {OFFSET_BITS} = records.log_id "
    f"AND large_records.id & {(1 << OFFSET_BITS) - 1} = records.offset"
)
"""A record and its data, whichever of the two is looked up by the other."""
JOIN_LARGE_RECORDS: Final = f"LEFT JOIN large_records ON {BELONG_TOGETHER}"
DATA: Final = "ifnull(large_records.data, records.data)"
"""Of a record, after `JOIN_LARGE_RECORDS`. A number, where its large data is missing."""
READ_RECORDS: Final = (
    f"SELECT offset, checksum, {DATA} FROM records {JOIN_LARGE_RECORDS} "  # noqa: S608
    "WHERE log_id = ? AND offset >= ? AND offset < ? ORDER BY offset"
)

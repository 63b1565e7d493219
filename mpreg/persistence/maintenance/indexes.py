"""Indexes made anew from their tables; and names that a changed bit has parted from their rows.

The tables of names have no checksums. But the items of a namespace or log have, and theirs begin
with its name: so they tell which of two names, or numbers, is the right one.
"""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite.failures import is_corrupt, translate
from mpreg.persistence.backends.sqlite.names_check import NAMED_TABLES
from mpreg.persistence.maintenance.checks import check_entry, check_name, check_record, shown_name
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.opening import open_source
from mpreg.persistence.maintenance.rows import DamagedRowsError
from mpreg.persistence.maintenance.source import SqliteSource
from mpreg.persistence.maintenance.worker import Control

__all__ = ["is_of_an_index", "mend_expiries", "mend_names"]

#: What SQLite says of an index, and its name.
_OF_AN_INDEX: Final = re.compile(
    r"(?:row \d+ missing from|wrong # of entries in|row \d+ values differ from|"
    r"non-unique entry in) index (\w+)"
)
_EXPIRY: Final = "entries_expiry"

#: Of a namespace or log: so many of its items are asked for its name.
_ITEMS_ASKED: Final = 64


def is_of_an_index(finding: Finding) -> bool:
    """Whether it is gone when `mend_expiries` has made the index anew. The primary keys of entries
    and records are no indexes in this: they are the tables."""
    match = _OF_AN_INDEX.fullmatch(finding.message)
    return finding.kind is FindingKind.STRUCTURE and match is not None and match[1] == _EXPIRY


@frozen
class _Row:
    """A row whose name does not lead to it, and what it is to be."""

    table: str
    id: Any
    new_id: Any
    new_name: Any


def mend_names(path: Path, control: Control) -> list[Finding]:
    """Make the indexes of names anew where they do not lead to their rows, and put right what of a
    name was changed; in one transaction. Nothing, where the structure is damaged as well. Gives
    what is mended.

    Raises:
        CorruptDataError: no item tells which of two names is the right one; nothing was changed.
    """
    tables = _tables_that_differ(path, control)
    if not tables:
        return []
    try:
        with open_source(path, control) as source:
            rows = [row for table in tables for row in _to_be_changed(source, table)]
    except DamagedRowsError as damage:
        raise CorruptDataError(f"{damage}; nothing was changed: restore a backup", path) from damage
    except sqlite3.Error as error:
        raise translate(error, path) from error
    _make_anew(path, tables, rows)
    return [_mended_table(table) for table in tables] + [_mended_name(row) for row in rows]


def _mended_table(table: str) -> Finding:
    message = "its index of names did not lead to all rows: it was made anew"
    return Finding(FindingKind.STRUCTURE, f"table {table}", message)


def _mended_name(row: _Row) -> Finding:
    kind = FindingKind.NAMESPACE if row.table == "namespaces" else FindingKind.LOG
    return Finding(
        kind,
        f"{kind.value} {shown_name(row.new_name)}",
        "its name or number was changed: put right",
    )


def mend_expiries(path: Path, findings: Sequence[Finding]) -> None:
    """Make the index of entries that expire anew where it is among ``findings``."""
    if any(is_of_an_index(one) for one in findings):
        _make_anew(path, [_EXPIRY], [])


def _tables_that_differ(path: Path, control: Control) -> list[str]:
    try:
        with open_source(path, control) as source:
            tables = [table for table in NAMED_TABLES if not _is_sound(source, table)]
            return [] if tables and any(source.check(full=False)) else tables
    except (CorruptDataError, DamagedRowsError, sqlite3.DatabaseError):
        # Told by who examines it.
        return []


def _is_sound(source: SqliteSource, table: str) -> bool:
    return source.connection.execute(f"PRAGMA integrity_check({table})").fetchall() == [("ok",)]


def _to_be_changed(source: SqliteSource, table: str) -> Iterator[_Row]:
    kept = set(source.connection.execute(f"SELECT id, name FROM {table} NOT INDEXED"))  # noqa: S608
    found = _indexed(source, table)
    for id, name in sorted(kept - found, key=repr):
        # One of the two is damaged: that in the table, or that in the index.
        others = [one for one in found - kept if one[0] == id or one[1] == name]
        row = _right_one(source, table, (id, name), others)
        if (row.new_id, row.new_name) != (id, name):
            yield row


def _indexed(source: SqliteSource, table: str) -> set[tuple[Any, Any]]:
    """What of the index can be read: it is made anew, and only asked for other names."""
    index = f"INDEXED BY sqlite_autoindex_{table}_1 ORDER BY name"
    found = set()
    try:
        for row in source.connection.execute(f"SELECT id, name FROM {table} {index}"):  # noqa: S608
            found.add(row)
    except sqlite3.Error as error:
        if not is_corrupt(error):
            raise
    return found


def _right_one(
    source: SqliteSource, table: str, kept: tuple[Any, Any], others: list[tuple[Any, Any]]
) -> _Row:
    vouched = [one for one in (kept, *others) if _vouches(source, table, *one)]
    if len(vouched) == 1:
        return _Row(table, kept[0], *vouched[0])
    if not vouched and _is_empty(source, table, kept, others):
        return _Row(table, kept[0], *kept)
    raise CorruptDataError(
        "a name and its index differ, and none of its items tells which of the two is right; "
        "nothing was changed: restore a backup",
        source.path,
        f"{'namespace' if table == 'namespaces' else 'log'} {shown_name(kept[1])}",
    )


def _vouches(source: SqliteSource, table: str, id: Any, name: Any) -> bool:
    """Whether an intact item has this number, and was written under this name."""
    if check_name(FindingKind.NAMESPACE, name) is not None:
        return False
    if table == "namespaces":
        return any(
            check_entry(name, row) is None for row in islice(source.entries(id), _ITEMS_ASKED)
        )
    return any(check_record(name, row) is None for row in islice(source.records(id), _ITEMS_ASKED))


def _is_empty(
    source: SqliteSource, table: str, kept: tuple[Any, Any], others: list[tuple[Any, Any]]
) -> bool:
    """Whether nothing can be found under the wrong name, nor an offset be given again."""
    ids = {kept[0], *(id for id, _ in others)}
    if check_name(FindingKind.NAMESPACE, kept[1]) is not None:
        return False
    if table == "namespaces":
        return not any(True for id in ids for _ in source.entries(id))
    first = source.connection.execute("SELECT first_offset FROM logs WHERE id = ?", kept[:1])
    return first.fetchone() == (0,) and not any(True for id in ids for _ in source.records(id))


def _make_anew(path: Path, indexes: list[str], rows: list[_Row]) -> None:
    try:
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA fullfsync = ON")
            connection.execute("BEGIN IMMEDIATE")
            # First: a row is not changed where its index does not have it.
            for index in indexes:
                connection.execute(f"REINDEX {index}")
            for row in rows:
                change = f"UPDATE {row.table} SET id = ?, name = ? WHERE id = ?"  # noqa: S608
                connection.execute(change, (row.new_id, row.new_name, row.id))
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise translate(error, path) from error

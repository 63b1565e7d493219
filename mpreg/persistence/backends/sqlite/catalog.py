"""How a database answers a `CatalogQuery`: each within one short transaction."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.catalog import (
    NAMES_PER_PAGE,
    CatalogQuery,
    Counted,
    CountEntries,
    ListLogs,
    ListNamespaces,
    LogFound,
    NamesPage,
    ReadNumbers,
    StoreNumbers,
)
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.tables import checked_bounds

__all__ = ["answer_catalog"]

_NAMESPACES: Final = "SELECT name FROM namespaces WHERE name > ? ORDER BY name LIMIT ?"
_LOGS: Final = (
    "SELECT name, first_offset, (SELECT max(offset) FROM records WHERE log_id = logs.id) "
    "FROM logs WHERE name > ? ORDER BY name LIMIT ?"
)
#: The length of a blob is known without reading it, and a place ends with the length of its value.
_COUNT: Final = (
    "SELECT count(*), total(bytes), max(key) FROM "  # noqa: S608
    "(SELECT entries.key, length(entries.key) + "
    "CASE WHEN large_values.id IS NULL THEN length(entries.value) "
    "WHEN typeof(large_values.value) = 'text' THEN CAST(substr(large_values.value, "
    "18 + instr(substr(large_values.value, 18), ':')) AS INTEGER) "
    f"ELSE length(large_values.value) END AS bytes FROM entries {schema.JOIN_LARGE} "
    "WHERE entries.namespace_id = ? AND entries.key > ? ORDER BY entries.key LIMIT ?)"
)


def answer_catalog(connection: sqlite3.Connection, path: Path, query: CatalogQuery) -> Any:
    """On the connection's thread, inside a transaction. Raises `CorruptDataError`."""
    match query:
        case ReadNumbers():
            return _numbers(connection, path)
        case ListNamespaces():
            rows = connection.execute(_NAMESPACES, (query.after, NAMES_PER_PAGE)).fetchall()
            return _page(rows, tuple(_name(row[0], "namespace", path) for row in rows))
        case ListLogs():
            rows = connection.execute(_LOGS, (query.after, NAMES_PER_PAGE)).fetchall()
            return _page(rows, tuple(_log(row, path) for row in rows))
        case CountEntries():
            return _count(connection, query)


def _numbers(connection: sqlite3.Connection, path: Path) -> StoreNumbers:
    row = connection.execute(schema.READ_META).fetchone()
    if row is None or not all(type(number) is int for number in row):
        raise CorruptDataError(
            "the row with the store's own numbers is missing or damaged; restore the file from "
            "a backup",
            path,
            "table meta",
        )
    return StoreNumbers(*row)


def _count(connection: sqlite3.Connection, query: CountEntries) -> Counted:
    found = connection.execute(schema.FIND_NAMESPACE, (query.namespace,)).fetchone()
    if found is None:
        return Counted(0, 0, None)
    parameters = (found[0], query.after, query.count_max)
    count, size, last = connection.execute(_COUNT, parameters).fetchone()
    return Counted(count, int(size), last if count == query.count_max else None)


def _page(
    rows: list[tuple[Any, ...]], found: tuple[bytes | LogFound | CorruptDataError, ...]
) -> NamesPage:
    return NamesPage(found, rows[-1][0] if len(rows) == NAMES_PER_PAGE else None)


def _name(name: bytes, what: str, path: Path) -> bytes | CorruptDataError:
    try:
        name.removeprefix(b"\xff").decode("utf-8", "surrogatepass")
    except UnicodeDecodeError:
        return CorruptDataError("the stored name is damaged", path, f"{what} {name!r}")
    return name


def _log(row: tuple[Any, ...], path: Path) -> LogFound | CorruptDataError:
    name, first, last = row
    checked = _name(name, "log", path)
    if isinstance(checked, CorruptDataError):
        return checked
    try:
        return LogFound(name, *checked_bounds(name, first, last, path))
    except CorruptDataError as damage:
        return damage

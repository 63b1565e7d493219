"""What is in a database, by name: questions that only a look from outside asks.

Each is answered within one short transaction, however much is stored: names by the page, counts in
steps.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any, Final, Protocol, runtime_checkable

from attrs import frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backends.sqlite import schema
from mpreg.persistence.backends.sqlite.tables import checked_bounds

__all__ = [
    "CatalogQuery",
    "CountEntries",
    "Counted",
    "ListLogs",
    "ListNamespaces",
    "LogFound",
    "NAMES_PER_PAGE",
    "NamesPage",
    "ReadNumbers",
    "StoreNumbers",
]

NAMES_PER_PAGE: Final = 256

_NAMESPACES: Final = "SELECT name FROM namespaces WHERE name > ? ORDER BY name LIMIT ?"
_LOGS: Final = (
    "SELECT name, first_offset, (SELECT max(offset) FROM records WHERE log_id = logs.id) "
    "FROM logs WHERE name > ? ORDER BY name LIMIT ?"
)
#: The length of a blob is known without reading it.
_COUNT: Final = (
    "SELECT count(*), total(length(key) + length(value)), max(key) FROM "
    "(SELECT key, value FROM entries WHERE namespace_id = ? AND key > ? ORDER BY key LIMIT ?)"
)


@runtime_checkable
class CatalogQuery(Protocol):
    def answer(self, connection: sqlite3.Connection, path: Path) -> Any:
        """On the connection's thread, inside a transaction."""
        ...


@frozen
class StoreNumbers:
    generation: int
    commit_sequence: int
    last_version: int


@frozen
class ReadNumbers:
    """`StoreNumbers`. Raises `CorruptDataError`."""

    def answer(self, connection: sqlite3.Connection, path: Path) -> StoreNumbers:
        row = connection.execute(schema.READ_META).fetchone()
        if row is None or not all(type(number) is int for number in row):
            raise CorruptDataError(
                "the row with the store's own numbers is missing or damaged; restore the file from "
                "a backup",
                path,
                "table meta",
            )
        return StoreNumbers(*row)


@frozen
class LogFound:
    name: bytes
    first_offset: int
    next_offset: int


@frozen
class NamesPage:
    """A damaged name, or log, stands in it as its error."""

    found: tuple[bytes | LogFound | CorruptDataError, ...]
    next_after: bytes | None


@frozen
class ListNamespaces:
    """The names above ``after``, in order: `NamesPage` of bytes."""

    after: bytes

    def answer(self, connection: sqlite3.Connection, path: Path) -> NamesPage:
        rows = connection.execute(_NAMESPACES, (self.after, NAMES_PER_PAGE)).fetchall()
        return _page(rows, tuple(_name(row[0], "namespace", path) for row in rows))


@frozen
class ListLogs:
    """The logs whose names are above ``after``, in order: `NamesPage` of `LogFound`."""

    after: bytes

    def answer(self, connection: sqlite3.Connection, path: Path) -> NamesPage:
        rows = connection.execute(_LOGS, (self.after, NAMES_PER_PAGE)).fetchall()
        return _page(rows, tuple(_log(row, path) for row in rows))


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


@frozen
class Counted:
    entries: int
    size_bytes: int
    """Of their keys and values."""
    next_after: bytes | None
    """Where to go on counting; None where all are counted."""


@frozen
class CountEntries:
    """How many entries, at most so many, a namespace has above a key: `Counted`.

    Expired and damaged ones are among them: it is what takes space.
    """

    namespace: bytes
    after: bytes
    count_max: int

    def answer(self, connection: sqlite3.Connection, _path: Path) -> Counted:
        found = connection.execute(schema.FIND_NAMESPACE, (self.namespace,)).fetchone()
        if found is None:
            return Counted(0, 0, None)
        parameters = (found[0], self.after, self.count_max)
        count, size, last = connection.execute(_COUNT, parameters).fetchone()
        return Counted(count, int(size), last if count == self.count_max else None)

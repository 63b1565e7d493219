"""What is in a store, by name: questions that only a look from outside asks.

Each is answered in one short step, however much is stored: names by the page, counts in pieces.
"""

from __future__ import annotations

from typing import Final, TypeAlias

from attrs import frozen

from mpreg.errors import CorruptDataError

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


@frozen
class StoreNumbers:
    generation: int
    commit_sequence: int
    last_version: int


@frozen
class ReadNumbers:
    """`StoreNumbers`; `CorruptDataError` where they are damaged."""


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


@frozen
class ListLogs:
    """The logs whose names are above ``after``, in order: `NamesPage` of `LogFound`."""

    after: bytes


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


CatalogQuery: TypeAlias = ReadNumbers | ListNamespaces | ListLogs | CountEntries

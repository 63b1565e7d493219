"""What is wrong with an item: plain functions of rows, no database in sight."""

from __future__ import annotations

import zlib
from bisect import bisect_left
from collections.abc import Iterator
from typing import Any, Final

from attrs import define, field

from mpreg.codec import checksum_record, decode_key, decode_name
from mpreg.persistence.backends.sqlite.places import Place, file_name
from mpreg.persistence.backends.sqlite.tables import is_intact
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.rows import EntryRow, LargeRecordRow, LargeValueRow, RecordRow
from mpreg.persistence.own_names import VALUES_NAME

__all__ = [
    "OffsetCheck",
    "check_entry",
    "check_large_record",
    "check_large_value",
    "check_meta",
    "check_name",
    "check_order",
    "check_record",
    "gap_in",
    "shown_key",
    "shown_name",
]

_WRITES_MAX: Final = 2**63 - 1


def shown_name(name: Any) -> str:
    """A name as its owner knows it; one that is none as it is stored."""
    try:
        return repr(decode_name(name)) if isinstance(name, bytes) else repr(name)
    except UnicodeDecodeError:
        return repr(name)


def shown_key(key: Any) -> str:
    try:
        return repr(decode_key(key)) if isinstance(key, bytes) else repr(key)
    except UnicodeDecodeError:
        return repr(key)


def check_name(kind: FindingKind, name: Any) -> Finding | None:
    """Whether a namespace's or log's name can be one."""
    where = f"{kind.value} {shown_name(name)}"
    if not isinstance(name, bytes) or not name:
        return Finding(kind, where, "its name is not one")
    try:
        decode_name(name)
    except UnicodeDecodeError:
        return Finding(kind, where, "its name is damaged")
    return None


def check_entry(namespace: Any, row: EntryRow) -> Finding | None:
    """An entry, given the name of its namespace; None: of nobody."""
    if not isinstance(namespace, bytes):
        lost = f"entry of namespace number {row.namespace_id!r}, key {shown_key(row.key)}"
        return Finding(FindingKind.ENTRY, lost, "no namespace has this number")
    if type(row.value) is int:
        message = "its large value is missing"
    elif isinstance(row.value, Place):
        message = f"the file {VALUES_NAME}/{file_name(row.value.number)} of its value is missing"
    elif not is_intact(
        zlib.crc32(namespace), row.key, row.version, row.expires_at, row.value, row.checksum
    ):
        message = "the stored entry does not match its checksum"
    elif not _is_key(row.key):
        message = "its key is damaged"
    else:
        return None
    where = f"namespace {shown_name(namespace)}, key {shown_key(row.key)}"
    return Finding(FindingKind.ENTRY, where, message)


def check_large_value(namespace: Any, row: LargeValueRow) -> Finding:
    """A large value that no entry names, given the name of its namespace; None: of nobody."""
    is_known = isinstance(namespace, bytes)
    of = shown_name(namespace) if is_known else f"number {row.namespace_id!r}"
    where = f"namespace {of}, key {shown_key(row.key)}, large value {row.id!r}"
    return Finding(FindingKind.ENTRY, where, "no entry names it")


def _is_key(key: bytes) -> bool:
    try:
        decode_key(key)
    except UnicodeDecodeError:
        return False
    return True


def check_record(log: bytes, row: RecordRow) -> Finding | None:
    """A record, given the name of its log."""
    if type(row.data) is int:
        message = "its data is missing"
    elif not _is_intact_record(log, row):
        message = "the stored record does not match its checksum"
    else:
        return None
    return Finding(FindingKind.RECORD, f"log {shown_name(log)}, offset {row.offset!r}", message)


def _is_intact_record(log: bytes, row: RecordRow) -> bool:
    return (
        type(row.offset) is int
        and isinstance(row.data, bytes)
        and row.checksum == checksum_record(zlib.crc32(log), row.offset, row.data)
    )


def check_large_record(log: Any, row: LargeRecordRow) -> Finding:
    """Data that no record names, given the name of its log; None: of nobody."""
    of = shown_name(log) if isinstance(log, bytes) else f"number {row.log_id!r}"
    where = f"log {of}, offset {row.offset!r}, large record {row.id!r}"
    return Finding(FindingKind.RECORD, where, "no record names it")


def check_order(table: str, *, stored: int | None, found: int | None) -> Finding | None:
    """Whether all rows of a table are found by their keys; None: nothing can hide one."""
    if stored is None or stored == found:
        return None
    message = f"{stored} rows, and {found} found by their keys: they are out of order"
    return Finding(FindingKind.STRUCTURE, f"table {table}", message)


@define
class OffsetCheck:
    """Follows the offsets of one log, in order, from its first to its last."""

    log: bytes
    first: int
    set_aside: frozenset[int] = frozenset()
    """Offsets that a repair has put into quarantine."""
    _expected: int = field(init=False)
    _known: list[int] = field(init=False)
    """The same in order: they are asked for at every record."""

    def __attrs_post_init__(self) -> None:
        self._expected = self.first
        self._known = sorted(self.set_aside)

    def follow(self, offset: Any) -> Iterator[Finding]:
        """The next offset that is stored."""
        if type(offset) is not int:
            return
        if offset < self.first:
            where = f"log {shown_name(self.log)}, offset {offset}"
            message = f"stored below the log's first offset, {self.first}"
            yield Finding(FindingKind.RECORD, where, message)
            return
        yield from self.skip_to(offset)
        self._expected = offset + 1

    def skip_to(self, offset: int) -> Iterator[Finding]:
        """Where the next offset is to be ``offset``: what is missing before it."""
        start = self._expected
        # A damaged offset can be as large as any number: the known ones are counted, not the gap.
        first, last = bisect_left(self._known, start), bisect_left(self._known, offset)
        for one in self._known[first:last]:
            if start < one:
                yield gap_in(self.log, start, one)
            where = f"log {shown_name(self.log)}, offset {one}"
            yield Finding(FindingKind.SET_ASIDE, where, "missing, and on record in quarantine")
            start = one + 1
        if start < offset:
            yield gap_in(self.log, start, offset)


def gap_in(log: bytes, start: int, stop: int, message: str = "records are missing") -> Finding:
    """The records of a log from one offset to before another are not there."""
    where = f"log {shown_name(log)}, offsets {start} to {stop - 1}"
    return Finding(FindingKind.GAP, where, message)


def check_meta(
    meta: tuple[Any, Any, Any] | None, *, highest_version: int, items: int
) -> Iterator[Finding]:
    """The store's own numbers, held against what is stored."""
    if meta is None or not all(type(number) is int for number in meta):
        yield Finding(FindingKind.META, "meta", "the row with the store's own numbers is damaged")
        return
    generation, sequence, last_version = meta
    for name, number in zip(("generation", "commit_sequence", "last_version"), meta, strict=True):
        if not 0 <= number <= _WRITES_MAX:
            yield Finding(FindingKind.META, f"meta, {name}", f"{number} is not possible")
    if highest_version > last_version:
        yield Finding(
            FindingKind.META,
            "meta, last_version",
            f"{last_version} is below the version {highest_version} of an entry: "
            "versions would be given twice",
        )
    if items and not sequence:
        yield Finding(FindingKind.META, "meta, commit_sequence", "0, but there is data")
    if sequence and not generation:
        yield Finding(FindingKind.META, "meta, generation", "0, but there were commits")

"""Whether all that is stored is found by a name, as the writer and readers look for it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from mpreg.persistence.maintenance.checks import check_name, shown_name
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.rows import LogRow, Source

__all__ = ["check_log", "check_namespace", "lost_records"]

_NOT_FOUND = "it is not found by its name"


def check_namespace(source: Source, id: Any, name: Any) -> Finding | None:
    if (finding := check_name(FindingKind.NAMESPACE, name)) is not None:
        return finding
    if source.namespace_id(name) == id:
        return None
    return Finding(FindingKind.NAMESPACE, f"namespace {shown_name(name)}", _NOT_FOUND)


def check_log(source: Source, row: LogRow) -> Finding | None:
    if (finding := check_name(FindingKind.LOG, row.name)) is not None:
        return finding
    where = f"log {shown_name(row.name)}"
    if source.log_row(row.name) != (row.id, row.first_offset):
        return Finding(FindingKind.LOG, where, _NOT_FOUND)
    last = source.last_offset(row.id)
    if type(row.first_offset) is int and row.first_offset >= 0 and type(last) in (int, type(None)):
        return None
    return Finding(FindingKind.LOG, where, "its stored offsets are damaged")


def lost_records(source: Source) -> Iterator[Finding]:
    for id in source.logs_used():
        if not source.has_log(id):
            where = f"records of log number {id!r}"
            yield Finding(FindingKind.RECORD, where, "no log has this number")

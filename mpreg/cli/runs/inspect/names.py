"""Namespaces and logs, with how much is in them."""

from __future__ import annotations

from typing import Any

from mpreg.cli.decoding import printable, size
from mpreg.cli.output import Output
from mpreg.cli.runs.inspect.selection import COUNTED_MAX, Selection, telling
from mpreg.cli.settings import Settings
from mpreg.persistence import KeyCount, StoredLog, StoredName, open_read_only

__all__ = ["log_row", "namespace_row", "show_logs", "show_namespaces"]


async def show_namespaces(
    settings: Settings, output: Output, *, selection: Selection, is_exact: bool
) -> None:
    shown = 0
    async with open_read_only(settings.data_dir) as registry:
        async for name in registry.namespaces(on_damaged=telling(output)):
            if not selection.shows(name):
                continue
            if selection.enough(shown):
                output.note("there are more: raise --limit, or go on with --after")
                return
            count = await registry.count_keys(name, None if is_exact else COUNTED_MAX)
            output.row(*namespace_row(name, count))
            shown += 1


async def show_logs(settings: Settings, output: Output, *, selection: Selection) -> None:
    shown = 0
    async with open_read_only(settings.data_dir) as registry:
        async for log in registry.logs(on_damaged=telling(output)):
            if not selection.shows(log.name):
                continue
            if selection.enough(shown):
                output.note("there are more: raise --limit, or go on with --after")
                return
            output.row(*log_row(log))
            shown += 1


def namespace_row(name: StoredName, count: KeyCount, kind: str = "") -> tuple[dict[str, Any], str]:
    fields: dict[str, Any] = {"kind": kind} if kind else {}
    fields |= {
        "name": name.name,
        "reserved": name.is_reserved,
        "keys": count.keys,
        "keys_exact": count.is_exact,
        "size_bytes": count.size_bytes,
    }
    more = "" if count.is_exact else " or more"
    text = f"{printable(name.shown):<32} {count.keys} keys{more}, {size(count.size_bytes)}{more}"
    return fields, text


def log_row(log: StoredLog, kind: str = "") -> tuple[dict[str, Any], str]:
    fields: dict[str, Any] = {"kind": kind} if kind else {}
    fields |= {
        "name": log.name.name,
        "reserved": log.name.is_reserved,
        "first_offset": log.first_offset,
        "next_offset": log.next_offset,
        "records": log.records,
    }
    span = f"offsets {log.first_offset} to {log.next_offset - 1}" if log.records else "empty"
    return fields, f"{printable(log.name.shown):<32} {log.records} records, {span}"

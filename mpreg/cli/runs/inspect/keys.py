"""Entries: those of a namespace, and one of them."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

from mpreg.cli.decoding import cut, decode, key_text, plain, printable, size, value_text
from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.runs.inspect.selection import Selection, named, telling
from mpreg.cli.runs.inspect.values import value_block, write_raw
from mpreg.cli.settings import Settings
from mpreg.cli.times import moment
from mpreg.persistence import Entry, ReadOnlyRegistry, StoredName, open_read_only

__all__ = ["show_key", "show_keys"]


async def show_keys(
    settings: Settings, output: Output, *, namespace: str, selection: Selection, prefix: str | None
) -> None:
    shown = 0
    last: str | bytes = ""
    name = named(namespace, selection)
    async with open_read_only(settings.data_dir) as registry:
        async for entry in _entries(registry, name, output, selection, prefix):
            if selection.enough(shown):
                as_given = last.hex() if isinstance(last, bytes) else printable(last)
                flag = " --hex" if isinstance(last, bytes) else ""
                output.note(f"there are more: go on with --after {as_given!r}{flag}")
                return
            output.row(_entry(entry), _entry_line(entry, output.width))
            shown += 1
            last = entry.key
        if not shown and not output.damaged:
            await _require_namespace(registry, name)


def _entries(
    registry: ReadOnlyRegistry,
    name: StoredName,
    output: Output,
    selection: Selection,
    prefix: str | None,
) -> AsyncIterator[Entry]:
    wanted = None if prefix is None else selection.key(prefix)
    after = None if selection.after is None else selection.key(selection.after)
    return registry.scan(name, wanted, after=after, on_damaged=telling(output))


def _entry(entry: Entry) -> dict[str, Any]:
    found = decode(entry.value)
    return {
        "key": plain(entry.key),
        "version": entry.version,
        "expires_at": entry.expires_at,
        "size_bytes": len(entry.value),
        "format": found.format,
        "value": found.value,
    }


def _entry_line(entry: Entry, width: int) -> str:
    key = cut(key_text(entry.key), max(20, width // 3))
    value = value_text(entry.value)
    return cut(f"{key:<24} {value}", width, len(entry.value))


async def show_key(
    settings: Settings,
    output: Output,
    *,
    namespace: str,
    key: str,
    selection: Selection,
    is_raw: bool,
) -> None:
    name = named(namespace, selection)
    async with open_read_only(settings.data_dir) as registry:
        entry = await registry.key_value_store(name).get(selection.key(key))
        if entry is None:
            await _require_namespace(registry, name)
            raise NotFoundError(
                f"there is no key {selection.key(key)!r} in namespace {name.shown!r}, or it has "
                "expired; a bytes key is given with --hex"
            )
        if is_raw:
            write_raw(entry.value)
            return
        found = decode(entry.value)
        expiry = "never" if entry.expires_at is None else moment(entry.expires_at)
        lines = [
            f"key      {key_text(entry.key)}",
            f"version  {entry.version}",
            f"expires  {expiry}",
            f"size     {size(len(entry.value))}",
            f"format   {found.format}",
            "",
            value_block(entry.value),
        ]
        output.row(_entry(entry), "\n".join(lines))


async def _require_namespace(registry: ReadOnlyRegistry, name: StoredName) -> None:
    names = registry.namespaces(on_damaged=lambda _: None)
    if not any([one.encoded == name.encoded async for one in names]):
        raise NotFoundError(
            f"there is no namespace {name.shown!r}; `mpreg inspect namespaces` lists them"
        )

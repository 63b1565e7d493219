"""``mpreg stats`` and ``mpreg inspect``: each reads a little, shows it, and goes on."""

from __future__ import annotations

import json
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Final

from attrs import frozen

from mpreg.cli.inspection.decoding import cut, decode, key_text, plain, printable, size, value_text
from mpreg.cli.inspection.exits import NotFoundError
from mpreg.cli.inspection.output import Output
from mpreg.cli.inspection.times import moment
from mpreg.errors import CorruptDataError, InvalidArgumentError
from mpreg.persistence import (
    DirectoryStatistics,
    Entry,
    Holder,
    KeyCount,
    LogRecord,
    ReadOnlyRegistry,
    StoredLog,
    StoredName,
    open_read_only,
)

__all__ = [
    "Selection",
    "show_key",
    "show_keys",
    "show_logs",
    "show_namespaces",
    "show_records",
    "show_snapshot",
    "show_snapshots",
    "show_stats",
]

#: Without ``--exact``, keys are counted up to here.
COUNTED_MAX: Final = 10_000


@frozen(kw_only=True)
class Selection:
    """Which part of a list."""

    limit: int | None = None
    after: str | None = None
    is_all: bool = False
    is_hex: bool = False

    def enough(self, shown: int) -> bool:
        return self.limit is not None and shown >= self.limit

    def shows(self, name: StoredName) -> bool:
        is_asked_for = self.is_all or not name.is_reserved
        return is_asked_for and (self.after is None or name.encoded > _parsed(self.after).encoded)

    def key(self, text: str) -> str | bytes:
        """Raises `InvalidArgumentError` where ``--hex`` was given and this is none."""
        if not self.is_hex:
            return text
        try:
            return bytes.fromhex(text.removeprefix("0x"))
        except ValueError as error:
            raise InvalidArgumentError(f"not hexadecimal: {text!r}") from error


def _parsed(text: str) -> StoredName:
    return StoredName.parse(text)


# --- stats ---


async def show_stats(data_dir: Path, output: Output, *, is_exact: bool, is_all: bool) -> None:
    async with open_read_only(data_dir) as registry:
        try:
            _directory(await registry.stats(), output)
        except CorruptDataError as damage:
            output.damage(damage.message, damage.where)
        selection = Selection(is_all=is_all)
        output.heading("namespaces")
        async for name in registry.namespaces(on_damaged=_telling(output)):
            if selection.shows(name):
                count = await registry.count_keys(name, None if is_exact else COUNTED_MAX)
                output.row(*_namespace(name, count, "namespace"))
        output.heading("logs")
        async for log in registry.logs(on_damaged=_telling(output)):
            if selection.shows(log.name):
                output.row(*_log(log, "log"))


def _directory(stats: DirectoryStatistics, output: Output) -> None:
    fields = {
        "kind": "directory",
        "path": str(stats.path),
        "backend": stats.backend,
        "held": stats.holder is not None,
        "pid": None if stats.holder is None else stats.holder.pid,
        "generation": stats.generation,
        "commit_sequence": stats.commit_sequence,
        "last_version": stats.last_version,
        "files": stats.files,
    }
    lines = [
        f"directory        {printable(str(stats.path))}",
        f"held by          {_holder(stats.holder)}",
        f"commit sequence  {stats.commit_sequence}",
        f"generation       {stats.generation}",
        f"last version     {stats.last_version}",
        *(
            f"file             {name:<20} {size(length):>12}"
            for name, length in stats.files.items()
        ),
    ]
    output.row(fields, "\n".join(lines))


def _holder(holder: Holder | None) -> str:
    if holder is None:
        return "nobody"
    return "a process that left no pid" if holder.pid is None else f"pid {holder.pid}"


def _namespace(name: StoredName, count: KeyCount, kind: str = "") -> tuple[dict[str, Any], str]:
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


def _log(log: StoredLog, kind: str = "") -> tuple[dict[str, Any], str]:
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


def _telling(output: Output) -> Any:
    def tell(damage: CorruptDataError) -> None:
        output.damage(damage.message, damage.where)

    return tell


# --- inspect: names ---


async def show_namespaces(
    data_dir: Path, output: Output, selection: Selection, *, is_exact: bool
) -> None:
    shown = 0
    async with open_read_only(data_dir) as registry:
        async for name in registry.namespaces(on_damaged=_telling(output)):
            if not selection.shows(name):
                continue
            if selection.enough(shown):
                output.note("there are more: raise --limit, or go on with --after")
                return
            count = await registry.count_keys(name, None if is_exact else COUNTED_MAX)
            output.row(*_namespace(name, count))
            shown += 1


async def show_logs(data_dir: Path, output: Output, selection: Selection) -> None:
    shown = 0
    async with open_read_only(data_dir) as registry:
        async for log in registry.logs(on_damaged=_telling(output)):
            if not selection.shows(log.name):
                continue
            if selection.enough(shown):
                output.note("there are more: raise --limit, or go on with --after")
                return
            output.row(*_log(log))
            shown += 1


# --- inspect: keys ---


async def show_keys(
    data_dir: Path, namespace: str, output: Output, selection: Selection, prefix: str | None
) -> None:
    shown = 0
    last: str | bytes = ""
    name = named(namespace, selection)
    async with open_read_only(data_dir) as registry:
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
    return registry.scan(name, wanted, after=after, on_damaged=_telling(output))


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
    data_dir: Path, namespace: str, key: str, output: Output, selection: Selection, *, is_raw: bool
) -> None:
    name = named(namespace, selection)
    async with open_read_only(data_dir) as registry:
        entry = await registry.key_value_store(name).get(selection.key(key))
        if entry is None:
            await _require_namespace(registry, name)
            raise NotFoundError(
                f"there is no key {selection.key(key)!r} in namespace {name.shown!r}, or it has "
                "expired; a bytes key is given with --hex"
            )
        if is_raw:
            _write_raw(entry.value)
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


def value_block(data: bytes) -> str:
    """A whole value over several lines."""
    found = decode(data)
    match found.format:
        case "text":
            return "\n".join(printable(line) for line in found.value.splitlines())
        case "bytes":
            return _hex_lines(data)
        case _:
            text = json.dumps(found.value, ensure_ascii=False, indent=2)
            return "\n".join(printable(line) for line in text.splitlines())


HEX_BYTES_MAX: Final = 4_096


def _hex_lines(data: bytes) -> str:
    lines = [
        f"{start:08x}  {data[start : start + 16].hex(' ')}"
        for start in range(0, min(len(data), HEX_BYTES_MAX), 16)
    ]
    if len(data) > HEX_BYTES_MAX:
        lines.append(f"… ({size(len(data))}; --raw writes all of it)")
    return "\n".join(lines)


async def _require_namespace(registry: ReadOnlyRegistry, name: StoredName) -> None:
    names = registry.namespaces(on_damaged=lambda _: None)
    if not any([one.encoded == name.encoded async for one in names]):
        raise NotFoundError(
            f"there is no namespace {name.shown!r}; `mpreg inspect namespaces` lists them"
        )


# --- inspect: records ---


async def show_records(
    data_dir: Path,
    log: str,
    output: Output,
    selection: Selection,
    *,
    start: int,
    stop: int | None,
    is_raw: bool,
) -> None:
    shown = 0
    name = named(log, selection)
    async with open_read_only(data_dir) as registry:
        store = registry.log_store(name)
        if await store.next_offset() == 0:
            await _require_log(registry, name)
        async for record in store.read_range(start, stop, on_damaged=_telling(output)):
            if selection.enough(shown):
                output.note(f"there are more: go on with --from {record.offset}")
                return
            if is_raw:
                _write_raw(record.data)
            else:
                output.row(_record(record), _record_line(record, output.width))
            shown += 1


def _record(record: LogRecord) -> dict[str, Any]:
    found = decode(record.data)
    return {
        "offset": record.offset,
        "size_bytes": len(record.data),
        "format": found.format,
        "value": found.value,
    }


def _record_line(record: LogRecord, width: int) -> str:
    return cut(f"{record.offset:<12} {value_text(record.data)}", width, len(record.data))


async def _require_log(registry: ReadOnlyRegistry, name: StoredName) -> None:
    logs = registry.logs(on_damaged=lambda _: None)
    if not any([one.name.encoded == name.encoded async for one in logs]):
        raise NotFoundError(f"there is no log {name.shown!r}; `mpreg inspect logs` lists them")


# --- inspect: snapshots ---


async def show_snapshots(data_dir: Path, output: Output, selection: Selection) -> None:
    shown = 0
    async with open_read_only(data_dir) as registry:
        async for name in registry.namespaces(on_damaged=_telling(output)):
            if not name.is_snapshot or not (selection.is_all or name.is_users_snapshot):
                continue
            if selection.after is not None and name.snapshot <= selection.after:
                continue
            if selection.enough(shown):
                output.note("there are more: raise --limit, or go on with --after")
                return
            shown += await _show_snapshot(registry, name, output)


async def _show_snapshot(registry: ReadOnlyRegistry, name: StoredName, output: Output) -> bool:
    """Whether there is one: a snapshot that was deleted leaves its name."""
    try:
        found = await registry.describe_snapshot(name)
    except CorruptDataError as damage:
        output.damage(damage.message, damage.where)
        return True
    if found is None:
        return False
    version, size_bytes = found
    fields = {
        "name": name.snapshot.strip("<>") if not name.is_users_snapshot else name.snapshot,
        "reserved": not name.is_users_snapshot,
        "version": version,
        "size_bytes": size_bytes,
    }
    output.row(fields, f"{printable(name.snapshot):<32} version {version}, {size(size_bytes)}")
    return True


async def show_snapshot(
    data_dir: Path, name: str, output: Output, selection: Selection, *, is_raw: bool
) -> None:
    async with open_read_only(data_dir) as registry:
        own = selection.is_all and name.startswith("<")
        store = registry.snapshot_store(StoredName.parse(name) if own else name)
        snapshot = await store.load()
        if snapshot is None:
            raise NotFoundError(
                f"there is no snapshot {name!r}; `mpreg inspect snapshots` lists them"
            )
        if is_raw:
            _write_raw(snapshot.data)
            return
        found = decode(snapshot.data)
        fields = {
            "name": name,
            "version": snapshot.version,
            "size_bytes": len(snapshot.data),
            "format": found.format,
            "value": found.value,
        }
        lines = [
            f"snapshot  {printable(name)}",
            f"version   {snapshot.version}",
            f"size      {size(len(snapshot.data))}",
            f"format    {found.format}",
            "",
            value_block(snapshot.data),
        ]
        output.row(fields, "\n".join(lines))


def named(text: str, selection: Selection) -> StoredName:
    """A name as it was given; with ``--all``, one in brackets is one of mpreg's own."""
    parsed = StoredName.parse(text)
    return parsed if selection.is_all or not parsed.is_reserved else StoredName(text.encode())


def _write_raw(data: bytes) -> None:
    sys.stdout.flush()
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()

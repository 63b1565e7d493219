"""Records of a log."""

from __future__ import annotations

from typing import Any

from mpreg.cli.decoding import cut, decode, value_text
from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.runs.inspect.selection import Selection, named, telling
from mpreg.cli.runs.inspect.values import write_raw
from mpreg.cli.settings import Settings
from mpreg.persistence import LogRecord, ReadOnlyRegistry, StoredName, open_read_only

__all__ = ["show_records"]


async def show_records(
    settings: Settings,
    output: Output,
    *,
    log: str,
    selection: Selection,
    start: int,
    stop: int | None,
    is_raw: bool,
) -> None:
    shown = 0
    name = named(log, selection)
    async with open_read_only(settings.data_dir) as registry:
        store = registry.log_store(name)
        if await store.next_offset() == 0:
            await _require_log(registry, name)
        async for record in store.read_range(start, stop, on_damaged=telling(output)):
            if selection.enough(shown):
                output.note(f"there are more: go on with --from {record.offset}")
                return
            if is_raw:
                write_raw(record.data)
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

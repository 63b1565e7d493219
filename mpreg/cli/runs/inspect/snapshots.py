"""Snapshots: all of them, and one."""

from __future__ import annotations

from mpreg.cli.decoding import decode, printable, size
from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.runs.inspect.selection import Selection, telling
from mpreg.cli.runs.inspect.values import value_block, write_raw
from mpreg.cli.settings import Settings
from mpreg.errors import CorruptDataError
from mpreg.persistence import ReadOnlyRegistry, StoredName, open_read_only

__all__ = ["show_snapshot", "show_snapshots"]


async def show_snapshots(settings: Settings, output: Output, *, selection: Selection) -> None:
    shown = 0
    async with open_read_only(settings.data_dir) as registry:
        async for name in registry.namespaces(on_damaged=telling(output)):
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
    settings: Settings, output: Output, *, name: str, selection: Selection, is_raw: bool
) -> None:
    async with open_read_only(settings.data_dir) as registry:
        own = selection.is_all and name.startswith("<")
        store = registry.snapshot_store(StoredName.parse(name) if own else name)
        snapshot = await store.load()
        if snapshot is None:
            raise NotFoundError(
                f"there is no snapshot {name!r}; `mpreg inspect snapshots` lists them"
            )
        if is_raw:
            write_raw(snapshot.data)
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

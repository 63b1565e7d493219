"""``mpreg inspect``."""

from __future__ import annotations

from typing import Any

import click

from mpreg.cli.completion import keys_of, logs_of, namespaces_of, snapshots_of
from mpreg.cli.execution import execute
from mpreg.cli.options import (
    Common,
    after_option,
    all_option,
    common_options,
    exact_option,
    hex_option,
    limit_option,
    raw_option,
)

__all__ = ["inspect"]


def _selection(**options: Any) -> Any:
    from mpreg.cli.runs.inspect.selection import Selection

    return Selection(**options)


@click.group()
def inspect() -> None:
    """Look at what is stored, decoded where possible.

    Changes nothing, and works while a process holds the directory: it shows what is committed. On
    a terminal, lists go through $PAGER. What a value is (text, JSON, MessagePack) is not stored and
    is guessed; --raw gives the bytes. Damaged items are shown in their place, and the exit code is
    3.
    """


@inspect.command()
@limit_option
@after_option("name")
@exact_option
@all_option
@common_options
def namespaces(
    common: Common, limit: int | None, after: str | None, is_exact: bool, is_all: bool
) -> None:
    """List the namespaces of keys."""
    selection = _selection(limit=limit, after=after, is_all=is_all)
    runner = "inspect.names:show_namespaces"
    execute(common, runner, is_paged=True, selection=selection, is_exact=is_exact)


@inspect.command()
@click.argument("namespace", shell_complete=namespaces_of)
@click.option("--prefix", default=None, help="Only keys that begin so.")
@limit_option
@after_option("key")
@hex_option
@all_option
@common_options
def keys(
    common: Common,
    namespace: str,
    prefix: str | None,
    limit: int | None,
    after: str | None,
    is_hex: bool,
    is_all: bool,
) -> None:
    """List the keys of NAMESPACE with their values; bytes keys first, as 0x…."""
    selection = _selection(limit=limit, after=after, is_all=is_all, is_hex=is_hex)
    named: dict[str, Any] = {"namespace": namespace, "selection": selection, "prefix": prefix}
    execute(common, "inspect.keys:show_keys", is_paged=True, **named)


@inspect.command()
@click.argument("namespace", shell_complete=namespaces_of)
@click.argument("key", shell_complete=keys_of)
@hex_option
@raw_option
@all_option
@common_options
def key(common: Common, namespace: str, key: str, is_hex: bool, is_raw: bool, is_all: bool) -> None:
    """Show the value of KEY in NAMESPACE, with its version and expiry."""
    selection = _selection(is_all=is_all, is_hex=is_hex)
    named: dict[str, Any] = {
        "namespace": namespace,
        "key": key,
        "selection": selection,
        "is_raw": is_raw,
    }
    execute(common, "inspect.keys:show_key", is_paged=not is_raw, **named)


@inspect.command()
@limit_option
@after_option("name")
@all_option
@common_options
def logs(common: Common, limit: int | None, after: str | None, is_all: bool) -> None:
    """List the logs."""
    selection = _selection(limit=limit, after=after, is_all=is_all)
    execute(common, "inspect.names:show_logs", is_paged=True, selection=selection)


@inspect.command()
@click.argument("log", shell_complete=logs_of)
@click.option(
    "--from", "start", type=click.IntRange(0, 2**63 - 1), default=0, help="The first offset."
)
@click.option(
    "--to",
    "stop",
    type=click.IntRange(0, 2**63 - 1),
    default=None,
    help="The offset to stop before.  [default: the end]",
)
@limit_option
@raw_option
@all_option
@common_options
def records(
    common: Common,
    log: str,
    start: int,
    stop: int | None,
    limit: int | None,
    is_raw: bool,
    is_all: bool,
) -> None:
    """List the records of LOG."""
    selection = _selection(limit=limit, is_all=is_all)
    named: dict[str, Any] = {
        "log": log,
        "selection": selection,
        "start": start,
        "stop": stop,
        "is_raw": is_raw,
    }
    execute(common, "inspect.records:show_records", is_paged=not is_raw, **named)


@inspect.command()
@limit_option
@after_option("name")
@all_option
@common_options
def snapshots(common: Common, limit: int | None, after: str | None, is_all: bool) -> None:
    """List the snapshots."""
    selection = _selection(limit=limit, after=after, is_all=is_all)
    execute(common, "inspect.snapshots:show_snapshots", is_paged=True, selection=selection)


@inspect.command()
@click.argument("name", shell_complete=snapshots_of)
@raw_option
@all_option
@common_options
def snapshot(common: Common, name: str, is_raw: bool, is_all: bool) -> None:
    """Show the snapshot NAME. It is read into memory as a whole."""
    named: dict[str, Any] = {"name": name, "selection": _selection(is_all=is_all), "is_raw": is_raw}
    execute(common, "inspect.snapshots:show_snapshot", is_paged=not is_raw, **named)


@inspect.command("queues")
@common_options
def queues(common: Common) -> None:
    """List the queues: the same as `mpreg queue list`."""
    execute(common, "queue.looking:list_queues", is_paged=True)

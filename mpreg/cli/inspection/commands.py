"""The commands that look into a data directory, and their options."""

from __future__ import annotations

import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import click

from mpreg.cli.inspection.options import (
    after_option,
    all_option,
    limit_option,
    shared_options,
)
from mpreg.cli.loops import run

__all__ = ["inspect", "queue", "stats"]


def _run(
    loop: str, is_json: bool, function: Callable[..., Awaitable[Any]], *arguments: Any, **named: Any
) -> None:
    """Run what shows something, and exit with what it came to."""
    from mpreg.cli.inspection.exits import DAMAGED, OK, told
    from mpreg.cli.inspection.output import opened_output

    paged = not named.get("is_raw") and named.pop("paged", True)
    with told(), opened_output(is_json=is_json, paged=paged) as output:

        async def show() -> None:
            await function(*arguments, output=output, **named)

        run(loop, show)
    if output.damaged:
        click.echo(
            f"mpreg: {output.damaged} damaged items were met and passed over; see above", err=True
        )
    sys.exit(DAMAGED if output.damaged else OK)


def _selection(**options: Any) -> Any:
    from mpreg.cli.inspection.reading import Selection

    return Selection(**options)


raw_option = click.option("--raw", "is_raw", is_flag=True, help="Only the bytes, as they are.")
hex_option = click.option(
    "--hex", "is_hex", is_flag=True, help="Keys are given in hexadecimal: they are bytes, not str."
)
exact_option = click.option(
    "--exact", "is_exact", is_flag=True, help="Count all keys, and not only the first 10,000."
)


@click.command()
@exact_option
@all_option
@shared_options
def stats(data_dir: Path, is_json: bool, loop: str, is_exact: bool, is_all: bool) -> None:
    """Say how large a data directory is, how far it has come, and who holds it.

    Keys of a namespace are counted up to 10,000; all of them with --exact, which reads through
    them. It changes nothing, and works while a process holds the directory.
    """
    from mpreg.cli.inspection.reading import show_stats

    _run(loop, is_json, show_stats, data_dir, is_exact=is_exact, is_all=is_all)


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
@shared_options
def namespaces(
    data_dir: Path,
    is_json: bool,
    loop: str,
    limit: int | None,
    after: str | None,
    is_exact: bool,
    is_all: bool,
) -> None:
    """List the namespaces of keys."""
    from mpreg.cli.inspection.reading import show_namespaces

    selection = _selection(limit=limit, after=after, is_all=is_all)
    _run(loop, is_json, show_namespaces, data_dir, selection=selection, is_exact=is_exact)


@inspect.command()
@click.argument("namespace")
@click.option("--prefix", default=None, help="Only keys that begin so.")
@limit_option
@after_option("key")
@hex_option
@all_option
@shared_options
def keys(
    data_dir: Path,
    is_json: bool,
    loop: str,
    namespace: str,
    prefix: str | None,
    limit: int | None,
    after: str | None,
    is_hex: bool,
    is_all: bool,
) -> None:
    """List the keys of NAMESPACE with their values; bytes keys first, as 0x…."""
    from mpreg.cli.inspection.reading import show_keys

    selection = _selection(limit=limit, after=after, is_all=is_all, is_hex=is_hex)
    _run(loop, is_json, show_keys, data_dir, namespace, selection=selection, prefix=prefix)


@inspect.command()
@click.argument("namespace")
@click.argument("key")
@hex_option
@raw_option
@all_option
@shared_options
def key(
    data_dir: Path,
    is_json: bool,
    loop: str,
    namespace: str,
    key: str,
    is_hex: bool,
    is_raw: bool,
    is_all: bool,
) -> None:
    """Show the value of KEY in NAMESPACE, with its version and expiry."""
    from mpreg.cli.inspection.reading import show_key

    selection = _selection(is_all=is_all, is_hex=is_hex)
    _run(loop, is_json, show_key, data_dir, namespace, key, selection=selection, is_raw=is_raw)


@inspect.command()
@limit_option
@after_option("name")
@all_option
@shared_options
def logs(
    data_dir: Path, is_json: bool, loop: str, limit: int | None, after: str | None, is_all: bool
) -> None:
    """List the logs."""
    from mpreg.cli.inspection.reading import show_logs

    selection = _selection(limit=limit, after=after, is_all=is_all)
    _run(loop, is_json, show_logs, data_dir, selection=selection)


@inspect.command()
@click.argument("log")
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
@shared_options
def records(
    data_dir: Path,
    is_json: bool,
    loop: str,
    log: str,
    start: int,
    stop: int | None,
    limit: int | None,
    is_raw: bool,
    is_all: bool,
) -> None:
    """List the records of LOG."""
    from mpreg.cli.inspection.reading import show_records

    selection = _selection(limit=limit, is_all=is_all)
    named = {"selection": selection, "start": start, "stop": stop, "is_raw": is_raw}
    _run(loop, is_json, show_records, data_dir, log, **named)


@inspect.command()
@limit_option
@after_option("name")
@all_option
@shared_options
def snapshots(
    data_dir: Path, is_json: bool, loop: str, limit: int | None, after: str | None, is_all: bool
) -> None:
    """List the snapshots."""
    from mpreg.cli.inspection.reading import show_snapshots

    selection = _selection(limit=limit, after=after, is_all=is_all)
    _run(loop, is_json, show_snapshots, data_dir, selection=selection)


@inspect.command()
@click.argument("name")
@raw_option
@all_option
@shared_options
def snapshot(
    data_dir: Path, is_json: bool, loop: str, name: str, is_raw: bool, is_all: bool
) -> None:
    """Show the snapshot NAME. It is read into memory as a whole."""
    from mpreg.cli.inspection.reading import show_snapshot

    named = {"selection": _selection(is_all=is_all), "is_raw": is_raw}
    _run(loop, is_json, show_snapshot, data_dir, name, **named)


@inspect.command("queues")
@shared_options
def queues(data_dir: Path, is_json: bool, loop: str) -> None:
    """List the queues: the same as `mpreg queue list`."""
    from mpreg.cli.inspection.queues import list_queues

    _run(loop, is_json, list_queues, data_dir)


@click.group()
def queue() -> None:
    """Look into message queues, and redrive or purge them.

    list, show, peek and dead-letters change nothing and work while a process holds the directory:
    they read the last saved state of a queue and the events after it, as a restart does. Which
    messages are with a consumer of that process now cannot be told. redrive and purge write, and
    need the directory for themselves.
    """


@queue.command("list")
@shared_options
def list_(data_dir: Path, is_json: bool, loop: str) -> None:
    """List the queues with their counts."""
    from mpreg.cli.inspection.queues import list_queues

    _run(loop, is_json, list_queues, data_dir)


@queue.command()
@click.argument("name")
@shared_options
def show(data_dir: Path, is_json: bool, loop: str, name: str) -> None:
    """Show counts, subscriptions and settings of the queue NAME."""
    from mpreg.cli.inspection.queues import show_queue

    _run(loop, is_json, show_queue, data_dir, name)


@queue.command()
@click.argument("name")
@click.option("--subscription", default=None, help="What this one has not finished.")
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="At most so many."
)
@shared_options
def peek(
    data_dir: Path, is_json: bool, loop: str, name: str, subscription: str | None, limit: int
) -> None:
    """Show the next messages of the queue NAME, without taking them."""
    from mpreg.cli.inspection.queues import peek

    _run(loop, is_json, peek, data_dir, name, subscription=subscription, limit=limit)


@queue.command("dead-letters")
@click.argument("name")
@limit_option
@after_option("dead letter's key")
@shared_options
def dead_letters(
    data_dir: Path, is_json: bool, loop: str, name: str, limit: int | None, after: str | None
) -> None:
    """Show the dead letters of the queue NAME, by priority and age, with their reasons."""
    from mpreg.cli.inspection.queues import show_dead_letters

    _run(loop, is_json, show_dead_letters, data_dir, name, limit=limit, after=after)


@queue.command()
@click.argument("name")
@click.option("--to", default=None, help="Send them to this queue.  [default: their own]")
@click.option(
    "--id",
    "ids",
    multiple=True,
    help="Only this dead letter, by its key or its message's id; may be given several times.",
)
@shared_options
def redrive(
    data_dir: Path, is_json: bool, loop: str, name: str, to: str | None, ids: tuple[str, ...]
) -> None:
    """Send the dead letters of the queue NAME again, with fresh attempts.

    Each is sent and removed in one transaction. Interrupted, those sent until then stay sent; run
    again, it goes on.
    """
    from mpreg.cli.inspection.queues import redrive

    _run(loop, is_json, redrive, data_dir, name, to=to, ids=ids, paged=False)


@queue.command()
@click.argument("name")
@click.option("--messages", is_flag=True, help="Remove the messages.")
@click.option("--dead-letters", is_flag=True, help="Remove the dead letters.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@shared_options
def purge(
    data_dir: Path,
    is_json: bool,
    loop: str,
    name: str,
    messages: bool,
    dead_letters: bool,
    is_sure: bool,
) -> None:
    """Remove what is in the queue NAME, for good: messages, dead letters, or, by default, both.

    It asks first; where nobody can be asked, it does nothing without --yes.
    """
    from mpreg.cli.inspection.queues import purge

    if not messages and not dead_letters:
        messages = dead_letters = True
    named = {"messages": messages, "dead_letters": dead_letters, "is_sure": is_sure}
    _run(loop, is_json, purge, data_dir, name, paged=False, **named)

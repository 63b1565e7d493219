"""``mpreg queue``."""

from __future__ import annotations

from typing import Any, Final

import click

from mpreg.cli.completion import queues_of, subscriptions_of
from mpreg.cli.execution import execute
from mpreg.cli.options import Common, after_option, common_options, limit_option

__all__ = ["queue"]

queue_argument = click.argument("name", shell_complete=queues_of)

#: What a node that holds the directory can be asked, and a program can call, to the same end.
INSTEAD: Final = (
    "a node takes POST /v1/queues/{queue}/dead-letters/redrive, .../dead-letters/purge and "
    "/v1/queues/{queue}/purge; a program has MessageQueue.redrive, .purge_dead_letters and .purge"
)


@click.group()
def queue() -> None:
    """Look into message queues, and redrive or purge them.

    list, show, peek and dead-letters change nothing and work while a process holds the directory:
    they read the last saved state of a queue and the events after it, as a restart does. Which
    messages are with a consumer of that process now cannot be told. redrive and purge write, and
    need the directory for themselves.
    """


@queue.command("list")
@common_options
def list_(common: Common) -> None:
    """List the queues with their counts."""
    execute(common, "queue.looking:list_queues", is_paged=True)


@queue.command()
@queue_argument
@common_options
def show(common: Common, name: str) -> None:
    """Show counts, subscriptions and settings of the queue NAME."""
    execute(common, "queue.looking:show_queue", is_paged=True, name=name)


@queue.command()
@queue_argument
@click.option(
    "--subscription",
    default=None,
    shell_complete=subscriptions_of,
    help="What this one has not finished.",
)
@click.option(
    "--limit", type=click.IntRange(min=1), default=10, show_default=True, help="At most so many."
)
@common_options
def peek(common: Common, name: str, subscription: str | None, limit: int) -> None:
    """Show the next messages of the queue NAME, without taking them."""
    named: dict[str, Any] = {"name": name, "subscription": subscription, "limit": limit}
    execute(common, "queue.looking:peek", is_paged=True, **named)


@queue.command("dead-letters")
@queue_argument
@limit_option
@after_option("dead letter's key")
@common_options
def dead_letters(common: Common, name: str, limit: int | None, after: str | None) -> None:
    """Show the dead letters of the queue NAME, by priority and age, with their reasons."""
    named: dict[str, Any] = {"name": name, "limit": limit, "after": after}
    execute(common, "queue.looking:show_dead_letters", is_paged=True, **named)


@queue.command()
@queue_argument
@click.option(
    "--to",
    default=None,
    shell_complete=queues_of,
    help="Send them to this queue.  [default: their own]",
)
@click.option(
    "--id",
    "ids",
    multiple=True,
    help="Only this dead letter, by its key or its message's id; may be given several times.",
)
@common_options
def redrive(common: Common, name: str, to: str | None, ids: tuple[str, ...]) -> None:
    """Send the dead letters of the queue NAME again, with fresh attempts.

    Each is sent and removed in one transaction. Interrupted, those sent until then stay sent; run
    again, it goes on.
    """
    execute(
        common,
        "queue.changing:redrive",
        instead=INSTEAD,
        interrupted="those sent until then stay sent, the others are dead letters still; run "
        "again, it goes on",
        name=name,
        to=to,
        ids=ids,
    )


@queue.command()
@queue_argument
@click.option("--messages", is_flag=True, help="Remove the messages.")
@click.option("--dead-letters", is_flag=True, help="Remove the dead letters.")
@click.option("--yes", "is_sure", is_flag=True, help="Do not ask.")
@common_options
def purge(common: Common, name: str, messages: bool, dead_letters: bool, is_sure: bool) -> None:
    """Remove what is in the queue NAME, for good: messages, dead letters, or, by default, both.

    It asks first; where nobody can be asked, it does nothing without --yes.
    """
    if not messages and not dead_letters:
        messages = dead_letters = True
    execute(
        common,
        "queue.changing:purge",
        instead=INSTEAD,
        name=name,
        messages=messages,
        dead_letters=dead_letters,
        is_sure=is_sure,
    )

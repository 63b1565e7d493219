"""The few things that are done to a queue by hand."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager

import click

from mpreg.cli.exits import NotFoundError
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.cli.watching import watched
from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueue, MessageQueueManager

__all__ = ["purge", "redrive"]


@asynccontextmanager
async def _opened(settings: Settings, *names: str) -> AsyncGenerator[list[MessageQueue], None]:
    """The queues of a directory that is there: opening it must not make one."""
    async with PersistenceRegistry(settings.config_of_what_is_there()) as registry:
        queues = MessageQueueManager(registry)
        yield [await queues.get_queue(name) for name in names]


async def redrive(
    settings: Settings, output: Output, *, name: str, to: str | None, ids: tuple[str, ...]
) -> None:
    names = (name,) if to is None else (name, to)
    async with _opened(settings, *names) as queues:
        source, target = queues[0], queues[-1]
        total = len(ids) or source.statistics().dead
        unknown = await _unknown(source, ids)
        moved = await _watched(
            output, "sending again", total, source, lambda: source.redrive(ids or None, to=target)
        )
        left = source.statistics().dead
        why = "" if ids or not left else ": their messages are damaged"
        output.row(
            {"queue": name, "to": target.name, "redriven": moved, "dead": left},
            f"{moved} dead letters sent again to {target.name!r}; {left} stay{why}",
        )
        if ids and moved < len(set(ids)):
            left_out = len(set(ids)) - moved
            why = (
                f"there is no {', '.join(map(repr, unknown))}"
                if unknown
                else "their messages are damaged, or several of them are of one message"
            )
            raise NotFoundError(
                f"{left_out} of the dead letters named were not sent again: {why}; "
                f"`mpreg queue dead-letters {name}` lists those that there are",
                state=f"{moved} sent again, the rest unchanged" if moved else "unchanged",
            )


async def purge(
    settings: Settings,
    output: Output,
    *,
    name: str,
    messages: bool,
    dead_letters: bool,
    is_sure: bool,
) -> None:
    async with _opened(settings, name) as (queue,):
        counts = queue.statistics()
        what = [
            *([f"{counts.size} messages"] if messages else []),
            *([f"{counts.dead} dead letters"] if dead_letters else []),
        ]
        # The directory is held meanwhile, so what was confirmed is what is removed.
        if not is_sure and not _is_confirmed(f"Remove {' and '.join(what)} of {name!r} for good?"):
            raise NotFoundError("not confirmed: nothing was removed (--yes confirms it)")
        removed = await _watched(
            output,
            "removing dead letters",
            counts.dead,
            queue,
            lambda: queue.purge(messages=messages, dead_letters=dead_letters),
        )
        output.row({"queue": name, "removed": removed}, f"{removed} removed")


async def _unknown(queue: MessageQueue, ids: tuple[str, ...]) -> list[str]:
    """Those that no dead letter has for its key or for its message's id."""
    missing = dict.fromkeys(ids)
    if not missing:
        return []
    async with aclosing(queue.scan_dead_letters()) as letters:
        async for letter in letters:
            missing.pop(letter.key, None)
            if letter.id is not None:
                missing.pop(letter.id, None)
    return list(missing)


def _is_confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return click.confirm(question, err=True)


async def _watched(
    output: Output, what: str, total: int, queue: MessageQueue, work: Callable[[], Awaitable[int]]
) -> int:
    before = queue.statistics().dead

    async def done() -> int:
        return before - queue.statistics().dead

    return await watched(output, what, total, done, work)

"""``mpreg queue``: what is in the queues, and the few things that are done to one by hand."""

from __future__ import annotations

import sys
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any, Final

import anyio
import click

from mpreg.cli.inspection.decoding import as_json, cut, plain, printable
from mpreg.cli.inspection.exits import NotFoundError
from mpreg.cli.inspection.output import Output
from mpreg.cli.inspection.times import moment
from mpreg.codec import decode_value
from mpreg.errors import CorruptDataError
from mpreg.persistence import (
    PersistenceConfig,
    PersistenceRegistry,
    ReadOnlyRegistry,
    open_read_only,
)
from mpreg.persistence.read_only import FoundDirectory
from mpreg.queues import DeadLetter, MessageQueue, MessageQueueManager, QueueStatistics
from mpreg.queues.records import MessageRecord
from mpreg.queues.state import DEFAULT_SUBSCRIPTION
from mpreg.queues.view import PendingMessage, QueueView, queue_names

__all__ = ["list_queues", "peek", "purge", "redrive", "show_dead_letters", "show_queue"]

PROGRESS_SECONDS: Final = 0.2


# --- reading ---


async def list_queues(data_dir: Path, output: Output) -> None:
    async with open_read_only(data_dir) as registry:
        for name in await queue_names(registry):
            try:
                view = await QueueView.open(registry, name)
            except CorruptDataError as damage:
                output.damage(damage.message, damage.where or f"queue {name!r}")
                continue
            _tell_damage(view, output)
            counts = view.statistics()
            fields = {"name": name, **_kind(view), **_counts(counts)}
            text = (
                f"{printable(name):<32} {counts.pending} pending, {counts.delayed} delayed, "
                f"{counts.dead} dead"
            )
            output.row(fields, text)
        await _tell_leases(registry, output)


async def show_queue(data_dir: Path, name: str, output: Output) -> None:
    async with open_read_only(data_dir) as registry:
        view = await QueueView.open(registry, name)
        counts = view.statistics()
        subscriptions = {
            one: {
                "topic_pattern": view.patterns[one],
                "pending": found.pending,
                "delayed": found.delayed,
            }
            for one, found in counts.subscriptions.items()
        }
        configuration = view.configuration.encode()
        fields = {
            "name": name,
            **_counts(counts),
            "subscriptions": subscriptions,
            "configuration": plain(configuration),
        }
        lines = [
            f"queue         {printable(name)}",
            *(f"{field:<13} {value}" for field, value in _counts(counts).items()),
            *(
                f"subscription  {printable(one)}: {found['pending']} pending, "
                f"{found['delayed']} delayed, topics {found['topic_pattern'] or 'all'}"
                for one, found in subscriptions.items()
            ),
            "",
            *(f"{field:<30} {value}" for field, value in configuration.items()),
        ]
        output.row(fields, "\n".join(lines))
        _tell_damage(view, output)
        await _tell_leases(registry, output)


def _kind(view: QueueView) -> dict[str, str]:
    configuration = view.configuration
    return {
        "queue_type": configuration.queue_type.value,
        "delivery_guarantee": configuration.delivery_guarantee.value,
    }


def _counts(counts: QueueStatistics) -> dict[str, int]:
    return {
        "pending": counts.pending,
        "delayed": counts.delayed,
        "dead": counts.dead,
        "size": counts.size,
        "sent": counts.sent,
        "acknowledged": counts.acknowledged,
        "redelivered": counts.redelivered,
        "expired": counts.expired,
    }


def _tell_damage(view: QueueView, output: Output) -> None:
    for message in view.damage:
        output.damage(message)


async def _tell_leases(registry: ReadOnlyRegistry, output: Output) -> None:
    if (holder := (await registry.stats()).holder) is not None:
        who = "a process" if holder.pid is None else f"pid {holder.pid}"
        output.note(
            f"note: {who} holds the directory; which messages its consumers have now is known to "
            "it alone: they count as pending here"
        )


async def peek(
    data_dir: Path, name: str, output: Output, *, subscription: str | None, limit: int
) -> None:
    async with open_read_only(data_dir) as registry:
        view = await QueueView.open(registry, name)
        _tell_damage(view, output)
        if subscription is None and DEFAULT_SUBSCRIPTION in view.patterns:
            subscription = DEFAULT_SUBSCRIPTION
        shown = 0
        async with aclosing(view.messages(subscription)) as messages:
            async for one in messages:
                if shown == limit:
                    output.note("there are more: raise --limit")
                    break
                _show_message(one, output)
                shown += 1
        await _tell_leases(registry, output)


def _show_message(one: PendingMessage, output: Output) -> None:
    record = one.message
    place = {"priority": one.lane, "offset": one.offset}
    if isinstance(record, CorruptDataError):
        where = record.where or f"priority {one.lane}, offset {one.offset}"
        output.damage(record.message, where)
        return
    fields = place | {
        "size_bytes": one.size_bytes,
        "attempts": one.attempts,
        "visible_at": one.visible_at,
        "reason": one.reason,
        **_message(record),
    }
    tried = f" attempt {one.attempts}: {printable(one.reason)}" if one.attempts else ""
    text = f"{record.id:<12} {moment(record.sent_at)}{tried} {_payload_text(record)}"
    output.row(fields, cut(text, output.width, one.size_bytes))


def _message(record: MessageRecord) -> dict[str, Any]:
    return {
        "id": record.id,
        "sent_at": record.sent_at,
        "expires_at": record.expires_at,
        "topic": record.topic,
        "headers": record.headers,
        "payload": plain(decode_value(record.payload)),
    }


def _payload_text(record: MessageRecord) -> str:
    topic = f"{printable(record.topic)} " if record.topic else ""
    value = decode_value(record.payload)
    if isinstance(value, bytes):
        return f"{topic}(bytes) {value[:1_024].hex()}"
    return f"{topic}{printable(as_json(plain(value)))}"


async def show_dead_letters(
    data_dir: Path, name: str, output: Output, *, limit: int | None, after: str | None
) -> None:
    async with open_read_only(data_dir) as registry:
        view = await QueueView.open(registry, name)
        _tell_damage(view, output)
        shown, last = 0, ""
        async with aclosing(view.dead_letters()) as letters:
            async for letter in letters:
                if isinstance(letter, CorruptDataError):
                    output.damage(letter.message, letter.where)
                    continue
                if after is not None and letter.key <= after:
                    continue
                if shown == limit:
                    output.note(f"there are more: go on with --after {last}")
                    break
                _show_letter(letter, output)
                shown, last = shown + 1, letter.key


def _show_letter(letter: DeadLetter, output: Output) -> None:
    record = letter.record.message
    fields = {
        "key": letter.key,
        "priority": letter.priority,
        "offset": letter.offset,
        "subscription": letter.subscription,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "last_error": letter.last_error,
        "died_at": letter.died_at,
        "message": None if record is None else _message(record),
    }
    payload = "(its message was damaged)" if record is None else _payload_text(record)
    text = (
        f"{printable(letter.id or letter.key):<12} {moment(letter.died_at)} "
        f"{printable(letter.last_error or letter.reason)} {payload}"
    )
    output.row(fields, cut(text, output.width))


# --- writing ---


@asynccontextmanager
async def _opened(data_dir: Path, *names: str) -> AsyncGenerator[list[MessageQueue], None]:
    """The queues of a directory that is there: opening it must not make one."""
    found = FoundDirectory.at(data_dir)
    async with PersistenceRegistry(PersistenceConfig(data_dir=found.path)) as registry:
        queues = MessageQueueManager(registry)
        yield [await queues.get_queue(name) for name in names]


async def redrive(
    data_dir: Path, name: str, output: Output, *, to: str | None, ids: tuple[str, ...]
) -> None:
    names = (name,) if to is None else (name, to)
    async with _opened(data_dir, *names) as queues:
        source, target = queues[0], queues[-1]
        total = len(ids) or source.statistics().dead
        moved = await _watched(
            "redriven", total, source, lambda: source.redrive(ids or None, to=target)
        )
        left = source.statistics().dead
        output.row(
            {"queue": name, "to": target.name, "redriven": moved, "dead": left},
            f"{moved} dead letters sent again to {printable(target.name)!r}; {left} stay",
        )
        if ids and moved < len(set(ids)):
            raise NotFoundError(
                f"{len(set(ids)) - moved} of the dead letters named are not there, or their "
                "messages are damaged"
            )


async def purge(
    data_dir: Path, name: str, output: Output, *, messages: bool, dead_letters: bool, is_sure: bool
) -> None:
    async with _opened(data_dir, name) as (queue,):
        counts = queue.statistics()
        what = [
            *([f"{counts.size} messages"] if messages else []),
            *([f"{counts.dead} dead letters"] if dead_letters else []),
        ]
        # The directory is held meanwhile, so what was confirmed is what is removed.
        if not is_sure and not _is_confirmed(f"Remove {' and '.join(what)} of {name!r} for good?"):
            raise NotFoundError("not confirmed: nothing was removed (--yes confirms it)")
        removed = await _watched(
            "removed",
            counts.dead,
            queue,
            lambda: queue.purge(messages=messages, dead_letters=dead_letters),
        )
        output.row({"queue": name, "removed": removed}, f"{removed} removed")


def _is_confirmed(question: str) -> bool:
    if not sys.stdin.isatty():
        return False
    return click.confirm(question, err=True)


async def _watched(
    what: str, total: int, queue: MessageQueue, work: Callable[[], Awaitable[int]]
) -> int:
    """Do it, and say on a terminal how far it has come."""
    if not sys.stderr.isatty():
        return await work()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(_progress, what, total, queue)
        done = await work()
        task_group.cancel_scope.cancel()
    return done


async def _progress(what: str, total: int, queue: MessageQueue) -> None:
    before = queue.statistics().dead
    try:
        while True:
            await anyio.sleep(PROGRESS_SECONDS)
            done = before - queue.statistics().dead
            click.echo(f"\r{done} of {total} {what}", nl=False, err=True)
    finally:
        click.echo("\r\x1b[K", nl=False, err=True)

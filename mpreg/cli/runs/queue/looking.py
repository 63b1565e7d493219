"""What is in the queues, from outside."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

from mpreg.cli.decoding import as_json, cut, plain, printable
from mpreg.cli.output import Output
from mpreg.cli.settings import Settings
from mpreg.cli.times import moment
from mpreg.codec import decode_value
from mpreg.errors import CorruptDataError, QueueNotFoundError
from mpreg.persistence import ReadOnlyRegistry, open_read_only
from mpreg.queues import DeadLetter, QueueStatistics
from mpreg.queues.records import MessageRecord
from mpreg.queues.state import DEFAULT_SUBSCRIPTION
from mpreg.queues.view import PendingMessage, QueueView, queue_names

__all__ = ["list_queues", "peek", "show_dead_letters", "show_one", "show_queue"]


async def list_queues(settings: Settings, output: Output) -> None:
    async with open_read_only(settings.data_dir) as registry:
        for name in await queue_names(registry):
            await show_one(registry, output, name)
        await _tell_leases(registry, output)


async def show_one(
    registry: ReadOnlyRegistry, output: Output, name: str, kind: str | None = None
) -> None:
    """A line with the counts of a queue."""
    try:
        view = await QueueView.open(registry, name)
    except QueueNotFoundError:
        # Deleted since its name was read.
        return
    except CorruptDataError as damage:
        output.damage(damage.message, damage.where or f"queue {name!r}")
        return
    _tell_damage(view, output)
    counts = view.statistics()
    fields: dict[str, Any] = {} if kind is None else {"kind": kind}
    fields |= {"name": name, **_kind(view), **_counts(counts)}
    text = (
        f"{printable(name):<32} {counts.pending} pending, {counts.delayed} delayed, "
        f"{counts.dead} dead"
    )
    output.row(fields, text)


async def show_queue(settings: Settings, output: Output, *, name: str) -> None:
    async with open_read_only(settings.data_dir) as registry:
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
    settings: Settings, output: Output, *, name: str, subscription: str | None, limit: int
) -> None:
    async with open_read_only(settings.data_dir) as registry:
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
    settings: Settings, output: Output, *, name: str, limit: int | None, after: str | None
) -> None:
    async with open_read_only(settings.data_dir) as registry:
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

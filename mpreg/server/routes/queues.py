"""Queues, and what is in them."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import aclosing
from functools import partial
from typing import Any, Final

import anyio
import msgspec

from mpreg.errors import CorruptDataError, LeaseLostError, QueueNotFoundError
from mpreg.persistence import Transaction
from mpreg.queues import (
    DeadLetter,
    MessageQueue,
    QueueConfiguration,
    Subscription,
)
from mpreg.queues.message import Receipt, release_all
from mpreg.queues.queue import has_handed_out
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.negotiation import as_type

__all__ = ["ENDPOINTS"]

#: What is answered at once is in memory at once.
MESSAGES_MAX: Final = 1_000
DEAD_LETTERS_MAX: Final = 1_000
#: Of messages, or dead letters, of one answer together; the last one may go beyond.
ANSWER_BYTES_MAX: Final = 4 << 20


class OneMessage(msgspec.Struct, forbid_unknown_fields=True):
    payload: Any
    topic: str = ""
    priority: int = 0
    delay_seconds: float = 0.0
    ttl_seconds: float | None = None
    deduplication_id: str | None = None
    headers: dict[str, str] = {}

    @property
    def options(self) -> dict[str, Any]:
        """All but the payload and what makes it one of its kind."""
        return {
            "topic": self.topic,
            "priority": self.priority,
            "delay_seconds": self.delay_seconds,
            "ttl_seconds": self.ttl_seconds,
            "headers": self.headers,
        }


class SeveralMessages(msgspec.Struct, forbid_unknown_fields=True):
    messages: list[OneMessage]

    @property
    def is_uniform(self) -> bool:
        """Whether they can be sent by one call."""
        first = self.messages[0].options if self.messages else {}
        return all(one.options == first and one.deduplication_id is None for one in self.messages)


class ReceiveRequest(msgspec.Struct, forbid_unknown_fields=True):
    messages_max: int = 1
    wait_seconds: float = 0.0
    subscription: str | None = None


class AckRequest(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[str]


class NackRequest(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    delay_seconds: float | None = None
    reason: str = ""


class ExtendRequest(msgspec.Struct, forbid_unknown_fields=True):
    token: str
    lease_seconds: float | None = None


class ReleaseRequest(msgspec.Struct, forbid_unknown_fields=True):
    tokens: list[str]
    unseen: bool = True


class SubscriptionRequest(msgspec.Struct, forbid_unknown_fields=True):
    topic_pattern: str | None = None
    start: str | int = "earliest"


class RedriveRequest(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str] | None = None
    to: str | None = None


class LettersRequest(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[str] | None = None


class PurgeRequest(msgspec.Struct, forbid_unknown_fields=True):
    messages: bool = True
    dead_letters: bool = True


# --- queues ---


async def list_queues(call: Call) -> Answer:
    """All queues, in the order of their names, with their counts. One whose stored configuration is
    damaged has ``error`` instead."""
    found: list[dict[str, Any]] = []
    for name in await call.state.queues.queue_names():
        try:
            queue = await call.state.queues.get_queue(name)
        except QueueNotFoundError:
            # Deleted in between.
            continue
        except CorruptDataError as damage:
            found.append({"name": name, "error": type(damage).__name__})
            continue
        found.append({"name": name, "statistics": _statistics(queue)})
    return Answer(value={"queues": found})


async def put_queue(call: Call) -> Answer:
    """Make a queue, or give the one that is there this configuration: settings that are left out
    have their defaults. Without a body, one that is there stays as it is. With ``here`` it is the
    one of this node, whatever others have."""
    configuration = None
    if await call.body():
        configuration = QueueConfiguration.from_mapping(await call.read(dict[str, Any]))
    name, claim = call.name("queue"), call.claim
    given = (configuration or QueueConfiguration()).encode()

    def written(transaction: Transaction) -> None:
        if claim is not None:
            kept = {"name": name, "configuration": given, "statistics": None}
            claim.keep(Answer(value=kept), transaction)

    queue = await call.state.queues.create_queue(name, configuration, written=written)
    call.state.fabric.look_again()
    answer = Answer(value=_described(queue))
    if claim is not None and claim.is_kept:
        await claim.complete(answer)
    return answer


async def get_queue(call: Call) -> Answer:
    """Its configuration, its counts, its subscriptions."""
    return Answer(value=_described(await _queue(call)))


async def delete_queue(call: Call) -> Answer:
    """Delete a queue, with everything in it."""
    name, leases = call.name("queue"), call.state.leases
    # Those of before: meanwhile another one may have its name, and deliveries of its own.
    tokens = leases.tokens_of(name)

    async def effect() -> Answer:
        await call.state.queues.delete_queue(name)
        call.state.fabric.look_again()
        leases.forget(tokens)
        return Answer(value={"deleted": True})

    return await call.write_once(effect)


async def purge(call: Call) -> Answer:
    """Empty a queue: messages, dead letters, or both."""
    queue, what = await _queue(call), await call.read(PurgeRequest)

    async def effect() -> Answer:
        removed = await queue.purge(messages=what.messages, dead_letters=what.dead_letters)
        return Answer(value={"removed": removed})

    return await call.write_once(effect)


# --- messages ---


async def send(call: Call) -> Answer:
    """Send one message, or several as ``messages``: all or none; 201 when they are durable."""
    queue, given = await _queue(call), await call.read(dict[str, Any])
    if "messages" not in given:
        one = as_type(given, OneMessage)
        return await call.write(partial(_send_each, queue, [one]))
    several = as_type(given, SeveralMessages)
    if several.is_uniform:
        return await call.write(partial(_send_together, queue, several.messages))
    return await call.write(partial(_send_each, queue, several.messages), is_one=False)


async def _send_together(
    queue: MessageQueue, messages: Sequence[OneMessage], transaction: Transaction | None
) -> Answer:
    payloads = [one.payload for one in messages]
    options = messages[0].options if messages else {}
    ids = await queue.send_many(payloads, transaction=transaction, **options)
    return Answer(value={"ids": ids}, status=201)


async def _send_each(
    queue: MessageQueue, messages: Sequence[OneMessage], transaction: Transaction | None
) -> Answer:
    ids = [
        await queue.send(
            one.payload,
            deduplication_id=one.deduplication_id,
            transaction=transaction,
            **one.options,
        )
        for one in messages
    ]
    return Answer(value={"ids": ids}, status=201)


async def receive(call: Call) -> Answer:
    """Up to ``messages_max`` messages, and about 4 MiB; none only after ``wait_seconds``, or where
    the node stops.
    Each is its receiver's until its lease ends; its ``token`` acknowledges it, gives it back, or
    makes the lease longer.
    With ``one_by_one`` in the query one whose attempt would be its last comes only as the first:
    for a receiver that works on one after the other, so that none dies unseen with another one."""
    state, queue, what = call.state, await _queue(call), await call.read(ReceiveRequest)
    count = min(what.messages_max, MESSAGES_MAX)
    wait_seconds = min(what.wait_seconds, state.settings.server.long_poll_seconds_max)
    source: MessageQueue | Subscription = queue
    if what.subscription is not None:
        source = queue.get_subscription(what.subscription)

    # Not in the body: there an older node refuses what it does not know.
    one_by_one = call.flag("one_by_one")
    take = partial(source.receive_many, count, bytes_max=ANSWER_BYTES_MAX, one_by_one=one_by_one)
    # What is there is taken first: nobody has to watch then whether its receiver still is.
    messages = await take(min(wait_seconds, 0.0))
    if not messages and wait_seconds > 0:
        messages = await call.wait(partial(take, wait_seconds)) or []
    lease_seconds = queue.configuration.lease_seconds
    now = anyio.current_time()
    found = [
        {
            "id": message.id,
            "payload": message.payload,
            "attempt": message.attempt,
            "topic": message.topic,
            "priority": message.priority,
            "headers": message.headers,
            "sent_at": message.sent_at,
            "token": state.leases.add(queue.name, message.receipt(), now + lease_seconds, now),
            "lease_seconds": lease_seconds,
        }
        for message in messages
    ]
    return Answer(value={"messages": found})


async def ack(call: Call) -> Answer:
    """Acknowledge messages by their tokens, all or none."""
    queue, what = await _queue(call), await call.read(AckRequest)
    tokens = list(dict.fromkeys(what.tokens))
    receipts = _receipts(call, queue, tokens)

    async def effect(transaction: Transaction | None) -> Answer:
        await queue.ack(receipts, transaction=transaction)
        return Answer(value={"acknowledged": len(receipts)})

    answer = await call.write(effect)
    call.state.leases.forget(tokens)
    return answer


def _receipts(call: Call, queue: MessageQueue, tokens: Sequence[str]) -> list[Receipt]:
    """Raises `LeaseLostError`, also where one is of a queue that was deleted, and had this name."""
    receipts = call.state.leases.find(queue.name, tokens)
    if not all(has_handed_out(queue, receipt) for receipt in receipts):
        raise LeaseLostError(
            f"queue {queue.name!r:.200} was deleted and made again since the delivery, and the "
            "message is gone with it; nothing was changed"
        )
    return receipts


async def nack(call: Call) -> Answer:
    """Give a message back, to be tried again after ``delay_seconds``."""
    queue, what = await _queue(call), await call.read(NackRequest)
    [receipt] = _receipts(call, queue, [what.token])

    async def effect(transaction: Transaction | None) -> Answer:
        await receipt.nack(what.delay_seconds, what.reason, transaction=transaction)
        return Answer(value={"returned": 1})

    answer = await call.write(effect)
    call.state.leases.forget([what.token])
    return answer


async def extend(call: Call) -> Answer:
    """Have a lease end ``lease_seconds`` from now."""
    queue, what = await _queue(call), await call.read(ExtendRequest)
    [receipt] = _receipts(call, queue, [what.token])
    seconds = what.lease_seconds
    if seconds is None:
        seconds = queue.configuration.lease_seconds
    await receipt.extend(seconds)
    call.state.leases.extend(queue.name, what.token, anyio.current_time() + seconds)
    return Answer(value={"lease_seconds": seconds})


async def release(call: Call) -> Answer:
    """Let others have messages at once that were taken ahead and not worked on. ``unseen``: nobody
    has looked at them, so their attempts do not count. Deliveries that are over are left."""
    queue, what = await _queue(call), await call.read(ReleaseRequest)
    held = call.state.leases.find_held(queue.name, what.tokens)
    receipts = [receipt for receipt in held if has_handed_out(queue, receipt)]
    release_all(receipts, unseen=what.unseen)
    call.state.leases.forget(what.tokens)
    return Answer(value={"released": len(receipts)})


# --- subscriptions ---


async def put_subscription(call: Call) -> Answer:
    """Make a subscription, or give the one that is there this pattern."""
    queue, what = await _queue(call), await call.read(SubscriptionRequest)
    name = call.name("subscription")
    await queue.subscription(name, what.topic_pattern, start=what.start)
    return Answer(value={"name": name, "topic_pattern": what.topic_pattern})


async def delete_subscription(call: Call) -> Answer:
    """Delete a subscription: what only it had not finished is finished."""
    queue, name = await _queue(call), call.name("subscription")

    async def effect() -> Answer:
        await queue.delete_subscription(name)
        return Answer(value={"deleted": True})

    return await call.write_once(effect)


# --- dead letters ---


async def dead_letters(call: Call) -> Answer:
    """Messages that used up their attempts, by priority and age, those behind the ``key``
    ``after``; at most ``limit``, and about 4 MiB. ``next`` is the ``after`` of the next page."""
    queue = await _queue(call)
    limit = call.number("limit", 100, minimum=1, maximum=DEAD_LETTERS_MAX)
    letters: list[dict[str, Any]] = []
    size = 0
    async with aclosing(queue.scan_dead_letters(call.query("after"))) as found:
        async for letter in found:
            if len(letters) == limit or size >= ANSWER_BYTES_MAX:
                return Answer(value={"dead_letters": letters, "next": letters[-1]["key"]})
            letters.append(_letter(letter))
            size += letter.size_bytes
    return Answer(value={"dead_letters": letters, "next": None})


async def redrive(call: Call) -> Answer:
    """Send dead letters again, all or those named by ``keys``, to this queue or to another one."""
    queue, what = await _queue(call), await call.read(RedriveRequest)
    to = None if what.to is None else await call.state.queues.get_queue(what.to)

    async def effect() -> Answer:
        return Answer(value={"redriven": await queue.redrive(what.keys, to=to)})

    return await call.write_once(effect)


async def purge_dead_letters(call: Call) -> Answer:
    """Remove dead letters for good, all or those named by ``keys``."""
    queue, what = await _queue(call), await call.read(LettersRequest)

    async def effect() -> Answer:
        return Answer(value={"removed": await queue.purge_dead_letters(what.keys)})

    return await call.write_once(effect)


# --- shapes ---


async def _queue(call: Call) -> MessageQueue:
    return await call.state.queues.get_queue(call.name("queue"))


def _described(queue: MessageQueue) -> dict[str, Any]:
    return {
        "name": queue.name,
        "configuration": queue.configuration.encode(),
        "statistics": _statistics(queue),
    }


def _statistics(queue: MessageQueue) -> dict[str, Any]:
    found: dict[str, Any] = msgspec.to_builtins(queue.statistics())
    return found


def _letter(letter: DeadLetter) -> dict[str, Any]:
    return {
        "key": letter.key,
        "id": letter.id,
        "payload": letter.payload,
        "topic": letter.topic,
        "priority": letter.priority,
        "headers": letter.headers,
        "sent_at": letter.sent_at,
        "died_at": letter.died_at,
        "subscription": letter.subscription,
        "attempts": letter.attempts,
        "reason": letter.reason,
        "last_error": letter.last_error,
    }


def _of_queue(
    method: str,
    path: str,
    handler: Any,
    role: Role,
    summary: str,
    *,
    takes_key: bool = False,
    makes_queue: bool = False,
    waits: bool = False,
) -> Endpoint:
    return Endpoint(
        method=method,
        path=f"/v1/queues{path}",
        handler=handler,
        role=role,
        summary=summary,
        takes_key=takes_key,
        makes_queue=makes_queue,
        waits=waits,
    )


ENDPOINTS: Final = (
    _of_queue("GET", "", list_queues, Role.READ, "All queues"),
    _of_queue("GET", "/{queue}", get_queue, Role.READ, "Configuration and counts of a queue"),
    _of_queue(
        "PUT",
        "/{queue}",
        put_queue,
        Role.ADMIN,
        "Make or configure a queue",
        takes_key=True,
        makes_queue=True,
    ),
    _of_queue("DELETE", "/{queue}", delete_queue, Role.ADMIN, "Delete a queue", takes_key=True),
    _of_queue("POST", "/{queue}/purge", purge, Role.ADMIN, "Empty a queue", takes_key=True),
    _of_queue("POST", "/{queue}/messages", send, Role.WRITE, "Send messages", takes_key=True),
    _of_queue("POST", "/{queue}/receive", receive, Role.WRITE, "Receive messages", waits=True),
    _of_queue("POST", "/{queue}/ack", ack, Role.WRITE, "Acknowledge messages", takes_key=True),
    _of_queue("POST", "/{queue}/nack", nack, Role.WRITE, "Give a message back", takes_key=True),
    _of_queue("POST", "/{queue}/extend", extend, Role.WRITE, "Make a lease longer"),
    _of_queue("POST", "/{queue}/release", release, Role.WRITE, "Let others have messages"),
    _of_queue(
        "PUT",
        "/{queue}/subscriptions/{subscription}",
        put_subscription,
        Role.ADMIN,
        "Make or change a subscription",
        takes_key=True,
    ),
    _of_queue(
        "DELETE",
        "/{queue}/subscriptions/{subscription}",
        delete_subscription,
        Role.ADMIN,
        "Delete a subscription",
        takes_key=True,
    ),
    _of_queue("GET", "/{queue}/dead-letters", dead_letters, Role.READ, "Dead letters"),
    _of_queue(
        "POST",
        "/{queue}/dead-letters/redrive",
        redrive,
        Role.ADMIN,
        "Send dead letters again",
        takes_key=True,
    ),
    _of_queue(
        "POST",
        "/{queue}/dead-letters/purge",
        purge_dead_letters,
        Role.ADMIN,
        "Remove dead letters",
        takes_key=True,
    ),
)

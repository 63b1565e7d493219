"""Messages about to be sent: checked, encoded, and measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec

from mpreg.codec import encode_value
from mpreg.errors import InvalidArgumentError, ValueTooLargeError
from mpreg.queues.configuration import (
    PRIORITY_MAX,
    QueueConfiguration,
    QueueType,
    checked_seconds,
)
from mpreg.queues.records import MessageRecord, checked_headers, encode
from mpreg.queues.topics import checked_topic

__all__ = ["Outgoing", "begun_anew", "encoded_for", "make_outgoing"]


class Outgoing(msgspec.Struct, frozen=True, eq=False, gc=False):
    """Messages on their way into one lane."""

    lane: int
    records: Sequence[MessageRecord]
    encoded: Sequence[bytes]

    size: int
    """In bytes."""


def make_outgoing(
    payloads: list[Any],
    topic: str,
    priority: int,
    delay_seconds: float,
    ttl_seconds: float | None,
    headers: Mapping[str, str] | None,
    *,
    configuration: QueueConfiguration,
    make_id: Callable[[], str],
    sent_at: float,
    bytes_max: int,
) -> Outgoing:
    """What `MessageQueue.send_many` was given, at this time of the wall clock.

    Raises:
        InvalidArgumentError, ValueTooLargeError: an argument. ``bytes_max`` bounds each message.
    """
    if topic != "":
        checked_topic(topic)
    checked = {} if headers is None else checked_headers(headers)
    delay = 0.0 if delay_seconds == 0 else checked_seconds("delay_seconds", delay_seconds)
    if ttl_seconds is None:
        ttl_seconds = configuration.message_ttl_seconds
    else:
        ttl_seconds = checked_seconds("ttl_seconds", ttl_seconds)
    if ttl_seconds is not None and delay >= ttl_seconds:
        raise InvalidArgumentError(
            f"a message that lives for {ttl_seconds:g} seconds and is not visible before "
            f"{delay:g} would never be handed out: its delay_seconds are to be less than its "
            "ttl_seconds, or than the queue's message_ttl_seconds"
        )
    expires_at = None if ttl_seconds is None else sent_at + ttl_seconds
    records = [
        MessageRecord(
            id=make_id(),
            sent_at=sent_at,
            topic=topic,
            delay_seconds=delay,
            expires_at=expires_at,
            headers=checked,
            payload=encode_value(payload, bytes_max),
        )
        for payload in payloads
    ]
    outgoing = encoded_for(_checked_priority(priority, configuration), records)
    if outgoing.size > bytes_max and (size := max(map(len, outgoing.encoded))) > bytes_max:
        raise ValueTooLargeError(
            f"a message of {size} bytes with its topic and headers; at most {bytes_max}, so "
            "that value_bytes_max also holds it as a dead letter"
        )
    return outgoing


def _checked_priority(priority: int, configuration: QueueConfiguration) -> int:
    if type(priority) is int and priority == 0:
        # The common case, in a queue of any type.
        return 0
    if isinstance(priority, bool) or not isinstance(priority, int):
        raise InvalidArgumentError(f"priority is an int, not {priority!r}")
    limit = PRIORITY_MAX if configuration.queue_type is QueueType.PRIORITY else 0
    if not 0 <= priority <= limit:
        raise InvalidArgumentError(
            f"priority is from 0 to {limit} in a queue of type "
            f"{configuration.queue_type.value!r}, not {priority}"
        )
    return priority


def encoded_for(lane: int, records: list[MessageRecord]) -> Outgoing:
    encoded = [encode(record) for record in records]
    return Outgoing(lane, records, encoded, sum(map(len, encoded)))


def begun_anew(outgoing: Outgoing, wall: float) -> Outgoing:
    """After a wait for room: its delay and its time to live count from now on."""
    records = [
        msgspec.structs.replace(
            record,
            sent_at=wall,
            expires_at=None
            if record.expires_at is None
            else wall + (record.expires_at - record.sent_at),
        )
        for record in outgoing.records
    ]
    return encoded_for(outgoing.lane, records)

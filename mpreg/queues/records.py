"""What a queue writes: messages, what became of them, and dead letters.

Everything is MessagePack, as arrays: a name in each record would cost more than most values.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, TypeAlias

import msgspec

from mpreg.errors import CorruptDataError, InvalidArgumentError

__all__ = [
    "Attempt",
    "Configured",
    "DeadLetterRecord",
    "DeadLettersRemoved",
    "Died",
    "Event",
    "HandedOut",
    "Kept",
    "LaneOpened",
    "MessageRecord",
    "PassedOver",
    "Place",
    "Purged",
    "Released",
    "Returned",
    "Settled",
    "SubscriptionChanged",
    "SubscriptionDeleted",
    "checked_headers",
    "decode_event",
    "decode_message",
    "encode",
    "encode_letter",
]

HEADERS_MAX: Final = 256

Place: TypeAlias = tuple[int, int]
"""(lane, offset) of a message: where it is for as long as it is anywhere."""


Attempt: TypeAlias = tuple[int, int, int, int, int]
"""(lane, offset, attempt, attempts forgiven until then, size in bytes) of a message."""


class MessageRecord(msgspec.Struct, frozen=True, array_like=True, gc=False):
    id: str
    sent_at: float
    """Wall clock."""
    topic: str
    delay_seconds: float
    expires_at: float | None
    """Wall clock."""
    headers: dict[str, str]
    payload: bytes
    """As `mpreg.codec.encode_value` makes it: nobody needs it decoded before it is asked for."""

    @property
    def is_plain(self) -> bool:
        """Whether it has no time of its own."""
        return self.expires_at is None and not self.delay_seconds

    def visible_in(self, wall: float) -> float:
        """Seconds until it may be handed out, never more than its delay, wherever the clock is."""
        if not self.delay_seconds:
            return 0.0
        return min(max(self.sent_at + self.delay_seconds - wall, 0.0), self.delay_seconds)

    def is_expired(self, wall: float) -> bool:
        return self.expires_at is not None and self.expires_at <= wall


class HandedOut(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=1):
    """Delivery attempts, on disk before the messages are handed out."""

    subscription: str
    deliveries: list[Attempt]


class Settled(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=2):
    """Acknowledged."""

    subscription: str
    places: list[Place]


class Returned(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=3):
    """Not done; to be tried again."""

    subscription: str
    place: Place
    visible_at: float
    """Wall clock."""
    delay_seconds: float
    reason: str


class Released(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=4):
    """Given back unseen: these attempts do not count against ``max_deliveries``."""

    subscription: str
    forgiven: list[tuple[int, int, int]]
    """(lane, offset, attempts forgiven until now) of each: it only grows, so it does no harm where
    a later event, or a snapshot, knows it already."""


class Died(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=5):
    """Became a dead letter."""

    subscription: str
    place: Place
    died_at: float


class DeadLettersRemoved(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=6):
    """Sent on, purged, or dropped for their number or age."""

    keys: list[str]


class SubscriptionChanged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=7):
    """Created, or given another pattern. Where it starts only counts when it is new."""

    name: str
    topic_pattern: str | None
    start: dict[int, int] | None
    """By lane, the first offset that it gets; None: whatever is not finished."""


class SubscriptionDeleted(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=8):
    name: str


class Purged(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=9):
    ends: dict[int, int]
    """By lane: everything below is gone."""


class LaneOpened(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=10):
    """A priority was used for the first time."""

    lane: int


class Kept(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=11):
    """Unfinished messages were copied out of their log, and the log was truncated behind them."""

    lane: int
    offsets: list[int]
    first: int


class Configured(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=12):
    """From here on a quorum is so many; what was finished before stays so."""

    required_acknowledgments: int


class PassedOver(msgspec.Struct, frozen=True, array_like=True, gc=False, tag=13):
    """The subscription had no use for these messages."""

    subscription: str
    ranges: list[tuple[int, int, int]]
    """(lane, the first offset, the one after the last) of each."""


Event: TypeAlias = (
    HandedOut
    | Settled
    | Returned
    | Released
    | Died
    | DeadLettersRemoved
    | SubscriptionChanged
    | SubscriptionDeleted
    | Purged
    | LaneOpened
    | Kept
    | Configured
    | PassedOver
)


class DeadLetterRecord(msgspec.Struct, frozen=True, array_like=True):
    subscription: str
    lane: int
    offset: int
    attempts: int
    reason: str
    """Why it died."""
    last_error: str
    """What its last consumer said, if it said anything."""
    died_at: float
    message: MessageRecord | None
    """None: its record was damaged, or gone."""


_encoder: Final = msgspec.msgpack.Encoder()
_event_decoder: Final[msgspec.msgpack.Decoder[Any]] = msgspec.msgpack.Decoder(Event)
_message_decoder: Final = msgspec.msgpack.Decoder(MessageRecord)


def encode(record: Event | MessageRecord | DeadLetterRecord) -> bytes:
    """Raises `InvalidArgumentError` where a str in it is no text: a lone surrogate."""
    try:
        return _encoder.encode(record)
    except UnicodeEncodeError as error:
        raise InvalidArgumentError(f"a str that is no text: {error}") from error


def encode_letter(letter: DeadLetterRecord, bytes_max: int) -> bytes:
    """Within so many bytes, if its texts can be cut so far."""
    for text in ("last_error", "reason"):
        encoded = encode(letter)
        if (over := len(encoded) - bytes_max) <= 0:
            return encoded
        kept = getattr(letter, text).encode()[:-over]
        letter = msgspec.structs.replace(letter, **{text: kept.decode(errors="ignore")})
    return encode(letter)


def decode_message(data: bytes, where: str) -> MessageRecord:
    """Raises `CorruptDataError`: right by its checksum, and no message all the same."""
    try:
        return _message_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptDataError(f"not a message: {error}", None, where) from error


def decode_event(data: bytes, where: str) -> Event:
    """Raises `CorruptDataError`: right by its checksum, and no event all the same."""
    try:
        event: Event = _event_decoder.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptDataError(f"not an event: {error}", None, where) from error
    return event


def checked_headers(headers: object) -> dict[str, str]:
    """A copy. Raises `InvalidArgumentError` unless it is a mapping of str to str."""
    if not isinstance(headers, Mapping):
        raise InvalidArgumentError(f"headers are a mapping, not {type(headers).__name__}")
    if len(headers) > HEADERS_MAX:
        raise InvalidArgumentError(f"{len(headers)} headers; at most {HEADERS_MAX}")
    for name, value in headers.items():
        if type(name) is not str or type(value) is not str:
            raise InvalidArgumentError(f"a header is str to str, not {name!r:.80}: {value!r:.80}")
    return dict(headers)

"""The settings of a queue, and how they are stored with it."""

from __future__ import annotations

import enum
from typing import Any, Final, Self

import attrs
import msgspec
from attrs import field, frozen

from mpreg.errors import ConfigurationError, CorruptDataError, InvalidArgumentError
from mpreg.validation import member, number, refuse_unknown, seconds, whole_number

__all__ = [
    "DELAY_SECONDS_MAX",
    "DeliveryGuarantee",
    "PRIORITY_MAX",
    "QueueConfiguration",
    "QueueType",
    "StoredQueue",
]

#: Each priority in use costs a log of its own.
PRIORITY_MAX: Final = 255

#: Messages of a queue that is not stored, where its configuration names no bound.
MEMORY_MESSAGES_MAX: Final = 65_536

#: Ten years: beyond that a delay is a mistake in its unit.
DELAY_SECONDS_MAX: Final = 10 * 366 * 86_400.0


class QueueType(enum.Enum):
    FIFO = "fifo"
    """In the order of their sends. A message that comes back keeps its place."""
    PRIORITY = "priority"
    """The highest priority first (0 to 255), FIFO within one."""


class DeliveryGuarantee(enum.Enum):
    FIRE_AND_FORGET = "fire_and_forget"
    """Kept in memory and handed out once: gone with the process, or with its consumer."""
    AT_LEAST_ONCE = "at_least_once"
    """Until it is acknowledged, or has used up its attempts. The subscription ``"default"`` is
    there from the start; with more of them, each gets every message."""
    BROADCAST = "broadcast"
    """To each subscription. There is none at the start."""
    QUORUM = "quorum"
    """Until ``required_acknowledgments`` subscriptions have acknowledged it. There is none at the
    start."""


def _queue_type(value: object) -> QueueType:
    return member(QueueType, "queue_type", value)


def _guarantee(value: object) -> DeliveryGuarantee:
    return member(DeliveryGuarantee, "delivery_guarantee", value)


@frozen(kw_only=True)
class QueueConfiguration:
    """The settings of a queue; every one has a default.

    Raises:
        ConfigurationError: a value has the wrong type, is out of range, or is impossible beside
            another one. `from_mapping` also raises it for unknown names.
    """

    queue_type: QueueType = field(default=QueueType.FIFO, converter=_queue_type)
    """Which message is next."""

    delivery_guarantee: DeliveryGuarantee = field(
        default=DeliveryGuarantee.AT_LEAST_ONCE, converter=_guarantee
    )
    """To whom a message goes, and until when it is kept."""

    required_acknowledgments: int = field(default=1, validator=whole_number(1, 1_000))
    """With `DeliveryGuarantee.QUORUM`: how many subscriptions must have acknowledged a message."""

    max_deliveries: int = field(default=5, validator=whole_number(1, 1_000_000))
    """Delivery attempts; a message that used them up becomes a dead letter."""

    lease_seconds: float = field(default=30.0, validator=seconds(zero=False))
    """The visibility timeout: how long a message handed out is its receiver's alone."""

    retry_delay_seconds: float = field(default=1.0, validator=seconds(zero=True))
    """Before the second attempt, after a nack that names no delay."""
    retry_delay_factor: float = field(default=2.0, validator=number(1))
    """By how much the delay grows with each further attempt."""
    retry_delay_seconds_max: float = field(default=60.0, validator=seconds(zero=True))
    """Up to this."""

    max_size: int | None = field(default=None, validator=whole_number(1, none=True))
    """Messages, counted until they are finished; None: as many as the disk holds, or 65,536 where
    they are not stored."""

    max_bytes: int | None = field(default=None, validator=whole_number(1, none=True))
    """Their bytes together, as stored."""

    message_ttl_seconds: float | None = field(
        default=None, validator=seconds(zero=False, none=True)
    )
    """After that a message is dropped, unless somebody is working on it; None: never."""

    deduplication_window_seconds: float = field(default=300.0, validator=seconds(zero=False))
    """For how long a ``deduplication_id`` is remembered."""

    dead_letters_max: int = field(default=100_000, validator=whole_number(1))
    """Dead letters kept; above that the oldest are dropped."""

    dead_letter_ttl_seconds: float | None = field(
        default=None, validator=seconds(zero=False, none=True)
    )
    """For how long a dead letter is kept; None: for ever."""

    def __attrs_post_init__(self) -> None:
        quorum = self.delivery_guarantee is DeliveryGuarantee.QUORUM
        if self.required_acknowledgments != 1 and not quorum:
            raise ConfigurationError(
                f"required_acknowledgments: {self.required_acknowledgments} needs "
                f"delivery_guarantee 'quorum', not {self.delivery_guarantee.value!r}",
                "required_acknowledgments",
            )

    @property
    def is_stored(self) -> bool:
        return self.delivery_guarantee is not DeliveryGuarantee.FIRE_AND_FORGET

    @property
    def messages_max(self) -> int | None:
        """``max_size``, and a bound where all messages are in memory."""
        if self.max_size is None and not self.is_stored:
            return MEMORY_MESSAGES_MAX
        return self.max_size

    def retry_delay(self, attempt: int) -> float:
        """Seconds between a failed attempt (the first is 1) and the next one."""
        limit = self.retry_delay_seconds_max
        try:
            grown = self.retry_delay_seconds * self.retry_delay_factor ** (attempt - 1)
        except OverflowError:
            return limit
        return min(grown, limit)

    def encode(self) -> dict[str, Any]:
        """The settings as plain values."""
        return attrs.asdict(self, value_serializer=lambda _, __, v: getattr(v, "value", v))

    @classmethod
    def from_mapping(cls, settings: dict[str, Any]) -> Self:
        """From a mapping of names to plain values, as a settings file has it."""
        refuse_unknown(settings, [attribute.name for attribute in attrs.fields(cls)])
        return cls(**settings)

    def check_change(self, stored: QueueConfiguration) -> None:
        """Raises `ConfigurationError` where a queue that is there cannot become this."""
        for name in ("delivery_guarantee", "queue_type"):
            before, after = getattr(stored, name), getattr(self, name)
            if before is not after:
                raise ConfigurationError(
                    f"{name}: the queue exists with {before.value!r} and cannot become "
                    f"{after.value!r}; delete it first, or create another one"
                )


class StoredQueue(msgspec.Struct, frozen=True):
    """What is known of a queue without opening it."""

    incarnation: str
    """Names all that the queue keeps. A queue that is deleted and made again has another one, so
    that nothing written late for the old one can reach it."""
    configuration: dict[str, Any]

    def settings(self, name: str) -> QueueConfiguration:
        """Raises `CorruptDataError`: they are none that this mpreg knows, or damaged."""
        try:
            return QueueConfiguration.from_mapping(self.configuration)
        except ConfigurationError as error:
            raise CorruptDataError(
                f"not a configuration that can be used here: {error}", None, f"queue {name!r}"
            ) from error


def checked_seconds(name: str, seconds: object, maximum: float = DELAY_SECONDS_MAX) -> float:
    """Raises `InvalidArgumentError` unless it is a number from 0 up to the maximum."""
    if (
        isinstance(seconds, bool)
        or not isinstance(seconds, int | float)
        or not 0 <= seconds <= maximum
    ):
        raise InvalidArgumentError(
            f"{name} is a number of seconds from 0 to {maximum:.0f}, not {seconds!r}"
        )
    return float(seconds)

"""What fits: a message with all that may have to be written beside it, and many things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from attrs import frozen

from mpreg.errors import ConfigurationError

__all__ = ["SizeLimits", "batches"]

#: What a dead letter has beside its message: its reason, last error, and subscription.
LETTER_BYTES: Final = 4_096

#: What operations count for beside what they carry, with the key of a dead letter.
OPERATIONS_BYTES: Final = 512

#: What one operation, with the name of its queue in its key, counts for beside what it carries.
OPERATION_BYTES: Final = 128

#: What an event has for each of many messages, at most.
PLACE_BYTES: Final = 48

#: Below that a queue could not write of its own messages.
VALUE_BYTES_MIN: Final = 4_096
BATCH_BYTES_MIN: Final = 16_384

T = TypeVar("T")


@frozen
class SizeLimits:
    """In bytes. What a queue takes in it can also move: copy, send again, and bury."""

    message: int
    """As stored, with topic and headers."""
    letter: int
    """A dead letter as stored, with its message."""
    subscription_name: int
    batch: int
    """Joined into one transaction where there is a choice; a single message may be larger."""
    places: int
    """How many messages one event tells of."""
    keys: int
    """Names joined into one event."""

    @classmethod
    def within(cls, *, value_bytes_max: int, batch_bytes_max: int) -> SizeLimits:
        """Raises `ConfigurationError` where they are too small for a queue."""
        value, batch = value_bytes_max, batch_bytes_max
        if value < VALUE_BYTES_MIN or batch < BATCH_BYTES_MIN:
            raise ConfigurationError(
                f"a queue needs a value_bytes_max of {VALUE_BYTES_MIN} and a batch_bytes_max of "
                f"{BATCH_BYTES_MIN} at least, not {value} and {batch}"
            )
        beside = min(LETTER_BYTES, value // 4)
        letter = min(value, batch - OPERATIONS_BYTES - beside)
        return cls(
            message=letter - beside,
            letter=letter,
            subscription_name=beside // 4,
            batch=batch // 2,
            places=value // PLACE_BYTES,
            keys=min(value // 2, batch // 4),
        )


def batches(
    items: Iterable[T], size: Callable[[T], int], *, count_max: int, bytes_max: int
) -> Iterator[list[T]]:
    """The items in order, in lists of as many as stay within both bounds, and at least one.

    Each counts for `OPERATION_BYTES` beside its size.
    """
    batch: list[T] = []
    total = 0
    for item in items:
        item_bytes = OPERATION_BYTES + size(item)
        if batch and (len(batch) == count_max or total + item_bytes > bytes_max):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += item_bytes
    if batch:
        yield batch

"""What fits: a message with all that may have to be written beside it, and many things at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, TypeVar

from attrs import frozen

from mpreg.persistence import PersistenceConfig

__all__ = ["SizeLimits", "batches"]

#: What a dead letter has beside its message: its reason, last error, and subscription.
LETTER_BYTES: Final = 4_096

#: What operations count for beside what they carry, with the key of a dead letter.
OPERATIONS_BYTES: Final = 512

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

    @classmethod
    def of(cls, config: PersistenceConfig) -> SizeLimits:
        beside = min(LETTER_BYTES, config.value_bytes_max // 4)
        letter = min(config.value_bytes_max, config.batch_bytes_max - OPERATIONS_BYTES - beside)
        return cls(letter - beside, letter, beside // 4, config.batch_bytes_max // 2)


def batches(
    items: Iterable[T], size: Callable[[T], int], *, count_max: int, bytes_max: int
) -> Iterator[list[T]]:
    """The items in order, in lists of as many as stay within both bounds, and at least one."""
    batch: list[T] = []
    total = 0
    for item in items:
        item_bytes = size(item)
        if batch and (len(batch) == count_max or total + item_bytes > bytes_max):
            yield batch
            batch, total = [], 0
        batch.append(item)
        total += item_bytes
    if batch:
        yield batch

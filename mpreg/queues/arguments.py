"""What callers give to a queue, checked before anything is done. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from mpreg.errors import InvalidArgumentError
from mpreg.persistence import Transaction
from mpreg.queues.configuration import checked_seconds

__all__ = [
    "check_after",
    "check_limit",
    "check_sending",
    "check_start",
    "check_transaction",
    "checked_list",
]


def checked_list(name: str, values: object) -> list[Any]:
    """Raises `InvalidArgumentError` for what is one thing rather than several: a str, bytes, a
    mapping, or no iterable at all."""
    if isinstance(values, str | bytes | bytearray | memoryview | Mapping) or not isinstance(
        values, Iterable
    ):
        raise InvalidArgumentError(
            f"{name} are several, as in a list, not {type(values).__name__}: {values!r:.80}"
        )
    return list(values)


def check_transaction(transaction: object) -> None:
    if transaction is not None and not isinstance(transaction, Transaction):
        raise InvalidArgumentError(
            "transaction is what `async with registry.transaction()` gives, not "
            f"{type(transaction).__name__}: {transaction!r:.80}"
        )


def check_sending(wait_seconds: float | None, transaction: object) -> None:
    check_transaction(transaction)
    if wait_seconds is not None and wait_seconds != 0:
        checked_seconds("wait_seconds", wait_seconds)


def check_limit(limit: object) -> None:
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 0):
        raise InvalidArgumentError(f"limit is a number from 0, or None, not {limit!r:.80}")


def check_after(after: object) -> None:
    if after is not None and not isinstance(after, str):
        raise InvalidArgumentError(f"after is the key of a dead letter, not {after!r:.80}")


def check_start(start: object) -> None:
    is_offset = isinstance(start, int) and not isinstance(start, bool) and start >= 0
    if not is_offset and start not in ("earliest", "latest"):
        raise InvalidArgumentError(f"start is 'earliest', 'latest' or an offset, not {start!r:.80}")

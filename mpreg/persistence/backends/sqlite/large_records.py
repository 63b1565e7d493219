"""The ids of large records: made of a log's number and an offset, so that those of a log lie
together, and what is removed of it with one range gives its pages back whole.

A table that gave ids in the order of arrival would have all logs mixed in its pages: one log that
is kept would hold the room of all others.
"""

from __future__ import annotations

from typing import Final

__all__ = ["LARGE_RECORD_BYTES", "OFFSET_BITS", "ids_before", "ids_of", "large_record_id", "owner"]

LARGE_RECORD_BYTES: Final = 900
"""The data of a record of more bytes has a row of its own: see `schema`. Nothing on disk depends on
the number."""

OFFSET_BITS: Final = 40
_OFFSETS: Final = 1 << OFFSET_BITS
#: What is left of a row's number, which is positive.
_LOGS: Final = 1 << (63 - OFFSET_BITS)


def large_record_id(log_id: int, offset: int) -> int | None:
    """None where the numbers are too large to make one: such a record keeps its data itself."""
    if 0 < log_id < _LOGS and 0 <= offset < _OFFSETS:
        return log_id << OFFSET_BITS | offset
    return None


def ids_of(log_id: int) -> tuple[int, int] | None:
    """(first, last) of the ids that records of a log can have."""
    return ids_before(log_id, _OFFSETS)


def ids_before(log_id: int, offset: int) -> tuple[int, int] | None:
    """The same for its records below an offset, which is above 0."""
    first = large_record_id(log_id, 0)
    return None if first is None else (first, first + min(offset, _OFFSETS) - 1)


def owner(id: int) -> tuple[int, int]:
    """(log's number, offset) that an id was made of."""
    return id >> OFFSET_BITS, id & (_OFFSETS - 1)

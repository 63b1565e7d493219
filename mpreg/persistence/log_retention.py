"""How much of a log is kept: by number, bytes and age of its records.

An age is *counted*: while a process runs, by its monotonic clock, so that a wall clock that is set,
forward or backward, makes no record older or younger. Only what went by between two processes is
told by the wall clock, and never more than it is ahead of all that it has ever shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any, Final

import attrs
import msgspec
from attrs import field, frozen

from mpreg.errors import ConfigurationError
from mpreg.validation import found, seconds, whole_number

__all__ = [
    "CLOCK_SET_SECONDS",
    "LogMarks",
    "LogRetention",
    "MARKS_MAX",
    "Mark",
    "counted_before",
    "is_clock_ahead",
    "kept_from",
    "marks_of",
    "next_due",
    "with_mark",
]

#: Places of a log of which time and bytes are remembered.
MARKS_MAX: Final = 96
#: So many of them within each limit.
MARKS_PER_LIMIT: Final = 32

#: By which a wall clock must be ahead of the time that was counted, to have been set.
CLOCK_SET_SECONDS: Final = 60.0


def _name(_: Any, attribute: attrs.Attribute[Any], value: object) -> None:
    if not isinstance(value, str) or not value:
        raise found(attribute.name, "the name of a log", value)


@frozen(kw_only=True)
class LogRetention:
    """What is kept of one log: records beyond any of its limits are dropped, the oldest first.

    They go in the background, a few at a time, some seconds after they have become too many or too
    old. Limits by bytes and age are kept to about a thirtieth, and never undercut: what is within
    all limits stays.
    """

    log: str = field(validator=_name)
    """Its name."""
    records_max: int | None = field(default=None, validator=whole_number(0, none=True))
    """So many of the newest."""
    bytes_max: int | None = field(default=None, validator=whole_number(0, none=True))
    """Of the records' data."""
    seconds_max: float | None = field(default=None, validator=seconds(zero=False, none=True))
    """From when upkeep first saw the record: by the monotonic clock while a process runs, which
    nobody can set, and by the wall clock between two of them."""

    def __attrs_post_init__(self) -> None:
        if self.records_max is self.bytes_max is self.seconds_max is None:
            raise ConfigurationError(f"log {self.log!r}: no limit is given")


class Mark(msgspec.Struct, frozen=True):
    """A place in a log."""

    offset: int
    seen_at: float
    """In counted time: all records below the offset were there."""
    bytes_before: int
    """Of records below the offset, counted from where the measuring began."""


class LogMarks(msgspec.Struct, frozen=True):
    """What is remembered of a log, also over restarts. The last mark is at the end of what is
    measured."""

    marks: tuple[Mark, ...] = ()
    counted: float = 0.0
    """The counted time when this was written, in seconds. It began with what the wall clock showed
    at the first mark."""
    wall: float = 0.0
    """The latest time that the wall clock has shown by then."""

    @property
    def end(self) -> int:
        """Up to where the log is measured."""
        return self.marks[-1].offset if self.marks else 0

    @property
    def bytes_measured(self) -> int:
        return self.marks[-1].bytes_before if self.marks else 0


def counted_before(known: LogMarks, wall: float) -> float:
    """The counted time when a process first looks at a log, at this time of the wall clock."""
    if not known.counted:
        return max(wall, known.marks[-1].seen_at) if known.marks else wall
    return known.counted + max(0.0, wall - known.wall)


def is_clock_ahead(known: LogMarks, counted: float, wall: float) -> bool:
    """Whether the wall clock was set forward since. If that is not written down, the next process
    takes it for time that went by."""
    return (wall - known.wall) - (counted - known.counted) > CLOCK_SET_SECONDS


def marks_of(
    retention: LogRetention, known: LogMarks, sizes: Iterable[tuple[int, int]], end: int, now: float
) -> list[Mark]:
    """Marks for records that were read: their offsets and sizes, and where the reading ended."""
    grain = (retention.bytes_max or 0) / MARKS_PER_LIMIT
    marks: list[Mark] = []
    marked = total = known.bytes_measured
    for offset, size in sizes:
        total += size
        if total - marked >= grain and offset + 1 < end:
            marks.append(Mark(offset + 1, now, total))
            marked = total
    return [*marks, Mark(end, now, total)]


def with_mark(retention: LogRetention, known: LogMarks, mark: Mark, first_offset: int) -> LogMarks:
    """One more mark, behind the others. Those of records that are gone are dropped, and so is the
    one that was the last, where it is near the one before it."""
    marks = [one for one in known.marks if first_offset < one.offset < mark.offset]
    if len(marks) >= 2 and not _are_apart(retention, marks[-2], marks[-1]):
        marks.pop()
    return LogMarks((*marks, mark)[-MARKS_MAX:], known.counted, known.wall)


def _are_apart(retention: LogRetention, earlier: Mark, later: Mark) -> bool:
    size = (later.bytes_before - earlier.bytes_before) * MARKS_PER_LIMIT
    age = (later.seen_at - earlier.seen_at) * MARKS_PER_LIMIT
    return (retention.bytes_max is not None and size >= retention.bytes_max) or (
        retention.seconds_max is not None and age >= retention.seconds_max
    )


def kept_from(retention: LogRetention, known: LogMarks, next_offset: int, now: float) -> int:
    """The offset below which the records can go; 0 where all stay."""
    candidates = [0]
    if retention.records_max is not None:
        candidates.append(next_offset - retention.records_max)
    if retention.seconds_max is not None:
        candidates += [
            mark.offset for mark in known.marks if now - mark.seen_at >= retention.seconds_max
        ]
    if retention.bytes_max is not None:
        candidates += [
            mark.offset
            for mark in known.marks
            if known.bytes_measured - mark.bytes_before >= retention.bytes_max
        ]
    return min(max(candidates), next_offset)


def next_due(retention: LogRetention, known: LogMarks, first_offset: int) -> float:
    """When records become too old (counted time), if nothing is appended until then."""
    if retention.seconds_max is None:
        return math.inf
    times = [mark.seen_at for mark in known.marks if mark.offset > first_offset]
    return min(times, default=math.inf) + retention.seconds_max

"""Which messages of a lane can be dropped from its log, and which are in the way.

A log gives space back from its beginning only, so one old message that nobody finishes would keep
everything behind it. Where few are in the way of many, they are copied out of the log.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen

from mpreg.queues.lane import Lane

__all__ = ["Truncation", "plan_truncation"]

#: Below that it is not worth a transaction.
FINISHED_MIN: Final = 1_024

#: Records that one transaction removes at most, so that nobody's write waits long behind it.
REMOVED_MAX: Final = 4_096

#: Finished messages for each one that is copied: so copying costs less than a tenth of the sends.
FINISHED_PER_COPY: Final = 16


@frozen
class Truncation:
    before: int
    """The log's new first offset."""
    keep: tuple[int, ...] = ()
    """Offsets below it that are to be copied out first."""


def plan_truncation(lane: Lane) -> Truncation | None:
    """The next step; None where there is none worth it.

    Every message that is copied pays for itself: with it, at least `FINISHED_PER_COPY` others go.
    """
    limit = min(lane.end, lane.first + REMOVED_MAX)
    keep: list[int] = []
    best: Truncation | None = None
    position = lane.first
    while position < limit:
        alive_from = lane.finished.first_missing(position)
        before = min(alive_from, limit)
        finished = before - lane.first - len(keep)
        if before > position and finished >= max(FINISHED_MIN, FINISHED_PER_COPY * len(keep)):
            best = Truncation(before, tuple(keep))
        if before == limit or (len(keep) + 1) * FINISHED_PER_COPY > REMOVED_MAX:
            break
        keep.append(alive_from)
        position = alive_from + 1
    return best

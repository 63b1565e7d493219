"""What upkeep does, as functions of sizes and times."""

from __future__ import annotations

import math
from typing import Final

from attrs import define, frozen

__all__ = [
    "CheckpointWatch",
    "SpacePolicy",
    "StepSize",
]


@define
class StepSize:
    """How much to do in one step, so that it takes about ``target_seconds``.

    What it takes is the time until its ack, so it counts those who are served in between: where
    many wait, steps become small. Nobody waits behind more than one of them.
    """

    target_seconds: float = 0.003
    least: int = 16
    most: int = 4_096
    size: int = 64

    def took(self, seconds: float) -> None:
        """The last step of this size."""
        if seconds > 2 * self.target_seconds:
            self.size = max(self.least, self.size // 2)
        elif seconds < self.target_seconds:
            self.size = min(self.most, self.size * 2)


@frozen(kw_only=True)
class SpacePolicy:
    """How much may lie unused in the database: later writes use it, and need no new blocks.

    While much is written that is worth more than the room; where little or nothing is, less.
    """

    free_bytes_max: int
    share_max: float = 0.5
    """Of what is in use."""
    rest_share_max: float = 0.0625
    """The same at rest: of the database, and of its log beside it."""
    bytes_min: int = 1 << 20
    """It is not worth while to give back less."""

    def is_little(self, written_bytes: int, log_bytes: int) -> bool:
        """Whether so little was written to a log, since it was moved last, that it could be as good
        as cut off: who writes on makes it no longer than a small part of what it is."""
        return written_bytes * 8 <= max(log_bytes, self.bytes_min)

    def surplus(self, database_bytes: int, free_bytes: int, *, at_rest: bool) -> int:
        """How much to give back now, in bytes."""
        share = self.rest_share_max if at_rest else self.share_max
        return self._above(free_bytes, max(0, database_bytes - free_bytes), share)

    def log_surplus(self, database_bytes: int, log_bytes: int, rewrite_bytes: int = 0) -> int:
        """The same, at rest, for a log in which nothing is left that the database has not.

        ``rewrite_bytes``: what has to be written to be rid of it, where that is the whole database.
        Then it is worth while where half as much is given back.
        """
        if rewrite_bytes:
            surplus = database_bytes + log_bytes - rewrite_bytes
            return surplus if surplus >= max(rewrite_bytes // 2, self.bytes_min) else 0
        return self._above(log_bytes, database_bytes, self.rest_share_max)

    def _above(self, unused: int, used: int, share: float) -> int:
        surplus = unused - min(self.free_bytes_max, int(used * share))
        return surplus if surplus >= self.bytes_min else 0


#: Checkpoints in a row that leave much behind before it is told.
HELD_UP_MAX: Final = 3


@define
class CheckpointWatch:
    """Tells of a log that cannot begin anew, once, and of its end."""

    pages_max: int
    """Left behind: from here on it is much."""
    _held_up: int = 0

    def note(self, pages_left: int) -> str | None:
        """What to say after a checkpoint, if anything."""
        if pages_left < self.pages_max:
            told = self._held_up >= HELD_UP_MAX
            self._held_up = 0
            return "checkpoints reach the end of the write-ahead log again" if told else None
        self._held_up += 1
        if self._held_up != HELD_UP_MAX:
            return None
        return (
            f"the last {HELD_UP_MAX} checkpoints left {pages_left} pages or more in the "
            "write-ahead log: somebody reads the database without an end, and the log grows"
        )


def seconds_until(instant: float, now: float) -> float:
    """From now on; nothing below 0."""
    return math.inf if instant == math.inf else max(0.0, instant - now)

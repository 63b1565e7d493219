"""When the messages of a lane were sent, well enough to tell how old the oldest one is.

Only a few are remembered, however many there are: nearly all come in the order of their offsets, so
one that is not remembered was sent between the two that are. Nothing is read for it.
"""

from __future__ import annotations

from bisect import bisect_right
from typing import Final

from attrs import define, field

__all__ = ["SendTimes"]

MARKS_MAX: Final = 64
SPACING_SECONDS_MIN: Final = 1.0


@define(eq=False)
class SendTimes:
    """Offsets, each with the wall clock when its message was sent. Both are sorted by offset."""

    _offsets: list[int] = field(factory=list)
    _times: list[float] = field(factory=list)
    _spacing_seconds: float = SPACING_SECONDS_MIN

    def note(self, offset: int, sent_at: float) -> None:
        """Remember it where it tells more than what is remembered. Called for every send."""
        times = self._times
        if not times:
            self._offsets.append(offset)
            times.append(sent_at)
            return
        if offset > self._offsets[-1]:
            if sent_at - times[-1] >= self._spacing_seconds:
                self._insert(len(times), offset, sent_at)
            return
        after = bisect_right(self._offsets, offset)
        if not after or sent_at - times[after - 1] >= self._spacing_seconds:
            self._insert(after, offset, sent_at)

    def of(self, offset: int) -> float | None:
        """When a message was sent, or a little before; None where nothing is known. What is below
        is forgotten."""
        if not self._offsets:
            return None
        at = bisect_right(self._offsets, offset) - 1
        if at > 0:
            del self._offsets[:at], self._times[:at]
            if len(self._offsets) < MARKS_MAX // 4:
                self._spacing_seconds = SPACING_SECONDS_MIN
        # Below the first that is known: it is at least as old.
        return self._times[0]

    def _insert(self, at: int, offset: int, sent_at: float) -> None:
        self._offsets.insert(at, offset)
        self._times.insert(at, sent_at)
        if len(self._offsets) > MARKS_MAX:
            # The oldest and the newest stay.
            del self._offsets[1:-1:2], self._times[1:-1:2]
            span = self._times[-1] - self._times[0]
            self._spacing_seconds = max(SPACING_SECONDS_MIN, span / (MARKS_MAX // 2))

    def __len__(self) -> int:
        return len(self._offsets)

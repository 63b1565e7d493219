"""Whether all subscriptions have finished a message, without asking each of them each time.

Where thousands have one message, each of them finishes it once, and is asked about: were all the
others asked as well, that would be the square of their number. One that is found not to have
finished is asked first the next time, and most often that is the whole of it.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import chain
from typing import TYPE_CHECKING

from attrs import define, field

from mpreg.queues.cursor import Cursor

if TYPE_CHECKING:
    from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["Agreement"]


@define(eq=False)
class Agreement:
    _cursors: dict[int, list[Cursor]] = field(factory=dict)
    """By lane, those of all subscriptions."""
    _behind: dict[int, int] = field(factory=dict)
    """By lane, which of them was last found not to have finished."""

    def forget(self) -> None:
        """There are other subscriptions than before."""
        self._cursors.clear()
        self._behind.clear()

    def is_reached(
        self, subscriptions: Iterable[SubscriptionState], lane: int, offset: int
    ) -> bool:
        if (cursors := self._cursors.get(lane)) is None:
            cursors = self._cursors[lane] = [one.cursor(lane) for one in subscriptions]
        first = self._behind.get(lane, 0)
        for index in chain(range(first, len(cursors)), range(first)):
            if offset not in cursors[index].done:
                self._behind[lane] = index
                return False
        return True

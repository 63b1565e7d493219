"""What consumers leave behind that were dropped without a word.

The garbage collector finds them wherever it happens to run: in another task, in another thread, in
the middle of a change to the very queue. So nothing is done there but to put it here.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from attrs import define, field, frozen

from mpreg.actors.parking import CallSoon, call_soon_from_anywhere

if TYPE_CHECKING:
    from mpreg.queues.subscription_state import Lease

__all__ = ["Dropped", "Inbox"]


@frozen
class Dropped:
    ahead: Sequence[Lease]
    """Of messages that nobody has seen."""
    current: Lease | None
    """Of the message that was worked on."""
    cancelled: bool
    """Whether that work was cancelled: else it may be going on."""


@define(eq=False)
class Inbox:
    _take: Callable[[Dropped], None]
    _call_soon: CallSoon = field(factory=call_soon_from_anywhere)
    _dropped: deque[Dropped] = field(factory=deque)

    def put(self, dropped: Dropped) -> None:
        """From any thread, at any moment. It is looked at in the event loop's next turn."""
        self._dropped.append(dropped)
        self._call_soon(self.empty)

    def empty(self) -> None:
        """Look at what is there. In the event loop, between two changes."""
        while self._dropped:
            self._take(self._dropped.popleft())

"""A loop over a subscription's messages."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

from attrs import define, field

from mpreg.actors.parking import is_being_cancelled
from mpreg.queues.core import QueueCore
from mpreg.queues.inbox import Dropped

if TYPE_CHECKING:
    from mpreg.queues.message import Message
    from mpreg.queues.subscription import Subscription
    from mpreg.queues.subscription_state import Lease

__all__ = ["Consumer"]


@define(eq=False)
class Consumer:
    """Made by `Subscription.consume`. An async iterator, for one task at a time.

    It is not an async generator: a loop that is left early would have to close one, and here
    nothing waits when it is left. ``async with`` gives back at its end what is unsettled, also the
    message that was worked on when an error came.
    """

    _core: QueueCore
    _subscription: Subscription
    _prefetch: int
    _ahead: deque[Message] = field(factory=deque)
    """Taken, and not yet handed out."""
    _current: Message | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message. Cancelled while waiting for it: nothing was taken.

        Raises what `Subscription.receive` raises.
        """
        self._let_lease_run()
        self._core.check_open()
        if not self._ahead:
            self._ahead.extend(await self._subscription._take(self._prefetch, None, held=True))
        self._current = self._ahead.popleft()
        return self._current

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close(give_back_current=exc is not None)

    def close(self, *, give_back_current: bool = False) -> None:
        """Give back what was taken ahead, uncounted, and perhaps the last message as well.

        Else that one keeps its lease, for ``lease_seconds`` from now.
        """
        self._core.release(self._leases_ahead(), unseen=True)
        if give_back_current and self._current is not None and self._current._lease is not None:
            self._core.release([self._current._lease], unseen=False)
        self._let_lease_run()

    def _leases_ahead(self) -> list[Lease]:
        ahead, self._ahead = self._ahead, deque()
        return [message._lease for message in ahead if message._lease is not None]

    def _let_lease_run(self) -> None:
        """From now on the lease of the last message ends by itself."""
        current, self._current = self._current, None
        if current is not None and current._lease is not None:
            self._core.let_run(current._lease)

    def __del__(self) -> None:
        """A loop that was left: nobody else will ask for what was taken ahead."""
        current = None if self._current is None else self._current._lease
        if self._ahead or current is not None:
            dropped = Dropped(self._leases_ahead(), current, is_being_cancelled())
            self._core.inbox.put(dropped)

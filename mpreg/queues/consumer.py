"""A loop over a subscription's messages."""

from __future__ import annotations

from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from attrs import define, field

from mpreg.actors.parking import is_being_cancelled
from mpreg.queues.core import QueueCore
from mpreg.queues.inbox import Dropped
from mpreg.queues.line import Demand
from mpreg.queues.second_look import is_still_wanted

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
    _demand: Demand
    _ahead: deque[Message] = field(factory=deque)
    """Taken, and not yet handed out."""
    _current: Message | None = None
    _is_waiting: bool = False
    """Whether a task waits for the next message."""
    _is_closed: bool = False
    """Whoever waits, or comes, is told that the loop is over."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Message:
        """The next message. Cancelled while waiting for it: nothing was taken.

        When the consumer is closed, also while this waits, the loop is over.

        Raises, beside what `Subscription.receive` raises:
            anyio.BusyResourceError: another task waits for the next message.
        """
        self._core.check_thread()
        if self._is_waiting:
            raise anyio.BusyResourceError("waiting for the next message of")
        self._let_lease_run()
        self._end_if_closed()
        self._core.check_open()
        if (message := self._next_ahead()) is None:
            self._is_waiting = True
            try:
                taken = await self._subscription._take(self._demand, None, consumer=self)
            finally:
                self._is_waiting = False
            # Only now: it may have been closed, or given up, while this waited.
            self._ahead.extend(taken)
            self._end_if_closed()
            message = self._ahead.popleft()
        self._current = message
        return message

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
        """End the loop, also of a task that waits for the next message. Give back what was taken
        ahead, uncounted, and perhaps the last message as well.

        Else that one keeps its lease, for ``lease_seconds`` from now. Raises `RuntimeError` in
        another thread than its event loop's.
        """
        self._core.check_thread()
        self._is_closed = True
        self._subscription._stop_waiting(self)
        self._give_back_ahead()
        if give_back_current and self._current is not None and self._current._lease is not None:
            self._core.settling.release([self._current._lease], unseen=False)
        self._let_lease_run()

    def _end_if_closed(self) -> None:
        if self._is_closed:
            self._give_back_ahead()
            raise StopAsyncIteration

    def _next_ahead(self) -> Message | None:
        """The first one that was taken ahead and may still be handed out."""
        while self._ahead:
            message = self._ahead.popleft()
            lease = message._lease
            if lease is None or is_still_wanted(self._core, lease, message._record):
                return message
        return None

    def _give_back_ahead(self) -> None:
        self._core.settling.release(self._leases_ahead(), unseen=True)

    def _leases_ahead(self) -> list[Lease]:
        ahead, self._ahead = self._ahead, deque()
        return [message._lease for message in ahead if message._lease is not None]

    def _let_lease_run(self) -> None:
        """From now on the lease of the last message ends by itself."""
        current, self._current = self._current, None
        if current is not None and current._lease is not None:
            self._core.settling.let_run(current._lease)

    def __del__(self) -> None:
        """A loop that was left: nobody else will ask for what was taken ahead."""
        current = None if self._current is None else self._current._lease
        if self._ahead or current is not None:
            dropped = Dropped(self._leases_ahead(), current, is_being_cancelled())
            self._core.inbox.put(dropped)

"""A loop over a subscription's messages."""

from __future__ import annotations

import math
from collections import deque
from types import TracebackType
from typing import TYPE_CHECKING, Self

import anyio
from attrs import define, field

from mpreg.queues.core import QueueCore
from mpreg.queues.cursor import DeliveryState

if TYPE_CHECKING:
    from mpreg.queues.message import Message
    from mpreg.queues.subscription import Subscription

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
            self._ahead.extend(await self._subscription.take(self._prefetch, None, held=True))
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
        ahead, self._ahead = self._ahead, deque()
        if ahead:
            leases = [message.lease for message in ahead if message.lease is not None]
            self._core.release(leases, unseen=True)
        if give_back_current and self._current is not None and self._current.lease is not None:
            self._core.release([self._current.lease], unseen=False)
        self._let_lease_run()

    def _let_lease_run(self) -> None:
        """From now on the lease of the last message ends by itself."""
        current, self._current = self._current, None
        if current is None or (lease := current.lease) is None:
            return
        delivery = lease.delivery
        # Also while its ack is on its way: where that fails, it is leased again.
        if (
            delivery.state in (DeliveryState.LEASED, DeliveryState.SETTLING)
            and delivery.attempt == lease.attempt
            and delivery.due == math.inf
        ):
            self._core.extend(lease, self._core.configuration.lease_seconds)

    def __del__(self) -> None:
        """A loop that was left: nobody else will ask for what was taken ahead."""
        if self._ahead or self._current is not None:
            try:
                cancelled = anyio.current_effective_deadline() == -math.inf
            except RuntimeError:
                # Outside the event loop: the registry is gone, and its leases with it.
                return
            self.close(give_back_current=cancelled)

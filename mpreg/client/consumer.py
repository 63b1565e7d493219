"""A loop over the messages of a node, that outlives the node."""

from __future__ import annotations

from collections import deque
from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Self

import anyio
from attrs import define, field

from mpreg.actors.parking import is_being_cancelled
from mpreg.client.calls import Calls
from mpreg.client.keeper import Keeper
from mpreg.client.message import RemoteMessage
from mpreg.errors import LeaseLostError

__all__ = ["RemoteConsumer"]


@define(eq=False)
class RemoteConsumer:
    """Made by `RemoteSubscription.consume`. An async iterator, for one task at a time."""

    _calls: Calls
    _keeper: Keeper
    _take: Callable[[], Awaitable[list[RemoteMessage]]]
    _ahead: deque[RemoteMessage] = field(factory=deque)
    """Taken, and not yet handed out."""
    _current: RemoteMessage | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteMessage:
        """The next message. Raises what `RemoteSubscription.receive` raises."""
        self._let_lease_run()
        while True:
            if not self._ahead:
                messages = await self._take()
                self._keeper.hold(messages)
                self._ahead.extend(messages)
            message = self._ahead[0]
            is_ours = await self._is_ours(message)
            self._ahead.popleft()
            if is_ours:
                message._is_seen = True
                self._current = message
                return message
            self._keeper.let_run(message)

    async def _is_ours(self, message: RemoteMessage) -> bool:
        """Leases end with the node that gave them, or when they were not made longer in time: where
        either may have happened, the node is asked."""
        if message._is_lost:
            return False
        is_known = message._failures == self._calls.failures
        if is_known and anyio.current_time() < message._holds_until:
            return True
        try:
            await message.extend()
        except LeaseLostError:
            return False
        return True

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
        """Have given back what was taken ahead, uncounted, and perhaps the last message as well.

        Else that one keeps its lease.
        """
        ahead, self._ahead = self._ahead, deque()
        current, self._current = self._current, None
        left = list(ahead)
        if current is not None and current in self._keeper:
            if give_back_current:
                left.append(current)
            self._keeper.let_run(current)
        if left:
            self._keeper.give_back(left)

    def _let_lease_run(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._keeper.let_run(current)

    def __del__(self) -> None:
        """A loop that was left: nobody else will ask for what was taken ahead."""
        # Where it waits for the next one, a traceback may keep it for longer than its task lives.
        self.close(give_back_current=self._current is not None and is_being_cancelled())

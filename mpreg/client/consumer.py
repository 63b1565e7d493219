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
    _waiting: anyio.CancelScope | None = None
    """That of the task that waits for the next message."""
    _is_closed: bool = False
    """Whoever waits, or comes, is told that the loop is over."""

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> RemoteMessage:
        """The next message. When the consumer is closed, also while this waits, the loop is over.

        Raises, beside what `RemoteSubscription.receive` raises:
            anyio.BusyResourceError: another task waits for the next message.
        """
        if self._waiting is not None:
            raise anyio.BusyResourceError("waiting for the next message of")
        self._let_lease_run()
        message = None if self._is_closed else await self._next_unless_closed()
        if message is None or self._is_closed:
            taken = self._taken_ahead()
            if message is not None:
                taken.insert(0, message)
            self._give_back(taken)
            raise StopAsyncIteration
        message._is_seen = True
        self._current = message
        return message

    async def _next_unless_closed(self) -> RemoteMessage | None:
        """None where it was closed meanwhile."""
        try:
            with anyio.CancelScope() as self._waiting:
                return await self._next()
        finally:
            self._waiting = None
        return None

    async def _next(self) -> RemoteMessage:
        while True:
            if not self._ahead:
                messages = await self._take()
                self._keeper.hold(messages)
                self._ahead.extend(messages)
            message = self._ahead.popleft()
            try:
                if await self._is_ours(message):
                    return message
            except BaseException:
                self._ahead.appendleft(message)
                raise
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
        """End the loop, also of a task that waits for the next message. Have given back what was
        taken ahead, uncounted, and perhaps the last message as well.

        Else that one keeps its lease.
        """
        self._is_closed = True
        if self._waiting is not None:
            self._waiting.cancel()
        current, self._current = self._current, None
        left = self._taken_ahead()
        if current is not None and current in self._keeper:
            if give_back_current:
                left.append(current)
            self._keeper.let_run(current)
        self._give_back(left)

    def _taken_ahead(self) -> list[RemoteMessage]:
        ahead, self._ahead = self._ahead, deque()
        return list(ahead)

    def _give_back(self, messages: list[RemoteMessage]) -> None:
        if messages:
            self._keeper.give_back(messages)

    def _let_lease_run(self) -> None:
        current, self._current = self._current, None
        if current is not None:
            self._keeper.let_run(current)

    def __del__(self) -> None:
        """A loop that was left: nobody else will ask for what was taken ahead."""
        # Where it waits for the next one, a traceback may keep it for longer than its task lives.
        self.close(give_back_current=self._current is not None and is_being_cancelled())

"""A named, durable cursor over a queue's messages, and those who wait for some."""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.errors import InvalidArgumentError, QueueNotFoundError
from mpreg.queues.consumer import Consumer
from mpreg.queues.core import HandOut, QueueCore
from mpreg.queues.message import Message, checked_seconds
from mpreg.queues.state import SubscriptionState
from mpreg.queues.statistics import SubscriptionStatistics, count_subscription

__all__ = ["RECEIVE_MESSAGES_MAX", "Subscription"]

RECEIVE_MESSAGES_MAX: Final = 10_000


@define(eq=False)
class _Waiter:
    """Somebody who waits for messages."""

    count: int
    """How many it takes at most."""
    announced: int = 0
    """How many it was woken for."""
    event: anyio.Event = field(factory=anyio.Event)


@define(eq=False)
class Subscription:
    """Consumers of one subscription compete: each message goes to one of them at a time.

    Made by `MessageQueue.subscription`; each name stands for one cursor, kept in the queue.
    """

    _core: QueueCore
    name: str
    _state: SubscriptionState
    _line: OrderedDict[_Waiter, None] = field(factory=OrderedDict)
    """Those who wait for messages, the first come first."""
    _woken: _Waiter | None = None
    """The last one that was woken, until it runs."""

    def __attrs_post_init__(self) -> None:
        self._core.on_messages(self.name, self._wake)

    async def receive(self, wait_seconds: float | None = None) -> Message | None:
        """The next message; None where there was none for ``wait_seconds``. None waits for ever.

        Its delivery attempt is durable when it is returned, and it is nobody else's until its
        lease ends: ``lease_seconds`` of the queue's configuration from then.

        Cancelled: no message was taken, or it is given back at once.

        Raises, beside what every durable write raises:
            QueueDeletedError: the queue was deleted, also while waiting.
            WriterStoppedError: the registry has closed, also while waiting.
        """
        messages = await self.receive_many(1, wait_seconds)
        return messages[0] if messages else None

    async def receive_many(
        self, messages_max: int, wait_seconds: float | None = None
    ) -> list[Message]:
        """Up to ``messages_max`` messages, at least one; none only after ``wait_seconds``.

        As `receive`, with one write for all of them.
        """
        _check_count("messages_max", messages_max)
        if wait_seconds is not None:
            checked_seconds("wait_seconds", wait_seconds)
        return await self._take(messages_max, wait_seconds, held=False)

    def consume(self, prefetch: int = 1) -> Consumer:
        """An async iterator over the messages, without end::

            async for message in jobs.consume(prefetch=16):
                await work(message.payload)
                await message.ack()

        It takes up to ``prefetch`` messages at a time, and never polls. The lease of the message
        that is worked on, and of those taken ahead, lasts for as long as that takes. When the
        next one is asked for, one that was not settled gets ``lease_seconds`` from then.

        Left by ``break`` or an error: those not yet handed out are given back at once, uncounted;
        the last one keeps its lease. Cancelled: that one is given back, too.
        """
        _check_count("prefetch", prefetch)
        # What is not stored cannot be given back, so nothing of it is taken ahead.
        return Consumer(self._core, self, prefetch if self._core.stored else 1)

    def statistics(self) -> SubscriptionStatistics:
        """Counts as they are now."""
        self._core.inbox.empty()
        return count_subscription(self._core.state, self._checked_state())

    def _end(self) -> None:
        """It was deleted: nothing will ever come, also where another one gets its name."""
        self._core.on_messages(self.name, None)
        self._wake(2**31)

    # --- taking messages ---

    def _checked_state(self) -> SubscriptionState:
        state = self._state
        if state.deleting or not self._core.state.has(state):
            raise QueueNotFoundError(
                f"subscription {self.name!r} of queue {self._core.name!r} was deleted"
            )
        return state

    async def _take(self, count: int, wait_seconds: float | None, *, held: bool) -> list[Message]:
        """Messages with their leases, ``held`` ones until they are told to end."""
        core = self._core
        deadline = None if wait_seconds is None else anyio.current_time() + wait_seconds
        while True:
            core.check_open()
            try:
                messages = await self._try_to_take(count, held=held)
            except BaseException:
                # Perhaps it was woken for messages that it does not take: somebody else may.
                self._wake(1)
                raise
            if messages:
                return messages
            if deadline is None:
                await self._wait(count)
            else:
                with anyio.move_on_at(deadline) as scope:
                    await self._wait(count)
                if scope.cancelled_caught:
                    return []

    async def _try_to_take(self, count: int, *, held: bool) -> list[Message]:
        core = self._core
        if not core.stored:
            # Before anything is taken, because it could not be given back.
            await anyio.lowlevel.checkpoint()
            core.check_open()
        while True:
            state = self._checked_state()
            choice = core.choose(state, count)
            if choice.deliveries or choice.unread is None:
                break
            await core.read(choice.unread)
            core.check_open()
        if not choice.deliveries:
            return []
        is_all = len(choice.deliveries) < count and choice.unread is None
        if not is_all and self._line and core.has_more(state):
            # More than this one takes.
            self._wake(1)
        hand_out = HandOut(state, choice.deliveries, held)
        if not core.stored:
            core.hand_out_from_memory(hand_out)
            return [
                Message(core, record, None, delivery.lane, self.name)
                for delivery, record in choice.deliveries
            ]
        await core.hand_out(hand_out)
        return [
            Message(core, record, lease, lease.delivery.lane, self.name)
            for lease, (_, record) in zip(core.leases(hand_out), choice.deliveries, strict=True)
        ]

    # --- waiting ---

    async def _wait(self, count: int) -> None:
        """Return when there may be messages for this one."""
        waiter = _Waiter(count)
        self._line[waiter] = None
        try:
            await waiter.event.wait()
        except BaseException:
            if waiter in self._line:
                del self._line[waiter]
            else:
                # Woken for messages that it will not take: somebody else may.
                self._forget(waiter)
                self._wake(waiter.announced)
            raise
        self._forget(waiter)

    def _wake(self, messages: int) -> None:
        """Wake as many as can take so many messages, the first come first.

        Messages that come while one is woken, and has not run yet, are for that one, too, as far
        as it takes them: so those who take many at a time do so.
        """
        while messages > 0:
            waiter = self._woken
            if waiter is None or waiter.announced >= waiter.count:
                if not self._line:
                    return
                waiter, _ = self._line.popitem(last=False)
                waiter.event.set()
                self._woken = waiter
            announced = min(messages, waiter.count - waiter.announced)
            waiter.announced += announced
            messages -= announced

    def _forget(self, waiter: _Waiter) -> None:
        if self._woken is waiter:
            self._woken = None

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} of queue {self._core.name!r}>"


def _check_count(name: str, count: object) -> None:
    if (
        isinstance(count, bool)
        or not isinstance(count, int)
        or not 0 < count <= RECEIVE_MESSAGES_MAX
    ):
        raise InvalidArgumentError(
            f"{name} is a number from 1 to {RECEIVE_MESSAGES_MAX}, not {count!r}"
        )

"""A named, durable cursor over a queue's messages, and those who wait for some."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.errors import InvalidArgumentError, MpregError, QueueNotFoundError
from mpreg.queues.ahead import until_last
from mpreg.queues.configuration import checked_seconds
from mpreg.queues.consumer import Consumer
from mpreg.queues.core import QueueCore
from mpreg.queues.cursor import Delivery
from mpreg.queues.hand_out import HandOut
from mpreg.queues.line import Demand, Line
from mpreg.queues.message import Message
from mpreg.queues.records import MessageRecord
from mpreg.queues.statistics import SubscriptionStatistics, count_subscription
from mpreg.queues.subscription_state import Lease, SubscriptionState

__all__ = ["RECEIVE_MESSAGES_MAX", "Subscription", "check_count"]

RECEIVE_MESSAGES_MAX: Final = 10_000

#: Messages handed out to others in line in the write of the one that was called.
SERVED_MAX: Final = 1_024

_ONE: Final = Demand(1)


@define(eq=False)
class Subscription:
    """Consumers of one subscription compete: each message goes to one of them at a time.

    Made by `MessageQueue.subscription`; each name stands for one cursor, kept in the queue.
    """

    _core: QueueCore
    name: str
    _state: SubscriptionState
    _line: Line = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._line = self._core.lines[self.name] = Line(self._core.hand_outs.abandon)

    async def receive(self, wait_seconds: float | None = None) -> Message | None:
        """The next message; None where there was none for ``wait_seconds``. None waits for ever.

        Its delivery attempt is durable when it is returned, and it is nobody else's until its
        lease ends: ``lease_seconds`` of the queue's configuration from then.

        Cancelled: no message was taken, or it is given back at once.

        Raises, beside what every durable write raises:
            QueueDeletedError: the queue was deleted, also while waiting.
            WriterStoppedError: the registry has closed, also while waiting.
        """
        if wait_seconds is not None:
            checked_seconds("wait_seconds", wait_seconds)
        messages = await self._take(_ONE, wait_seconds)
        return messages[0] if messages else None

    async def receive_many(
        self,
        messages_max: int,
        wait_seconds: float | None = None,
        *,
        bytes_max: int | None = None,
        one_by_one: bool = False,
    ) -> list[Message]:
        """Up to ``messages_max`` messages, at least one; none only after ``wait_seconds``.
        With ``bytes_max`` only so many that without the last one they have fewer bytes.

        ``one_by_one``: for who works on one after the other. One whose attempt would be its last
        comes only as the first of them: where a message kills its consumer, none dies with it that
        nobody has seen.

        As `receive`, with one write for all of them.
        """
        check_count("messages_max", messages_max)
        if bytes_max is not None:
            _check_bytes(bytes_max)
        if wait_seconds is not None:
            checked_seconds("wait_seconds", wait_seconds)
        bytes_limit = math.inf if bytes_max is None else bytes_max
        return await self._take(
            Demand(messages_max, bytes_limit, one_by_one=one_by_one), wait_seconds
        )

    def consume(self, prefetch: int = 1) -> Consumer:
        """An async iterator over the messages, without end::

            async for message in jobs.consume(prefetch=16):
                await work(message.payload)
                await message.ack()

        It takes up to ``prefetch`` messages at a time, and never polls. The lease of the message
        that is worked on, and of those taken ahead, lasts for as long as that takes. When the
        next one is asked for, one that was not settled gets ``lease_seconds`` from then.

        Left by ``break`` or an error: those not yet handed out are given back at once, uncounted;
        the last one keeps its lease. Cancelled: that one is given back, too. With a name of its
        own it needs ``async with``: it holds what it has for as long as the name is there.
        """
        check_count("prefetch", prefetch)
        # What is not stored cannot be given back, so nothing of it is taken ahead.
        demand = Demand(prefetch if self._core.stored else 1, held=True, one_by_one=True)
        return Consumer(self._core, self, demand)

    def statistics(self) -> SubscriptionStatistics:
        """Counts as they are now."""
        self._core.check_thread()
        self._core.inbox.empty()
        return count_subscription(self._core.state, self._checked_state())

    def _end(self) -> None:
        """It was deleted: nothing will ever come, also where another one gets its name."""
        if self._core.lines.get(self.name) is self._line:
            del self._core.lines[self.name]
        self._line.call_all()

    def _stop_waiting(self, consumer: Consumer) -> None:
        """It was closed: nobody is to wait for its sake."""
        self._line.end(consumer)

    # --- taking messages ---

    def _checked_state(self) -> SubscriptionState:
        state = self._state
        if not self._core.state.has(state):
            raise QueueNotFoundError(
                f"subscription {self.name!r} of queue {self._core.name!r} was deleted; nothing was "
                "taken",
                f"make it anew with `await queue.subscription({self.name!r})`",
            )
        return state

    async def _take(
        self,
        demand: Demand,
        wait_seconds: float | None,
        *,
        consumer: Consumer | None = None,
    ) -> list[Message]:
        """Messages with their leases. None only at the deadline, or where the consumer was
        closed."""
        core = self._core
        deadline = None if wait_seconds is None else anyio.current_time() + wait_seconds
        is_first = False
        while True:
            core.raise_failure()
            try:
                messages = await self._try_to_take(demand, is_first=is_first)
            except BaseException:
                # Perhaps it was called for messages that it does not take: somebody else may.
                self._line.call_first()
                raise
            if messages:
                return messages
            if consumer is not None and consumer._is_closed:
                return []
            waiter = await self._line.wait(demand, deadline, front=is_first, owner=consumer)
            if waiter.is_over:
                return []
            if waiter.committed:
                assert waiter.served is not None
                if messages := self._messages(waiter.served):
                    return messages
            # Called, or what it was served did not come to be, or was purged: it looks itself.
            is_first = True

    async def _try_to_take(self, demand: Demand, *, is_first: bool) -> list[Message]:
        """Those that are there now, also for the others in line, before or after itself: all of
        them together are within its own ``bytes_max``."""
        core, line = self._core, self._line
        places_max = core.storage.limits.places // 2
        count = min(demand.count, places_max)
        if not core.stored:
            # Before anything is taken, because it could not be given back.
            await anyio.lowlevel.checkpoint()
            core.raise_failure()
        while True:
            state = self._checked_state()
            if state.deleting or core.deleting:
                # It will be known soon whether there is anything to be had.
                return []
            others = min(line.wanted, SERVED_MAX, places_max - count) if core.stored else 0
            wanted = count + others
            choice = core.choose(state, wanted, demand.bytes_max)
            if choice.deliveries:
                break
            if (counting := core.hand_outs.counting.ack(state)) is not None:
                # What comes next is nobody's, and will be known in a moment.
                with suppress(MpregError):
                    await counting.wait()
            elif choice.is_over:
                break
            elif choice.unread is None:
                await anyio.lowlevel.checkpoint()
            else:
                await core.contents.read(choice.unread)
            core.raise_failure()
        if not choice.deliveries:
            return []
        if not core.stored:
            own = HandOut(state, choice.deliveries, demand.held)
            core.hand_outs.hand_out_from_memory(own)
            if core.has_more(state):
                line.call_first()
            return self._messages(own)
        mine: list[tuple[Delivery, MessageRecord]] = choice.deliveries
        theirs: list[tuple[Delivery, MessageRecord]] = []
        if others:
            split = count if is_first else others
            first, second = choice.deliveries[:split], choice.deliveries[split:]
            mine, theirs = (first, second) if is_first else (second, first)
        if demand.one_by_one and (fit := until_last(core.state, mine)) < len(mine):
            mine, rest = mine[:fit], mine[fit:]
            theirs = rest + theirs if is_first else theirs + rest
        own = HandOut(state, mine, demand.held)
        served = list(self._serve(state, theirs)) if theirs else []
        if line.wanted:
            is_all = len(choice.deliveries) < wanted and choice.is_over
            if not is_all and core.has_more(state):
                line.call_first()
        try:
            await core.hand_outs.hand_out(own, served)
        except BaseException:
            core.hand_outs.abandon(own)
            raise
        if not own.deliveries and not line.wanted:
            # The others have got it all, or it was purged meanwhile. Whatever else there is, or has
            # come since, has called nobody: nobody was in line for it.
            core.raise_failure()
            return await self._try_to_take(demand, is_first=True)
        return self._messages(own)

    def _serve(
        self, state: SubscriptionState, deliveries: list[tuple[Delivery, MessageRecord]]
    ) -> Iterator[HandOut]:
        """Give them to those in line, the first one first. They take as many together, unless the
        bounds of one of them are narrower than those by which they were chosen."""
        while deliveries and (waiter := self._line.pop()) is not None:
            demand = waiter.demand
            count = _fitting(deliveries[: demand.count], demand.bytes_max)
            if demand.one_by_one:
                count = until_last(self._core.state, deliveries[:count])
            hand_out = HandOut(state, deliveries[:count], demand.held)
            deliveries = deliveries[count:]
            waiter.serve(hand_out)
            yield hand_out
        if deliveries:
            self._core.hand_outs.keep_back(HandOut(state, deliveries, False))

    def _messages(self, hand_out: HandOut) -> list[Message]:
        core = self._core
        if not core.stored:
            return [
                Message(core, None, 1, record, delivery.lane, self.name)
                for delivery, record in hand_out.deliveries
            ]
        state, name, count = hand_out.subscription, self.name, len(hand_out.deliveries)
        # Who has done with the last one comes for as many again.
        return [
            Message(
                core,
                Lease(state, one, one.attempt, count if number == count else 0),
                one.attempt - one.forgiven,
                record,
                one.lane,
                name,
            )
            for number, (one, record) in enumerate(hand_out.deliveries, 1)
        ]

    def __repr__(self) -> str:
        return f"<Subscription {self.name!r} of queue {self._core.name!r}>"


def _fitting(deliveries: list[tuple[Delivery, MessageRecord]], bytes_max: float) -> int:
    """How many of them, until they are as large as that together."""
    size = 0
    for count, (delivery, _) in enumerate(deliveries):
        if size >= bytes_max:
            return count
        size += delivery.size
    return len(deliveries)


def _check_bytes(bytes_max: object) -> None:
    if isinstance(bytes_max, bool) or not isinstance(bytes_max, int) or bytes_max < 1:
        raise InvalidArgumentError(f"bytes_max is a number from 1, or None, not {bytes_max!r:.80}")


def check_count(name: str, count: object) -> None:
    if (
        isinstance(count, bool)
        or not isinstance(count, int)
        or not 0 < count <= RECEIVE_MESSAGES_MAX
    ):
        raise InvalidArgumentError(
            f"{name} is a number from 1 to {RECEIVE_MESSAGES_MAX}, not {count!r}"
        )

"""From a message that was chosen to a lease: the attempts of a queue on their way to the disk."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import anyio.lowlevel
from attrs import define, field

from mpreg.queues.ahead import bounded, choose_ahead, has_next
from mpreg.queues.counting import Counting
from mpreg.queues.cursor import DeliveryState
from mpreg.queues.hand_out import HandOut
from mpreg.queues.joint import JointEvents
from mpreg.queues.records import Attempt, HandedOut, Settled
from mpreg.queues.subscription_state import Lease, SubscriptionState

if TYPE_CHECKING:
    from mpreg.actors import Ack
    from mpreg.queues.core import QueueCore

__all__ = ["HandOuts"]


@define(eq=False)
class HandOuts:
    """Of one open queue."""

    _core: QueueCore
    _events: JointEvents[HandedOut, tuple[HandOut, ...]] = field(init=False)
    counting: Counting = field(factory=Counting)

    def __attrs_post_init__(self) -> None:
        storage = self._core.storage
        self._events = JointEvents(
            storage.events,
            HandedOut,
            self._attempts_settled,
            storage.limits.places,
            self._count_ahead,
        )

    def leases(self, hand_out: HandOut) -> list[Lease]:
        subscription = hand_out.subscription
        return [Lease(subscription, one, one.attempt) for one, _ in hand_out.deliveries]

    def hand_out(self, own: HandOut, others: Sequence[HandOut]) -> Awaitable[object]:
        """Write the delivery attempts of what was chosen, of one subscription, in one event, but
        for those that are on disk already. To be awaited at once.

        Where that raises, or this does, one's own are to be abandoned. The others are told.
        """
        name, hand_outs = own.subscription.name, (own, *others)
        attempts = [
            (
                delivery.lane,
                delivery.offset,
                delivery.attempt + 1,
                delivery.forgiven,
                delivery.size,
            )
            for hand_out in hand_outs
            for delivery, _ in hand_out.deliveries
            if not delivery.is_counted
        ]
        if not attempts:
            return self._hand_out_counted(hand_outs)
        ack = self._events.tell(name, attempts, hand_outs)
        if ack is not None:
            return ack.wait()
        event = HandedOut(name, attempts)
        return self._core.write_alone(event, partial(self._attempts_settled, event, [hand_outs]))

    async def _hand_out_counted(self, hand_outs: Sequence[HandOut]) -> None:
        """There is nothing to be waited for."""
        committed = False
        try:
            await anyio.lowlevel.checkpoint_if_cancelled()
            committed = True
        finally:
            self._hand_all_out(hand_outs, committed=committed)

    def _attempts_settled(
        self,
        event: HandedOut,
        parts: Sequence[Sequence[HandOut]],
        results: Sequence[object] | None,
    ) -> None:
        core = self._core
        if results is not None:
            core.written(event, results[0], len(event.deliveries))
            if core.released:
                for lane, offset, *_ in event.deliveries:
                    core.released.pop((event.subscription, (lane, offset)), None)
        for hand_outs in parts:
            self._hand_all_out(hand_outs, committed=results is not None)

    def _hand_all_out(self, hand_outs: Sequence[HandOut], *, committed: bool) -> None:
        core = self._core
        lease_ends = core.now() + core.configuration.lease_seconds
        for hand_out in hand_outs:
            if hand_out.is_ahead:
                self._counted_ahead(hand_out, committed=committed)
            else:
                self._handed_out(hand_out, lease_ends, committed=committed)

    def abandon(self, hand_out: HandOut) -> None:
        """Nobody will see these messages: they are given back, at once or when a write that is
        still on its way is done."""
        hand_out.abandoned = True
        if hand_out.committed:
            self._core.settling.release(self.leases(hand_out), unseen=True)

    def keep_back(self, hand_out: HandOut) -> None:
        """It was not handed out after all: as if it had not been chosen."""
        subscription = hand_out.subscription
        deliveries = [one for one, _ in hand_out.deliveries if subscription.holds(one)]
        for delivery in deliveries:
            subscription.cursor(delivery.lane).make_ready(delivery)
        self._core.wake(subscription.name)

    def _handed_out(self, hand_out: HandOut, lease_ends: float, *, committed: bool) -> None:
        core = self._core
        subscription = hand_out.subscription
        # What was purged meanwhile is nobody's.
        hand_out.deliveries = [one for one in hand_out.deliveries if subscription.holds(one[0])]
        if committed:
            hand_out.committed = True
            due = math.inf if hand_out.held else lease_ends
            for delivery, _ in hand_out.deliveries:
                delivery.is_counted = False
                delivery.state = DeliveryState.LEASED
            subscription.set_all_due([one for one, _ in hand_out.deliveries], due)
            if hand_out.abandoned:
                core.settling.release(self.leases(hand_out), unseen=True)
            elif due < core.armed:
                core.alarm(core)
        else:
            self.keep_back(hand_out)
        if hand_out.told is not None:
            hand_out.told(committed)

    def want_ahead(self, subscription: SubscriptionState, count: int) -> None:
        """Have the attempts of up to so many messages that come next be written, with what is
        acknowledged now."""
        core, name, events = self._core, subscription.name, self._events
        if events.want(name, count) or not core.stored:
            return
        if bounded(subscription, count) > 0 and has_next(
            core.state, subscription, core.contents.look
        ):
            count = min(count, core.storage.limits.places // 2)
            events.reserve(name, count)
            events.want(name, count)

    def _count_ahead(
        self, name: str, count: int, ack: Ack[int]
    ) -> tuple[list[Attempt], tuple[HandOut, ...]] | None:
        """When the writer takes the event: what comes next now."""
        core = self._core
        subscription, line = core.state.subscriptions.get(name), core.lines.get(name)
        if subscription is None or subscription.deleting or core.deleting:
            return None
        if line is not None and line.wanted:
            # They have been called, or will be: it is theirs.
            return None
        chosen = choose_ahead(core.state, subscription, count, core.contents.look)
        if not chosen:
            return None
        hand_out = HandOut(subscription, chosen, held=False, is_ahead=True)
        self.counting.begin(hand_out, ack)
        return [(one.lane, one.offset, 1, 0, one.size) for one, _ in chosen], (hand_out,)

    def _counted_ahead(self, hand_out: HandOut, *, committed: bool) -> None:
        core = self._core
        self.counting.settled(hand_out)
        if committed:
            for delivery, _ in hand_out.deliveries:
                delivery.is_counted = True
        self.keep_back(hand_out)
        if core.configuration.max_deliveries == 1:
            self.forgive_ahead()
            core.ask_for_upkeep()

    def forgive_ahead(self) -> None:
        """Nobody will ask for what was counted ahead: it is as if it was given back unseen."""
        core = self._core
        for subscription in core.state.subscriptions.values():
            for delivery in subscription.deliveries():
                # One that is RESERVED has found somebody.
                if delivery.is_counted and delivery.state is DeliveryState.READY:
                    delivery.is_counted = False
                    delivery.forgiven += 1
                    core.released[subscription.name, (delivery.lane, delivery.offset)] = None

    def hand_out_from_memory(self, hand_out: HandOut) -> None:
        """What is not stored is done with when it is handed out."""
        core = self._core
        for delivery, _ in hand_out.deliveries:
            place = (delivery.lane, delivery.offset)
            delivery.attempt = 1
            core.state.apply(Settled(hand_out.subscription.name, [place]))
            core.contents.forget(place)
        core.room.admit()

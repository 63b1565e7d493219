"""What becomes of the deliveries of one open queue: acknowledged, given back, extended, let go."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Iterable, Sequence
from functools import partial
from typing import TYPE_CHECKING

from attrs import define, field

from mpreg.errors import LeaseLostError
from mpreg.persistence import Transaction
from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.inbox import Dropped
from mpreg.queues.joint import JointEvents
from mpreg.queues.records import Event, Returned, Settled
from mpreg.queues.subscription_state import Lease, SubscriptionState

if TYPE_CHECKING:
    from mpreg.queues.core import QueueCore

__all__ = ["Settling"]


@define(eq=False)
class Settling:
    """Of one open queue."""

    _core: QueueCore
    _acknowledgments: JointEvents[Settled, list[Lease]] = field(init=False)

    def __attrs_post_init__(self) -> None:
        storage = self._core.storage
        self._acknowledgments = JointEvents(
            storage.events, Settled, self._acknowledged, storage.limits.places
        )

    def check_lease(self, lease: Lease) -> None:
        """Raises `LeaseLostError` where the message is not this holder's any more."""
        core = self._core
        if lease.is_held and not lease.subscription.deleting and lease.delivery.due > core.now():
            return
        delivery = lease.delivery
        if not lease.subscription.holds(delivery) or delivery.state is DeliveryState.DYING:
            why = "it is settled, or was removed"
        elif lease.subscription.deleting:
            why = "its subscription is being deleted"
        elif delivery.attempt != lease.attempt:
            why = f"it was handed out again (attempt {delivery.attempt})"
        elif delivery.state is DeliveryState.SETTLING:
            why = "it is being settled already"
        else:
            why = "its lease ran out"
        raise LeaseLostError(
            f"{core.storage.where(delivery.lane, delivery.offset)}, attempt {lease.attempt}: "
            f"{why}; nothing was changed: drop the work, the message is done, or somebody else's"
        )

    def acknowledge(self, leases: list[Lease]) -> Awaitable[object]:
        """Acknowledge messages of one subscription, whose leases were checked. To be awaited at
        once."""
        core, name = self._core, leases[0].subscription.name
        places, ahead = [], 0
        for lease in leases:
            places.append((lease.delivery.lane, lease.delivery.offset))
            ahead += lease.ahead
        if ahead:
            core.hand_outs.want_ahead(leases[0].subscription, ahead)
        ack = self._acknowledgments.tell(name, places, leases)
        for lease in leases:
            lease.delivery.state = DeliveryState.SETTLING
        if ack is not None:
            return ack.wait()
        event = Settled(name, places)
        return core.write_alone(event, partial(self._acknowledged, event, [leases]))

    def _acknowledged(
        self, event: Settled, parts: Sequence[list[Lease]], results: Sequence[object] | None
    ) -> None:
        if results is None:
            self._settled([lease for leases in parts for lease in leases], committed=False)
            return
        core = self._core
        core.written(event, results[0], len(event.places))
        core.contents.forget_all(event.places)
        core.room.admit()

    def settle(self, leases: Sequence[Lease], event: Event, transaction: Transaction) -> None:
        """Write what becomes of messages whose leases were checked."""
        core = self._core
        core.require_subscription(leases[0].subscription, transaction)
        core.write(event, transaction, lambda committed: self._settled(leases, committed=committed))
        for lease in leases:
            lease.delivery.state = DeliveryState.SETTLING

    def _settled(self, leases: Sequence[Lease], *, committed: bool) -> None:
        core = self._core
        if not committed:
            for lease in leases:
                if lease.subscription.holds(lease.delivery):
                    lease.delivery.state = DeliveryState.LEASED
                    lease.subscription.set_due(lease.delivery, lease.delivery.due)
            core.alarm(core)
            return
        for lease in leases:
            self._after(lease)
        core.room.admit()

    def _after(self, lease: Lease) -> None:
        delivery = lease.delivery
        if lease.subscription.holds(delivery) and delivery.state is DeliveryState.WAITING:
            self._wait_for(lease.subscription, delivery)
        else:
            self._core.contents.forget((delivery.lane, delivery.offset))

    def _wait_for(self, subscription: SubscriptionState, delivery: Delivery) -> None:
        core = self._core
        if delivery.delay_seconds:
            subscription.set_due(delivery, core.now() + delivery.delay_seconds)
            core.alarm(core)
        else:
            subscription.cursor(delivery.lane).make_ready(delivery)
            core.wake(subscription.name)

    def returned(self, lease: Lease, delay_seconds: float, reason: str) -> Returned:
        delivery = lease.delivery
        return Returned(
            lease.subscription.name,
            (delivery.lane, delivery.offset),
            self._core.wall() + delay_seconds,
            delay_seconds,
            reason,
        )

    def extend(self, lease: Lease, lease_seconds: float) -> None:
        core = self._core
        lease.subscription.set_due(lease.delivery, core.now() + lease_seconds)
        core.alarm(core)

    def release(self, leases: Iterable[Lease], *, unseen: bool) -> None:
        """Let others have these messages at once; those that are not held any more are left.

        ``unseen``: nobody has seen them, so the attempt does not count against the limit. That is
        written some time later: a crash before it is on disk only makes it count.
        """
        core = self._core
        for lease in leases:
            if not lease.is_held:
                continue
            delivery = lease.delivery
            if not unseen and core.state.is_exhausted(delivery):
                delivery.reason = delivery.reason or "its consumer gave it back"
                delivery.state = DeliveryState.DYING
                core.dying.append((lease.subscription, delivery))
                core.ask_for_upkeep()
                continue
            lease.subscription.cursor(delivery.lane).make_ready(delivery)
            if unseen:
                delivery.forgiven += 1
                core.released[lease.subscription.name, (delivery.lane, delivery.offset)] = None
                core.ask_for_upkeep()
            core.wake(lease.subscription.name)

    def let_run(self, lease: Lease) -> None:
        """A lease that was held until it is told to end: from now on it ends by itself."""
        delivery = lease.delivery
        # Also while its ack is on its way: where that fails, it is leased again.
        if (
            delivery.state in (DeliveryState.LEASED, DeliveryState.SETTLING)
            and delivery.attempt == lease.attempt
            and delivery.due == math.inf
            # Most were settled meanwhile: there is no lease any more to be watched.
            and lease.subscription.holds(delivery)
        ):
            self.extend(lease, self._core.configuration.lease_seconds)

    def take_back(self, dropped: Dropped) -> None:
        """What a consumer has left behind that nobody closed."""
        self.release(dropped.ahead, unseen=True)
        if dropped.current is not None:
            if dropped.cancelled:
                self.release([dropped.current], unseen=False)
            self.let_run(dropped.current)

"""What is being counted ahead (`mpreg.queues.ahead`), until it is on disk."""

from __future__ import annotations

from collections import deque

from attrs import define, field

from mpreg.actors import Ack
from mpreg.queues.hand_out import HandOut
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["Counting"]


@define(eq=False)
class Counting:
    """What of one queue is being counted ahead.

    Nothing behind it is handed out until it is settled: who acknowledges in one task and receives
    in another gets its messages in their order all the same.
    """

    _under_way: dict[SubscriptionState, deque[tuple[HandOut, Ack[int]]]] = field(factory=dict)
    """In the order in which it will be on disk."""

    def begin(self, hand_out: HandOut, ack: Ack[int]) -> None:
        """The writer has taken it."""
        under_way = self._under_way.setdefault(hand_out.subscription, deque())
        under_way.append((hand_out, ack))
        if len(under_way) == 1:
            _hold_back(hand_out)

    def settled(self, hand_out: HandOut) -> None:
        """It is on disk, or will not come there."""
        subscription = hand_out.subscription
        if not (under_way := self._under_way.get(subscription)):
            return
        for index, (one, _) in enumerate(under_way):
            if one is hand_out:
                # The first, but where the writer has ended for good.
                del under_way[index]
                break
        if under_way:
            _hold_back(under_way[0][0])
        else:
            del self._under_way[subscription]
            delivery, _ = hand_out.deliveries[0]
            subscription.cursor(delivery.lane).held_back_from = None

    def ack(self, subscription: SubscriptionState) -> Ack[int] | None:
        """Answered when the first of it is settled; None where nothing is under way."""
        under_way = self._under_way.get(subscription)
        return under_way[0][1] if under_way else None


def _hold_back(hand_out: HandOut) -> None:
    delivery, _ = hand_out.deliveries[0]
    hand_out.subscription.cursor(delivery.lane).held_back_from = delivery.offset

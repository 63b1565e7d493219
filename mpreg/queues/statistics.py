"""Counts of a queue, as they are at one moment."""

from __future__ import annotations

from attrs import field, frozen

from mpreg.queues.cursor import DeliveryState
from mpreg.queues.state import QueueState
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["QueueStatistics", "SubscriptionStatistics", "count_queue", "count_subscription"]

_IN_FLIGHT = (DeliveryState.LEASED, DeliveryState.RESERVED, DeliveryState.SETTLING)


@frozen(kw_only=True)
class SubscriptionStatistics:
    pending: int
    """Messages that may be handed out now, or when they are looked at: those of other topics, and
    delayed ones sent before the last restart, are counted here until they are."""
    in_flight: int
    """With a consumer."""
    delayed: int
    """Waiting for their delay, or for their next attempt."""


@frozen(kw_only=True)
class QueueStatistics:
    pending: int
    """The sum of the subscriptions, as are the two next."""
    in_flight: int
    delayed: int
    dead: int
    """Dead letters."""
    size: int
    """Messages that are not finished; each counted once."""
    bytes: int
    """Their size as stored; without ``max_bytes`` it takes a moment to be counted at a restart."""
    sent: int
    """Messages since the queue was created."""
    acknowledged: int
    """Acknowledgments since the queue was created, of each subscription."""
    redelivered: int
    """Deliveries after a first one, since the queue was created."""
    expired: int
    """Messages dropped for their age."""
    oldest_seconds: float | None = field(eq=False)
    """How long ago the oldest message was sent that is not finished: to about a second, of a long
    backlog to a sixteenth of its span. None where there is none, and after a restart until one was
    looked at. It changes by itself, so it does not count where two are compared."""
    subscriptions: dict[str, SubscriptionStatistics]


def count_subscription(
    state: QueueState, subscription: SubscriptionState
) -> SubscriptionStatistics:
    in_flight = delayed = dying = 0
    # Asked of all queues at once for each scrape: a plain loop is several times as fast.
    for cursor in subscription.cursors.values():
        for delivery in cursor.open.values():
            if (found := delivery.state) in _IN_FLIGHT:
                in_flight += 1
            elif found is DeliveryState.WAITING:
                delayed += 1
            elif found is DeliveryState.DYING:
                dying += 1
    unfinished = sum(
        lane.end - subscription.cursor(lane.number).done.count(0, lane.end)
        for lane in state.lanes.values()
    )
    return SubscriptionStatistics(
        pending=unfinished - in_flight - delayed - dying, in_flight=in_flight, delayed=delayed
    )


def count_queue(state: QueueState, wall: float) -> QueueStatistics:
    counts = {
        name: count_subscription(state, subscription)
        for name, subscription in state.subscriptions.items()
    }
    return QueueStatistics(
        pending=sum(one.pending for one in counts.values()),
        in_flight=sum(one.in_flight for one in counts.values()),
        delayed=sum(one.delayed for one in counts.values()),
        dead=len(state.dead),
        size=state.size,
        bytes=state.bytes,
        sent=sum(lane.end for lane in state.lanes.values()),
        acknowledged=state.acknowledged,
        redelivered=state.redelivered,
        expired=state.expired,
        oldest_seconds=_oldest_seconds(state, wall),
        subscriptions=counts,
    )


def _oldest_seconds(state: QueueState, wall: float) -> float | None:
    sent = [lane.oldest_sent_at for lane in state.lanes.values()]
    oldest = min((one for one in sent if one is not None), default=None)
    return None if oldest is None else max(0.0, wall - oldest)

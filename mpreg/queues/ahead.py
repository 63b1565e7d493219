"""Attempts that are counted before anybody asks for the messages.

Who acknowledges what it took will ask for as much again. So the attempts of the messages that come
next go to disk together with the acknowledgment, and the next `receive` returns at once: a consumer
waits for the disk once for a message, and not twice.

A message that is counted ahead is nobody's: no lease has begun, and whoever asks next gets what is
next, whether it was counted or not. Its attempt is as one that was given back unseen: where the
process ends in good order it does not count, and after a crash it does. So the last attempt of a
message is never counted ahead, and nothing dies that nobody has seen.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Final

from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.records import MessageRecord
from mpreg.queues.selection import Look
from mpreg.queues.state import QueueState
from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["UNASKED_MAX", "bounded", "choose_ahead", "has_next", "until_last"]

#: Messages that are ready and that nobody has asked for, beyond which none are counted for one who
#: takes fewer: who takes what was given back asks for none of those that were counted.
UNASKED_MAX: Final = 64


def has_next(state: QueueState, subscription: SubscriptionState, look: Look) -> bool:
    """Whether the message that comes next may be counted."""
    return next(_coming(state, subscription, look), None) is not None


def _coming(
    state: QueueState, subscription: SubscriptionState, look: Look
) -> Iterator[tuple[int, int, MessageRecord, int]]:
    """Lane, offset, message and size of what was never handed out and may be counted, in order.
    Each is to be among the open ones before the next is asked for.

    It ends at one that is not in memory. None where another one may come before it: as in a queue
    with priorities.
    """
    if len(state.lanes) != 1 or state.configuration.max_deliveries < 2:
        return
    (lane,) = state.lanes.values()
    number, cursor = lane.number, subscription.cursor(lane.number)
    while (offset := cursor.fresh(lane.end)) is not None and offset not in lane.finished:
        found = look((number, offset))
        if not isinstance(found, tuple):
            return
        record, size = found
        if not record.is_plain or not subscription.matches(record.topic):
            return
        yield number, offset, record, size


def bounded(subscription: SubscriptionState, count: int) -> int:
    """How many of so many are to be counted: fewer, or none, where many are ready already."""
    ready = sum([cursor.ready_most() for cursor in subscription.cursors.values()])
    return min(count, max(count, UNASKED_MAX) - ready)


def choose_ahead(
    state: QueueState, subscription: SubscriptionState, count: int, look: Look
) -> list[tuple[Delivery, MessageRecord]]:
    """Up to so many messages for which `has_next` held, in their order: RESERVED."""
    chosen: list[tuple[Delivery, MessageRecord]] = []
    most = max(bounded(subscription, count), 0)
    for number, offset, record, size in islice(_coming(state, subscription, look), most):
        delivery = Delivery(number, offset, size, state=DeliveryState.RESERVED)
        subscription.cursor(number).open[offset] = delivery
        chosen.append((delivery, record))
    return chosen


def until_last(state: QueueState, deliveries: Sequence[tuple[Delivery, MessageRecord]]) -> int:
    """How many of these one consumer may have at once that sees them one by one.

    One whose attempt would be its last is only the first: else a message that kills its process
    would take those behind it along, which nobody has seen.
    """
    used_max = state.configuration.max_deliveries - 1
    for index in range(1, len(deliveries)):
        delivery, _ = deliveries[index]
        if delivery.attempt - delivery.forgiven - delivery.is_counted >= used_max:
            return index
    return len(deliveries)

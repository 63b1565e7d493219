"""What subscriptions have passed over, and that it is written.

Passing over a message is not an event of its own: who subscribes to one topic of a hundred would
write ninety-nine of them for nothing. It is remembered as ranges, and written together: when the
queue closes, and with another pattern, under which the messages would count again. What a crash
forgets is found out again.

But where a message was finished by it, it must stay so for a subscription that is made later, and
that would not find it out: so that one is written to have passed over it as well.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpreg.queues.intervals import IntervalSet
from mpreg.queues.records import PassedOver
from mpreg.queues.sizes import batches

if TYPE_CHECKING:
    from mpreg.queues.state import QueueState
    from mpreg.queues.subscription_state import SubscriptionState

__all__ = ["inherited", "put_back", "take_passed", "take_passed_of"]


def take_passed(state: QueueState, ranges_max: int) -> list[PassedOver]:
    """What all subscriptions have passed over since it was last taken, in events that are to be
    written, or `put_back`."""
    subscriptions = state.subscriptions.values()
    return [event for one in subscriptions for event in take_passed_of(one, ranges_max)]


def take_passed_of(subscription: SubscriptionState, ranges_max: int) -> list[PassedOver]:
    passed, subscription.passed = subscription.passed, {}
    ranges = [(lane, *one) for lane, found in passed.items() for one in found.ranges()]
    return _events(subscription.name, ranges, ranges_max)


def inherited(state: QueueState, name: str, ranges_max: int) -> list[PassedOver]:
    """What is finished, and a new subscription of this name would get after a restart, because no
    event tells of it."""
    ranges: list[tuple[int, int, int]] = []
    for number, lane in state.lanes.items():
        passed = IntervalSet(
            one
            for subscription in state.subscriptions.values()
            if number in subscription.passed
            for one in subscription.passed[number].ranges()
        )
        for start, stop in passed.ranges():
            for missing, finished in lane.finished.missing(start, stop):
                if start < missing:
                    ranges.append((number, start, missing))
                start = finished
            if start < stop:
                ranges.append((number, start, stop))
    return _events(name, ranges, ranges_max)


def _events(name: str, ranges: list[tuple[int, int, int]], ranges_max: int) -> list[PassedOver]:
    return [
        PassedOver(name, some)
        for some in batches(ranges, lambda _: 0, count_max=ranges_max, bytes_max=1 << 30)
    ]


def put_back(state: QueueState, events: Iterable[PassedOver]) -> None:
    """It was not written."""
    for event in events:
        if (subscription := state.subscriptions.get(event.subscription)) is not None:
            for lane, start, stop in event.ranges:
                subscription.passed_in(lane).add_range(start, stop)

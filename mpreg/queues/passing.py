"""What subscriptions have passed over, and that it is written.

Passing over a message is not an event of its own: who subscribes to one topic of a hundred would
write ninety-nine of them for nothing. It is remembered as ranges, and written together: when the
queue closes, before a snapshot, which may turn out to be damaged, and with another pattern, under
which the messages would count again. What a crash forgets is found out again.

But where a message was finished by it, it must stay so for a subscription that is made later, and
that would not find it out: so that one is written to have passed over it as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import TYPE_CHECKING

from mpreg.queues.intervals import IntervalSet
from mpreg.queues.records import PassedOver
from mpreg.queues.sizes import batches

if TYPE_CHECKING:
    from mpreg.queues.state import QueueState
    from mpreg.queues.subscription_state import SubscriptionState

__all__ = [
    "declined",
    "forget_passed",
    "inherited",
    "passed_by",
    "put_back",
    "take_passed_of",
]


def take_passed_of(subscription: SubscriptionState, ranges_max: int) -> list[PassedOver]:
    """What it has passed over since that was last written, in events that are to be written, or
    `put_back`."""
    events = passed_by(subscription, ranges_max)
    subscription.passed = {}
    return events


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


def declined(state: QueueState, name: str, starts: dict[int, int] | None) -> PassedOver | None:
    """What was held for the first subscription to come, where that one begins behind it: there is
    nobody else for whom it would be held. But for a quorum, which others may still come for."""
    ranges = [(lane, 0, start) for lane, start in (starts or {}).items() if start]
    if not ranges or state.subscriptions or state.is_quorum:
        return None
    return PassedOver(name, ranges)


def passed_by(subscription: SubscriptionState, ranges_max: int) -> list[PassedOver]:
    """What it has passed over, in events. It stays so until somebody says that one is written, by
    `forget_passed`: else what is written meanwhile would rely on one that may never be."""
    passed = subscription.passed
    ranges = [(lane, *one) for lane, found in passed.items() for one in found.ranges()]
    return _events(subscription.name, ranges, ranges_max)


def forget_passed(subscription: SubscriptionState, written: PassedOver) -> None:
    """An event tells of it."""
    for lane, by_lane in itertools.groupby(written.ranges, lambda one: one[0]):
        if (passed := subscription.passed.pop(lane, None)) is None:
            continue
        known = IntervalSet((start, stop) for _, start, stop in by_lane)
        left = IntervalSet(
            gap for start, stop in passed.ranges() for gap in known.missing(start, stop)
        )
        if len(left):
            subscription.passed[lane] = left


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

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
from typing import TYPE_CHECKING, TypeAlias

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
    "take_passed",
    "take_passed_of",
]


Passed: TypeAlias = "tuple[SubscriptionState, dict[int, IntervalSet]]"
"""What a subscription has passed over, by lane."""


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


def declined(state: QueueState, name: str, starts: dict[int, int] | None) -> PassedOver | None:
    """What was held for the first subscription to come, where that one begins behind it: there is
    nobody else for whom it would be held. But for a quorum, which others may still come for."""
    ranges = [(lane, 0, start) for lane, start in (starts or {}).items() if start]
    if not ranges or state.subscriptions or state.is_quorum:
        return None
    return PassedOver(name, ranges)


def passed_by(state: QueueState) -> list[Passed]:
    """What all subscriptions have passed over and no event tells of. It stays so until somebody
    says that it is saved, by `forget_passed`: else what is written meanwhile would rely on a
    snapshot that may never be whole."""
    return [
        (one, {lane: found.copy() for lane, found in one.passed.items()})
        for one in state.subscriptions.values()
        if one.passed
    ]


def forget_passed(saved: Iterable[Passed]) -> None:
    """A snapshot tells of it."""
    for subscription, by_lane in saved:
        for lane, known in by_lane.items():
            if (passed := subscription.passed.pop(lane, None)) is None:
                continue
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

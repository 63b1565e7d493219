"""Whether all have finished, beside asking all of them, and how many are asked."""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

import pytest

from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.intervals import IntervalSet
from mpreg.queues.records import Settled, SubscriptionChanged, SubscriptionDeleted
from mpreg.queues.state import QueueState

SUBSCRIPTIONS = 600
MESSAGES = 3


class Asked(IntervalSet):
    """It counts how often it is asked, of all of its kind."""

    times = 0

    def __contains__(self, number: object) -> bool:
        Asked.times += 1
        return super().__contains__(number)  # type: ignore[operator]


def broadcast(count: int, messages: int = MESSAGES) -> QueueState:
    state = QueueState(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST))
    for number in range(count):
        state.apply(SubscriptionChanged(str(number), None, None))
    state.sent(0, messages, messages)
    return state


def orders() -> Iterator[tuple[str, list[tuple[int, int]]]]:
    """Of (subscription, offset)."""
    pairs = [(one, offset) for offset in range(MESSAGES) for one in range(SUBSCRIPTIONS)]
    yield "one message after the other", pairs
    yield "one subscription after the other", sorted(pairs)
    yield "the last one first", pairs[::-1]
    mixed = pairs.copy()
    Random(1).shuffle(mixed)
    yield "in any order", mixed


@pytest.mark.parametrize(("order", "pairs"), list(orders()), ids=[order for order, _ in orders()])
def test_the_work_does_not_grow_with_the_square_of_the_subscriptions(
    order: str, pairs: list[tuple[int, int]]
) -> None:
    state = broadcast(SUBSCRIPTIONS)
    for subscription in state.subscriptions.values():
        subscription.cursor(0).done = Asked()
    Asked.times = 0
    for one, offset in pairs:
        state.apply(Settled(str(one), [(0, offset)]))
    assert state.size == 0
    # Of each message each has to be asked at least once; the square would be 360,000 of each.
    assert Asked.times < 20 * SUBSCRIPTIONS * MESSAGES, order


def test_all_have_finished_when_each_of_them_has() -> None:
    random = Random(0)
    for _ in range(200):
        state = broadcast(random.randint(1, 6), 8)
        for _ in range(random.randint(1, 60)):
            names = list(state.subscriptions)
            pick = random.random()
            if pick < 0.05:
                state.apply(SubscriptionChanged(f"new {random.random()}", None, None))
            elif pick < 0.1 and len(names) > 1:
                state.apply(SubscriptionDeleted(random.choice(names)))
            else:
                place = (0, random.randrange(8))
                state.apply(Settled(random.choice(names), [place]))
            for offset in range(8):
                if all(offset in one.cursor(0).done for one in state.subscriptions.values()):
                    assert offset in state.lanes[0].finished

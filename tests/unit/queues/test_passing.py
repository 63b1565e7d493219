"""What was passed over, written and read back, beside the state in which it was passed over."""

from __future__ import annotations

from random import Random

from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.passing import (
    forget_passed,
    inherited,
    passed_by,
    put_back,
    take_passed_of,
)
from mpreg.queues.records import (
    Event,
    HandedOut,
    MessageRecord,
    PassedOver,
    Settled,
    SubscriptionChanged,
    decode_event,
    encode,
)
from mpreg.queues.selection import choose
from mpreg.queues.state import QueueState

PATTERNS = ("a", "b", "#", None)


def take_passed(state: QueueState, ranges_max: int) -> list[PassedOver]:
    """Of all subscriptions."""
    return [
        event for one in state.subscriptions.values() for event in take_passed_of(one, ranges_max)
    ]


def test_a_state_is_the_same_after_what_was_passed_over_is_read_back() -> None:
    for seed in range(300):
        random = Random(seed)
        configuration = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST)
        state = QueueState(configuration)
        events: list[bytes] = []
        topics: list[str] = []

        def write(event: Event, state: QueueState = state, events: list[bytes] = events) -> None:
            events.append(encode(event))
            state.apply(decode_event(events[-1], ""))

        def look(place: tuple[int, int], topics: list[str] = topics) -> tuple[MessageRecord, int]:
            return MessageRecord("", 0.0, topics[place[1]], 0.0, None, {}, b""), 1

        for _ in range(random.randint(1, 40)):
            pick = random.random()
            if pick < 0.4:
                topics.append(random.choice("abc"))
                state.sent(0, 1, 1)
            elif pick < 0.6:
                name, pattern = random.choice("xy"), random.choice(PATTERNS)
                for passed in take_passed(state, random.randint(1, 3)):
                    write(passed)
                write(SubscriptionChanged(name, pattern, None))
            elif state.subscriptions:
                name = random.choice(list(state.subscriptions))
                chosen = choose(
                    state, state.subscriptions[name], random.randint(1, 3), look, wall=0.0, now=0.0
                )
                for delivery, _ in chosen.deliveries:
                    write(HandedOut(name, [(0, delivery.offset, 1, 0, 1)]))
                    if random.random() < 0.7:
                        write(Settled(name, [(0, delivery.offset)]))
        before = state.lanes[0].bytes
        taken = take_passed(state, 2)
        assert all(len(one.ranges) <= 2 for one in taken)
        put_back(state, taken)
        for passed in take_passed(state, 2):
            write(passed)
        assert take_passed(state, 2) == []
        assert state.lanes[0].bytes == before, "it was counted already"

        again = QueueState(configuration)
        for data in events:
            again.apply(decode_event(data, ""))
        again.place_lane(0, 0, len(topics))
        assert again.lanes[0].finished == state.lanes[0].finished, seed
        for name, subscription in state.subscriptions.items():
            assert again.subscriptions[name].cursor(0).done == subscription.cursor(0).done, seed


def test_it_is_written_as_an_event_with_a_number_of_its_own() -> None:
    event = PassedOver("s", [(0, 3, 9)])
    assert encode(event) == bytes([0x93, 13, 0xA1]) + b"s" + bytes([0x91, 0x93, 0, 3, 9])
    assert decode_event(encode(event), "") == event


def test_a_new_subscription_inherits_what_is_finished_and_was_not_written() -> None:
    state = QueueState(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST))
    state.apply(SubscriptionChanged("a", "x", None))
    state.apply(SubscriptionChanged("b", "y", None))
    state.sent(0, 20, 20)
    a, b = state.subscriptions["a"], state.subscriptions["b"]
    for offset in range(2, 12):
        state.pass_over(a, (0, offset), 1)
    state.apply(Settled("b", [(0, 3), (0, 4), (0, 7)]))
    state.pass_over(b, (0, 11), 1)
    state.pass_over(b, (0, 15), 1)
    assert state.lanes[0].finished.ranges() == ((3, 5), (7, 8), (11, 12))
    assert inherited(state, "c", 10) == [PassedOver("c", [(0, 3, 5), (0, 7, 8), (0, 11, 12)])]
    assert [event.ranges for event in inherited(state, "c", 2)] == [
        [(0, 3, 5), (0, 7, 8)],
        [(0, 11, 12)],
    ]
    take_passed(state, 10)
    assert inherited(state, "c", 10) == []


def test_what_is_written_is_forgotten_and_what_has_come_since_is_not() -> None:
    state = QueueState(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST))
    for name in "abc":
        state.apply(SubscriptionChanged(name, "x", None))
    state.sent(0, 20, 20)
    a, b, c = state.subscriptions.values()
    for subscription in (a, b):
        for offset in (2, 3, 7):
            state.pass_over(subscription, (0, offset), 1)
    written = [(one, event) for one in (a, b) for event in passed_by(one, 2)]
    assert [event.ranges for _, event in written] == 2 * [[(0, 2, 4), (0, 7, 8)]]
    for offset in (1, 4, 9):
        state.pass_over(a, (0, offset), 1)
    # Written meanwhile, for another reason; and passed over by one that no event tells of.
    take_passed_of(b, 10)
    state.pass_over(c, (0, 2), 1)
    for subscription, event in written:
        forget_passed(subscription, event)
    assert a.passed_in(0).ranges() == ((1, 2), (4, 5), (9, 10))
    assert b.passed == {}
    assert c.passed_in(0).ranges() == ((2, 3),)
    for subscription in (a, c):
        for event in passed_by(subscription, 2):
            forget_passed(subscription, event)
    assert a.passed == c.passed == {}

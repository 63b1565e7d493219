"""The pure core of a queue in thousands of random lives, beside a naive model."""

from __future__ import annotations

import os
from collections.abc import Iterator
from random import Random

import pytest

from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.cursor import Cursor, DeliveryState
from mpreg.queues.records import (
    Died,
    Event,
    Kept,
    MessageRecord,
    Settled,
    SubscriptionChanged,
    SubscriptionDeleted,
    decode_event,
)
from mpreg.queues.selection import choose
from mpreg.queues.snapshot import decode_snapshot
from mpreg.queues.state import QueueState
from tests.unit.queues.life import Life, replayed, snapshot_of, state_of, told_by, waits_of

LIVES = int(os.environ.get("MPREG_SIMULATION_SEEDS", "250"))

GUARANTEES = (
    DeliveryGuarantee.AT_LEAST_ONCE,
    DeliveryGuarantee.BROADCAST,
    DeliveryGuarantee.QUORUM,
)


def lives(*, plain: bool, count: int = LIVES) -> Iterator[Life]:
    """Short ones first: so the first that fails is a short one."""
    for seed in range(count):
        random = Random(seed)
        guarantee = random.choice(GUARANTEES)
        quorum = guarantee is DeliveryGuarantee.QUORUM
        yield Life(
            random,
            QueueConfiguration(
                delivery_guarantee=guarantee,
                required_acknowledgments=random.randint(1, 3) if quorum else 1,
                max_deliveries=random.randint(1, 3),
            ),
            plain=plain,
        )


def steps(number: int) -> int:
    return 5 + number // 4


def test_the_state_is_what_a_naive_model_says() -> None:
    """Also: messages are handed out by priority and offset, without those that are expired, of
    other topics, delayed, held, finished, or out of attempts."""
    for number, life in enumerate(lives(plain=False)):
        done: list[str] = []
        try:
            for step in life.live(steps(number)):
                done.append(step)
                life.check()
        except AssertionError as error:
            error.add_note(f"life {number}, after {done}")
            raise


def test_a_replay_brings_the_same_state_back() -> None:
    for number, life in enumerate(lives(plain=True)):
        steps_done = list(life.live(steps(number)))
        again = life.restore(replayed(life.configuration, life.events))
        assert state_of(again) == state_of(life.state), (number, steps_done)
        _check_waits(life, again)


def test_a_snapshot_and_the_events_after_it_bring_the_same_state_back() -> None:
    for number, life in enumerate(lives(plain=True)):
        snapshot = None
        for _ in life.live(steps(number)):
            if life.random.random() < 0.1:
                snapshot = snapshot_of(life)
        again = life.restore(replayed(life.configuration, life.events, snapshot))
        assert state_of(again) == state_of(life.state), number
        _check_waits(life, again)


def _check_waits(life: Life, again: QueueState) -> None:
    """What waited waits as long; a wait that is over is over, though no event says so."""
    before, after = waits_of(life.state), waits_of(again)
    assert {place: after.get(place) for place in before} == before
    assert all(after[place][0] <= life.wall for place in set(after) - set(before))


def test_what_is_not_written_is_found_again_after_a_restart() -> None:
    """Expired, of another topic: all that a restart brings back beside is not done."""
    for number, life in enumerate(lives(plain=False)):
        snapshot = None
        for _ in life.live(steps(number)):
            if life.random.random() < 0.05:
                snapshot = snapshot_of(life)
        again = life.restore(replayed(life.configuration, life.events, snapshot))
        _check_nothing_lost(life, again)
        assert again.dead == life.state.dead
        for name, subscription in life.state.subscriptions.items():
            found = told_by(again, again.subscriptions[name])
            for place, told in told_by(life.state, subscription).items():
                if not told.done and place not in life.model.finished:
                    assert found[place].attempt == told.attempt
                    assert found[place].forgiven == told.forgiven


def _check_nothing_lost(life: Life, again: QueueState, without: str | None = None) -> None:
    for name, told in life.model.told.items():
        if name == without:
            continue
        there = told_by(again, again.subscriptions[name])
        lost = {
            place
            for place, one in told.items()
            if not one.done and place not in life.model.finished
            if place in there and there[place].done
        }
        assert lost == set(), name


def test_a_life_goes_on_after_restarts() -> None:
    """In each life a few: nobody holds anything then, and all that was decided stands."""
    for number, life in enumerate(lives(plain=True, count=LIVES)):
        for _ in life.live(steps(number)):
            if life.random.random() < 0.1:
                _restart(life)
            life.check()


def _restart(life: Life) -> None:
    life.state = life.restore(replayed(life.configuration, life.events))
    life.state.lose_leases(life.wall, life.now)
    life.leases.clear()
    life.dying.clear()
    life.measure(wholly=True)
    for subscription in life.state.subscriptions.values():
        subscription.tick(life.now)
    for name, every in life.model.told.items():
        for place, told in every.items():
            told.held = False
            if place in life.model.finished:
                # Passed over by one who came late: that is not written.
                told.done = place[1] in life.state.subscriptions[name].cursor(place[0]).done
            delivery = life.state.subscriptions[name].find(place)
            if delivery is not None and delivery.state is DeliveryState.WAITING:
                told.until = delivery.due
            else:
                told.until = 0.0
                told.noticed = delivery is not None


@pytest.mark.parametrize("with_snapshot", [False, True], ids=["events", "snapshot"])
def test_a_lost_event_never_fails_and_never_loses_a_message(with_snapshot: bool) -> None:
    """At worst something acknowledged comes again, or an attempt is not counted.

    What only one record knows is left out: where a subscription began, or began anew, and which
    messages were copied out of their log.
    """
    for number, life in enumerate(lives(plain=False)):
        snapshot = None
        for _ in life.live(steps(number)):
            if with_snapshot and life.random.random() < 0.05:
                snapshot = snapshot_of(life)
        if not life.events:
            continue
        lost = life.random.randrange(len(life.events))
        event = decode_event(life.events[lost], "here")
        state, start = QueueState(life.configuration), 0
        if snapshot is not None:
            state = replayed(life.configuration, [], snapshot)
            start = _events_end(snapshot, life.configuration)
        for offset, data in enumerate(life.events[start:], start):
            if offset != lost:
                state.apply(decode_event(data, "here"))
        if lost >= start and isinstance(event, SubscriptionChanged | SubscriptionDeleted | Kept):
            continue
        for lane in life.state.lanes:
            state.lane(lane)
        life.restore(state)
        state.lose_leases(life.wall, life.now)
        _check_nothing_lost(life, state)


def _events_end(snapshot: bytes, configuration: QueueConfiguration) -> int:
    return decode_snapshot(snapshot, configuration, "here")[1]


def test_any_events_in_any_order_are_taken_in() -> None:
    """What damage leaves need not make sense."""
    for number, life in enumerate(lives(plain=False, count=LIVES)):
        list(life.live(steps(number)))
        events = [event for event in life.events if life.random.random() < 0.6]
        life.random.shuffle(events)
        state = replayed(life.configuration, events)
        for lane in list(state.lanes):
            state.place_lane(lane, 0, 100)
        state.lose_leases(life.wall, life.now)


def test_what_others_have_finished_is_one_step_however_much_it_is() -> None:
    """And what a consumer of one's own has stays with it."""
    settings = QueueConfiguration(delivery_guarantee=DeliveryGuarantee.QUORUM)
    state = QueueState(settings)
    for name in ("quick", "slow"):
        state.apply(SubscriptionChanged(name, None, None))
    state.sent(0, 1_000_000, 1_000_000)
    slow = state.subscriptions["slow"]
    held = slow.cursor(0).ensure(0, 500_000)
    returned = slow.cursor(0).ensure(0, 700_000)
    assert held is not None
    assert returned is not None
    held.state = DeliveryState.LEASED
    slow.cursor(0).make_ready(returned)
    state.subscriptions["quick"].cursor(0).acknowledged.add_range(0, 999_999)
    state.lane(0).finished.add_range(0, 999_999)
    last = (MessageRecord("last", 0.0, "", 0.0, None, {}, b""), 1)
    choice = choose(state, slow, 10, lambda _: last, wall=0.0, now=0.0)
    assert [delivery.offset for delivery, _ in choice.deliveries] == [999_999]
    assert choice.steps < 10
    assert slow.holds(held)
    assert not slow.holds(returned)
    assert slow.cursor(0).done.ranges() == ((0, 500_000), (500_001, 999_999))


@pytest.mark.parametrize(
    "late",
    [
        Settled("gone", [(0, 0)]),
        Settled("gone", [(0, 0), (0, 1)]),
        Died("gone", (0, 0), 0.0),
    ],
    ids=["acknowledged", "several acknowledged", "died"],
)
def test_what_was_under_way_for_a_deleted_subscription_takes_nothing_from_the_only_other_one(
    late: Event,
) -> None:
    state = QueueState(QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST))
    for name in ("gone", "other"):
        state.apply(SubscriptionChanged(name, None, None))
    state.sent(0, 2, 20)
    state.apply(SubscriptionDeleted("gone"))
    state.apply(late)
    assert (state.size, state.bytes) == (2, 20)
    state.apply(Settled("other", [(0, 0)]))
    assert state.size == 1


def test_a_message_that_comes_back_again_and_again_leaves_nothing_behind() -> None:
    cursor = Cursor()
    delivery = cursor.ensure(0, 0)
    assert delivery is not None
    for _ in range(1_000):
        cursor.make_ready(delivery)
        assert cursor.candidate(1) == 0
        delivery.state = DeliveryState.LEASED
    assert len(cursor._ready) == 1

"""What a queue is, as a function of what was written: no clock, no I/O, no waiting.

Every change that must survive is an event of `mpreg.queues.records`. It is written first; when it
is durable, `QueueState.apply` takes it in. A restart applies the same events in the same order, so
that the state after a restart is the state before it, but for what no event tells: who holds a
message (nobody: the process is gone), and what was passed over a moment ago, or had expired (it is
looked at again).
"""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field

from mpreg.queues.agreement import Agreement
from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration
from mpreg.queues.cursor import Delivery, DeliveryState
from mpreg.queues.intervals import IntervalSet, are_runs, covered_at_least, runs
from mpreg.queues.lane import Lane
from mpreg.queues.records import (
    Configured,
    DeadLettersRemoved,
    Died,
    Event,
    HandedOut,
    Kept,
    LaneOpened,
    MessageRecord,
    PassedOver,
    Place,
    Purged,
    Released,
    Returned,
    Settled,
    SubscriptionChanged,
    SubscriptionDeleted,
)
from mpreg.queues.subscription_state import SubscriptionState
from mpreg.queues.topics import TopicPattern

__all__ = [
    "DEFAULT_SUBSCRIPTION",
    "QueueState",
    "dead_letter_key",
]

DEFAULT_SUBSCRIPTION = "default"

#: Deleted subscriptions that are remembered: more than can have something on its way.
DELETED_SUBSCRIPTIONS_MAX = 1_024


@define(eq=False)
class QueueState:
    configuration: QueueConfiguration
    required_acknowledgments: int = field(init=False)
    """For a quorum. As the events say: what was finished under an earlier configuration is."""
    lanes: dict[int, Lane] = field(factory=dict)
    """By priority; 0 is always there."""
    subscriptions: dict[str, SubscriptionState] = field(factory=dict)
    dead: dict[str, float] = field(factory=dict)
    """The keys of the dead letters, the oldest first, and when each died (wall clock)."""
    deleted_subscriptions: dict[str, None] = field(factory=dict)
    """The last ones, the oldest first: what was under way for them must not make them again."""
    acknowledged: int = 0
    expired: int = 0
    redelivered: int = 0
    saves: int = 0
    """Snapshots that were begun. Two may be of the same events, and not know the same: what was
    passed over, or has expired, is no event."""
    _agreement: Agreement = field(factory=Agreement)

    def __attrs_post_init__(self) -> None:
        self.required_acknowledgments = self.configuration.required_acknowledgments
        self.lanes.setdefault(0, Lane(0))
        guarantee = self.configuration.delivery_guarantee
        if guarantee in (DeliveryGuarantee.AT_LEAST_ONCE, DeliveryGuarantee.FIRE_AND_FORGET):
            self._subscribe(DEFAULT_SUBSCRIPTION)

    @property
    def size(self) -> int:
        """Messages that are not finished."""
        return sum(lane.size for lane in self.lanes.values())

    @property
    def bytes(self) -> int:
        return sum(lane.bytes for lane in self.lanes.values())

    @property
    def is_quorum(self) -> bool:
        return self.configuration.delivery_guarantee is DeliveryGuarantee.QUORUM

    def lane(self, number: int) -> Lane:
        if (lane := self.lanes.get(number)) is None:
            lane = self.lanes[number] = Lane(number)
        return lane

    def has(self, subscription: SubscriptionState) -> bool:
        """Whether it is still that of its name."""
        return self.subscriptions.get(subscription.name) is subscription

    def _is_only(self, subscription: SubscriptionState) -> bool:
        return len(self.subscriptions) == 1 and self.has(subscription)

    def is_exhausted(self, delivery: Delivery) -> bool:
        used = delivery.attempt - delivery.forgiven - delivery.is_counted
        return used >= self.configuration.max_deliveries

    # --- what was written ---

    def apply(self, event: Event) -> None:
        """Take in what is durable. Never fails, whatever earlier events were lost to damage."""
        # The two of every message first.
        match event:
            case HandedOut():
                self._hand_out(event)
            case Settled():
                self._settle(event)
            case Returned():
                self._return(event)
            case Released():
                self._release(event)
            case Died():
                self._bury(event)
            case DeadLettersRemoved():
                for key in event.keys:
                    self.dead.pop(key, None)
            case SubscriptionChanged():
                self._change_subscription(event)
            case SubscriptionDeleted():
                self._delete_subscription(event)
            case Purged():
                self._purge(event)
            case Configured():
                self._configure(event)
            case PassedOver():
                self._skip(event)
            case LaneOpened():
                self.lane(event.lane)
            case Kept():
                lane = self.lane(event.lane)
                lane.kept.update(event.offsets)
                lane.first = max(lane.first, event.first)

    def _hand_out(self, event: HandedOut) -> None:
        subscription = self._subscribe(event.subscription)
        for lane, offset, attempt, forgiven, size in event.deliveries:
            delivery = subscription.cursor(lane).ensure(lane, offset)
            if delivery is not None:
                self.redelivered += attempt - forgiven > 1
                delivery.attempt, delivery.size = attempt, size
                delivery.forgiven = max(delivery.forgiven, forgiven)
                # Somebody has it at once; after a restart `lose_leases` lets others find it.
                delivery.state = DeliveryState.READY

    def _settle(self, event: Settled) -> None:
        subscription = self._subscribe(event.subscription)
        if are_runs(event.places) and not self.is_quorum and self._is_only(subscription):
            for number, start, stop in runs(event.places):
                self._settle_run(subscription, number, start, stop)
        else:
            for number, offset in event.places:
                self._settle_one(subscription, number, offset)

    def _settle_one(self, subscription: SubscriptionState, number: int, offset: int) -> None:
        cursor = subscription.cursor(number)
        if offset not in cursor.open and offset in cursor.done:
            return
        self.acknowledged += 1
        if self.is_quorum:
            cursor.acknowledged.add(offset)
        self._finish(subscription, number, offset, cursor.finish(offset))

    def _settle_run(
        self, subscription: SubscriptionState, number: int, start: int, stop: int
    ) -> None:
        """Many messages that lie side by side, as in most queues nearly all do, in one step. There
        is no other subscription."""
        cursor, lane = subscription.cursor(number), self.lane(number)
        is_new = not cursor.done.count(start, stop) and not lane.finished.count(start, stop)
        if is_new and stop <= lane.measured_to:
            self.acknowledged += stop - start
            lane.finish_run(start, stop, cursor.finish_run(start, stop))
        else:
            for offset in range(start, stop):
                self._settle_one(subscription, number, offset)

    def _return(self, event: Returned) -> None:
        lane, offset = event.place
        delivery = self._subscribe(event.subscription).cursor(lane).ensure(lane, offset)
        if delivery is not None:
            delivery.state = DeliveryState.WAITING
            delivery.visible_at = event.visible_at
            delivery.delay_seconds = event.delay_seconds
            delivery.reason = event.reason

    def _release(self, event: Released) -> None:
        subscription = self._subscribe(event.subscription)
        for lane, offset, forgiven in event.forgiven:
            if (delivery := subscription.find((lane, offset))) is not None:
                delivery.forgiven = max(delivery.forgiven, forgiven)

    def _bury(self, event: Died) -> None:
        lane, offset = event.place
        self.dead[dead_letter_key(event.place, event.subscription)] = event.died_at
        subscription = self._subscribe(event.subscription)
        self._finish(subscription, lane, offset, subscription.cursor(lane).finish(offset))

    def _purge(self, event: Purged) -> None:
        for number, end in event.ends.items():
            lane = self.lane(number)
            lane.finished.add_range(0, end)
            lane.forget_bytes(end)
            for subscription in self.subscriptions.values():
                subscription.cursor(number).finish_ranges([(0, end)])

    def _skip(self, event: PassedOver) -> None:
        subscription = self._subscribe(event.subscription)
        for number in {lane for lane, _, _ in event.ranges}:
            ranges = [(start, stop) for lane, start, stop in event.ranges if lane == number]
            subscription.cursor(number).finish_ranges(ranges)
            lane = self.lane(number)
            finished = lane.finished.count()
            for start, stop in self._agreed(number).ranges():
                lane.finished.add_range(start, stop)
            if lane.finished.count() > finished:
                # After a restart: else it was known before it was written.
                lane.forget_bytes()

    def _configure(self, event: Configured) -> None:
        before = self.required_acknowledgments
        self.required_acknowledgments = event.required_acknowledgments
        if self.required_acknowledgments < before:
            self._count_again()

    # --- subscriptions ---

    def _subscribe(self, name: str) -> SubscriptionState:
        """The subscription. Made where the record that made it was lost to damage; where it was
        deleted while this was on its way, one that nobody will see."""
        if (subscription := self.subscriptions.get(name)) is None:
            subscription = SubscriptionState(name)
            if name in self.deleted_subscriptions:
                return subscription
            self.subscriptions[name] = subscription
            self._agreement.forget()
            for lane in self.lanes.values():
                subscription.cursor(lane.number).done = lane.finished.copy()
        return subscription

    def _change_subscription(self, event: SubscriptionChanged) -> None:
        is_new = event.name not in self.subscriptions
        self.deleted_subscriptions.pop(event.name, None)
        subscription = self._subscribe(event.name)
        pattern = event.topic_pattern
        subscription.pattern = None if pattern is None else TopicPattern(pattern)
        if is_new and event.start is not None:
            for lane, start in event.start.items():
                subscription.cursor(lane).done.add_range(0, start)

    def _delete_subscription(self, event: SubscriptionDeleted) -> None:
        subscription = self.subscriptions.pop(event.name, None)
        if subscription is None:
            return
        # Whoever has a message of it holds nothing any more.
        subscription.cursors.clear()
        self._agreement.forget()
        deleted = self.deleted_subscriptions
        deleted[event.name] = None
        if len(deleted) > DELETED_SUBSCRIPTIONS_MAX:
            del deleted[next(iter(deleted))]
        self._count_again()

    def _count_again(self) -> None:
        """Finish what is finished now that the subscriptions, or what is asked of them, changed.

        What was finished stays finished.
        """
        for lane in self.lanes.values():
            for start, stop in self._agreed(lane.number).ranges():
                lane.finished.add_range(start, stop)
            lane.forget_bytes()

    def _agreed(self, lane: int) -> IntervalSet:
        cursors = [subscription.cursor(lane) for subscription in self.subscriptions.values()]
        if self.is_quorum:
            needed = self.required_acknowledgments
            return covered_at_least(needed, [cursor.acknowledged for cursor in cursors])
        return covered_at_least(max(1, len(cursors)), [cursor.done for cursor in cursors])

    # --- finishing ---

    def pass_over(self, subscription: SubscriptionState, place: Place, size: int) -> None:
        """The subscription has no use for a message: that is written later, if at all, and else a
        restart finds out again."""
        lane, offset = place
        if self.configuration.is_stored and offset not in self.lane(lane).finished:
            subscription.passed_in(lane).add(offset)
        subscription.cursor(lane).finish(offset)
        self._finish(subscription, lane, offset, size)

    def expire(self, subscription: SubscriptionState | None, place: Place, size: int) -> None:
        """A message is too old for everybody: for a quorum that will not come, too. None: there
        is no subscription yet."""
        lane, offset = place
        if subscription is not None:
            subscription.cursor(lane).finish(offset)
        self.expired += 1
        self.lane(lane).finish(offset, size)

    def _finish(self, subscription: SubscriptionState, number: int, offset: int, size: int) -> None:
        if self._is_agreed(subscription, number, offset):
            self.lane(number).finish(offset, size)

    def _is_agreed(self, subscription: SubscriptionState, lane: int, offset: int) -> bool:
        if not self.subscriptions:
            # It is held for those to come.
            return False
        if self._is_only(subscription) and not self.is_quorum:
            # It has just finished it. One that was deleted meanwhile says nothing of the others.
            return True
        if self.is_quorum:
            return self._has_quorum(lane, offset)
        return self._agreement.is_reached(self.subscriptions.values(), lane, offset)

    def _has_quorum(self, lane: int, offset: int) -> bool:
        needed = self.required_acknowledgments
        if offset in self.lane(lane).finished:
            # It had one before.
            return True
        for subscription in self.subscriptions.values():
            if offset in subscription.cursor(lane).acknowledged:
                needed -= 1
                if not needed:
                    return True
        return False

    # --- messages ---

    def sent(self, number: int, messages: int, size: int) -> None:
        """Messages, of so many bytes together, are durable at the end of a lane."""
        self.lane(number).append(messages, size)

    def note_delays(
        self,
        number: int,
        first: int,
        messages: Sequence[tuple[MessageRecord, int]],
        *,
        wall: float,
        now: float,
    ) -> None:
        """Those of the messages sent, with their sizes, that are not visible yet: so that they
        count as delayed from the start, and not from when somebody comes to them."""
        for offset, (record, size) in enumerate(messages, first):
            if wait := record.visible_in(wall):
                for subscription in self.subscriptions.values():
                    if subscription.matches(record.topic):
                        delivery = subscription.cursor(number).ensure(number, offset)
                        if delivery is None:
                            # It is below the subscription's start.
                            continue
                        delivery.size = size
                        self.delay(subscription, delivery, record, now + wait)

    def delay(
        self,
        subscription: SubscriptionState,
        delivery: Delivery,
        record: MessageRecord,
        due: float,
    ) -> None:
        """The message is not visible before ``due`` (monotonic)."""
        delivery.state = DeliveryState.WAITING
        delivery.visible_at = record.sent_at + record.delay_seconds
        delivery.delay_seconds = record.delay_seconds
        subscription.set_due(delivery, due)

    # --- restart ---

    def lose_leases(self, wall: float, now: float) -> None:
        """After a restart: nobody holds anything, and what waits goes on waiting."""
        for subscription in self.subscriptions.values():
            for cursor in subscription.cursors.values():
                for delivery in cursor.open.values():
                    if delivery.state is DeliveryState.WAITING:
                        subscription.set_due(delivery, now + delivery.visible_in(wall))
                    else:
                        cursor.make_ready(delivery)

    def place_lane(self, number: int, first: int, end: int) -> None:
        """After a restart: where the lane's log begins and ends.

        What is below and was not kept is finished, even where the record that says so was lost.
        """
        lane = self.lane(number)
        lane.first, lane.end = first, end
        gone = list(IntervalSet((one, one + 1) for one in lane.kept).missing(0, first))
        finished = lane.finished.count()
        for start, stop in gone:
            lane.finished.add_range(start, stop)
        if lane.finished.count() > finished:
            # They may be in the bytes of a snapshot.
            lane.forget_bytes()
        for subscription in self.subscriptions.values():
            subscription.cursor(number).finish_ranges(gone)

    def lose_kept(self, place: Place) -> None:
        """A message that was to be kept is not there: it was finished before the restart."""
        lane = self.lane(place[0])
        lane.kept.discard(place[1])
        lane.finished.add(place[1])
        lane.forget_bytes()


def dead_letter_key(place: Place, subscription: str) -> str:
    """Sorts by lane and offset; a message can die once in each subscription."""
    lane, offset = place
    return f"{lane:03}/{offset:020}/{subscription}"

"""A queue's state as bytes, so that a restart reads this and not the whole of the past."""

from __future__ import annotations

from typing import Final

import msgspec

from mpreg.errors import CorruptDataError
from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.cursor import Cursor, Delivery, DeliveryState
from mpreg.queues.intervals import IntervalSet
from mpreg.queues.lane import Lane
from mpreg.queues.state import QueueState
from mpreg.queues.subscription_state import SubscriptionState
from mpreg.queues.topics import TopicPattern

__all__ = ["decode_snapshot", "encode_snapshot"]


class _Delivery(msgspec.Struct, array_like=True, frozen=True):
    offset: int
    size: int
    attempt: int
    forgiven: int
    waits: bool
    visible_at: float
    delay_seconds: float
    reason: str


class _Cursor(msgspec.Struct, array_like=True, frozen=True):
    done: list[tuple[int, int]]
    acknowledged: list[tuple[int, int]]
    open: list[_Delivery]


class _Subscription(msgspec.Struct, array_like=True, frozen=True):
    name: str
    pattern: str | None
    cursors: dict[int, _Cursor]


class _Lane(msgspec.Struct, array_like=True, frozen=True):
    number: int
    finished: list[tuple[int, int]]
    kept: list[int]
    measured: int
    measured_to: int


class _Snapshot(msgspec.Struct, array_like=True, frozen=True):
    events_end: int
    lanes: list[_Lane]
    subscriptions: list[_Subscription]
    dead: list[tuple[str, float]]
    acknowledged: int
    expired: int
    redelivered: int
    deleted_subscriptions: list[str]
    required_acknowledgments: int
    saves: int = 0


#: Made when this is imported: it takes as long as all else that a small queue's opening does.
_snapshots: Final = msgspec.msgpack.Decoder(_Snapshot)


def encode_snapshot(state: QueueState, events_end: int) -> bytes:
    """The state after all events below the offset ``events_end``."""
    return msgspec.msgpack.encode(
        _Snapshot(
            events_end,
            [_encode_lane(lane) for lane in state.lanes.values()],
            [_encode_subscription(one) for one in state.subscriptions.values()],
            list(state.dead.items()),
            state.acknowledged,
            state.expired,
            state.redelivered,
            list(state.deleted_subscriptions),
            state.required_acknowledgments,
            state.saves,
        )
    )


def decode_snapshot(
    data: bytes, configuration: QueueConfiguration, where: str
) -> tuple[QueueState, int]:
    """The state, and the offset of the first event that it does not know.

    Raises:
        CorruptDataError: the bytes are no snapshot.
    """
    try:
        found = _snapshots.decode(data)
    except msgspec.MsgspecError as error:
        raise CorruptDataError(f"not a queue's state: {error}", None, where) from error
    state = QueueState(configuration)
    state.lanes = {lane.number: _decode_lane(lane) for lane in found.lanes}
    state.subscriptions = {one.name: _decode_subscription(one) for one in found.subscriptions}
    state.dead = dict(found.dead)
    state.acknowledged = found.acknowledged
    state.expired = found.expired
    state.redelivered = found.redelivered
    state.deleted_subscriptions = dict.fromkeys(found.deleted_subscriptions)
    state.required_acknowledgments = found.required_acknowledgments
    state.saves = found.saves
    return state, found.events_end


def _encode_lane(lane: Lane) -> _Lane:
    return _Lane(
        lane.number,
        list(lane.finished.ranges()),
        sorted(lane.kept),
        lane.measured,
        lane.measured_to,
    )


def _decode_lane(lane: _Lane) -> Lane:
    return Lane(
        lane.number,
        finished=IntervalSet(lane.finished),
        kept=set(lane.kept),
        measured=lane.measured,
        measured_to=lane.measured_to,
    )


def _encode_subscription(subscription: SubscriptionState) -> _Subscription:
    pattern = subscription.pattern
    return _Subscription(
        subscription.name,
        None if pattern is None else pattern.text,
        {lane: _encode_cursor(cursor) for lane, cursor in subscription.cursors.items()},
    )


def _decode_subscription(found: _Subscription) -> SubscriptionState:
    return SubscriptionState(
        found.name,
        None if found.pattern is None else TopicPattern(found.pattern),
        {number: _decode_cursor(number, cursor) for number, cursor in found.cursors.items()},
    )


def _encode_cursor(cursor: Cursor) -> _Cursor:
    return _Cursor(
        list(cursor.done.ranges()),
        list(cursor.acknowledged.ranges()),
        # Without those that were only looked at: nothing was written about them.
        [_encode_delivery(one) for one in cursor.open.values() if one.attempt or _waits(one)],
    )


def _decode_cursor(number: int, found: _Cursor) -> Cursor:
    cursor = Cursor(IntervalSet(found.done), IntervalSet(found.acknowledged))
    for one in found.open:
        cursor.open[one.offset] = Delivery(
            number,
            one.offset,
            one.size,
            one.attempt,
            one.forgiven,
            DeliveryState.WAITING if one.waits else DeliveryState.READY,
            visible_at=one.visible_at,
            delay_seconds=one.delay_seconds,
            reason=one.reason,
        )
    return cursor


def _encode_delivery(delivery: Delivery) -> _Delivery:
    return _Delivery(
        delivery.offset,
        delivery.size,
        delivery.attempt,
        delivery.forgiven,
        _waits(delivery),
        delivery.visible_at,
        delivery.delay_seconds,
        delivery.reason,
    )


def _waits(delivery: Delivery) -> bool:
    return delivery.state is DeliveryState.WAITING

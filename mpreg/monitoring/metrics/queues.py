"""Metrics of queues, of all that there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from mpreg.monitoring.metrics.spec import Read, counter, gauge
from mpreg.queues import QueueStatistics

__all__ = ["QUEUES"]


def _queues(read: Callable[[QueueStatistics], float | None]) -> Read:
    return lambda snapshot: (((name,), read(one)) for name, one in snapshot.queues.items())


QUEUES: Final = (
    gauge(
        "mpreg_queue_pending_messages",
        "Messages that may be handed out, over all subscriptions.",
        _queues(lambda q: q.pending),
        "queue",
    ),
    gauge(
        "mpreg_queue_in_flight_messages",
        "Messages with a consumer.",
        _queues(lambda q: q.in_flight),
        "queue",
    ),
    gauge(
        "mpreg_queue_delayed_messages",
        "Messages that wait for their delay or their next attempt.",
        _queues(lambda q: q.delayed),
        "queue",
    ),
    gauge(
        "mpreg_queue_dead_letters",
        "Dead letters that are kept.",
        _queues(lambda q: q.dead),
        "queue",
    ),
    gauge(
        "mpreg_queue_messages",
        "Messages that are not finished, each counted once.",
        _queues(lambda q: q.size),
        "queue",
    ),
    gauge("mpreg_queue_bytes", "Their size as stored.", _queues(lambda q: q.bytes), "queue"),
    gauge(
        "mpreg_queue_oldest_message_seconds",
        "Age of the oldest message that is not finished; 0 where there is none.",
        _queues(lambda q: q.oldest_seconds if q.size else 0.0),
        "queue",
    ),
    counter(
        "mpreg_queue_sent_total",
        "Messages sent since the queue was created.",
        _queues(lambda q: q.sent),
        "queue",
    ),
    counter(
        "mpreg_queue_acknowledged_total",
        "Acknowledgments since the queue was created.",
        _queues(lambda q: q.acknowledged),
        "queue",
    ),
    counter(
        "mpreg_queue_redelivered_total",
        "Deliveries after a first one since the queue was created.",
        _queues(lambda q: q.redelivered),
        "queue",
    ),
    counter(
        "mpreg_queue_expired_total",
        "Messages dropped for their age.",
        _queues(lambda q: q.expired),
        "queue",
    ),
)

"""Durable message queues on the logs of a registry."""

from mpreg.errors import (
    LeaseLostError,
    QueueDeletedError,
    QueueError,
    QueueFullError,
    QueueNotFoundError,
)
from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration, QueueType
from mpreg.queues.consumer import Consumer
from mpreg.queues.dead_letters import DeadLetter
from mpreg.queues.manager import MessageQueueManager
from mpreg.queues.message import Message, Receipt
from mpreg.queues.queue import MessageQueue
from mpreg.queues.statistics import QueueStatistics, SubscriptionStatistics
from mpreg.queues.subscription import Subscription

__all__ = [
    "Consumer",
    "DeadLetter",
    "DeliveryGuarantee",
    "LeaseLostError",
    "Message",
    "MessageQueue",
    "MessageQueueManager",
    "QueueConfiguration",
    "QueueDeletedError",
    "QueueError",
    "QueueFullError",
    "QueueNotFoundError",
    "QueueStatistics",
    "QueueType",
    "Receipt",
    "Subscription",
    "SubscriptionStatistics",
]

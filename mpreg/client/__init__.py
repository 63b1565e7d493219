"""A client of a node: queues and keys over HTTP, with the names of those in the same process."""

from mpreg.client.consumer import RemoteConsumer
from mpreg.client.keys import RemoteKeyValueStore, RemoteKeyWatch
from mpreg.client.message import RemoteDeadLetter, RemoteMessage
from mpreg.client.node import MPREGClient
from mpreg.client.queues import RemoteQueue, RemoteQueueManager, RemoteSubscription

__all__ = [
    "MPREGClient",
    "RemoteConsumer",
    "RemoteDeadLetter",
    "RemoteKeyValueStore",
    "RemoteKeyWatch",
    "RemoteMessage",
    "RemoteQueue",
    "RemoteQueueManager",
    "RemoteSubscription",
]

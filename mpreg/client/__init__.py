"""A client of a node: its queues, keys, logs, snapshots and cache over HTTP, with the names that
those in the same process have."""

from mpreg.client.cache import RemoteCacheManager, RemoteCacheWatch
from mpreg.client.consumer import RemoteConsumer
from mpreg.client.following import RemoteLogFollow
from mpreg.client.keys import RemoteKeyValueStore, RemoteKeyWatch
from mpreg.client.logs import RemoteLogStore
from mpreg.client.message import RemoteDeadLetter, RemoteMessage
from mpreg.client.node import MPREGClient
from mpreg.client.queues import RemoteQueue, RemoteQueueManager, RemoteSubscription
from mpreg.client.snapshot_reader import RemoteSnapshotReader
from mpreg.client.snapshots import RemoteSnapshotStore

__all__ = [
    "MPREGClient",
    "RemoteCacheManager",
    "RemoteCacheWatch",
    "RemoteConsumer",
    "RemoteDeadLetter",
    "RemoteKeyValueStore",
    "RemoteKeyWatch",
    "RemoteLogFollow",
    "RemoteLogStore",
    "RemoteMessage",
    "RemoteQueue",
    "RemoteQueueManager",
    "RemoteSnapshotReader",
    "RemoteSnapshotStore",
    "RemoteSubscription",
]

"""Durable state: the registry, its stores, and everything that they raise."""

from mpreg.actors import Ack
from mpreg.errors import (
    AckedDataLostError,
    BatchRejectedError,
    CommitFailedError,
    CommitUnknownError,
    ConfigurationError,
    CorruptDataError,
    DataDirectoryError,
    DataDirectoryLockedError,
    ForeignDatabaseError,
    InvalidArgumentError,
    MailboxFullError,
    MpregError,
    OffsetOutOfRangeError,
    PersistenceError,
    ReaderStoppedError,
    SchemaVersionError,
    SnapshotNotFoundError,
    StorageFullError,
    StorageIOError,
    TransactionStateError,
    ValueTooLargeError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence.batch import Durability, WriteBatch
from mpreg.persistence.compactor import CompactionReport
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.kv_store import Entry, KeyValueStore
from mpreg.persistence.log_retention import LogRetention
from mpreg.persistence.log_store import LogRecord, LogStore
from mpreg.persistence.registry import PersistenceRegistry
from mpreg.persistence.snapshots import (
    Snapshot,
    SnapshotReader,
    SnapshotRetention,
    SnapshotStore,
    SnapshotVersion,
)
from mpreg.persistence.statistics import RegistryStatistics
from mpreg.persistence.transaction import Transaction

__all__ = [
    "Ack",
    "AckedDataLostError",
    "BatchRejectedError",
    "CommitFailedError",
    "CommitUnknownError",
    "CompactionReport",
    "ConfigurationError",
    "CorruptDataError",
    "DataDirectoryError",
    "DataDirectoryLockedError",
    "Durability",
    "Entry",
    "ForeignDatabaseError",
    "InvalidArgumentError",
    "KeyValueStore",
    "LogRecord",
    "LogRetention",
    "LogStore",
    "MailboxFullError",
    "MpregError",
    "OffsetOutOfRangeError",
    "PersistenceConfig",
    "PersistenceError",
    "PersistenceRegistry",
    "ReaderStoppedError",
    "RegistryStatistics",
    "SchemaVersionError",
    "Snapshot",
    "SnapshotNotFoundError",
    "SnapshotReader",
    "SnapshotRetention",
    "SnapshotStore",
    "SnapshotVersion",
    "StorageFullError",
    "StorageIOError",
    "Transaction",
    "TransactionStateError",
    "ValueTooLargeError",
    "VersionConflictError",
    "WriteBatch",
    "WriterStoppedError",
]

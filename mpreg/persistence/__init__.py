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
    DataDirectoryMissingError,
    ForeignDatabaseError,
    InvalidArgumentError,
    MailboxFullError,
    MpregError,
    OffsetOutOfRangeError,
    PersistenceError,
    ReaderStoppedError,
    ReadOnlyError,
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
from mpreg.persistence.read_only import (
    DirectoryStatistics,
    Holder,
    KeyCount,
    ReadOnlyRegistry,
    StoredLog,
    StoredName,
    open_read_only,
)
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
    "DataDirectoryMissingError",
    "DirectoryStatistics",
    "Durability",
    "Entry",
    "ForeignDatabaseError",
    "Holder",
    "InvalidArgumentError",
    "KeyCount",
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
    "ReadOnlyError",
    "ReadOnlyRegistry",
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
    "StoredLog",
    "StoredName",
    "Transaction",
    "TransactionStateError",
    "ValueTooLargeError",
    "VersionConflictError",
    "WriteBatch",
    "WriterStoppedError",
    "open_read_only",
]

"""A data directory looked at from outside, without changing anything."""

from mpreg.persistence.found_directory import FoundDirectory, Holder, find_holder
from mpreg.persistence.read_only.names import StoredName
from mpreg.persistence.read_only.registry import (
    DirectoryStatistics,
    KeyCount,
    ReadOnlyRegistry,
    StoredLog,
    open_read_only,
)

__all__ = [
    "DirectoryStatistics",
    "FoundDirectory",
    "Holder",
    "KeyCount",
    "ReadOnlyRegistry",
    "StoredLog",
    "StoredName",
    "find_holder",
    "open_read_only",
]

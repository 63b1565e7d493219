"""The changes that can be made to a key or a log: one class each.

They are msgspec structs and not attrs classes because one is made for every write: a frozen struct
costs a quarter of a frozen attrs class, and ``gc=False`` keeps it off the garbage collector's
lists (it holds only bytes and numbers, so it can be in no cycle).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import msgspec

__all__ = [
    "Append",
    "Delete",
    "DeleteLog",
    "EntryKey",
    "Operation",
    "OperationResult",
    "Put",
    "SweepExpired",
    "TruncateBefore",
]

EntryKey: TypeAlias = tuple[bytes, bytes]
"""(name of the namespace, key), both encoded by `mpreg.codec`."""


class Put(msgspec.Struct, frozen=True, gc=False):
    """Set a key. Its result is the version given, an int above every earlier one."""

    namespace: bytes
    key: bytes
    value: bytes
    expires_at: float | None = None
    """Wall clock, in seconds; from that instant on the entry is invisible."""
    expected_version: int | None = None
    """None: whatever is there. 0: the key must not exist. Else: the version it must have."""


class Delete(msgspec.Struct, frozen=True, gc=False):
    """Remove a key. Its result tells whether it was there (and not expired)."""

    namespace: bytes
    key: bytes
    expected_version: int | None = None


class SweepExpired(msgspec.Struct, frozen=True, gc=False):
    """Remove entries of a namespace that have expired, the longest expired first. Its result is how
    many it has removed.

    Damaged entries stay: an expiry that cannot be trusted is no reason to remove anything.
    """

    namespace: bytes
    entries_max: int


class Append(msgspec.Struct, frozen=True, gc=False):
    """Add records at the end of a log. Its result is the offset of the first."""

    log: bytes
    records: Sequence[bytes]


class TruncateBefore(msgspec.Struct, frozen=True, gc=False):
    """Drop a log's records below an offset. Its result is the log's first offset afterwards.

    Below the first offset it changes nothing; beyond the end it is refused.
    """

    log: bytes
    offset: int
    beyond_end: bool = False
    """Not refused there either: the log, also one never written, then goes on at ``offset``. For
    making a log with offsets that were given elsewhere."""


class DeleteLog(msgspec.Struct, frozen=True, gc=False):
    """Remove a log, as if it had never been written. Its result is how many records it held.

    The next append makes a new log, which begins at offset 0.
    """

    log: bytes


Operation: TypeAlias = Put | Delete | SweepExpired | Append | TruncateBefore | DeleteLog
OperationResult: TypeAlias = int | bool

"""Complete states of any size, in versions, saved beside everything else that is written.

A snapshot is kept in entries of a namespace of its own, which no user's name can reach::

    "versions"       the versions that there are, the last number given, how many are kept
    "version/N"      one version: the id of its save, its chunks, size and checksum
    "saving/S"       a save under way; the entry's own version is the id of the save
    "removing/ID"    the chunks of a save that are still to be removed
    (ID, index)      a chunk

A save goes through three steps, each of them small, so that no other write waits long behind it:

1. It puts its *saving* entry. Its version, which no other write ever has, is the id of the save.
2. It writes the chunks, each a batch of its own.
3. It publishes: one transaction adds the version and removes the saving entry.

A version is dropped by one transaction as well, which takes it from the list and notes that the
chunks of its save are to be *removed*; that is then done a few at a time, but not while somebody
reads them. So what is visible is complete, whatever is cancelled, fails or comes late; and wherever
a crash falls, an entry says what is left to do. The next save, or upkeep, does it.

Every change of the list is conditional on the list's own version: of two that meet, one looks
again.
"""

from mpreg.persistence.snapshots.chunks import CHUNK_BYTES, CHUNKS_IN_FLIGHT_MAX
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.persistence.snapshots.layout import is_snapshot_namespace, save_in
from mpreg.persistence.snapshots.reader import SnapshotReader
from mpreg.persistence.snapshots.removal import Remover, Tidied
from mpreg.persistence.snapshots.retention import SnapshotRetention
from mpreg.persistence.snapshots.sharing import SnapshotSharing
from mpreg.persistence.snapshots.store import (
    CLEAN_UP_SECONDS,
    Snapshot,
    SnapshotStore,
    SnapshotVersion,
)

__all__ = [
    "CHUNKS_IN_FLIGHT_MAX",
    "CHUNK_BYTES",
    "CLEAN_UP_SECONDS",
    "Remover",
    "Snapshot",
    "SnapshotEntries",
    "SnapshotReader",
    "SnapshotRetention",
    "SnapshotSharing",
    "SnapshotStore",
    "SnapshotVersion",
    "Tidied",
    "is_snapshot_namespace",
    "save_in",
]

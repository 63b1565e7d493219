"""Keys and values of a snapshot's entries."""

from __future__ import annotations

import struct
from typing import Final

import msgspec

from mpreg.codec import decode_key, encode_key
from mpreg.persistence.snapshots.retention import SnapshotRetention

__all__ = [
    "ANY_VERSION",
    "CHUNKS",
    "Listed",
    "Manifest",
    "REMOVING",
    "Removal",
    "SAVING",
    "VERSION",
    "VERSIONS_KEY",
    "VersionList",
    "chunk_key",
    "chunk_place",
    "is_snapshot_namespace",
    "number_in",
    "numbered_key",
    "save_in",
    "save_of_chunk",
]

CHUNKS: Final = encode_key(b"")
"""Where the keys of all chunks begin."""
VERSION: Final = "version/"
SAVING: Final = "saving/"
REMOVING: Final = "removing/"
VERSIONS_KEY: Final = encode_key("versions")
ANY_VERSION: Final = encode_key("version")
"""Where the keys of all manifests, and that of the list, begin."""

_CHUNK_KEY: Final = struct.Struct(">QQ")
_DIGITS: Final = 20


class Listed(msgspec.Struct, frozen=True, array_like=True):
    """A version as the list knows it."""

    number: int
    save: int
    chunks: int
    size_bytes: int
    saved_at: float
    """Wall clock, in seconds: when it was published."""


class VersionList(msgspec.Struct, frozen=True):
    """Which versions there are, from the oldest to the newest."""

    last: int = 0
    """The last number given; 0 where none was, or where it is not known any more."""
    versions: tuple[Listed, ...] = ()
    versions_max: int | None = 1
    seconds_max: float | None = None
    """With ``versions_max``: the retention that the last change was made under."""

    @property
    def retention(self) -> SnapshotRetention:
        return SnapshotRetention(versions_max=self.versions_max, seconds_max=self.seconds_max)

    @property
    def newest(self) -> Listed | None:
        return self.versions[-1] if self.versions else None

    def next_number(self, save: int) -> int:
        """That of the save that is published next.

        Where no number is known, that of the save itself is above all that were ever given: each
        of these took at least one write.
        """
        newest = self.newest
        after = 0 if newest is None else newest.number + 1
        return max(after, self.last + 1 if self.last else save)

    def changed(
        self, last: int, versions: tuple[Listed, ...], retention: SnapshotRetention
    ) -> VersionList:
        return VersionList(last, versions, retention.versions_max, retention.seconds_max)


class Manifest(msgspec.Struct, frozen=True):
    """What makes the chunks of a save a version."""

    save: int
    chunks: int
    size_bytes: int
    checksum: int
    """CRC-32 of the whole: a chunk can be right in itself and still not belong here."""
    saved_at: float

    def listed(self, number: int) -> Listed:
        return Listed(number, self.save, self.chunks, self.size_bytes, self.saved_at)


class Removal(msgspec.Struct, frozen=True):
    """Chunks to be removed: those of a save, from an index on."""

    index: int = 0
    chunks: int = 0
    """That there are; 0 where that is not known."""


def chunk_key(save: int, index: int) -> bytes:
    return encode_key(_CHUNK_KEY.pack(save, index))


def chunk_place(key: object) -> tuple[int, int] | None:
    """(save, index) of a chunk's key; None of another."""
    if not isinstance(key, bytes) or len(key) != len(CHUNKS) + _CHUNK_KEY.size:
        return None
    if not key.startswith(CHUNKS):
        return None
    save, index = _CHUNK_KEY.unpack(key[len(CHUNKS) :])
    return save, index


def is_snapshot_namespace(name: object) -> bool:
    """``snapshot/…`` of users, and ``KIND.snapshot/…`` of parts of mpreg."""
    if not isinstance(name, bytes) or name[:1] != b"\xff":
        return False
    kind, slash, _ = name[1:].partition(b"/")
    return bool(slash) and (kind == b"snapshot" or kind.endswith(b".snapshot"))


def save_in(namespace: bytes, key: bytes) -> int | None:
    """Of which save an entry is a chunk; None where it is none."""
    place = chunk_place(key) if is_snapshot_namespace(namespace) else None
    return None if place is None else place[0]


def save_of_chunk(key: bytes) -> int:
    save: int = _CHUNK_KEY.unpack(key[len(CHUNKS) :])[0]
    return save


def numbered_key(prefix: str, number: int) -> bytes:
    """Ordered by the numbers."""
    return encode_key(f"{prefix}{number:0{_DIGITS}}")


def number_in(prefix: str, key: bytes) -> int:
    """That of a key that `numbered_key` has made."""
    return int(str(decode_key(key)).removeprefix(prefix))

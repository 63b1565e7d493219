"""What is wrong with a snapshot: its manifest and chunks, chunk by chunk, in little memory."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from typing import Final

import msgspec
from attrs import define, field

from mpreg.codec import encode_key
from mpreg.persistence.maintenance.checks import shown_name
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.rows import EntryRow

__all__ = [
    "CHUNK_KEY",
    "MANIFEST_KEY",
    "Manifest",
    "SnapshotCheck",
    "is_snapshot_namespace",
    "manifest_of",
    "unfinished_save",
]

MANIFEST_KEY: Final = encode_key("manifest")
UNFINISHED_PREFIX: Final = encode_key("unfinished/")
CHUNK_KEY: Final = struct.Struct(">QQ")
_BYTES_KEY: Final = 0


def is_snapshot_namespace(name: object) -> bool:
    """``snapshot/…`` of users, and ``KIND.snapshot/…`` of parts of mpreg."""
    if not isinstance(name, bytes) or name[:1] != b"\xff":
        return False
    kind, slash, _ = name[1:].partition(b"/")
    return bool(slash) and (kind == b"snapshot" or kind.endswith(b".snapshot"))


class Manifest(msgspec.Struct, frozen=True):
    """As `SnapshotStore` writes it."""

    save: int
    chunks: int
    size_bytes: int
    checksum: int


class _Leftover(msgspec.Struct, frozen=True):
    save: int
    index: int


def manifest_of(value: object) -> Manifest | None:
    """None where it is none."""
    if not isinstance(value, bytes):
        return None
    try:
        return msgspec.msgpack.decode(value, type=Manifest)
    except msgspec.MsgspecError:
        return None


def unfinished_save(row: EntryRow) -> int | None:
    """The save whose chunks an unfinished entry accounts for."""
    if not row.value:
        return row.version if type(row.version) is int else None
    try:
        return msgspec.msgpack.decode(row.value, type=_Leftover).save
    except (msgspec.MsgspecError, TypeError):
        return None


def chunk_place(key: object) -> tuple[int, int] | None:
    """(save, index) of a chunk's key; None of another."""
    if not isinstance(key, bytes) or len(key) != CHUNK_KEY.size + 1 or key[0] != _BYTES_KEY:
        return None
    save, index = CHUNK_KEY.unpack(key[1:])
    return save, index


@define
class SnapshotCheck:
    """Follows the chunks of one snapshot, in the order of their keys.

    It is told first what the manifest and the unfinished entries say.
    """

    name: bytes
    manifest: Manifest | None
    unfinished: frozenset[int]
    """Saves under way, or to be removed: their chunks are nobody's fault."""
    _next_index: int = 0
    _size_bytes: int = 0
    _checksum: int = 0
    _broken: bool = False
    _lost: dict[int, int] = field(factory=dict)

    @property
    def broken(self) -> bool:
        """Whether it cannot be loaded."""
        return self._broken

    def follow(self, key: bytes, value: object, *, intact: bool) -> Iterator[Finding]:
        """The next entry of the namespace, and whether it matches its checksum."""
        place = chunk_place(key)
        if place is None:
            return
        save, index = place
        if self.manifest is None or save != self.manifest.save:
            if save not in self.unfinished:
                # Of few saves at a time, since each starts by cleaning up after those before it.
                self._lost[save] = self._lost.get(save, 0) + 1
            return
        if index >= self.manifest.chunks:
            return
        yield from self._skip_to(index)
        self._next_index = index + 1
        if intact and isinstance(value, bytes):
            self._size_bytes += len(value)
            self._checksum = zlib.crc32(value, self._checksum)
        else:
            self._broken = True

    def finish(self) -> Iterator[Finding]:
        """When all entries were seen."""
        if self.manifest is not None:
            yield from self._skip_to(self.manifest.chunks)
            whole = (self.manifest.size_bytes, self.manifest.checksum)
            if not self._broken and (self._size_bytes, self._checksum) != whole:
                self._broken = True
                yield self._finding("the whole does not match its checksum")
        for save, chunks in self._lost.items():
            where = f"snapshot {shown_name(self.name)}, save {save}"
            yield Finding(FindingKind.LEFTOVER, where, f"{chunks} chunks that no snapshot names")

    def _skip_to(self, index: int) -> Iterator[Finding]:
        missing = index - self._next_index
        if missing > 0:
            self._broken = True
            yield self._finding(
                f"{missing} of {self.manifest.chunks if self.manifest else 0} chunks are missing, "
                f"the first is chunk {self._next_index}"
            )

    def _finding(self, message: str) -> Finding:
        return Finding(FindingKind.SNAPSHOT, f"snapshot {shown_name(self.name)}", message)

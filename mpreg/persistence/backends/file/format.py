"""The bytes of the files: headers and frames. Plain functions, no I/O.

Every file begins with a header, and all but the control file go on with frames. The words are
those of docs/explanation/journal.md.
"""

from __future__ import annotations

import enum
import struct
import zlib
from typing import Final, TypeAlias

from attrs import frozen

__all__ = [
    "CONTROL_MAGIC",
    "FORMAT_VERSION",
    "FRAME_BYTES",
    "FRAME_MAGIC",
    "HEADER_BYTES",
    "STAMP_BYTES",
    "SEGMENT_MAGIC",
    "SNAPSHOT_MAGIC",
    "DamageError",
    "Buffer",
    "FileHeader",
    "Frame",
    "FrameKind",
    "NewerFormatError",
    "decode_frame_header",
    "decode_header",
    "decode_stamp",
    "encode_header",
    "encode_stamp",
    "fill_in_frame",
    "salt_of",
]

Buffer: TypeAlias = bytes | bytearray | memoryview

FORMAT_VERSION: Final = 1

CONTROL_MAGIC: Final = b"mpregctl"
SEGMENT_MAGIC: Final = b"mpregjnl"
SNAPSHOT_MAGIC: Final = b"mpregsnp"

_STAMP: Final = struct.Struct("<8sI")
_HEADER_REST: Final = struct.Struct("<QQ")
_CHECKSUM: Final = struct.Struct("<I")
STAMP_BYTES: Final = _STAMP.size + _CHECKSUM.size
HEADER_BYTES: Final = STAMP_BYTES + _HEADER_REST.size + _CHECKSUM.size

FRAME_MAGIC: Final = b"\xf7mpF"
_FRAME: Final = struct.Struct("<4sIIIQQQ")
_FRAME_CHECKED: Final = struct.Struct("<IIQQQ")
FRAME_BYTES: Final = _FRAME.size
_CHECKED_FROM: Final = FRAME_BYTES - _FRAME_CHECKED.size


class DamageError(Exception):
    """Bytes are not what was written. ``offset`` is where, in the file or the piece looked at."""

    def __init__(self, message: str, offset: int) -> None:
        self.message = message
        self.offset = offset
        super().__init__(message, offset)

    def __str__(self) -> str:
        return f"byte {self.offset}: {self.message}"


# --- files ---


@frozen
class FileHeader:
    sequence: int
    """Of a segment: the first commit in it. Of a snapshot: the last commit in it."""
    generation: int
    """Of the writer that began the file."""


def encode_stamp(magic: bytes, version: int = FORMAT_VERSION) -> bytes:
    """What every version of the format begins a file with."""
    stamp = _STAMP.pack(magic, version)
    return stamp + _CHECKSUM.pack(zlib.crc32(stamp))


def decode_stamp(data: bytes, magic: bytes) -> int:
    """The format version of a file.

    Raises:
        DamageError: the file does not begin as one of these does.
    """
    if data[: len(magic)] != magic:
        raise DamageError("the file does not begin as mpreg has written it", 0)
    if len(data) < STAMP_BYTES:
        raise DamageError("the file ends inside its header", len(data))
    _, version = _STAMP.unpack_from(data)
    if _CHECKSUM.unpack_from(data, _STAMP.size)[0] != zlib.crc32(data[: _STAMP.size]):
        raise DamageError("the file's format version does not match its checksum", len(magic))
    return int(version)


def encode_header(magic: bytes, header: FileHeader) -> bytes:
    start = encode_stamp(magic) + _HEADER_REST.pack(header.sequence, header.generation)
    return start + _CHECKSUM.pack(zlib.crc32(start))


class NewerFormatError(Exception):
    """A file of a format version above `FORMAT_VERSION`."""

    def __init__(self, version: int) -> None:
        self.version = version
        super().__init__(version)


def decode_header(data: bytes, magic: bytes) -> FileHeader:
    """The header that a segment or snapshot begins with.

    Raises:
        DamageError: it is damaged, or cut off.
        NewerFormatError: written by a newer mpreg; its rest is not looked at.
    """
    version = decode_stamp(data, magic)
    if version > FORMAT_VERSION:
        raise NewerFormatError(version)
    if len(data) < HEADER_BYTES:
        raise DamageError("the file ends inside its header", len(data))
    body = data[: HEADER_BYTES - _CHECKSUM.size]
    if _CHECKSUM.unpack_from(data, len(body))[0] != zlib.crc32(body):
        raise DamageError("the file's header does not match its checksum", STAMP_BYTES)
    return FileHeader(*_HEADER_REST.unpack_from(data, STAMP_BYTES))


def salt_of(header: bytes) -> int:
    """What the checksums of a file's frames start with: a frame of another file does not match.

    The header's own checksum. Not one of all its bytes: a CRC-32 over bytes and their CRC-32 is the
    same number for all of them.
    """
    return int(_CHECKSUM.unpack_from(header, HEADER_BYTES - _CHECKSUM.size)[0])


# --- frames ---


class FrameKind(enum.IntEnum):
    COMMIT = 1
    """A commit group: what it changes."""
    MARK = 2
    """A writer has opened or closed the journal: everything before it in the file is on disk."""
    PART = 3
    """A piece of a snapshot."""
    END = 4
    """The end of a snapshot, with its numbers."""


@frozen
class Frame:
    """A frame's header, which is whole."""

    kind: int
    sequence: int
    """Of a commit: its own. Of a mark: the last commit's. In a snapshot: counts from 0."""
    payload_bytes: int
    synced: int
    """Everything before this byte of the file was on disk when the frame was written."""
    payload_checksum: int
    offset: int
    """Where it begins."""

    @property
    def payload_start(self) -> int:
        return self.offset + FRAME_BYTES

    @property
    def end(self) -> int:
        return self.payload_start + self.payload_bytes


def fill_in_frame(frame: bytearray, salt: int, kind: int, sequence: int, synced: int) -> None:
    """Write the header of a frame whose payload stands after `FRAME_BYTES` in it already.

    ``salt``: see `salt_of`. ``synced``: see `Frame`.
    """
    with memoryview(frame) as view:
        checksum = zlib.crc32(view[FRAME_BYTES:])
        length = len(view) - FRAME_BYTES
        checked = _FRAME_CHECKED.pack(checksum, kind, sequence, length, synced)
        header_checksum = zlib.crc32(checked, salt)
        _FRAME.pack_into(
            view, 0, FRAME_MAGIC, header_checksum, checksum, kind, sequence, length, synced
        )


def decode_frame_header(data: Buffer, offset: int, salt: int, *, base: int = 0) -> Frame | None:
    """The frame header at an offset of ``data``, if a whole one is there.

    ``base`` is where ``data`` begins in its file.
    """
    if len(data) - offset < FRAME_BYTES:
        return None
    magic, header_checksum, checksum, kind, sequence, length, synced = _FRAME.unpack_from(
        data, offset
    )
    if magic != FRAME_MAGIC:
        return None
    checked = data[offset + _CHECKED_FROM : offset + FRAME_BYTES]
    if zlib.crc32(checked, salt) != header_checksum:
        return None
    return Frame(kind, sequence, length, synced, checksum, base + offset)

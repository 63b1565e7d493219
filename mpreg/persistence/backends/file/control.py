"""The control file: the generation, and how far the journal was on disk. Plain functions, no I/O.

It is the one file that is written over. It has two slots, a sector each, written in turn: a power
cut can spoil the slot that is being written, and the other still says what was true before.
"""

from __future__ import annotations

import struct
import zlib
from typing import Final

from attrs import frozen

from mpreg.persistence.backends.file.format import (
    CONTROL_MAGIC,
    FORMAT_VERSION,
    STAMP_BYTES,
    DamageError,
    NewerFormatError,
    decode_stamp,
    encode_stamp,
)

__all__ = [
    "CONTROL_BYTES",
    "SLOT_OFFSETS",
    "Control",
    "decode_control",
    "encode_slot",
    "new_control",
]

_SLOT: Final = struct.Struct("<QQ")
_CHECKSUM: Final = struct.Struct("<I")
SLOT_OFFSETS: Final = (512, 1_024)
CONTROL_BYTES: Final = 1_536


@frozen(order=True)
class Control:
    generation: int
    """Of the last writer that has opened the journal."""
    durable_sequence: int
    """The journal was on disk up to this commit. It may have been longer."""


def encode_slot(control: Control) -> bytes:
    slot = _SLOT.pack(control.generation, control.durable_sequence)
    return slot + _CHECKSUM.pack(zlib.crc32(slot))


def new_control() -> bytes:
    """A control file that nobody has opened yet."""
    content = bytearray(CONTROL_BYTES)
    content[:STAMP_BYTES] = encode_stamp(CONTROL_MAGIC)
    slot = encode_slot(Control(0, 0))
    for offset in SLOT_OFFSETS:
        content[offset : offset + len(slot)] = slot
    return bytes(content)


def decode_control(data: bytes) -> tuple[Control, int]:
    """The newest slot that is whole, and which one it is.

    Raises:
        DamageError: damaged.
        NewerFormatError: written by a newer mpreg.
    """
    version = decode_stamp(data, CONTROL_MAGIC)
    if version > FORMAT_VERSION:
        raise NewerFormatError(version)
    slots = [(slot, index) for index in (0, 1) if (slot := _decode_slot(data, index)) is not None]
    if not slots:
        raise DamageError("neither of the two slots matches its checksum", SLOT_OFFSETS[0])
    return max(slots)


def _decode_slot(data: bytes, index: int) -> Control | None:
    start = SLOT_OFFSETS[index]
    slot = data[start : start + _SLOT.size]
    checksum = data[start + _SLOT.size : start + _SLOT.size + _CHECKSUM.size]
    if len(checksum) < _CHECKSUM.size or _CHECKSUM.unpack(checksum)[0] != zlib.crc32(slot):
        return None
    return Control(*_SLOT.unpack(slot))

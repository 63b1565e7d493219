"""What is kept about acknowledged commits beside the store: its bytes, and what they say of it.

A file of two slots, each in a block of its own. They are written in turn, so that a write that a
power cut tears leaves the other one::

    0      slot 0: magic, format version, count, generation, opened sequence, sequence, CRC-32
    4096   slot 1: the same

All numbers are little-endian. The CRC is at the end of the 64 bytes of a slot and covers all before
it, also what a later format version may put there.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from typing import Final

from attrs import frozen

from mpreg.persistence.backend import FoundState

__all__ = [
    "BLOCK_BYTES",
    "FORMAT_VERSION",
    "SLOTS",
    "SLOT_BYTES",
    "AckedRecord",
    "Slot",
    "decode_slot",
    "encode_slot",
    "missing_sequences",
    "newest_slot",
]

SLOTS: Final = 2
BLOCK_BYTES: Final = 4096
"""Between the slots: no device writes two of these as one."""
SLOT_BYTES: Final = 64
FORMAT_VERSION: Final = 1

_MAGIC: Final = b"mpregack"
_FIELDS: Final = struct.Struct("<8sIQQQQ")
_CHECKSUM: Final = struct.Struct("<I")


@frozen(order=True)
class AckedRecord:
    """Up to which commit durable acks were given."""

    generation: int
    """Of the writer that gave them."""
    opened_sequence: int
    """The store's commit sequence when that writer opened it: what is above is its own work."""
    sequence: int
    """The last commit known to be durable; the store had every one up to it."""


@frozen
class Slot:
    """A slot that is intact."""

    version: int
    """Of the format. Where it is newer than `FORMAT_VERSION`, the rest means nothing."""
    count: int
    """How many slots were written before it: the higher is the newer."""
    record: AckedRecord


def encode_slot(count: int, record: AckedRecord) -> bytes:
    fields = _FIELDS.pack(
        _MAGIC,
        FORMAT_VERSION,
        count,
        record.generation,
        record.opened_sequence,
        record.sequence,
    )
    body = fields.ljust(SLOT_BYTES - _CHECKSUM.size, b"\x00")
    return body + _CHECKSUM.pack(zlib.crc32(body))


def decode_slot(data: bytes) -> Slot | None:
    """None where it is damaged: torn, cut off, or nothing of ours."""
    if len(data) != SLOT_BYTES or not data.startswith(_MAGIC):
        return None
    body, (checksum,) = data[: -_CHECKSUM.size], _CHECKSUM.unpack(data[-_CHECKSUM.size :])
    if zlib.crc32(body) != checksum:
        return None
    _, version, count, *numbers = _FIELDS.unpack_from(body)
    return Slot(version, count, AckedRecord(*numbers))


def newest_slot(slots: Sequence[Slot | None]) -> int | None:
    """The index of the slot that counts; None where all are damaged."""
    intact = [(slot.count, index) for index, slot in enumerate(slots) if slot is not None]
    return max(intact)[1] if intact else None


def missing_sequences(
    record: AckedRecord | None, found: FoundState | None
) -> tuple[int, int] | None:
    """The first and the last commit that was acknowledged and that the store does not have.

    None where it has all of them. ``record`` is None where nothing is known of what was
    acknowledged, and ``found`` where there is no store at all. A store may also know by itself that
    its end is missing.

    A store that has never seen the record's writer cannot have what that one committed, whatever
    its own sequence: it is another copy, which went on by itself and counts the same numbers for
    other commits. It has what both have in common, at most up to where that writer began.
    """
    held = last = 0
    if found is not None:
        held, last = found.commit_sequence, found.lost_sequence
    if record is not None:
        if found is not None and found.generation < record.generation:
            held = min(held, record.opened_sequence)
        last = max(last, record.sequence)
    return (held + 1, last) if held < last else None

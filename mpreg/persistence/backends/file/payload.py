"""What a frame carries: the changes of a commit group, or a piece of a snapshot. As MessagePack.

A frame holds the *plan* of its group and not what was asked for: the final state of each key and
log, versions and offsets included. So a replay decides nothing and cannot come out another way.
"""

from __future__ import annotations

from typing import Final

import msgspec

from mpreg.persistence.backends.file.format import FRAME_BYTES, Buffer
from mpreg.persistence.backends.state import Changes, MemoryState, unpack_entry
from mpreg.persistence.commit_group import NewEntry, NewRecord
from mpreg.persistence.operations import EntryKey

__all__ = [
    "FramePayload",
    "Mark",
    "SnapshotEnd",
    "apply_payload",
    "decode_end",
    "decode_mark",
    "encode_changes",
    "encode_piece",
    "encode_struct",
]


class FramePayload(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A commit's changes; see `CommitPlan` for the fields."""

    last_version: int
    entries: dict[EntryKey, NewEntry | None]
    records: list[NewRecord]
    truncated: dict[bytes, int]
    deleted: list[bytes]
    begun: dict[bytes, int] = {}
    """Only in a snapshot: logs that begin here, with their first offsets."""


class Mark(msgspec.Struct, array_like=True, frozen=True, gc=False):
    generation: int
    """Of the writer that has opened or closed the journal."""


class SnapshotEnd(msgspec.Struct, array_like=True, frozen=True, gc=False):
    last_version: int
    parts: int
    """Frames before this one."""


_encoder: Final = msgspec.msgpack.Encoder()
_payloads: Final = msgspec.msgpack.Decoder(FramePayload)
_marks: Final = msgspec.msgpack.Decoder(Mark)
_ends: Final = msgspec.msgpack.Decoder(SnapshotEnd)


def encode_changes(changes: Changes, frame: bytearray) -> None:
    """Put a plan's changes into a frame, after the room for its header."""
    fields = (
        changes.last_version,
        changes.entries,
        changes.records,
        changes.truncated,
        changes.deleted,
    )
    _encoder.encode_into(fields, frame, FRAME_BYTES)


def encode_piece(
    last_version: int,
    entries: list[tuple[EntryKey, bytes]],
    begun: dict[bytes, int],
    records: list[NewRecord],
    frame: bytearray,
) -> None:
    """Put a piece of a snapshot into a frame. Its entries are packed ones."""
    unpacked = {key: unpack_entry(packed) for key, packed in entries}
    _encoder.encode_into((last_version, unpacked, records, {}, (), begun), frame, FRAME_BYTES)


def encode_struct(payload: Mark | SnapshotEnd, frame: bytearray) -> None:
    _encoder.encode_into(payload, frame, FRAME_BYTES)


def apply_payload(payload: Buffer, state: MemoryState) -> None:
    """Make the changes that a frame carries.

    Raises:
        ValueError: it cannot be decoded, or does not fit what the state holds.
    """
    changes = _payloads.decode(payload)
    for log, first_offset in changes.begun.items():
        state.start_log(log, first_offset)
    state.carry_out(changes)


def decode_mark(payload: Buffer) -> Mark:
    """Raises ValueError where it is none."""
    return _marks.decode(payload)


def decode_end(payload: Buffer) -> SnapshotEnd:
    """Raises ValueError where it is none."""
    return _ends.decode(payload)

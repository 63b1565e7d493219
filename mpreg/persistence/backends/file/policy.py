"""When a segment ends, when a snapshot is due, and how fast it is written. Plain functions."""

from __future__ import annotations

from typing import Final

__all__ = ["STEP_BYTES_MIN", "room_ahead", "segment_is_full", "snapshot_is_due", "step_bytes"]

SEGMENTS_MIN: Final = 4
STEP_BYTES_MIN: Final = 64 << 10
_ROOM_BYTES: Final = 1 << 20


def segment_is_full(segment_bytes: int, segment_bytes_max: int) -> bool:
    return segment_bytes >= segment_bytes_max


def snapshot_is_due(journal_bytes: int, live_bytes: int, segment_bytes_max: int) -> bool:
    """Whether the journal has become longer than what it is good for.

    A snapshot costs as much as there is alive, so it comes when as much was written: then each
    byte is written at most twice, however much there is. Not for a few segments: a small store is
    read again at once anyhow.
    """
    return journal_bytes >= max(live_bytes, SEGMENTS_MIN * segment_bytes_max)


def step_bytes(frame_bytes: int) -> int:
    """How much of a snapshot is written after a commit of so many bytes.

    In proportion: so a snapshot ends before the journal has grown by half of it, however large the
    groups are, and no commit waits for more than about twice the bytes of the one before it.
    """
    return max(STEP_BYTES_MIN, 2 * frame_bytes)


def room_ahead(end: int, segment_bytes_max: int) -> int:
    """Up to where a segment is filled with zeros ahead of what is written to it.

    An fdatasync that need not write the file's new length as well takes a third of the time.
    """
    return max(end, min(end + _ROOM_BYTES, segment_bytes_max))

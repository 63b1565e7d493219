"""What the bytes of a segment say: which frames stand, where they end, torn or damaged. Pure.

A crash leaves a *torn tail*: what was being written, and what was not synced, may be there in part,
in any part. Everything else that is not as it was written is *damage*. The two look alike, byte by
byte. What tells them apart are the frames after the bad place: each says up to which byte the file
was on disk when it was written. Where one of them vouches for the bad place, that was whole once,
and no crash could take it back.
"""

from __future__ import annotations

import zlib
from typing import Final

from attrs import frozen

from mpreg.persistence.backends.file.format import (
    FRAME_MAGIC,
    HEADER_BYTES,
    DamageError,
    Frame,
    FrameKind,
    decode_frame_header,
    salt_of,
)

__all__ = ["Segment", "scan_segment"]

_ZEROS: Final = bytes(1 << 16)


@frozen
class Segment:
    """The frames of a segment that stand, from its first byte on without a gap."""

    frames: list[Frame]
    last_sequence: int
    """Of the last commit; that before the segment where it has none."""
    end: int
    """Where they end. What follows is to be cut off."""
    torn: str
    """What is wrong with what follows; empty where nothing follows but zeros."""


def scan_segment(data: bytes, first_sequence: int, *, is_last: bool) -> Segment:
    """Look through a whole segment. Its header was found to be whole.

    Args:
        data: The file, from its first byte.
        first_sequence: Of the first commit in it.
        is_last: Whether no other segment follows. Only then it may have a torn tail: a segment is
            synced before the next one is begun.

    Raises:
        DamageError: damaged, with the byte where that begins.
    """
    salt = salt_of(data)
    frames: list[Frame] = []
    last, end = first_sequence - 1, HEADER_BYTES
    with memoryview(data) as view:
        while True:
            frame = decode_frame_header(view, end, salt)
            torn = _what_is_wrong(view, end, frame, last)
            if torn is not None or frame is None:
                break
            frames.append(frame)
            last, end = frame.sequence, frame.end
    assert torn is not None
    if torn or not is_last:
        _refuse_damage(data, end, salt, torn, is_last=is_last)
    return Segment(frames, last, end, torn)


def _what_is_wrong(view: memoryview, at: int, frame: Frame | None, last: int) -> str | None:
    """None: the frame stands. Empty: nothing is there, and nothing is wrong with that.

    Raises:
        DamageError: a whole frame that does not belong here. No crash does that.
    """
    if frame is None:
        return "" if _is_blank(view, at) else "no frame begins here"
    if frame.end > len(view):
        return f"a frame that ends at byte {frame.end} is cut off"
    if zlib.crc32(view[frame.payload_start : frame.end]) != frame.payload_checksum:
        return "the frame does not match its checksum"
    expected = last + 1 if frame.kind == FrameKind.COMMIT else last
    if frame.kind not in (FrameKind.COMMIT, FrameKind.MARK) or frame.sequence != expected:
        raise DamageError(
            f"a frame of commit {frame.sequence} stands here, where {expected} comes next", at
        )
    return None


def _is_blank(view: memoryview, start: int) -> bool:
    """Whether nothing but zeros follows: room made ahead, or what a file system leaves of pages
    that were never written."""
    return all(
        view[at : at + len(_ZEROS)] == _ZEROS[: len(view) - at]
        for at in range(start, len(view), len(_ZEROS))
    )


def _refuse_damage(data: bytes, end: int, salt: int, torn: str, *, is_last: bool) -> None:
    if not is_last:
        if end != len(data):
            raise DamageError(torn or "zeros, where another segment follows", end)
        return
    at = data.find(FRAME_MAGIC, end)
    while at >= 0:
        frame = decode_frame_header(data, at, salt)
        if frame is not None and frame.synced > end:
            raise DamageError(
                f"{torn}; it was on disk when the frame at byte {at} was written after it", end
            )
        at = data.find(FRAME_MAGIC, at + 1)

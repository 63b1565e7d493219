"""The frames of a segment or snapshot, also behind damage. Pure.

The backend stops at the first bad byte. Whoever examines or repairs wants all of them, and what
can still be read behind.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final

from attrs import frozen

from mpreg.persistence.backends.file.format import (
    FRAME_MAGIC,
    Frame,
    decode_frame_header,
)

__all__ = ["Stretch", "walk_frames"]

_ZEROS: Final = bytes(1 << 16)


@frozen
class Stretch:
    """Bytes between two whole frames, or after the last one, that are no frame."""

    start: int
    stop: int
    message: str


def walk_frames(data: bytes, start: int, salt: int) -> Iterator[Frame | Stretch]:
    """Whole frames in the order in which they stand, and what lies between them.

    Zeros up to the end are nothing: room made ahead.
    """
    at = start
    while at < len(data):
        frame = decode_frame_header(data, at, salt)
        if frame is not None and _is_whole(data, frame):
            yield frame
            at = frame.end
            continue
        following = _next_whole(data, at + 1, salt)
        stop = len(data) if following is None else following
        if following is not None or data[at:stop].strip(b"\x00"):
            yield Stretch(at, stop, _what_is_wrong(data, frame))
        at = stop


def _is_whole(data: bytes, frame: Frame) -> bool:
    return (
        frame.end <= len(data)
        and zlib.crc32(data[frame.payload_start : frame.end]) == frame.payload_checksum
    )


def _next_whole(data: bytes, start: int, salt: int) -> int | None:
    at = data.find(FRAME_MAGIC, start)
    while at >= 0:
        frame = decode_frame_header(data, at, salt)
        if frame is not None and _is_whole(data, frame):
            return at
        at = data.find(FRAME_MAGIC, at + 1)
    return None


def _what_is_wrong(data: bytes, frame: Frame | None) -> str:
    if frame is None:
        return "no frame begins here"
    if frame.end > len(data):
        return f"a frame that ends at byte {frame.end} is cut off"
    return f"the frame of commit {frame.sequence} does not match its checksum"

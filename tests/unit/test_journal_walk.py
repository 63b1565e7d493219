"""The frames behind damage: whole ones are all found, and nothing else is taken for one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence.backends.file.format import (
    FRAME_BYTES,
    HEADER_BYTES,
    SEGMENT_MAGIC,
    FileHeader,
    Frame,
    FrameKind,
    encode_header,
    fill_in_frame,
    salt_of,
)
from mpreg.persistence.maintenance.journal.walk import Stretch, walk_frames

HEADER = encode_header(SEGMENT_MAGIC, FileHeader(1, 1))
SALT = salt_of(HEADER)


def frame(sequence: int, payload: bytes, salt: int = SALT) -> bytes:
    made = bytearray(FRAME_BYTES) + payload
    fill_in_frame(made, salt, FrameKind.COMMIT, sequence, 0)
    return bytes(made)


def walked(data: bytes) -> list[Frame | Stretch]:
    return list(walk_frames(data, HEADER_BYTES, SALT))


@given(
    st.lists(st.binary(max_size=60), min_size=1, max_size=6),
    st.integers(0, 64),
    st.data(),
)
def test_what_no_damage_has_touched_is_found_and_all_bytes_are_accounted_for(
    payloads: list[bytes], zeros: int, data: st.DataObject
) -> None:
    frames = [frame(number, payload) for number, payload in enumerate(payloads, 1)]
    starts = [HEADER_BYTES + sum(map(len, frames[:number])) for number in range(len(frames))]
    content = bytearray(HEADER + b"".join(frames) + bytes(zeros))
    end = HEADER_BYTES + sum(map(len, frames))
    at = data.draw(st.integers(HEADER_BYTES, end - 1))
    content[at] ^= data.draw(st.integers(1, 255))
    hit = max(number for number, start in enumerate(starts) if start <= at)
    found = walked(bytes(content))
    assert [one.sequence - 1 for one in found if isinstance(one, Frame)] == [
        number for number in range(len(frames)) if number != hit
    ]
    (stretch,) = [one for one in found if isinstance(one, Stretch)]
    assert stretch.start == starts[hit]
    covered = HEADER_BYTES
    for one in found:
        start, stop = (one.offset, one.end) if isinstance(one, Frame) else (one.start, one.stop)
        assert start == covered
        covered = stop


def test_zeros_at_the_end_are_nothing_and_between_frames_they_are_damage() -> None:
    one, two = frame(1, b"a"), frame(2, b"b")
    assert [type(item) for item in walked(HEADER + one + bytes(100))] == [Frame]
    assert walked(HEADER) == walked(HEADER + bytes(10)) == []
    kinds = [type(item) for item in walked(HEADER + one + bytes(100) + two)]
    assert kinds == [Frame, Stretch, Frame]


def test_a_frame_of_another_file_that_lies_in_damage_is_none() -> None:
    other = frame(7, b"old", salt=SALT ^ 1)
    found = walked(HEADER + other + frame(1, b"a"))
    assert [type(item) for item in found] == [Stretch, Frame]
    assert isinstance(found[0], Stretch)
    assert found[0].stop - found[0].start == len(other)


def test_what_is_wrong_is_said() -> None:
    cut = frame(1, b"abcdef")[:-2]
    spoilt = bytearray(frame(2, b"abc"))
    spoilt[-1] ^= 1
    for data, message in (
        (cut, f"a frame that ends at byte {HEADER_BYTES + len(cut) + 2} is cut off"),
        (bytes(spoilt), "the frame of commit 2 does not match its checksum"),
        (b"???", "no frame begins here"),
    ):
        (found,) = walked(HEADER + data)
        assert isinstance(found, Stretch)
        assert found.message == message

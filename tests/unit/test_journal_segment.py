"""What the bytes of a segment are taken for: every cut, flip, hole and copy, and what is left."""

from __future__ import annotations

import pytest
from attrs import frozen
from hypothesis import example, given
from hypothesis import strategies as st

from mpreg.persistence.backends.file.format import (
    FORMAT_VERSION,
    FRAME_BYTES,
    HEADER_BYTES,
    SEGMENT_MAGIC,
    SNAPSHOT_MAGIC,
    DamageError,
    FileHeader,
    FrameKind,
    NewerFormatError,
    decode_frame_header,
    decode_header,
    encode_header,
    encode_stamp,
    fill_in_frame,
    salt_of,
)
from mpreg.persistence.backends.file.segment import Segment, scan_segment

FIRST = 7


@frozen
class Written:
    """A segment as a writer leaves it: which frames it has, and up to where it was synced."""

    content: bytes
    ends: list[int]
    """Of the header and of each frame."""
    sequences: list[int]
    """The last commit at each of these ends."""
    synced: int
    """Up to here a crash can take nothing away."""

    @property
    def last(self) -> int:
        return self.sequences[-1]

    def whole_before(self, offset: int) -> int:
        """How many frames end at or before an offset."""
        return sum(end <= offset for end in self.ends) - 1


def write(payloads: list[bytes], kinds: list[bool], synced_after: list[bool]) -> Written:
    header = encode_header(SEGMENT_MAGIC, FileHeader(FIRST, 3))
    content = bytearray(header)
    ends, sequences, synced = [len(header)], [FIRST - 1], len(header)
    for payload, is_commit, sync in zip(payloads, kinds, synced_after, strict=True):
        frame = bytearray(FRAME_BYTES) + payload
        sequence = sequences[-1] + is_commit
        kind = FrameKind.COMMIT if is_commit else FrameKind.MARK
        fill_in_frame(frame, salt_of(header), kind, sequence, synced)
        content += frame
        ends.append(len(content))
        sequences.append(sequence)
        if sync:
            synced = len(content)
    return Written(bytes(content), ends, sequences, synced)


@st.composite
def segments(draw: st.DrawFn, *, least: int = 0) -> Written:
    count = draw(st.integers(least, 8))
    payloads = draw(st.lists(st.binary(max_size=60), min_size=count, max_size=count))
    flags = st.lists(st.booleans(), min_size=count, max_size=count)
    return write(payloads, draw(flags), draw(flags))


def scan(content: bytes, *, is_last: bool = True) -> Segment:
    return scan_segment(content, FIRST, is_last=is_last)


def vouched_after(written: Written, place: int, frames: int) -> bool:
    """Whether a frame after so many was written when the place was on disk."""
    salt = salt_of(written.content)
    later = [
        decode_frame_header(written.content, start, salt) for start in written.ends[frames + 1 : -1]
    ]
    return any(frame is not None and frame.synced > place for frame in later)


@given(segments())
def test_what_was_written_is_found(written: Written) -> None:
    for is_last in (True, False):
        found = scan(written.content, is_last=is_last)
        assert [frame.end for frame in found.frames] == written.ends[1:]
        assert (found.last_sequence, found.end, found.torn) == (
            written.last,
            len(written.content),
            "",
        )


@given(segments(), st.integers(0, 200_000))
def test_zeros_after_the_last_frame_are_room(written: Written, zeros: int) -> None:
    found = scan(written.content + bytes(zeros))
    assert (found.end, found.torn) == (len(written.content), "")


@given(segments(least=1))
def test_a_segment_cut_off_anywhere_ends_with_its_last_whole_frame(written: Written) -> None:
    for cut in range(HEADER_BYTES, len(written.content)):
        found = scan(written.content[:cut])
        whole = written.whole_before(cut)
        assert len(found.frames) == whole
        assert found.end == written.ends[whole]
        assert found.last_sequence == written.sequences[whole]


@given(segments(least=1))
def test_a_segment_that_is_not_the_last_may_not_be_cut_off_within_a_frame(written: Written) -> None:
    for cut in range(HEADER_BYTES, len(written.content)):
        if cut not in written.ends:
            with pytest.raises(DamageError) as caught:
                scan(written.content[:cut], is_last=False)
            assert caught.value.offset == written.ends[written.whole_before(cut)]


@given(segments(least=1), st.data())
def test_any_changed_bit_is_found_and_what_was_synced_is_missed(
    written: Written, data: st.DataObject
) -> None:
    """Damage wherever a later frame vouches for the place; else it may be a torn tail."""
    at = data.draw(st.integers(HEADER_BYTES, len(written.content) - 1))
    changed = bytearray(written.content)
    changed[at] ^= 1 << data.draw(st.integers(0, 7))
    whole = written.whole_before(at)
    place = written.ends[whole]
    if vouched_after(written, place, whole):
        with pytest.raises(DamageError, match="was on disk when") as caught:
            scan(bytes(changed))
        assert caught.value.offset == place
    else:
        found = scan(bytes(changed))
        assert (found.end, len(found.frames)) == (place, whole)
        assert found.torn
    with pytest.raises(DamageError) as caught:
        scan(bytes(changed), is_last=False)
    assert caught.value.offset == place


@given(segments(least=1), st.data())
def test_holes_of_zeros_are_a_torn_tail_unless_vouched_for(
    written: Written, data: st.DataObject
) -> None:
    """What a file system leaves of pages that never came to the disk."""
    start = data.draw(st.integers(HEADER_BYTES, len(written.content) - 1))
    stop = data.draw(st.integers(start + 1, len(written.content)))
    holed = written.content[:start] + bytes(stop - start) + written.content[stop:]
    if holed == written.content:
        return
    first = next(at for at, byte in enumerate(holed) if byte != written.content[at])
    whole = written.whole_before(first)
    place = written.ends[whole]
    if any(
        frame.synced > place
        for end in written.ends[whole:-1]
        if (frame := decode_frame_header(holed, end, salt_of(holed))) is not None
    ):
        with pytest.raises(DamageError) as caught:
            scan(holed)
        assert caught.value.offset == place
    else:
        assert scan(holed).end == place


@given(segments(least=2), st.data())
def test_a_power_cut_never_leaves_damage(written: Written, data: st.DataObject) -> None:
    """Of what was not synced anything may be missing, in sectors, whatever stands after it."""
    after = bytearray(written.content)
    sector = data.draw(st.sampled_from([16, 64]))
    for start in range(written.synced, len(after), sector):
        if data.draw(st.booleans()):
            end = min(start + sector, len(after))
            after[start:end] = bytes(end - start)
    found = scan(bytes(after[: data.draw(st.integers(written.synced, len(after)))]))
    assert found.end >= written.synced
    assert found.end in written.ends


@given(segments(least=1), st.data())
def test_a_frame_that_stands_there_twice_is_damage(written: Written, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(written.ends) - 2))
    start, stop = written.ends[number : number + 2]
    twice = written.content[:stop] + written.content[start:stop] + written.content[stop:]
    is_mark = written.sequences[number] == written.sequences[number + 1]
    if is_mark:
        # A mark changes nothing, and one more changes nothing.
        assert scan(twice).last_sequence == written.last
        return
    with pytest.raises(DamageError, match="comes next") as caught:
        scan(twice)
    assert caught.value.offset == stop


@given(segments(least=2), st.data())
def test_a_frame_that_is_missing_is_damage(written: Written, data: st.DataObject) -> None:
    number = data.draw(st.integers(0, len(written.ends) - 3))
    start, stop = written.ends[number : number + 2]
    without = written.content[:start] + written.content[stop:]
    follows = written.sequences[number + 2] - written.sequences[number + 1]
    if written.sequences[number] == written.sequences[number + 1]:
        return
    with pytest.raises(DamageError, match="comes next") as caught:
        scan(without)
    assert caught.value.offset == start or follows == 0


@given(segments(least=1), st.binary(min_size=1, max_size=200))
def test_garbage_after_the_last_frame_is_cut_off(written: Written, garbage: bytes) -> None:
    found = scan(written.content + garbage)
    assert (found.last_sequence, found.end) == (written.last, len(written.content))


@given(segments(least=1))
def test_a_frame_of_another_segment_does_not_count(written: Written) -> None:
    """Nor does one that a user has stored as a value: it says it was written before its own."""
    other = encode_header(SEGMENT_MAGIC, FileHeader(FIRST, 4)) + written.content[HEADER_BYTES:]
    found = scan(other)
    assert (found.frames, found.end) == ([], HEADER_BYTES)


def test_a_torn_frame_whose_value_is_a_copy_of_the_segment_is_a_torn_frame() -> None:
    before = write([b"one", b"two"], [True, True], [True, True])
    written = write([b"one", b"two", before.content], [True] * 3, [True, True, False])
    torn = written.content[: before.ends[-1]] + bytes(60) + written.content[before.ends[-1] + 60 :]
    assert scan(torn).end == before.ends[-1]


@given(st.binary(max_size=400))
@example(b"")
def test_any_bytes_have_a_verdict(content: bytes) -> None:
    header = encode_header(SEGMENT_MAGIC, FileHeader(FIRST, 1))
    assert scan(header + content).end >= HEADER_BYTES


# --- headers ---


@given(st.integers(0, 2**64 - 1), st.integers(0, 2**64 - 1))
def test_a_header_comes_back(sequence: int, generation: int) -> None:
    header = FileHeader(sequence, generation)
    assert decode_header(encode_header(SEGMENT_MAGIC, header), SEGMENT_MAGIC) == header


def test_a_header_that_is_cut_off_or_changed_is_damage_with_its_place() -> None:
    header = encode_header(SEGMENT_MAGIC, FileHeader(FIRST, 1))
    for cut in range(len(header)):
        with pytest.raises(DamageError):
            decode_header(header[:cut], SEGMENT_MAGIC)
    for bit in range(8 * len(header)):
        changed = bytearray(header)
        changed[bit // 8] ^= 1 << bit % 8
        with pytest.raises(DamageError) as caught:
            decode_header(bytes(changed), SEGMENT_MAGIC)
        assert caught.value.offset <= bit // 8
    with pytest.raises(DamageError):
        decode_header(header, SNAPSHOT_MAGIC)


def test_a_newer_version_is_told_whatever_follows_it() -> None:
    for rest in (b"", b"anything"):
        with pytest.raises(NewerFormatError) as caught:
            decode_header(encode_stamp(SEGMENT_MAGIC, FORMAT_VERSION + 1) + rest, SEGMENT_MAGIC)
        assert caught.value.version == FORMAT_VERSION + 1

"""The bytes that say what was acknowledged, and what they say of a store."""

from __future__ import annotations

import struct
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence.acked_record import (
    FORMAT_VERSION,
    SLOT_BYTES,
    AckedRecord,
    Slot,
    decode_slot,
    encode_slot,
    missing_sequences,
    newest_slot,
)
from mpreg.persistence.backend import FoundState

NUMBERS = st.integers(0, 2**64 - 1)
SMALL = st.integers(0, 12)
RECORDS = st.builds(AckedRecord, NUMBERS, NUMBERS, NUMBERS)


@given(NUMBERS, RECORDS)
def test_a_slot_comes_back_as_it_was_written(count: int, record: AckedRecord) -> None:
    encoded = encode_slot(count, record)
    assert len(encoded) == SLOT_BYTES
    assert decode_slot(encoded) == Slot(FORMAT_VERSION, count, record)


@given(NUMBERS, RECORDS, st.integers(0, SLOT_BYTES * 8 - 1))
def test_one_flipped_bit_makes_a_slot_damaged(count: int, record: AckedRecord, bit: int) -> None:
    encoded = bytearray(encode_slot(count, record))
    encoded[bit // 8] ^= 1 << bit % 8
    assert decode_slot(bytes(encoded)) is None


@given(NUMBERS, RECORDS, st.integers(0, SLOT_BYTES - 1))
def test_a_slot_cut_off_is_damaged(count: int, record: AckedRecord, length: int) -> None:
    assert decode_slot(encode_slot(count, record)[:length]) is None


@given(NUMBERS, RECORDS, RECORDS, st.integers(1, SLOT_BYTES - 1))
def test_a_slot_torn_anywhere_is_the_old_one_the_new_one_or_damaged(
    count: int, old: AckedRecord, new: AckedRecord, at: int
) -> None:
    before, after = encode_slot(count, old), encode_slot(count ^ 1, new)
    assert decode_slot(after[:at] + before[at:]) in (decode_slot(before), decode_slot(after), None)


@given(st.binary(max_size=2 * SLOT_BYTES))
def test_any_bytes_are_judged_and_never_crash(data: bytes) -> None:
    assert decode_slot(data) is None


def test_zeros_are_no_slot() -> None:
    assert decode_slot(bytes(SLOT_BYTES)) is None


def test_the_version_of_a_newer_format_can_be_read() -> None:
    body = struct.pack("<8sI", b"mpregack", 9).ljust(SLOT_BYTES - 4, b"?")
    slot = decode_slot(body + struct.pack("<I", zlib.crc32(body)))
    assert slot is not None
    assert slot.version == 9


@given(st.lists(st.one_of(st.none(), NUMBERS), min_size=1, max_size=4))
def test_the_slot_with_the_highest_count_counts(counts: list[int | None]) -> None:
    record = AckedRecord(1, 0, 0)
    slots = [None if count is None else Slot(1, count, record) for count in counts]
    newest = newest_slot(slots)
    intact = [count for count in counts if count is not None]
    if newest is None:
        assert intact == []
    else:
        assert counts[newest] == max(intact)


# --- what is missing ---


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        (FoundState(100, 7), None),
        (FoundState(101, 7), None),
        (FoundState(100, 8), None),
        (FoundState(99, 7), (100, 100)),
        (FoundState(50, 7), (51, 100)),
        (FoundState(50, 9), (51, 100)),
        (FoundState(0, 0), (1, 100)),
        (None, (1, 100)),
        # Copies that never saw the seventh writer, which began after commit 60.
        (FoundState(60, 6), (61, 100)),
        (FoundState(50, 6), (51, 100)),
        (FoundState(100, 6), (61, 100)),
        (FoundState(500, 6), (61, 100)),
    ],
)
def test_what_a_store_lacks_of_the_commits_acknowledged(
    found: FoundState | None, expected: tuple[int, int] | None
) -> None:
    assert missing_sequences(AckedRecord(7, 60, 100), found) == expected


def test_a_store_that_lost_only_the_number_of_its_last_opening_lacks_nothing() -> None:
    assert missing_sequences(AckedRecord(7, 60, 60), FoundState(60, 6)) is None


def test_a_store_in_which_nothing_was_ever_committed_may_be_gone() -> None:
    assert missing_sequences(AckedRecord(7, 0, 0), None) is None


@given(st.data())
def test_a_store_that_lost_nothing_is_never_accused_and_one_that_lost_is_found_out(
    data: st.DataObject,
) -> None:
    """Writers open one after the other and commit; the record is that of any moment; the store is
    found as it was at any moment."""
    draw = data.draw
    moments = [(0, FoundState(0, 0), AckedRecord(0, 0, 0))]
    sequence = 0
    for generation in range(1, 1 + draw(st.integers(1, 4))):
        opened = sequence
        for sequence in range(opened, opened + draw(SMALL) + 1):
            record = AckedRecord(generation, opened, sequence)
            moments.append((len(moments), FoundState(sequence, generation), record))
    acked_at, acked, record = draw(st.sampled_from(moments))
    found_at, found, _ = draw(st.sampled_from(moments))
    missing = missing_sequences(record, found)
    if found_at >= acked_at:
        assert missing is None
    if missing is None:
        assert found.commit_sequence >= acked.commit_sequence
    else:
        assert missing == (found.commit_sequence + 1, acked.commit_sequence)

"""The pure parts of snapshots: cutting into chunks, slots, and names out of a user's reach."""

from __future__ import annotations

import math
import zlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.codec import NAME_BYTES_MAX, decode_name, encode_name, encode_reserved_name
from mpreg.errors import InvalidArgumentError, ValueTooLargeError
from mpreg.persistence.snapshots import SnapshotRetention, SnapshotSharing
from mpreg.persistence.snapshots.chunks import ChunkCutter

ANY_NAME = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), min_size=1)


@given(st.lists(st.binary(max_size=25)), st.integers(1, 10))
def test_pieces_of_any_size_become_chunks_of_one_size_and_a_rest(
    pieces: list[bytes], chunk_bytes: int
) -> None:
    cutter = ChunkCutter(chunk_bytes)
    full = [chunk for piece in pieces for chunk in cutter.cut(piece)]
    rest = list(cutter.cut_rest())
    assert all(len(chunk) == chunk_bytes for chunk in full)
    assert [0 < len(chunk) < chunk_bytes for chunk in rest] in ([], [True])
    whole = b"".join(pieces)
    assert b"".join(full + rest) == whole
    assert cutter.chunks == len(full + rest)
    assert (cutter.size_bytes, cutter.checksum) == (len(whole), zlib.crc32(whole))


def test_a_full_chunk_is_given_with_the_piece_that_fills_it() -> None:
    cutter = ChunkCutter(3)
    assert list(cutter.cut(b"ab")) == []
    assert list(cutter.cut(b"c")) == [b"abc"]
    assert list(cutter.cut(b"defghij")) == [b"def", b"ghi"]
    assert list(cutter.cut_rest()) == [b"j"]


def test_each_save_holds_the_first_free_slot_of_its_snapshot() -> None:
    slots = SnapshotSharing()
    with slots.hold(b"a", slots.first_free_slot(b"a")):
        assert not slots.is_free(b"a", 0)
        assert slots.first_free_slot(b"b") == 0
        with slots.hold(b"a", 2):
            assert slots.first_free_slot(b"a") == 1
        with pytest.raises(LookupError), slots.hold(b"a", slots.first_free_slot(b"a")):
            raise LookupError
        assert slots.first_free_slot(b"a") == 1
    assert slots.first_free_slot(b"a") == 0


@given(ANY_NAME, ANY_NAME)
def test_no_users_name_reaches_a_reserved_one(name: str, other: str) -> None:
    assert encode_reserved_name("snapshot", name) != encode_name(other)
    assert encode_reserved_name("snapshot", name)[0] == 0xFF
    assert encode_name(other)[0] != 0xFF


@given(ANY_NAME, ANY_NAME)
def test_no_two_snapshots_share_a_name(one: str, other: str) -> None:
    same = encode_reserved_name("snapshot", one) == encode_reserved_name("snapshot", other)
    assert same is (one == other)


def test_a_reserved_name_can_be_shown() -> None:
    assert (
        decode_name(encode_reserved_name("snapshot", "images\ud800")) == "<snapshot/images\ud800>"
    )


def test_a_reserved_name_is_checked_like_any_other() -> None:
    with pytest.raises(InvalidArgumentError):
        encode_reserved_name("snapshot", "")
    with pytest.raises(InvalidArgumentError):
        encode_reserved_name("snapshot", b"bytes")  # type: ignore[arg-type]
    with pytest.raises(ValueTooLargeError):
        encode_reserved_name("snapshot", "n" * (NAME_BYTES_MAX + 1))


def test_chunks_are_left_to_the_last_of_those_who_read_them() -> None:
    sharing = SnapshotSharing()
    sharing.begin_read(b"a", 1)
    sharing.begin_read(b"a", 1)
    sharing.begin_read(b"a", 2)
    assert sharing.is_read(b"a", 1)
    assert not sharing.is_read(b"b", 1)
    assert not sharing.end_read(b"a", 2), "nobody has wanted to remove these"
    sharing.leave_to_reads(b"a", 1)
    assert not sharing.end_read(b"a", 1)
    assert sharing.end_read(b"a", 1)
    assert not sharing.is_read(b"a", 1)
    sharing.begin_read(b"a", 1)
    assert not sharing.end_read(b"a", 1), "it was told once"


def test_only_one_removes_the_chunks_of_a_save() -> None:
    sharing = SnapshotSharing()
    with sharing.removal(b"a", 1) as alone:
        assert alone
        with sharing.removal(b"a", 1) as second, sharing.removal(b"a", 2) as other:
            assert (second, other) == (False, True)
        with sharing.removal(b"a", 1) as third:
            assert not third, "whoever was refused has not ended it"
    with sharing.removal(b"a", 1) as again:
        assert again


def test_upkeep_is_told_which_snapshot_is_due() -> None:
    sharing = SnapshotSharing()
    assert sharing.earliest_due == math.inf
    sharing.be_due(b"a", 10.0)
    sharing.be_due(b"b", 20.0)
    assert sharing.earliest_due == 10.0
    assert sharing.due_at(9.0) == []
    assert sharing.due_at(15.0) == [b"a"]
    sharing.be_due(b"a", math.inf)
    assert sharing.earliest_due == 20.0
    sharing.keep(b"c", SnapshotRetention())
    assert sharing.due_at(0.0) == [b"c"]
    assert sharing.retention(b"c") == SnapshotRetention()
    assert sharing.retention(b"a") is None

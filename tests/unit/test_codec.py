"""Names and keys as bytes, and the checksums."""

from __future__ import annotations

import zlib

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from mpreg.codec import (
    KEY_BYTES_MAX,
    NAME_BYTES_MAX,
    checksum_entry,
    checksum_record,
    decode_key,
    decode_name,
    encode_bytes,
    encode_key,
    encode_keys,
    encode_name,
    prefix_end,
)
from mpreg.errors import InvalidArgumentError, ValueTooLargeError
from tests.unit.examples import examples

#: Every code point, lone surrogates and NUL too: `st.text()` alone leaves the surrogates out.
ANY_TEXT = st.text(st.characters(codec=None) | st.characters(categories=["Cs"]), max_size=12)
ANY_KEY = ANY_TEXT | st.binary(max_size=12)
#: Bytes that meet the edges of `prefix_end` often.
EDGE_BYTES = st.lists(st.sampled_from([0x00, 0x01, 0x7F, 0xFE, 0xFF]), max_size=5).map(bytes)


@settings(max_examples=examples(250))
@given(ANY_KEY)
@example("")
@example(b"")
@example("\x00")
@example("\ud83d\ude00")
@example("\U0001f600")
@example("\U0010ffff")
def test_a_key_comes_back_as_what_it_was(key: str | bytes) -> None:
    decoded = decode_key(encode_key(key))
    assert decoded == key
    assert type(decoded) is type(key)


@given(st.lists(ANY_KEY) | st.lists(st.binary(max_size=12)))
def test_many_keys_are_encoded_as_each_is(keys: list[str | bytes]) -> None:
    assert encode_keys(keys) == [encode_key(key) for key in keys]


@pytest.mark.parametrize("key", [b"x" * (KEY_BYTES_MAX + 1), "x" * (KEY_BYTES_MAX + 1)])
def test_one_of_many_keys_that_is_too_large_is_refused(key: str | bytes) -> None:
    assert len(encode_keys([b"a", b"x" * KEY_BYTES_MAX])) == 2
    with pytest.raises(ValueTooLargeError):
        encode_keys([b"a", key])
    with pytest.raises(InvalidArgumentError):
        encode_keys([b"a", None])  # type: ignore[list-item]


@settings(max_examples=examples(150))
@given(ANY_KEY, ANY_KEY)
@example("a", b"a")
@example("", b"")
@example("\x00a", b"\x00a")
@example("\ud83d\ude00", "\U0001f600")
def test_no_two_keys_share_an_encoding(one: str | bytes, other: str | bytes) -> None:
    assert (encode_key(one) == encode_key(other)) is (one == other)


@settings(max_examples=examples(150))
@given(ANY_TEXT, ANY_TEXT)
@example("\ud800", "\ue000")
@example("\uffff", "\U00010000")
def test_text_keys_sort_by_code_point(one: str, other: str) -> None:
    by_code_point = list(map(ord, one)) < list(map(ord, other))
    assert (encode_key(one) < encode_key(other)) is by_code_point


@given(st.binary(max_size=6), st.binary(max_size=6))
def test_bytes_keys_sort_as_bytes(one: bytes, other: bytes) -> None:
    assert (encode_key(one) < encode_key(other)) is (one < other)


@given(ANY_TEXT, st.binary(max_size=6))
def test_all_bytes_keys_come_before_all_text_keys(text: str, raw: bytes) -> None:
    assert encode_key(raw) < encode_key(text)


@settings(max_examples=examples(250))
@given(EDGE_BYTES, EDGE_BYTES)
@example(b"\xff", b"\xff\xff")
@example(b"\x01\xff", b"\x02")
def test_a_range_up_to_prefix_end_holds_exactly_what_starts_with_the_prefix(
    prefix: bytes, key: bytes
) -> None:
    end = prefix_end(prefix)
    in_range = key >= prefix and (end is None or key < end)
    assert in_range is key.startswith(prefix)


@settings(max_examples=examples(150))
@given(ANY_KEY, ANY_KEY)
@example("", "a")
@example("", b"a")
@example(b"", "a")
@example(b"\xff", b"\xff\xff")
def test_a_range_of_encoded_keys_is_exact_and_keeps_to_one_type(
    prefix: str | bytes, key: str | bytes
) -> None:
    start = encode_key(prefix)
    end = prefix_end(start)
    assert end is not None
    matches = (isinstance(key, str) and isinstance(prefix, str) and key.startswith(prefix)) or (
        isinstance(key, bytes) and isinstance(prefix, bytes) and key.startswith(prefix)
    )
    assert (start <= encode_key(key) < end) is matches


def test_the_empty_prefix_has_no_end() -> None:
    assert prefix_end(b"") is None
    assert prefix_end(b"\xff\xff") is None


@settings(max_examples=examples(150))
@given(ANY_TEXT.filter(bool))
def test_a_name_comes_back_as_what_it_was(name: str) -> None:
    assert decode_name(encode_name(name)) == name


@pytest.mark.parametrize("key", [None, 1, 1.5, ("a",), bytearray(b"a"), memoryview(b"a")])
def test_a_key_of_another_type_is_refused_by_name(key: object) -> None:
    with pytest.raises(InvalidArgumentError, match=type(key).__name__):
        encode_key(key)  # type: ignore[arg-type]


@pytest.mark.parametrize("key", ["k" * KEY_BYTES_MAX, b"k" * KEY_BYTES_MAX, "é" * 32_768])
def test_the_longest_key_is_taken(key: str | bytes) -> None:
    assert decode_key(encode_key(key)) == key


@pytest.mark.parametrize("key", ["k" * (KEY_BYTES_MAX + 1), b"k" * (KEY_BYTES_MAX + 1)])
def test_a_key_one_byte_too_long_is_refused_with_both_sizes(key: str | bytes) -> None:
    with pytest.raises(ValueTooLargeError, match=r"65537 bytes; at most 65536"):
        encode_key(key)


@pytest.mark.parametrize("name", [None, b"bytes", 7])
def test_a_name_of_another_type_is_refused(name: object) -> None:
    with pytest.raises(InvalidArgumentError, match="a name is str"):
        encode_name(name)  # type: ignore[arg-type]


def test_an_empty_name_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="empty"):
        encode_name("")


def test_a_name_is_bounded_in_bytes_and_not_in_characters() -> None:
    assert encode_name("é" * (NAME_BYTES_MAX // 2))
    with pytest.raises(ValueTooLargeError):
        encode_name("é" * (NAME_BYTES_MAX // 2 + 1))


def test_bytes_are_passed_on_without_a_copy() -> None:
    value = b"v" * 100
    assert encode_bytes(value, 100) is value


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_what_the_caller_could_still_change_is_copied(kind: type) -> None:
    buffer = bytearray(b"before")
    value = encode_bytes(kind(buffer), 100)
    buffer[:] = b"after!"
    assert value == b"before"
    assert type(value) is bytes


@pytest.mark.parametrize("value", ["text", None, 3, [1, 2]])
def test_a_value_of_another_type_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidArgumentError, match=type(value).__name__):
        encode_bytes(value, 100)  # type: ignore[arg-type]


def test_a_value_of_the_bound_is_taken_and_one_more_byte_is_not() -> None:
    assert encode_bytes(b"v" * 100, 100) == b"v" * 100
    with pytest.raises(ValueTooLargeError, match="101 bytes; at most 100"):
        encode_bytes(b"v" * 101, 100)


VERSIONS = st.integers(1, 2**32 - 1)
EXPIRIES = st.none() | st.floats(0, 1e10)


@settings(max_examples=examples(150))
@given(
    st.binary(min_size=1, max_size=6),
    st.binary(min_size=1, max_size=6),
    VERSIONS,
    EXPIRIES,
    st.binary(min_size=1, max_size=20),
    st.data(),
)
def test_a_changed_bit_in_any_field_of_an_entry_changes_its_checksum(
    name: bytes,
    key: bytes,
    version: int,
    expires_at: float | None,
    value: bytes,
    data: st.DataObject,
) -> None:
    def flipped(field: bytes) -> bytes:
        bit = data.draw(st.integers(0, len(field) * 8 - 1))
        number = int.from_bytes(field, "big") ^ (1 << bit)
        return number.to_bytes(len(field), "big")

    seed = zlib.crc32(name)
    checksum = checksum_entry(seed, key, version, expires_at, value)
    assert checksum == checksum_entry(seed, key, version, expires_at, value)
    other_version = int.from_bytes(flipped(version.to_bytes(4, "big")), "big")
    changed = [
        checksum_entry(zlib.crc32(flipped(name)), key, version, expires_at, value),
        checksum_entry(seed, flipped(key), version, expires_at, value),
        checksum_entry(seed, key, other_version, expires_at, value),
        checksum_entry(seed, key, version, expires_at, flipped(value)),
    ]
    if expires_at is not None:
        changed.append(checksum_entry(seed, key, version, expires_at + 1.0, value))
    assert checksum not in changed


@given(st.binary(min_size=1, max_size=6), VERSIONS, st.floats(0, 1e10), st.binary(max_size=20))
@example(key=b"\x00", version=2**32 - 1, expires_at=0.0, value=b"")
def test_an_expiry_that_is_lost_or_added_changes_the_checksum(
    key: bytes, version: int, expires_at: float, value: bytes
) -> None:
    without = checksum_entry(0, key, version, None, value)
    assert without != checksum_entry(0, key, version, expires_at, value)


@given(
    st.binary(min_size=1, max_size=6),
    st.integers(0, 2**32 - 2),
    st.binary(min_size=1, max_size=20),
)
def test_every_field_of_a_record_changes_its_checksum(
    name: bytes, offset: int, data: bytes
) -> None:
    seed = zlib.crc32(name)
    checksum = checksum_record(seed, offset, data)
    assert checksum == checksum_record(seed, offset, data)
    assert checksum != checksum_record(seed, offset + 1, data)
    assert checksum != checksum_record(seed, offset, data[:-1] + bytes([data[-1] ^ 1]))
    assert checksum != checksum_record(zlib.crc32(name + b"x"), offset, data)


@given(st.binary(max_size=9), st.integers(0, 2**40), EXPIRIES, st.binary(max_size=9))
def test_a_checksum_is_an_unsigned_32_bit_number(
    key: bytes, version: int, expires_at: float | None, value: bytes
) -> None:
    assert 0 <= checksum_entry(0xFFFF_FFFF, key, version, expires_at, value) < 2**32
    assert 0 <= checksum_record(0xFFFF_FFFF, version, value) < 2**32

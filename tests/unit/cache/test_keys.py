"""Keys as bytes: they come back, keep their order, and no two have the same."""

from __future__ import annotations

import copy
import pickle

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache import GlobalCacheKey
from mpreg.cache.keys import (
    KeyPart,
    decode_key,
    decode_namespace,
    encode_key,
    encode_prefix,
    namespace_of,
)
from mpreg.errors import InvalidArgumentError, ValueTooLargeError

# Where one part ends and the next one begins is what can go wrong: few characters, and those that
# mean something in the encoding.
TEXT_ALPHABET = st.sampled_from("\x00\x01\x02\x03ab\xff\ud800\udfff￿\U0010ffff")
texts = st.text(TEXT_ALPHABET, max_size=4) | st.text(max_size=8)
byte_strings = st.binary(max_size=3) | st.lists(
    st.sampled_from([0, 1, 2, 3, 97, 254, 255]), max_size=4
).map(bytes)
numbers = st.integers(-(2**63), 2**63 - 1)
parts = texts | byte_strings | numbers
namespaces = texts.filter(bool)
keys = st.builds(
    lambda namespace, rest: GlobalCacheKey(namespace, *rest),
    namespaces,
    st.lists(parts, min_size=1, max_size=3),
)


def rank(part: KeyPart) -> tuple[int, KeyPart]:
    """Bytes before text before numbers."""
    return [bytes, str, int].index(type(part)), part


@given(keys)
def test_a_key_comes_back_from_its_bytes_as_it_was(key: GlobalCacheKey) -> None:
    back = decode_key(encode_key(key))
    assert type(back) is GlobalCacheKey
    assert back == key
    assert [type(part) for part in back] == [type(part) for part in key]
    assert (back.namespace, back.parts) == (key.namespace, key.parts)
    assert decode_namespace(namespace_of(encode_key(key))) == key.namespace


@given(keys, keys)
def test_two_keys_have_the_same_bytes_only_where_they_are_equal(
    one: GlobalCacheKey, other: GlobalCacheKey
) -> None:
    assert (encode_key(one) == encode_key(other)) == (one == other)


@given(keys, keys)
def test_bytes_are_in_the_order_of_the_parts(one: GlobalCacheKey, other: GlobalCacheKey) -> None:
    expected = [*map(rank, one)] < [*map(rank, other)]
    assert (encode_key(one) < encode_key(other)) == expected


@given(keys, keys)
def test_only_a_key_whose_parts_begin_with_those_of_another_begins_with_its_bytes(
    one: GlobalCacheKey, other: GlobalCacheKey
) -> None:
    assert encode_key(one).startswith(encode_key(other)) == (one[: len(other)] == other)


@given(keys, texts | byte_strings)
def test_a_prefix_meets_the_keys_whose_first_part_begins_with_it(
    key: GlobalCacheKey, prefix: str | bytes
) -> None:
    first = key.parts[0]
    begins = (isinstance(first, str) and isinstance(prefix, str) and first.startswith(prefix)) or (
        isinstance(first, bytes) and isinstance(prefix, bytes) and first.startswith(prefix)
    )
    assert encode_key(key).startswith(encode_prefix(key.namespace, prefix)) == begins


@given(keys, st.lists(parts, max_size=2).map(tuple) | numbers)
def test_a_number_or_a_tuple_as_prefix_meets_whole_parts(
    key: GlobalCacheKey, prefix: int | tuple[KeyPart, ...]
) -> None:
    whole = prefix if isinstance(prefix, tuple) else (prefix,)
    begins = [*map(rank, key.parts[: len(whole)])] == [*map(rank, whole)]
    assert encode_key(key).startswith(encode_prefix(key.namespace, prefix)) == begins


@given(keys, namespaces)
def test_a_namespace_meets_its_own_keys_alone(key: GlobalCacheKey, namespace: str) -> None:
    met = encode_key(key).startswith(encode_prefix(namespace, None))
    assert met == (key.namespace == namespace)


@given(st.binary(max_size=30) | keys.map(encode_key).map(lambda data: data[:-1]))
def test_other_bytes_are_refused_or_are_those_of_a_key(data: bytes) -> None:
    try:
        key = decode_key(data)
    except ValueError:
        return
    assert encode_key(key) == data


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x00",
        b"\x02a\x00",
        b"\x02\x00\x02a\x00",
        b"\x05a\x00\x02b\x00",
        b"\x01a\x00\x02b\x00",
        b"\x03" + bytes(8) + b"\x02b\x00",
        b"\x02a\x00\x02b",
        b"\x02a\x00\x04b\x00",
        b"\x02a\x00\x03" + bytes(7),
        b"\x02a\x01\x03\x00\x02b\x00",
    ],
)
def test_bytes_that_are_nearly_a_key_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_key(data)


@given(keys)
def test_a_key_can_be_copied_and_pickled(key: GlobalCacheKey) -> None:
    for back in (copy.copy(key), copy.deepcopy(key), pickle.loads(pickle.dumps(key))):
        assert type(back) is GlobalCacheKey
        assert back == key


def test_a_key_is_shown_as_it_is_written() -> None:
    assert repr(GlobalCacheKey("users", "a", b"b", -3)) == "GlobalCacheKey('users', 'a', b'b', -3)"


class Text(str):
    __slots__ = ()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("", "a"), "a namespace cannot be empty"),
        ((b"users", "a"), "a namespace is str, not b'users'"),
        ((Text("users"), "a"), "a namespace is str, not 'users'"),
        (("users",), "a key in 'users' needs at least one part"),
        (("users", None), "a part of a key is str, bytes or int, not NoneType: None"),
        (("users", 1.0), "a part of a key is str, bytes or int, not float: 1.0"),
        (("users", True), "a part of a key is str, bytes or int, not bool: True"),
        (("users", ("a",)), "a part of a key is str, bytes or int, not tuple: "),
        (("users", Text("a")), "a part of a key is str, bytes or int, not Text: "),
        (("users", 2**63), "a number in a key has at most 64 bits: 9223372036854775808"),
        (("users", -(2**63) - 1), "a number in a key has at most 64 bits: -9223372036854775809"),
    ],
)
def test_what_can_be_no_key_is_refused_with_what_it_is(
    arguments: tuple[object, ...], message: str
) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        GlobalCacheKey(*arguments)  # type: ignore[arg-type]
    assert message in str(caught.value)


def test_a_key_that_is_none_and_one_too_large_are_refused_when_they_are_used() -> None:
    with pytest.raises(InvalidArgumentError, match=r"a key is a GlobalCacheKey, not \('a', 'b'\)"):
        encode_key(("a", "b"))  # type: ignore[arg-type]
    with pytest.raises(ValueTooLargeError, match="a key of 65540 bytes; at most 65536"):
        encode_key(GlobalCacheKey("a", "x" * 65_535))
    assert encode_key(GlobalCacheKey("a", "x" * 65_531))
    with pytest.raises(ValueTooLargeError, match="a namespace of 1025 bytes; at most 1024"):
        GlobalCacheKey("x" * 1_025, "a")

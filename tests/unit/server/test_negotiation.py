"""What a payload can be comes back as it went in, as JSON and as MessagePack."""

from __future__ import annotations

import math
from contextlib import suppress

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import InvalidArgumentError, RequestRefusedError
from mpreg.server.negotiation import JSON, MESSAGEPACK, accepted, as_type, decode, encode

NAMES = st.one_of(st.text(max_size=5), st.sampled_from(["$base64", "$$base64", "$float", "$"]))
VALUES = st.recursive(
    st.one_of(
        st.none(),
        st.booleans(),
        st.integers(-(2**63), 2**63 - 1),
        st.floats(),
        st.text(max_size=8),
        st.binary(max_size=8),
    ),
    lambda inner: st.one_of(st.lists(inner, max_size=4), st.dictionaries(NAMES, inner, max_size=3)),
    max_leaves=12,
)


def same(one: object, other: object) -> bool:
    """Equal and of the same types; NaN is NaN."""
    if isinstance(one, dict) and isinstance(other, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list) and isinstance(other, list):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and isinstance(other, float):
        return one == other or (math.isnan(one) and math.isnan(other))
    return type(one) is type(other) and one == other


@given(value=VALUES, kind=st.sampled_from([JSON, MESSAGEPACK]))
def test_a_value_comes_back_as_it_went_in(value: object, kind: str) -> None:
    assert same(decode(encode(value, kind), kind), value)


@given(body=st.binary(max_size=40), kind=st.sampled_from([JSON, MESSAGEPACK]))
def test_bytes_that_are_no_value_are_refused_and_nothing_else_happens(
    body: bytes, kind: str
) -> None:
    with suppress(RequestRefusedError, InvalidArgumentError):
        decode(body, kind)


@pytest.mark.parametrize("kind", [JSON, MESSAGEPACK])
def test_a_value_that_is_nested_too_deeply_is_refused(kind: str) -> None:
    body = b"[" * 5_000 if kind == JSON else b"\x91" * 5_000
    with pytest.raises(RequestRefusedError):
        decode(body, kind)
    deep = b"[" * 200 + b"]" * 200
    with pytest.raises(RequestRefusedError, match="deeply"):
        decode(deep, JSON)


@pytest.mark.parametrize(
    "body", [b'{"$base64": 1}', b'{"$base64": "a"}', b'{"$base64": "\xc3\xa4"}', b'{"$float": "1"}']
)
def test_what_looks_like_bytes_and_is_none_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidArgumentError, match=r"\$(base64|float)"):
        decode(body, JSON)


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded"])
def test_a_body_of_another_type_is_refused(kind: str | None) -> None:
    with pytest.raises(RequestRefusedError) as caught:
        decode(b"{}", kind)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("header", "expected"),
    [
        (None, JSON),
        ("*/*", JSON),
        ("application/json", JSON),
        ("application/msgpack", MESSAGEPACK),
        ("application/x-msgpack; q=0.5", MESSAGEPACK),
        ("application/json;q=0.1, application/msgpack;q=0.9", MESSAGEPACK),
        ("text/html, application/*;q=0.5", JSON),
        ("text/html", JSON),
        ("application/json;q=0, application/msgpack", MESSAGEPACK),
        ("q=q=;;,,", JSON),
    ],
)
def test_the_answer_has_the_form_that_is_wanted_most(header: str | None, expected: str) -> None:
    assert accepted(header) == expected


class Shape(msgspec.Struct, forbid_unknown_fields=True):
    count: int


def test_a_body_of_another_shape_is_refused_with_the_place() -> None:
    assert as_type({"count": 1}, Shape) == Shape(1)
    for wrong in ({"count": "1"}, {"count": 1.5}, {}, {"count": 1, "more": 2}, [1]):
        with pytest.raises(InvalidArgumentError, match="body"):
            as_type(wrong, Shape)

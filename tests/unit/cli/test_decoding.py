"""What stored bytes are taken for, and how they are shown."""

from __future__ import annotations

import json
import math
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cli.decoding import (
    Decoded,
    as_json,
    cut,
    decode,
    key_text,
    plain,
    printable,
    size,
    value_text,
)


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", Decoded("text", "")),
        (b"hello\nyou", Decoded("text", "hello\nyou")),
        (b"1", Decoded("text", "1")),
        (b'{"a": [1, null]}', Decoded("json", {"a": [1, None]})),
        (b"{no json", Decoded("text", "{no json")),
        (b"[" * 100_000, Decoded("text", "[" * 100_000)),
        (b"\x81\xa1a\xc4\x01\xff", Decoded("msgpack", {"a": {"base64": "/w=="}})),
        (b"\x93\x01\x02\x03", Decoded("msgpack", [1, 2, 3])),
        (b"\x81\x01\x02", Decoded("msgpack", {"map": [[1, 2]]})),
        (b"\x05", Decoded("bytes", {"base64": "BQ=="})),
        (b"\x91" * 100_000, None),
        (b"\x00\x01", Decoded("bytes", {"base64": "AAE="})),
        (b"\xff\xfe", Decoded("bytes", {"base64": "//4="})),
        ("größer ✓".encode(), Decoded("text", "größer ✓")),
        (b"\x1b[2Jcleared", Decoded("bytes", {"base64": "G1sySmNsZWFyZWQ="})),
    ],
)
def test_what_bytes_are_taken_for(data: bytes, expected: Decoded | None) -> None:
    found = decode(data)
    if expected is None:
        assert found.format == "bytes"
    else:
        assert found == expected


@given(st.binary(max_size=200))
def test_any_bytes_become_json_and_a_line_that_moves_no_cursor(data: bytes) -> None:
    found = decode(data)
    json.loads(as_json(found.value))
    line = value_text(data)
    assert all(char.isprintable() for char in line)


@given(st.text())
def test_any_key_becomes_json_and_comes_back(key: str) -> None:
    assert json.loads(as_json(plain(key))) == key
    assert all(char.isprintable() for char in printable(key))


PAYLOADS: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63 - 1) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=10,
)


@given(PAYLOADS)
def test_messagepack_with_a_shape_is_recognized(value: Any) -> None:
    if isinstance(value, list | dict) and value:
        encoded = msgspec.msgpack.encode(value)
        found = decode(encoded)
        # Some of it is text, or JSON, by chance.
        assert found.format in ("msgpack", "text", "json")
        if found.format == "msgpack":
            assert found.value == plain(value)


def test_numbers_that_json_has_not() -> None:
    assert plain([math.nan, math.inf, 1.5]) == [{"float": "nan"}, {"float": "inf"}, 1.5]


def test_what_is_cut_ends_with_its_size() -> None:
    assert cut("abc", 3) == "abc"
    assert cut("a" * 50, 20, 3_000_000) == "a" * 9 + "… (2.9 MiB)"
    assert cut("abcdef", 4) == "abc…"


def test_sizes_and_keys() -> None:
    assert [size(count) for count in (0, 1_023, 1_024, 5 << 30, 3 << 40)] == [
        "0 bytes",
        "1023 bytes",
        "1.0 KiB",
        "5.0 GiB",
        "3.0 TiB",
    ]
    assert (key_text(b"a\x00"), key_text("a\n\udcff")) == ("0x6100", "a\\n\\udcff")

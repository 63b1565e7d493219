"""What belongs to a cached value, as bytes."""

from __future__ import annotations

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.records import FORMAT, CachedRecord, decode_record, encode_record
from mpreg.codec import decode_value, encode_value

records = st.builds(
    CachedRecord,
    st.just(FORMAT),
    (st.none() | st.integers(0, 9) | st.binary(max_size=9) | st.lists(st.text(max_size=3))).map(
        lambda value: msgspec.Raw(encode_value(value, 1_000))
    ),
    st.none() | st.floats(0, 1e12),
    st.floats(0, 1e300),
    st.lists(st.text(min_size=1, max_size=4), max_size=3).map(tuple),
    st.lists(st.binary(max_size=4), max_size=3).map(tuple),
)


@given(records)
def test_a_record_comes_back_from_its_bytes(record: CachedRecord) -> None:
    back = decode_record(encode_record(record))
    assert bytes(back.value) == bytes(record.value)
    assert msgspec.structs.replace(back, value=record.value) == record
    assert back.links == (*record.tags, *record.dependencies)


def test_a_tag_and_a_dependency_of_the_same_letters_are_two_links() -> None:
    record = CachedRecord(FORMAT, msgspec.Raw(b"\xc0"), None, 1.0, ("a",), (b"a",))
    assert record.links == ("a", b"a")
    assert decode_value(decode_record(encode_record(record)).value) is None


@pytest.mark.parametrize("data", [b"", b"\xc0", b"\x93\x01\xc0", b"\x01\x02\x03", b"no record"])
def test_other_bytes_are_refused(data: bytes) -> None:
    with pytest.raises(ValueError):
        decode_record(data)


def test_a_record_of_a_later_format_is_refused_with_both_numbers() -> None:
    record = CachedRecord(FORMAT + 1, msgspec.Raw(b"\xc0"), None, 1.0, (), ())
    with pytest.raises(ValueError, match="a cached record of format 2; this mpreg knows 1"):
        decode_record(encode_record(record))

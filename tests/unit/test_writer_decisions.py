"""What the commit sequence on disk tells about the group in flight."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import CorruptDataError
from mpreg.persistence.writer import is_committed


@given(st.integers(0, 1_000))
def test_the_first_start_believes_what_is_on_disk(on_disk: int) -> None:
    assert not is_committed(on_disk, None, in_flight=False)


@given(st.integers(0, 1_000), st.booleans())
def test_the_sequence_last_answered_means_that_nothing_more_was_committed(
    known: int, in_flight: bool
) -> None:
    assert not is_committed(known, known, in_flight=in_flight)


@given(st.integers(0, 1_000))
def test_one_more_than_last_answered_is_the_group_in_flight(known: int) -> None:
    assert is_committed(known + 1, known, in_flight=True)


@given(st.integers(0, 1_000))
def test_one_more_with_nothing_in_flight_is_another_writers(known: int) -> None:
    with pytest.raises(CorruptDataError, match="another writer"):
        is_committed(known + 1, known, in_flight=False)


@given(st.integers(0, 1_000), st.integers(2, 50), st.booleans())
def test_more_than_one_more_is_another_writers(known: int, more: int, in_flight: bool) -> None:
    with pytest.raises(CorruptDataError, match="another writer"):
        is_committed(known + more, known, in_flight=in_flight)


@given(st.integers(1, 1_000), st.data(), st.booleans())
def test_less_than_last_answered_means_that_acknowledged_data_is_gone(
    known: int, data: st.DataObject, in_flight: bool
) -> None:
    on_disk = data.draw(st.integers(0, known - 1))
    with pytest.raises(CorruptDataError, match="acknowledged data is missing"):
        is_committed(on_disk, known, in_flight=in_flight)

"""Where values stand that are in files: names and places, as text and back."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence.backends.sqlite.places import (
    FILES_PER_GENERATION_MAX,
    Place,
    file_name,
    first_number,
    never_committed,
    number_of,
)

NUMBERS = st.integers(0, 2**63 - 1)


@given(number=NUMBERS, offset=st.integers(0, 10**15 - 1), length=st.integers(0, 10**10 - 1))
def test_a_place_comes_back_from_its_text(number: int, offset: int, length: int) -> None:
    place = Place(number, offset, length)
    assert Place.parse(str(place)) == place


@given(text=st.text())
def test_any_other_text_is_no_place_and_no_name(text: str) -> None:
    place = Place.parse(text)
    assert place is None or str(place).split(":")[0] == text.split(":")[0]
    number = number_of(text)
    assert number is None or file_name(number) == text


@given(number=NUMBERS)
def test_a_name_comes_back_as_its_number(number: int) -> None:
    assert number_of(file_name(number)) == number


def test_names_are_in_the_order_of_the_generations() -> None:
    numbers = [first_number(1), first_number(1) + FILES_PER_GENERATION_MAX - 1, first_number(2)]
    assert numbers == sorted(set(numbers))
    assert [file_name(one) for one in numbers] == sorted(map(file_name, numbers))


@given(names=st.sets(st.integers(0, 50)), committed=st.sets(st.integers(0, 50)))
def test_only_what_comes_after_all_that_is_committed_was_never(
    names: set[int], committed: set[int]
) -> None:
    found = never_committed([*map(file_name, names), "notes.txt"], dict.fromkeys(committed, 1))
    assert set(found) == {one for one in names if all(one > other for other in committed)}

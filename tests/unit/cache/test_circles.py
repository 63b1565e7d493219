"""Who waits for whom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.cache.circles import circle_of, told

ones = st.integers(0, 5)


@given(st.lists(st.tuples(ones, ones), max_size=12))
def test_a_circle_is_found_when_it_would_be_closed_and_nothing_else_is_one(
    asked: list[tuple[int, int]],
) -> None:
    waits_for: dict[int, int] = {}
    for asking, other in asked:
        if asking in waits_for:
            continue
        reached, one = {other}, other
        while one in waits_for:
            one = waits_for[one]
            reached.add(one)
        circle = circle_of(asking, other, waits_for)
        if asking in reached:
            assert circle[0] == asking
            assert len(set(circle)) == len(circle)
            following = [*circle[1:], asking]
            closed = {**waits_for, asking: other}
            assert all(closed[one] == next for one, next in zip(circle, following, strict=True))
        else:
            assert circle == []
            waits_for[asking] = other


def test_a_circle_is_told_with_all_that_are_in_it() -> None:
    assert told([1]) == "1 is computed from itself: it would wait for ever"
    assert told([1, 2, 3]) == (
        "1 is computed from 2, and that from 3, and that from 1: "
        "they would wait for each other for ever"
    )

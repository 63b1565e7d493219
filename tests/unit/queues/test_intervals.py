"""Sets of offsets as intervals, against plain Python sets."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from mpreg.errors import InvalidArgumentError
from mpreg.queues.intervals import IntervalSet, covered_at_least, runs
from tests.unit.examples import examples

#: Few enough that offsets meet, touch and enclose each other all the time.
END = 24
OFFSETS = st.integers(0, END)
ANYWHERE = st.integers(-3, END + 3)
RANGES = st.tuples(OFFSETS, OFFSETS).map(lambda ends: (min(ends), max(ends)))
MANY_RANGES = st.lists(RANGES, max_size=8)


def offsets_of(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {offset for start, stop in ranges for offset in range(start, stop)}


def runs_of(offsets: set[int]) -> tuple[tuple[int, int], ...]:
    """The intervals that a set of offsets has, found offset by offset."""
    starts = sorted(offset for offset in offsets if offset - 1 not in offsets)
    stops = sorted(offset + 1 for offset in offsets if offset + 1 not in offsets)
    return tuple(zip(starts, stops, strict=True))


class IntervalStory(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.intervals = IntervalSet()
        self.model: set[int] = set()

    @rule(offset=OFFSETS)
    def add(self, offset: int) -> None:
        self.intervals.add(offset)
        self.model.add(offset)

    @rule()
    def add_the_next(self) -> None:
        offset = max(self.model, default=-1) + 1
        self.intervals.add(offset)
        self.model.add(offset)

    @rule()
    def add_what_lies_behind_the_first_interval(self) -> None:
        if self.model:
            offset = runs_of(self.model)[0][1]
            self.intervals.add(offset)
            self.model.add(offset)

    @rule(added=RANGES)
    def add_range(self, added: tuple[int, int]) -> None:
        self.intervals.add_range(*added)
        self.model |= offsets_of([added])

    @rule(offset=ANYWHERE)
    def discard_below(self, offset: int) -> None:
        self.intervals.discard_below(offset)
        self.model = {each for each in self.model if each >= offset}

    @rule(offset=OFFSETS)
    def go_on_with_a_copy(self, offset: int) -> None:
        left = self.intervals
        self.intervals = left.copy()
        left.add(offset)
        left.discard_below(offset)

    @rule(offset=ANYWHERE)
    def ask_for_one(self, offset: int) -> None:
        assert (offset in self.intervals) is (offset in self.model)

    @rule(start=ANYWHERE)
    def ask_for_the_first_missing(self, start: int) -> None:
        expected = max(start, 0)
        while expected in self.model:
            expected += 1
        assert self.intervals.first_missing(start) == expected

    @rule(start=ANYWHERE, stop=ANYWHERE)
    def ask_for_the_gaps(self, start: int, stop: int) -> None:
        gaps = set(range(max(start, 0), stop)) - self.model
        assert tuple(self.intervals.missing(start, stop)) == runs_of(gaps)

    @rule(start=ANYWHERE, stop=st.none() | ANYWHERE)
    def ask_for_a_count(self, start: int, stop: int | None) -> None:
        end = max(self.model, default=0) + 1 if stop is None else stop
        assert self.intervals.count(start, stop) == len(self.model & set(range(start, end)))

    @invariant()
    def it_has_the_offsets_of_the_model_in_as_few_intervals_as_can_be(self) -> None:
        expected = runs_of(self.model)
        assert self.intervals.ranges() == expected
        assert len(self.intervals) == len(expected)
        assert self.intervals.count() == len(self.model)
        assert self.intervals.first_missing() == (expected[0][1] if 0 in self.model else 0)


TestIntervalStory = IntervalStory.TestCase
TestIntervalStory.settings = settings(max_examples=examples(60), stateful_step_count=40)


@settings(max_examples=examples(150))
@given(MANY_RANGES)
@example([(3, 5), (0, 3)])
@example([(0, 9), (2, 3)])
@example([(4, 4)])
def test_ranges_may_come_in_any_order_touch_and_overlap(ranges: list[tuple[int, int]]) -> None:
    assert IntervalSet(ranges).ranges() == runs_of(offsets_of(ranges))


@given(MANY_RANGES, MANY_RANGES)
def test_equal_are_those_with_the_same_offsets(
    one: list[tuple[int, int]], other: list[tuple[int, int]]
) -> None:
    same = offsets_of(one) == offsets_of(other)
    assert (IntervalSet(one) == IntervalSet(other)) is same
    assert (IntervalSet(one) != IntervalSet(other)) is not same


def test_a_set_of_intervals_equals_no_other_kind_of_thing() -> None:
    assert IntervalSet([(0, 1)]) != {0}
    assert IntervalSet([(0, 1)]) != ((0, 1),)


@given(MANY_RANGES)
def test_its_ranges_and_its_representation_make_an_equal_one(
    ranges: list[tuple[int, int]],
) -> None:
    intervals = IntervalSet(ranges)
    assert IntervalSet(intervals.ranges()) == intervals
    assert eval(repr(intervals)) == intervals


@given(st.permutations(range(16)))
def test_all_offsets_in_whatever_order_end_as_one_interval(offsets: list[int]) -> None:
    intervals = IntervalSet()
    for offset in offsets:
        intervals.add(offset)
    assert intervals.ranges() == ((0, 16),)


@given(MANY_RANGES, st.data())
def test_gaps_may_be_filled_while_they_are_gone_through(
    ranges: list[tuple[int, int]], data: st.DataObject
) -> None:
    intervals = IntervalSet(ranges)
    seen: set[int] = set()
    for start, stop in intervals.missing(0, END):
        assert start < stop
        assert not any(offset in intervals for offset in range(start, stop))
        assert not seen & set(range(start, stop))
        seen |= set(range(start, stop))
        intervals.add_range(*data.draw(RANGES))
    # Each offset was either shown, or in the set by the time its turn came.
    assert all(offset in seen or offset in intervals for offset in range(END))


@pytest.mark.parametrize("ranges", [[], [(0, 1)], [(3, 5)], [(1, 2), (3, 5)]])
def test_a_negative_offset_is_refused_and_changes_nothing(ranges: list[tuple[int, int]]) -> None:
    intervals = IntervalSet(ranges)
    with pytest.raises(InvalidArgumentError, match="not -1"):
        intervals.add(-1)
    with pytest.raises(InvalidArgumentError, match="not -2"):
        intervals.add_range(-2, 4)
    assert intervals == IntervalSet(ranges)
    assert intervals.count() == len(offsets_of(ranges))


def test_a_range_that_runs_backwards_is_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="from 3 back to 2"):
        IntervalSet([(3, 2)])


def test_a_million_offsets_in_order_are_one_interval() -> None:
    intervals = IntervalSet([(0, 1_000_000)])
    intervals.add(1_000_000)
    assert len(intervals) == 1
    assert intervals.count() == 1_000_001
    assert intervals.first_missing() == 1_000_001


@settings(max_examples=examples(150))
@given(st.integers(1, 5), st.lists(MANY_RANGES, max_size=4))
@example(1, [[(0, 2)], [(2, 4)]])
@example(2, [[(0, 2)], [(2, 4)]])
@example(2, [[(0, 4)], [(0, 2)], [(2, 4)]])
@example(1, [])
def test_covered_at_least_so_often_are_the_offsets_that_so_many_sets_have(
    times: int, ranges_of_sets: list[list[tuple[int, int]]]
) -> None:
    models = [offsets_of(ranges) for ranges in ranges_of_sets]
    sets = [IntervalSet(ranges) for ranges in ranges_of_sets]
    expected = {
        offset for offset in range(END) if sum(offset in model for model in models) >= times
    }
    covered = covered_at_least(times, sets)
    assert covered.ranges() == runs_of(expected)
    assert covered.count() == len(expected)
    assert [each.ranges() for each in sets] == [runs_of(model) for model in models]


def test_what_is_covered_is_a_set_of_its_own() -> None:
    only = IntervalSet([(0, 3)])
    covered = covered_at_least(1, [only])
    covered.add(7)
    assert only == IntervalSet([(0, 3)])


def test_a_set_given_twice_counts_twice() -> None:
    only = IntervalSet([(0, 3)])
    assert covered_at_least(2, [only, only]) == only


@pytest.mark.parametrize("times", [0, -1])
def test_covered_at_least_less_than_once_is_refused(times: int) -> None:
    with pytest.raises(InvalidArgumentError, match=f"at least {times} times"):
        covered_at_least(times, [IntervalSet()])


PLACES = st.lists(st.tuples(st.integers(0, 2), OFFSETS), max_size=40)


@given(PLACES)
@settings(max_examples=examples(150))
def test_runs_are_the_places_side_by_side(places: list[tuple[int, int]]) -> None:
    expected = [
        (number, start, stop)
        for number in sorted({number for number, _ in places})
        for start, stop in runs_of({offset for of, offset in places if of == number})
    ]
    assert list(runs(places)) == expected

"""What upkeep decides, without doing it."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.persistence import LogRetention
from mpreg.persistence.log_retention import (
    CLOCK_SET_SECONDS,
    MARKS_MAX,
    LogMarks,
    Mark,
    counted_before,
    is_clock_ahead,
    kept_from,
    next_due,
    with_mark,
)
from mpreg.persistence.upkeep_policy import HELD_UP_MAX, CheckpointWatch, SpacePolicy, StepSize

MIB = 1 << 20


def test_steps_that_take_too_long_become_smaller_and_quick_ones_larger() -> None:
    size = StepSize(target_seconds=0.01, least=4, most=64, size=16)
    sizes = []
    for took in (0.001, 0.001, 0.001, 0.015, 0.03, 0.03, 0.03, 0.03, 0.03, 0.03):
        size.took(took)
        sizes.append(size.size)
    assert sizes == [32, 64, 64, 64, 32, 16, 8, 4, 4, 4]


@pytest.mark.parametrize(
    ("database", "free", "busy", "at_rest"),
    [
        (100, 0, 0, 0),
        (100, 6, 0, 0),
        (100, 30, 0, 25.625),
        (100, 60, 40, 57.5),
        (1_000, 58, 0, 0),
        (1_000, 330, 266, 288.125),
        (100, 100, 100, 100),
        (100, 33, 0, 28.8125),
        (10, 1.5, 0, 0),
    ],
)
def test_what_lies_unused_is_kept_up_to_a_share_of_what_is_used_and_a_fixed_bound(
    database: int, free: float, busy: float, at_rest: float
) -> None:
    policy = SpacePolicy(free_bytes_max=64 * MIB)
    for resting, surplus in ((False, busy), (True, at_rest)):
        found = policy.surplus(database * MIB, int(free * MIB), at_rest=resting)
        assert found == pytest.approx(surplus * MIB, abs=2)


@given(st.integers(0, 1 << 40), st.integers(0, 1 << 40), st.integers(0, 1 << 30), st.booleans())
def test_never_more_is_given_back_than_there_is(
    database: int, free: int, bound: int, at_rest: bool
) -> None:
    surplus = SpacePolicy(free_bytes_max=bound).surplus(database, free, at_rest=at_rest)
    assert 0 <= surplus <= free


@given(st.integers(0, 1 << 34), st.integers(0, 1 << 34), st.integers(0, 1 << 34))
def test_at_rest_the_unused_is_less_than_a_seventh_of_the_used_and_two_steps(
    used: int, free: int, log: int
) -> None:
    policy = SpacePolicy(free_bytes_max=1 << 40)
    left = free - policy.surplus(used + free, free, at_rest=True)
    left_of_log = log - policy.log_surplus(used + left, log)
    assert left <= used / 16 + MIB
    assert left_of_log <= (used + left) / 16 + MIB
    assert left + left_of_log < used / 7 + 3 * MIB


@pytest.mark.parametrize(
    ("database", "log", "rewrite", "surplus"),
    [(10, 4, 10, 0), (10, 6, 10, 6), (1, 0.5, 1, 0), (1, 1.5, 1, 1.5), (12, 4, 10, 6)],
)
def test_what_is_written_anew_as_a_whole_gives_back_half_as_much(
    database: int, log: float, rewrite: int, surplus: float
) -> None:
    policy = SpacePolicy(free_bytes_max=64 * MIB)
    found = policy.log_surplus(database * MIB, int(log * MIB), rewrite * MIB)
    assert found == surplus * MIB


@pytest.mark.parametrize(
    ("written", "log", "little"),
    [(0, 0, True), (MIB // 8, 0, True), (MIB // 8 + 1, MIB, False), (MIB, 8 * MIB, True),
     (MIB + 1, 8 * MIB, False)],
)  # fmt: skip
def test_little_is_what_is_small_beside_the_log_or_at_all(
    written: int, log: int, little: bool
) -> None:
    assert SpacePolicy(free_bytes_max=0).is_little(written, log) is little


def test_a_log_that_cannot_begin_anew_is_told_once_and_so_is_its_end() -> None:
    watch = CheckpointWatch(100)
    said = [watch.note(left) for left in (0, 99, *[500] * (HELD_UP_MAX + 3), 7, 0)]
    assert [index for index, text in enumerate(said) if text] == [1 + HELD_UP_MAX, HELD_UP_MAX + 5]


def test_a_reader_that_is_in_the_way_now_and_then_is_not_told() -> None:
    watch = CheckpointWatch(100)
    assert not any(watch.note(left) for left in [500, 500, 0] * 10)


# --- logs ---


def marks_of(*marks: tuple[int, float, int]) -> LogMarks:
    return LogMarks(tuple(Mark(*one) for one in marks))


KNOWN = marks_of((10, 100.0, 1_000), (20, 200.0, 3_000), (30, 300.0, 3_500))


@pytest.mark.parametrize(
    ("retention", "now", "expected"),
    [
        (LogRetention(log="l", records_max=5), 300.0, 25),
        (LogRetention(log="l", records_max=30), 300.0, 0),
        (LogRetention(log="l", records_max=0), 300.0, 30),
        (LogRetention(log="l", seconds_max=100.0), 300.0, 20),
        (LogRetention(log="l", seconds_max=100.0), 299.9, 10),
        (LogRetention(log="l", seconds_max=201.0), 300.0, 0),
        (LogRetention(log="l", seconds_max=0.5), 301.0, 30),
        (LogRetention(log="l", bytes_max=500), 300.0, 20),
        (LogRetention(log="l", bytes_max=501), 300.0, 10),
        (LogRetention(log="l", bytes_max=3_000), 300.0, 0),
        (LogRetention(log="l", bytes_max=0), 300.0, 30),
        (LogRetention(log="l", records_max=12, bytes_max=501, seconds_max=150.0), 300.0, 18),
    ],
)
def test_from_where_a_log_is_kept(retention: LogRetention, now: float, expected: int) -> None:
    assert kept_from(retention, KNOWN, 30, now) == expected


def test_the_first_records_to_become_too_old_are_those_of_the_first_mark_that_is_left() -> None:
    retention = LogRetention(log="l", seconds_max=50.0)
    assert next_due(retention, KNOWN, 0) == 150.0
    assert next_due(retention, KNOWN, 10) == 250.0
    assert next_due(retention, KNOWN, 30) == math.inf
    assert next_due(LogRetention(log="l", records_max=1), KNOWN, 0) == math.inf


@given(
    st.lists(
        st.tuples(st.integers(1, 20), st.floats(0, 50), st.integers(0, 400)),
        min_size=1,
        max_size=150,
    ),
    st.one_of(st.none(), st.integers(0, 5_000)),
    st.one_of(st.none(), st.floats(0.1, 500)),
    st.booleans(),
)
def test_what_is_within_the_limits_stays_and_little_more(
    appended: list[tuple[int, float, int]],
    bytes_max: int | None,
    seconds_max: float | None,
    truncated: bool,
) -> None:
    """Records come in bunches: (how many, after how long, bytes of each)."""
    if bytes_max is None and seconds_max is None:
        bytes_max = 1_000
    retention = LogRetention(log="l", bytes_max=bytes_max, seconds_max=seconds_max)
    known, now, first, kept = LogMarks(), 0.0, 0, 0
    records: list[tuple[float, int]] = []
    for count, seconds, size in appended:
        now += seconds
        records += [(now, size)] * count
        total = known.bytes_measured + count * size
        known = with_mark(retention, known, Mark(len(records), now, total), first)
        assert len(known.marks) <= MARKS_MAX
        assert known.end == len(records)
        kept = kept_from(retention, known, len(records), now)
        if kept > first:
            # The oldest that goes is beyond a limit, and so is the newest that goes.
            too_large = bytes_max is not None and (
                sum(size for _, size in records[kept:]) >= bytes_max
            )
            too_old = seconds_max is not None and now - records[kept - 1][0] >= seconds_max
            assert too_large or too_old
        if truncated:
            first = max(first, kept)
    largest = max(count * size for count, _, size in appended)
    if bytes_max:
        left = sum(size for _, size in records[max(first, kept) :])
        assert left <= bytes_max + bytes_max / 16 + 2 * largest


@pytest.mark.parametrize(
    ("wall", "expected"), [(1_000.0, 500.0), (1_010.0, 510.0), (990.0, 500.0), (0.0, 500.0)]
)
def test_between_two_processes_time_is_told_by_the_wall_clock_and_never_goes_back(
    wall: float, expected: float
) -> None:
    assert counted_before(LogMarks(KNOWN.marks, 500.0, 1_000.0), wall) == expected


def test_time_is_first_counted_from_what_the_wall_clock_shows() -> None:
    assert counted_before(LogMarks(), 1_000.0) == 1_000.0
    # Written before it was counted.
    assert counted_before(KNOWN, 1_000.0) == 1_000.0
    assert counted_before(KNOWN, 100.0) == 300.0


def test_a_clock_that_was_set_forward_is_told_from_time_that_went_by() -> None:
    known = LogMarks(KNOWN.marks, 500.0, 1_000.0)
    assert not is_clock_ahead(known, 700.0, 1_200.0 + CLOCK_SET_SECONDS)
    assert is_clock_ahead(known, 700.0, 1_201.0 + CLOCK_SET_SECONDS)
    assert not is_clock_ahead(known, 700.0, 10.0)

"""Rates, counts and sizes."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpreg.errors import TooManyRequestsError, ValueTooLargeError
from mpreg.server import limits
from mpreg.server.limits import Counter, Pace, Rates, TokenBucket, read_body


@given(
    rate=st.floats(0.5, 100.0),
    steps=st.lists(st.floats(0.0, 3.0), max_size=60),
)
def test_no_span_of_time_lets_through_more_than_the_burst_and_its_rate(
    rate: float, steps: list[float]
) -> None:
    now, taken = 0.0, []
    bucket = TokenBucket.full(rate, now)
    for step in steps:
        now += step
        if not bucket.take(now):
            taken.append(now)
    for index, start in enumerate(taken):
        for count, end in enumerate(taken[index:], start=1):
            assert count <= bucket.burst + (end - start) * rate + 1e-6


@given(rate=st.floats(0.5, 100.0), rest=st.floats(0.0, 50.0))
def test_who_waits_as_long_as_told_is_let_through(rate: float, rest: float) -> None:
    bucket = TokenBucket.full(rate, rest)
    now = rest
    while not (wait := bucket.take(now)):
        pass
    assert bucket.take(now + wait + 1e-6) == 0.0


def test_a_clock_that_goes_back_gives_nothing() -> None:
    bucket = TokenBucket.full(1.0, 100.0)
    assert bucket.take(100.0) == 0.0
    assert bucket.take(50.0) > 0
    assert bucket.take(100.5) > 0
    assert bucket.take(101.1) == 0.0


def test_each_address_has_a_rate_of_its_own() -> None:
    rates = Rates(1.0)
    rates.take("a", 0.0)
    rates.take("b", 0.0)
    with pytest.raises(TooManyRequestsError):
        rates.take("a", 0.1)


def test_the_addresses_that_are_remembered_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ADDRESSES_MAX", 3)
    rates = Rates(1.0)
    for number in range(10):
        rates.take(str(number), 0.0)
    assert len(rates._buckets) == 3


def test_no_more_than_the_maximum_are_at_the_same_time() -> None:
    counter = Counter(1, "requests that wait")
    with counter.one():
        with pytest.raises(TooManyRequestsError, match="requests that wait"), counter.one():
            raise AssertionError
        assert counter.count == 1
    assert counter.count == 0


async def chunks(parts: Sequence[bytes]) -> AsyncGenerator[bytes, None]:
    for part in parts:
        yield part


@given(
    rate=st.floats(1.0, 1_000.0),
    pieces=st.lists(st.tuples(st.integers(0, 5_000), st.floats(0.0, 40.0)), max_size=80),
)
def test_nobody_is_waited_for_much_longer_than_what_they_sent_takes_at_that_rate(
    rate: float, pieces: list[tuple[int, float]]
) -> None:
    pace, waited, came = Pace(rate, 30.0), 0.0, 0
    for size, gap in pieces:
        if gap > pace.seconds_left:
            waited += pace.seconds_left
            break
        waited += gap
        came += size
        pace.came(size, gap)
        assert pace.seconds_left <= 30.0
    assert waited <= 30.0 + came / rate + 1e-6


@given(rate=st.floats(1.0, 1_000.0), gaps=st.lists(st.floats(0.0, 29.0), max_size=80))
def test_who_sends_as_fast_as_they_must_is_waited_for_to_the_end(
    rate: float, gaps: list[float]
) -> None:
    pace = Pace(rate, 30.0)
    for gap in gaps:
        assert gap <= pace.seconds_left
        pace.came(int(gap * rate) + 1, gap)


@pytest.mark.anyio
async def test_a_body_is_read_up_to_its_limit_and_not_beyond() -> None:
    assert await read_body(chunks([b"ab", b"", b"c"]), 3) == b"abc"
    async with aclosing(chunks([b"ab", b"cd", b"ef"])) as source:
        with pytest.raises(ValueTooLargeError):
            await read_body(source, 3)
        assert await anext(source) == b"ef"


@pytest.mark.anyio
async def test_a_body_that_announces_too_much_is_not_read_at_all() -> None:
    async with aclosing(chunks([b"a"])) as source:
        with pytest.raises(ValueTooLargeError):
            await read_body(source, 3, "4")
        assert await anext(source) == b"a"
    # What is no number is not trusted, and not feared.
    assert await read_body(chunks([b"a"]), 3, "four") == b"a"

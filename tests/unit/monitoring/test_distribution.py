"""How values are spread, and what is told of it."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mpreg.monitoring.distribution import SECONDS, Distribution, quantile


@given(
    st.lists(st.floats(min_value=1e-5, max_value=9.0), min_size=1, max_size=200),
    st.sampled_from([0.5, 0.9, 0.99]),
)
def test_a_quantile_is_in_the_same_part_as_the_value_that_it_stands_for(
    values: list[float], share: float
) -> None:
    spread = Distribution(SECONDS)
    for value in values:
        spread.observe(value)
    wanted = sorted(values)[max(0, -(-int(share * len(values) * 1_000) // 1_000) - 1)]
    told = quantile(share, spread.bounds, spread.counts)
    assert told is not None
    upper = next(bound for bound in SECONDS if wanted <= bound)
    lower = max((bound for bound in SECONDS if bound < wanted), default=0.0)
    assert lower <= told <= upper * 1.7


def test_of_nothing_there_is_no_quantile_and_of_too_much_the_last_bound() -> None:
    assert quantile(0.5, (1.0, 2.0), (0, 0, 0)) is None
    assert quantile(0.5, (1.0, 2.0), (0, 0, 5)) == 2.0


def test_what_came_since_an_earlier_moment_is_the_difference() -> None:
    spread = Distribution((1.0, 2.0))
    spread.observe(0.5)
    before = spread.spread()
    spread.observe(1.5)
    spread.observe(3.0)
    since = spread.spread().since(before)
    assert (since.counts, since.total, since.count) == ((0, 1, 1), 4.5, 2)

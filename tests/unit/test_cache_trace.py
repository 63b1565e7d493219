"""The requests that the cache benchmark makes."""

from __future__ import annotations

import itertools
import math
import random
from collections import Counter

import pytest

from benchmarks.cache.trace import Shape, Values, key_of_rank, make_trace, zipf

SMALL = Shape(keys=1_000, before_requests=2_000, scan_keys=300, after_requests=500)


@pytest.mark.parametrize("exponent", [0.5, 0.99, 1.5])
@pytest.mark.parametrize("items", [1, 2, 50, 10_000])
def test_each_rank_comes_as_often_as_zipf_says(items: int, exponent: float) -> None:
    samples = 20_000
    ranks = Counter(itertools.islice(zipf(items, exponent, random.Random(7)), samples))
    whole = math.fsum(rank**-exponent for rank in range(1, items + 1))
    assert min(ranks) >= 1
    assert max(ranks) <= items
    for rank in range(1, min(items, 50) + 1):
        share = rank**-exponent / whole
        deviation = math.sqrt(samples * share * (1 - share))
        assert abs(ranks[rank] - samples * share) <= 5 * deviation, rank


def test_the_tail_of_a_million_ranks_has_its_share() -> None:
    samples, items = 20_000, 1_000_000
    tail = sum(
        rank > 1_000 for rank in itertools.islice(zipf(items, 0.99, random.Random(3)), samples)
    )
    whole = math.fsum(rank**-0.99 for rank in range(1, items + 1))
    share = math.fsum(rank**-0.99 for rank in range(1_001, items + 1)) / whole
    assert abs(tail - samples * share) <= 5 * math.sqrt(samples * share * (1 - share))


@pytest.mark.parametrize(("items", "exponent"), [(0, 0.99), (10, 0.0), (10, 1.0), (10, -1.0)])
def test_what_is_no_distribution_is_refused(items: int, exponent: float) -> None:
    with pytest.raises(ValueError, match="no such distribution"):
        next(zipf(items, exponent, random.Random(0)))


def test_the_same_seed_makes_the_same_trace_and_another_seed_another() -> None:
    state = random.getstate()
    assert make_trace(1, SMALL).requests == make_trace(1, SMALL).requests
    assert make_trace(1, SMALL).requests != make_trace(2, SMALL).requests
    assert random.getstate() == state


def test_a_trace_is_the_same_in_every_python() -> None:
    assert list(make_trace(1, SMALL).requests[:6]) == [706, 934, 1428, 1824, 869, 1956]


def test_the_scan_reads_new_keys_in_order_and_zipf_goes_on_beside_it() -> None:
    trace = make_trace(1, SMALL)
    before, scan, after = trace.phases
    assert (before.start, before.stop) == (0, 2_000)
    assert after.stop - after.start == 500
    assert (scan.start, scan.stop) == (before.stop, after.start)
    assert after.stop == len(trace.requests)
    scanned = [request for request in trace.requests if not trace.is_zipf(request)]
    assert scanned == [key << 1 for key in range(1_000, 1_300)]
    beside = trace.requests[scan.start : scan.stop]
    assert sum(map(trace.is_zipf, beside)) == pytest.approx(300, abs=5 * math.sqrt(600))


def test_one_request_of_ten_is_a_write() -> None:
    requests = make_trace(1, SMALL).requests[:2_000]
    assert sum(request & 1 for request in requests) == pytest.approx(200, abs=5 * math.sqrt(180))


def test_every_rank_has_a_key_of_its_own() -> None:
    assert sorted(key_of_rank(rank, 1_000) for rank in range(1, 1_001)) == list(range(1_000))


def test_a_value_depends_on_its_key_and_the_seed_alone() -> None:
    values = Values(1)
    sizes = [len(values.of(key)) for key in range(2_000)]
    assert min(sizes) >= 100
    assert max(sizes) <= 300
    assert sum(sizes) / len(sizes) == pytest.approx(200, abs=10)
    assert values.of(5) == Values(1).of(5) != Values(2).of(5)

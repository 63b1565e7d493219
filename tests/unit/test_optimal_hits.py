"""The optimal cache, against trying everything."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.cache.optimal import optimal_hits

REQUESTS = st.lists(st.integers(0, 11), max_size=14)


def best_by_trying(requests: Sequence[int], entries: int) -> int:
    """The most reads served, over every set of keys that may be kept after each request."""
    best: dict[frozenset[int], int] = {frozenset(): 0}
    for request in requests:
        key, is_write = request >> 1, request & 1
        following: dict[frozenset[int], int] = {}
        for kept, hits in best.items():
            served = hits + (key in kept and not is_write)
            candidates = kept | {key}
            for size in range(min(entries, len(candidates)) + 1):
                for chosen in map(frozenset, combinations(candidates, size)):
                    following[chosen] = max(served, following.get(chosen, 0))
        best = following
    return max(best.values())


@given(REQUESTS, st.integers(1, 4))
def test_nothing_serves_more_reads(requests: list[int], entries: int) -> None:
    assert sum(optimal_hits(requests, entries)) == best_by_trying(requests, entries)


@given(REQUESTS, st.integers(1, 4))
def test_only_a_read_of_a_key_seen_before_is_a_hit(requests: list[int], entries: int) -> None:
    for now, hit in enumerate(optimal_hits(requests, entries)):
        if hit:
            assert not requests[now] & 1
            assert requests[now] >> 1 in {request >> 1 for request in requests[:now]}


def test_the_key_wanted_last_is_given_up() -> None:
    a, b, c = 0, 2, 4
    assert list(optimal_hits([a, b, c, a, b, c], 2)) == [0, 0, 0, 1, 1, 0]


def test_a_cache_without_room_is_refused() -> None:
    with pytest.raises(ValueError, match="0 entries"):
        optimal_hits([0], 0)

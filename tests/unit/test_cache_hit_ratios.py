"""What the cache in memory serves of the benchmark's trace: counted, not timed."""

from __future__ import annotations

import pytest

from benchmarks.cache.counting import count_hits
from benchmarks.cache.workload import OPTIMAL, POLICIES
from mpreg.cache import EvictionPolicyName

SCALE = 0.01
ENTRIES = 500


def test_the_benchmark_measures_every_policy() -> None:
    assert {policy.value for policy in EvictionPolicyName} == set(POLICIES)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_serves_more_than_the_optimum(policy: str) -> None:
    own, optimum = (count_hits(name, ENTRIES, SCALE) for name in (f"mpreg {policy}", OPTIMAL))
    assert 0.3 < own.all < optimum.all


@pytest.mark.parametrize("entries", [100, 500, 1_000])
def test_s4lru_keeps_what_is_wanted_through_a_scan(entries: int) -> None:
    assert count_hits("mpreg s4lru", entries, SCALE).kept >= 0.95


def test_lru_does_not() -> None:
    assert count_hits("mpreg lru", 500, SCALE).kept < 0.9

"""What each order of eviction is chosen for, and what a step of it takes."""

from __future__ import annotations

import math
import random
from collections.abc import Hashable

import pytest

from mpreg.cache import EvictionPolicyName, HeldEntry, MemoryCache
from mpreg.cache.eviction.lfu import LfuPolicy
from tests.unit.cache.calls import calls_during

every_policy = pytest.mark.parametrize("policy", EvictionPolicyName)


def cache_of(policy: str, entries_max: int, bytes_max: int = 1 << 30) -> MemoryCache[HeldEntry]:
    return MemoryCache(entries_max=entries_max, bytes_max=bytes_max, policy=policy)


def use(cache: MemoryCache[HeldEntry], key: Hashable, size_bytes: int = 1) -> None:
    if cache.get(key, 0.0) is None:
        cache.put(HeldEntry(key, None, size_bytes))


HOT = 60


def use_hot_keys(cache: MemoryCache[HeldEntry]) -> None:
    rng = random.Random(1)
    for _ in range(20 * HOT):
        use(cache, rng.randrange(HOT))


def hot_keys_in(cache: MemoryCache[HeldEntry]) -> int:
    return sum(key in cache for key in range(HOT))


@pytest.mark.parametrize(("policy", "kept"), [("s4lru", HOT), ("lru", 0)])
def test_a_scan_displaces_nothing_that_s4lru_has_seen_again(policy: str, kept: int) -> None:
    cache = cache_of(policy, entries_max=100)
    use_hot_keys(cache)
    for number in range(10_000):
        use(cache, f"scanned {number}")
    assert hot_keys_in(cache) == kept


def test_in_s4lru_large_entries_displace_nothing_that_is_hot() -> None:
    cache = cache_of("s4lru", entries_max=100, bytes_max=400)
    use_hot_keys(cache)
    for number in range(100):
        use(cache, f"scanned {number}", 90)
        for _ in range(4):
            use(cache, "larger than a segment", 101)
    assert hot_keys_in(cache) == HOT


def test_lfu_keeps_what_was_used_often_however_long_ago() -> None:
    cache = cache_of("lfu", entries_max=2)
    for _ in range(3):
        use(cache, "often")
    for number in range(100):
        use(cache, number)
    assert "often" in cache


def test_lfu_keeps_a_bucket_only_where_there_is_a_key() -> None:
    policy = LfuPolicy()
    for key in range(5):
        policy.add(HeldEntry(key, None, 1))
        for _ in range(50 * key):
            policy.touch(key)
    policy.remove(3)
    policy.evict(None)
    assert [bucket.uses for bucket in policy.buckets()] == [51, 101, 201]


def test_by_cost_what_is_not_used_any_more_grows_old() -> None:
    cache = cache_of("cost", entries_max=10)
    for _ in range(20):
        use(cache, "once hot")
    for number in range(1_000):
        use(cache, number % 20)
    assert "once hot" not in cache


def test_by_cost_what_is_dear_and_small_stays() -> None:
    cache = cache_of("cost", entries_max=100, bytes_max=1_000)
    cache.put(HeldEntry("dear", None, 100, cost=100.0))
    cache.put(HeldEntry("small", None, 1, cost=1.0))
    cache.put(HeldEntry("cheap and large", None, 100, cost=1.0))
    cache.put(HeldEntry("new", None, 850, cost=10.0))
    assert list(cache.coldest_first()) == ["new", "dear", "small"]


def test_ttl_first_gives_up_what_expires_soonest() -> None:
    cache = cache_of("ttl_first", entries_max=4)
    for key, expires_at in (("for ever", math.inf), ("late", 30.0), ("soon", 10.0)):
        cache.put(HeldEntry(key, None, 1, expires_at))
    cache.put(HeldEntry("also for ever", None, 1))
    cache.get("soon", 0.0)
    cache.get("for ever", 0.0)
    assert list(cache.coldest_first()) == ["soon", "late", "also for ever", "for ever"]


def calls_per_step(policy: str, entries: int) -> float:
    """Over a mix of all that a cache does, with the worst that heaps and segments can be given."""
    rng = random.Random(entries)
    cache = cache_of(policy, entries, bytes_max=entries * 50)
    steps = 40 * entries

    def work() -> None:
        for step in range(steps):
            key = rng.randrange(2 * entries)
            if cache.get(key, step) is None or rng.random() < 0.2:
                lasts = rng.random() < 0.3
                expires_at = math.inf if lasts else step + rng.randrange(1, 8 * entries)
                cache.put(HeldEntry(key, None, rng.randrange(100), expires_at, rng.random()))
            if rng.random() < 0.05:
                cache.discard(key)
            cache.expire(step, 1)

    return calls_during(work) / steps


@every_policy
def test_a_step_takes_as_many_calls_however_many_entries_there_are(
    policy: EvictionPolicyName,
) -> None:
    few, many = (calls_per_step(policy.value, entries) for entries in (20, 400))
    assert many < 1.2 * few
    assert many < 60

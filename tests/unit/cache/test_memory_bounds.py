"""What a cache in memory promises of its room, whatever the policy."""

from __future__ import annotations

import gc
import math
import random
import weakref

import pytest

from mpreg.cache import EvictionCause, EvictionPolicyName, HeldEntry, MemoryCache
from mpreg.errors import ConfigurationError, InvalidArgumentError

every_policy = pytest.mark.parametrize("policy", EvictionPolicyName)


@every_policy
@pytest.mark.parametrize("seed", range(2))
def test_ten_thousand_puts_never_exceed_a_bound(policy: EvictionPolicyName, seed: int) -> None:
    rng = random.Random(seed)
    told = []

    def hear(entry: HeldEntry, cause: EvictionCause) -> None:
        told.append(cause)
        check()

    def check() -> None:
        assert len(cache) <= 100
        assert cache.size_bytes <= 10_000

    cache: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=100, bytes_max=10_000, policy=policy, on_evicted=hear
    )
    for now in range(10_000):
        size_bytes = int(rng.paretovariate(1.0) * (10 if now % 500 < 250 else 60))
        lasts = rng.random() < 0.5
        cache.put(
            HeldEntry(
                rng.randrange(400),
                None,
                size_bytes,
                math.inf if lasts else now + rng.randrange(1, 300),
                rng.expovariate(1.0),
            )
        )
        check()
        cache.get(rng.randrange(400), now)
    assert cache.size_bytes == sum(
        entry.size_bytes for key in cache.coldest_first() if (entry := cache.peek(key))
    )
    assert {*told} == {*EvictionCause}


@every_policy
def test_an_entry_that_grows_displaces_all_others_before_itself(
    policy: EvictionPolicyName,
) -> None:
    cache: MemoryCache[HeldEntry] = MemoryCache(entries_max=8, bytes_max=80, policy=policy)
    for key in range(8):
        cache.put(HeldEntry(key, None, 10, expires_at=100.0 + key, cost=1.0 + key))
    for key in range(1, 8):
        cache.get(key, 0.0)
    cache.put(HeldEntry(0, "grown", 71, expires_at=1.0, cost=0.0))
    assert list(cache.coldest_first()) == [0]
    assert cache.put(HeldEntry(0, "full", 80))
    assert (len(cache), cache.size_bytes) == (1, 80)


@every_policy
def test_what_is_larger_than_the_cache_leaves_nothing_of_its_key(
    policy: EvictionPolicyName,
) -> None:
    told = []
    cache: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=8,
        bytes_max=80,
        policy=policy,
        on_evicted=lambda entry, cause: told.append((entry.key, cause)),
    )
    assert not cache.put(HeldEntry("a", None, 81))
    assert told == []
    cache.put(HeldEntry("a", None, 80))
    assert not cache.put(HeldEntry("a", None, 81))
    assert (len(cache), cache.size_bytes) == (0, 0)
    assert told == [("a", EvictionCause.TOO_LARGE)]


@every_policy
def test_an_entry_is_gone_at_the_exact_instant(policy: EvictionPolicyName) -> None:
    cache: MemoryCache[HeldEntry] = MemoryCache(entries_max=8, bytes_max=80, policy=policy)
    cache.put(HeldEntry("a", None, 1, expires_at=5.0))
    assert cache.get("a", math.nextafter(5.0, 0.0)) is not None
    assert cache.expire(math.nextafter(5.0, 0.0), 8) == 0
    assert cache.get("a", 5.0) is None
    assert "a" not in cache
    cache.put(HeldEntry("a", None, 1, expires_at=5.0))
    assert cache.expire(5.0, 8) == 1
    assert "a" not in cache


@every_policy
def test_an_entry_put_anew_has_its_new_expiry_alone(policy: EvictionPolicyName) -> None:
    cache: MemoryCache[HeldEntry] = MemoryCache(entries_max=8, bytes_max=80, policy=policy)
    for expires_at in (5.0, math.inf, 7.0, 6.0, 9.0):
        cache.put(HeldEntry("a", None, 1, expires_at))
    assert cache.expire(8.0, 8) == 0
    assert cache.expire(9.0, 8) == 1


@every_policy
def test_what_has_left_is_held_by_nothing(policy: EvictionPolicyName) -> None:
    class Key:
        pass

    class Watched(HeldEntry, eq=False, weakref=True):
        pass

    cache: MemoryCache[HeldEntry] = MemoryCache(entries_max=4, bytes_max=400, policy=policy)
    entries = weakref.WeakSet[HeldEntry]()
    keys = weakref.WeakSet[Key]()
    gc.disable()
    try:
        for number in range(200):
            entry = Watched(Key(), None, 1, 1_000.0 - number if number % 2 else math.inf)
            entries.add(entry)
            keys.add(entry.key)  # type: ignore[arg-type]
            cache.put(entry)
            cache.get(entry.key, 0.0)
            if number % 3 == 0:
                cache.put(Watched(entry.key, None, 2, 2_000.0 - number))
            if number % 5 == 0:
                cache.discard(entry.key)
        del entry
        assert len(entries) <= 4
        # A heap may hold as many dead items as there are keys.
        assert len(keys) <= 4 + 4
        for key in list(cache.coldest_first()):
            cache.discard(key)
        del key
        assert (len(entries), len(keys)) == (0, 0)
    finally:
        gc.enable()


@every_policy
@pytest.mark.parametrize("size", [-1, math.nan, 1.5, True, "3", None])
def test_a_size_that_is_none_is_refused_and_changes_nothing(
    policy: EvictionPolicyName, size: object
) -> None:
    cache: MemoryCache[HeldEntry] = MemoryCache(entries_max=2, bytes_max=10, policy=policy)
    held = HeldEntry("a", None, 4)
    cache.put(held)
    for key in ("a", "b"):
        wrong = HeldEntry(key, None, size)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="size_bytes is a whole number"):
            cache.put(wrong)
        with pytest.raises(InvalidArgumentError, match="size_bytes is a whole number"):
            cache.offer(wrong, 10)
    assert (len(cache), cache.size_bytes, cache.peek("a")) == (1, 4, held)


def test_bounds_and_policies_that_cannot_be_are_refused() -> None:
    for entries_max, bytes_max, policy in ((0, 1, "lru"), (1, 0, "lru"), (1, 1, "mru")):
        with pytest.raises(ConfigurationError):
            MemoryCache(entries_max=entries_max, bytes_max=bytes_max, policy=policy)


@pytest.mark.parametrize("bound", [0, -1, math.nan, 1.5, True, "3", None])
@pytest.mark.parametrize("name", ["entries_max", "bytes_max"])
def test_a_bound_is_a_whole_number(name: str, bound: object) -> None:
    bounds: dict[str, object] = {"entries_max": 10, "bytes_max": 10, name: bound}
    with pytest.raises(ConfigurationError, match=name):
        MemoryCache(**bounds)  # type: ignore[arg-type]

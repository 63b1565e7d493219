"""The cache in memory beside one that looks at everything each time, step by step."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from mpreg.cache import EvictionCause, EvictionPolicyName, HeldEntry, MemoryCache
from tests.unit.cache.naive import NaiveCache
from tests.unit.examples import examples

KEYS = st.sampled_from("abcdefgh")
#: Whole seconds, so that entries expire exactly when somebody looks.
SECONDS = st.sampled_from([math.inf, math.inf, 0, 1, 2, 3, 5])
#: What adds up exactly in any order.
COSTS = st.sampled_from([0.0, 0.5, 1.0, 1.0, 3.0, 40.0])


class CacheStory(RuleBasedStateMachine):
    policy: EvictionPolicyName

    @initialize(entries_max=st.integers(1, 9), bytes_max=st.sampled_from([1, 20, 60, 200]))
    def make(self, entries_max: int, bytes_max: int) -> None:
        self.now = 0.0
        self.told: list[tuple[HeldEntry, EvictionCause]] = []
        self.naive = NaiveCache(entries_max, bytes_max, self.policy)
        self.cache: MemoryCache[HeldEntry] = MemoryCache(
            entries_max=entries_max,
            bytes_max=bytes_max,
            policy=self.policy,
            on_evicted=self.hear,
        )

    def hear(self, entry: HeldEntry, cause: EvictionCause) -> None:
        self.told.append((entry, cause))
        self.keeps_its_bounds()

    @rule(key=KEYS, size_bytes=st.integers(0, 30), seconds=SECONDS, cost=COSTS)
    def put(self, key: str, size_bytes: int, seconds: float, cost: float) -> None:
        entry = HeldEntry(key, None, size_bytes, self.now + seconds, cost)
        is_held = self.cache.put(entry)
        assert is_held == self.naive.put(entry)
        assert (self.cache.peek(key) is entry) == is_held

    @rule(key=KEYS)
    def get(self, key: str) -> None:
        assert self.cache.get(key, self.now) is self.naive.get(key, self.now)

    @rule(keys=st.lists(KEYS, min_size=2, max_size=12))
    def get_several(self, keys: list[str]) -> None:
        for key in keys:
            self.get(key)

    @rule(key=KEYS)
    def discard(self, key: str) -> None:
        assert self.cache.discard(key) is self.naive.discard(key)

    @rule(seconds=st.sampled_from([1, 2]))
    def wait(self, seconds: int) -> None:
        self.now += seconds

    @rule(count_max=st.integers(0, 4))
    def expire(self, count_max: int) -> None:
        assert self.cache.expire(self.now, count_max) == self.naive.expire(self.now, count_max)

    @rule(chance=st.integers(0, 9))
    def clear(self, chance: int) -> None:
        if chance == 0:
            self.cache.clear()
            self.naive = NaiveCache(self.naive.entries_max, self.naive.bytes_max, self.policy)
            self.told.clear()

    @invariant()
    def keeps_its_bounds(self) -> None:
        assert len(self.cache) <= self.cache.entries_max
        assert self.cache.size_bytes <= self.cache.bytes_max

    @invariant()
    def holds_the_same(self) -> None:
        assert len(self.cache) == len(self.naive.entries)
        assert self.cache.size_bytes == self.naive.size_bytes
        for key, entry in self.naive.entries.items():
            assert key in self.cache
            assert self.cache.peek(key) is entry

    @invariant()
    def would_give_up_the_same(self) -> None:
        assert list(self.cache.coldest_first()) == self.naive.order.coldest_first()

    @invariant()
    def has_told_the_same(self) -> None:
        assert self.told == self.naive.told


@pytest.mark.parametrize("policy", EvictionPolicyName)
def test_a_cache_does_the_same_as_one_that_looks_at_everything(
    policy: EvictionPolicyName,
) -> None:
    story = type("Story", (CacheStory,), {"policy": policy})
    run_state_machine_as_test(
        story, settings=settings(max_examples=examples(20), stateful_step_count=40)
    )


@pytest.mark.parametrize(("entries_max", "bytes_max"), [(16, 1_000), (20, 160)])
def test_segments_demote_by_entries_and_by_bytes(entries_max: int, bytes_max: int) -> None:
    rng = random.Random(1)
    cache: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=entries_max, bytes_max=bytes_max, policy="s4lru"
    )
    for _ in range(3):
        naive = NaiveCache(entries_max, bytes_max, EvictionPolicyName.S4LRU)
        cache.clear()
        for _ in range(400):
            key = rng.randrange(20)
            if naive.get(key, 0.0) is None:
                entry = HeldEntry(key, None, rng.randrange(1, 30))
                assert cache.put(entry) == naive.put(entry)
            else:
                assert cache.get(key, 0.0) is not None
            assert list(cache.coldest_first()) == naive.order.coldest_first()

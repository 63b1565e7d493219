"""What a hit in memory costs, beside a lookup in cachetools with the same keys."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable, Sequence
from itertools import islice
from typing import Any

import cachetools

from benchmarks.cache.trace import Shape, Values, key_of_rank, zipf
from benchmarks.cache.workload import LOOKED_UP_ENTRIES, SEED, LookupResult
from mpreg.cache import CacheConfiguration, EvictionPolicyName, GlobalCacheKey, GlobalCacheManager
from mpreg.cache.memory import HeldEntry, MemoryCache
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

PEERS = {"lfu": cachetools.LFUCache}

#: In a pass: few, so that most passes are not interrupted.
LOOKUPS = 2_000

Keys = Sequence[GlobalCacheKey]


async def time_lookups(policy: str, passes: int) -> LookupResult:
    """CPU time of each, the least of its passes. They take turns, so all are disturbed alike."""
    keys = [GlobalCacheKey("bench", f"key{number:07}") for number in range(LOOKED_UP_ENTRIES)]
    values = Values(SEED)
    entries = {key: values.of(number) for number, key in enumerate(keys)}
    memory, peer = _memory(policy, entries), _peer(policy, entries)
    ranks = zipf(LOOKED_UP_ENTRIES, Shape().exponent, random.Random(SEED))
    lookups = [keys[key_of_rank(rank, LOOKED_UP_ENTRIES)] for rank in islice(ranks, LOOKUPS)]
    awaited, direct, looked_up = [], [], []
    configuration = CacheConfiguration(policy=EvictionPolicyName(policy))
    async with PersistenceRegistry(PersistenceConfig(backend="memory")) as registry:
        cache = GlobalCacheManager(registry, configuration)
        await cache.put_many(entries)
        for _ in range(passes):
            awaited.append(await _awaited(cache.get, lookups))
            direct.append(_direct(memory.get, lookups))
            looked_up.append(_looked_up(peer, lookups))
    return LookupResult(min(awaited), min(direct), min(looked_up))


def _memory(policy: str, entries: dict[GlobalCacheKey, bytes]) -> MemoryCache[HeldEntry]:
    memory: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=len(entries), bytes_max=1 << 30, policy=policy
    )
    for key, value in entries.items():
        memory.put(HeldEntry(key, value, len(value), float("inf")))
    return memory


def _peer(policy: str, entries: dict[GlobalCacheKey, bytes]) -> Any:
    peer: Any = PEERS.get(policy, cachetools.LRUCache)(len(entries))
    peer.update(entries)
    return peer


async def _awaited(get: Callable[[GlobalCacheKey], Awaitable[object]], keys: Keys) -> float:
    began = time.thread_time_ns()
    for key in keys:
        await get(key)
    return (time.thread_time_ns() - began) / len(keys)


def _direct(get: Callable[[GlobalCacheKey, float], object], keys: Keys) -> float:
    began = time.thread_time_ns()
    for key in keys:
        get(key, 1.0)
    return (time.thread_time_ns() - began) / len(keys)


def _looked_up(cache: Any, keys: Keys) -> float:
    began = time.thread_time_ns()
    for key in keys:
        cache[key]
    return (time.thread_time_ns() - began) / len(keys)

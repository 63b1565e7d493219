"""Namespaces that users make, one for each session: as many as are in use are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mpreg.cache import CacheStatistics, GlobalCacheKey
from mpreg.monitoring.metrics.caches import bounded_namespaces
from tests.integration.cache.support import get_value, open_cache, read_back

pytestmark = pytest.mark.anyio

COUNT = 5_000


def in_session(number: int) -> GlobalCacheKey:
    return GlobalCacheKey(f"session {number}", "user")


def counted(statistics: CacheStatistics) -> tuple[int, int, int]:
    return statistics.memory_hits, statistics.disk_hits, statistics.misses


async def test_namespaces_of_which_nothing_is_in_memory_are_forgotten_and_their_reads_are_not(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir, memory_entries_max=20) as cache:
        await read_back(cache)
        told: Mapping[str, int] = {}
        for start in range(0, COUNT, 500):
            keys = [in_session(number) for number in range(start, start + 500)]
            await cache.put_many(dict.fromkeys(keys, start))
            for key in keys[-30:]:
                assert await get_value(cache, key) == start
            assert await get_value(cache, GlobalCacheKey(keys[-1].namespace, "none")) is None
            now = {
                name: one.memory_hits + one.disk_hits + one.misses
                for name, one in bounded_namespaces(cache.statistics()).items()
            }
            # As counters of a scrape have to.
            assert all(now[name] >= count for name, count in told.items())
            told = now
        statistics = cache.statistics()
        assert len(statistics.namespaces) <= 2 * 1_024 + 500
        assert next(iter(statistics.namespaces)) == "session 0"
        assert sum(counted(statistics)) == 31 * COUNT // 500
        # What is on disk is there, and counts again.
        assert await get_value(cache, in_session(2_000)) == 2_000
        assert cache.statistics().namespaces["session 2000"].disk_hits == 1


async def test_what_is_put_while_its_namespace_is_forgotten_is_invalidated_with_it(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:
        # All are made before the first one is in memory.
        await cache.put_many({in_session(number): number for number in range(COUNT)})
        for number in (0, 1_500, 2_500, COUNT - 1):
            key = in_session(number)
            assert await get_value(cache, key) == number
            await cache.invalidate(namespace=key.namespace)
            assert await get_value(cache, key) is None
            await cache.put(key, "new")
            assert await get_value(cache, key) == "new"

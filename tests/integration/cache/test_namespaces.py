"""Namespaces that users make, one for each session: as many as are in use are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import pytest

from mpreg.cache import CacheStatistics, GlobalCacheKey, WriteMode
from mpreg.cache.keys import encode_key
from mpreg.cache.physical import is_as_it_was, physical
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


async def test_an_entry_that_somebody_has_in_hand_is_invalidated_with_its_namespace_all_the_same(
    data_dir: Path,
) -> None:
    """It had to make room meanwhile, and its namespace was forgotten."""
    async with open_cache(data_dir, memory_entries_max=20) as cache:
        await read_back(cache)
        await cache.put_many({in_session(number): number for number in range(1_500)})
        key, core = in_session(1_499), cache._core
        encoded = encode_key(key)
        entry, version = await physical(core, key, encoded)
        assert entry is not None
        await cache.put_many({in_session(number): number for number in range(1_500, 4_000)})
        assert entry.space.is_forgotten
        # Of another one.
        await cache.invalidate(namespace="session 0")
        assert is_as_it_was(core, key, encoded, entry)
        assert await cache.invalidate(namespace=key.namespace) > version
        assert not is_as_it_was(core, key, encoded, entry)


@pytest.mark.parametrize("is_behind", [True, False])
async def test_reads_count_also_where_their_namespaces_are_forgotten_meanwhile(
    data_dir: Path, *, is_behind: bool
) -> None:
    async with open_cache(data_dir, memory_entries_max=20) as cache:
        await read_back(cache)
        keys = [in_session(number) for number in range(COUNT)]
        mode = WriteMode.WRITE_BEHIND if is_behind else None
        await cache.put_many(dict.fromkeys(keys, 1), mode=mode)
        if is_behind:
            for key in keys:
                assert await get_value(cache, key) == 1
            assert await cache.get_or_compute(keys[-1], never) == 1
            assert counted(cache.statistics()) == (COUNT + 1, 0, 0)
        else:
            assert len(await cache.get_many(keys)) == COUNT
            assert counted(cache.statistics()) == (20, COUNT - 20, 0)


async def never() -> None:
    raise AssertionError("nobody may compute it")

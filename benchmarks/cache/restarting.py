"""A start on what an earlier process left, and the same rows read by nothing but `sqlite3`."""

from __future__ import annotations

import sqlite3
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from benchmarks.cache.ours import CHUNK, NAMESPACE, registry_at
from benchmarks.cache.workload import BareResult, RestartResult, wanted_values
from benchmarks.figures import peak_mib
from benchmarks.workload import GET, options
from mpreg import codec
from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager
from mpreg.cache.keys import encode_key

#: Of the registry's database: the namespace of the cache's entries is the one with most rows.
LARGEST: Final = "SELECT namespace_id FROM entries GROUP BY 1 ORDER BY count(*) DESC LIMIT 1"


def key_of(number: int) -> GlobalCacheKey:
    return GlobalCacheKey(NAMESPACE, number)


async def fill(directory: Path, entries: int) -> None:
    """Put so many, the most wanted last, and close."""
    values = list(wanted_values(entries))
    values.reverse()
    registry = registry_at(directory)
    cache = GlobalCacheManager(registry, CacheConfiguration())
    async with registry:
        for start in range(0, entries, CHUNK):
            chunk = values[start : start + CHUNK]
            await cache.put_many({key_of(number): value for number, value in chunk})


async def restart(directory: Path, entries: int) -> RestartResult:
    """Open what is there, get the coldest entry at once, and wait until memory is warm."""
    *_, (coldest, _value) = wanted_values(entries)
    began, cpu_began = time.perf_counter(), time.process_time()
    registry = registry_at(directory)
    cache = GlobalCacheManager(registry, CacheConfiguration())
    async with registry:
        opened_seconds = time.perf_counter() - began
        found = await cache.get(key_of(coldest))
        first_seconds = time.perf_counter() - began
        assert found is not None, "what was put is not there"
        await cache.wait_until_warm()
        warm_seconds = time.perf_counter() - began
        cpu_seconds = time.process_time() - cpu_began
        assert cache.statistics().memory_entries == entries, "memory is not warm"
        return RestartResult(
            opened_seconds,
            first_seconds,
            warm_seconds,
            cpu_seconds,
            found.level,
            entries,
            peak_mib(),
        )


def read_bare(directory: Path, entries: int) -> BareResult:
    """The rows in the order in which the warm-up reads them, each by its key, and kept."""
    keys = [
        codec.encode_key(encode_key(key_of(number))) for number, _value in wanted_values(entries)
    ]
    rows = {}
    began, cpu_began = time.perf_counter(), time.process_time()
    with closing(sqlite3.connect(directory / "mpreg.db", isolation_level=None)) as connection:
        connection.execute(f"PRAGMA cache_size = -{options().cache_bytes // 1024}")
        namespace = connection.execute(LARGEST).fetchone()[0]
        connection.execute("BEGIN")
        for key in keys:
            rows[key] = connection.execute(GET, (namespace, key)).fetchone()
    seconds, cpu_seconds = time.perf_counter() - began, time.process_time() - cpu_began
    assert None not in rows.values(), "what was put is not there"
    return BareResult(seconds, cpu_seconds, len(rows), peak_mib())

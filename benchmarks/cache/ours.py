"""mpreg's cache under load."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import partial
from itertools import islice
from pathlib import Path

from benchmarks.cache.load import Contender, Level
from benchmarks.cache.workload import BEHIND, FILLING, MEMORY_ENTRIES, RELAXED, wanted_values
from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager, WriteMode
from mpreg.persistence import PersistenceConfig, PersistenceRegistry

NAMESPACE = "bench"

#: Entries written by one call where many are.
CHUNK = 1_000


def registry_at(directory: Path) -> PersistenceRegistry:
    return PersistenceRegistry(PersistenceConfig(data_dir=directory))


async def prepare(directory: Path, entries: int) -> None:
    waiting = wanted_values(entries)
    async with registry_at(directory) as registry:
        cache = GlobalCacheManager(registry, CacheConfiguration())
        while chunk := {
            GlobalCacheKey(NAMESPACE, key): value for key, value in islice(waiting, CHUNK)
        }:
            await cache.put_many(chunk)


def write_mode(contender: str) -> WriteMode:
    if contender in RELAXED:
        return WriteMode.RELAXED
    return WriteMode.WRITE_BEHIND if contender in BEHIND else WriteMode.WRITE_THROUGH


@asynccontextmanager
async def _opened(
    mode: WriteMode, fill_mode: WriteMode, directory: Path
) -> AsyncIterator[Contender]:
    """A cache as its users have it, but for the size of its memory and the mode."""
    configuration = CacheConfiguration(memory_entries_max=MEMORY_ENTRIES, write_mode=mode)
    async with registry_at(directory) as registry:
        cache = GlobalCacheManager(registry, configuration)
        await cache.get(GlobalCacheKey(NAMESPACE, 0))
        last_ack = None

        async def get(key: int) -> Level:
            found = await cache.get(GlobalCacheKey(NAMESPACE, key))
            return None if found is None else found.level

        async def put(key: int, value: bytes, mode: WriteMode = mode) -> None:
            nonlocal last_ack
            last_ack = await cache.put(GlobalCacheKey(NAMESPACE, key), value, mode=mode)

        async def settle() -> None:
            # One writer: with the last one, all are on disk.
            if last_ack is not None:
                await last_ack

        async def fsyncs() -> int:
            return (await registry.stats()).fsyncs

        yield Contender(get, put, partial(put, mode=fill_mode), settle, fsyncs)


def opener(contender: str) -> Callable[[Path], AbstractAsyncContextManager[Contender]]:
    mode = write_mode(contender)
    return partial(_opened, mode, WriteMode.RELAXED if contender in FILLING else mode)

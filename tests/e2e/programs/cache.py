"""Callers of a cache that put, count and invalidate as fast as they can, and tell each ack.

``cache LOOP DATA_DIR LIFE``. Each line is ``KIND NUMBER``. Keys have the number of the life in
them, so that those of earlier lives stay as they are.
"""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager, WriteMode
from mpreg.persistence import Ack, PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.shared import run, say

CONFIGURATION = CacheConfiguration(memory_entries_max=50, heat_interval_seconds=0.05)

COUNT = GlobalCacheKey("count", 0)

PIPELINE = 8
"""Puts written behind that one caller has under way."""


def key_of(kind: str, life: int, number: int) -> GlobalCacheKey:
    return GlobalCacheKey(kind, life, number)


def value_of(life: int, number: int) -> dict[str, object]:
    """Of many lengths, so that a mix-up and a torn value both show."""
    return {"of": [life, number], "text": f"{life} {number} " * (number * 37 % 29)}


async def put(cache: GlobalCacheManager, life: int, mode: WriteMode) -> None:
    under_way: list[tuple[int, Ack[int]]] = []
    number = 0
    while True:
        number += 1
        key, value = key_of(mode.value, life, number), value_of(life, number)
        under_way.append((number, await cache.put(key, value, mode=mode)))
        if mode is not WriteMode.WRITE_BEHIND or len(under_way) == PIPELINE:
            sent, ack = under_way.pop(0)
            await ack
            say(f"{mode.value} {sent}")


async def invalidate(cache: GlobalCacheManager, life: int, kind: str) -> None:
    """Make what is put invisible again by its tag, by a key it depends on, or by its prefix."""
    number = 0
    while True:
        number += 1
        key, source = key_of(kind, life, number), key_of("source", life, number)
        if kind == "by_tag":
            tag = f"{life} {number}"
            await cache.put(key, value_of(life, number), tags=[tag])
            await cache.invalidate(tag=tag)
        elif kind == "by_dependency":
            await cache.put(key, value_of(life, number), dependencies=[source])
            await cache.put(source, value_of(life, number))
        else:
            await cache.put(key, value_of(life, number))
            await cache.invalidate(namespace=kind, prefix=(life, number))
        say(f"{kind} {number}")


async def count(cache: GlobalCacheManager) -> None:
    while True:
        say(f"count {await cache.increment(COUNT)}")


async def main(data_dir: Path, life: int) -> None:
    say("starting")
    config = PersistenceConfig(
        data_dir=data_dir, wal_checkpoint_pages=256, upkeep_interval_seconds=0.01
    )
    registry = PersistenceRegistry(config)
    cache = GlobalCacheManager(registry, CONFIGURATION)
    async with registry, anyio.create_task_group() as task_group:
        for mode in WriteMode:
            task_group.start_soon(put, cache, life, mode)
        for kind in ("by_tag", "by_dependency", "by_prefix"):
            task_group.start_soon(invalidate, cache, life, kind)
        task_group.start_soon(count, cache)


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), int(sys.argv[3]))

"""A cache belongs to one event loop: in another thread it says so before anything is done."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from mpreg.cache import GlobalCacheManager
from tests.integration.cache.support import both, get_value, user
from tests.integration.threads import LIBRARIES, refused_elsewhere

pytestmark = pytest.mark.anyio


async def watched(cache: GlobalCacheManager) -> None:
    async with cache.watch():
        pass


async def counted(cache: GlobalCacheManager) -> None:
    cache.statistics()


async def compute() -> int:
    raise AssertionError("nobody may compute it")


CALLS: list[Callable[[GlobalCacheManager], Awaitable[object]]] = [
    lambda cache: cache.get(user("none")),
    lambda cache: cache.get_many([user("ann")]),
    lambda cache: cache.put(user("ann"), 2),
    lambda cache: cache.put(user("ann"), 2, dependencies=[user("none")]),
    lambda cache: cache.put_many({user("ann"): 2}),
    lambda cache: cache.delete(user("ann")),
    lambda cache: cache.compare_and_set(user("ann"), 2, expected_version=0),
    lambda cache: cache.increment(user("ann")),
    lambda cache: cache.invalidate(namespace="users"),
    lambda cache: cache.get_or_compute(user("new"), compute),
    lambda cache: cache.wait_until_warm(),
    watched,
    counted,
]


@LIBRARIES
@pytest.mark.parametrize("is_early", [True, False])
async def test_a_cache_in_another_threads_event_loop_is_refused_and_nothing_is_done(
    data_dir: Path, library: str, *, is_early: bool
) -> None:
    async with both(data_dir, is_early=is_early) as (registry, cache):
        if is_early:
            await cache.put(user("ann"), 1)
        before = await registry.stats()
        for call in CALLS:
            await refused_elsewhere(lambda call=call: call(cache), library)  # type: ignore[misc]
        assert (await registry.stats()).commit_sequence == before.commit_sequence
        assert not cache._core.watchers._all
        async with cache.watch() as changes:
            await refused_elsewhere(lambda: anext(changes), library)
        # And here all of it goes on.
        assert await get_value(cache, user("ann")) == (1 if is_early else None)
        await cache.put(user("ann"), 2)
        assert await cache.increment(user("ann")) == 3

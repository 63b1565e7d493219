"""What is computed from what is computed: a change of the first reaches the last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.cache import GlobalCacheManager
from tests.integration.cache.support import get_value, open_cache, read_back, user

pytestmark = pytest.mark.anyio

SOURCE, MIDDLE, TOP = user("source"), user("middle"), user("top")
TAG = "eu"

#: What makes all outdated that is computed from the source, or has the tag.
CHANGES: dict[str, Callable[[GlobalCacheManager], Awaitable[object]]] = {
    "put": lambda cache: cache.put(SOURCE, 2),
    "deleted": lambda cache: cache.delete(SOURCE),
    "invalidated": lambda cache: cache.invalidate(dependency=SOURCE),
    "by tag": lambda cache: cache.invalidate(tag=TAG),
}


async def held(began: anyio.Event, may_end: anyio.Event) -> None:
    began.set()
    await may_end.wait()


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
@pytest.mark.parametrize("is_cached", [True, False])
async def test_what_waits_for_an_outdated_computation_is_outdated_with_it(
    data_dir: Path, change: Callable[[GlobalCacheManager], Awaitable[object]], is_cached: bool
) -> None:
    began, may_end, results = anyio.Event(), anyio.Event(), list[Any]()
    negative = None if is_cached else 0.0

    async with open_cache(data_dir) as cache:

        async def middle() -> Any:
            value = await get_value(cache, SOURCE)
            await held(began, may_end)
            return value

        async def top() -> Any:
            return await cache.get_or_compute(
                MIDDLE, middle, dependencies=[SOURCE], tags=[TAG], negative_ttl_seconds=negative
            )

        async def ask() -> None:
            results.append(await cache.get_or_compute(TOP, top, dependencies=[MIDDLE]))

        await cache.put(SOURCE, 1)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(ask)
            await began.wait()
            await change(cache)
            may_end.set()
        assert results == [1]
        assert await cache.get_many([MIDDLE, TOP]) == {}

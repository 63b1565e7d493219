"""What is computed from what is computed: a change of the first reaches the last."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.cache import GlobalCacheManager
from mpreg.cache.keys import encode_key
from mpreg.errors import ValueTooLargeError
from tests.integration.cache.support import (
    ReadGateBackend,
    both,
    counts_entries,
    get_value,
    open_cache,
    read_back,
    tidied,
    user,
)
from tests.integration.support import TurnedClock

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


async def test_what_was_computed_from_what_is_not_cached_depends_on_what_that_did(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:

        async def nothing() -> None:
            assert await get_value(cache, SOURCE) == 1

        async def middle() -> Any:
            return await cache.get_or_compute(
                MIDDLE, nothing, dependencies=[SOURCE], tags=[TAG], negative_ttl_seconds=0.0
            )

        async def top() -> str:
            nested = await cache.get_or_compute(
                user("between"), middle, dependencies=[MIDDLE], negative_ttl_seconds=0.0
            )
            return f"from {nested}"

        for change in CHANGES.values():
            await cache.put(SOURCE, 1)
            await cache.get_or_compute(TOP, top, dependencies=[user("between")])
            assert await get_value(cache, TOP) == "from None"
            await change(cache)
            assert await get_value(cache, TOP) is None


@pytest.mark.parametrize("goes", ["evicted", "expired"])
async def test_what_it_was_computed_from_is_known_though_that_is_gone_when_it_is_stored(
    data_dir: Path, goes: str
) -> None:
    clock = TurnedClock()
    settings = {"memory_entries_max": 1, "disk_entries_max": 3}
    async with open_cache(data_dir, clock=clock, **settings) as cache:

        async def top() -> Any:
            value = await get_value(cache, MIDDLE)
            clock.now += 10
            for number in range(5):
                await cache.put(user(number), number)
            assert encode_key(MIDDLE) not in cache._core.index.stored
            return value

        await read_back(cache)
        for change in CHANGES.values():
            await cache.put(SOURCE, 1)
            ttl = 10 if goes == "expired" else None
            await cache.put(MIDDLE, "m", dependencies=[SOURCE], tags=[TAG], ttl_seconds=ttl)
            assert await cache.get_or_compute(TOP, top, dependencies=[MIDDLE]) == "m"
            assert await get_value(cache, TOP) == "m"
            await change(cache)
            assert await get_value(cache, TOP) is None


async def test_what_is_leaving_the_disk_is_known_as_long_as_it_is_read(data_dir: Path) -> None:
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir, backend=backend, disk_entries_max=1) as cache:

        async def top() -> Any:
            value = await get_value(cache, MIDDLE)
            backend.open_gate()
            return value

        await read_back(cache)
        for is_computed in (True, False):
            await cache.put(MIDDLE, "m", dependencies=[SOURCE])
            await tidied(cache)
            backend.close_gate()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(cache.put, user("new"), 1)
                await backend.reached()
                assert cache._core.index.is_leaving(encode_key(MIDDLE))
                if is_computed:
                    await cache.get_or_compute(TOP, top, dependencies=[MIDDLE])
                else:
                    assert await get_value(cache, MIDDLE) == "m"
                    task_group.start_soon(lambda: cache.put(TOP, "m", dependencies=[MIDDLE]))
                    await anyio.wait_all_tasks_blocked()
                    backend.open_gate()
            assert await get_value(cache, TOP) == "m"
            await cache.invalidate(dependency=SOURCE)
            assert await get_value(cache, TOP) is None


@pytest.mark.parametrize("is_gone", [True, False])
async def test_what_is_computed_after_a_restart_is_computed_when_it_is_known_from_what(
    data_dir: Path, is_gone: bool
) -> None:
    clock, backend, began = TurnedClock(), ReadGateBackend(data_dir), anyio.Event()
    async with open_cache(data_dir, clock=clock) as cache:
        await cache.put(SOURCE, 1)
        ttl = 10 if is_gone else None
        await cache.put(MIDDLE, 1, dependencies=[SOURCE], tags=[TAG], ttl_seconds=ttl)
    backend.hold_reads(counts_entries)
    async with both(data_dir, clock=clock, backend=backend) as (registry, cache):

        async def top() -> Any:
            began.set()
            return await get_value(cache, MIDDLE)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(
                lambda: cache.get_or_compute(TOP, top, dependencies=[MIDDLE], tags=["own"])
            )
            await backend.read_is_held()
            await anyio.wait_all_tasks_blocked()
            if is_gone:
                clock.now += 10
                await registry.key_value_store("s").sweep_expired()
            task_group.start_soon(cache.put, SOURCE, 2)
            await anyio.wait_all_tasks_blocked()
            assert not began.is_set()
            backend.let_reads_go()
        # It was begun after the change, and found nothing.
        assert await get_value(cache, MIDDLE) is None
        assert await get_value(cache, TOP) is None


async def test_what_a_put_depends_on_is_known_when_it_is_sent_and_not_when_it_began_to_wait(
    data_dir: Path,
) -> None:
    backend, clock = ReadGateBackend(data_dir), TurnedClock()
    store = {"mailbox_batches_max": 1}
    async with both(data_dir, clock=clock, backend=backend, store=store, disk_entries_max=3) as (
        _,
        cache,
    ):
        await read_back(cache)
        await cache.put(user(0), 0)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.put, user(0), 1)
            await backend.reached()
            for put in (
                lambda: cache.put(user(0), 2),
                lambda: cache.put(MIDDLE, "m", dependencies=[SOURCE], tags=[TAG], ttl_seconds=10),
                lambda: cache.put(TOP, "t", dependencies=[MIDDLE]),
            ):
                task_group.start_soon(put)
                await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        clock.now += 10
        await cache.put(user(1), 1)
        assert encode_key(MIDDLE) not in cache._core.index.stored
        cache._core.memory.clear()
        assert await get_value(cache, TOP) == "t"
        await cache.invalidate(dependency=SOURCE)
        assert await get_value(cache, TOP) is None


async def test_what_is_put_together_fits_together_with_all_that_it_comes_to_depend_on(
    data_dir: Path,
) -> None:
    """Each would fit alone, and none of them may be evicted for the others."""
    backend, store = ReadGateBackend(data_dir), {"mailbox_batches_max": 1}
    async with both(data_dir, backend=backend, store=store, disk_bytes_max=900) as (_, cache):
        await read_back(cache)
        backend.close_gate()
        refused = list[Exception]()

        async def put_together() -> None:
            try:
                await cache.put_many({user(n): n for n in range(3)}, dependencies=[MIDDLE])
            except ValueTooLargeError as error:
                refused.append(error)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.put, user(0), 1)
            await backend.reached()
            for call in (
                lambda: cache.put(user(0), 2),
                lambda: cache.put(MIDDLE, "m", tags=["x" * 300]),
                put_together,
            ):
                task_group.start_soon(call)
                await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert "in one batch" in str(refused[0])
        assert await get_value(cache, user(0)) == 2
        assert await get_value(cache, user(1)) is None
        assert cache.statistics().disk_bytes <= 900


async def test_what_was_computed_while_what_it_depends_on_was_stored_is_cached_the_next_time(
    data_dir: Path,
) -> None:
    computed: list[str] = []
    async with open_cache(data_dir) as cache:

        async def middle() -> int:
            computed.append("middle")
            return 1

        async def top() -> Any:
            computed.append("top")
            return await cache.get_or_compute(MIDDLE, middle, dependencies=[SOURCE])

        for _ in range(3):
            assert await cache.get_or_compute(TOP, top, dependencies=[MIDDLE]) == 1
        assert computed == ["top", "middle", "top"]

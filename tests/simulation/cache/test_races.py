"""Calls that meet, each as short as it can be told, under many schedules."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from functools import partial
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager, WriteMode
from mpreg.cache.keys import encode_key
from mpreg.errors import (
    CommitFailedError,
    ReaderStoppedError,
    ValueTooLargeError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.testing import Fault
from tests.simulation.cache.lives import Life, Lives, counted, every_schedule, tidy_up

KEY = GlobalCacheKey("a", "key")
BASE = GlobalCacheKey("a", "base")
OTHER = GlobalCacheKey("b", "other")

Change = Callable[[GlobalCacheManager], Coroutine[Any, Any, object]]

CHANGES: dict[str, Change] = {
    "put": lambda cache: cache.put(KEY, "newer"),
    "deleted": lambda cache: cache.delete(KEY),
    "invalidated": lambda cache: cache.invalidate(namespace="a"),
    "invalidated by tag": lambda cache: cache.invalidate(tag="red"),
    "what it depends on put": lambda cache: cache.put(BASE, 1),
    "what it depends on deleted": lambda cache: cache.delete(BASE),
    "what depends on the same invalidated": lambda cache: cache.invalidate(dependency=BASE),
}


async def value_of(cache: GlobalCacheManager, key: GlobalCacheKey = KEY) -> object:
    found = await cache.get(key)
    return None if found is None else found.value


# --- reading ---


def test_an_expired_read_that_meets_a_put_keeps_the_put() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await cache.put(KEY, "old", ttl_seconds=5.0)
            cache._core.memory.clear()
            await anyio.sleep(5.0)
            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(value_of, cache)
                tasks.start_soon(cache.put, KEY, "new")
            assert await value_of(cache) == "new"
            cache._core.memory.clear()
            assert await value_of(cache) == "new"

        return life

    every_schedule(make)


def test_what_expires_is_there_until_the_instant_and_not_at_it() -> None:
    async def life(cache: GlobalCacheManager) -> None:
        await cache.put(KEY, 1, ttl_seconds=8.0)
        await anyio.sleep(7.999)
        assert await value_of(cache) == 1
        lives.simulation.clock.jump(8.0 - 7.999)
        assert await value_of(cache) is None
        assert await cache.compare_and_set(KEY, 2, expected_version=0) > 0

    lives = Lives()
    lives.live(life)


# --- computing ---


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_what_is_computed_while_it_is_changed_is_not_cached(change: Change) -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await cache.put(BASE, 0)
            began, may_end = anyio.Event(), anyio.Event()

            async def compute() -> str:
                began.set()
                await may_end.wait()
                return "computed"

            async def ask() -> None:
                value = await cache.get_or_compute(KEY, compute, tags=["red"], dependencies=[BASE])
                assert value == "computed"

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(ask)
                await began.wait()
                tasks.start_soon(change, cache)
                await anyio.lowlevel.checkpoint()
                may_end.set()
            assert await value_of(cache) in (None, "newer")

        return life

    every_schedule(make, mailbox_batches_max=1)


def test_what_is_computed_from_a_value_that_is_being_put_is_not_cached() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await cache.put(BASE, 0)

            async def compute() -> object:
                return await value_of(cache, BASE)

            async def ask() -> None:
                await cache.get_or_compute(KEY, compute, dependencies=[BASE])

            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cache.put, BASE, 1)
                for _ in range(3):
                    await anyio.lowlevel.checkpoint()
                    tasks.start_soon(ask)
            assert await value_of(cache) in (None, 1)

        return life

    every_schedule(make)


def test_a_thousand_callers_compute_once_whoever_of_them_is_cancelled() -> None:
    def make(lives: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            computed = 0
            got: list[object] = []
            scopes = [anyio.CancelScope() for _ in range(1_000)]

            async def compute() -> list[int]:
                nonlocal computed
                computed += 1
                await anyio.sleep(1)
                return [1]

            async def ask(scope: anyio.CancelScope) -> None:
                with scope:
                    got.append(await cache.get_or_compute(KEY, compute))

            async with anyio.create_task_group() as tasks:
                for scope in scopes:
                    tasks.start_soon(ask, scope)
                await anyio.sleep(0.5)
                for scope in scopes[:300]:
                    scope.cancel()
            assert computed == 1
            assert got == [[1]] * 700
            assert len({id(one) for one in got}) == 700
            assert await value_of(cache) == [1]

        return life

    Lives().live(make(Lives()))


def test_a_computation_ends_with_the_last_who_waits_for_it() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            ended = anyio.Event()

            async def compute() -> None:
                try:
                    await anyio.sleep_forever()
                finally:
                    ended.set()

            async def compute_again() -> str:
                return "again"

            async with anyio.create_task_group() as tasks:
                for _ in range(3):
                    tasks.start_soon(cache.get_or_compute, KEY, compute)
                await anyio.sleep(1)
                tasks.cancel_scope.cancel()
            assert await cache.get_or_compute(KEY, compute_again) == "again"
            await ended.wait()
            assert await value_of(cache) == "again"

        return life

    every_schedule(make)


# --- writing ---


def test_a_condition_holds_when_it_is_written_and_not_only_when_it_was_looked_at() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            version = await (await cache.put(KEY, 1))
            order: list[str] = []

            async def set() -> None:
                with suppress(VersionConflictError):
                    order.append(str(await cache.compare_and_set(KEY, 2, expected_version=version)))

            async def invalidate() -> None:
                order.append(f"{await cache.invalidate(tag='red')}")
                order.append(f"{await cache.invalidate(namespace='a')}")

            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(cache.put, OTHER, number)
                tasks.start_soon(set)
                tasks.start_soon(invalidate)
            assert await value_of(cache) is None

        return life

    every_schedule(make, mailbox_batches_max=1)


def test_what_was_invalidated_is_not_counted_on() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await cache.increment(KEY, by=100)
            sums: list[int] = []

            async def count() -> None:
                sums.append(await cache.increment(KEY))

            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(cache.put, OTHER, number)
                for _ in range(3):
                    tasks.start_soon(count)
                await cache.invalidate(namespace="a")
            assert await value_of(cache) in (None, 1, 2, 3)
            assert sorted(sums) in ([101, 102, 103], [1, 101, 102], [1, 2, 101], [1, 2, 3])

        return life

    every_schedule(make, mailbox_batches_max=1)


def test_who_depends_on_a_key_that_is_being_put_is_invalidated_or_later() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            versions: dict[GlobalCacheKey, int] = {}

            async def put(key: GlobalCacheKey, *dependencies: GlobalCacheKey) -> None:
                ack = await cache.put(key, 1, dependencies=dependencies)
                versions[key] = await ack

            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(cache.put, GlobalCacheKey("c", number), number)
                tasks.start_soon(put, OTHER, KEY)
                tasks.start_soon(put, KEY, BASE)
                tasks.start_soon(put, BASE)
            key_is_there = versions[KEY] > versions[BASE]
            assert (await value_of(cache) is not None) is key_is_there
            other_is_there = versions[OTHER] > versions[KEY] and (
                key_is_there or versions[OTHER] > versions[BASE]
            )
            assert (await value_of(cache, OTHER) is not None) is other_is_there

        return life

    every_schedule(make, mailbox_batches_max=1)


def test_who_depends_on_a_key_that_is_being_put_is_invalidated_by_the_tags_of_that() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await counted(cache)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(partial(cache.put, BASE, 1, ttl_seconds=5.0, tags=["red"]))
                while not cache._core.in_flight.count:
                    await anyio.lowlevel.checkpoint()
                await cache.put(KEY, "made of it", dependencies=[BASE])
            await anyio.sleep(20.0)
            assert encode_key(BASE) not in cache._core.index.stored
            assert await value_of(cache) == "made of it"
            await cache.invalidate(tag="red")
            assert await value_of(cache) is None

        return life

    every_schedule(make)


def test_nobody_sees_what_was_never_sent() -> None:
    async def life(cache: GlobalCacheManager) -> None:
        lives.disk.full = True
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(try_to_put, cache, OTHER, number)
            with anyio.CancelScope() as scope:
                scope.cancel()
                await cache.put(KEY, "never", mode=WriteMode.WRITE_BEHIND)
        assert await value_of(cache) is None

    lives = Lives(settings={"mailbox_batches_max": 1})
    lives.live(life)


async def try_to_put(cache: GlobalCacheManager, key: GlobalCacheKey, value: object) -> None:
    with suppress(CommitFailedError):
        await cache.put(key, value)


# --- bounds ---


def test_puts_that_wait_for_each_others_room_come_to_an_end() -> None:
    def make(_: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await counted(cache)
            await cache.put(KEY, 0)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(cache.delete, KEY)
                for number in range(3):
                    tasks.start_soon(
                        cache.put_many, {GlobalCacheKey("c", number, n): n for n in range(2)}
                    )
            assert cache.statistics().disk_entries <= 2

        return life

    every_schedule(make, configuration=CacheConfiguration(disk_entries_max=2))


def test_what_is_evicted_while_it_is_put_again_is_there_or_gone_as_a_whole() -> None:
    def make(lives: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await counted(cache)
            async with anyio.create_task_group() as tasks:
                for number in range(4):
                    tasks.start_soon(cache.put, KEY, number)
                    tasks.start_soon(cache.put, OTHER, number)
            seen = [await value_of(cache, key) for key in (KEY, OTHER)]
            cache._core.memory.clear()
            assert [await value_of(cache, key) for key in (KEY, OTHER)] == seen
            assert sum(one is not None for one in seen) == 1

        return life

    configuration = CacheConfiguration(disk_entries_max=1, memory_entries_max=1)
    every_schedule(make, configuration=configuration, mailbox_batches_max=1)


def test_what_is_put_again_in_one_batch_does_not_hide_what_may_go() -> None:
    async def life(cache: GlobalCacheManager) -> None:
        await counted(cache)
        keys = [GlobalCacheKey("c", number) for number in range(50)]
        await cache.put_many(dict.fromkeys(keys, 1))
        for number in range(50):
            await cache.put(GlobalCacheKey("d", number), 1)
        await cache.put_many(dict.fromkeys(keys, "longer than before"))
        assert cache.statistics().disk_bytes <= 100 * 95

    Lives(CacheConfiguration(disk_bytes_max=100 * 95)).live(life)


def test_more_than_the_disk_holds_is_refused_as_a_whole() -> None:
    async def life(cache: GlobalCacheManager) -> None:
        with pytest.raises(ValueTooLargeError):
            await cache.put_many({KEY: 1, OTHER: 2, BASE: 3})
        assert await cache.get_many([KEY, OTHER, BASE]) == {}

    Lives(CacheConfiguration(disk_entries_max=2)).live(life)


def test_an_eviction_that_fails_gives_no_room_to_others() -> None:
    async def life(cache: GlobalCacheManager) -> None:
        await counted(cache)
        size = 0
        for number in range(2):
            await cache.put(GlobalCacheKey("c", number), "x" * 200)
        lives.faults.order(Fault.ROLLED_BACK)
        async with anyio.create_task_group() as tasks:
            for number in range(2, 6):
                tasks.start_soon(try_to_put, cache, GlobalCacheKey("c", number), "y")
                await anyio.lowlevel.checkpoint()
        rows = list(lives.disk.state.entries(cache._core.storage.entries._name))
        size = sum(len(key) - 1 + len(value) + 64 for key, _, _, value in rows)
        assert size <= 700

    lives = Lives(CacheConfiguration(disk_bytes_max=700))
    lives.live(life)


# --- what is dead stays dead ---


def test_what_was_invalidated_stays_so_though_it_had_expired_and_a_clock_was_set_back() -> None:
    async def invalidate(cache: GlobalCacheManager) -> None:
        await cache.put(KEY, 1, ttl_seconds=10.0, tags=["red"])
        await cache.put(OTHER, 1, ttl_seconds=10.0, tags=["red"])
        lives.simulation.clock.jump(11.0)
        for number in range(9):
            await cache.put(GlobalCacheKey("c", number), number)
        await cache.invalidate(tag="red")
        await tidy_up(cache)
        lives.simulation.clock.jump(-40.0)
        assert await value_of(cache) is None
        assert await cache.increment(KEY) == 1
        await cache.delete(KEY)

    async def look(cache: GlobalCacheManager) -> None:
        assert await value_of(cache) is None
        assert await value_of(cache, OTHER) is None

    lives = Lives(settings={"upkeep_interval_seconds": None})
    lives.live(invalidate, look)


def test_what_had_expired_at_the_start_is_known_when_a_clock_is_set_back() -> None:
    async def put(cache: GlobalCacheManager) -> None:
        await cache.put(KEY, 1, ttl_seconds=10.0)

    async def change(cache: GlobalCacheManager) -> None:
        await counted(cache)
        lives.simulation.clock.jump(-20.0)
        found = await cache.get(KEY)
        version = 0 if found is None or found.version is None else found.version
        await cache.compare_and_set(KEY, 2, expected_version=version)
        assert await value_of(cache) == 2

    lives = Lives(settings={"upkeep_interval_seconds": None})
    lives.live(put)
    lives.simulation.clock.jump(11.0)
    lives.live(change)


def test_the_dead_are_not_risen_by_an_eviction_that_fails() -> None:
    def make(lives: Lives) -> Life:
        async def life(cache: GlobalCacheManager) -> None:
            await counted(cache)
            await cache.put(KEY, 1, tags=["red"])
            await cache.invalidate(tag="red")
            lives.faults.order(Fault.ROLLED_BACK)
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(try_to_put, cache, OTHER, 1)
            await tidy_up(cache)
            cache._core.memory.clear()
            assert await value_of(cache) is None

        return life

    every_schedule(make, configuration=CacheConfiguration(disk_entries_max=1))


def test_who_depends_through_others_is_invalidated_though_nothing_is_counted_yet() -> None:
    async def put(cache: GlobalCacheManager) -> None:
        await cache.put(KEY, 1, dependencies=[BASE])
        await cache.put(OTHER, 1, dependencies=[KEY])

    async def change(cache: GlobalCacheManager) -> None:
        await cache.put(BASE, 2)
        assert await value_of(cache) is None
        assert await value_of(cache, OTHER) is None

    for seed in range(5):
        Lives(seed=seed).live(put, change)


def test_a_dependency_is_noted_though_it_is_being_forgotten() -> None:
    async def put(cache: GlobalCacheManager) -> None:
        await counted(cache)
        await cache.put(KEY, 1, dependencies=[BASE])
        await cache.delete(KEY)
        async with anyio.create_task_group() as tasks:
            for number in range(3):
                tasks.start_soon(cache.put, GlobalCacheKey("c", number), number)
            cache._core.ask_for_upkeep()
            for _ in range(lives.seed):
                await anyio.lowlevel.checkpoint()
            await cache.put(KEY, 2, dependencies=[BASE])

    async def change(cache: GlobalCacheManager) -> None:
        await cache.put(BASE, 2)
        assert await value_of(cache) is None

    for seed in range(15):
        lives = Lives(seed=seed, settings={"mailbox_batches_max": 1})
        lives.live(put, change)


# --- the end ---


def test_whoever_computes_or_counts_when_the_registry_closes_is_told() -> None:
    async def run(lives: Lives) -> None:
        everybody_told, told = anyio.Event(), 0

        async def ask(call: Callable[[], Awaitable[object]]) -> None:
            nonlocal told
            with suppress(WriterStoppedError, ReaderStoppedError):
                while True:
                    await call()
                    await anyio.sleep(0.001)
            told += 1
            if told == 4:
                everybody_told.set()

        async def life(cache: GlobalCacheManager) -> None:
            async def compute() -> None:
                await anyio.sleep(0.01)

            for call in (
                lambda: cache.get_or_compute(KEY, compute, negative_ttl_seconds=0.0),
                lambda: cache.get_or_compute(OTHER, anyio.sleep_forever),
                lambda: cache.increment(BASE),
                lambda: cache.put(GlobalCacheKey("c", 1), 1),
            ):
                outer.start_soon(ask, call)
            await anyio.sleep(0.1)

        async with anyio.create_task_group() as outer:
            await lives.run(life)
            with anyio.fail_after(5):
                await everybody_told.wait()

    for seed in range(10):
        lives = Lives(seed=seed)
        lives.simulation.run(run, lives)

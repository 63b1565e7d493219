"""`get_or_compute`, `cached` and `increment`: one computation, one commit, for all who wait."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path
from traceback import extract_tb
from typing import Any

import anyio
import pytest
from attrs import define, field

from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager, WriteMode, cached
from mpreg.cache.keys import encode_key
from mpreg.cache.writes import Change, Write
from mpreg.persistence import CommitUnknownError, Durability, MpregError, WriterStoppedError
from tests.integration.cache.support import (
    PATIENCE_SECONDS,
    ReadGateBackend,
    both,
    get_value,
    open_cache,
    read_back,
    user,
)
from tests.integration.queues.support import until
from tests.integration.support import TurnedClock
from tests.loops import await_what_others_cancelled
from tests.unit.cache.calls import calls_during

pytestmark = pytest.mark.anyio


@define(eq=False)
class Source:
    """What is computed, and how often. Holds computations up while it is closed."""

    value: Any = "computed"
    begun: int = 0
    cancelled: int = 0
    is_open: anyio.Event = field(factory=anyio.Event)

    async def __call__(self) -> Any:
        self.begun += 1
        value = self.value
        try:
            await self.is_open.wait()
        except BaseException:
            self.cancelled += 1
            raise
        if isinstance(value, Exception):
            raise value
        return value

    def open(self, value: Any = "computed") -> None:
        self.value = value
        self.is_open.set()

    def close(self) -> None:
        self.is_open = anyio.Event()


def opened(value: Any = "computed") -> Source:
    source = Source()
    source.open(value)
    return source


async def test_a_thousand_callers_compute_once(data_dir: Path) -> None:
    source, results = Source([1]), []

    async def call() -> None:
        results.append(await cache.get_or_compute(user(1), source))

    async with both(data_dir) as (registry, cache):
        commits = (await registry.stats()).commits
        async with anyio.create_task_group() as callers:
            for _ in range(1_000):
                callers.start_soon(call)
            await until(lambda: cache.statistics().stampedes_avoided == 999)
            source.is_open.set()
        assert results == [[1]] * 1_000
        assert len({id(result) for result in results}) == 1_000
        assert source.begun == 1
        assert (await registry.stats()).commits == commits + 1
        statistics = cache.statistics()
        assert (statistics.computations, statistics.misses) == (1, 1_000)
        assert await cache.get_or_compute(user(1), source) == [1]
        assert source.begun == 1


async def test_one_who_is_cancelled_does_not_cancel_the_others_and_the_last_one_does(
    data_dir: Path,
) -> None:
    source, results = Source(), []

    async def call() -> None:
        results.append(await cache.get_or_compute(user(1), source))

    async with open_cache(data_dir) as cache:
        async with anyio.create_task_group() as others:
            async with anyio.create_task_group() as first:
                first.start_soon(call)
                await until(lambda: source.begun == 1)
                others.start_soon(call)
                await until(lambda: cache.statistics().stampedes_avoided == 1)
                first.cancel_scope.cancel()
            assert source.cancelled == 0
            source.open()
        assert results == ["computed"]
        await cache.delete(user(1))
        source.close()
        async with anyio.create_task_group() as callers:
            for _ in range(3):
                callers.start_soon(call)
            await until(lambda: cache.statistics().stampedes_avoided == 3)
            callers.cancel_scope.cancel()
        await until(lambda: source.cancelled == 1)
        assert await cache.get(user(1)) is None
        assert await cache.get_or_compute(user(1), opened("anew")) == "anew"


async def test_what_a_computation_raises_is_raised_to_all_and_nothing_is_cached(
    data_dir: Path,
) -> None:
    source = Source(LookupError("no such user"))
    errors: list[LookupError] = []

    async def call() -> None:
        with pytest.raises(LookupError) as caught:
            await cache.get_or_compute(user(1), source)
        errors.append(caught.value)
        frames = [frame.name for frame in extract_tb(caught.tb)]
        assert frames.index("call") < frames.index("__call__"), "where it was raised is to be seen"
        assert len(frames) < 20, "and not what others were told"

    async with open_cache(data_dir) as cache:
        async with anyio.create_task_group() as callers:
            for _ in range(5):
                callers.start_soon(call)
            await until(lambda: cache.statistics().stampedes_avoided == 4)
            source.is_open.set()
        assert len(errors) == 5
        assert cache.statistics().computations_failed == 1
        assert await cache.get(user(1)) is None
        assert await cache.get_or_compute(user(1), opened()) == "computed"


@pytest.mark.parametrize("is_refresh", [False, True])
async def test_a_computation_whose_work_others_cancel_fails_alone(
    data_dir: Path, caplog: pytest.LogCaptureFixture, is_refresh: bool
) -> None:
    clock = TurnedClock()
    async with both(data_dir, clock=clock) as (registry, cache):
        if is_refresh:
            await cache.get_or_compute(user(1), opened("old"), ttl_seconds=10, stale_seconds=50)
            clock.now += 10
            assert await cache.get_or_compute(user(1), await_what_others_cancelled) == "old"
            await until(lambda: cache.statistics().computations_failed == 1)
            assert "could not be computed: what it waited for was cancelled" in caplog.text
        else:
            with pytest.raises(RuntimeError, match="what it waited for was cancelled"):
                await cache.get_or_compute(user(1), await_what_others_cancelled)
        await registry.key_value_store("orders").put("k", b"the registry goes on")
        assert await cache.get_or_compute(user(2), opened()) == "computed"


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_computations_that_would_wait_for_each_other_for_ever_are_told(
    data_dir: Path, count: int
) -> None:
    """Each in a cache of its own, as far as there are several."""
    async with both(data_dir) as (registry, cache):
        other = GlobalCacheManager(registry, CacheConfiguration(name="other"))
        caches = [cache, other, cache]
        waiting = anyio.Event()

        async def compute(number: int) -> Any:
            if number == 0:
                await waiting.wait()
            return await ask((number + 1) % count)

        async def ask(number: int) -> Any:
            return await caches[number].get_or_compute(user(number), partial(compute, number))

        async def fails(number: int) -> None:
            with pytest.raises(RuntimeError, match="for ever") as caught:
                await ask(number)
            assert all(repr(user(one)) in str(caught.value) for one in range(count))

        with anyio.fail_after(PATIENCE_SECONDS):
            async with anyio.create_task_group() as task_group:
                for number in range(count):
                    task_group.start_soon(fails, number)
                await anyio.wait_all_tasks_blocked()
                waiting.set()
        tasks = cache._shared.computations._tasks
        assert (tasks.by_task, tasks.waits_for) == ({}, {})
        assert await cache.get_or_compute(user(0), opened()) == "computed"


async def test_who_asks_beside_a_computation_or_after_another_one_is_no_circle(
    data_dir: Path,
) -> None:
    results = list[Any]()
    async with open_cache(data_dir) as cache, anyio.create_task_group() as beside:

        async def ask() -> None:
            results.append(await cache.get_or_compute(user(1), opened("never")))

        async def compute() -> Any:
            # In a task that it does not wait for.
            beside.start_soon(ask)
            await anyio.wait_all_tasks_blocked()
            one = await cache.get_or_compute(user(2), opened("a"))
            two = await cache.get_or_compute(user(3), partial(from_another, user(2)))
            return [one, two]

        async def from_another(key: GlobalCacheKey) -> Any:
            return await cache.get_or_compute(key, opened("b"))

        assert await cache.get_or_compute(user(1), compute) == ["a", "a"]
    assert results == [["a", "a"]]


async def test_a_circle_through_other_tasks_ends_where_one_of_them_has_a_time_limit(
    data_dir: Path,
) -> None:
    """That it is one nobody can tell: they need not wait for the tasks that they have started."""
    asked = anyio.Event()
    async with open_cache(data_dir) as cache:
        computations = cache._shared.computations

        async def ask_in_another_task(number: int, limit: float | None) -> None:
            if number == 1:
                asked.set()

            async def ask() -> None:
                with anyio.fail_after(limit):
                    await cache.get_or_compute(user(number), computing[number])

            async with anyio.create_task_group() as task_group:
                task_group.start_soon(ask)

        computing = {
            1: partial(ask_in_another_task, 2, 0.01),
            2: partial(ask_in_another_task, 1, None),
        }
        with anyio.fail_after(PATIENCE_SECONDS), pytest.raises(ExceptionGroup) as caught:
            await cache.get_or_compute(user(1), computing[1])
        assert caught.value.subgroup(TimeoutError) is not None
        await until(lambda: computations._tasks.by_task == {})
        assert await cache.get_or_compute(user(1), opened()) == "computed"
        # That of who has asked first ends neither: each is waited for by the other.
        await cache.invalidate(namespace="users")
        asked = anyio.Event()
        computing[1] = partial(ask_in_another_task, 2, None)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.get_or_compute, user(1), computing[1])
            await asked.wait()
            await anyio.wait_all_tasks_blocked()
            task_group.cancel_scope.cancel()
        assert len(computations._tasks.by_task) == 2


async def test_one_that_nobody_waits_for_any_more_fails_alone_as_well(data_dir: Path) -> None:
    begun, go_on = anyio.Event(), anyio.Event()

    async def compute() -> None:
        with anyio.CancelScope(shield=True):
            begun.set()
            await go_on.wait()
            await await_what_others_cancelled()

    async with both(data_dir) as (registry, cache):
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.get_or_compute, user(1), compute)
            await begun.wait()
            task_group.cancel_scope.cancel()
        go_on.set()
        await anyio.wait_all_tasks_blocked()
        await registry.key_value_store("orders").put("k", b"the registry goes on")


async def test_a_stale_value_is_given_at_once_while_one_new_one_is_computed(
    data_dir: Path,
) -> None:
    clock, source = TurnedClock(), opened("old")

    async def ask() -> Any:
        return await cache.get_or_compute(user(1), source, ttl_seconds=10, stale_seconds=50)

    for is_restarted in (False, True):
        async with open_cache(data_dir, clock=clock) as cache:
            await cache.delete(user(1))
            source.open("old")
            assert await ask() == "old"
            clock.now += 10
            if not is_restarted:
                source.close()
                before = source.begun
                assert [await ask() for _ in range(3)] == ["old"] * 3
                assert await cache.get(user(1)) is None, "only for who computes it anew"
                await until(lambda before=before: source.begun == before + 1)  # type: ignore[misc]
                source.value = "new"
                assert cache.statistics().served_stale == 3
        # The registry's end ends what is computed.
        async with open_cache(data_dir, clock=clock) as cache:
            source.open("new")
            assert await ask() == "old"
            await until(lambda: cache.statistics().puts == 1)
            assert await ask() == "new"
            clock.now += 60
            source.open("newest")
            assert await ask() == "newest"
            clock.now += 1_000


async def test_a_refresh_that_fails_is_told_and_the_stale_value_stays(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    clock = TurnedClock()
    async with open_cache(data_dir, clock=clock) as cache:
        await cache.get_or_compute(user(1), opened("old"), ttl_seconds=10, stale_seconds=50)
        clock.now += 10
        for count in (1, 2):
            assert await cache.get_or_compute(user(1), opened(OSError("down"))) == "old"
            await until(lambda n=count: cache.statistics().computations_failed == n)  # type: ignore[misc]
    assert "GlobalCacheKey('users', 1) could not be computed: down" in caplog.text
    assert "in __call__\n    raise value" in caplog.text


async def test_that_there_is_nothing_is_cached_as_long_as_was_said(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_cache(data_dir, clock=clock) as cache:
        for ttl, expected in ((None, 1), (0, 2), (5, 1)):
            source, key = opened(None), user(str(ttl))
            for _ in range(2):
                value = await cache.get_or_compute(
                    key, source, ttl_seconds=60, negative_ttl_seconds=ttl
                )
                assert value is None
            assert source.begun == expected, ttl
        found = await cache.get(user("5"))
        assert found is not None
        assert (found.value, found.expires_at) == (None, clock.now + 5)


async def test_a_refresh_that_finds_nothing_any_more_ends_the_stale_value(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_cache(data_dir, clock=clock) as cache:

        async def ask(source: Source) -> Any:
            return await cache.get_or_compute(
                user(1), source, ttl_seconds=10, stale_seconds=3_600, negative_ttl_seconds=0
            )

        await ask(opened("old"))
        clock.now += 10
        assert await ask(opened(None)) == "old"
        await until(lambda: cache.statistics().deletions == 1)
        assert await ask(opened(None)) is None


async def test_what_is_given_is_what_is_cached_whoever_goes_on_changing_it(data_dir: Path) -> None:
    rows = [1]

    async def compute() -> list[int]:
        return rows

    async with open_cache(data_dir) as cache:
        store = cache._shared.computations.store

        async def store_and_change(*arguments: Any) -> None:
            await store(*arguments)
            rows.append(2)

        cache._shared.computations.store = store_and_change
        assert await cache.get_or_compute(user(1), compute) == [1]
        assert await get_value(cache, user(1)) == [1]


async def test_what_was_changed_while_it_was_computed_is_given_and_not_cached(
    data_dir: Path,
) -> None:
    """The key, a key it depends on, its namespace, the namespace of that, or a tag."""
    key, other = user(1), GlobalCacheKey("other", 1)
    async with open_cache(data_dir) as cache:
        for number, change in enumerate((
            lambda: cache.put(key, "put"),
            lambda: cache.delete(key),
            lambda: cache.put(other, "put"),
            lambda: cache.increment(GlobalCacheKey("other", 2)),
            lambda: cache.invalidate(namespace="users"),
            lambda: cache.invalidate(namespace="other"),
            lambda: cache.invalidate(tag="eu"),
            lambda: cache.invalidate(dependency=other),
        )):  # fmt: skip
            await cache.put(key, "old")
            await cache.invalidate(tag="eu")
            await cache.delete(key)
            source = Source()
            results: list[Any] = []

            async def call(source: Source = source, results: list[Any] = results) -> None:
                results.append(
                    await cache.get_or_compute(
                        key,
                        source,
                        tags=(tag for tag in ["eu"]),
                        dependencies=[other, GlobalCacheKey("other", 2)],
                    )
                )

            async with anyio.create_task_group() as callers:
                callers.start_soon(call)
                await until(lambda source=source: source.begun == 1)  # type: ignore[misc]
                await change()  # type: ignore[no-untyped-call]
                # Whoever comes now does not get what was computed before.
                second = await cache.get_or_compute(key, opened("second"))
                source.open()
            assert second == ("put" if number == 0 else "second")
            assert results == ["computed"]
            assert await get_value(cache, key) == second


@pytest.mark.parametrize("is_on_key", [True, False])
async def test_what_is_computed_beside_a_change_under_way_is_not_cached(
    data_dir: Path, is_on_key: bool
) -> None:
    """It reads what was there before, and would be stored after it."""
    backend = ReadGateBackend(data_dir)
    results: list[Any] = []
    key, source_key = user(1), user("source")
    changed = key if is_on_key else source_key

    async def compute() -> Any:
        return await get_value(cache, source_key)

    async def call() -> None:
        results.append(await cache.get_or_compute(key, compute, dependencies=[source_key]))

    async with open_cache(data_dir, backend=backend) as cache:
        await cache.put(source_key, "old")
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.put, changed, "new")
            await backend.reached()
            task_group.start_soon(call)
            await until(lambda: results == ["old"])
            backend.open_gate()
        assert await get_value(cache, changed) == "new"
        await call()
        assert results == ["old", "new"]


async def test_what_was_written_behind_and_has_expired_is_computed(data_dir: Path) -> None:
    backend, clock = ReadGateBackend(data_dir), TurnedClock()
    async with open_cache(data_dir, backend=backend, clock=clock) as cache:
        await cache.put(user(0), 0)
        backend.close_gate()
        await cache.put(user(1), "old", ttl_seconds=10, mode=WriteMode.WRITE_BEHIND)
        assert await get_value(cache, user(1)) == "old"
        clock.now += 10
        assert await cache.get(user(1)) is None
        assert await cache.get_or_compute(user(1), opened(), mode=WriteMode.WRITE_BEHIND)
        backend.open_gate()


async def test_what_goes_on_although_nobody_waits_for_it_any_more_is_not_cached(
    data_dir: Path,
) -> None:
    begun, go_on, ended = anyio.Event(), anyio.Event(), anyio.Event()

    async def compute() -> str:
        with anyio.CancelScope(shield=True):
            begun.set()
            await go_on.wait()
        ended.set()
        return "from what was there before"

    async with open_cache(data_dir) as cache:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(cache.get_or_compute, user(1), compute)
            await begun.wait()
            task_group.cancel_scope.cancel()
        await cache.put(user(1), "changed")
        go_on.set()
        await ended.wait()
        await anyio.wait_all_tasks_blocked()
        await cache.put(user(2), "and whatever was sent before is committed")
        assert await get_value(cache, user(1)) == "changed"


async def test_an_increment_that_was_sent_when_the_registry_closed_may_have_happened(
    data_dir: Path,
) -> None:
    backend, told = ReadGateBackend(data_dir), dict[str, Exception]()

    async def count(cache: GlobalCacheManager, name: str) -> None:
        try:
            await cache.increment(user(1))
        except MpregError as error:
            told[name] = error

    opened_cache = open_cache(data_dir, backend=backend)
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as callers, opened_cache as cache:
            await read_back(cache)
            backend.close_gate()
            callers.start_soon(count, cache, "sent")
            await backend.reached()
            callers.start_soon(count, cache, "waiting")
            await anyio.wait_all_tasks_blocked()
            callers.start_soon(open_when, backend, lambda: len(told) == 2)
    assert type(told["waiting"]) is WriterStoppedError
    assert type(told["sent"]) is CommitUnknownError
    async with open_cache(data_dir) as cache:
        assert await get_value(cache, user(1)) == 1


async def open_when(backend: ReadGateBackend, condition: Callable[[], bool]) -> None:
    await until(condition)
    backend.open_gate()


async def test_the_end_of_the_registry_ends_who_waits(data_dir: Path) -> None:
    ended: list[Exception] = []

    async def call(cache: GlobalCacheManager) -> None:
        try:
            await cache.get_or_compute(user(1), source)
        except WriterStoppedError as error:
            ended.append(error)

    source = Source()
    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as callers, open_cache(data_dir) as cache:
            callers.start_soon(call, cache)
            await until(lambda: source.begun == 1)
    assert len(ended) == 1
    assert source.cancelled == 1


async def test_a_write_asks_only_those_computations_that_it_may_concern(data_dir: Path) -> None:
    source, calls = Source(), list[int]()
    write = Write(changes=[Change(user("a"), encode_key(user("a")), None, 0)], raised=["tag"])
    async with open_cache(data_dir) as cache:
        computations = cache._shared.computations
        async with anyio.create_task_group() as task_group:
            for count in (5, 100):
                for number in range(count):
                    task_group.start_soon(
                        lambda n=number, c=count: cache.get_or_compute(  # type: ignore[misc]
                            user(c, n), source, tags=["other"], dependencies=[user("b")]
                        )
                    )
                await until(lambda c=count: source.begun >= c)  # type: ignore[misc]
                calls.append(calls_during(lambda: computations._changing(write)))
            source.open()
        assert calls[0] == calls[1]
        assert not computations._by_link, "nothing of them is left"


# --- functions ---


async def test_a_cached_function_computes_once_for_each_of_its_arguments(data_dir: Path) -> None:
    calls: Counter[Any] = Counter()
    async with open_cache(data_dir) as cache:

        @cached(lambda: cache, namespace="profiles", ttl_seconds=60, tags=["eu"])
        async def profile(name: str, *, full: bool = False) -> dict[str, Any]:
            calls[name, full] += 1
            return {"name": name, "full": full}

        class Users:
            @cached(lambda: cache, namespace="names", key=lambda self, number: number)
            async def name(self, number: int) -> str:
                calls[number] += 1
                return f"user {number}"

        for _ in range(2):
            assert await profile("ann") == {"name": "ann", "full": False}
            assert await profile(name="ann", full=True) == {"name": "ann", "full": True}
            assert await Users().name(7) == "user 7"
        assert set(calls.values()) == {1}
        assert await profile.invalidate("ann")
        assert not await profile.invalidate("bob")
        await profile("ann")
        await profile("ann", full=True)
        assert (calls["ann", False], calls["ann", True]) == (2, 1)
        await cache.invalidate(tag="eu")
        await profile("ann", full=True)
        assert calls["ann", True] == 2
        found = await cache.get(profile.key("ann", full=True))
        assert found is not None


# --- counters ---


async def test_two_hundred_who_count_at_the_same_time_share_few_commits(data_dir: Path) -> None:
    results: list[int] = []

    async def count() -> None:
        results.append(await cache.increment(user("n")))

    async with both(data_dir) as (registry, cache):
        commits = (await registry.stats()).commits
        async with anyio.create_task_group() as callers:
            for _ in range(200):
                callers.start_soon(count)
        assert sorted(results) == list(range(1, 201))
        assert (await registry.stats()).commits - commits <= 3
        # Beside one who puts, none is lost: what is put is added to.
        async with anyio.create_task_group() as callers:
            for number in range(50):
                callers.start_soon(count)
                if number == 20:
                    callers.start_soon(cache.put, user("n"), 1_000_000)
        assert await get_value(cache, user("n")) == max(results)
        assert 1_000_000 <= max(results) <= 1_000_050


async def test_what_others_invalidate_all_the_time_does_not_keep_a_number_from_being_counted(
    data_dir: Path,
) -> None:
    invalidations = 0
    counted = anyio.Event()

    async def invalidate(cache: GlobalCacheManager) -> None:
        nonlocal invalidations
        while invalidations < 400 and not counted.is_set():
            invalidations += 1
            await cache.invalidate(tag="others", durability=Durability.RELAXED)

    async with open_cache(data_dir) as cache:
        await read_back(cache)
        await cache.put(user(1), 1, tags=["its own"])
        async with anyio.create_task_group() as task_group:
            for _ in range(4):
                task_group.start_soon(invalidate, cache)
            await until(lambda: invalidations > 8)
            assert await cache.increment(user(1)) == 2
            assert await cache.increment(user("new")) == 1
            counted.set()
        assert invalidations < 400

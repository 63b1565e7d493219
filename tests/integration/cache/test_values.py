"""What comes back of what was put, from memory, from disk and after a restart."""

from __future__ import annotations

import math
import sys
from collections.abc import Awaitable
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from mpreg.cache import (
    CacheConfiguration,
    EvictionCause,
    GlobalCacheKey,
    GlobalCacheManager,
    WriteMode,
)
from mpreg.cache.keys import encode_key
from mpreg.cache.storage import CacheStorage
from mpreg.codec import KEY_BYTES_MAX
from mpreg.errors import ConfigurationError, InvalidArgumentError, ValueTooLargeError
from mpreg.persistence import Durability, VersionConflictError
from tests.integration.cache.support import (
    PATIENCE_SECONDS,
    ReadGateBackend,
    both,
    count_stored,
    counts_entries,
    get_value,
    open_cache,
    read_back,
    user,
)
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

VALUES: list[Any] = [
    None, True, False, 0, 1, -(2**63), 2**63 - 1, 0.0, -0.0, 1.5, math.inf, "", "ü\x00😀", b"",
    b"\x00\xff", [], {}, [1, [None, {"a": b"b"}]], {"": [], "k": {"x": 1.0, "y": True}},
]  # fmt: skip


def same(one: object, other: object) -> bool:
    """Also of the same types, and zeros of the same sign."""
    return type(one) is type(other) and repr(one) == repr(other)


@pytest.mark.parametrize("backend", ["sqlite", "file"])
async def test_values_come_back_as_they_went_in_from_everywhere(
    data_dir: Path, backend: str
) -> None:
    keys = [user(number) for number in range(len(VALUES))]
    store = {"backend": backend}
    async with open_cache(data_dir, store=store, memory_entries_max=5) as cache:
        for key, value in zip(keys, VALUES, strict=True):
            await cache.put(key, value)
        for _ in range(2):
            found = await cache.get_many(keys)
            assert {one.level for one in found.values()} == {"L1", "L2"}
            assert all(same(found[k].value, v) for k, v in zip(keys, VALUES, strict=True))
    async with open_cache(data_dir, store=store) as cache:
        for key, value in zip(keys, VALUES, strict=True):
            one = await cache.get(key)
            assert one is not None
            assert same(one.value, value)


async def test_nan_comes_back_too(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user(1), math.nan)
        assert math.isnan(await get_value(cache, user(1)))


async def test_lists_and_dicts_are_the_callers_own(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        given = {"roles": ["admin"]}
        await cache.put(user(1), given)
        given["roles"].append("after the put")
        (await get_value(cache, user(1)))["roles"].append("by a reader")
        (await cache.get_many([user(1)]))[user(1)].value.clear()  # type: ignore[attr-defined]

        async def compute() -> Any:
            return {"roles": ["computed"]}

        (await cache.get_or_compute(user(1), compute))["roles"].clear()
        (await cache.get_or_compute(user(2), compute))["roles"].clear()
        assert await get_value(cache, user(1)) == {"roles": ["admin"]}
        assert await get_value(cache, user(2)) == {"roles": ["computed"]}


@pytest.mark.parametrize("text", ["a" * 100_000 + "😀", "a" * 100_000 + "€", "ü" * 100_000])
async def test_a_text_takes_no_more_memory_than_it_counts_for(data_dir: Path, text: str) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user(1), text)
        for _ in range(2):
            found = await cache.get(user(1))
            assert found is not None
            assert (found.value, found.level) == (text, "L1")
        entry = cache._core.memory.peek(user(1))
        assert entry is not None
        held = entry.value if entry.found is None else entry.found.value
        assert sys.getsizeof(held) <= cache.statistics().memory_bytes


REFUSED: list[Any] = [
    (1,), {1}, {1: 2}, 2**63, bytearray(b"x"), object(), "\ud800", [[(1,)]], bytes(300),
]  # fmt: skip


async def test_a_value_that_is_refused_leaves_nothing_behind(data_dir: Path) -> None:
    settings: dict[str, Any] = {"disk_bytes_max": 300}
    async with both(data_dir, **settings) as (registry, cache):
        version = await (await cache.put(user(1), "before"))

        async def compute(value: Any) -> Any:
            return value

        async def refused(call: Awaitable[object]) -> None:
            with pytest.raises(InvalidArgumentError):
                await call

        commits = (await registry.stats()).commits
        for value in REFUSED:
            await refused(cache.put(user(1), value))
            await refused(cache.put(user(1), value, mode=WriteMode.WRITE_BEHIND))
            await refused(cache.put_many({user(1): "first", user(2): value}))
            await refused(cache.compare_and_set(user(1), value, expected_version=version))
            await refused(cache.get_or_compute(user(3), partial(compute, value)))
        assert await get_value(cache, user(1)) == "before"
        assert await cache.get_many([user(2), user(3)]) == {}
        assert (await registry.stats()).commits == commits
        statistics = cache.statistics()
        assert (statistics.memory_entries, statistics.disk_entries, statistics.puts) == (1, 1, 1)


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"ttl_seconds": 0}, "ttl_seconds must be above 0, not 0"),
    ({"ttl_seconds": "5"}, "ttl_seconds is a number of seconds, not '5'"),
    ({"ttl_seconds": math.nan}, "ttl_seconds is a number of seconds, not nan"),
    ({"ttl_seconds": 10**400}, "ttl_seconds is more than can be counted"),
    ({"cost": -1}, "cost is a number, at least 0, not -1"),
    ({"cost": 10**400}, "cost is a number, at least 0, not 1000"),
    ({"tags": "eu"}, r"tags are several: give \('eu',\) and not 'eu'"),
    ({"tags": [""]}, "a tag is a str that is not empty, not ''"),
    ({"tags": [["eu"]]}, r"a tag is a str that is not empty, not \['eu'\]"),
    ({"tags": ["\ud800"]}, "a tag that is no text"),
    ({"dependencies": user("x")}, "dependencies are several: give"),
    ({"dependencies": ["x"]}, "a key is a GlobalCacheKey, not 'x'"),
    ({"dependencies": [user(1)]}, "cannot depend on itself"),
    ({"mode": "relaxed"}, "mode is a WriteMode, not 'relaxed'"),
    ({"durability": "relaxed"}, "durability is a Durability, not 'relaxed'"),
]


async def test_a_wrong_argument_is_refused_by_name_and_nothing_is_written(data_dir: Path) -> None:
    async with both(data_dir) as (registry, cache):
        commits = (await registry.stats()).commits
        for arguments, message in WRONG:
            with pytest.raises(InvalidArgumentError, match=message):
                await cache.put(user(1), 1, **arguments)
            with pytest.raises(InvalidArgumentError, match=message):
                await cache.put_many({user(1): 1}, **arguments)
        assert (await registry.stats()).commits == commits
        assert await cache.get(user(1)) is None


async def test_calls_that_cannot_mean_anything_are_refused(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        for wrong, message in (
            ({}, "give one of namespace"),
            ({"tag": "a", "namespace": "b"}, "give one of namespace"),
            ({"tag": "a", "prefix": "b"}, "prefix is one within a namespace"),
            ({"tag": ""}, "a tag is a str that is not empty"),
            ({"namespace": ""}, "a namespace cannot be empty"),
            ({"namespace": "a", "prefix": 1.5}, "a part of a key is str, bytes or int"),
            ({"tag": "a", "durability": "relaxed"}, "durability is a Durability"),
        ):
            with pytest.raises(InvalidArgumentError, match=message):
                await cache.invalidate(**wrong)
        with pytest.raises(InvalidArgumentError, match="prefix is one within a namespace"):
            cache.watch(prefix="a")
        for version in (-1, True, "1", None):
            with pytest.raises(InvalidArgumentError, match="expected_version is a version or 0"):
                await cache.compare_and_set(user(1), 1, expected_version=version)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match=r"by is an int, not 1\.0"):
            await cache.increment(user(1), 1.0)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="initial is an int, not None"):
            await cache.increment(user(1), initial=None)  # type: ignore[arg-type]
        with pytest.raises(InvalidArgumentError, match="a key is a GlobalCacheKey, not 'a'"):
            await cache.get("a")  # type: ignore[arg-type]
        for compute in (1, lambda: 5):
            with pytest.raises(InvalidArgumentError, match="compute is an async function that"):
                await cache.get_or_compute(user(1), compute)  # type: ignore[arg-type]
        assert cache.statistics().puts == 0


@pytest.mark.parametrize("wrong", [("users", True), ("users", 1), ["users", 1], "users", None])
async def test_only_keys_are_taken_for_keys_also_where_one_would_equal_one_in_memory(
    data_dir: Path, wrong: Any
) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user(1), 1)
        assert await get_value(cache, user(1)) == 1
        calls = (
            lambda: cache.get(wrong),
            lambda: cache.get_many([wrong]),
            lambda: cache.get_many(iter([user(1), wrong])),
            lambda: cache.put(wrong, 2),
            lambda: cache.put(user(2), 2, dependencies=[wrong]),
            lambda: cache.put_many({wrong: 2}),
            lambda: cache.delete(wrong),
            lambda: cache.increment(wrong),
            lambda: cache.compare_and_set(wrong, 2, expected_version=1),
            lambda: cache.get_or_compute(wrong, anyio.lowlevel.checkpoint),
            lambda: cache.invalidate(dependency=wrong),
        )
        for call in calls:
            if isinstance(wrong, list) and call is calls[5]:
                continue
            with pytest.raises(InvalidArgumentError, match=r"GlobalCacheKey|one of namespace"):
                await call()
        assert cache.statistics().puts == 1
        assert await get_value(cache, user(1)) == 1


#: Of the longest key that there may be. That others depend on it takes a byte more.
LONGEST = user("x" * (KEY_BYTES_MAX - len(encode_key(user("")))))


async def test_a_key_too_long_to_be_depended_on_is_refused_when_it_is_given(data_dir: Path) -> None:
    limit = f"at most {KEY_BYTES_MAX - 1}"
    async with open_cache(data_dir, disk_entries_max=2) as cache:
        await read_back(cache)
        await cache.put(LONGEST, 1)
        with pytest.raises(ValueTooLargeError, match=f"a key on which others depend .*{limit}"):
            await cache.put(user(1), 1, dependencies=[LONGEST])
        with pytest.raises(ValueTooLargeError, match=f"a key on which others depend .*{limit}"):
            await cache.invalidate(dependency=LONGEST)
        with pytest.raises(ValueTooLargeError, match=f"a prefix .*{limit}"):
            await cache.invalidate(namespace="users", prefix=LONGEST.parts)
        with anyio.fail_after(PATIENCE_SECONDS):
            assert await cache.increment(LONGEST) == 2
        shorter = user("x" * (len(str(LONGEST.parts[0])) - 1))
        await cache.put(user(1), 1, dependencies=[shorter])
        await cache.invalidate(namespace="users", prefix=shorter.parts)
        assert await cache.get(user(1)) is None


async def test_what_is_refused_late_leaves_nothing_behind(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_storage: CacheStorage, _dependency: bytes) -> None:
        raise ValueTooLargeError("no")

    async with open_cache(data_dir, disk_entries_max=2) as cache:
        await read_back(cache)
        await cache.put_many({user(1): 1, user(2): 2})
        with monkeypatch.context() as patch:
            patch.setattr(CacheStorage, "depend", refuse)
            with pytest.raises(ValueTooLargeError, match="no"):
                await cache.put(user(3), 3, dependencies=[user(4)])
        assert set(await cache.get_many([user(1), user(2)])) == {user(1), user(2)}
        with anyio.fail_after(PATIENCE_SECONDS):
            await cache.put_many({user(3): 3, user(4): 4})
        assert cache.statistics().disk_entries == 2


async def test_many_are_put_and_got_together_or_not_at_all(data_dir: Path) -> None:
    store = {"batch_bytes_max": 1_000, "value_bytes_max": 900}
    async with both(data_dir, store=store) as (registry, cache):
        commits = (await registry.stats()).commits
        ack = await cache.put_many({user(number): number for number in range(5)})
        assert ack is not None
        assert (await registry.stats()).commits == commits + 1
        first = await cache.get(user(0))
        assert first is not None
        assert first.version == await ack - 4
        with pytest.raises(ValueTooLargeError):
            await cache.put_many({user(number): "x" * 100 for number in range(3, 20)})
        found = await cache.get_many([user(number) for number in (9, 4, 3, 4, 2)])
        assert {key: one.value for key, one in found.items()} == {
            user(4): 4,
            user(3): 3,
            user(2): 2,
        }
        assert await cache.put_many({}) is None
        assert await cache.get_many([]) == {}
        assert len(cache._core.in_flight._writing) == 0


# --- time ---


@pytest.mark.parametrize("is_put_by", ["put", "computed"])
async def test_a_time_to_live_counts_from_the_put_also_after_promotion_and_restart(
    data_dir: Path, is_put_by: str
) -> None:
    clock = TurnedClock()

    async def compute() -> Any:
        return "v"

    async with open_cache(data_dir, clock=clock, memory_entries_max=1) as cache:
        if is_put_by == "put":
            await cache.put(user(1), "v", ttl_seconds=60)
        else:
            await cache.get_or_compute(user(1), compute, ttl_seconds=60)
        await cache.put(user(2), "other")
        clock.now += 30
        found = await cache.get(user(1))
        assert found is not None
        assert (found.level, found.expires_at) == ("L2", 1_060)
        clock.now += 29.5
        found = await cache.get(user(1))
        assert found is not None
        assert (found.level, found.expires_at) == ("L1", 1_060)
    async with open_cache(data_dir, clock=clock) as cache:
        assert await get_value(cache, user(1)) == "v"
        clock.now = 1_060 - 2**-20
        assert await get_value(cache, user(1)) == "v"
        clock.now = 1_060
        assert await cache.get(user(1)) is None
        assert await cache.get_many([user(1)]) == {}
        assert not await cache.delete(user(1))
        assert await cache.compare_and_set(user(1), "new", expected_version=0)
    clock.now += 10**9
    async with open_cache(data_dir, clock=clock) as cache:
        assert await get_value(cache, user(1)) == "new"


@pytest.mark.parametrize("call", ["put", "put_many", "cas"])
async def test_a_put_that_waits_until_all_is_counted_is_of_the_value_and_time_of_its_call(
    data_dir: Path, call: str
) -> None:
    clock, backend, value = TurnedClock(1_000.0), ReadGateBackend(data_dir), ["as given"]
    details: dict[str, Any] = {"dependencies": [user(2)], "ttl_seconds": 60.0}
    async with open_cache(data_dir) as cache:
        await cache.put(user(2), 2, dependencies=[user(3)])
    backend.hold_reads(counts_entries)
    async with open_cache(data_dir, backend=backend, clock=clock) as cache:
        calls = {
            "put": lambda: cache.put(user(1), value, **details),
            "put_many": lambda: cache.put_many({user(1): value}, **details),
            "cas": lambda: cache.compare_and_set(user(1), value, expected_version=0, **details),
        }
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(calls[call])
            await backend.read_is_held()
            await anyio.wait_all_tasks_blocked()
            value.append("changed since")
            clock.now += 30
            backend.let_reads_go()
        found = await cache.get(user(1))
        assert found is not None
        assert (found.value, found.expires_at) == (["as given"], 1_060.0)
        await cache.invalidate(dependency=user(3))
        assert await get_value(cache, user(1)) is None


async def test_a_number_that_waits_lives_from_the_call_that_made_it(data_dir: Path) -> None:
    clock, backend = TurnedClock(1_000.0), ReadGateBackend(data_dir)
    async with open_cache(data_dir, backend=backend, clock=clock) as cache:
        await read_back(cache)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            await cache.put(user(1), 1, mode=WriteMode.WRITE_BEHIND)
            task_group.start_soon(lambda: cache.delete(user(1)))
            await backend.reached()
            await anyio.wait_all_tasks_blocked()
            task_group.start_soon(lambda: cache.increment(user(1), ttl_seconds=60.0))
            await anyio.wait_all_tasks_blocked()
            clock.now += 30
            backend.open_gate()
        found = await cache.get(user(1))
        assert found is not None
        assert (found.value, found.expires_at) == (1, 1_060.0)


async def test_the_default_time_to_live_is_for_calls_that_name_none(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_cache(data_dir, clock=clock, default_ttl_seconds=10) as cache:
        await cache.put(user("default"), 1)
        await cache.put(user("own"), 1, ttl_seconds=20)
        await cache.put(user("for ever"), 1, ttl_seconds=math.inf)
        await cache.increment(user("counted"))
        clock.now += 10
        keys = [user(name) for name in ("default", "own", "for ever", "counted")]
        assert set(await cache.get_many(keys)) == {user("own"), user("for ever")}


# --- versions and numbers ---


async def test_a_condition_is_held_against_what_readers_see(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        version = await cache.compare_and_set(user(1), "a", expected_version=0)
        with pytest.raises(VersionConflictError) as caught:
            await cache.compare_and_set(user(1), "b", expected_version=0)
        assert (caught.value.expected_version, caught.value.found_version) == (0, version)
        assert repr(user(1)) in str(caught.value)
        newer = await cache.compare_and_set(user(1), "b", expected_version=version)
        found = await cache.get(user(1))
        assert found is not None
        assert (found.value, found.version) == ("b", newer)
        await cache.invalidate(namespace="users")
        with pytest.raises(VersionConflictError):
            await cache.compare_and_set(user(1), "c", expected_version=newer)
        # It may be on disk still: readers do not see it.
        await cache.compare_and_set(user(1), "c", expected_version=0)
        assert await get_value(cache, user(1)) == "c"


async def test_numbers_are_counted_and_what_cannot_be_is_refused(data_dir: Path) -> None:
    clock = TurnedClock()
    async with open_cache(data_dir, clock=clock) as cache:
        assert await cache.increment(user("n"), ttl_seconds=60, initial=10) == 11
        clock.now += 59
        assert await cache.increment(user("n"), -5, ttl_seconds=60, initial=99) == 6
        clock.now += 1
        assert await cache.increment(user("n")) == 1, "the first time to live is kept"
        await cache.put(user("n"), 2**63 - 2, tags=["eu"])
        with pytest.raises(InvalidArgumentError, match="would not fit in 64 bits"):
            await cache.increment(user("n"), 2)
        assert await cache.increment(user("n")) == 2**63 - 1
        await cache.invalidate(tag="eu")
        assert await cache.get(user("n")) is None, "its tags are kept"
        for value in ("7", 7.0, True, None, [7]):
            await cache.put(user("s"), value)
            with pytest.raises(InvalidArgumentError, match="is no number but "):
                await cache.increment(user("s"))
            assert same(await get_value(cache, user("s")), value)


# --- several caches ---


async def test_managers_of_one_name_are_one_cache_and_other_names_have_nothing_in_common(
    data_dir: Path,
) -> None:
    async with both(data_dir, name="a") as (registry, cache):
        same_cache = GlobalCacheManager(registry, CacheConfiguration(name="a"))
        other = GlobalCacheManager(registry, CacheConfiguration(name="b"))
        with pytest.raises(ConfigurationError, match="'a' is there already, with another conf"):
            GlobalCacheManager(registry, CacheConfiguration(name="a", policy="lfu"))
        await cache.put(user(1), "of a", tags=["t"])
        await other.put(user(1), "of b", tags=["t"])
        assert await get_value(same_cache, user(1)) == "of a"
        assert same_cache.statistics() == cache.statistics()
        await other.invalidate(namespace="users")
        await other.invalidate(tag="t")
        assert await get_value(cache, user(1)) == "of a"
        assert await other.get(user(1)) is None
        async with other.watch() as changes:
            await cache.put(user(2), 1)
            await other.put(user(3), 1)
            assert (await anext(changes)).key == user(3)
    assert count_stored(data_dir, "entries", "a") == 2
    async with both(data_dir, name="b") as (_, cache):
        assert await cache.get(user(1)) is None
        assert await get_value(cache, user(3)) == 1


async def test_a_cache_lives_beside_stores_of_users_with_its_names(data_dir: Path) -> None:
    async with both(data_dir) as (registry, cache):
        for name in ("cache", "default/entries", "cache/default/entries"):
            await registry.key_value_store(name).put("k", b"users")
        await cache.put(user(1), 1)
        await cache.invalidate(namespace="users")
        for name in ("cache", "default/entries", "cache/default/entries"):
            store = registry.key_value_store(name)
            assert [entry.key async for entry in store.scan()] == ["k"]


@pytest.mark.parametrize("is_early", [True, False])
async def test_a_manager_may_be_made_before_the_registry_is_opened_or_after(
    data_dir: Path, is_early: bool
) -> None:
    async with open_cache(data_dir, is_early=is_early) as cache:
        await cache.put(user(1), 1)
        await cache.put(user(2), 2)
        await cache.invalidate(namespace="users", prefix=1)
    async with open_cache(data_dir, is_early=is_early) as cache:
        assert await cache.get(user(1)) is None
        assert await get_value(cache, user(2)) == 2


async def test_how_long_a_put_takes_is_chosen_by_call_and_by_default(data_dir: Path) -> None:
    async with both(data_dir, write_mode="relaxed") as (registry, cache):
        for given, fsyncs in (
            ({}, 0),
            ({"mode": WriteMode.RELAXED}, 0),
            ({"mode": WriteMode.WRITE_THROUGH}, 1),
            ({"durability": Durability.DURABLE}, 1),
            ({"mode": WriteMode.WRITE_THROUGH, "durability": Durability.RELAXED}, 0),
        ):
            before = (await registry.stats()).fsyncs
            ack = await cache.put(GlobalCacheKey("k", 1), 1, **given)
            assert ack.done
            assert (await registry.stats()).fsyncs - before == fsyncs, given


async def test_a_sum_is_as_durable_as_any_of_those_who_count_together_asks(data_dir: Path) -> None:
    relaxed, durable = Durability.RELAXED, Durability.DURABLE
    async with both(data_dir, write_mode="relaxed") as (registry, cache):
        for asked, fsyncs in (
            ([None], 0),
            ([relaxed], 0),
            ([durable], 1),
            ([None, durable, relaxed], 1),
        ):
            before = await registry.stats()
            async with anyio.create_task_group() as task_group:
                for one in asked:
                    task_group.start_soon(partial(cache.increment, user(1), durability=one))
            after = await registry.stats()
            assert after.fsyncs - before.fsyncs == fsyncs, asked
            assert after.commits - before.commits == 1
        with pytest.raises(InvalidArgumentError, match="durability"):
            await cache.increment(user(1), durability="durable")  # type: ignore[arg-type]
        assert await get_value(cache, user(1)) == 6


async def test_a_number_lives_as_long_as_the_first_call_that_counted_says(data_dir: Path) -> None:
    clock = TurnedClock(1_000.0)
    async with open_cache(data_dir, clock=clock) as cache:

        async def overflow() -> None:
            with pytest.raises(InvalidArgumentError, match="64 bits"):
                await cache.increment(user(1), 2**63 - 1, initial=5, ttl_seconds=30.0)

        async with anyio.create_task_group() as task_group:
            task_group.start_soon(overflow)
            task_group.start_soon(partial(cache.increment, user(1), 1, ttl_seconds=60.0))
        found = await cache.get(user(1))
        assert found is not None
        assert (found.value, found.expires_at) == (1, 1_060.0)


async def test_every_cause_of_an_eviction_has_its_number(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        assert cache.statistics().evicted_from_memory == dict.fromkeys(EvictionCause, 0)


async def test_an_invalidation_has_a_durability(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        with pytest.raises(InvalidArgumentError, match="durability"):
            await cache.invalidate(namespace="users", durability=None)  # type: ignore[arg-type]


async def test_what_can_be_gone_through_only_once_is_kept_by_a_condition_that_is_looked_at_again(
    data_dir: Path,
) -> None:
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir) as cache:
        await cache.put(user(2), 2)
    for by in ({"tag": "eu"}, {"dependency": user(2)}):
        backend.hold_reads(counts_entries)
        async with open_cache(data_dir, backend=backend) as cache:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(
                    lambda: cache.compare_and_set(
                        user(1),
                        1,
                        expected_version=0,
                        tags=iter(["eu"]),
                        dependencies=iter([user(2)]),
                    )
                )
                await backend.read_is_held()
                await anyio.wait_all_tasks_blocked()
                backend.let_reads_go()
            assert await get_value(cache, user(1)) == 1
            await cache.invalidate(**by)
            assert await get_value(cache, user(1)) is None


async def test_a_key_on_which_many_of_a_batch_depend_is_noted_once(data_dir: Path) -> None:
    """Noted for each of them, they would be more than a batch holds."""
    dependencies = [GlobalCacheKey("sources", number) for number in range(20)]
    store = {"batch_bytes_max": 100_000, "value_bytes_max": 1_000}
    async with open_cache(data_dir, store=store) as cache:
        await cache.put_many({user(n): n for n in range(100)}, dependencies=dependencies)
    assert count_stored(data_dir, "invalidations") == len(dependencies)


async def test_what_an_entry_depends_on_counts_in_memory_wherever_it_came_from(
    data_dir: Path,
) -> None:
    sources = [GlobalCacheKey("sources", number) for number in range(500)]
    linked = sum(map(len, map(encode_key, [*sources, user("middle")]))) + len("tag")
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir) as cache:
        await cache.put(user("middle"), None, dependencies=sources, tags=["tag"])
        size_bytes = cache.statistics().memory_bytes
        assert size_bytes > linked
        await cache.put(user("top"), None, dependencies=[user("middle")])
        assert cache.statistics().memory_bytes > size_bytes + linked
    backend.hold_reads(counts_entries)
    async with open_cache(
        data_dir, backend=backend, memory_bytes_max=100_000, warm_up_entries_max=0
    ) as cache:
        await cache.get(user("middle"))
        assert cache.statistics().memory_bytes == size_bytes
        async with anyio.create_task_group() as task_group:
            # Known only when all is counted.
            task_group.start_soon(
                lambda: cache.put(user("above"), None, dependencies=[user("middle")])
            )
            await backend.read_is_held()
            await anyio.wait_all_tasks_blocked()
            backend.let_reads_go()
        assert cache.statistics().memory_bytes > size_bytes + linked
        for number in range(5):
            await cache.put(user(number), None, dependencies=sources)
            assert cache.statistics().memory_entries <= 100_000 // size_bytes
            assert cache.statistics().memory_bytes <= 100_000

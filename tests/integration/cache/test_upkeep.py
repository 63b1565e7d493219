"""What is invalidated and removed at leisure: in small steps, and in small writes."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any, NoReturn

import anyio
import anyio.lowlevel
import pytest

from mpreg.cache import ChangeKind, GlobalCacheKey, GlobalCacheManager, upkeep
from mpreg.cache.core import DESERTED_MAX
from mpreg.cache.dependents import Dependents
from mpreg.cache.index import DiskIndex
from mpreg.cache.invalidation import Barriers
from mpreg.cache.keys import encode_key
from mpreg.cache.storage import CacheStorage
from mpreg.cache.writes import Write
from mpreg.errors import StorageFullError, ValueTooLargeError
from mpreg.persistence import Durability
from tests.integration.cache.support import (
    PATIENCE_SECONDS,
    both,
    count_stored,
    get_value,
    open_cache,
    read_back,
    tidied,
    until,
    user,
)
from tests.integration.queues.support import GatedBackend
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

MANY = 300


def page(number: int) -> GlobalCacheKey:
    return GlobalCacheKey("pages", number)


async def put_pages(cache: GlobalCacheManager) -> None:
    """Each depends on a user of its own."""
    async with anyio.create_task_group() as task_group:
        for number in range(MANY):
            task_group.start_soon(
                lambda n=number: cache.put(  # type: ignore[misc]
                    page(n), n, dependencies=[user(n)], durability=Durability.RELAXED
                )
            )


@pytest.mark.parametrize("part", [{}, {"prefix": ()}])
async def test_an_invalidation_is_one_row_however_many_depend_on_what_it_concerns(
    data_dir: Path, part: dict[str, Any]
) -> None:
    store = {"batch_bytes_max": 1_000, "value_bytes_max": 500}
    async with open_cache(data_dir, store=store) as cache:
        await put_pages(cache)
        await cache.put(user(0), "put later", dependencies=[GlobalCacheKey("else", 1)])
        async with cache.watch(namespace="pages") as changes:
            before = cache.statistics().invalidations
            await cache.invalidate(namespace="users", **part)
            assert cache.statistics().invalidations - before == 1
            with anyio.fail_after(PATIENCE_SECONDS):
                told = await anext(changes)
            assert (told.kind, told.namespace) == (ChangeKind.INVALIDATED, "users")
        assert await cache.get_many(map(page, range(MANY))) == {}
        await put_pages(cache)
        assert len(await cache.get_many(map(page, range(MANY)))) == MANY
        await cache.invalidate(namespace="users", **part)
        assert cache.statistics().barriers == 1
    async with open_cache(data_dir, store=store) as cache:
        assert await cache.get_many(map(page, range(MANY))) == {}
        await read_back(cache)
        await tidied(cache)
    assert count_stored(data_dir, "entries") == 0
    assert count_stored(data_dir, "invalidations") == 0


async def test_who_watches_keys_is_told_of_no_part_on_which_nothing_depends(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache, cache.watch(namespace="pages") as changes:
        await cache.put(page(1), 1, dependencies=[user(1)])
        await cache.invalidate(namespace="others")
        await cache.invalidate(namespace="users", prefix="a")
        await cache.delete(page(1))
        kinds = [(await anext(changes)).kind for _ in range(3)]
        assert kinds == [ChangeKind.PUT, ChangeKind.INVALIDATED, ChangeKind.DELETED]


class Turns:
    """Counts what is done in one turn of the event loop, or in two: trio shuffles its tasks."""

    def __init__(self) -> None:
        self.number = 0
        self.done: Counter[int] = Counter()

    async def count(self) -> None:
        while True:
            self.number += 1
            await anyio.lowlevel.checkpoint()

    def watch(self, monkeypatch: pytest.MonkeyPatch, owner: type, name: str) -> None:
        method = getattr(owner, name)

        def counted(*arguments: Any) -> Any:
            self.done[self.number] += 1
            return method(*arguments)

        monkeypatch.setattr(owner, name, counted)

    @property
    def most(self) -> int:
        return max(self.done.values(), default=0)


@pytest.mark.parametrize("by", ["tag", "dependency", "namespace"])
async def test_what_is_invalidated_is_looked_for_in_small_steps(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    monkeypatch.setattr(upkeep, "KEYS_PER_TURN", 10)
    targets: dict[str, Any] = {"tag": "t", "dependency": user(1), "namespace": "pages"}
    turns = Turns()
    async with open_cache(data_dir) as cache, anyio.create_task_group() as task_group:
        await cache.put_many(
            {page(number): number for number in range(MANY)}, tags=["t"], dependencies=[user(1)]
        )
        await read_back(cache)
        turns.watch(monkeypatch, Barriers, "kills")
        task_group.start_soon(turns.count)
        await cache.invalidate(**{by: targets[by]})
        await tidied(cache)
        task_group.cancel_scope.cancel()
    assert sum(turns.done.values()) >= MANY
    assert turns.most <= 20


async def test_keys_on_which_others_depend_are_not_gone_through_to_find_those_that_nobody_does(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    turns = Turns()
    async with open_cache(data_dir) as cache:
        await put_pages(cache)
        await cache.put(GlobalCacheKey("alone", 1), 1, dependencies=[GlobalCacheKey("alone", 2)])
        note = Write(own=[cache._core.storage.depend(encode_key(user("left over")))])
        await cache._core.send(note, Durability.RELAXED)
    assert count_stored(data_dir, "invalidations") == MANY + 2
    async with open_cache(data_dir) as cache, anyio.create_task_group() as task_group:
        task_group.start_soon(turns.count)
        monkeypatch.setattr(upkeep, "KEYS_PER_TURN", 10)
        turns.watch(monkeypatch, Dependents, "is_not_in_use")
        await read_back(cache)
        await cache.invalidate(namespace="alone")
        await tidied(cache)
        assert turns.most <= 20, "those of the process before are looked at once, in small steps"
        turns.done.clear()
        await cache.delete(page(1))
        await cache.invalidate(tag="nothing")
        await tidied(cache)
        await cache._shared.upkeep.tidy_up()
        assert sum(turns.done.values()) <= 10
        task_group.cancel_scope.cancel()
    assert count_stored(data_dir, "invalidations") == MANY - 1


async def test_a_key_is_noted_as_long_as_anything_depends_on_it_and_no_longer(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(storage: CacheStorage, dependency: bytes) -> NoReturn:
        raise StorageFullError("no room")

    async with open_cache(data_dir) as cache:
        await read_back(cache)
        await cache.put(page(1), 1, dependencies=[user(1)])
        deserted, depended_on = cache._core.index.deserted, cache._core.barriers.depended_on
        async with anyio.create_task_group() as task_group:
            # One no longer does, and another one does from now on.
            task_group.start_soon(cache.put, page(1), 2)
            task_group.start_soon(lambda: cache.put(page(2), 2, dependencies=[user(1)]))
        await cache._shared.upkeep.tidy_up()
        assert (len(deserted), len(depended_on)) == (0, 1)
        await cache.delete(page(2))
        assert len(deserted) == 1
        with monkeypatch.context() as failing:
            failing.setattr(CacheStorage, "no_longer_depend", fails)
            with pytest.raises(StorageFullError):
                await cache._shared.upkeep.tidy_up()
        assert (len(deserted), len(depended_on)) == (1, 1)
        await cache._shared.upkeep.tidy_up()
        assert (len(deserted), len(depended_on)) == (0, 0)
    assert count_stored(data_dir, "invalidations") == 0


async def test_what_has_expired_together_is_removed_and_expected_again_in_small_steps(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, again = TurnedClock(), list[int]()
    expect_again = DiskIndex.expect_again

    def counted(index: DiskIndex, keys: list[bytes]) -> None:
        again.append(len(keys))
        expect_again(index, keys)

    monkeypatch.setattr(upkeep, "REMOVED_PER_BATCH", 10)
    monkeypatch.setattr(DiskIndex, "expect_again", counted)
    async with both(data_dir, clock=clock) as (_, cache):
        await read_back(cache)
        await cache.put_many({page(number): number for number in range(MANY)}, ttl_seconds=5.0)
        await cache.put(user(1), 1)
        clock.now += 5.0
        await cache._shared.upkeep.tidy_up()
        assert sum(again) == 0, "none of those that are gone"
        assert cache.statistics().disk_entries == 1
        assert await get_value(cache, user(1)) == 1
    assert count_stored(data_dir, "entries") == 1


async def test_notes_that_are_needed_no_more_do_not_pile_up_until_something_else_is_to_be_done(
    data_dir: Path,
) -> None:
    """Each entry is evicted for the next one, and nothing else wakes upkeep."""
    async with open_cache(data_dir, disk_entries_max=1) as cache:
        await read_back(cache)
        depended_on = cache._core.barriers.depended_on
        for number in range(2 * DESERTED_MAX):
            await cache.put(
                page(number), 1, dependencies=[user(number)], durability=Durability.RELAXED
            )
        await until(lambda: len(depended_on) <= DESERTED_MAX)


async def test_a_put_may_displace_more_than_its_batch_has_room_for(data_dir: Path) -> None:
    store = {"batch_bytes_max": 4_000, "value_bytes_max": 3_990}
    async with both(data_dir, store=store, disk_bytes_max=10_000) as (_, cache):
        await read_back(cache)
        for number in range(100):
            await cache.put(user(number), number, durability=Durability.RELAXED)
        before = cache.statistics()
        assert before.evicted_from_disk == 0
        with pytest.raises(ValueTooLargeError, match="batch"):
            await cache.put(user("too large"), bytes(3_970))
        assert cache.statistics() == before
        async with cache.watch() as changes:
            await cache.put(user("large"), bytes(3_800))
            after = cache.statistics()
            assert after.evicted_from_disk > 10
            told = [await anext(changes) for _ in range(after.evicted_from_disk + 1)]
        assert [one.kind for one in told[:-1]] == [ChangeKind.EVICTED] * after.evicted_from_disk
        assert (told[-1].kind, told[-1].key) == (ChangeKind.PUT, user("large"))
        assert after.disk_bytes <= 10_000
        assert await get_value(cache, user("large")) == bytes(3_800)
        assert len(cache._core.index) == after.disk_entries == 101 - after.evicted_from_disk
    assert count_stored(data_dir, "entries") == after.disk_entries


async def test_what_has_to_make_room_stays_where_that_cannot_be_written(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> NoReturn:
        raise StorageFullError("no room")

    store = {"batch_bytes_max": 4_000, "value_bytes_max": 3_990}
    async with both(data_dir, store=store, disk_bytes_max=10_000) as (_, cache):
        await read_back(cache)
        await cache.put_many({user(number): number for number in range(40)})
        await cache.put_many({user(number): number for number in range(40, 80)})
        entries, evict = cache.statistics().disk_entries, CacheStorage.delete
        monkeypatch.setattr(CacheStorage, "delete", refuse)
        with pytest.raises(StorageFullError):
            await cache.put(user("large"), bytes(3_800))
        monkeypatch.setattr(CacheStorage, "delete", evict)
        assert cache.statistics().disk_entries == entries
        assert (await cache.get_many([user(0), user(79)])).keys() == {user(0), user(79)}
        await cache.put(user("large"), bytes(3_800))
        assert await get_value(cache, user("large")) == bytes(3_800)
        index = cache._core.index
        assert (index.coming, index.is_any_leaving, cache._core.in_flight.count) == (
            (0, 0),
            False,
            0,
        )


async def test_of_a_tag_it_is_counted_how_many_are_on_their_way_with_it(data_dir: Path) -> None:
    """Not listed: to take each of many out of a list again takes steps for all the others."""
    backend = GatedBackend(data_dir)
    async with both(data_dir, backend=backend) as (_, cache):
        await read_back(cache)
        linking = cache._core.in_flight.linking
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            values = {user(number): number for number in range(40)}
            task_group.start_soon(lambda: cache.put_many(values, tags=["t"]))
            await backend.reached()
            assert linking == {"t": 40}
            backend.open_gate()
        assert linking == {}


async def put_in_turn(cache: GlobalCacheManager, start: int, count: int, *, new: bool) -> list[int]:
    """Two keys that depend on each other, and perhaps each time on one that is new; how many links
    the last one has each time."""
    pair, found = (user("a"), user("b")), list[int]()
    for number in range(start, start + count):
        key, other = pair[number % 2], pair[1 - number % 2]
        more = [user("new", number)] if new else []
        tags = [f"{number}"] if new else ["t"]
        await cache.put(
            key,
            number,
            dependencies=[other, *more],
            tags=tags,
            ttl_seconds=10.0,
            durability=Durability.RELAXED,
        )
        found.append(len(cache._core.index.links(encode_key(key))))
    return found


@pytest.mark.parametrize("between", ["nothing", "eviction", "expiry", "invalidation"])
async def test_keys_that_depend_on_each_other_and_are_put_in_turn_do_not_grow(
    data_dir: Path, between: str
) -> None:
    clock = TurnedClock()
    bounds: dict[str, Any] = {"disk_entries_max": 3} if between == "eviction" else {}
    async with both(data_dir, clock=clock, **bounds) as (_, cache):
        for start in range(0, 1_000, 10):
            assert max(await put_in_turn(cache, start, 10, new=False)) == 2
            if between == "eviction":
                others = {user("other", number): 1 for number in range(start, start + 3)}
                await cache.put_many(others, durability=Durability.RELAXED)
                assert user("a") not in await cache.get_many([user("a")])
            elif between == "expiry":
                clock.now += 11.0
            elif between == "invalidation":
                await cache.invalidate(namespace="users", durability=Durability.RELAXED)


@pytest.mark.parametrize("by", ["namespace", "tag", "deletion", "dependency"])
async def test_nothing_is_handed_on_by_what_is_invalid_though_it_is_still_there(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    async def leave(*_: object) -> None:
        pass

    monkeypatch.setattr(upkeep.Upkeep, "tidy_up", leave)
    async with open_cache(data_dir) as cache:
        for start in range(0, 100, 10):
            # All that a key is made of, it has from the other one: so these do grow.
            assert (await put_in_turn(cache, start, 10, new=True))[-1] == 21
            if by == "namespace":
                await cache.invalidate(namespace="users", durability=Durability.RELAXED)
            elif by == "tag":
                await cache.invalidate(tag=f"{start}", durability=Durability.RELAXED)
            elif by == "deletion":
                await cache.delete(user("a"), durability=Durability.RELAXED)
            else:
                await cache.put(user("new", start), 1, durability=Durability.RELAXED)

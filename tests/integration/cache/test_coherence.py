"""Memory beside the commits: what is invalidated, what is told, and who sees what when."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.cache import (
    CacheChange,
    ChangeKind,
    GlobalCacheKey,
    GlobalCacheManager,
    Watch,
    WatchLaggedError,
    WriteMode,
)
from mpreg.cache.index import DiskIndex
from mpreg.errors import InvalidArgumentError
from mpreg.persistence import StorageFullError, WriterStoppedError
from mpreg.persistence.backend import GetEntry
from tests.integration.cache.support import (
    PATIENCE_SECONDS,
    ReadGateBackend,
    both,
    count_stored,
    counts_entries,
    get_value,
    open_cache,
    read_back,
    tidied,
    user,
)
from tests.integration.queues.support import copied_while_open, until
from tests.integration.support import TurnedClock

pytestmark = pytest.mark.anyio

ANN, BOB, EVE = user("ann"), user("bob"), user("eve")
PAGE, SITE = GlobalCacheKey("pages", "ann"), GlobalCacheKey("sites", 1)


async def put_all(cache: GlobalCacheManager) -> None:
    """A site made of a page made of ann's data, and bob beside them."""
    await cache.put(ANN, "ann", tags=["eu", "vip"])
    await cache.put(PAGE, "page", dependencies=[ANN])
    await cache.put(SITE, "site", dependencies=[PAGE])
    await cache.put(BOB, "bob", tags=["eu"])
    await cache.put(user("ann", 2), "second")
    await cache.put(user(b"ann"), "bytes")


ALL = [ANN, PAGE, SITE, BOB, user("ann", 2), user(b"ann")]

#: What each invalidation leaves of `ALL`.
INVALIDATIONS = {
    "namespace": ({"namespace": "users"}, set()),
    "prefix": ({"namespace": "users", "prefix": "an"}, {BOB, user(b"ann")}),
    "parts": ({"namespace": "users", "prefix": ("ann", 2)}, {ANN, PAGE, SITE, BOB, user(b"ann")}),
    "tag": ({"tag": "vip"}, {BOB, user("ann", 2), user(b"ann")}),
    "dependency": ({"dependency": ANN}, {ANN, BOB, user("ann", 2), user(b"ann")}),
    "nothing": ({"tag": "nobody"}, set(ALL)),
}


@pytest.mark.parametrize("where", ["memory", "disk", "being counted"])
async def test_an_invalidation_meets_what_it_concerns_and_what_depends_on_that_wherever_it_is(
    data_dir: Path, where: str
) -> None:
    for number, (arguments, left) in enumerate(INVALIDATIONS.values()):
        directory = data_dir.with_name(str(number))
        if where == "memory":
            async with open_cache(directory) as cache:
                await put_all(cache)
                await cache.invalidate(**arguments)  # type: ignore[arg-type]
                assert set(await cache.get_many(ALL)) == left
                await tidied(cache)
                assert set(await cache.get_many(ALL)) == left
        else:
            async with open_cache(directory) as cache:
                await put_all(cache)
            backend = ReadGateBackend(directory)
            if where == "being counted":
                backend.hold_reads(counts_entries)
            settings = {"warm_up_entries_max": 0}
            async with open_cache(directory, backend=backend, **settings) as cache:
                if where == "being counted":
                    await backend.read_is_held()
                with anyio.fail_after(PATIENCE_SECONDS):
                    await cache.invalidate(**arguments)  # type: ignore[arg-type]
                if where == "being counted":
                    assert not cache._core.index.is_complete, "it waits for nothing"
                    backend.let_reads_go()
                assert set(await cache.get_many(ALL)) == left
                await tidied(cache)
                assert set(await cache.get_many(ALL)) == left
        # What was removed is removed; keys that nothing depends on any more are forgotten.
        assert count_stored(directory, "entries") == len(left)
        assert count_stored(directory, "invalidations") <= 2
        async with open_cache(directory) as cache:
            assert set(await cache.get_many(ALL)) == left
            await put_all(cache)
            assert set(await cache.get_many(ALL)) == set(ALL), "what comes after is not concerned"


async def test_many_invalidations_at_once_are_cleared_away_together(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    passes, keys = 0, DiskIndex.keys

    def counted(index: DiskIndex) -> list[bytes]:
        nonlocal passes
        passes += 1
        return keys(index)

    monkeypatch.setattr(DiskIndex, "keys", counted)
    async with open_cache(data_dir) as cache:
        await cache.put_many({user(number, "data"): number for number in range(100)})
        await read_back(cache)
        async with anyio.create_task_group() as task_group:
            for number in range(50):
                task_group.start_soon(
                    lambda n=number: cache.invalidate(namespace="users", prefix=(n,))  # type: ignore[misc]
                )
        await tidied(cache)
        assert cache.statistics().disk_entries == 50
        assert await get_value(cache, user(99, "data")) == 99
    assert passes <= 12
    assert count_stored(data_dir, "entries") == 50
    assert count_stored(data_dir, "invalidations") == 0


async def test_a_restart_before_anything_was_removed_does_not_bring_it_back(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:
        await put_all(cache)
        await cache.invalidate(tag="eu")
        # As a kill at this moment would leave it.
        copy = copied_while_open(data_dir)
    async with open_cache(copy) as cache:
        assert set(await cache.get_many(ALL)) == {user("ann", 2), user(b"ann")}
        await tidied(cache)
    assert count_stored(copy, "entries") == 2


@pytest.mark.parametrize(
    "change", ["put", "delete", "delete what is not there", "cas", "increment"]
)
@pytest.mark.parametrize("is_counted", [True, False])
async def test_a_change_of_a_key_reaches_those_that_depend_on_it_in_turn(
    data_dir: Path, change: str, is_counted: bool
) -> None:
    backend, version = ReadGateBackend(data_dir), 0
    async with open_cache(data_dir) as cache:
        if change != "delete what is not there":
            version = await (await cache.put(ANN, 1))
        await cache.put(PAGE, 2, dependencies=[ANN])
        await cache.put(SITE, 3, dependencies=[PAGE])
    if not is_counted:
        backend.hold_reads(counts_entries)
    async with open_cache(data_dir, backend=backend) as cache:
        if is_counted:
            await read_back(cache)
        async with anyio.create_task_group() as task_group:
            if not is_counted:
                await backend.read_is_held()
            if change == "put":
                with anyio.fail_after(PATIENCE_SECONDS):
                    await cache.put(ANN, 5)
            elif change == "cas":
                task_group.start_soon(
                    lambda: cache.compare_and_set(ANN, 5, expected_version=version)
                )
            elif change == "increment":
                task_group.start_soon(cache.increment, ANN)
            else:
                task_group.start_soon(cache.delete, ANN)
            if not is_counted:
                await anyio.wait_all_tasks_blocked()
                assert not cache._core.index.is_complete, "a put waits for nothing"
                backend.let_reads_go()
        assert await cache.get_many([PAGE, SITE]) == {}
        await tidied(cache)
        assert await cache.get_many([PAGE, SITE]) == {}
    assert count_stored(data_dir, "invalidations") == 0


async def test_what_depends_on_something_that_is_still_on_its_way_is_invalidated_with_it(
    data_dir: Path,
) -> None:
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir, backend=backend) as cache:
        await cache.put(BOB, 0)
        backend.close_gate()
        await cache.put(PAGE, 2, dependencies=[ANN], mode=WriteMode.WRITE_BEHIND)
        await cache.put(SITE, 3, dependencies=[PAGE], mode=WriteMode.WRITE_BEHIND)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: cache.invalidate(dependency=ANN))
            await backend.reached()
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert await cache.get_many([PAGE, SITE, BOB]) != {}
        assert set(await cache.get_many([PAGE, SITE, BOB])) == {BOB}


async def test_an_invalidation_is_forgotten_also_where_its_key_was_being_written(
    data_dir: Path,
) -> None:
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir, backend=backend) as cache:
        await cache.put(ANN, "old")
        await read_back(cache)
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(lambda: cache.invalidate(namespace="users"))
            await backend.reached()
            task_group.start_soon(cache.put, ANN, "new")
            await anyio.wait_all_tasks_blocked()
            backend.open_gate_once()
            # The invalidation is committed, and what it concerns is on its way.
            await backend.reached()
            await anyio.wait_all_tasks_blocked()
            assert cache.statistics().barriers == 1
            backend.open_gate()
        await tidied(cache)
        assert await get_value(cache, ANN) == "new"
    assert count_stored(data_dir, "invalidations") == 0


# --- modes and order ---


async def test_what_is_written_behind_is_there_at_once_and_its_ack_tells_when_it_is_on_disk(
    data_dir: Path,
) -> None:
    backend = ReadGateBackend(data_dir)
    async with both(data_dir, backend=backend, write_mode="write_behind") as (_, cache):
        await (await cache.put(ANN, "old"))
        backend.close_gate()
        ack = await cache.put(ANN, "new")
        many = await cache.put_many({BOB: 1, EVE: 2})
        assert many is not None
        found = await cache.get(ANN)
        assert found is not None
        assert (found.value, found.level, found.version) == ("new", "L1", None)
        assert set(await cache.get_many([BOB, EVE])) == {BOB, EVE}
        assert await cache.delete(BOB)
        assert await cache.get_many([BOB, EVE]) == {EVE: await cache.get(EVE)}
        assert not ack.done
        assert cache.statistics().writing_behind == 3
        backend.open_gate()
        version = await ack
        found = await cache.get(ANN)
        assert found is not None
        assert (found.version, found.value) == (version, "new")
        await many
        await until(lambda: cache.statistics().writing_behind == 0)
        assert await cache.get(BOB) is None
    async with open_cache(data_dir) as cache:
        assert await get_value(cache, ANN) == "new"
        assert await cache.get(BOB) is None


async def test_a_change_is_seen_when_it_is_committed_and_not_before(data_dir: Path) -> None:
    backend = ReadGateBackend(data_dir)
    async with open_cache(data_dir, backend=backend) as cache:
        await cache.put(ANN, "old")
        for change, expected in (
            (lambda: cache.put(ANN, "new"), "new"),
            (lambda: cache.invalidate(namespace="users"), None),
        ):
            before = await get_value(cache, ANN)
            backend.close_gate()
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(change)
                await backend.reached()
                assert await get_value(cache, ANN) == before
                backend.open_gate()
            assert await get_value(cache, ANN) == expected


async def test_what_is_deleted_while_it_is_evicted_does_not_come_back_where_that_fails(
    data_dir: Path,
) -> None:
    backend = ReadGateBackend(data_dir)
    failed: list[Exception] = []

    async def put_large(cache: GlobalCacheManager) -> None:
        try:
            await cache.put(BOB, "x" * 100_000)
        except StorageFullError as error:
            failed.append(error)

    settings = {"memory_entries_max": 1, "disk_entries_max": 2}
    async with open_cache(data_dir, backend=backend, **settings) as cache:
        await cache.put(ANN, "ann")
        await cache.put(EVE, "in memory")
        await read_back(cache)
        await backend.fill_up()
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(put_large, cache)
            await backend.reached()
            task_group.start_soon(cache.delete, ANN)
            await anyio.wait_all_tasks_blocked()
            backend.open_gate()
        assert len(failed) == 1
        assert await cache.get(ANN) is None
    async with open_cache(data_dir) as cache:
        assert await cache.get(ANN) is None


@pytest.mark.parametrize("is_expired", [True, False])
async def test_a_read_that_has_its_answer_already_keeps_the_put_that_came_meanwhile(
    data_dir: Path, is_expired: bool
) -> None:
    backend, clock = ReadGateBackend(data_dir), TurnedClock()
    seen: list[object] = []

    async def read(cache: GlobalCacheManager) -> None:
        seen.append(await get_value(cache, ANN))
        seen.append({key: one.value for key, one in (await cache.get_many([ANN])).items()})

    settings = {"memory_entries_max": 1}
    async with open_cache(data_dir, backend=backend, clock=clock, **settings) as cache:
        await cache.put(ANN, "old", ttl_seconds=10)
        await cache.put(BOB, "in memory")
        await read_back(cache)
        clock.now += 20 * is_expired
        backend.hold_reads(lambda query: isinstance(query, GetEntry), answers=True)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(read, cache)
            await backend.read_is_held()
            await cache.put(ANN, "new")
            backend.let_reads_go()
        assert seen == ["new", {ANN: "new"}]
        assert await get_value(cache, ANN) == "new"


async def test_a_full_disk_leaves_both_levels_as_they_were_and_computing_goes_on(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend, large = ReadGateBackend(data_dir), "x" * 100_000

    async def compute() -> str:
        return large

    async with open_cache(data_dir, backend=backend, memory_entries_max=2) as cache:
        for key in (EVE, ANN, BOB):
            await cache.put(key, "before", tags=["eu"])
        await read_back(cache)
        await backend.fill_up()
        before = cache.statistics()
        async with cache.watch() as changes:
            with pytest.raises(StorageFullError):
                await cache.put(ANN, large)
            with pytest.raises(StorageFullError):
                await cache.put_many({BOB: "small", ANN: large})
            with pytest.raises(StorageFullError):
                await cache.compare_and_set(user("new"), large, expected_version=0)
            assert await cache.get_or_compute(user("new"), compute) == large
            ack = await cache.put(ANN, large, mode=WriteMode.WRITE_BEHIND)
            with pytest.raises(StorageFullError):
                await ack
            found = await cache.get_many([ANN, BOB, EVE, user("new")])
            assert {key: one.value for key, one in found.items()} == dict.fromkeys(
                [ANN, BOB, EVE], "before"
            )
            after = cache.statistics()
            assert (after.puts, after.disk_entries, after.disk_bytes) == (
                before.puts,
                before.disk_entries,
                before.disk_bytes,
            )
            assert after.failed_behind == 1
            await backend.make_room()
            await cache.put(ANN, large)
            assert (await anext(changes)).key == ANN
    assert "was computed, and is not cached" in caplog.text
    assert "1 keys were not written, and are as they were before (the first: Global" in caplog.text


# --- watching ---


def short(change: CacheChange) -> tuple[str, object]:
    return change.kind.value, change.key or change.tag or change.dependency or change.prefix


async def take(changes: Watch, count: int) -> list[CacheChange]:
    with anyio.fail_after(PATIENCE_SECONDS):
        return [await anext(changes) for _ in range(count)]


async def test_changes_are_told_in_the_order_of_their_commits_to_those_they_concern(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir, disk_entries_max=3) as cache:
        async with (
            cache.watch() as all_changes,
            cache.watch(namespace="users") as users,
            cache.watch(namespace="users", prefix="an") as anns,
            cache.watch(namespace="pages") as pages,
        ):
            await cache.put(ANN, 1)
            await cache.put_many({BOB: 1, PAGE: 2}, dependencies=[SITE])
            await cache.delete(BOB)
            await cache.delete(EVE)
            await cache.invalidate(namespace="users", prefix="b")
            await cache.invalidate(tag="eu")
            await cache.invalidate(dependency=SITE)
            await cache.invalidate(namespace="users")
            told = await take(all_changes, 8)
            assert [short(change) for change in told] == [
                ("put", ANN),
                ("put", BOB),
                ("put", PAGE),
                ("deleted", BOB),
                ("invalidated", "b"),
                ("invalidated", "eu"),
                ("invalidated", SITE),
                ("invalidated", None),
            ]
            versions = [change.version for change in told if change.version is not None]
            assert versions == sorted(set(versions))
            assert told[-1].namespace == "users"
            of_links = told[5:7]
            assert await take(users, 7) == [one for one in told if one.key != PAGE]
            assert await take(anns, 4) == [told[0], *of_links, told[7]]
            assert await take(pages, 3) == [told[2], *of_links]
        await tidied(cache)
        async with cache.watch() as changes:
            for number in range(4):
                await cache.put(user(number), number)
            kinds = [change.kind for change in await take(changes, 5)]
            assert kinds == [ChangeKind.PUT] * 4 + [ChangeKind.EVICTED]
        await cache.put(user("nobody watches"), 1)


async def test_who_takes_too_little_is_given_what_was_kept_and_then_told(data_dir: Path) -> None:
    async with open_cache(data_dir, watch_changes_max=3) as cache, cache.watch() as changes:
        for number in range(5):
            await cache.put(user(number), number)
        assert [change.key for change in await take(changes, 3)] == [user(0), user(1), user(2)]
        for _ in range(2):
            with pytest.raises(WatchLaggedError, match="3 changes were not taken in time"):
                await anext(changes)
        async with cache.watch() as anew:
            await cache.put(user(9), 9)
            assert (await anext(anew)).key == user(9)


async def test_who_is_cancelled_while_waiting_for_a_change_has_missed_nothing(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache, cache.watch() as changes:
        with anyio.move_on_after(0.001):
            await anext(changes)
        await cache.put(ANN, 1)
        assert (await anext(changes)).key == ANN


async def test_a_watch_that_begins_after_the_end_of_the_registry_ends_at_once(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:
        before = cache.watch()
    for watch in (before, cache.watch()):
        async with watch as changes:
            with pytest.raises(WriterStoppedError), anyio.fail_after(PATIENCE_SECONDS):
                await anext(changes)


async def test_the_end_of_the_registry_ends_a_watch(data_dir: Path) -> None:
    told: list[CacheChange] = []

    async def watch(cache: GlobalCacheManager, watching: anyio.Event) -> None:
        async with cache.watch() as changes:
            watching.set()
            told.append(await anext(changes))
            with pytest.raises(WriterStoppedError, match="there are no more changes"):
                await anext(changes)

    with anyio.fail_after(PATIENCE_SECONDS):
        async with anyio.create_task_group() as task_group, open_cache(data_dir) as cache:
            watching = anyio.Event()
            task_group.start_soon(watch, cache, watching)
            await watching.wait()
            await cache.put(ANN, 1)
    assert [change.key for change in told] == [ANN]


@pytest.mark.parametrize("by", ["put", "tag"])
async def test_what_depends_on_a_key_that_is_gone_is_invalidated_with_what_that_depended_on(
    data_dir: Path, by: str
) -> None:
    """It was made from it when it was there."""
    a, b, c = user("a"), user("b"), user("c")
    async with open_cache(data_dir, memory_entries_max=1, disk_entries_max=3) as cache:
        await cache.put(b, 0)
        await cache.put(a, 1, dependencies=[b], tags=["t"])
        await cache.put(c, 2, dependencies=[a])
        # Which makes it the one to stay.
        await get_value(cache, b)
        await cache.put(user("d"), 3)
        assert await get_value(cache, a) is None, "it had to make room"
        assert await get_value(cache, c) == 2
        if by == "put":
            await cache.put(b, 3)
        else:
            await cache.invalidate(tag="t")
        assert await get_value(cache, c) is None


async def test_a_watch_outside_its_block_is_refused_and_does_not_wait(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        watch = cache.watch()
        with pytest.raises(InvalidArgumentError, match="async with"):
            await anext(watch)
        async with watch:
            await cache.put(user(1), 1)
            assert (await anext(watch)).key == user(1)
        with pytest.raises(InvalidArgumentError, match="async with"):
            await anext(watch)

"""Opening, closing and leisure: what is warm, what is damaged, what is removed, what it costs."""

from __future__ import annotations

import sqlite3
from collections.abc import Awaitable, Callable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import anyio
import pytest

from mpreg.cache import (
    CacheConfiguration,
    EvictionCause,
    GlobalCacheKey,
    GlobalCacheManager,
    WarmUpState,
    restoring,
)
from mpreg.cache.storage import CacheStorage
from mpreg.persistence import (
    CorruptDataError,
    ParticipantFailedError,
    PersistenceRegistry,
    ReaderStoppedError,
    StorageFullError,
    StorageIOError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence.backend import GetEntries, ReadQuery, ReadResult, ScanEntries
from mpreg.persistence.backends.sqlite import SqliteReader
from tests.integration.cache.support import (
    GatedReader,
    ReadGateBackend,
    both,
    count_stored,
    damage,
    get_value,
    heat_saved,
    open_cache,
    read_back,
    tidied,
    user,
)
from tests.integration.queues.support import rows, until
from tests.integration.support import config, tamper

pytestmark = pytest.mark.anyio

# --- warm-up ---


@pytest.mark.parametrize(
    ("settings", "warm"),
    [
        ({}, {2, 3, 4, 5}),
        ({"warm_up_entries_max": 2}, {4, 5}),
        ({"warm_up_entries_max": 0}, set()),
        ({"memory_entries_max": 3}, {3, 4, 5}),
        ({"warm_up_bytes_max": 1_400}, {4, 5}),
    ],
)
async def test_the_most_used_are_warm_after_a_restart_up_to_the_budget(
    data_dir: Path, settings: dict[str, Any], warm: set[int]
) -> None:
    async with open_cache(data_dir, memory_entries_max=4) as cache:
        for number in range(6):
            await cache.put(user(number), number)
        await heat_saved(cache)
    async with open_cache(data_dir, **settings) as cache:
        await cache.wait_until_warm()
        statistics = cache.statistics()
        assert statistics.warmed_entries == statistics.memory_entries == len(warm)
        await read_back(cache)
        found = await cache.get_many([user(number) for number in range(6)])
        assert {key.parts[0] for key, one in found.items() if one.level == "L1"} == warm
        assert cache.statistics().disk_entries == 6


async def test_what_is_warm_is_in_the_order_of_use(data_dir: Path) -> None:
    async with open_cache(data_dir) as cache:
        for number in range(4):
            await cache.put(user(number), number)
        await cache.get(user(0))
        await heat_saved(cache)
    for _ in range(2):
        async with open_cache(data_dir) as cache:
            await cache.wait_until_warm()
            coldest_first = list(cache._core.memory.coldest_first())
            assert coldest_first == [user(number) for number in (1, 2, 3, 0)]


async def test_of_the_list_of_the_most_used_what_is_gone_or_invalid_is_passed_over(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:
        for number in range(4):
            await cache.put(user(number), number)
        await heat_saved(cache)
    async with open_cache(data_dir, warm_up_entries_max=0) as cache:
        await cache.delete(user(1))
        await cache.invalidate(namespace="users", prefix=2)
        await cache.put(user(3), "newer")
    async with open_cache(data_dir) as cache:
        await cache.wait_until_warm()
        found = await cache.get_many([user(number) for number in range(4)])
        assert {key.parts[0]: one.value for key, one in found.items()} == {0: 0, 3: "newer"}


# --- damage ---


@pytest.mark.parametrize("change", ["value = x'00'", "version = version + 1", "version = 1.5"])
async def test_a_damaged_entry_is_a_miss_and_told_and_whatever_puts_it_mends_it(
    data_dir: Path, change: str, caplog: pytest.LogCaptureFixture
) -> None:
    async def compute() -> Any:
        return "mended"

    mending: list[Callable[[GlobalCacheManager], Awaitable[object]]] = [
        lambda cache: cache.put(user("ann"), "mended"),
        lambda cache: cache.get_or_compute(user("ann"), compute),
        lambda cache: cache.compare_and_set(user("ann"), "mended", expected_version=0),
        lambda cache: cache.increment(user("ann")),
    ]
    for mend in mending:
        async with open_cache(data_dir) as cache:
            await cache.put(user("ann"), "damaged")
            await cache.put(user("bob"), "whole")
        damage(data_dir, "entries", b"ann", change)
        async with open_cache(data_dir) as cache:
            assert await cache.get(user("ann")) is None
            assert list(await cache.get_many([user("ann"), user("bob")])) == [user("bob")]
            assert cache.statistics().damaged >= 1
            await mend(cache)
            assert await get_value(cache, user("ann")) in ("mended", 1)
        async with open_cache(data_dir) as cache:
            assert await get_value(cache, user("ann")) in ("mended", 1)
            await read_back(cache)
            assert cache.statistics().damaged == 0
    told = [record for record in caplog.records if record.name == "mpreg.cache"]
    assert any("a cached entry is damaged and counts as missing" in one.msg for one in told)
    assert "ann" in caplog.text


async def test_an_entry_damaged_while_it_was_in_use_is_a_miss(data_dir: Path) -> None:
    async with open_cache(data_dir, memory_entries_max=1) as cache:
        version = await (await cache.put(user("ann"), 1))
        await cache.put(user("bob"), 1)
        # Who counts what was there would meet it as well.
        await read_back(cache)
        damage(data_dir, "entries", b"ann", "value = x'00'")
        assert await cache.get(user("ann")) is None
        assert cache.statistics().damaged == 1
        with pytest.raises(VersionConflictError):
            await cache.compare_and_set(user("ann"), 2, expected_version=version)
        await cache.invalidate(namespace="users")
        await tidied(cache)
        assert await cache.get(user("bob")) is None


async def test_where_an_invalidation_is_damaged_nothing_is_served_and_it_is_said(
    data_dir: Path,
) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user("page"), 1, dependencies=[user("ann")])
    damage(data_dir, "invalidations", b"ann", "value = x'00'")
    registry = PersistenceRegistry(config(data_dir))
    cache = GlobalCacheManager(registry)
    with pytest.raises(ParticipantFailedError, match="cache default") as caught:
        async with registry:
            pytest.fail("it was opened")
    assert isinstance(caught.value.__cause__, CorruptDataError)
    async with both(data_dir, is_early=False) as (registry, cache):
        for _ in range(2):
            with pytest.raises(CorruptDataError, match="<cache/default/invalidations>"):
                await cache.get(user("page"))
            with pytest.raises(CorruptDataError):
                await cache.put(user("other"), 1)
        # The rest of the registry is not concerned.
        await registry.key_value_store("s").put("k", b"v")
        other = GlobalCacheManager(registry, CacheConfiguration(name="other"))
        await other.put(user("page"), 2)


async def test_a_list_of_the_most_used_that_could_not_be_written_is_written_the_next_time(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def fails(storage: CacheStorage, keys: list[bytes]) -> None:
        raise StorageFullError("no room")

    async with both(data_dir) as (registry, cache):
        await cache.put(user(1), 1)
        await read_back(cache)
        with monkeypatch.context() as failing:
            failing.setattr(CacheStorage, "save_heat", fails)
            with pytest.raises(ParticipantFailedError):
                await registry.save_snapshots()
        # Nothing has changed since.
        await registry.save_snapshots()
    async with both(data_dir) as (_, cache):
        await cache.wait_until_warm()
        assert cache.statistics().to_be_warmed == 1


async def test_a_damaged_list_of_the_most_used_only_begins_cold(
    data_dir: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user("ann"), 1)
        await heat_saved(cache)
    for id, name in rows(data_dir, "SELECT id, name FROM namespaces"):
        if b"snapshot" in name and b"heat" in name:
            tamper(data_dir, "UPDATE entries SET value = x'00' WHERE namespace_id = ?", (id,))
    async with open_cache(data_dir) as cache:
        await read_back(cache)
        assert cache.statistics().warmed_entries == 0
        found = await cache.get(user("ann"))
        assert found is not None
        assert found.level == "L2"
        await heat_saved(cache)
    assert "L1 begins cold" in caplog.text
    async with open_cache(data_dir) as cache:
        await cache.wait_until_warm()
        assert cache.statistics().warmed_entries == 1


# --- the end ---


async def test_calls_outside_of_the_life_of_the_registry_say_so(data_dir: Path) -> None:
    async def compute() -> Any:
        pytest.fail("it was computed")

    def calls(cache: GlobalCacheManager) -> list[Callable[[], Awaitable[object]]]:
        return [
            lambda: cache.put(user(1), 1),
            lambda: cache.put_many({user(1): 1}),
            lambda: cache.increment(user(1)),
            lambda: cache.compare_and_set(user(3), 1, expected_version=0),
            lambda: cache.get_or_compute(user(3), compute),
            lambda: cache.invalidate(tag="eu"),
            lambda: cache.get(user(2)),
            lambda: cache.get_many([user(2)]),
            lambda: cache.delete(user(2)),
        ]

    registry = PersistenceRegistry(config(data_dir))
    cache = GlobalCacheManager(registry, CacheConfiguration(memory_entries_max=1))
    for call in calls(cache):
        with pytest.raises(ReaderStoppedError, match="the registry is not open"):
            await call()
    async with registry:
        await cache.put(user(2), 2)
        await cache.put(user(1), 1)
        await read_back(cache)
    for call in calls(cache):
        with pytest.raises((WriterStoppedError, ReaderStoppedError)):
            await call()
    assert await get_value(cache, user(1)) == 1, "what is in L1 needs nobody"
    with pytest.raises(WriterStoppedError, match="the registry has closed"):
        GlobalCacheManager(registry, CacheConfiguration(name="late"))


# --- leisure ---


async def test_a_cache_that_nobody_uses_commits_nothing_and_is_not_woken(data_dir: Path) -> None:
    async with both(data_dir) as (_, cache):
        await cache.put(user(1), 1)
        await cache.invalidate(tag="eu")
        await heat_saved(cache)
    async with both(data_dir) as (registry, cache):
        await read_back(cache)
        await tidied(cache)
        await anyio.wait_all_tasks_blocked()
        before, asked = await registry.stats(), cache._shared.upkeep._asked
        for _ in range(100):
            await cache.get(user(1))
        await anyio.wait_all_tasks_blocked()
        assert (await registry.stats()).commits == before.commits
        # It waits for the same event as before.
        assert cache._shared.upkeep._asked is asked
        assert not asked.is_set()


async def test_bounds_of_the_disk_are_kept_and_lowered_ones_reached(data_dir: Path) -> None:
    async with open_cache(data_dir, disk_entries_max=50, memory_entries_max=10) as cache:
        for number in range(120):
            await cache.put(user(number), number)
            assert cache.statistics().disk_entries <= 50
        statistics = cache.statistics()
        assert (statistics.puts, statistics.evicted_from_disk) == (120, 70)
        assert statistics.evicted_from_memory[EvictionCause.ENTRIES] == 110
        assert sum(statistics.evicted_from_memory.values()) == 110
    assert count_stored(data_dir, "entries") == 50
    async with open_cache(data_dir, disk_entries_max=20) as cache:
        await read_back(cache)
        await until(lambda: cache.statistics().disk_entries <= 20)
    assert count_stored(data_dir, "entries") == 20


async def test_lowered_bounds_are_reached_however_little_one_batch_holds(data_dir: Path) -> None:
    store = {"batch_bytes_max": 2_000, "value_bytes_max": 1_000}
    async with both(data_dir, store=store) as (_, cache):
        for number in range(120):
            await cache.put(user(number), number)
    async with both(data_dir, store=store, disk_entries_max=20) as (_, cache):
        await cache._core.until_counted()
        await cache.put(user("new"), bytes(900))
        await until(lambda: cache.statistics().disk_entries <= 20)
    assert count_stored(data_dir, "entries") == 20


async def test_statistics_add_up(data_dir: Path) -> None:
    async def compute() -> Any:
        return 0

    other = GlobalCacheKey("other", 1)
    async with open_cache(data_dir, memory_entries_max=2) as cache:
        for number in range(3):
            await cache.put(user(number), number)
        await read_back(cache)
        await cache.get(user(2))  # L1
        await cache.get(user(0))  # L2
        await cache.get(user(9))  # nothing
        await cache.get_many([user(0), user(1), user(8)])  # L1, L2, nothing
        await cache.get_or_compute(user(1), compute)  # L1
        await cache.get_or_compute(user(2), compute)  # L2
        await cache.get_or_compute(other, compute)  # nothing
        await cache.delete(other)
        await cache.invalidate(tag="eu")
        one = cache.statistics()
        assert (one.memory_hits, one.disk_hits, one.misses) == (3, 3, 3)
        assert {
            name: (space.memory_hits, space.disk_hits, space.misses)
            for name, space in one.namespaces.items()
        } == {"users": (3, 3, 2), "other": (0, 0, 1)}
        assert (one.puts, one.deletions, one.invalidations, one.computations) == (4, 1, 1, 1)
        assert one.disk_entries == 3
        assert one.memory_entries <= 2
        assert one.disk_reads > 0
        assert sum(one.evicted_from_memory.values()) == 4 + 3 - 1 - one.memory_entries


def damage_a_page(data_dir: Path) -> None:
    """One of those that hold entries, where there are many of them."""
    with closing(sqlite3.connect(data_dir / "mpreg.db")) as connection:
        (page_size,) = connection.execute("PRAGMA page_size").fetchone()
        (pages,) = connection.execute("PRAGMA page_count").fetchone()
    with (data_dir / "mpreg.db").open("r+b") as file:
        file.seek((pages // 2) * page_size)
        file.write(b"\xa5" * page_size)


async def read_damaged(cache: GlobalCacheManager) -> None:
    await until(lambda: cache.statistics().damaged > 0)


async def test_a_damaged_page_hides_what_is_on_it_and_stops_nothing(data_dir: Path) -> None:
    keys = [user(number) for number in range(400)]
    async with open_cache(data_dir) as cache:
        await cache.put_many({key: bytes(200) for key in keys})
        await cache.put(GlobalCacheKey("pages", 1), "made", dependencies=[keys[0]])
    damage_a_page(data_dir)

    async with both(data_dir, memory_entries_max=10) as (registry, cache):
        await cache.wait_until_warm()
        with pytest.raises(CorruptDataError, match=r"cannot be counted: .*SQLITE_CORRUPT"):
            await cache.put(GlobalCacheKey("pages", 2), "made", dependencies=[keys[0]])
        assert await get_value(cache, GlobalCacheKey("pages", 1)) == "made"
        await cache.put(keys[0], "changed")
        assert await get_value(cache, GlobalCacheKey("pages", 1)) is None
        found = await cache.get_many(keys)
        alone = [await get_value(cache, key) for key in keys]
        assert 300 < len(found) < 400
        assert len(found) == len(keys) - alone.count(None)
        intact = next(key for key in keys[1:] if key in found)
        await cache.put(intact, "new")
        assert await get_value(cache, intact) == "new"
        assert cache.statistics().damaged > 0
        assert cache.statistics().warm_up is WarmUpState.COUNTING
        assert (await registry.stats()).reader_restarts == 0


async def test_what_is_invalid_stays_so_where_it_cannot_be_removed(data_dir: Path) -> None:
    keys = [user(number) for number in range(400)]
    async with open_cache(data_dir) as cache:
        await cache.put_many({key: bytes(200) for key in keys})
    damage_a_page(data_dir)

    async with open_cache(data_dir) as cache:
        await read_damaged(cache)
        await cache.invalidate(namespace="users")
        await cache._shared.upkeep._try_once()
        assert cache.statistics().barriers == 1
    async with open_cache(data_dir) as cache:
        assert await cache.get_many(keys) == {}


class Refusing(ReadGateBackend):
    """What the system does not let be read now, as where no file is left to be opened."""

    refused: type[GetEntries | ScanEntries] | None = None
    refusals = 0

    def refuses(self, query: ReadQuery) -> bool:
        if self.refused is None or not isinstance(query, self.refused):
            return False
        return query.namespace.endswith(b"/entries")

    def reader(self) -> SqliteReader:
        return _RefusingReader(self)


class _RefusingReader(GatedReader):
    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | Any]:
        backend = self._backend
        assert isinstance(backend, Refusing)
        if not any(map(backend.refuses, queries)):
            return await super().read(queries)
        backend.refusals += 1
        return [StorageIOError("a value cannot be read: Too many open files") for _ in queries]


@pytest.mark.parametrize("refused", [GetEntries, ScanEntries])
async def test_what_the_system_does_not_let_be_read_now_is_read_later_and_stops_nothing(
    data_dir: Path, refused: type[GetEntries | ScanEntries], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(restoring, "RETRY_SECONDS", 0.005)
    derived = GlobalCacheKey("derived", 1)
    async with open_cache(data_dir) as cache:
        await cache.put_many({user(number): number for number in range(3)})
        await heat_saved(cache)
    backend = Refusing(data_dir)
    async with both(data_dir, backend=backend, is_early=False) as (registry, cache):
        backend.refused = refused
        await cache.put(derived, 0)
        await cache.wait_until_warm()
        if refused is ScanEntries:
            with pytest.raises(StorageIOError, match=r"cannot be counted: .*Too many open files"):
                await cache.put(derived, 1, dependencies=[user(1)])
            assert await get_value(cache, derived) == 0
            await until(lambda: backend.refusals > 1)
        assert backend.refusals
        backend.refused = None
        await read_back(cache)
        assert cache.statistics().disk_entries == 4
        await cache.put(derived, 1, dependencies=[user(1)])
        await cache.put(user(1), "changed")
        assert await get_value(cache, derived) is None
        assert (await registry.stats()).reader_restarts == 0


async def test_a_list_of_the_most_used_that_cannot_be_read_now_only_begins_cold(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with open_cache(data_dir) as cache:
        await cache.put(user(1), 1)
        await heat_saved(cache)

    async def refuse(_: CacheStorage) -> list[bytes]:
        raise StorageIOError("Too many open files")

    monkeypatch.setattr(CacheStorage, "load_heat", refuse)
    async with open_cache(data_dir) as cache:
        await read_back(cache)
        assert (cache.statistics().memory_entries, cache.statistics().disk_entries) == (0, 1)
        assert await get_value(cache, user(1)) == 1

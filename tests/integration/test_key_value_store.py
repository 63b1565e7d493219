"""`KeyValueStore` as documented, on real SQLite files."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import (
    Durability,
    Entry,
    InvalidArgumentError,
    PersistenceRegistry,
    ValueTooLargeError,
    VersionConflictError,
)
from mpreg.persistence.backend import (
    KEYS_PER_QUERY_MAX,
    PAGE_ITEMS_MAX,
    GetEntries,
    ScanPage,
)
from tests.integration.support import OpenBackend, TurnedClock, config, listed, registry
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops

NAMES = [
    "plain",
    "\x00",
    "a\x00b",
    "\ud800",
    "\udfff\ud800",
    "😀",
    "quote'\"`;--",
    "100%_[]*?",
    "ünïcödé",
    "\u202e\ufeff",
    " ",
    "x" * 1_000,
]
KEYS: list[str | bytes] = [
    "",
    b"",
    "\x00",
    b"\x00",
    b"\xff",
    b"\xff\xff",
    b"\x00\xff",
    "a",
    "A",
    "a%",
    "a_",
    "ab",
    "aB",
    "b",
    b"a",
    b"ab",
    "ä",
    "a\u0308",
    "\ud83d\ude00",
    "😀",
    "\uffff",
    "\U0010ffff",
    "'; DROP TABLE entries; --",
]


async def test_what_is_put_comes_back(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("sessions")
        version = await store.put("ann", b"1")
        assert await store.get("ann") == Entry("ann", b"1", version, None)
        assert await store.get("bob") is None


async def test_it_is_still_there_after_reopening(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        version = await opened.key_value_store("sessions").put("ann", b"1")
    async with registry(data_dir) as opened:
        assert await opened.key_value_store("sessions").get("ann") == Entry(
            "ann", b"1", version, None
        )


async def test_a_relaxed_write_is_there_at_once_and_after_closing(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("sessions")
        await store.put("ann", b"1", durability=Durability.RELAXED)
        assert await store.get("ann") is not None
    async with registry(data_dir) as opened:
        assert await opened.key_value_store("sessions").get("ann") is not None


async def test_relaxed_writes_wait_for_no_fsync_and_durable_ones_do(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("sessions")
        at_first = await opened.stats()
        await store.put("a", b"", durability=Durability.RELAXED)
        relaxed = await opened.stats()
        await store.put("b", b"")
        durable = await opened.stats()
    assert relaxed.commits - at_first.commits == durable.commits - relaxed.commits == 1
    assert relaxed.fsyncs == at_first.fsyncs
    assert durable.fsyncs == relaxed.fsyncs + 1
    assert relaxed.durable_sequence == relaxed.commit_sequence - 1
    assert durable.durable_sequence == durable.commit_sequence


async def test_any_names_are_namespaces_of_their_own(data_dir: Path) -> None:
    for again in (False, True):
        async with registry(data_dir) as opened:
            for number, name in enumerate(NAMES):
                store = opened.key_value_store(name)
                if not again:
                    await store.put("key", str(number).encode())
                (entry,) = await listed(store.scan())
                assert entry.value == str(number).encode()


async def test_any_keys_come_back_as_what_they_were(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        for number, key in enumerate(KEYS):
            await store.put(key, str(number).encode())
        for number, key in enumerate(KEYS):
            entry = await store.get(key)
            assert entry is not None
            assert (entry.key, type(entry.key)) == (key, type(key))
            assert entry.value == str(number).encode()


async def test_a_scan_is_exact_and_ordered_for_every_prefix(data_dir: Path) -> None:
    def order(key: str | bytes) -> tuple[bool, list[int]]:
        return isinstance(key, str), list(map(ord, key)) if isinstance(key, str) else list(key)

    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await opened.key_value_store("other").put("a", b"not of this namespace")
        for key in KEYS:
            await store.put(key, b"")
        assert [entry.key for entry in await listed(store.scan())] == sorted(KEYS, key=order)
        for prefix in [*KEYS, "zz", b"zz"]:
            found = [entry.key for entry in await listed(store.scan(prefix))]
            matching = [
                key
                for key in KEYS
                if type(key) is type(prefix) and key.startswith(prefix)  # type: ignore[arg-type]
            ]
            assert found == sorted(matching, key=order), repr(prefix)


async def test_a_scan_of_a_namespace_that_was_never_written_is_empty(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        assert await listed(opened.key_value_store("nothing").scan()) == []


async def test_a_scan_reads_page_by_page_and_only_as_far_as_asked(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    count = 4 * PAGE_ITEMS_MAX + 1
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        async with opened.transaction() as transaction:
            for number in range(count):
                store.put_nowait(f"{number:06}", b"v", transaction=transaction)
        scan = store.scan()
        assert (await anext(scan)).key == "000000"
        assert len(backend.queries) == 1
        rest = await listed(scan)
    assert [entry.key for entry in rest] == [f"{number:06}" for number in range(1, count)]
    pages = [result for result in backend.results if isinstance(result, ScanPage)]
    assert len(pages) == 5
    assert max(len(page.entries) for page in pages) == PAGE_ITEMS_MAX


async def test_a_page_is_bounded_in_bytes_too(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        for number in range(6):
            await store.put(str(number), bytes(700_000))
        entries = await listed(store.scan())
    assert [len(entry.value) for entry in entries] == [700_000] * 6
    pages = [result for result in backend.results if isinstance(result, ScanPage)]
    assert [len(page.entries) for page in pages] == [2, 2, 2]


async def test_many_keys_are_read_in_their_order_and_in_hops_that_are_bounded(
    data_dir: Path,
) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        await store.put("there", b"1")
        await store.put("expires", b"2", ttl_seconds=1e-9)
        keys: list[str | bytes] = [
            "there",
            "expires",
            *(str(one) for one in range(2 * KEYS_PER_QUERY_MAX)),
            b"there",
            "there",
        ]
        found = await store.get_many(keys)
        assert [entry and entry.key for entry in found] == [
            "there",
            *[None] * (len(keys) - 2),
            "there",
        ]
        assert await store.get_many([]) == []
    asked = [len(one.keys) for one in backend.queries if isinstance(one, GetEntries)]
    assert asked == [KEYS_PER_QUERY_MAX, KEYS_PER_QUERY_MAX, 4]


async def test_a_batch_of_nothing_is_refused_before_anything_is_sent(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        stores = opened.reserved("test")
        for durability in Durability:
            with pytest.raises(InvalidArgumentError):
                stores.send_nowait([], lambda results: None, durability=durability)
        await opened.key_value_store("s").put("a", b"")
        assert (await opened.stats()).writer_restarts == 0


async def test_a_scan_left_early_leaves_nothing_behind(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        for key in "abc":
            await store.put(key, b"")
        async for entry in store.scan():
            assert entry.key == "a"
            break
        async for _ in store.scan():
            break
        await store.put("d", b"")


async def test_a_scan_goes_on_where_keys_come_and_go_between_its_pages(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        async with opened.transaction() as transaction:
            for number in range(PAGE_ITEMS_MAX + 10):
                store.put_nowait(f"{number:06}", b"", transaction=transaction)
        seen = []
        async for entry in store.scan():
            seen.append(entry.key)
            if len(seen) == PAGE_ITEMS_MAX:
                await store.delete(f"{PAGE_ITEMS_MAX:06}")  # where the next page would begin
                await store.put("zzz", b"")
    expected = [f"{number:06}" for number in range(PAGE_ITEMS_MAX + 10) if number != PAGE_ITEMS_MAX]
    assert seen == [*expected, "zzz"]


@pytest.mark.parametrize("size", [0, 1, 4_095, 65_536, 1 << 20, 16 << 20])
async def test_values_from_nothing_to_16_mib_come_back(data_dir: Path, size: int) -> None:
    value = (bytes(range(256)) * (size // 256 + 1))[:size]
    async with registry(data_dir) as opened:
        await opened.key_value_store("s").put("k", value)
    async with registry(data_dir) as opened:
        entry = await opened.key_value_store("s").get("k")
    assert entry is not None
    assert entry.value == value


async def test_one_byte_more_than_16_mib_is_refused_before_anything_is_sent(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        before = (await opened.stats()).commit_sequence
        with pytest.raises(ValueTooLargeError, match="16777217 bytes; at most 16777216"):
            await store.put("k", bytes((16 << 20) + 1))
        assert (await opened.stats()).commit_sequence == before
        assert await store.get("k") is None


async def test_bytes_of_every_kind_of_buffer_are_taken(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        buffer = bytearray(b"first")
        ack = store.put_nowait("k", buffer)  # type: ignore[arg-type]
        buffer[:] = b"other"
        await ack
        entry = await store.get("k")
        assert entry is not None
        assert entry.value == b"first"


async def test_versions_only_grow_over_all_keys_deletes_and_reopenings(data_dir: Path) -> None:
    versions = []
    for _ in range(2):
        async with registry(data_dir) as opened:
            store, other = opened.key_value_store("s"), opened.key_value_store("other")
            for _ in range(2):
                versions.append(await store.put("k", b""))
                versions.append(await other.put("k", b""))
                assert await store.delete("k")
    assert versions == sorted(set(versions))


async def test_a_key_deleted_and_put_again_never_gets_an_old_version(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        old = await store.put("k", b"old")
        await store.delete("k")
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"new")
        with pytest.raises(VersionConflictError):
            await store.put("k", b"mistaken", expected_version=old)


async def test_delete_tells_whether_there_was_anything(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"")
        assert [await store.delete("k"), await store.delete("k")] == [True, False]
        assert await store.get("k") is None
        assert await listed(store.scan()) == []


async def test_compare_and_set(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        first = await store.put("k", b"1", expected_version=0)
        second = await store.put("k", b"2", expected_version=first)
        with pytest.raises(VersionConflictError) as caught:
            await store.put("k", b"3", expected_version=first)
        assert (caught.value.key, caught.value.found_version) == ("k", second)
        with pytest.raises(VersionConflictError):
            await store.put("k", b"3", expected_version=0)
        with pytest.raises(VersionConflictError):
            await store.delete("k", expected_version=first)
        assert await store.delete("k", expected_version=second)
        with pytest.raises(VersionConflictError):
            await store.delete("k", expected_version=second)
        assert await store.delete("k", expected_version=0) is False


async def test_a_conflict_names_namespace_and_key_as_they_were_given(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("na\x00me")
        with pytest.raises(VersionConflictError) as caught:
            await store.put(b"\xff\x00", b"", expected_version=3)
    assert (caught.value.namespace, caught.value.key) == ("na\x00me", b"\xff\x00")


async def test_the_ack_of_a_nowait_call_can_be_awaited_more_than_once(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        put = store.put_nowait("k", b"1")
        assert await put == await put
        delete = store.delete_nowait("k")
        assert [await delete, await delete] == [True, True]
        conflict = store.put_nowait("k", b"", expected_version=9)
        for _ in range(2):
            with pytest.raises(VersionConflictError):
                await conflict


# --- time to live ---


async def test_an_entry_is_invisible_from_the_exact_instant_it_expires(data_dir: Path) -> None:
    clock = TurnedClock(1_000.0)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        version = await store.put("k", b"v", ttl_seconds=10.0)
        clock.now = 1_009.999
        assert await store.get("k") == Entry("k", b"v", version, 1_010.0)
        assert len(await listed(store.scan())) == 1
        clock.now = 1_010.0
        assert await store.get("k") is None
        assert await listed(store.scan()) == []
        assert await store.delete("k") is False


async def test_an_expired_key_does_not_exist_for_expected_version_either(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        version = await store.put("k", b"v", ttl_seconds=10.0)
        clock.now += 10
        with pytest.raises(VersionConflictError) as caught:
            await store.put("k", b"w", expected_version=version)
        assert caught.value.found_version == 0
        assert await store.put("k", b"w", expected_version=0) > version


async def test_a_time_to_live_goes_on_while_the_registry_is_closed(data_dir: Path) -> None:
    clock = TurnedClock(1_000.0)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("short", b"", ttl_seconds=10.0)
        await store.put("long", b"", ttl_seconds=20)
    clock.now = 1_015.0
    async with registry(data_dir, clock=clock) as opened:
        (entry,) = await listed(opened.key_value_store("s").scan())
        assert (entry.key, entry.expires_at) == ("long", 1_020.0)


async def test_reading_an_expired_entry_never_removes_a_newer_one(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"old", ttl_seconds=1.0)
        clock.now += 1
        newer = store.put_nowait("k", b"new")
        await store.get("k")  # whichever of the two it meets
        await newer
        assert await store.get("k") == Entry("k", b"new", await newer, None)


async def test_a_put_without_a_time_to_live_takes_an_earlier_one_away(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"", ttl_seconds=1.0)
        await store.put("k", b"")
        clock.now += 1_000
        entry = await store.get("k")
        assert entry is not None
        assert entry.expires_at is None


async def test_a_wall_clock_set_back_makes_entries_live_longer_and_breaks_nothing(
    data_dir: Path,
) -> None:
    clock = TurnedClock(1_000.0)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"1", ttl_seconds=10.0)
        clock.now = 500.0
        assert await store.get("k") is not None
        later = await store.put("k", b"2", ttl_seconds=10.0)
        assert await store.get("k") == Entry("k", b"2", later, 510.0)


async def test_a_sweep_removes_what_has_expired_and_nothing_else(data_dir: Path) -> None:
    clock = TurnedClock(1_000.0)
    async with registry(data_dir, clock=clock) as opened:
        store, other = opened.key_value_store("s"), opened.key_value_store("other")
        for number in range(5):
            await store.put(f"{number}", b"", ttl_seconds=10.0 - number)
        await store.put("stays", b"")
        await other.put("0", b"", ttl_seconds=1.0)
        assert await store.sweep_expired() == 0
        clock.now += 8
        assert await store.sweep_expired(2) == 2
        assert await store.sweep_expired(2) == 1
        assert await store.sweep_expired_nowait() == 0
        clock.now = 1_000.0
        assert [entry.key for entry in await listed(store.scan())] == ["0", "1", "stays"]
        assert await other.get("0") is not None


async def test_a_sweep_is_relaxed_and_can_be_part_of_a_transaction(data_dir: Path) -> None:
    clock = TurnedClock()
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"", ttl_seconds=1.0)
        clock.now += 1
        before = await opened.stats()
        async with opened.transaction(durability=Durability.RELAXED) as transaction:
            version = store.put_nowait("k", b"anew", transaction=transaction)
            swept = store.sweep_expired_nowait(transaction=transaction)
        assert await store.sweep_expired() == await swept == 0
        after = await opened.stats()
        assert (after.commits - before.commits, after.fsyncs - before.fsyncs) == (2, 0)
        assert await store.get("k") == Entry("k", b"anew", await version, None)


@pytest.mark.parametrize("count", [0, -1, 10_001, 1.0, "1", None, True])
async def test_an_impossible_number_to_sweep_is_refused(data_dir: Path, count: int) -> None:
    store = registry(data_dir).key_value_store("s")
    with pytest.raises(InvalidArgumentError, match="entries_max"):
        await store.sweep_expired(count)
    with pytest.raises(InvalidArgumentError, match="entries_max"):
        store.sweep_expired_nowait(count)


@pytest.mark.parametrize("ttl", [0, -1, 0.0, float("nan"), float("inf"), "1", True, 10**400])
async def test_an_impossible_time_to_live_is_refused(data_dir: Path, ttl: float) -> None:
    store = registry(data_dir).key_value_store("s")
    with pytest.raises(InvalidArgumentError, match="ttl_seconds"):
        await store.put("k", b"", ttl_seconds=ttl)


@pytest.mark.parametrize("ttl", [1e-9, 1e18, 10**300])
async def test_the_shortest_and_the_longest_times_to_live_are_taken(
    data_dir: Path, ttl: float
) -> None:
    clock = TurnedClock(0.0)
    async with registry(data_dir, clock=clock) as opened:
        store = opened.key_value_store("s")
        await store.put("k", b"", ttl_seconds=ttl)
        assert await store.get("k") is not None
        clock.now = float(ttl)
        assert await store.get("k") is None


@pytest.mark.parametrize("version", [-1, 1.0, "1", True])
async def test_an_impossible_expected_version_is_refused(data_dir: Path, version: int) -> None:
    store = registry(data_dir).key_value_store("s")
    with pytest.raises(InvalidArgumentError, match="expected_version"):
        await store.put("k", b"", expected_version=version)
    with pytest.raises(InvalidArgumentError, match="expected_version"):
        store.delete_nowait("k", expected_version=version)


async def test_an_expected_version_beyond_all_numbers_on_disk_is_a_conflict(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        with pytest.raises(VersionConflictError):
            await opened.key_value_store("s").put("k", b"", expected_version=2**80)


@pytest.mark.parametrize("key", [None, 1, ("a",)])
async def test_a_key_of_another_type_is_refused_everywhere(data_dir: Path, key: str) -> None:
    store = registry(data_dir).key_value_store("s")
    with pytest.raises(InvalidArgumentError):
        await store.put(key, b"")
    with pytest.raises(InvalidArgumentError):
        await store.get(key)
    with pytest.raises(InvalidArgumentError):
        await store.delete(key)
    if key is not None:
        with pytest.raises(InvalidArgumentError):
            await listed(store.scan(key))


@pytest.mark.parametrize("name", ["", "n" * 1_025, b"bytes", None])
async def test_an_impossible_name_is_refused_when_the_store_is_asked_for(
    data_dir: Path, name: str
) -> None:
    opened = registry(data_dir)
    with pytest.raises(InvalidArgumentError):
        opened.key_value_store(name)
    with pytest.raises(InvalidArgumentError):
        opened.log_store(name)


async def test_many_large_reads_at_once_are_answered_in_several_hops(
    data_dir: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.persistence.backends.sqlite.read_session.READ_BYTES_MAX", 2_000)
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        store = opened.key_value_store("s")
        for number in range(20):
            await store.put(f"{number}", b"%d" % number * 1_000)
        found: dict[int, bytes] = {}

        async def read(number: int) -> None:
            entry = await store.get(f"{number}")
            assert entry is not None
            found[number] = entry.value

        with anyio.fail_after(60):
            async with anyio.create_task_group() as task_group:
                for number in range(20):
                    task_group.start_soon(read, number)
        assert found == {number: b"%d" % number * 1_000 for number in range(20)}
        assert len(backend.results) == 20
        assert len(backend.queries) > 20, "some were asked again in the next hop"
        assert (await opened.stats()).reader_restarts == 0

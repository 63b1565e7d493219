"""`LogStore` as documented, on real SQLite files."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from pathlib import Path

import anyio
import pytest

from mpreg.persistence import (
    Durability,
    InvalidArgumentError,
    LogRecord,
    OffsetOutOfRangeError,
    PersistenceRegistry,
    StorageFullError,
    ValueTooLargeError,
    WriterStoppedError,
)
from mpreg.persistence.backend import PAGE_ITEMS_MAX, RecordsPage
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from tests.integration.support import OpenBackend, config, database, listed, registry

pytestmark = pytest.mark.anyio


async def test_offsets_count_from_zero_without_gaps_and_over_reopenings(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        assert [await log.first_offset(), await log.next_offset()] == [0, 0]
        assert [await log.append(b"a"), await log.append(b"")] == [0, 1]
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        assert await log.append_many([b"c", b"d"]) == 2
        assert await log.append(b"e") == 4
        assert [await log.first_offset(), await log.next_offset()] == [0, 5]
        records = await listed(log.read_range())
    assert records == [LogRecord(n, data) for n, data in enumerate([b"a", b"", b"c", b"d", b"e"])]


@pytest.mark.parametrize(
    ("start", "stop", "expected"),
    [
        (0, 100, [0, 1, 2, 3, 4]),
        (0, None, [0, 1, 2, 3, 4]),
        (1, 3, [1, 2]),
        (4, 5, [4]),
        (5, None, []),
        (2, 2, []),
        (3, 1, []),
        (99, 100, []),
        (0, 2**63 - 1, [0, 1, 2, 3, 4]),
        (2**63 - 1, None, []),
    ],
)
async def test_a_range_holds_what_is_there_between_start_and_stop(
    data_dir: Path, start: int, stop: int | None, expected: list[int]
) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"r"] * 5)
        assert [record.offset async for record in log.read_range(start, stop)] == expected


async def test_a_log_that_was_never_written_is_empty(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        assert await listed(opened.log_store("nothing").read_range()) == []


async def test_logs_do_not_share_offsets_nor_names_with_namespaces(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        one, two = opened.log_store("one"), opened.log_store("two\x00\ud800😀")
        await opened.key_value_store("one").put("k", b"")
        assert [await one.append(b"1"), await two.append(b"2"), await one.append(b"1")] == [0, 0, 1]
        assert [record.data for record in await listed(two.read_range())] == [b"2"]


async def test_truncated_offsets_are_gone_and_the_next_append_counts_on(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"r"] * 5)
        assert await log.truncate_before(3) == 3
        assert [record.offset for record in await listed(log.read_range())] == [3, 4]
        assert await log.truncate_before(1) == 3
        assert await log.truncate_before(5) == 5
        assert await listed(log.read_range()) == []
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        assert [await log.first_offset(), await log.next_offset()] == [5, 5]
        assert await log.append(b"next") == 5


async def test_truncating_beyond_the_end_is_refused_and_changes_nothing(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append(b"r")
        with pytest.raises(OffsetOutOfRangeError) as caught:
            await log.truncate_before(2)
        assert (caught.value.log, caught.value.next_offset) == ("audit", 1)
        assert len(await listed(log.read_range())) == 1
        with pytest.raises(OffsetOutOfRangeError):
            await opened.log_store("nothing").truncate_before(1)
        assert await opened.log_store("nothing").truncate_before(0) == 0


async def test_a_deleted_log_begins_at_offset_zero(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log, other = opened.log_store("audit"), opened.log_store("other")
        assert await log.delete() == 0
        await log.append_many([b"r"] * 5)
        await other.append(b"o")
        await log.truncate_before(2)
        assert await log.delete(durability=Durability.RELAXED) == 3
        assert [await log.first_offset(), await log.next_offset()] == [0, 0]
        assert await listed(log.read_range()) == []
        assert await log.append(b"new") == 0
    async with registry(data_dir) as opened:
        assert await listed(opened.log_store("audit").read_range()) == [LogRecord(0, b"new")]
        assert await listed(opened.log_store("other").read_range()) == [LogRecord(0, b"o")]
        assert await opened.log_store("audit").delete() == 1
    with closing(sqlite3.connect(database(data_dir))) as connection:
        assert connection.execute("SELECT name FROM logs").fetchall() == [(b"other",)]
        assert connection.execute("SELECT data FROM records").fetchall() == [(b"o",)]


async def test_a_deletion_that_was_rolled_back_has_not_happened(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"a", b"b"])
        (pages,) = await backend.on_writer("PRAGMA page_count")
        await backend.on_writer(f"PRAGMA max_page_count = {pages}")
        with pytest.raises(StorageFullError):  # noqa: PT012
            async with opened.transaction() as transaction:
                log.delete_nowait(transaction=transaction)
                log.append_nowait(bytes(1_000_000), transaction=transaction)
        assert await log.next_offset() == 2
        await backend.on_writer("PRAGMA max_page_count = 1000000")
        assert await log.append(b"c") == 2
        assert [record.data for record in await listed(log.read_range())] == [b"a", b"b", b"c"]
        # A restart would forget whatever was remembered wrongly.
        assert (await opened.stats()).writer_restarts == 0


async def test_a_log_can_be_moved_under_its_own_name_in_one_transaction(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"a", b"b"])
        async with opened.transaction() as transaction:
            held = log.delete_nowait(transaction=transaction)
            first = log.append_many_nowait([b"c", b"d"], transaction=transaction)
        assert [await held, await first] == [2, 0]
        assert await log.append(b"e") == 2
        assert [record.data for record in await listed(log.read_range())] == [b"c", b"d", b"e"]


async def test_appending_nothing_is_refused(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        with pytest.raises(InvalidArgumentError, match="no record"):
            await opened.log_store("audit").append_many([])


async def test_one_record_too_large_refuses_all_of_them(data_dir: Path) -> None:
    async with registry(data_dir, value_bytes_max=10) as opened:
        log = opened.log_store("audit")
        with pytest.raises(ValueTooLargeError):
            await log.append_many([b"ok", b"0123456789A"])
        assert await log.next_offset() == 0
        assert await log.append(b"0123456789") == 0


@pytest.mark.parametrize("offset", [-1, 1.0, "1", True, None, 2**63])
async def test_an_impossible_offset_is_refused(data_dir: Path, offset: int) -> None:
    log = registry(data_dir).log_store("audit")
    with pytest.raises(InvalidArgumentError):
        await log.truncate_before(offset)
    with pytest.raises(InvalidArgumentError):
        await listed(log.read_range(offset))
    if offset is not None:
        with pytest.raises(InvalidArgumentError):
            await listed(log.read_range(0, offset))


async def test_a_long_log_is_read_page_by_page(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")
        await log.append_many([str(n).encode() for n in range(2 * PAGE_ITEMS_MAX + 7)])
        reading = log.read_range(0, 10_000)
        assert (await anext(reading)).data == b"0"
        assert len(backend.queries) == 1
        rest = await listed(reading)
    assert [record.data for record in rest] == [
        str(n).encode() for n in range(1, 2 * PAGE_ITEMS_MAX + 7)
    ]
    pages = [result for result in backend.results if isinstance(result, RecordsPage)]
    assert [len(page.records) for page in pages] == [PAGE_ITEMS_MAX, PAGE_ITEMS_MAX, 7]


async def test_a_reading_left_early_leaves_nothing_behind(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"r"] * 5)
        async for record in log.read_range():
            assert record.offset == 0
            break
        await log.append(b"s")


async def test_an_open_ended_reading_ends_where_the_log_ended_when_it_began(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        await log.append_many([b"old"] * 3)
        seen = []
        async for record in log.read_range():
            seen.append(record.data)
            await log.append(b"new")
    assert seen == [b"old"] * 3


async def test_appends_of_many_callers_get_offsets_of_their_own_in_each_callers_order(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        given: dict[int, list[int]] = {caller: [] for caller in range(20)}

        async def call(caller: int) -> None:
            for number in range(10):
                given[caller].append(await log.append(f"{caller}:{number}".encode()))

        async with anyio.create_task_group() as task_group:
            for caller in given:
                task_group.start_soon(call, caller)
        records = {record.offset: record.data for record in await listed(log.read_range())}
        stats = await opened.stats()
    assert sorted(records) == list(range(200))
    for caller, offsets in given.items():
        assert offsets == sorted(offsets)
        assert [records[offset] for offset in offsets] == [
            f"{caller}:{number}".encode() for number in range(10)
        ]
    assert stats.fsyncs < 200


async def test_nowait_calls_are_committed_in_the_order_they_were_made(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        appended = [
            log.append_nowait(b"a"),
            log.append_many_nowait([b"b", b"c"], durability=Durability.RELAXED),
            log.truncate_before_nowait(1),
            log.append_nowait(b"d"),
        ]
        assert [await ack for ack in appended] == [0, 1, 1, 3]
        assert [record.offset for record in await listed(log.read_range())] == [1, 2, 3]


class CountingBackend(OpenBackend):
    """How many operations its commits had."""

    operations = 0

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        self.operations += group.operations
        return await super().commit(group)


def ignore(results: object) -> None:
    """Nobody follows."""


async def test_appends_of_many_at_once_are_one_operation_and_each_gets_its_own_offset(
    data_dir: Path,
) -> None:
    count, offsets = 600, {}
    backend = CountingBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")

        async def append(number: int) -> None:
            records = [b"%d/%d" % (number, index) for index in range(number % 3 + 1)]
            offsets[number] = await log.append_many(records)

        async with anyio.create_task_group() as task_group:
            for number in range(count):
                task_group.start_soon(append, number)
        stats = await opened.stats()
        records = await listed(log.read_range())
    # 1,200 records, some 256 in each.
    assert backend.operations <= 10
    assert (stats.batches, stats.operations) == (count, count)
    assert len(records) == 2 * count
    for number, first in offsets.items():
        for index in range(number % 3 + 1):
            assert records[first + index].data == b"%d/%d" % (number, index)


async def test_what_is_joined_keeps_its_place_among_other_writes(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log, other = opened.log_store("audit"), opened.log_store("other")
        appended = []
        for number in range(3):
            appended.append(log.append_followed([b"%d" % number], ignore))
            appended.append(other.append_followed([b"%d" % number], ignore))
        truncated = log.truncate_before_nowait(2)
        appended += [log.append_followed([b"%d" % number], ignore) for number in (3, 4)]
        assert [await one for one in appended] == [0, 0, 1, 1, 2, 2, 3, 4]
        assert await truncated == 2
        assert [record.data for record in await listed(log.read_range())] == [b"2", b"3", b"4"]
        assert [record.data for record in await listed(other.read_range())] == [b"0", b"1", b"2"]


async def test_durable_and_relaxed_appends_are_not_joined(data_dir: Path) -> None:
    backend = CountingBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")
        async with anyio.create_task_group() as task_group:
            for durability in Durability:
                for _ in range(3):
                    task_group.start_soon(partial(log.append, b"x", durability=durability))
        # The tasks run in any order: at least one of each, at most one of each in turn.
        assert 2 <= backend.operations <= 6
        backend.operations = 0
        appended = [log.append_followed([b"x"], ignore) for _ in range(3)]
        relaxed = log.append_nowait(b"y", durability=Durability.RELAXED)
        assert [await one for one in appended] == [6, 7, 8]
        assert await relaxed == 9
        assert backend.operations == 2


async def test_each_of_those_joined_gets_an_error_of_its_own(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")
        await log.append(b"first")
        (pages,) = await backend.on_writer("PRAGMA page_count")
        await backend.on_writer(f"PRAGMA max_page_count = {pages}")
        errors: list[BaseException] = []
        settled: list[object] = []

        async def append() -> None:
            try:
                await log.append_followed([bytes(100_000)], settled.append)
            except StorageFullError as error:
                errors.append(error)

        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(append)
        assert len(errors) == len(set(map(id, errors))) == 5
        assert settled == [None] * 5
        assert await log.next_offset() == 1


async def test_what_is_joined_stays_within_the_bounds_of_a_batch(data_dir: Path) -> None:
    backend = CountingBackend(data_dir)
    settings = config(data_dir, value_bytes_max=10_000, batch_bytes_max=25_000)
    async with PersistenceRegistry(settings, backend=backend) as opened:
        log = opened.log_store("audit")
        appended = [log.append_followed([bytes([n]) * 10_000], ignore) for n in range(9)]
        assert [await one for one in appended] == list(range(9))
        assert backend.operations == 5
        assert [record.data[0] for record in await listed(log.read_range())] == list(range(9))


async def test_an_append_grows_until_the_writer_takes_it(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("audit")
        settled: list[Sequence[object] | None] = []
        several = log.append_growing([b"0"], settled.append)
        assert several is not None
        assert several.add([b"1", b"2"], 2)
        parts = [b"3"]
        made = log.append_growing(
            [b""], settled.append, make=partial(b"".join, parts), size_bytes=1
        )
        assert made is not None
        assert not several.add([b"other"], 5), "it is not the last one of the log any more"
        assert made.grow(1)
        parts.append(b"4")
        assert [await several.ack, await made.ack] == [0, 3]
        assert settled == [(0,), (3,)]
        assert not made.grow(1)
        assert [record.data for record in await listed(log.read_range())] == [
            *(b"0", b"1", b"2"),
            b"34",
        ]
        stats = await opened.stats()
        assert (stats.commits, stats.batches) == (1, 4)


async def test_an_append_does_not_grow_past_what_was_sent_after_it(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log, sessions = opened.log_store("audit"), opened.key_value_store("sessions")
        growing = log.append_growing([b"0"], ignore)
        assert growing is not None
        put = sessions.put_nowait("ann", b"1")
        assert not growing.grow(1)
        assert not growing.add([b"1"], 1)
        await put
        assert [record.data for record in await listed(log.read_range())] == [b"0"]


async def test_an_append_grows_within_the_bounds_of_a_batch(data_dir: Path) -> None:
    async with registry(data_dir, value_bytes_max=10_000, batch_bytes_max=20_000) as opened:
        log = opened.log_store("audit")
        growing = log.append_growing([bytes(10_000)], ignore)
        assert growing is not None
        assert not growing.add([bytes(10_000)], 10_000)
        assert growing.add([bytes(5_000)], 5_000)
        assert await growing.ack == 0
        assert await log.next_offset() == 2


async def test_without_room_a_growing_append_is_not_sent(data_dir: Path) -> None:
    async with registry(data_dir, mailbox_batches_max=1) as opened:
        settled: list[Sequence[object] | None] = []
        first = opened.log_store("one").append_growing([b"0"], ignore)
        assert first is not None
        assert opened.log_store("other").append_growing([b"1"], settled.append) is None
        await first.ack
        assert settled == []
    with pytest.raises(WriterStoppedError):
        opened.log_store("one").append_growing([b"2"], settled.append)
    assert settled == [None]


async def test_each_of_those_who_share_an_append_gets_an_error_of_its_own(data_dir: Path) -> None:
    backend = OpenBackend(data_dir)
    async with PersistenceRegistry(config(data_dir), backend=backend) as opened:
        log = opened.log_store("audit")
        await log.append(b"first")
        (pages,) = await backend.on_writer("PRAGMA page_count")
        await backend.on_writer(f"PRAGMA max_page_count = {pages}")
        errors: list[StorageFullError] = []
        growing = log.append_growing([bytes(100_000)], ignore)
        assert growing is not None

        async def wait() -> None:
            try:
                await growing.ack
            except StorageFullError as error:
                errors.append(error)

        async with anyio.create_task_group() as task_group:
            for _ in range(5):
                task_group.start_soon(wait)
        assert len(set(map(id, errors))) == 5
        assert await log.bounds() == (0, 1)

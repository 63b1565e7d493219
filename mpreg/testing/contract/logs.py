"""Logs: offsets without gaps, truncation, deletion."""

from __future__ import annotations

from pathlib import Path

from mpreg.errors import OffsetOutOfRangeError, VersionConflictError
from mpreg.persistence.backend import PAGE_ITEMS_MAX, StoredRecord
from mpreg.persistence.operations import Append, DeleteLog, Put, TruncateBefore
from mpreg.testing.contract.base import BackendContract, make_batch

__all__ = ["LogsContract"]


class LogsContract(BackendContract):
    async def test_offsets_count_from_zero_without_gaps(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            assert await store.do(Append(b"log", (b"a",))) == (0,)
            assert await store.do(Append(b"log", (b"b", b"c"))) == (1,)
            outcomes = await store.commit(
                make_batch(Append(b"log", (b"d",)), Append(b"log", (b"e", b"f"))),
                make_batch(Append(b"other", (b"x",))),
                make_batch(Append(b"log", (b"g",))),
            )
            assert list(outcomes) == [(3, 4), (0,), (6,)]
            assert await store.bounds() == (0, 7)
            assert [data for _, data in await store.records()] == [
                b"a", b"b", b"c", b"d", b"e", b"f", b"g",
            ]  # fmt: skip

    async def test_a_range_of_records_is_exact(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", tuple(b"%d" % number for number in range(10))))
            await store.do(TruncateBefore(b"log", 3))
            for start in range(12):
                for stop in (*range(12), None):
                    expected = range(max(start, 3), 10 if stop is None else min(stop, 10))
                    found = await store.records(start, stop)
                    assert found == [(offset, b"%d" % offset) for offset in expected]

    async def test_records_come_in_bounded_pages_without_gap_or_overlap(
        self, tmp_path: Path
    ) -> None:
        data = tuple(b"%d" % number for number in range(2 * PAGE_ITEMS_MAX + 3))
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", data))
            pages = await store.record_pages()
            assert max(map(len, pages)) <= PAGE_ITEMS_MAX
            records = [record for page in pages for record in page]
            assert records == [StoredRecord(offset, item) for offset, item in enumerate(data)]

    async def test_truncation_only_moves_forward(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b", b"c", b"d")))
            assert await store.do(TruncateBefore(b"log", 2)) == (2,)
            assert await store.do(TruncateBefore(b"log", 1)) == (2,)
            assert await store.bounds() == (2, 4)
            assert await store.records() == [(2, b"c"), (3, b"d")]

    async def test_truncating_beyond_the_end_is_refused(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a",)))
            outcome = await store.do(TruncateBefore(b"log", 2))
            assert isinstance(outcome, OffsetOutOfRangeError)
            assert (outcome.log, outcome.offset, outcome.next_offset) == ("log", 2, 1)
            assert isinstance(await store.do(TruncateBefore(b"new", 1)), OffsetOutOfRangeError)
            assert await store.do(TruncateBefore(b"new", 0)) == (0,)
            assert await store.records() == [(0, b"a")]

    async def test_a_log_can_go_on_beyond_its_end_where_that_is_asked_for(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b")))
            outcomes = await store.commit(
                make_batch(Append(b"log", (b"c",))),
                make_batch(TruncateBefore(b"log", 7, beyond_end=True)),
                make_batch(Append(b"log", (b"d", b"e"))),
                make_batch(TruncateBefore(b"new", 5, beyond_end=True)),
                make_batch(TruncateBefore(b"log", 3, beyond_end=True)),
            )
            assert list(outcomes) == [(2,), (7,), (7,), (5,), (7,)]
            assert await store.bounds() == (7, 9)
            assert await store.records() == [(7, b"d"), (8, b"e")]
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.records() == [(7, b"d"), (8, b"e")]
            assert await again.bounds(b"new") == (5, 5)
            assert await again.do(Append(b"new", (b"f",))) == (5,)
            assert await again.records(log=b"new") == [(5, b"f")]

    async def test_offsets_go_on_after_a_complete_truncation_and_reopening(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b", b"c")))
            assert await store.do(TruncateBefore(b"log", 3)) == (3,)
            assert await store.bounds() == (3, 3)
            assert await store.records() == []
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.bounds() == (3, 3)
            assert await again.do(Append(b"log", (b"d",))) == (3,)
            assert await again.records() == [(3, b"d")]

    async def test_a_log_can_be_appended_to_and_truncated_in_one_group(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b")))
            outcomes = await store.commit(
                make_batch(Append(b"log", (b"c", b"d"))),
                make_batch(Append(b"log", (b"e",))),
                make_batch(TruncateBefore(b"log", 2)),
                make_batch(Append(b"log", (b"f",))),
            )
            # A batch's own appends do not count for its conditions: the state before it does.
            beyond = await store.do(Append(b"log", (b"g",)), TruncateBefore(b"log", 7))
            assert list(outcomes) == [(2,), (4,), (2,), (5,)]
            assert isinstance(beyond, OffsetOutOfRangeError)
            assert await store.records() == [(2, b"c"), (3, b"d"), (4, b"e"), (5, b"f")]
            await store.commit(
                make_batch(Append(b"log", (b"h",))), make_batch(TruncateBefore(b"log", 7))
            )
            assert await store.bounds() == (7, 7)

    async def test_a_deleted_log_is_as_if_never_written(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b", b"c")), Append(b"other", (b"x",)))
            await store.do(TruncateBefore(b"log", 1))
            assert await store.do(DeleteLog(b"log")) == (2,)
            assert await store.bounds() == (0, 0)
            assert await store.records() == []
            assert await store.records(log=b"other") == [(0, b"x")]
            assert isinstance(await store.do(TruncateBefore(b"log", 1)), OffsetOutOfRangeError)
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.bounds() == (0, 0)
            assert await again.do(DeleteLog(b"log")) == (0,)
            assert await again.do(Append(b"log", (b"new",))) == (0,)
            assert await again.records() == [(0, b"new")]
            assert await again.records(log=b"other") == [(0, b"x")]

    async def test_a_log_begins_anew_within_the_group_that_deletes_it(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a", b"b")))
            await store.do(TruncateBefore(b"log", 1))
            outcomes = await store.commit(
                make_batch(Append(b"log", (b"c", b"d"))),
                make_batch(Append(b"other", (b"x",))),
                make_batch(TruncateBefore(b"log", 3)),
                make_batch(DeleteLog(b"log")),
                make_batch(Append(b"log", (b"e", b"f"))),
                make_batch(TruncateBefore(b"log", 1), Append(b"log", (b"g",))),
            )
            assert list(outcomes) == [(2,), (0,), (3,), (1,), (0,), (1, 2)]
            assert await store.bounds() == (1, 3)
            assert await store.records() == [(1, b"f"), (2, b"g")]
            assert await store.records(log=b"other") == [(0, b"x")]
            assert await store.do(Append(b"log", (b"h",))) == (3,)
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.bounds() == (1, 4)
            assert await again.records() == [(1, b"f"), (2, b"g"), (3, b"h")]

    async def test_logs_that_come_and_go_do_not_meet(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for name in (b"one", b"two", b"three"):
                await store.do(Append(name, (name,)))
            assert await store.do(DeleteLog(b"three"), Append(b"four", (b"four",))) == (1, 0)
            await store.do(DeleteLog(b"one"))
            await store.do(Append(b"three", (b"again",)), Append(b"four", (b"more",)))
            assert await store.records(log=b"one") == []
            assert await store.records(log=b"two") == [(0, b"two")]
            assert await store.records(log=b"three") == [(0, b"again")]
            assert await store.records(log=b"four") == [(0, b"four"), (1, b"more")]

    async def test_a_log_only_appended_to_and_deleted_in_one_group_leaves_nothing(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            assert await store.do(Append(b"log", (b"a", b"b")), DeleteLog(b"log")) == (0, 2)
            assert await store.bounds() == (0, 0)
            assert await store.records() == []

    async def test_a_refused_batch_deletes_no_log(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Append(b"log", (b"a",)))
            refused = make_batch(DeleteLog(b"log"), Put(b"n", b"key", b"no", expected_version=7))
            outcomes = await store.commit(refused, make_batch(Append(b"log", (b"b",))))
            assert isinstance(outcomes[0], VersionConflictError)
            assert outcomes[1] == (1,)
            assert await store.records() == [(0, b"a"), (1, b"b")]

"""What readers see, and when."""

from __future__ import annotations

from pathlib import Path

import anyio

from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    FoundEntries,
    GetEntries,
    GetEntry,
    GetLogBounds,
    ReadRecords,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.batch import Durability
from mpreg.persistence.operations import Append, Put
from mpreg.testing.contract.base import BackendContract, make_batch

__all__ = ["ReadingContract"]


class ReadingContract(BackendContract):
    async def test_many_queries_are_answered_in_their_order(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"a", b"1"), Append(b"log", (b"x",)))
            answers = await store.reader.read(
                [
                    GetEntry(b"n", b"a"),
                    GetLogBounds(b"log"),
                    GetEntry(b"n", b"b"),
                    ReadRecords(b"log", 0, None),
                    ScanEntries(b"n", b"", None),
                ]
            )
            assert list(answers) == [
                StoredEntry(b"a", 1, None, b"1"),
                (0, 1),
                None,
                RecordsPage((StoredRecord(0, b"x"),), None),
                ScanPage((StoredEntry(b"a", 1, None, b"1"),), None),
            ]

    async def test_many_keys_are_one_query(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"a", b"1"), Put(b"n", b"b", b"2", 7.5))
            found = await store.ask(GetEntries(b"n", (b"b", b"none", b"a", b"b")))
            a, b = StoredEntry(b"a", 1, None, b"1"), StoredEntry(b"b", 2, 7.5, b"2")
            assert found == FoundEntries((b, None, a, b))
            assert await store.ask(GetEntries(b"other", (b"a", b"b"))) == FoundEntries((None, None))
            assert await store.ask(GetEntries(b"n", ())) == FoundEntries(())

    async def test_an_answer_for_many_keys_is_bounded_in_bytes(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            large = b"x" * (PAGE_BYTES_MAX // 2)
            await store.do(*(Put(b"n", b"%d" % number, large) for number in range(5)))
            keys, pages = [b"%d" % number for number in range(5)], []
            while keys:
                page = await store.ask(GetEntries(b"n", keys))
                assert isinstance(page, FoundEntries)
                pages.append(len(page.entries))
                keys = keys[len(page.entries) :]
            assert pages == [2, 2, 1]

    async def test_every_reader_sees_a_commit_once_it_has_returned(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            second = store.backend.reader()
            await second.open()
            try:
                for number in range(20):
                    durability = Durability.RELAXED if number % 2 else Durability.DURABLE
                    put = Put(b"n", b"key", b"%d" % number)
                    await store.commit(make_batch(put, durability=durability))
                    for reader in (store.reader, second):
                        (entry,) = await reader.read([GetEntry(b"n", b"key")])
                        assert isinstance(entry, StoredEntry)
                        assert entry.value == b"%d" % number
            finally:
                await second.close()

    async def test_the_answers_of_one_call_are_of_one_state(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            finished = anyio.Event()

            async def write() -> None:
                for number in range(30):
                    value = b"%d" % number
                    await store.do(Put(b"n", b"a", value), Put(b"n", b"b", value))
                finished.set()

            async with anyio.create_task_group() as task_group:
                task_group.start_soon(write)
                while not finished.is_set():
                    queries = [GetEntry(b"n", b"a"), GetEntry(b"n", b"b")]
                    first, second = await store.reader.read(queries)
                    values = [
                        entry.value if isinstance(entry, StoredEntry) else None
                        for entry in (first, second)
                    ]
                    assert values[0] == values[1]

    async def test_statistics_can_be_asked_at_any_time(self, tmp_path: Path) -> None:
        backend = self.make_backend(tmp_path)
        assert backend.statistics().fsyncs == 0
        async with self.opened(tmp_path, backend) as store:
            await store.put(b"key")
            assert store.backend.statistics().fsyncs >= 0
        assert store.backend.statistics().wal_bytes >= 0

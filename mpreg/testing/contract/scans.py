"""Scans: in order, exact, page by page."""

from __future__ import annotations

from pathlib import Path

from mpreg.persistence.backend import PAGE_BYTES_MAX, PAGE_ITEMS_MAX, ScanEntries, ScanPage
from mpreg.persistence.operations import Append, Delete, Put
from mpreg.testing.contract.base import NASTY_KEYS, BackendContract, make_batch

__all__ = ["ScansContract"]


class ScansContract(BackendContract):
    async def test_a_scan_is_ordered_by_bytes_and_exact_at_both_ends(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit(*(make_batch(Put(b"n", key, b"")) for key in reversed(NASTY_KEYS)))
            expected = sorted(NASTY_KEYS)
            assert await store.keys() == expected
            for start in NASTY_KEYS:
                for stop in (*NASTY_KEYS, None):
                    assert await store.keys(start, stop) == [
                        key for key in expected if start <= key and (stop is None or key < stop)
                    ]

    async def test_a_scan_comes_in_bounded_pages_without_gap_or_overlap(
        self, tmp_path: Path
    ) -> None:
        keys = [b"%05d" % number for number in range(2 * PAGE_ITEMS_MAX + 3)]
        async with self.opened(tmp_path) as store:
            await store.commit(*(make_batch(Put(b"n", key, key)) for key in keys))
            pages = await store.scan_pages()
            assert max(map(len, pages)) <= PAGE_ITEMS_MAX
            assert [entry.key for page in pages for entry in page] == keys
            assert all(entry.value == entry.key for page in pages for entry in page)

    async def test_a_page_is_bounded_by_bytes_and_holds_at_least_one_item(
        self, tmp_path: Path
    ) -> None:
        large = b"x" * PAGE_BYTES_MAX
        async with self.opened(tmp_path) as store:
            for number in range(3):
                await store.do(Put(b"n", b"%d" % number, large), Append(b"log", (large,)))
            assert [len(page) for page in await store.scan_pages() if page] == [1, 1, 1]
            assert [len(page) for page in await store.record_pages() if page] == [1, 1, 1]

    async def test_a_page_can_be_continued_though_its_entries_are_deleted(
        self, tmp_path: Path
    ) -> None:
        keys = [b"%05d" % number for number in range(PAGE_ITEMS_MAX + 10)]
        async with self.opened(tmp_path) as store:
            await store.commit(*(make_batch(Put(b"n", key, b"")) for key in keys))
            page = await store.ask(ScanEntries(b"n", b"", None))
            assert isinstance(page, ScanPage)
            assert page.next_start is not None
            await store.do(*(Delete(b"n", key) for key in keys[: PAGE_ITEMS_MAX + 1]))
            rest = await store.keys(page.next_start)
            assert rest == keys[PAGE_ITEMS_MAX + 1 :]

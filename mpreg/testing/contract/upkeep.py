"""Upkeep: nobody sees it, and it is done when it is due."""

from __future__ import annotations

import math
from pathlib import Path

from mpreg.persistence.backend import (
    PAGE_ITEMS_MAX,
    Checkpoint,
    GiveBackSpace,
    ListNamespaces,
    NamespacesPage,
    RefreshStatistics,
)
from mpreg.persistence.operations import Append, Delete, Put
from mpreg.testing.contract.base import BackendContract

__all__ = ["UpkeepContract"]


class UpkeepContract(BackendContract):
    async def test_upkeep_changes_nothing_that_can_be_seen(self, tmp_path: Path) -> None:
        steps = (Checkpoint(), GiveBackSpace(4), RefreshStatistics(), Checkpoint(truncate=True))
        async with self.opened(tmp_path) as store:
            for number in range(40):
                await store.put(b"%d" % number, bytes(3_000))
            await store.do(Append(b"log", (b"a", b"b", b"c")))
            for number in range(30):
                await store.do(Delete(b"n", b"%d" % number))
            keys = await store.keys()
            for step in steps * 3:
                await store.backend.upkeep(step)
                assert await store.keys() == keys
                assert await store.records() == [(0, b"a"), (1, b"b"), (2, b"c")]
                await store.put(b"39", b"")
            sequence = store.sequence
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.keys() == keys
            assert again.opened.commit_sequence == sequence

    async def test_what_is_due_is_done_and_then_not_due_any_more(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for number in range(300):
                await store.put(b"%d" % number, bytes(3_000))
                if (step := store.backend.upkeep_due()) is not None:
                    await store.backend.upkeep(step)
                    assert store.backend.upkeep_due() is None
            assert len(await store.keys()) == 300

    async def test_namespaces_are_listed_with_their_next_expiry(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for namespace, key, expires_at in (
                (b"b", b"1", 30.0),
                (b"b", b"2", 20.0),
                (b"b", b"\xff" * 9, 20.0),
                (b"b", b"3", None),
                (b"a", b"1", None),
                (b"\xffc", b"1", 10.0),
            ):
                await store.put(key, namespace=namespace, expires_at=expires_at)
            for after, expected in (
                (-math.inf, [(b"a", None), (b"b", 20.0), (b"\xffc", 10.0)]),
                (19.5, [(b"a", None), (b"b", 20.0), (b"\xffc", None)]),
                (20.0, [(b"a", None), (b"b", 30.0), (b"\xffc", None)]),
                (30.0, [(b"a", None), (b"b", None), (b"\xffc", None)]),
            ):
                page = await store.ask(ListNamespaces(b"", after))
                assert isinstance(page, NamespacesPage)
                assert [(one.namespace, one.expires_at) for one in page.namespaces] == expected
                assert page.next_start is None
            page = await store.ask(ListNamespaces(b"b\x00", 0.0))
            assert isinstance(page, NamespacesPage)
            assert [one.namespace for one in page.namespaces] == [b"\xffc"]

    async def test_many_namespaces_are_listed_page_by_page(self, tmp_path: Path) -> None:
        names = [b"n%04d" % number for number in range(2 * PAGE_ITEMS_MAX + 1)]
        async with self.opened(tmp_path) as store:
            await store.do(*(Put(name, b"key", b"") for name in names))
            listed: list[bytes] = []
            start: bytes | None = b""
            while start is not None:
                page = await store.ask(ListNamespaces(start, 0.0))
                assert isinstance(page, NamespacesPage)
                assert len(page.namespaces) <= PAGE_ITEMS_MAX
                listed += [one.namespace for one in page.namespaces]
                start = page.next_start
            assert listed == names

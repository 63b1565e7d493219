"""Opening, closing, and who may write."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import CommitInDoubtError, FoundState, StoredEntry
from mpreg.persistence.commit_group import CommitGroup
from mpreg.persistence.operations import Append, Put, TruncateBefore
from mpreg.testing.contract.base import BackendContract, make_batch

__all__ = ["OpeningContract"]


class OpeningContract(BackendContract):
    async def test_a_new_store_is_empty_and_at_commit_zero(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            assert store.opened.commit_sequence == 0
            assert await store.keys() == []
            assert await store.get(b"key") is None
            assert await store.bounds() == (0, 0)
            assert await store.records() == []

    async def test_reopening_keeps_everything(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            version = await store.put(b"key", b"1", expires_at=5_000.5)
            await store.do(Append(b"log", (b"a", b"b", b"c")))
            await store.do(TruncateBefore(b"log", 1))
        async with self.opened(tmp_path, store.backend) as again:
            assert again.opened.commit_sequence == 3
            assert await again.get(b"key") == StoredEntry(b"key", version, 5_000.5, b"1")
            assert await again.records() == [(1, b"b"), (2, b"c")]

    async def test_each_opening_has_a_higher_generation(self, tmp_path: Path) -> None:
        generations = []
        async with self.opened(tmp_path) as store:
            generations.append(store.opened.generation)
        for _ in range(3):
            async with self.opened(tmp_path, store.backend) as again:
                generations.append(again.opened.generation)
        assert generations == sorted(set(generations))

    async def test_the_check_is_told_what_is_there_before_the_store_is_opened(
        self, tmp_path: Path
    ) -> None:
        told: list[FoundState | None] = []

        def check(found: FoundState | None) -> int:
            told.append(found)
            return 0

        backend = self.make_backend(tmp_path)
        first = await backend.open(check)
        sequence = first.commit_sequence + 1
        await backend.commit(CommitGroup(sequence, 0.0, (make_batch(Put(b"n", b"key", b"")),)))
        await backend.close()
        second = await backend.open(check)
        await backend.close()
        assert told == [None, FoundState(sequence, first.generation)]
        assert second.generation == first.generation + 1

    async def test_where_the_check_raises_nothing_is_changed_and_nothing_stays_open(
        self, tmp_path: Path
    ) -> None:
        def refuse(found: FoundState | None) -> int:
            raise CorruptDataError("refused")

        backend = self.make_backend(tmp_path)
        with pytest.raises(CorruptDataError, match="refused"):
            await backend.open(refuse)
        assert (await backend.open()).commit_sequence == 0
        await backend.commit(CommitGroup(1, 0.0, (make_batch(Put(b"n", b"key", b"")),)))
        await backend.close()
        with pytest.raises(CorruptDataError, match="refused"):
            await backend.open(refuse)
        opened = await backend.open()
        await backend.close()
        assert (opened.commit_sequence, opened.generation) == (1, 2)

    async def test_the_generation_is_above_the_one_that_the_check_names(
        self, tmp_path: Path
    ) -> None:
        backend = self.make_backend(tmp_path)
        for least, expected in ((40, 41), (7, 42)):
            opened = await backend.open(lambda found, least=least: least)  # type: ignore[misc]
            await backend.close()
            assert opened.generation == expected

    async def test_closing_twice_or_before_opening_does_nothing(self, tmp_path: Path) -> None:
        backend = self.make_backend(tmp_path)
        await backend.close()
        await backend.open()
        await backend.close()
        await backend.close()
        reader = backend.reader()
        await reader.close()

    async def test_the_same_object_can_be_opened_after_it_was_closed(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key", b"1")
            await store.backend.close()
            state = await store.backend.open()
            assert state.commit_sequence == 1
            assert state.generation > store.opened.generation
            assert await store.put(b"key", b"2") == 2

    async def test_a_reader_outlives_a_backend_that_is_opened_again(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key", b"1")
            await store.backend.close()
            await store.backend.open()
            await store.put(b"key", b"2")
            assert await store.value(b"key") == b"2"

    async def test_an_older_writer_cannot_commit_any_more(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as old:
            await old.put(b"key", b"old")
            newer = self.make_another(old.backend, tmp_path)
            if newer is old.backend:
                return
            await newer.open()
            try:
                with pytest.raises(CommitInDoubtError):
                    await old.put(b"key", b"too late")
                assert await old.value(b"key") == b"old"
            finally:
                await newer.close()

    async def test_a_cancelled_commit_is_there_as_a_whole_or_not_at_all(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key", b"before")
            with anyio.CancelScope() as scope:
                scope.cancel()
                await store.do(Put(b"n", b"key", b"after"), Append(b"log", (b"after",)))
            with anyio.fail_after(60):
                await store.backend.close()
                state = await store.backend.open()
            committed = state.commit_sequence == 2
            assert await store.value(b"key") == (b"after" if committed else b"before")
            assert await store.records() == ([(0, b"after")] if committed else [])

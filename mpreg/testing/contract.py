"""The tests that every storage backend must pass, also one that is not ours.

::

    import pytest

    pytest.register_assert_rewrite("mpreg.testing.contract")

    from mpreg.testing.contract import StorageBackendContract

    class TestMyBackend(StorageBackendContract):
        def make_backend(self, directory):
            return MyBackend(directory / "store")

They are anyio tests: they run on the event loops that the ``anyio_backend`` fixture names.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from attrs import define

from mpreg.actors import Ack
from mpreg.errors import (
    CorruptDataError,
    OffsetOutOfRangeError,
    StorageIOError,
    VersionConflictError,
)
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    PAGE_ITEMS_MAX,
    Checkpoint,
    CommitInDoubtError,
    FoundEntries,
    FoundState,
    GetEntries,
    GetEntry,
    GetLogBounds,
    GiveBackSpace,
    ListNamespaces,
    NamespacesPage,
    OpenedState,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    RefreshStatistics,
    ScanEntries,
    ScanPage,
    StorageBackend,
    StorageReader,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.batch import Durability, WriteBatch, operation_bytes
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.persistence.operations import (
    Append,
    Delete,
    DeleteLog,
    Operation,
    Put,
    SweepExpired,
    TruncateBefore,
)

__all__ = ["ContractStore", "StorageBackendContract", "make_batch"]

#: Bytes that trip up whoever treats keys as text, patterns or C strings.
NASTY_KEYS = (
    b"",
    b"\x00",
    b"\x00\x00",
    b"\x00\xff",
    b"%",
    b"%%",
    b"*",
    b"A",
    b"A%",
    b"A_",
    b"AB",
    b"_",
    b"a",
    b"a\x00b",
    b"ab",
    b"\xc3\xa9",
    b"\xed\xb2\x80",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
)


def make_batch(*operations: Operation, durability: Durability = Durability.DURABLE) -> WriteBatch:
    """A batch as the writer would hand it to a backend."""
    size = sum(map(operation_bytes, operations))
    return WriteBatch(operations, tuple(Ack[object]() for _ in operations), durability, size)


@define(eq=False)
class ContractStore:
    """A backend and a reader, both open, and the numbers that a writer keeps."""

    backend: StorageBackend
    reader: StorageReader
    opened: OpenedState
    sequence: int
    now: float = 1_000.0

    async def commit(self, *batches: WriteBatch) -> Sequence[BatchOutcome]:
        """One group; the sequence goes on if anything of it stands."""
        outcomes = await self.backend.commit(CommitGroup(self.sequence + 1, self.now, batches))
        assert len(outcomes) == len(batches)
        if any(isinstance(outcome, tuple) for outcome in outcomes):
            self.sequence += 1
        return outcomes

    async def do(self, *operations: Operation) -> BatchOutcome:
        """One batch in a group of its own."""
        return (await self.commit(make_batch(*operations)))[0]

    async def put(
        self,
        key: bytes,
        value: bytes = b"value",
        *,
        namespace: bytes = b"n",
        expires_at: float | None = None,
    ) -> int:
        outcome = await self.do(Put(namespace, key, value, expires_at))
        assert isinstance(outcome, tuple)
        return outcome[0]

    async def ask(self, query: ReadQuery) -> ReadResult:
        (answer,) = await self.reader.read([query])
        assert not isinstance(answer, CorruptDataError | StorageIOError)
        return answer

    async def get(self, key: bytes, namespace: bytes = b"n") -> StoredEntry | None:
        entry = await self.ask(GetEntry(namespace, key))
        assert entry is None or isinstance(entry, StoredEntry)
        return entry

    async def value(self, key: bytes, namespace: bytes = b"n") -> bytes | None:
        entry = await self.get(key, namespace)
        return None if entry is None else entry.value

    async def scan_pages(
        self, start: bytes = b"", stop: bytes | None = None, namespace: bytes = b"n"
    ) -> list[list[StoredEntry]]:
        pages = []
        following: bytes | None = start
        while following is not None:
            page = await self.ask(ScanEntries(namespace, following, stop))
            assert isinstance(page, ScanPage)
            pages.append([entry for entry in page.entries if isinstance(entry, StoredEntry)])
            following = page.next_start
        return pages

    async def keys(
        self, start: bytes = b"", stop: bytes | None = None, namespace: bytes = b"n"
    ) -> list[bytes]:
        pages = await self.scan_pages(start, stop, namespace)
        return [entry.key for page in pages for entry in page]

    async def record_pages(
        self, start: int = 0, stop: int | None = None, log: bytes = b"log"
    ) -> list[list[StoredRecord]]:
        pages = []
        following: int | None = start
        while following is not None:
            page = await self.ask(ReadRecords(log, following, stop))
            assert isinstance(page, RecordsPage)
            pages.append([record for record in page.records if isinstance(record, StoredRecord)])
            following = page.next_start
        return pages

    async def records(
        self, start: int = 0, stop: int | None = None, log: bytes = b"log"
    ) -> list[tuple[int, bytes]]:
        pages = await self.record_pages(start, stop, log)
        return [(record.offset, record.data) for page in pages for record in page]

    async def bounds(self, log: bytes = b"log") -> ReadResult:
        return await self.ask(GetLogBounds(log))


class StorageBackendContract:
    """Derive from it, name the class ``Test…``, and say how the backend is made."""

    pytestmark = pytest.mark.anyio

    value_bytes_max = 16 << 20
    """The largest value that the backend takes."""

    def make_backend(self, directory: Path) -> StorageBackend:
        """A backend, not open, on a new store in an empty directory."""
        raise NotImplementedError

    def make_another(self, backend: StorageBackend, directory: Path) -> StorageBackend:
        """A backend for the same store, as another process would make it.

        The default is the same object, for backends whose store does not outlive them; what needs
        two of them is left out then.
        """
        return backend

    @asynccontextmanager
    async def opened(
        self, directory: Path, again: StorageBackend | None = None
    ) -> AsyncGenerator[ContractStore, None]:
        """An open store; with ``again``, that backend's store as another process finds it."""
        if again is None:
            backend = self.make_backend(directory)
        else:
            backend = self.make_another(again, directory)
        state = await backend.open()
        reader = backend.reader()
        try:
            await reader.open()
            yield ContractStore(backend, reader, state, state.commit_sequence)
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()
                await backend.close()

    # --- open and close ---

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

    # --- housekeeping ---

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

    # --- the commit sequence ---

    async def test_the_commit_sequence_is_that_of_the_last_group(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for number in range(5):
                await store.commit(
                    make_batch(Put(b"n", b"a", b"%d" % number)), make_batch(Append(b"log", (b"",)))
                )
        async with self.opened(tmp_path, store.backend) as again:
            assert again.opened.commit_sequence == 5

    async def test_a_group_of_which_nothing_stands_is_not_counted(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key")
            outcomes = await store.commit(
                make_batch(Put(b"n", b"key", b"no", expected_version=0)),
                make_batch(Put(b"n", b"key", b"no", expected_version=77)),
            )
            assert [type(outcome) for outcome in outcomes] == [VersionConflictError] * 2
            await store.backend.close()
            assert (await store.backend.open()).commit_sequence == 1
            assert await store.put(b"key") == 2

    async def test_relaxed_and_durable_groups_follow_each_other(self, tmp_path: Path) -> None:
        relaxed, durable = Durability.RELAXED, Durability.DURABLE
        async with self.opened(tmp_path) as store:
            for number, durability in enumerate((relaxed, durable, relaxed, relaxed)):
                batch = make_batch(Append(b"log", (b"%d" % number,)), durability=durability)
                assert await store.commit(batch) == [(number,)]
                assert (await store.records())[-1] == (number, b"%d" % number)
        async with self.opened(tmp_path, store.backend) as again:
            assert again.opened.commit_sequence == 4
            assert await again.records() == [(0, b"0"), (1, b"1"), (2, b"2"), (3, b"3")]

    # --- versions and conditions ---

    async def test_versions_grow_over_all_keys_and_namespaces(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            versions = [
                await store.put(key, namespace=namespace)
                for namespace in (b"n", b"m")
                for key in (b"a", b"b", b"a")
            ]
        async with self.opened(tmp_path, store.backend) as again:
            versions.append(await again.put(b"a"))
        assert versions == sorted(set(versions))
        assert versions[0] >= 1

    async def test_a_version_is_not_used_again_after_delete_and_reopening(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            version = await store.put(b"key")
            await store.do(Delete(b"n", b"key"))
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.put(b"key") > version
            assert await again.put(b"other") > version + 1

    async def test_a_refused_batch_uses_no_version_and_no_offset(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            version = await store.put(b"key")
            refused = make_batch(
                Put(b"n", b"other", b"no"),
                Append(b"log", (b"no",)),
                Put(b"n", b"key", b"no", expected_version=version + 1),
            )
            accepted = make_batch(Put(b"n", b"third", b"yes"), Append(b"log", (b"yes",)))
            outcomes = await store.commit(refused, accepted)
            assert isinstance(outcomes[0], VersionConflictError)
            assert outcomes[1] == (version + 1, 0)
            assert await store.keys() == [b"key", b"third"]
            assert await store.records() == [(0, b"yes")]

    async def test_a_condition_names_what_it_expected_and_what_it_found(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            version = await store.put(b"\x01key")
            outcome = await store.do(Put(b"n", b"\x01key", b"", expected_version=version + 9))
            assert isinstance(outcome, VersionConflictError)
            assert (outcome.namespace, outcome.key) == ("n", "key")
            assert (outcome.expected_version, outcome.found_version) == (version + 9, version)
            absent = await store.do(Put(b"n", b"\x01other", b"", expected_version=version))
            assert isinstance(absent, VersionConflictError)
            assert absent.found_version == 0

    async def test_expected_version_zero_means_must_not_exist(self, tmp_path: Path) -> None:
        create = Put(b"n", b"key", b"1", expected_version=0)
        async with self.opened(tmp_path) as store:
            assert await store.do(create) == (1,)
            assert isinstance(await store.do(create), VersionConflictError)
            await store.do(Delete(b"n", b"key"))
            assert await store.do(create) == (2,)

    async def test_the_matching_version_lets_a_put_or_delete_through(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            first = await store.put(b"key", b"1")
            second = await store.do(Put(b"n", b"key", b"2", expected_version=first))
            assert second == (first + 1,)
            stale = await store.do(Delete(b"n", b"key", expected_version=first))
            assert isinstance(stale, VersionConflictError)
            assert await store.value(b"key") == b"2"
            assert await store.do(Delete(b"n", b"key", expected_version=first + 1)) == (True,)
            assert await store.get(b"key") is None

    async def test_conditions_see_the_batches_before_them_in_their_group(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            outcomes = await store.commit(
                make_batch(Put(b"n", b"key", b"first", expected_version=0)),
                make_batch(Put(b"n", b"key", b"second", expected_version=0)),
                make_batch(Put(b"n", b"key", b"third", expected_version=1)),
                make_batch(Delete(b"n", b"key", expected_version=2)),
                make_batch(Put(b"n", b"key", b"fifth", expected_version=0)),
            )
            assert isinstance(outcomes[1], VersionConflictError)
            assert [outcomes[i] for i in (0, 2, 3, 4)] == [(1,), (2,), (True,), (3,)]
            assert await store.get(b"key") == StoredEntry(b"key", 3, None, b"fifth")

    async def test_conditions_of_a_batch_are_held_against_the_state_before_it(
        self, tmp_path: Path
    ) -> None:
        async with self.opened(tmp_path) as store:
            outcome = await store.do(
                Put(b"n", b"key", b"1"), Put(b"n", b"key", b"2", expected_version=0)
            )
            assert outcome == (1, 2)
            assert await store.value(b"key") == b"2"

    async def test_an_expired_entry_counts_as_absent_from_its_instant_on(
        self, tmp_path: Path
    ) -> None:
        create = Put(b"n", b"key", b"new", expected_version=0)
        async with self.opened(tmp_path) as store:
            version = await store.put(b"key", b"old", expires_at=2_000.0)
            store.now = 1_999.999
            assert isinstance(await store.do(create), VersionConflictError)
            store.now = 2_000.0
            stale = await store.do(Put(b"n", b"key", b"", expected_version=version))
            assert isinstance(stale, VersionConflictError)
            assert stale.found_version == 0
            assert await store.do(create) == (version + 1,)
            assert await store.get(b"key") == StoredEntry(b"key", version + 1, None, b"new")

    async def test_a_delete_tells_whether_there_was_anything_to_see(self, tmp_path: Path) -> None:
        delete = Delete(b"n", b"key")
        async with self.opened(tmp_path) as store:
            assert await store.do(delete) == (False,)
            await store.put(b"key")
            assert await store.do(delete) == (True,)
            assert await store.do(delete) == (False,)
            await store.put(b"key", expires_at=500.0)
            assert await store.do(delete) == (False,)
            assert await store.do(Put(b"n", b"key", b""), delete, delete) == (3, True, False)
            assert await store.get(b"key") is None

    async def test_the_reader_shows_expired_entries_as_they_are(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            version = await store.put(b"key", b"1", expires_at=0.25)
            assert await store.get(b"key") == StoredEntry(b"key", version, 0.25, b"1")

    # --- sweeps ---

    async def test_a_sweep_removes_those_that_expired_first(self, tmp_path: Path) -> None:
        sweep = SweepExpired(b"n", 2)
        async with self.opened(tmp_path) as store:
            assert await store.do(sweep) == (0,)
            for key, expires_at in ((b"c", 30.0), (b"a", 50.0), (b"d", 20.5), (b"b", 40.0)):
                await store.put(key, expires_at=expires_at)
                await store.put(key, namespace=b"other", expires_at=expires_at)
            await store.put(b"never")
            store.now = 20.0
            assert await store.do(sweep) == (0,)
            store.now = 40.0
            assert await store.do(sweep) == (2,)
            assert await store.keys() == [b"a", b"b", b"never"]
            assert await store.do(sweep) == (1,)
            assert await store.do(sweep) == (0,)
            assert await store.keys() == [b"a", b"never"]
        async with self.opened(tmp_path, store.backend) as again:
            assert await again.keys() == [b"a", b"never"]
            assert await again.keys(namespace=b"other") == [b"a", b"b", b"c", b"d"]
            again.now = 50.0
            assert await again.do(SweepExpired(b"other", 100)) == (4,)
            assert await again.keys() == [b"a", b"never"]

    async def test_a_sweep_goes_by_the_last_expiry_of_an_entry(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for key in (b"earlier", b"later", b"never", b"gone", b"back"):
                await store.put(key, expires_at=500.0)
            await store.put(b"earlier", expires_at=100.0)
            await store.put(b"later", expires_at=900.0)
            await store.put(b"never")
            await store.do(Delete(b"n", b"gone"), Delete(b"n", b"back"))
            await store.put(b"back")
            store.now = 499.0
            assert await store.do(SweepExpired(b"n", 10)) == (1,)
            store.now = 899.0
            assert await store.do(SweepExpired(b"n", 10)) == (0,)
            store.now = 900.0
            assert await store.do(SweepExpired(b"n", 10)) == (1,)
            assert await store.keys() == [b"back", b"never"]

    async def test_a_sweep_sees_the_batches_before_it_in_its_group(self, tmp_path: Path) -> None:
        sweep = make_batch(SweepExpired(b"n", 3))
        async with self.opened(tmp_path) as store:
            for number in range(8):
                await store.put(b"%d" % number, expires_at=500.0 + number)
            outcomes = await store.commit(
                make_batch(Put(b"n", b"0", b"anew")),
                make_batch(Delete(b"n", b"1")),
                make_batch(Put(b"n", b"2", b"", 2_000.0), Put(b"n", b"new", b"", 503.5)),
                sweep,
                make_batch(Put(b"n", b"3", b"", 600.0)),
                sweep,
                sweep,
            )
            assert list(outcomes) == [(9,), (False,), (10, 11), (3,), (12,), (3,), (1,)]
            assert await store.value(b"0") == b"anew"
            assert await store.keys() == [b"0", b"2"]

    async def test_a_refused_batch_sweeps_nothing(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.put(b"key", expires_at=1.0)
            outcome = await store.do(
                SweepExpired(b"n", 1), Put(b"n", b"other", b"", expected_version=7)
            )
            assert isinstance(outcome, VersionConflictError)
            assert await store.keys() == [b"key"]

    async def test_many_are_swept_in_steps(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(*(Put(b"n", b"%03d" % n, b"", float(n)) for n in range(300)))
            results = [await store.do(SweepExpired(b"n", 64)) for _ in range(6)]
            assert results == [(64,), (64,), (64,), (64,), (44,), (0,)]
            assert await store.keys() == []

    # --- entries ---

    async def test_any_bytes_are_a_key_and_a_value(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            for key in NASTY_KEYS:
                await store.put(key, key + b"\x00value")
        async with self.opened(tmp_path, store.backend) as again:
            for key in NASTY_KEYS:
                assert await again.value(key) == key + b"\x00value"

    async def test_empty_values_and_records_are_kept(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"key", b""), Append(b"log", (b"", b"x", b"")))
            assert await store.value(b"key") == b""
            assert await store.records() == [(0, b""), (1, b"x"), (2, b"")]

    async def test_a_value_of_the_largest_size_comes_back_whole(self, tmp_path: Path) -> None:
        value = bytes(range(256)) * (self.value_bytes_max // 256)
        async with self.opened(tmp_path) as store:
            await store.do(Put(b"n", b"key", value), Append(b"log", (value,)))
        async with self.opened(tmp_path, store.backend) as again:
            # Not asserted in one: a difference would be shown in full.
            same = await again.value(b"key") == value
            assert same
            same = await again.records() == [(0, value)]
            assert same

    async def test_a_value_of_any_size_takes_the_place_of_one_of_any_other(
        self, tmp_path: Path
    ) -> None:
        sizes = (0, 900, 901, 4_096, 100_000, 131_071, 131_072, 200_000)
        async with self.opened(tmp_path) as store:
            for shift in range(len(sizes)):
                turned = [*sizes[shift:], *sizes[:shift]]
                values = {b"%d" % n: bytes([shift]) * size for n, size in enumerate(turned)}
                await store.do(*(Put(b"n", key, value) for key, value in values.items()))
                for key, value in values.items():
                    same = await store.value(key) == value
                    assert same
            await store.do(*(Delete(b"n", key) for key in values))
            assert await store.keys() == []

    async def test_entries_with_and_without_expiry_change_places_in_one_batch(
        self, tmp_path: Path
    ) -> None:
        values = [bytes([size % 251]) * size for size in (0, 1, 100, 4_095, 4_096, 4_097, 20_000)]
        async with self.opened(tmp_path) as store:
            for turn in (0, 1):
                puts = [
                    Put(b"n", b"%d" % number, value, 5_000.5 if number % 2 == turn else None)
                    for number, value in enumerate(values)
                ]
                await store.do(*puts, Append(b"log", values))
            for number, value in enumerate(values):
                expires_at = 5_000.5 if number % 2 else None
                version = len(values) + number + 1
                found = StoredEntry(b"%d" % number, version, expires_at, value)
                assert await store.get(b"%d" % number) == found
            assert await store.records() == list(enumerate(values * 2))
            store.now = 6_000.0
            assert await store.do(SweepExpired(b"n", 10)) == (3,)

    async def test_namespaces_and_logs_do_not_meet(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            names = (b"n", b"N", b"n\x00", b"\xff", "é".encode())
            for name in names:
                await store.do(Put(name, b"key", name), Append(name, (name,)))
            for name in names:
                assert await store.value(b"key", name) == name
                assert await store.keys(namespace=name) == [b"key"]
                assert await store.records(log=name) == [(0, name)]

    async def test_the_last_write_of_a_group_stays(self, tmp_path: Path) -> None:
        async with self.opened(tmp_path) as store:
            await store.commit(
                make_batch(Put(b"n", b"key", b"1"), Put(b"n", b"key", b"2")),
                make_batch(Delete(b"n", b"gone"), Put(b"n", b"gone", b"")),
                make_batch(Put(b"n", b"key", b"3"), Delete(b"n", b"gone")),
            )
            assert await store.value(b"key") == b"3"
            assert await store.keys() == [b"key"]

    # --- scans ---

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

    # --- logs ---

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

    # --- readers ---

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

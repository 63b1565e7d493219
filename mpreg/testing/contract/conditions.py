"""Commit sequences, versions, and conditions that batches are refused by."""

from __future__ import annotations

from pathlib import Path

from mpreg.errors import VersionConflictError
from mpreg.persistence.backend import StoredEntry
from mpreg.persistence.batch import Durability
from mpreg.persistence.operations import Append, Delete, Put
from mpreg.testing.contract.base import BackendContract, make_batch

__all__ = ["ConditionsContract"]


class ConditionsContract(BackendContract):
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

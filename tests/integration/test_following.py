"""Who watches keys, follows a log, or observes commits is told what was committed, in its order."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest
from attrs import define, field

from mpreg.errors import (
    OffsetOutOfRangeError,
    VersionConflictError,
    WatchLaggedError,
    WriterStoppedError,
)
from mpreg.persistence import (
    CommitObserved,
    Durability,
    KeyChange,
    PersistenceConfig,
    PersistenceRegistry,
)
from mpreg.persistence.batch import OPERATION_OVERHEAD_BYTES

pytestmark = pytest.mark.anyio

#: Only turns a hang into a failure.
GUARD_SECONDS = 60.0


def _registry(tmp_path: Path) -> PersistenceRegistry:
    return PersistenceRegistry(PersistenceConfig(data_dir=tmp_path, upkeep_interval_seconds=None))


async def test_changes_of_keys_come_in_the_order_of_their_commits(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        store, other = registry.key_value_store("n"), registry.key_value_store("other")
        await store.put("a", b"before")
        async with store.watch() as changes, store.watch("b") as of_b:
            await other.put("a", b"elsewhere")
            first = await store.put("a", b"1")
            assert await store.delete("a")
            assert not await store.delete("a")
            with pytest.raises(VersionConflictError):
                await store.put("b", b"no", expected_version=7)
            async with registry.transaction() as transaction:
                store.put_nowait("b", b"2", transaction=transaction)
                store.put_nowait("c", b"3", transaction=transaction)
            seen = [await anext(changes) for _ in range(4)]
            assert seen == [
                KeyChange("a", b"1", first),
                KeyChange("a", None, None),
                KeyChange("b", b"2", first + 1),
                KeyChange("c", b"3", first + 2),
            ]
            assert await anext(of_b) == KeyChange("b", b"2", first + 1)


async def test_who_does_not_take_changes_is_told_that_some_are_missing(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        store = registry.key_value_store("n")
        async with store.watch(changes_max=2) as changes:
            for number in range(4):
                await store.put(b"%d" % number, b"")
            assert [(await anext(changes)).key for _ in range(2)] == [b"0", b"1"]
            with pytest.raises(WatchLaggedError):
                await anext(changes)


async def test_who_does_not_take_large_values_has_few_of_them_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mpreg.persistence.kv_store.WATCHED_BYTES_MAX", 2)
    async with _registry(tmp_path) as registry:
        store = registry.key_value_store("n")
        async with store.watch() as changes:
            for value in (b"large", b"1", b"2"):
                await store.put("a", value)
                assert (await anext(changes)).value == value
            for value in (b"12", b"", b"3"):
                await store.put("a", value)
            assert [(await anext(changes)).value for _ in range(2)] == [b"12", b""]
            with pytest.raises(WatchLaggedError):
                await anext(changes)


async def test_watching_and_following_end_when_the_registry_closes(tmp_path: Path) -> None:
    ended: list[str] = []

    async def watch(registry: PersistenceRegistry) -> None:
        async with registry.key_value_store("n").watch() as changes:
            with pytest.raises(WriterStoppedError):
                await anext(changes)
        ended.append("watch")

    async def follow(registry: PersistenceRegistry) -> None:
        async with registry.log_store("log").follow(0) as records:
            follows.set()
            with pytest.raises(WriterStoppedError):
                await anext(records)
        ended.append("follow")

    with anyio.fail_after(GUARD_SECONDS):
        follows = anyio.Event()
        async with anyio.create_task_group() as task_group, _registry(tmp_path) as registry:
            task_group.start_soon(watch, registry)
            task_group.start_soon(follow, registry)
            await follows.wait()
            await anyio.wait_all_tasks_blocked()
    assert sorted(ended) == ["follow", "watch"]


async def test_a_log_is_followed_from_its_first_record_to_those_that_come(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        log = registry.log_store("log")
        await log.append_many([b"0", b"1", b"2"])
        seen: list[tuple[int, bytes]] = []

        async def follow() -> None:
            async with log.follow(1) as records:
                async for record in records:
                    seen.append((record.offset, record.data))
                    if record.data == b"last":
                        return

        with anyio.fail_after(GUARD_SECONDS):
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(follow)
                for number in range(3, 300):
                    await log.append(b"%d" % number)
                await log.append(b"last")
    assert seen == [*((number, b"%d" % number) for number in range(1, 300)), (300, b"last")]


async def test_a_log_that_was_truncated_or_deleted_is_followed_on(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        log = registry.log_store("log")
        await log.append_many([b"0", b"1", b"2"])
        async with log.follow() as new, log.follow(0) as records:
            await log.truncate_before(2)
            assert (await anext(records)).offset == 2
            await log.append(b"3")
            assert (await anext(records)).data == b"3"
            await log.delete()
            await log.append(b"anew")
            assert await anext(records) == await anext(new)


async def test_a_cancelled_wait_for_a_record_passes_over_nothing(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        log = registry.log_store("log")
        async with log.follow(0) as records:
            with anyio.move_on_after(0):
                await anext(records)
            await log.append(b"0")
            assert (await anext(records)).data == b"0"


@define
class _Observer:
    commits: list[CommitObserved] = field(factory=list)

    def committed(self, commit: CommitObserved) -> None:
        self.commits.append(commit)


async def test_an_observer_is_told_of_each_commit_and_what_it_took(tmp_path: Path) -> None:
    async with _registry(tmp_path) as registry:
        observer = _Observer()
        registry.observe(observer)
        store, log = registry.key_value_store("n"), registry.log_store("log")
        await store.put("a", b"12345")
        await store.put("b", b"", durability=Durability.RELAXED)
        with pytest.raises(VersionConflictError):
            await store.put("a", b"no", expected_version=9)
        async with anyio.create_task_group() as task_group:
            for _ in range(20):
                task_group.start_soon(log.append, b"record")
        stats = await registry.stats()
    assert sum(commit.batches for commit in observer.commits) == 22
    assert sum(commit.operations for commit in observer.commits) == 22
    durable, relaxed = observer.commits[:2]
    assert (durable.durability, relaxed.durability) == (Durability.DURABLE, Durability.RELAXED)
    assert observer.commits[-1].sequence == stats.commit_sequence
    for commit in observer.commits:
        assert 0 <= commit.commit_seconds <= commit.ack_seconds
        assert commit.size_bytes > 0


async def test_what_was_committed_is_counted_without_room_that_was_left(tmp_path: Path) -> None:
    sizes = []
    async with _registry(tmp_path) as registry:
        log, observer = registry.log_store("log"), _Observer()
        registry.observe(observer)
        for _ in range(2):
            growing = log.append_growing([b"0"], lambda _: None)
            assert growing is not None
            for _ in range(3):
                assert growing.add([b"12345"], 5)
            assert await growing.ack >= 0
            async with anyio.create_task_group() as task_group:
                for record in (b"0", *[b"12345"] * 3):
                    task_group.start_soon(log.append, record)
        sizes = [commit.size_bytes for commit in observer.commits]
    # Those that come by themselves are an operation each.
    grown, alone = sizes[::2], sizes[1::2]
    assert len(set(grown)) == len(set(alone)) == 1
    assert grown[0] == alone[0] - 3 * OPERATION_OVERHEAD_BYTES


async def test_a_log_is_not_followed_from_beyond_its_end(tmp_path: Path) -> None:
    """Whoever asks for that has seen what is not in this log: it would miss what comes until then,
    or be told again of what it knows."""
    async with _registry(tmp_path) as registry:
        log = registry.log_store("log")
        for length in range(3):
            async with log.follow(length):
                pass
            with pytest.raises(OffsetOutOfRangeError) as raised:
                async with log.follow(length + 1):
                    pass
            error = raised.value
            assert (error.log, error.offset, error.next_offset) == ("log", length + 1, length)
            await log.append(b"")
        await log.delete()
        with pytest.raises(OffsetOutOfRangeError):
            async with log.follow(1):
                pass
        await registry.key_value_store("n").put("a", b"")

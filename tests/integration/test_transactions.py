"""`registry.transaction()` on real SQLite files: one batch, or nothing."""

from __future__ import annotations

from pathlib import Path

import anyio
import pytest

from mpreg.persistence import (
    Durability,
    MpregError,
    OffsetOutOfRangeError,
    TransactionStateError,
    VersionConflictError,
)
from tests.integration.support import listed, registry

pytestmark = pytest.mark.anyio


async def test_operations_of_several_stores_are_one_commit(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        sessions, audit = opened.key_value_store("sessions"), opened.log_store("audit")
        await sessions.put("old", b"")
        before = await opened.stats()
        async with opened.transaction() as transaction:
            put = sessions.put_nowait("ann", b"4", transaction=transaction)
            deleted = sessions.delete_nowait("old", transaction=transaction)
            appended = audit.append_nowait(b"ann: 4", transaction=transaction)
            many = audit.append_many_nowait([b"1", b"2"], transaction=transaction)
        after = await opened.stats()
        assert [await deleted, await appended, await many] == [True, 0, 1]
        entry = await sessions.get("ann")
        assert entry is not None
        assert entry.version == await put
        assert await sessions.get("old") is None
        assert len(await listed(audit.read_range())) == 3
    assert (after.commits - before.commits, after.fsyncs - before.fsyncs) == (1, 1)
    assert after.operations - before.operations == 4


async def test_nothing_is_seen_of_a_transaction_before_its_block_has_ended(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        async with opened.transaction() as transaction:
            store.put_nowait("a", b"", transaction=transaction)
            await store.put("b", b"")
            assert [entry.key for entry in await listed(store.scan())] == ["b"]
        assert [entry.key for entry in await listed(store.scan())] == ["a", "b"]


async def test_an_exception_in_the_block_comes_out_and_nothing_was_sent(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        before = await opened.stats()
        with pytest.raises(ZeroDivisionError):  # noqa: PT012
            async with opened.transaction() as transaction:
                ack = store.put_nowait("a", b"", transaction=transaction)
                raise ZeroDivisionError
        assert await opened.stats() == before
        assert await store.get("a") is None
        with pytest.raises(TransactionStateError):
            await ack


async def test_a_cancelled_block_sends_nothing(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        with anyio.CancelScope() as scope:
            async with opened.transaction() as transaction:
                store.put_nowait("a", b"", transaction=transaction)
                scope.cancel()
                await anyio.lowlevel.checkpoint()
        assert scope.cancelled_caught
        assert await store.get("a") is None


async def test_an_ack_awaited_inside_its_block_is_an_error_and_not_a_standstill(
    data_dir: Path,
) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        with pytest.raises(TransactionStateError, match="await it after it"):
            async with opened.transaction() as transaction:
                await store.put_nowait("a", b"", transaction=transaction)
        assert await store.get("a") is None


async def test_a_conflict_is_raised_by_the_block_and_nothing_is_written(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        with pytest.raises(VersionConflictError) as caught:  # noqa: PT012
            async with opened.transaction() as transaction:
                first = store.put_nowait("a", b"", transaction=transaction)
                log.append_nowait(b"r", transaction=transaction)
                store.put_nowait("b", b"", expected_version=5, transaction=transaction)
        assert (caught.value.key, caught.value.expected_version) == ("b", 5)
        assert await store.get("a") is None
        assert await log.next_offset() == 0
        with pytest.raises(VersionConflictError):
            await first


async def test_an_offset_beyond_the_end_refuses_the_whole_transaction(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        with pytest.raises(OffsetOutOfRangeError):  # noqa: PT012
            async with opened.transaction() as transaction:
                store.put_nowait("a", b"", transaction=transaction)
                log.truncate_before_nowait(1, transaction=transaction)
        assert await store.get("a") is None


async def test_a_transaction_can_put_one_key_several_times(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        async with opened.transaction() as transaction:
            acks = [store.put_nowait("k", bytes([n]), transaction=transaction) for n in range(3)]
            deleted = store.delete_nowait("k", transaction=transaction)
            last = store.put_nowait("k", b"last", transaction=transaction)
        versions = [await ack for ack in [*acks, last]]
        assert versions == sorted(set(versions))
        assert await deleted
        entry = await store.get("k")
        assert entry is not None
        assert (entry.value, entry.version) == (b"last", versions[-1])


async def test_records_appended_and_truncated_in_one_transaction(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        log = opened.log_store("l")
        await log.append_many([b"0", b"1"])
        async with opened.transaction() as transaction:
            log.append_nowait(b"2", transaction=transaction)
            log.truncate_before_nowait(2, transaction=transaction)
            log.append_nowait(b"3", transaction=transaction)
        assert [record.data for record in await listed(log.read_range())] == [b"2", b"3"]
    async with registry(data_dir) as opened:
        log = opened.log_store("l")
        assert [await log.first_offset(), await log.next_offset()] == [2, 4]


async def test_a_transaction_is_of_no_use_before_and_after_its_block(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("l")
        transaction = opened.transaction()
        with pytest.raises(TransactionStateError, match="not entered"):
            store.put_nowait("a", b"", transaction=transaction)
        async with transaction:
            store.put_nowait("a", b"", transaction=transaction)
        for call in (
            lambda: store.put_nowait("b", b"", transaction=transaction),
            lambda: store.delete_nowait("b", transaction=transaction),
            lambda: store.sweep_expired_nowait(transaction=transaction),
            lambda: log.append_nowait(b"", transaction=transaction),
            lambda: log.append_many_nowait([b""], transaction=transaction),
            lambda: log.truncate_before_nowait(0, transaction=transaction),
            lambda: log.delete_nowait(transaction=transaction),
        ):
            with pytest.raises(TransactionStateError):
                call()
        with pytest.raises(TransactionStateError, match="used once"):
            async with transaction:
                pass


async def test_an_empty_transaction_commits_nothing(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        before = await opened.stats()
        async with opened.transaction():
            pass
        assert await opened.stats() == before


async def test_a_transaction_has_its_own_durability(data_dir: Path) -> None:
    async with registry(data_dir) as opened:
        store = opened.key_value_store("s")
        before = await opened.stats()
        async with opened.transaction(durability=Durability.RELAXED) as transaction:
            store.put_nowait("a", b"", transaction=transaction)
        after = await opened.stats()
    assert (after.commits - before.commits, after.fsyncs - before.fsyncs) == (1, 0)


async def test_counters_kept_by_many_tasks_with_conditions_lose_no_step(data_dir: Path) -> None:
    """Read, change, write with ``expected_version``, again where another was faster."""
    async with registry(data_dir) as opened:
        store, log = opened.key_value_store("s"), opened.log_store("steps")
        await store.put("counter", b"0")

        async def count() -> None:
            for _ in range(5):
                while True:
                    entry = await store.get("counter")
                    assert entry is not None
                    value = str(int(entry.value) + 1).encode()
                    try:
                        async with opened.transaction() as transaction:
                            store.put_nowait(
                                "counter",
                                value,
                                expected_version=entry.version,
                                transaction=transaction,
                            )
                            log.append_nowait(value, transaction=transaction)
                    except VersionConflictError:
                        continue
                    break

        async with anyio.create_task_group() as task_group:
            for _ in range(6):
                task_group.start_soon(count)
        entry = await store.get("counter")
        assert entry is not None
        assert entry.value == b"30"
        steps = [int(record.data) for record in await listed(log.read_range())]
    assert steps == list(range(1, 31))


def test_every_transaction_error_is_one_of_ours() -> None:
    assert issubclass(TransactionStateError, MpregError)


async def test_a_store_of_another_registry_is_refused_and_nothing_written_in_either(
    tmp_path: Path,
) -> None:
    async with registry(tmp_path / "one") as one, registry(tmp_path / "two") as two:
        store, log = one.key_value_store("s"), one.log_store("l")
        async with two.transaction() as transaction:
            for call in (
                lambda: store.put_nowait("k", b"", transaction=transaction),
                lambda: store.delete_nowait("k", transaction=transaction),
                lambda: store.sweep_expired_nowait(transaction=transaction),
                lambda: log.append_nowait(b"", transaction=transaction),
                lambda: log.truncate_before_nowait(0, transaction=transaction),
                lambda: log.delete_nowait(transaction=transaction),
            ):
                with pytest.raises(TransactionStateError, match="another registry"):
                    call()
        for opened in (one, two):
            assert await opened.key_value_store("s").get("k") is None
            assert await opened.log_store("l").next_offset() == 0
            assert (await opened.stats()).commits == 0

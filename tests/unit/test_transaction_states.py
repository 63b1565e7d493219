"""The states of a transaction, without a writer behind it."""

from __future__ import annotations

import anyio
import anyio.lowlevel
import pytest

from mpreg.clock import SystemClock
from mpreg.errors import TransactionStateError, ValueTooLargeError, WriterStoppedError
from mpreg.persistence import KeyValueStore, LogStore, PersistenceConfig, Transaction
from mpreg.persistence.batch import Durability, WriteBatch
from mpreg.persistence.gateway import StoreGateway

pytestmark = pytest.mark.anyio


@pytest.fixture
def gateway() -> StoreGateway:
    config = PersistenceConfig(
        backend="memory", mailbox_batches_max=1, value_bytes_max=1_000, batch_bytes_max=2_000
    )
    gateway = StoreGateway(config, SystemClock())
    gateway.new_mailboxes()
    return gateway


@pytest.fixture
def store(gateway: StoreGateway) -> KeyValueStore:
    return KeyValueStore(gateway, "store")


def begin(gateway: StoreGateway) -> Transaction:
    return Transaction(gateway, Durability.DURABLE)


async def answer_one(gateway: StoreGateway) -> None:
    batch = await gateway.writes.receive()
    assert isinstance(batch, WriteBatch)
    batch.succeed(tuple(range(1, len(batch.operations) + 1)))


async def test_what_is_added_before_the_block_is_refused(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    with pytest.raises(TransactionStateError, match="not entered"):
        store.put_nowait("a", b"1", transaction=begin(gateway))


async def test_a_block_sends_one_batch_in_the_order_of_its_calls(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    log = LogStore(gateway, "log")
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(answer_one, gateway)
        async with begin(gateway) as transaction:
            first = store.put_nowait("a", b"1", transaction=transaction)
            second = log.append_nowait(b"r", transaction=transaction)
            third = store.delete_nowait("b", transaction=transaction)
            assert gateway.writes.statistics().sent == 0
    assert gateway.writes.statistics().sent == 1
    assert [await first, await second, await third] == [1, 2, 3]


async def test_an_ack_awaited_inside_its_block_says_so(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    with pytest.raises(TransactionStateError, match="await it after it"):
        async with begin(gateway) as transaction:
            await store.put_nowait("a", b"1", transaction=transaction)
    assert gateway.writes.statistics().sent == 0


async def test_leaving_the_block_by_an_exception_sends_nothing(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    with pytest.raises(KeyError):  # noqa: PT012
        async with begin(gateway) as transaction:
            ack = store.put_nowait("a", b"1", transaction=transaction)
            raise KeyError("mine")
    assert gateway.writes.statistics().sent == 0
    with pytest.raises(TransactionStateError, match="nothing was written") as caught:
        await ack
    assert isinstance(caught.value.__cause__, KeyError)


async def test_a_transaction_that_ended_takes_nothing_more(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    async with begin(gateway) as transaction:
        pass
    with pytest.raises(TransactionStateError, match="ended without being sent"):
        store.put_nowait("a", b"1", transaction=transaction)
    with pytest.raises(TransactionStateError, match="used once"):
        async with transaction:
            pass


async def test_a_transaction_that_was_sent_takes_nothing_more(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(answer_one, gateway)
        async with begin(gateway) as transaction:
            store.put_nowait("a", b"1", transaction=transaction)
    with pytest.raises(TransactionStateError, match="is sent"):
        store.put_nowait("b", b"1", transaction=transaction)


async def test_a_transaction_is_entered_once(gateway: StoreGateway) -> None:
    async with begin(gateway) as transaction:
        with pytest.raises(TransactionStateError, match="used once"):
            await transaction.__aenter__()


async def test_an_empty_block_sends_nothing(gateway: StoreGateway) -> None:
    async with begin(gateway):
        pass
    assert gateway.writes.statistics().sent == 0


async def test_what_is_added_while_the_block_waits_for_room_is_refused(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    """The batch is closed by then: an ack given now would never be answered."""
    store.put_nowait("fills the mailbox", b"")

    async def leave_block() -> None:
        async with transaction:
            store.put_nowait("a", b"1", transaction=transaction)

    transaction = begin(gateway)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(leave_block)
        await anyio.wait_all_tasks_blocked()
        with pytest.raises(TransactionStateError):
            store.put_nowait("too late", b"1", transaction=transaction)
        await answer_one(gateway)
        await answer_one(gateway)


async def test_cancelled_while_it_waits_for_room_nothing_was_sent(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    store.put_nowait("fills the mailbox", b"")
    with anyio.move_on_after(0) as scope:
        async with begin(gateway) as transaction:
            ack = store.put_nowait("a", b"1", transaction=transaction)
    assert scope.cancelled_caught
    assert gateway.writes.statistics().sent == 1
    with pytest.raises(TransactionStateError, match="nothing was written"):
        await ack


async def test_cancelled_after_it_was_sent_its_acks_still_tell(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    with anyio.move_on_after(0) as scope:
        async with begin(gateway) as transaction:
            ack = store.put_nowait("a", b"1", transaction=transaction)
    assert scope.cancelled_caught
    await answer_one(gateway)
    assert await ack == 1


async def test_a_batch_over_its_bound_is_refused_as_a_whole(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    with pytest.raises(ValueTooLargeError, match="batch_bytes_max"):
        async with begin(gateway) as transaction:
            acks = [store.put_nowait(str(n), b"v" * 1_000, transaction=transaction) for n in (1, 2)]
    assert gateway.writes.statistics().sent == 0
    for ack in acks:
        with pytest.raises(TransactionStateError) as caught:
            await ack
        assert isinstance(caught.value.__cause__, ValueTooLargeError)


async def test_a_writer_that_is_gone_is_told_by_the_block(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    gateway.writes.close(lambda: WriterStoppedError("gone; not written"))
    with pytest.raises(WriterStoppedError):
        async with begin(gateway) as transaction:
            ack = store.put_nowait("a", b"1", transaction=transaction)
    with pytest.raises(TransactionStateError) as caught:
        await ack
    assert isinstance(caught.value.__cause__, WriterStoppedError)


# --- conditions ---


async def test_where_a_condition_does_not_hold_nothing_is_sent(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    told: list[bool] = []

    def refuse() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with begin(gateway) as transaction:
            transaction.on_settled(told.append)
            transaction.require(refuse)
            ack = store.put_nowait("a", b"1", transaction=transaction)
            assert told == []
    assert gateway.writes.statistics().sent == 0
    assert told == [False]
    with pytest.raises(TransactionStateError, match="nothing was written") as caught:
        await ack
    assert isinstance(caught.value.__cause__, KeyError)
    with pytest.raises(TransactionStateError, match="ended without being sent"):
        store.put_nowait("b", b"1", transaction=transaction)


async def test_conditions_are_looked_at_in_their_order_and_right_before_the_batch_is_sent(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    seen: list[tuple[str, bool, int]] = []

    def condition(name: str) -> None:
        seen.append((name, transaction.is_open, gateway.writes.statistics().sent))

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(answer_one, gateway)
        async with begin(gateway) as transaction:
            transaction.require(lambda: condition("first"))
            store.put_nowait("a", b"1", transaction=transaction)
            transaction.require(lambda: condition("second"))
            await anyio.lowlevel.checkpoint()
            assert seen == []
    assert seen == [("first", True, 0), ("second", True, 0)]
    assert gateway.writes.statistics().sent == 1


async def test_the_first_condition_that_does_not_hold_is_the_last_one_looked_at(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    seen: list[int] = []

    def refuse(number: int) -> None:
        seen.append(number)
        raise KeyError(number)

    with pytest.raises(KeyError, match="1"):  # noqa: PT012
        async with begin(gateway) as transaction:
            store.put_nowait("a", b"1", transaction=transaction)
            transaction.require(lambda: seen.append(0))
            transaction.require(lambda: refuse(1))
            transaction.require(lambda: refuse(2))
    assert seen == [0, 1]


async def test_between_a_condition_and_the_sending_no_other_task_runs(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    """Else what it has found out may be wrong by then."""
    events: list[str] = []

    async def others() -> None:
        while gateway.writes.statistics().sent == 0:
            events.append("another task")
            await anyio.lowlevel.checkpoint()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(others)
        task_group.start_soon(answer_one, gateway)
        async with begin(gateway) as transaction:
            store.put_nowait("a", b"1", transaction=transaction)
            while not events:
                await anyio.lowlevel.checkpoint()
            transaction.require(lambda: events.append("condition"))
    assert "another task" in events
    assert events[-1] == "condition"


async def test_a_condition_holds_for_a_block_with_nothing_to_be_sent_too(
    gateway: StoreGateway,
) -> None:
    told: list[bool] = []

    def refuse() -> None:
        raise KeyError("mine")

    with pytest.raises(KeyError, match="mine"):  # noqa: PT012
        async with begin(gateway) as transaction:
            transaction.on_settled(told.append)
            transaction.require(refuse)
    async with begin(gateway) as transaction:
        transaction.on_settled(told.append)
        transaction.require(lambda: None)
    assert told == [False, True]
    assert gateway.writes.statistics().sent == 0


async def test_a_condition_for_a_block_that_is_left_by_an_error_is_not_looked_at(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    def refuse() -> None:
        raise AssertionError("looked at")

    with pytest.raises(KeyError):  # noqa: PT012
        async with begin(gateway) as transaction:
            store.put_nowait("a", b"1", transaction=transaction)
            transaction.require(refuse)
            raise KeyError
    assert gateway.writes.statistics().sent == 0


async def test_a_condition_outside_the_block_is_refused(
    gateway: StoreGateway, store: KeyValueStore
) -> None:
    def refuse() -> None:
        raise AssertionError("looked at")

    new = begin(gateway)
    with pytest.raises(TransactionStateError, match="not entered"):
        new.require(refuse)
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(answer_one, gateway)
        async with new as transaction:
            store.put_nowait("a", b"1", transaction=transaction)
    with pytest.raises(TransactionStateError, match="is sent"):
        transaction.require(refuse)

"""Settings of queues, and queues made, found and deleted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import anyio
import msgspec
import pytest

from mpreg.persistence import (
    ConfigurationError,
    CorruptDataError,
    InvalidArgumentError,
    Transaction,
    ValueTooLargeError,
    VersionConflictError,
)
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.queues import (
    DeliveryGuarantee,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueDeletedError,
    QueueFullError,
    QueueNotFoundError,
    QueueType,
)
from mpreg.queues.configuration import StoredQueue
from mpreg.queues.core import SNAPSHOT_AFTER_CHANGES
from tests.integration.queues.support import (
    GatedBackend,
    copied_while_open,
    count_rows,
    finished,
    open_queue,
    open_queues,
    take,
    tamper,
    until,
)
from tests.integration.support import OpenBackend

pytestmark = pytest.mark.anyio

#: Every setting other than its default.
OTHER = QueueConfiguration(
    queue_type=QueueType.PRIORITY,
    delivery_guarantee=DeliveryGuarantee.QUORUM,
    required_acknowledgments=2,
    max_deliveries=7,
    lease_seconds=1.5,
    retry_delay_seconds=0.25,
    retry_delay_factor=1.5,
    retry_delay_seconds_max=9.0,
    max_size=10,
    max_bytes=100_000,
    message_ttl_seconds=1_000.5,
    deduplication_window_seconds=60.0,
    dead_letters_max=11,
    dead_letter_ttl_seconds=12.0,
)


# --- settings ---


async def test_the_configuration_is_kept_with_the_queue(data_dir: Path) -> None:
    async with open_queue(data_dir, OTHER):
        pass
    async with open_queues(data_dir) as (_, queues):
        assert (await queues.get_queue("jobs")).configuration == OTHER
        assert (await queues.create_queue("jobs")).configuration == OTHER
        assert (await queues.create_queue("plain")).configuration == QueueConfiguration()


def test_a_configuration_becomes_plain_values_and_back() -> None:
    assert QueueConfiguration.from_mapping(OTHER.encode()) == OTHER
    settings = {"queue_type": "priority", "delivery_guarantee": "broadcast", "max_size": 3}
    made = QueueConfiguration.from_mapping(settings)
    assert made.queue_type is QueueType.PRIORITY
    assert made.delivery_guarantee is DeliveryGuarantee.BROADCAST


async def test_a_changed_configuration_is_applied_and_kept(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        await jobs.send(0)
        async with anyio.create_task_group() as task_group:
            # It waits for room, and the change gives some.
            task_group.start_soon(lambda: jobs.send(1, wait_seconds=None))
            await anyio.wait_all_tasks_blocked()
            changed = QueueConfiguration(max_size=2, lease_seconds=0.05, max_deliveries=2)
            assert await queues.create_queue("jobs", changed) is jobs
        assert jobs.configuration == changed
        # Which one comes first when a lease has ended is up to the machine.
        assert sorted([(await take(jobs)).attempt for _ in range(4)]) == [1, 1, 2, 2]
        await until(lambda: jobs.statistics().dead == 2)
    async with open_queue(data_dir) as jobs:
        assert jobs.configuration == changed


async def test_a_smaller_bound_leaves_what_is_there(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs")
        await jobs.send_many([0, 1, 2])
        await queues.create_queue("jobs", QueueConfiguration(max_size=1, max_bytes=1_000))
        with pytest.raises(QueueFullError):
            await jobs.send(3)
        assert await finished(jobs, 3) == [0, 1, 2]
        await jobs.send(4)


async def test_the_same_configuration_again_writes_nothing(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        jobs = await queues.create_queue("jobs", OTHER)
        before = (await registry.stats()).commits
        assert await queues.create_queue("jobs", OTHER) is jobs
        assert await queues.create_queue("jobs") is jobs
        assert await queues.get_queue("jobs") is jobs
        assert (await registry.stats()).commits == before


@pytest.mark.parametrize("reopened", [False, True])
async def test_what_a_queue_cannot_become_is_refused_and_nothing_changed(
    data_dir: Path, reopened: bool
) -> None:
    impossible = [
        QueueConfiguration(queue_type=QueueType.PRIORITY, max_size=1),
        QueueConfiguration(delivery_guarantee=DeliveryGuarantee.BROADCAST),
        QueueConfiguration(delivery_guarantee=DeliveryGuarantee.FIRE_AND_FORGET),
    ]
    async with open_queue(data_dir) as jobs:
        await jobs.send("x")
        if not reopened:
            await assert_refused(jobs._core.registry, impossible)
    async with open_queues(data_dir) as (registry, queues):
        if reopened:
            await assert_refused(registry, impossible)
        jobs = await queues.get_queue("jobs")
        assert jobs.configuration == QueueConfiguration()
        assert await finished(jobs, 1) == ["x"]


async def assert_refused(registry: Any, impossible: list[QueueConfiguration]) -> None:
    queues = MessageQueueManager(registry)
    for configuration in impossible:
        with pytest.raises(ConfigurationError, match="cannot become"):
            await queues.create_queue("jobs", configuration)
    jobs = await queues.get_queue("jobs")
    assert jobs.configuration == QueueConfiguration()
    await jobs.send_many(["y", "z"])
    await jobs.purge()
    await jobs.send("x")


WRONG: list[tuple[str, Any]] = [
    ("queue_type", "lifo"),
    ("queue_type", None),
    ("delivery_guarantee", "exactly_once"),
    ("required_acknowledgments", 0),
    ("required_acknowledgments", 1_001),
    ("required_acknowledgments", 2),
    ("max_deliveries", 0),
    ("max_deliveries", 1.0),
    ("max_deliveries", True),
    ("lease_seconds", 0),
    ("lease_seconds", -1),
    ("lease_seconds", float("inf")),
    ("lease_seconds", float("nan")),
    ("lease_seconds", "30"),
    ("lease_seconds", None),
    ("retry_delay_seconds", -0.1),
    ("retry_delay_factor", 0.5),
    ("retry_delay_seconds_max", float("inf")),
    ("max_size", 0),
    ("max_size", 1.5),
    ("max_size", "10"),
    ("max_bytes", 0),
    ("max_bytes", False),
    ("message_ttl_seconds", 0),
    ("deduplication_window_seconds", 0),
    ("deduplication_window_seconds", None),
    ("dead_letters_max", 0),
    ("dead_letters_max", None),
    ("dead_letter_ttl_seconds", 0),
]


@pytest.mark.parametrize(("name", "value"), WRONG)
def test_a_wrong_setting_is_told_by_its_name(name: str, value: object) -> None:
    with pytest.raises(ConfigurationError, match=name):
        QueueConfiguration(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(ConfigurationError, match=name):
        QueueConfiguration.from_mapping({name: value})


def test_a_misspelt_setting_is_told_with_the_nearest_there_is() -> None:
    with pytest.raises(ConfigurationError, match="did you mean 'lease_seconds'"):
        QueueConfiguration.from_mapping({"lease_second": 1.0})
    with pytest.raises(ConfigurationError, match="known are"):
        QueueConfiguration.from_mapping({"qqq": 1.0})


async def test_what_is_no_configuration_is_refused(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        wrong: list[Any] = [{"max_size": 1}, "fifo", 1]
        for configuration in wrong:
            with pytest.raises(InvalidArgumentError, match="QueueConfiguration"):
                await queues.create_queue("jobs", configuration)
        assert await queues.queue_names() == []


# --- names ---


async def test_queues_have_any_names_and_do_not_meet(data_dir: Path) -> None:
    names = [
        "plain",
        "\x00",
        "a\x00b",
        "\ud800",
        "😀",
        "'\"`;--",
        "100%_[]*?",
        "a/0",
        " ",
        "x" * 900,
    ]
    async with open_queues(data_dir) as (registry, queues):
        for name in names:
            await (await queues.create_queue(name)).send(name.encode("utf-8", "surrogatepass"))
        # What users name so is something else.
        await registry.log_store("1-0/0").append(b"mine")
        await registry.key_value_store("configurations").put("plain", b"mine")
    async with open_queues(data_dir) as (_, queues):
        assert await queues.queue_names() == sorted(names)
        for name in names:
            queue = await queues.get_queue(name)
            assert queue.name == name
            assert await finished(queue, 1) == [name.encode("utf-8", "surrogatepass")]
            await queue.send("gone with it")
            await queues.delete_queue(name)
        assert await queues.queue_names() == []
    async with open_queues(data_dir) as (_, queues):
        await queues.create_queue("another")
        assert await queues.queue_names() == ["another"]


async def test_what_is_no_name_is_refused(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        wrong: list[Any] = ["", 1, None, b"jobs"]
        for name in wrong:
            for call in (queues.create_queue, queues.get_queue, queues.delete_queue):
                with pytest.raises(InvalidArgumentError):
                    await call(name)
        with pytest.raises(ValueTooLargeError, match="901"):
            await queues.create_queue("x" * 901)


async def test_a_queue_that_is_not_there_is_told_by_name(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        with pytest.raises(QueueNotFoundError, match="'jobs'"):
            await queues.get_queue("jobs")
        with pytest.raises(QueueNotFoundError, match="'jobs'"):
            await queues.delete_queue("jobs")


async def test_all_managers_of_a_registry_have_the_same_queues(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        others = MessageQueueManager(registry)
        jobs = await queues.create_queue("jobs")
        assert await others.get_queue("jobs") is jobs
        assert await others.create_queue("jobs") is jobs
        made: list[MessageQueue] = []

        async def make(manager: MessageQueueManager) -> None:
            made.append(await manager.create_queue("new"))

        async with anyio.create_task_group() as task_group:
            for manager in (queues, others) * 3:
                task_group.start_soon(make, manager)
        assert len(set(map(id, made))) == 1
        await others.delete_queue("jobs")
        with pytest.raises(QueueNotFoundError):
            await queues.get_queue("jobs")


async def test_a_damaged_configuration_is_told_and_other_queues_can_be_used(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (_, queues):
        for name in ("bad", "good"):
            await (await queues.create_queue(name)).send("x")
    tamper(data_dir, "UPDATE entries SET value = x'00' WHERE key = ?", (b"\x01bad",))
    async with open_queues(data_dir) as (_, queues):
        for call in (queues.get_queue, queues.create_queue):
            with pytest.raises(CorruptDataError, match="bad"):
                await call("bad")
        assert await finished(await queues.get_queue("good"), 1) == ["x"]


# --- deletion ---


class CopyingBackend(OpenBackend):
    """The real one, with a copy of the directory as it is after each commit."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._data_dir = data_dir
        self.copying = False
        self.copies: list[Path] = []

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        outcomes = await super().commit(group)
        if self.copying:
            copy = copied_while_open(self._data_dir)
            self.copies.append(copy.rename(f"{copy} {len(self.copies)}"))
        return outcomes


def stored(data_dir: Path) -> dict[str, int]:
    return {table: count_rows(data_dir, table) for table in ("records", "logs", "entries")}


async def fill(queues: MessageQueueManager, name: str, count: int = 20) -> MessageQueue:
    """A queue with something of everything."""
    settings = QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=1)
    queue = await queues.create_queue(name, settings)
    await queue.subscription("audit")
    for priority in (0, 3):
        await queue.send_many(range(count), priority=priority)
    await queue.send("x", deduplication_id="x")
    await (await take(queue)).nack()
    # And with its state saved.
    queue._core.changes = SNAPSHOT_AFTER_CHANGES
    queue._core.ask_for_upkeep()
    await until(lambda: queue._core.changes < SNAPSHOT_AFTER_CHANGES)
    return queue


async def test_a_deleted_queue_stays_deleted_and_nothing_is_left_of_it(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        await registry.log_store("mine").append(b"0")
        kept = await fill(queues, "kept")
        before = stored(data_dir)
        await fill(queues, "gone")
        assert stored(data_dir)["records"] > before["records"] + 40
        await queues.delete_queue("gone")
        assert stored(data_dir) == before
        with pytest.raises(QueueNotFoundError):
            await queues.get_queue("gone")
        assert await queues.queue_names() == ["kept"]
        assert kept.statistics().dead == 1
    async with open_queues(data_dir) as (_, queues):
        with pytest.raises(QueueNotFoundError):
            await queues.get_queue("gone")
        kept = await queues.get_queue("kept")
        assert kept.statistics().size == 41


async def test_every_method_of_a_deleted_queue_says_so(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await fill(queues, "jobs")
        audit = await jobs.subscription("audit")
        message, loop = await take(jobs), jobs.consume()
        await queues.delete_queue("jobs")
        for call in (
            lambda: jobs.send("x"),
            lambda: jobs.send("x", deduplication_id="x"),
            lambda: jobs.send_many(["x"]),
            lambda: jobs.send_many([]),
            lambda: jobs.receive(),
            lambda: jobs.receive_many(2, 0),
            lambda: audit.receive(),
            lambda: loop.__anext__(),
            lambda: message.ack(),
            lambda: message.nack(),
            lambda: message.extend(),
            lambda: jobs.subscription("audit"),
            lambda: jobs.subscription("new"),
            lambda: jobs.delete_subscription("audit"),
            lambda: jobs.dead_letters(),
            lambda: jobs.redrive(),
            lambda: jobs.purge(),
            lambda: jobs.purge_dead_letters(),
        ):
            with anyio.fail_after(60), pytest.raises(QueueDeletedError, match="'jobs'"):
                await call()


async def test_whoever_waits_at_a_queue_that_is_deleted_is_told(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        jobs = await queues.create_queue("jobs", QueueConfiguration(max_size=1))
        audit = await jobs.subscription("audit")
        full = await queues.create_queue("full", QueueConfiguration(max_size=1))
        await full.send("x")
        errors: list[QueueDeletedError] = []

        async def wait(call: Any) -> None:
            with pytest.raises(QueueDeletedError) as caught:
                await call()
            errors.append(caught.value)

        async with anyio.create_task_group() as task_group:
            for call in (
                jobs.receive,
                jobs.receive,
                audit.receive,
                jobs.consume(prefetch=3).__anext__,
                lambda: full.send("y", wait_seconds=None),
                lambda: full.send("z", wait_seconds=1_000.0),
            ):
                task_group.start_soon(wait, call)
            await anyio.wait_all_tasks_blocked()
            with anyio.fail_after(60):
                await queues.delete_queue("jobs")
                await queues.delete_queue("full")
        assert len(set(map(id, errors))) == 6, "tasks do not share an exception's traceback"


async def test_a_queue_made_again_is_empty_and_another(data_dir: Path) -> None:
    async with open_queues(data_dir) as (_, queues):
        before = await fill(queues, "jobs")
        message = await take(before)
        await queues.delete_queue("jobs")
        jobs = await queues.create_queue("jobs")
        assert jobs is not before
        assert jobs.configuration == QueueConfiguration()
        statistics = jobs.statistics()
        assert (statistics.size, statistics.sent, statistics.dead) == (0, 0, 0)
        assert set(statistics.subscriptions) == {"default"}
        with pytest.raises(QueueDeletedError):
            await message.ack()
        with pytest.raises(QueueDeletedError):
            await before.send("late")
        assert await jobs.receive(wait_seconds=0) is None
        await jobs.send("y", deduplication_id="x")
    async with open_queue(data_dir) as jobs:
        assert await finished(jobs, 1) == ["y"]
        assert jobs.statistics().sent == 1


@pytest.mark.parametrize("steps", [1, 2, 4, 8, 16, 40])
async def test_a_deletion_that_is_cancelled_happened_or_not_and_is_completed(
    data_dir: Path, steps: int
) -> None:
    async with open_queues(data_dir) as (_, queues):
        await queues.create_queue("other")
        empty = stored(data_dir)
        jobs = await fill(queues, "jobs")
        with anyio.CancelScope() as scope:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(queues.delete_queue, "jobs")
                for _ in range(steps):
                    # Commits and reads take a while: cancelled at once, and later and later.
                    await anyio.sleep(0.0005)
                scope.cancel()
        # What is under way is over when this is.
        await (await queues.get_queue("other")).subscription("another")
        assert await queues.queue_names() in (["jobs", "other"], ["other"])
        if await queues.queue_names() == ["other"]:
            with pytest.raises(QueueDeletedError):
                await jobs.send("x")
            with pytest.raises(QueueNotFoundError):
                await queues.get_queue("jobs")
            deleted = True
        else:
            assert await queues.get_queue("jobs") is jobs
            await jobs.send("still there")
            deleted = False
        # The next queue that is opened has the rest removed.
        await queues.create_queue("next")
        await queues.delete_queue("next")
        if deleted:
            assert stored(data_dir) == empty | {"records": 1, "logs": 1}
    async with open_queues(data_dir) as (_, queues):
        assert await queues.queue_names() == (["other"] if deleted else ["jobs", "other"])
        if not deleted:
            assert (await queues.get_queue("jobs")).statistics().size == 42


async def test_a_deletion_cancelled_while_it_is_written_is_one_and_is_completed(
    data_dir: Path,
) -> None:
    backend = GatedBackend(data_dir)
    async with open_queues(data_dir, backend=backend) as (_, queues):
        await queues.create_queue("other")
        empty = stored(data_dir)
        jobs = await fill(queues, "jobs")
        backend.close_gate()
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(queues.delete_queue, "jobs")
            await backend.reached()
            task_group.cancel_scope.cancel()
        backend.open_gate()
        with anyio.fail_after(60), pytest.raises(QueueDeletedError):  # noqa: PT012
            while True:
                await jobs.receive_many(1_000)
        await until(lambda: stored(data_dir) == empty)


async def test_a_deletion_interrupted_by_a_crash_is_completed_by_the_next_process(
    data_dir: Path,
) -> None:
    backend = CopyingBackend(data_dir)
    async with open_queues(data_dir, backend=backend) as (_, queues):
        await queues.create_queue("other")
        empty = stored(data_dir)
        await fill(queues, "jobs")
        backend.copying = True
        await queues.delete_queue("jobs")
        backend.copying = False
    # One for each commit that a deletion takes: all are after the one that decides it.
    assert len(backend.copies) > 5
    left = {stored(copy)["records"] for copy in backend.copies}
    assert len(left) > 2
    for copy in backend.copies:
        async with open_queues(copy) as (_, queues):
            assert await queues.queue_names() == ["other"]
            with pytest.raises(QueueNotFoundError):
                await queues.get_queue("jobs")
            await queues.get_queue("other")
            await until(lambda copy=copy: stored(copy) == empty)  # type: ignore[misc]
            jobs = await queues.create_queue("jobs")
            assert await jobs.receive(wait_seconds=0) is None


async def test_a_transaction_that_sends_to_a_queue_deleted_meanwhile_is_refused(
    data_dir: Path,
) -> None:
    async with open_queues(data_dir) as (registry, queues):
        empty = stored(data_dir)
        old = await queues.create_queue("jobs")
        await old.send("x")
        message = await old.receive()
        assert message is not None
        keys = registry.key_value_store("keys")
        with pytest.raises(QueueDeletedError):  # noqa: PT012
            async with registry.transaction() as transaction:
                await old.send("late", transaction=transaction)
                await message.ack(transaction=transaction)
                keys.put_nowait("k", b"", transaction=transaction)
                await queues.delete_queue("jobs")
                jobs = await queues.create_queue("jobs")
                await jobs.send("new")
        assert await keys.get("k") is None
        message = await jobs.receive(wait_seconds=0)
        assert message is not None
        assert message.payload == "new"
        await message.ack()
        assert await jobs.receive(wait_seconds=0) is None
        await queues.delete_queue("jobs")
        assert stored(data_dir) == empty
    async with open_queue(data_dir) as jobs:
        assert await jobs.receive(wait_seconds=0) is None


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_thousands_of_queues_in_one_directory_are_opened_and_used(data_dir: Path) -> None:
    count = 2_000
    async with open_queues(data_dir) as (registry, queues):
        for number in range(2):
            await (await queues.create_queue(f"{number}")).send(number)
        # As if they had been made one after the other, which takes as long as its commits.
        shared = queues._queues.stores
        settings = QueueConfiguration(lease_seconds=10_000.0).encode()
        async with registry.transaction() as transaction:
            for number in range(2, count):
                stored_queue = StoredQueue(f"made-{number}", settings)
                shared.configurations.put_nowait(
                    f"{number}", msgspec.json.encode(stored_queue), transaction=transaction
                )
    async with open_queues(data_dir) as (registry, queues):
        assert len(await queues.queue_names()) == count
        opened = [await queues.get_queue(f"{number}") for number in range(count)]
        before = (await registry.stats()).commits
        async with anyio.create_task_group() as task_group:
            for number, queue in enumerate(opened):
                if number > 1:
                    task_group.start_soon(queue.send, number)
        got: list[Any] = []

        async def work(queue: MessageQueue) -> None:
            got.extend(await finished(queue, 1))

        async with anyio.create_task_group() as task_group:
            for queue in opened:
                task_group.start_soon(work, queue)
        assert sorted(got) == list(range(count))
        # All of them shared their commits.
        assert (await registry.stats()).commits - before < count


async def test_a_queue_is_not_made_where_what_is_written_with_it_is_refused(data_dir: Path) -> None:
    async with open_queues(data_dir) as (registry, queues):
        store = registry.key_value_store("store")
        version = await store.put("key", b"1")
        expected = 0

        def written(transaction: Transaction) -> None:
            store.put_nowait("key", b"2", expected_version=expected, transaction=transaction)

        with anyio.fail_after(60), pytest.raises(VersionConflictError, match="'key'"):
            await queues.create_queue("jobs", written=written)
        assert await queues.queue_names() == []
        expected = version
        jobs = await queues.create_queue("jobs", written=written)
        with pytest.raises(VersionConflictError):
            await queues.create_queue("jobs", QueueConfiguration(max_size=1), written=written)
        assert jobs.configuration.max_size is None

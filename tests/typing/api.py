"""The public names as a program uses them. Checked by mypy, never run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any, assert_type

import anyio

from mpreg.cache import (
    CacheChange,
    CacheConfiguration,
    CachedFunction,
    CacheLevel,
    CacheStatistics,
    ChangeKind,
    EvictionCause,
    EvictionPolicyName,
    Found,
    GlobalCacheKey,
    GlobalCacheManager,
    HeldEntry,
    KeyPart,
    MemoryCache,
    NamespaceStatistics,
    WarmUpState,
    Watch,
    WatchLaggedError,
    WriteMode,
    cached,
)
from mpreg.client import (
    MPREGClient,
    RemoteCacheManager,
    RemoteCacheWatch,
    RemoteKeyValueStore,
    RemoteLogFollow,
    RemoteLogStore,
    RemoteMessage,
    RemoteQueueManager,
    RemoteSnapshotReader,
    RemoteSnapshotStore,
)
from mpreg.clock import Clock
from mpreg.errors import NodeUnreachableError, NotANodeError, RequestRefusedError
from mpreg.persistence import (
    Ack,
    AckedDataLostError,
    CommitFailedError,
    CommitUnknownError,
    CompactionReport,
    CorruptDataError,
    DataDirectoryLockedError,
    Durability,
    Entry,
    KeyChange,
    KeyValueStore,
    LogRecord,
    LogRetention,
    LogStore,
    MailboxFullError,
    MpregError,
    OffsetOutOfRangeError,
    Participant,
    ParticipantState,
    ParticipantStatistics,
    PersistenceConfig,
    PersistenceError,
    PersistenceRegistry,
    RegistryStatistics,
    ReportProgress,
    RestoreOrder,
    SchemaVersionError,
    Snapshot,
    SnapshotReader,
    SnapshotRetention,
    SnapshotVersion,
    StorageFullError,
    Transaction,
    VersionConflictError,
    WriteBatch,
    WriterStoppedError,
)
from mpreg.persistence.operations import Operation
from mpreg.queues import (
    Consumer,
    DeadLetter,
    DeliveryGuarantee,
    LeaseLostError,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    QueueDeletedError,
    QueueError,
    QueueFullError,
    QueueNotFoundError,
    QueueStatistics,
    QueueType,
    Subscription,
    SubscriptionStatistics,
)


class Noon:
    """Any class with this method is a clock."""

    def wall(self) -> float:
        return 12 * 3600.0


async def key_values(registry: PersistenceRegistry) -> None:
    sessions = registry.key_value_store("sessions")
    assert_type(sessions, KeyValueStore)
    assert_type(await sessions.put("ann", b"1", ttl_seconds=60.0), int)
    assert_type(await sessions.put(b"\xff", b"1", ttl_seconds=60, expected_version=0), int)
    assert_type(await sessions.put("eve", b"5", durability=Durability.RELAXED), int)
    assert_type(await sessions.delete("bob", expected_version=3), bool)

    ack = sessions.put_nowait("bob", b"2")
    assert_type(ack, Ack[int])
    assert_type(await ack, int)
    assert_type(await ack.wait(), int)
    assert_type(ack.done, bool)
    assert_type(ack.error, Exception | None)
    assert_type(ack.value, int | None)
    assert_type(await sessions.delete_nowait("bob"), bool)
    assert_type(await sessions.sweep_expired(), int)
    assert_type(sessions.sweep_expired_nowait(1_000), Ack[int])

    entry = await sessions.get("ann")
    assert_type(entry, Entry | None)
    if entry is not None:
        assert_type(entry.key, str | bytes)
        assert_type(entry.value, bytes)
        assert_type(entry.version, int)
        assert_type(entry.expires_at, float | None)

    assert_type(sessions.scan(), AsyncIterator[Entry])
    async for found in sessions.scan(prefix="a", on_damaged=damaged):
        assert_type(found, Entry)
    _ = [found.key async for found in sessions.scan(b"raw")]
    assert_type(await sessions.get_many(["ann", b"bob"], on_damaged=damaged), list[Entry | None])

    await sessions.put(1, b"")  # type: ignore[arg-type]
    await sessions.put("key", "text")  # type: ignore[arg-type]
    await sessions.put("key", b"", 60.0)  # type: ignore[call-arg]
    await sessions.put("key", b"", durability="durable")  # type: ignore[arg-type]


def damaged(error: CorruptDataError) -> None:
    assert_type(error.where, str)
    assert_type(error.path, Path | None)


async def logs(registry: PersistenceRegistry) -> None:
    audit = registry.log_store("audit")
    assert_type(audit, LogStore)
    assert_type(await audit.append(b"record"), int)
    assert_type(await audit.append_many([b"a", b"b"], durability=Durability.RELAXED), int)
    assert_type(await audit.append_many(record for record in (b"a", b"b")), int)
    assert_type(audit.append_nowait(b""), Ack[int])
    assert_type(audit.append_many_nowait((b"a",)), Ack[int])
    assert_type(await audit.truncate_before(50), int)
    assert_type(audit.truncate_before_nowait(50), Ack[int])
    assert_type(await audit.delete(durability=Durability.RELAXED), int)
    assert_type(audit.delete_nowait(), Ack[int])
    assert_type([await audit.first_offset(), await audit.next_offset()], list[int])
    async for record in audit.read_range(0, None):
        assert_type(record, LogRecord)
        assert_type(record.offset, int)
        assert_type(record.data, bytes)


async def transactions(registry: PersistenceRegistry) -> None:
    sessions, audit = registry.key_value_store("sessions"), registry.log_store("audit")
    async with registry.transaction(durability=Durability.RELAXED) as transaction:
        assert_type(transaction, Transaction)
        version = sessions.put_nowait("ann", b"4", expected_version=1, transaction=transaction)
        offset = audit.append_nowait(b"ann: 4", transaction=transaction)
        sessions.delete_nowait("bob", transaction=transaction)
        audit.truncate_before_nowait(3, transaction=transaction)
    assert_type((await version, await offset), tuple[int, int])


async def snapshots(registry: PersistenceRegistry) -> None:
    images = registry.snapshot_store("images")
    assert_type(await images.save(b""), int)
    assert_type(await images.load(), Snapshot | None)
    assert_type(await images.load(version=3), Snapshot | None)
    assert_type(await images.delete(), bool)
    assert_type(await images.delete(version=3), bool)
    assert_type(await images.versions(), list[SnapshotVersion])
    async with images.open(version=3) as reader:
        assert_type(reader, SnapshotReader)
        async for chunk in reader:
            assert_type(chunk, bytes)
    registry.snapshot_store("kept", retention=SnapshotRetention(versions_max=None, seconds_max=60))
    await images.load("newest")  # type: ignore[arg-type]


class Counts:
    """State that exists once in a registry."""

    total = 0


async def subsystems(registry: PersistenceRegistry) -> None:
    assert_type(registry.clock, Clock)
    counts = registry.subsystem("counts", Counts)
    assert_type(counts, Counts)
    stores = registry.reserved("counts")
    log = stores.log_store("log")
    assert_type(log, LogStore)
    assert_type(stores.key_value_store("keys"), KeyValueStore)
    await stores.snapshot_store("state").save(b"")

    def settled(results: Sequence[object] | None) -> None:
        counts.total += results is not None

    assert_type(await log.append_followed([b"a"], settled), int)
    keys = stores.key_value_store("keys")
    operations: list[Operation] = [
        keys.put_operation("a", b"", expires_at=60.0),
        keys.delete_operation("b", 3),
    ]
    await stores.reserve(100)
    assert_type(stores.send_reserved(operations, settled, 100), Sequence[Ack[Any]])
    stores.give_back(100)
    assert_type(keys.scan_stored(), AsyncIterator[Entry])
    assert_type(stores.send_nowait(operations, settled), Sequence[Ack[Any]])
    async with registry.transaction() as transaction:
        transaction.on_settled(lambda committed: None)

    async def keep_up() -> None: ...

    registry.start_soon(keep_up)


async def queues(registry: PersistenceRegistry) -> None:
    manager = MessageQueueManager(registry)
    configuration = QueueConfiguration(
        queue_type=QueueType.PRIORITY,
        delivery_guarantee=DeliveryGuarantee.AT_LEAST_ONCE,
        required_acknowledgments=1,
        max_deliveries=5,
        lease_seconds=30,
        max_size=None,
        max_bytes=1 << 20,
        message_ttl_seconds=60.0,
        deduplication_window_seconds=300.0,
    )
    assert_type(QueueConfiguration.from_mapping({"queue_type": "fifo"}), QueueConfiguration)
    assert_type(configuration.delivery_guarantee, DeliveryGuarantee)
    jobs = await manager.create_queue("jobs", configuration)
    assert_type(jobs, MessageQueue)
    assert_type(await manager.create_queue("jobs"), MessageQueue)
    assert_type(await manager.get_queue("jobs"), MessageQueue)
    assert_type(await manager.queue_names(), list[str])

    message_id = await jobs.send(
        {"file": "a.py"},
        topic="jobs.created",
        priority=1,
        delay_seconds=0.5,
        ttl_seconds=60,
        deduplication_id="a",
        headers={"from": "ann"},
        wait_seconds=None,
    )
    assert_type(message_id, str)
    assert_type(await jobs.send_many(range(3), topic="numbers"), list[str])
    await jobs.send("text", "topic")  # type: ignore[call-arg]
    await jobs.send(b"", headers={"a": 1})  # type: ignore[dict-item]

    found = await jobs.receive(wait_seconds=0.0)
    assert_type(found, Message | None)
    if found is not None:
        await one_message(registry, found)
    many = await jobs.receive_many(16)
    assert_type(many, list[Message])
    await jobs.ack(many)
    assert_type(jobs.consume(prefetch=16), Consumer)
    async for message in jobs.consume():
        assert_type(message, Message)
    async with jobs.consume() as consumer:
        assert_type(await anext(consumer), Message)

    assert_type(await jobs.purge(dead_letters=False), int)
    await manager.delete_queue("jobs")


async def one_message(registry: PersistenceRegistry, message: Message) -> None:
    assert_type(message.payload, Any)
    assert_type([message.id, message.topic, message.subscription], list[str])
    assert_type([message.attempt, message.priority], list[int])
    assert_type(message.headers, dict[str, str])
    assert_type(message.sent_at, float)
    await message.extend(30.0)
    await message.nack(delay_seconds=0.0, reason="not now")
    async with registry.transaction() as transaction:
        await message.ack(transaction=transaction)


async def subscriptions(events: MessageQueue) -> None:
    audit = await events.subscription("audit", topic_pattern="jobs.#", start="latest")
    assert_type(audit, Subscription)
    assert_type(audit.name, str)
    assert_type(await audit.receive(), Message | None)
    assert_type(await audit.receive_many(3, 1.0), list[Message])
    assert_type(audit.consume(), Consumer)
    assert_type(audit.statistics(), SubscriptionStatistics)
    await events.subscription("from", start=17)
    await events.delete_subscription("from")


async def dead_letters(jobs: MessageQueue) -> None:
    letters = await jobs.dead_letters(limit=10)
    assert_type(letters, list[DeadLetter])
    for letter in letters:
        assert_type(letter.id, str | None)
        assert_type(letter.payload, Any)
        assert_type(letter.attempts, int)
        assert_type([letter.key, letter.reason, letter.last_error], list[str])
    assert_type(await jobs.redrive(letters, to=jobs), int)
    assert_type(await jobs.redrive(["1-0"]), int)
    assert_type(await jobs.purge_dead_letters(), int)


async def failing_queues(jobs: MessageQueue) -> None:
    statistics = jobs.statistics()
    assert_type(statistics, QueueStatistics)
    assert_type([statistics.pending, statistics.dead, statistics.bytes], list[int])
    assert_type(statistics.subscriptions, dict[str, SubscriptionStatistics])
    statistics.sent = 3  # type: ignore[misc]
    try:
        await jobs.send(None)
    except QueueFullError as error:
        assert_type(error.data_state, str)
    except (LeaseLostError, QueueDeletedError, QueueNotFoundError) as error:
        ours: QueueError = error
        raise ours from None


async def caches(registry: PersistenceRegistry) -> None:
    configuration = CacheConfiguration(
        name="pages",
        memory_entries_max=1_000,
        policy=EvictionPolicyName.S4LRU,
        write_mode=WriteMode.RELAXED,
        default_ttl_seconds=60,
        warm_up_entries_max=None,
    )
    assert_type(CacheConfiguration.from_mapping({"policy": "lfu"}), CacheConfiguration)
    assert_type(configuration.policy, EvictionPolicyName)
    cache = GlobalCacheManager(registry, configuration)
    assert_type(GlobalCacheManager(registry).configuration, CacheConfiguration)

    ann = GlobalCacheKey("users", "ann", 7, b"\xff")
    assert_type(ann.namespace, str)
    assert_type(ann.parts, tuple[KeyPart, ...])
    GlobalCacheKey("users", 7.0)  # type: ignore[arg-type]

    ack = await cache.put(ann, {"name": "Ann"}, ttl_seconds=60, tags=["eu"], dependencies=[ann])
    assert_type(ack, Ack[int])
    await cache.put(ann, b"", mode=WriteMode.WRITE_BEHIND, durability=Durability.RELAXED, cost=3)
    await cache.put(ann, b"", 60.0)  # type: ignore[call-arg]
    await cache.put("ann", b"")  # type: ignore[arg-type]
    assert_type(await cache.put_many({ann: 1}, ttl_seconds=60.0), Ack[int] | None)
    assert_type(await cache.delete(ann), bool)
    assert_type(await cache.increment(ann, by=-1, initial=10), int)
    assert_type(await cache.compare_and_set(ann, 3, expected_version=0), int)
    assert_type(await cache.invalidate(namespace="users", prefix=("ann", 7)), int)
    assert_type(await cache.invalidate(tag="eu", durability=Durability.RELAXED), int)
    assert_type(await cache.invalidate(dependency=ann), int)

    found = await cache.get(ann)
    assert_type(found, Found | None)
    if found is not None:
        assert_type(found.value, object)
        assert_type(found.level, CacheLevel)
        assert_type(found.version, int | None)
        assert_type(found.expires_at, float | None)
    assert_type(await cache.get_many(key for key in (ann,)), dict[GlobalCacheKey, Found])


async def computing(cache: GlobalCacheManager) -> None:
    key = GlobalCacheKey("squares", 12)

    async def compute() -> int:
        return 144

    value = await cache.get_or_compute(
        key, compute, ttl_seconds=60.0, stale_seconds=10, negative_ttl_seconds=1.0, tags=("a",)
    )
    assert_type(value, Any)
    await cache.get_or_compute(key, lambda: 144)  # type: ignore[arg-type, return-value]

    @cached(cache, namespace="squares", ttl_seconds=60.0)
    async def square(number: int) -> int:
        return number * number

    @cached(lambda: cache, namespace="pages", key=lambda request, path: (path, 1))
    async def page(request: object, path: str) -> str | None:
        return path

    anything: CachedFunction[..., int] = square
    assert_type(anything.cache, GlobalCacheManager)
    assert_type(await square(12), int)
    assert_type(await page(None, path="/"), str | None)
    assert_type(square.key(number=12), GlobalCacheKey)
    assert_type(await square.invalidate(12), bool)
    await square("12")  # type: ignore[arg-type]


async def watching(cache: GlobalCacheManager) -> None:
    changes = cache.watch(namespace="users", prefix="a")
    assert_type(changes, Watch)
    try:
        async with changes:
            async for change in changes:
                assert_type(change, CacheChange)
                assert_type(change.kind, ChangeKind)
                assert_type(change.key, GlobalCacheKey | None)
                assert_type(change.prefix, KeyPart | tuple[KeyPart, ...] | None)
    except WatchLaggedError as error:
        ours: MpregError = error
        raise ours from None
    await cache.wait_until_warm()
    statistics = cache.statistics()
    assert_type(statistics, CacheStatistics)
    assert_type([statistics.memory_hits, statistics.disk_entries], list[int])
    assert_type(statistics.namespaces["users"], NamespaceStatistics)
    assert_type(statistics.evicted_from_memory[EvictionCause.BYTES], int)
    assert_type(statistics.warm_up, WarmUpState)
    statistics.puts = 3  # type: ignore[misc]


def memory_alone() -> None:
    def gone(entry: HeldEntry, cause: EvictionCause) -> None: ...

    memory: MemoryCache[HeldEntry] = MemoryCache(
        entries_max=10, bytes_max=1 << 20, policy="s4lru", on_evicted=gone
    )
    assert_type(memory.put(HeldEntry("a", 1, size_bytes=8)), bool)
    assert_type(memory.get("a", now=0.0), HeldEntry | None)
    assert_type(memory.peek("a"), HeldEntry | None)
    assert_type(memory.discard("a"), HeldEntry | None)
    assert_type(memory.expire(1.0, count_max=16), int)


async def participants(registry: PersistenceRegistry) -> None:
    async def restore(report: ReportProgress) -> None:
        report(1)
        report(1, 2, "entries")

    async def save() -> None: ...

    registry.register(
        Participant(
            name="routes",
            order=RestoreOrder.ROUTES,
            restore=restore,
            snapshot=save,
            before_close=save,
            required=False,
            close_seconds_max=1,
        )
    )
    registry.register(Participant(name="between", order=RestoreOrder.CACHE + 1))
    assert_type(registry.opening_has_begun, bool)
    await registry.save_snapshots()
    for one in (await registry.stats()).participants:
        assert_type(one, ParticipantStatistics)
        assert_type(one.state, ParticipantState)
        assert_type(one.restore_seconds, float | None)


async def opening() -> None:
    config = PersistenceConfig(data_dir="data", grace_seconds=5)
    assert_type(config, PersistenceConfig)
    assert_type(config.data_dir, Path | None)
    PersistenceConfig(data_dir=Path("data"), backend="sqlite", switch_interval_seconds=None)
    PersistenceConfig.from_mapping({"data_dir": "data"})
    PersistenceConfig(data_directory="data")  # type: ignore[call-arg]

    clock: Clock = Noon()
    async with PersistenceRegistry(config, clock=clock) as registry:
        assert_type(registry, PersistenceRegistry)
        stats = await registry.stats()
        assert_type(stats, RegistryStatistics)
        assert_type(stats.operations_per_fsync, float)
        assert_type([stats.commit_sequence, stats.commits, stats.fsyncs], list[int])
        stats.commits = 3  # type: ignore[misc]
        report = await registry.compact()
        assert_type(report, CompactionReport)
        assert_type([report.expired_entries, report.freed_bytes], list[int])
        report.log_records = 3  # type: ignore[misc]


def accounting(error: AckedDataLostError) -> PersistenceConfig:
    assert_type([error.first_sequence, error.last_sequence], list[int])
    assert_type(error.found_sequence, int | None)
    return PersistenceConfig(
        data_dir=error.path,
        accept_acked_data_loss=error.acceptance,
        log_retention=(LogRetention(log="audit", records_max=10, seconds_max=60),),
    )


async def serving() -> None:
    async with anyio.create_task_group() as task_group:
        registry: PersistenceRegistry = await task_group.start(
            PersistenceRegistry(PersistenceConfig(backend="memory")).serve
        )
        await registry.key_value_store("s").put("k", b"")


async def failing(store: KeyValueStore) -> None:
    try:
        await store.put("k", b"")
    except VersionConflictError as error:
        assert_type(error.key, str | bytes)
        assert_type(error.found_version, int)
    except OffsetOutOfRangeError as error:
        assert_type(error.next_offset, int)
    except StorageFullError as full:
        failed: CommitFailedError = full
        assert_type(failed.data_state, str)
    except (CommitUnknownError, WriterStoppedError) as gone:
        assert_type(gone, CommitUnknownError | WriterStoppedError)
    except DataDirectoryLockedError as error:
        assert_type(error.pid, int | None)
    except SchemaVersionError as error:
        assert_type(error.found_version, int)
    except MailboxFullError as full:
        ours: MpregError = full
        raise ours from None
    except PersistenceError as error:
        assert_type(error.may_restart, bool)


def batches(batch: WriteBatch) -> None:
    assert_type(batch.durability, Durability)
    assert_type(batch.size_bytes, int)


async def remote(node: MPREGClient) -> None:
    MPREGClient("http://x", "token", patience_seconds=None, resend_bytes_max=0)
    assert_type(node.message_queues, RemoteQueueManager)
    assert_type(node.key_value_store("sessions"), RemoteKeyValueStore)
    jobs = await node.message_queues.create_queue("jobs")
    async for message in jobs.consume(prefetch=16):
        assert_type(message, RemoteMessage)
    async with node.key_value_store("sessions").watch("a") as changes:
        async for change in changes:
            assert_type(change, KeyChange)


async def remote_logs(node: MPREGClient) -> None:
    audit = node.log_store("audit")
    assert_type(audit, RemoteLogStore)
    assert_type(await audit.append(b""), int)
    assert_type(await audit.append_many([b""]), int)
    await audit.append("text")  # type: ignore[arg-type]
    async for record in audit.read_range(0, 100):
        assert_type(record, LogRecord)
    async with audit.follow(0) as records:
        assert_type(records, RemoteLogFollow)
        async for record in records:
            assert_type(record, LogRecord)
    assert_type(await audit.truncate_before(3), int)
    assert_type(await audit.bounds(), tuple[int, int])
    assert_type([await audit.first_offset(), await audit.next_offset()], list[int])
    assert_type(await audit.delete(), int)


async def remote_snapshots(node: MPREGClient, pieces: AsyncIterator[bytes]) -> None:
    images = node.snapshot_store("images", retention=SnapshotRetention(versions_max=3))
    assert_type(images, RemoteSnapshotStore)
    assert_type([await images.save(b""), await images.save(pieces)], list[int])
    assert_type(await images.load(version=3), Snapshot | None)
    assert_type(await images.versions(), list[SnapshotVersion])
    assert_type(await images.delete(), bool)
    async with images.open() as reader:
        assert_type(reader, RemoteSnapshotReader)
        async for piece in reader:
            assert_type(piece, bytes)
    await images.load("newest")  # type: ignore[arg-type]


async def remote_cache(node: MPREGClient) -> None:
    cache = node.cache
    assert_type(cache, RemoteCacheManager)
    ann = GlobalCacheKey("users", "ann")

    async def compute() -> int:
        return 144

    assert_type(await cache.get(ann), Found | None)
    assert_type(await cache.get_many([ann]), dict[GlobalCacheKey, Found])
    assert_type(await cache.put(ann, {"name": "Ann"}, ttl_seconds=60, tags=["eu"]), Ack[int])
    assert_type(await cache.put_many({ann: 1}), Ack[int] | None)
    assert_type(await cache.delete(ann), bool)
    assert_type(await cache.increment(ann, by=-1, durability=Durability.RELAXED), int)
    assert_type(await cache.compare_and_set(ann, 3, expected_version=0), int)
    assert_type(await cache.invalidate(namespace="users", prefix=("ann", 7)), int)
    assert_type(await cache.get_or_compute(ann, compute, negative_ttl_seconds=1.0), Any)
    assert_type(await cache.statistics(), CacheStatistics)
    async with cache.watch(namespace="users", prefix="a") as changes:
        assert_type(changes, RemoteCacheWatch)
        async for change in changes:
            assert_type(change, CacheChange)


async def failing_remotely(node: MPREGClient) -> None:
    try:
        await node.log_store("audit").append(b"")
    except NodeUnreachableError as error:
        assert_type(error.may_have_been_made, bool)
    except NotANodeError as error:
        assert_type(error.status, int)
        refused: RequestRefusedError = error
        raise refused from None


async def either(stores: PersistenceRegistry | MPREGClient) -> None:
    """The line that is changed is another one."""
    await stores.log_store("audit").append(b"")
    await stores.snapshot_store("images").save(b"")
    await stores.key_value_store("sessions").put("ann", b"")

"""Where a queue keeps what, and how it is read. The only file that knows the names on disk.

::

    keys "configurations"        the queue's name → `StoredQueue`, which names its incarnation
    keys "deleted"               INCARNATION → the name: what is still to be removed
    log  "INCARNATION/events"    what became of the messages
    log  "INCARNATION/LANE"      the messages of one priority
    snapshots "INCARNATION/0"    the state, in turn with "…/1": where one is damaged there is the
                                 other
    keys "kept"                  (INCARNATION, lane, offset) → a message copied out of its log
    keys "dead letters"          (INCARNATION, key) → `DeadLetterRecord`
    keys "deduplication"         (INCARNATION, id) → the message's id, for the time of the window

All of them are reserved names: no user's log or namespace can be one of them.
"""

from __future__ import annotations

import struct
from collections.abc import AsyncGenerator, Callable, Iterator
from typing import Final, Protocol

import msgspec
from attrs import define, field

from mpreg.codec import decode_name, encode_name
from mpreg.errors import CorruptDataError, ValueTooLargeError, VersionConflictError
from mpreg.persistence import (
    KeyValueStore,
    LogRecord,
    LogStore,
    PersistenceConfig,
    SnapshotStore,
    Transaction,
)
from mpreg.persistence.registry import ReservedStores
from mpreg.queues.configuration import StoredQueue
from mpreg.queues.lane import Lane
from mpreg.queues.records import (
    DeadLetterRecord,
    Event,
    MessageRecord,
    Place,
    decode_message,
    encode,
    encode_letter,
)
from mpreg.queues.sizes import SizeLimits, batches

__all__ = ["QueueStorage", "SharedStores", "StoreSource", "checked_queue_name", "measure"]

SNAPSHOT_SLOTS: Final = 2
QUEUE_NAME_BYTES_MAX: Final = 900

#: What is read ahead: enough that a backlog is read at the speed of the disk. Little at first, and
#: twice as much each time: after a start somebody waits for the first message.
READ_AHEAD_RECORDS_FIRST: Final = 32
READ_AHEAD_RECORDS: Final = 256
READ_AHEAD_BYTES: Final = 1 << 20

#: Keys removed in one transaction, so that nobody's write waits long behind it.
REMOVED_PER_BATCH: Final = 2_048

_KIND: Final = "queues"
_LENGTH: Final = struct.Struct(">H")
_PLACE: Final = struct.Struct(">BQ")


def checked_queue_name(name: str) -> str:
    """Raises `InvalidArgumentError` unless it is a str that is not empty; `ValueTooLargeError`."""
    size = len(encode_name(name))
    if size > QUEUE_NAME_BYTES_MAX:
        raise ValueTooLargeError(f"a queue's name of {size} bytes; at most {QUEUE_NAME_BYTES_MAX}")
    return name


class StoreSource(Protocol):
    """A registry, or a `mpreg.persistence.ReadOnlyRegistry`."""

    @property
    def config(self) -> PersistenceConfig: ...

    def reserved(self, kind: str) -> ReservedStores: ...

    def transaction(self) -> Transaction: ...


@define(eq=False)
class SharedStores:
    """The namespaces that all queues of a registry share."""

    registry: StoreSource
    limits: SizeLimits = field(init=False)
    configurations: KeyValueStore = field(init=False)
    deleted: KeyValueStore = field(init=False)
    kept: KeyValueStore = field(init=False)
    dead_letters: KeyValueStore = field(init=False)
    deduplication: KeyValueStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        config = self.registry.config
        self.limits = SizeLimits.within(
            value_bytes_max=config.value_bytes_max, batch_bytes_max=config.batch_bytes_max
        )
        stores = self.registry.reserved(_KIND)
        self.configurations = stores.key_value_store("configurations")
        self.deleted = stores.key_value_store("deleted")
        self.kept = stores.key_value_store("kept")
        self.dead_letters = stores.key_value_store("dead letters")
        self.deduplication = stores.key_value_store("deduplication")

    async def find(self, name: str) -> StoredQueue | None:
        """Raises `CorruptDataError` where the configuration is damaged."""
        entry = await self.configurations.get(name)
        if entry is None:
            return None
        try:
            return msgspec.json.decode(entry.value, type=StoredQueue)
        except msgspec.MsgspecError as error:
            raise CorruptDataError(
                f"not a configuration: {error}", None, f"queue {name!r}"
            ) from error

    def put(self, name: str, queue: StoredQueue, transaction: Transaction) -> None:
        encoded = msgspec.json.encode(queue)
        self.configurations.put_nowait(name, encoded, transaction=transaction)

    async def create(
        self,
        name: str,
        queue: StoredQueue,
        first: Event | None,
        written: Callable[[Transaction], None] | None = None,
    ) -> bool:
        """Make a queue, with its first event and what ``written`` adds; False where there is one
        meanwhile.

        Raises:
            VersionConflictError: a condition of what ``written`` added was not met.
        """
        try:
            async with self.registry.transaction() as transaction:
                encoded = msgspec.json.encode(queue)
                self.configurations.put_nowait(
                    name, encoded, expected_version=0, transaction=transaction
                )
                if first is not None:
                    events = QueueStorage(self, name, queue.incarnation).events
                    events.append_nowait(encode(first), transaction=transaction)
                if written is not None:
                    written(transaction)
        except VersionConflictError:
            if await self.configurations.get(name) is None:
                # It is not the queue that was in the way.
                raise
            return False
        return True

    async def names(self) -> list[str]:
        return [
            str(entry.key) async for entry in self.configurations.scan(on_damaged=lambda _: None)
        ]

    async def mark_deleted(
        self, name: str, queue: StoredQueue, settled: Callable[[bool], None]
    ) -> None:
        """From now on there is no such queue, and its incarnation is to be removed."""
        async with self.registry.transaction() as transaction:
            transaction.on_settled(settled)
            self.configurations.delete_nowait(name, transaction=transaction)
            encoded = encode_name(name)
            self.deleted.put_nowait(queue.incarnation, encoded, transaction=transaction)

    async def deleted_queues(self) -> list[tuple[str, str]]:
        """(name, incarnation) of those of which something may be left."""
        found = self.deleted.scan(on_damaged=lambda _: None)
        return [(decode_name(entry.value), str(entry.key)) async for entry in found]

    async def is_deleted(self, incarnation: str) -> bool:
        return await self.deleted.get(incarnation) is not None

    async def forget_deleted(self, incarnation: str) -> None:
        """Nothing of it is left."""
        await self.deleted.delete(incarnation)


@define(eq=False)
class QueueStorage:
    """The stores of one queue."""

    shared: SharedStores
    name: str
    incarnation: str
    events: LogStore = field(init=False)
    _lanes: dict[int, LogStore] = field(factory=dict)
    _prefix: bytes = field(init=False)
    _records_ahead: int = READ_AHEAD_RECORDS_FIRST

    def __attrs_post_init__(self) -> None:
        stores = self.shared.registry.reserved(_KIND)
        self.events = stores.log_store(f"{self.incarnation}/events")
        encoded = encode_name(self.incarnation)
        self._prefix = _LENGTH.pack(len(encoded)) + encoded

    def lane(self, number: int) -> LogStore:
        if (log := self._lanes.get(number)) is None:
            stores = self.shared.registry.reserved(_KIND)
            log = self._lanes[number] = stores.log_store(f"{self.incarnation}/{number}")
        return log

    def snapshots(self) -> list[SnapshotStore]:
        stores = self.shared.registry.reserved(_KIND)
        return [
            stores.snapshot_store(f"{self.incarnation}/{slot}") for slot in range(SNAPSHOT_SLOTS)
        ]

    @property
    def limits(self) -> SizeLimits:
        return self.shared.limits

    # --- messages ---

    async def read_ahead(
        self, lane: int, start: int, end: int
    ) -> list[tuple[int, MessageRecord | CorruptDataError, int]]:
        """(offset, message or what is wrong with it, size) from an offset on, at least one."""
        damaged: list[CorruptDataError] = []
        read: list[tuple[int, MessageRecord | CorruptDataError, int]] = []
        expected, size = start, 0
        stop = min(end, start + min(self._records_ahead, READ_AHEAD_RECORDS))
        self._records_ahead = min(2 * self._records_ahead, READ_AHEAD_RECORDS)
        async for record in self.lane(lane).read_range(start, stop, on_damaged=damaged.append):
            read.extend(_missing(range(expected, record.offset), damaged))
            expected = record.offset + 1
            read.append((record.offset, self._decode(lane, record), len(record.data)))
            size += len(record.data)
            if size > READ_AHEAD_BYTES:
                return read
        read.extend(_missing(range(expected, stop), damaged))
        return read

    async def read_kept(
        self, lane: int, offset: int
    ) -> tuple[MessageRecord, int] | CorruptDataError | None:
        """A message that was copied out of its log, and its size; or what is wrong with it. None:
        it is not there any more."""
        where = self.where(lane, offset)
        try:
            entry = await self.shared.kept.get(self.key(_PLACE.pack(lane, offset)))
            if entry is None:
                return None
            return decode_message(entry.value, where), len(entry.value)
        except CorruptDataError as damage:
            return damage

    async def kept_places(self) -> list[Place]:
        """Of all messages that were copied out of their logs."""
        found = self.shared.kept.scan(prefix=self._prefix, on_damaged=lambda _: None)
        return [_PLACE.unpack(entry.key[len(self._prefix) :]) async for entry in found]  # type: ignore[arg-type]

    def keep(self, place: Place, record: MessageRecord, transaction: Transaction) -> None:
        key = self.key(_PLACE.pack(*place))
        self.shared.kept.put_nowait(key, encode(record), transaction=transaction)

    def drop_kept(self, place: Place, transaction: Transaction) -> None:
        self.shared.kept.delete_nowait(self.key(_PLACE.pack(*place)), transaction=transaction)

    def _decode(self, lane: int, record: LogRecord) -> MessageRecord | CorruptDataError:
        try:
            return decode_message(record.data, self.where(lane, record.offset))
        except CorruptDataError as damage:
            return damage

    # --- dead letters ---

    def put_dead_letter(self, key: str, letter: DeadLetterRecord, transaction: Transaction) -> None:
        self.shared.dead_letters.put_nowait(
            self.key(key.encode()),
            encode_letter(letter, self.limits.letter),
            transaction=transaction,
        )

    def delete_dead_letter(self, key: str, transaction: Transaction) -> None:
        self.shared.dead_letters.delete_nowait(self.key(key.encode()), transaction=transaction)

    async def dead_letters(
        self, after: str | None = None
    ) -> AsyncGenerator[tuple[str, DeadLetterRecord | CorruptDataError], None]:
        """Every dead letter by its key, or those behind one; one that cannot be read as what is
        wrong with it."""
        damaged: list[CorruptDataError] = []
        behind = None if after is None else self.key(after.encode(errors="replace"))
        found = self.shared.dead_letters.scan(
            prefix=self._prefix, after=behind, on_damaged=damaged.append
        )
        async for entry in found:
            key = bytes(entry.key[len(self._prefix) :]).decode()  # type: ignore[arg-type]
            try:
                yield key, msgspec.msgpack.decode(entry.value, type=DeadLetterRecord)
            except msgspec.MsgspecError as error:
                where = f"queue {self.name!r}, dead letter {key}"
                yield key, CorruptDataError(f"not a dead letter: {error}", None, where)
        for damage in damaged:
            yield "", damage

    # --- deleting ---

    async def remove_keys(self) -> None:
        """Copies of messages, dead letters and ids."""
        for store in (self.shared.kept, self.shared.dead_letters, self.shared.deduplication):
            await self._remove_keys(store)

    async def _remove_keys(self, store: KeyValueStore) -> None:
        # Only the keys are kept in memory, and nothing is read while it is changed.
        found = store.scan(prefix=self._prefix, on_damaged=lambda _: None)
        keys = [entry.key async for entry in found]
        for some in batches(keys, len, count_max=REMOVED_PER_BATCH, bytes_max=self.limits.batch):
            async with self.shared.registry.transaction() as transaction:
                for key in some:
                    store.delete_nowait(key, transaction=transaction)

    # --- names ---

    def key(self, rest: bytes) -> bytes:
        """The key of a thing of this queue: no two queues' keys meet."""
        return self._prefix + rest

    def where(self, lane: int, offset: int) -> str:
        return f"queue {self.name!r}, priority {lane}, offset {offset}"


async def measure(storage: QueueStorage, lane: Lane) -> None:
    """Add up the messages that are not counted in bytes yet."""
    while (measured_to := lane.measured_to) < lane.end:
        offset = lane.finished.first_missing(measured_to)
        if offset >= lane.end:
            lane.measured_to = lane.end
        elif offset < lane.first:
            size = await _size_of_kept(storage, lane, offset)
            if lane.measured_to == measured_to:
                lane.measure(offset, size)
        else:
            ahead = await storage.read_ahead(lane.number, offset, lane.end)
            # Else all is to be counted anew.
            if lane.measured_to == measured_to:
                for read, _, size in ahead:
                    lane.measure(read, size)


async def _size_of_kept(storage: QueueStorage, lane: Lane, offset: int) -> int:
    found = await storage.read_kept(lane.number, offset)
    return found[1] if isinstance(found, tuple) else 0


def _missing(
    offsets: range, damaged: list[CorruptDataError]
) -> Iterator[tuple[int, CorruptDataError, int]]:
    """Offsets that should have been read: each with the damage that was met on the way."""
    for offset in offsets:
        yield offset, damaged.pop(0) if damaged else CorruptDataError("the record is missing"), 0

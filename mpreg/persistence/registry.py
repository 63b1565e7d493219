"""The composition root: one directory, one writer, one reader, and the stores over them."""

from __future__ import annotations

import enum
import logging
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from threading import get_ident
from types import TracebackType
from typing import Any, Self, TypeVar, cast

import anyio
import anyio.lowlevel
from anyio.abc import TaskStatus
from attrs import evolve, frozen

from mpreg.actors import Ack
from mpreg.clock import Clock, SystemClock
from mpreg.codec import encode_reserved_name
from mpreg.errors import ConfigurationError, WriterStoppedError
from mpreg.persistence.backend import StorageBackend
from mpreg.persistence.batch import Durability, Settled
from mpreg.persistence.compactor import CompactionReport
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.engine import Engine, collapsed_groups
from mpreg.persistence.following import Observer
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.kv_store import KeyValueStore
from mpreg.persistence.lifecycle import Lifecycle
from mpreg.persistence.log_store import LogStore
from mpreg.persistence.operations import Operation
from mpreg.persistence.participant import Participant
from mpreg.persistence.snapshots import SnapshotRetention, SnapshotSharing, SnapshotStore
from mpreg.persistence.statistics import RegistryStatistics
from mpreg.persistence.transaction import Transaction

__all__ = ["PersistenceRegistry", "ReservedStores"]

S = TypeVar("S")

_log = logging.getLogger("mpreg.persistence")


class _State(enum.Enum):
    NEW = "new"
    """May be followed by OPEN, or by CLOSED where opening fails."""
    OPEN = "open"
    """May be followed by CLOSED."""
    CLOSED = "closed"


@frozen(eq=False)
class ReservedStores:
    """Stores whose names no user's name can reach: for a part of mpreg that keeps state of its own.

    Made by `PersistenceRegistry.reserved`; costs nothing.
    """

    _gateway: StoreGateway
    _snapshots: SnapshotSharing
    _kind: str

    def key_value_store(self, namespace: str) -> KeyValueStore:
        encoded = encode_reserved_name(self._kind, namespace)
        return KeyValueStore(self._gateway, namespace, encoded)

    def log_store(self, name: str) -> LogStore:
        return LogStore(self._gateway, name, encode_reserved_name(self._kind, name))

    def snapshot_store(
        self, name: str, *, retention: SnapshotRetention | None = None
    ) -> SnapshotStore:
        encoded = encode_reserved_name(f"{self._kind}.snapshot", name)
        store = SnapshotStore(self._gateway, self._snapshots, name, encoded)
        if retention is not None:
            store.keep(retention)
        return store

    def send_nowait(
        self,
        operations: Sequence[Operation],
        settled: Settled,
        *,
        durability: Durability = Durability.DURABLE,
    ) -> Sequence[Ack[Any]]:
        """Send operations of these stores at once as one batch; an ack for each.

        ``settled`` is told the results, or None where it was not committed: exactly once, in the
        order of the commits and before any task runs. Not where this raises.

        Raises:
            InvalidArgumentError: there is no operation.
            MailboxFullError, ValueTooLargeError, WriterStoppedError: nothing was sent.
        """
        return self._gateway.send_nowait(operations, durability, settled)

    def reserve_nowait(self, size_bytes: int) -> bool:
        """`reserve` where there is room at once; False where there is none: nothing was taken.

        Raises:
            WriterStoppedError: not open (any more).
        """
        return self._gateway.reserve_nowait(size_bytes)

    async def reserve(self, size_bytes: int) -> None:
        """Take room in the mailbox, waiting for it, for operations that are decided only then:
        `send_reserved` them, or `give_back` the room. Not a checkpoint where there is room.

        Cancelled while it waits: nothing was taken.

        Raises:
            WriterStoppedError: not open (any more).
        """
        await self._gateway.reserve(size_bytes)

    def send_reserved(
        self,
        operations: Sequence[Operation],
        settled: Settled,
        size_bytes: int,
        *,
        durability: Durability = Durability.DURABLE,
    ) -> Sequence[Ack[Any]]:
        """`send_nowait`, into room that was taken. Where this raises, it is still to be given back.

        Raises:
            InvalidArgumentError: there is no operation.
            ValueTooLargeError, WriterStoppedError: nothing was sent.
        """
        return self._gateway.send_reserved(operations, durability, settled, size_bytes)

    def give_back(self, size_bytes: int) -> None:
        """Room that was taken and is not needed."""
        self._gateway.give_back(size_bytes)


class PersistenceRegistry:
    """Durable state in one directory: open it once, take stores from it anywhere in the server.

    Either ``async with PersistenceRegistry(config) as registry``, or, in a server's own nursery,
    ``registry = await task_group.start(PersistenceRegistry(config).serve)``. Both raise, when they
    begin: `DataDirectoryLockedError`, `DataDirectoryError`, `ForeignDatabaseError`,
    `SchemaVersionError`, `MigrationFailedError`, `CorruptDataError`, `AckedDataLostError`,
    `StorageFullError`, `StorageIOError`, `ParticipantFailedError`.

    It stops when the block ends or the nursery is cancelled: nothing more is taken, what was
    accepted is committed and acked within ``grace_seconds``, then the files are closed. Who cannot
    be served any more gets `WriterStoppedError` (not written), or `CommitUnknownError` if the
    device was still at work when the time was over.

    If the writer fails and cannot be started again, every waiting caller gets an error with the
    first cause, and that cause is raised into the block or the nursery.

    A registry is opened once; make a new one to open the directory again.
    """

    def __init__(
        self,
        config: PersistenceConfig,
        *,
        backend: StorageBackend | None = None,
        clock: Clock | None = None,
    ) -> None:
        """``backend`` replaces the one that ``config.backend`` names; ``clock`` the machine's."""
        self.config = config
        self._own_backend = backend
        self.clock = SystemClock() if clock is None else clock
        self._gateway = StoreGateway(config, self.clock)
        self._snapshots = SnapshotSharing()
        self._subsystems: dict[str, object] = {}
        self._lifecycle = Lifecycle()
        self._opened_at = 0.0
        self._opening_seconds = 0.0
        self._engine: Engine | None = None
        self._state = _State.NEW
        self._stop_asked = anyio.Event()
        self._block: AbstractAsyncContextManager[PersistenceRegistry] | None = None

    # --- stores ---

    def key_value_store(self, namespace: str) -> KeyValueStore:
        """The keys of a namespace. Costs nothing; ask for the same one as often as you like."""
        return KeyValueStore(self._gateway, namespace)

    def log_store(self, name: str) -> LogStore:
        """An append-only log. Costs nothing; it exists from its first record on."""
        return LogStore(self._gateway, name)

    def snapshot_store(
        self, name: str, *, retention: SnapshotRetention | None = None
    ) -> SnapshotStore:
        """The last complete states saved under a name. Costs nothing; exists from the first save.

        ``retention`` says how many versions are kept from now on, for all who use this name. It is
        written down with the next save and holds until another one is given, also in later
        processes. Where none was ever given, only the newest version is kept.

        Raises:
            InvalidArgumentError: the name is impossible, or the retention is none.
        """
        store = SnapshotStore(self._gateway, self._snapshots, name)
        if retention is not None:
            store.keep(retention)
        return store

    def transaction(self, *, durability: Durability = Durability.DURABLE) -> Transaction:
        """One batch of operations of any stores: ``async with registry.transaction() as tx``."""
        return Transaction(self._gateway, durability)

    # --- for what is built on it ---

    def reserved(self, kind: str) -> ReservedStores:
        """Stores for a part of mpreg, apart from those of users and of other parts."""
        return ReservedStores(self._gateway, self._snapshots, kind)

    def subsystem(self, name: str, make: Callable[[], S]) -> S:
        """What ``make`` made when this name was first asked for.

        For state that must exist once in a registry, however many objects stand for it.
        """
        if name not in self._subsystems:
            self._subsystems[name] = make()
        return cast(S, self._subsystems[name])

    def start_soon(self, task: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task of a subsystem until the registry closes.

        It is cancelled when the last hooks of participants have been called, and before the stores
        stop, whatever the cause. What it raises stops the
        registry, as a failed writer does.

        Raises:
            WriterStoppedError: the registry is not open (any more).
        """
        self.check_thread("a registry")
        if self._engine is None or self._state is not _State.OPEN:
            raise WriterStoppedError("the registry is not open; nothing was started")
        self._engine.start_soon(task)

    def register(self, participant: Participant) -> None:
        """Let a subsystem take part in opening and closing.

        When the registry is opened, its ``restore`` is called before the block is entered, or
        before `serve` has started: one after the other, in the order that they say. What one that
        is required raises comes out as `ParticipantFailedError`, when those before it are closed;
        one that is not required is told of in the log and in `stats`, and none of its hooks is
        called any more.

        When the registry is closed, in whatever way, ``snapshot`` is called of each, then
        ``before_close`` in the reverse order. Both may use the stores, and what they write is on
        disk before the files are closed. What they raise is told in the log and in `stats`, and
        keeps no other one from being called.

        Once opening has begun, only a participant without ``restore`` can be registered; it takes
        part in the rest.

        Raises:
            ConfigurationError: the name is there already, or the restore would come too late.
            WriterStoppedError: the registry is closing, or closed.
        """
        self._lifecycle.register(participant)

    def observe(self, observer: Observer) -> None:
        """Have ``observer`` told of every commit group from now on, and what it took: for metrics.

        It is called in the writer's own task, after the acks: it must be quick and not raise.
        """
        self.check_thread("a registry")
        self._gateway.followers.observers.append(observer)
        self._gateway.note_waiting()

    @property
    def opening_has_begun(self) -> bool:
        """Whether it is too late to register what is to be restored."""
        return self._state is not _State.NEW

    def check_thread(self, user: str) -> None:
        """For parts that tell it before anything is done; ``user`` is what was called.

        Raises:
            RuntimeError: this is another thread than that of the event loop it was opened in.
        """
        self._gateway.check_thread(user)

    async def save_snapshots(self) -> None:
        """Call ``snapshot`` of all participants, in the order of their restores, and wait.

        One that fails keeps no other one from being called. Cancelled: what was saved is saved.

        Raises:
            ParticipantFailedError: it names those that failed.
            WriterStoppedError: the registry is not open (any more).
        """
        self.check_thread("a registry")
        if self._engine is None or self._state is not _State.OPEN:
            raise WriterStoppedError("the registry is not open; no snapshot was saved")
        await self._lifecycle.save_snapshots()

    def check_transaction(self, transaction: Transaction) -> None:
        """Raises `TransactionStateError` where it is of another registry."""
        transaction.check_gateway(self._gateway)

    async def stats(self) -> RegistryStatistics:
        """Counts and sizes as they are now; after closing, as they were at the end.

        Raises:
            WriterStoppedError: the registry was never open.
        """
        await anyio.lowlevel.checkpoint()
        if self._engine is None:
            raise WriterStoppedError("the registry was never open: there is nothing to count")
        return evolve(
            self._engine.statistics(),
            opened_at=self._opened_at,
            opening_seconds=self._opening_seconds,
            restore_seconds=self._lifecycle.restore_seconds,
            participants=self._lifecycle.statistics(),
        )

    async def compact(self) -> CompactionReport:
        """Remove at once what nobody can ask for any more, and give back the space.

        The same as happens in the background, but now, and without leaving space for later
        writes: entries that have expired, records beyond the limits of their logs, versions beyond
        the retention of their snapshots, chunks that saves have left behind; then the write-ahead
        log is moved into the database and cut, and free pages are given back to the file system.
        In small steps, between which others are served; of a large store it can take minutes.
        What is damaged is told in the log and stays.

        Cancelled, or failed: what was done is done, the rest is done the next time.

        Raises:
            WriterStoppedError: the registry is not open (any more).
            StorageFullError, CommitFailedError: it may be tried again.
            CommitUnknownError: the writer is gone.
        """
        self.check_thread("a registry")
        if self._engine is None or self._state is not _State.OPEN:
            raise WriterStoppedError("the registry is not open; nothing was compacted")
        return await self._engine.compact()

    # --- life ---

    async def __aenter__(self) -> Self:
        block = self._run_block()
        await block.__aenter__()
        # Only now: entered a second time, it fails above, and the first block goes on.
        self._block = block
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None:
        assert self._block is not None
        return await self._block.__aexit__(exc_type, exc, traceback)

    @asynccontextmanager
    async def _run_block(self) -> AsyncGenerator[PersistenceRegistry, None]:
        # The task group is ours, not the caller's: one exception comes out as it went in.
        with collapsed_groups():
            async with anyio.create_task_group() as task_group:
                await task_group.start(self.serve)
                yield self
                self._stop_asked.set()

    async def serve(
        self, *, task_status: TaskStatus[PersistenceRegistry] = anyio.TASK_STATUS_IGNORED
    ) -> None:
        """Run until cancelled; for a server's nursery. Started when all is restored.

        Cancelled while opening: nothing stays open. Cancelled later: it stops as said above, so
        that it ends at most ``grace_seconds`` (and the last hooks of participants, and the closing
        of the files) after that.
        """
        if self._state is not _State.NEW:
            raise ConfigurationError(
                f"this registry is {self._state.value} already; make a new one to open it again"
            )
        self._state, self._gateway.thread = _State.OPEN, get_ident()
        try:
            with collapsed_groups():
                await self._serve(task_status)
        finally:
            self._state = _State.CLOSED
            self._lifecycle.end()
            # Its loop may be over: whoever comes, from wherever, is told that it is closed.
            self._gateway.thread = None

    async def _serve(self, task_status: TaskStatus[PersistenceRegistry]) -> None:
        scope, closing = anyio.CancelScope(), anyio.Event()
        async with anyio.create_task_group() as task_group:
            try:
                await task_group.start(self._run_engine, scope, closing)
                # A cancelled nursery must not take the stores away from the participants, which
                # have yet to write what they know. Not earlier: an opening is cancelled at once.
                scope.shield = True
                await anyio.lowlevel.checkpoint_if_cancelled()
                async with self._lifecycle.running():
                    task_status.started(self)
                    await self._stop_asked.wait()
            finally:
                closing.set()

    async def _run_engine(
        self,
        scope: anyio.CancelScope,
        closing: anyio.Event,
        *,
        task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
    ) -> None:
        self._opened_at, began = self.clock.wall(), anyio.current_time()
        engine = Engine(self.config, self._gateway, self.clock, self._own_backend, self._snapshots)
        with scope:
            async with engine.running():
                self._engine = engine
                self._opening_seconds = anyio.current_time() - began
                _log.info("the store was opened in %.3f s", self._opening_seconds)
                task_status.started()
                await closing.wait()

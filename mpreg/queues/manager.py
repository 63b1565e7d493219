"""The queues of a registry: made, found and deleted by name."""

from __future__ import annotations

import itertools
from collections.abc import Awaitable, Callable
from typing import Final
from weakref import WeakValueDictionary

import anyio
from anyio.abc import TaskGroup
from attrs import define, field

from mpreg.errors import (
    CorruptDataError,
    InvalidArgumentError,
    MpregError,
    QueueDeletedError,
    QueueNotFoundError,
)
from mpreg.persistence import (
    Participant,
    PersistenceRegistry,
    ReportProgress,
    RestoreOrder,
    Transaction,
)
from mpreg.queues.bodies import Bodies
from mpreg.queues.configuration import DeliveryGuarantee, QueueConfiguration, StoredQueue
from mpreg.queues.core import QueueCore
from mpreg.queues.core import log as logger
from mpreg.queues.keeper import Keeper
from mpreg.queues.queue import MessageQueue
from mpreg.queues.records import Configured, encode
from mpreg.queues.removal import Removal
from mpreg.queues.restoring import Restored, replace_lost, restore
from mpreg.queues.storage import QueueStorage, SharedStores, checked_queue_name

__all__ = ["MessageQueueManager"]

#: How long the last notes may take when the registry closes. No promise depends on them.
CLOSE_SECONDS_MAX: Final = 1.0

#: Queues that are read back at the same time when the registry opens.
RESTORED_AT_ONCE: Final = 16


@define(eq=False)
class _Open:
    """A queue that was asked for."""

    stored: StoredQueue
    core: QueueCore
    queue: MessageQueue
    decided: anyio.Event = field(factory=anyio.Event)
    """Set while no deletion or change of its configuration is under way."""

    def __attrs_post_init__(self) -> None:
        self.decided.set()


@define(eq=False)
class _Queues:
    """What all managers of one registry share: a queue's state must exist once."""

    registry: PersistenceRegistry
    stores: SharedStores = field(init=False)
    removal: Removal = field(init=False)
    keeper: Keeper = field(init=False)
    bodies: Bodies = field(factory=Bodies)
    open: dict[str, _Open] = field(factory=dict)
    make_id: Callable[[], str] | None = None
    _takes_part: bool = False
    """In the registry's closing."""
    _changing: WeakValueDictionary[str, anyio.Lock] = field(factory=WeakValueDictionary)

    def __attrs_post_init__(self) -> None:
        self.stores = SharedStores(self.registry)
        self.removal = Removal(self.stores)
        self.keeper = Keeper(self.registry, self.removal.remove_left_over)

    def start(self) -> None:
        """Before queues are used. Raises `WriterStoppedError` where the registry is not open."""
        self.keeper.start()
        self.take_part()

    def take_part(self, restore: Callable[[ReportProgress], Awaitable[None]] | None = None) -> None:
        """In the life of the registry: once, however many managers there are."""
        if not self._takes_part:
            self.registry.register(
                Participant(
                    name="queues",
                    order=RestoreOrder.QUEUES,
                    restore=restore,
                    snapshot=self.keeper.save_snapshots,
                    before_close=self.keeper.before_close,
                    close_seconds_max=CLOSE_SECONDS_MAX,
                )
            )
            self._takes_part = True

    def changing(self, name: str) -> anyio.Lock:
        """Held while the queue of this name is made, opened, changed or deleted. Raises
        `RuntimeError` in another thread than the event loop's."""
        self.registry.check_thread(f"queue {name!r}")
        return self._changing.setdefault(name, anyio.Lock())


@define(eq=False)
class _Deletion:
    _queues: _Queues
    _found: _Open
    _is_left: bool = False
    """Whether its caller will not remove what the queue has."""

    async def write(self) -> None:
        self._found.core.deleting, self._found.decided = True, anyio.Event()
        core = self._found.core
        await self._queues.stores.mark_deleted(core.name, self._found.stored, self._settled)

    def leave_the_rest(self) -> None:
        self._is_left = True
        self._queues.keeper.tidy_up()

    def _settled(self, committed: bool) -> None:
        """Told also where whoever asked for it was cancelled meanwhile."""
        core, queues = self._found.core, self._queues
        core.deleting = False
        self._found.decided.set()
        if committed:
            core.close(
                QueueDeletedError(
                    f"queue {core.name!r} was deleted, and its messages with it; nothing was "
                    "written",
                    "stop using it, or make it anew with create_queue",
                )
            )
            del queues.open[core.name]
            queues.keeper.forget(core)
            if self._is_left:
                queues.keeper.tidy_up()
        else:
            core.wake_all()
            # What was not begun, or was refused, meanwhile.
            core.ask_for_upkeep()


class MessageQueueManager:
    """The message queues of a registry. Costs nothing; any number of managers are the same::

        queues = MessageQueueManager(registry)
        jobs = await queues.create_queue("jobs")

    Made before the registry is opened, all queues that are there are read back while it is opened;
    made later, each when it is first asked for. A queue whose configuration is damaged is told of
    in the log, and by whatever asks for it; it keeps no other one from being read back.

    A queue's name is any str that is not empty, at most 900 bytes of UTF-8. Used in another thread
    than that of the registry's event loop, its methods raise `RuntimeError`; nothing was done.
    """

    def __init__(self, registry: PersistenceRegistry) -> None:
        """Raises `ConfigurationError` where the registry's ``value_bytes_max`` is below 4 KiB, or
        its ``batch_bytes_max`` below 16 KiB: a queue could not write of its own messages."""
        self._registry = registry
        self._queues = registry.subsystem("queues", lambda: _Queues(registry))
        if not registry.opening_has_begun:
            self._queues.take_part(self._restore)

    async def create_queue(
        self,
        name: str,
        configuration: QueueConfiguration | None = None,
        *,
        written: Callable[[Transaction], None] | None = None,
    ) -> MessageQueue:
        """The queue of this name; made where there is none.

        Where there is one, ``configuration`` becomes its own from now on; None leaves it.

        ``written(transaction)`` is called before it is made or changed, perhaps several times, and
        not where neither has to be done: what it adds to the transaction is written with that, or
        not at all.

        Cancelled: it was made, or not; asking again tells.

        Raises:
            ConfigurationError: a queue that is there cannot be changed so; nothing was changed.
            InvalidArgumentError: the name, or the configuration's type.
            CorruptDataError: its stored configuration is damaged.
            VersionConflictError: a condition of what ``written`` added was not met; nothing was
                changed.
        """
        checked_queue_name(name)
        if configuration is not None and not isinstance(configuration, QueueConfiguration):
            raise InvalidArgumentError(f"not a QueueConfiguration: {configuration!r:.80}")
        async with self._queues.changing(name):
            while (found := await self._find(name)) is None:
                await self._make(name, configuration or QueueConfiguration(), written)
            await self._reconfigure(found, configuration, written)
            return found.queue

    async def get_queue(self, name: str) -> MessageQueue:
        """The queue of this name, with its stored configuration.

        Raises:
            QueueNotFoundError: there is none.
            CorruptDataError: its stored configuration is damaged.
        """
        checked_queue_name(name)
        async with self._queues.changing(name):
            return (await self._get(name)).queue

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with everything in it, and give its space back in small steps.

        Whoever waits for its messages gets `QueueDeletedError`. Cancelled: it is deleted, or not;
        once it is, what is left of it is removed in the background.

        Raises:
            QueueNotFoundError: there is none.
            CorruptDataError: its stored configuration is damaged.
        """
        checked_queue_name(name)
        queues = self._queues
        async with queues.changing(name):
            found = await self._get(name)
            deletion = _Deletion(queues, found)
            try:
                await deletion.write()
            except BaseException:
                deletion.leave_the_rest()
                raise
        try:
            await queues.keeper.pause()
            await queues.removal.remove(found.core.storage)
        except MpregError:
            # It is deleted. What is left of it is removed as soon as that works.
            deletion.leave_the_rest()
        except BaseException:
            deletion.leave_the_rest()
            raise

    async def queue_names(self) -> list[str]:
        """The names of all queues, in order."""
        self._registry.check_thread("a queue manager")
        return await self._queues.stores.names()

    def open_queues(self) -> list[MessageQueue]:
        """Those that are in memory: all that there are, where the first manager was made before the
        registry was opened. Reads nothing."""
        self._registry.check_thread("a queue manager")
        return [found.queue for found in self._queues.open.values()]

    # --- opening ---

    async def _restore(self, report: ReportProgress) -> None:
        # Also where there is no queue any more: something of the last one may be left.
        self._queues.start()
        names = await self.queue_names()
        left, done = iter(names), itertools.count(1)
        failures: list[Exception] = []

        async def restore_some(task_group: TaskGroup) -> None:
            for name in left:
                try:
                    await self._restore_one(name)
                except Exception as failure:  # noqa: BLE001
                    # Told by whoever has started this: not as one of a group.
                    failures.append(failure)
                    task_group.cancel_scope.cancel()
                    return
                report(next(done), len(names), "queues")

        report(0, len(names), "queues")
        # What several ask for at the same time is read in one go.
        async with anyio.create_task_group() as task_group:
            for _ in range(RESTORED_AT_ONCE):
                task_group.start_soon(restore_some, task_group)
        if failures:
            raise failures[0]

    async def _restore_one(self, name: str) -> None:
        try:
            async with self._queues.changing(name):
                await self._find(name)
        except CorruptDataError as damage:
            logger.error("queue %r: cannot be read back; the others can: %s", name, damage)

    async def _get(self, name: str) -> _Open:
        if (found := await self._find(name)) is None:
            raise QueueNotFoundError(
                f"there is no queue {name!r}; nothing was changed", "make it with create_queue"
            )
        return found

    async def _find(self, name: str) -> _Open | None:
        self._queues.start()
        while (found := self._queues.open.get(name)) is not None:
            # A call that was cancelled may have something on its way.
            if found.decided.is_set():
                return found
            await found.decided.wait()
        stored = await self._queues.stores.find(name)
        return None if stored is None else await self._open(name, stored)

    async def _make(
        self,
        name: str,
        configuration: QueueConfiguration,
        written: Callable[[Transaction], None] | None,
    ) -> None:
        stored = StoredQueue((await self._id_maker())(), configuration.encode())
        # Where there is one by now, a call that was cancelled has made it.
        await self._queues.stores.create(name, stored, _first_event(configuration), written)

    async def _open(self, name: str, stored: StoredQueue) -> _Open:
        queues = self._queues
        configuration = stored.settings(name)
        storage = QueueStorage(queues.stores, name, stored.incarnation)
        restored = await restore(storage, configuration, self._registry.clock.wall())
        await replace_lost(storage, restored.state)
        events_end = await self._confirm(storage, configuration, restored)
        core = QueueCore(
            self._registry,
            storage,
            restored.state,
            queues.bodies,
            await self._id_maker(),
            queues.keeper.alarm,
            events_end=events_end,
            changes=restored.changes,
        )
        queues.keeper.add(core, restored.saved)
        core.reconcile()
        queues.open[name] = found = _Open(stored, core, MessageQueue(core))
        return found

    async def _confirm(
        self, storage: QueueStorage, configuration: QueueConfiguration, restored: Restored
    ) -> int:
        """Write what the state must know of its configuration where the event that said so was
        lost to damage; return the offset after the last event."""
        event = Configured(configuration.required_acknowledgments)
        if event.required_acknowledgments == restored.state.required_acknowledgments:
            return restored.events_end
        offset = await storage.events.append(encode(event))
        restored.state.apply(event)
        return offset + 1

    async def _reconfigure(
        self,
        found: _Open,
        configuration: QueueConfiguration | None,
        written: Callable[[Transaction], None] | None,
    ) -> None:
        core = found.core
        if configuration is None or configuration == core.configuration:
            return
        configuration.check_change(core.configuration)
        if configuration.max_bytes is not None:
            # Before it is held against what there is.
            await core.measure()
        stored = StoredQueue(found.stored.incarnation, configuration.encode())

        decided = anyio.Event()

        def settled(committed: bool) -> None:
            decided.set()
            if committed:
                found.stored = stored
                core.configure(configuration)

        async with self._registry.transaction() as transaction:
            core.require_not_deleted(transaction)
            self._queues.stores.put(core.name, stored, transaction)
            if configuration.required_acknowledgments != core.state.required_acknowledgments:
                core.write(Configured(configuration.required_acknowledgments), transaction)
            if written is not None:
                written(transaction)
            transaction.on_settled(settled)
            found.decided = decided
        await core.measure()

    async def _id_maker(self) -> Callable[[], str]:
        """Ids that no other process gives: each has a generation of its own."""
        if self._queues.make_id is None:
            generation = (await self._registry.stats()).generation
            numbers = itertools.count()
            # Another task may have come first meanwhile.
            if self._queues.make_id is None:
                self._queues.make_id = lambda: f"{generation:x}-{next(numbers):x}"
        return self._queues.make_id


def _first_event(configuration: QueueConfiguration) -> Configured | None:
    if configuration.delivery_guarantee is DeliveryGuarantee.QUORUM:
        return Configured(configuration.required_acknowledgments)
    return None

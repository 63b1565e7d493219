"""The queues of a registry: made, found and deleted by name."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import anyio
from attrs import define, field

from mpreg.codec import decode_name
from mpreg.errors import InvalidArgumentError, QueueDeletedError, QueueNotFoundError
from mpreg.persistence import PersistenceRegistry
from mpreg.queues.bodies import Bodies
from mpreg.queues.configuration import QueueConfiguration, StoredQueue
from mpreg.queues.core import QueueCore
from mpreg.queues.keeper import Keeper
from mpreg.queues.queue import MessageQueue
from mpreg.queues.restoring import restore
from mpreg.queues.storage import QueueStorage, SharedStores, checked_queue_name

__all__ = ["MessageQueueManager"]


@define(eq=False)
class _Open:
    """A queue that was asked for."""

    stored: StoredQueue
    core: QueueCore
    queue: MessageQueue


@define(eq=False)
class _Queues:
    """What all managers of one registry share: a queue's state must exist once."""

    registry: PersistenceRegistry
    stores: SharedStores = field(init=False)
    keeper: Keeper = field(init=False)
    bodies: Bodies = field(factory=Bodies)
    open: dict[str, _Open] = field(factory=dict)
    tidied: bool = False
    """Whether what deletions have left that a process before did not finish was removed."""
    left_over: set[str] = field(factory=set)
    """What is left of deletions that were cancelled: their incarnations."""
    changing: anyio.Lock = field(factory=anyio.Lock)
    make_id: Callable[[], str] | None = None

    def __attrs_post_init__(self) -> None:
        self.stores = SharedStores(self.registry)
        self.keeper = Keeper(self.registry)


class MessageQueueManager:
    """The message queues of a registry. Costs nothing; any number of managers are the same::

        queues = MessageQueueManager(registry)
        jobs = await queues.create_queue("jobs")

    A queue is read back when it is first asked for. Its name is any str that is not empty, at most
    900 bytes of UTF-8.
    """

    def __init__(self, registry: PersistenceRegistry) -> None:
        self._registry = registry
        self._queues = registry.subsystem("queues", lambda: _Queues(registry))

    async def create_queue(
        self, name: str, configuration: QueueConfiguration | None = None
    ) -> MessageQueue:
        """The queue of this name; made where there is none.

        Where there is one, ``configuration`` becomes its own from now on; None leaves it.

        Cancelled: it was made, or not; asking again tells.

        Raises:
            ConfigurationError: a queue that is there cannot be changed so; nothing was changed.
            InvalidArgumentError: the name, or the configuration's type.
            CorruptDataError: its stored configuration is damaged.
        """
        checked_queue_name(name)
        if configuration is not None and not isinstance(configuration, QueueConfiguration):
            raise InvalidArgumentError(f"not a QueueConfiguration: {configuration!r:.80}")
        queues = self._queues
        async with queues.changing:
            if (found := queues.open.get(name)) is None:
                stored = await queues.stores.find(name)
                if stored is None:
                    settings = configuration or QueueConfiguration()
                    stored = StoredQueue((await self._id_maker())(), settings.encode())
                    await queues.stores.put(name, stored)
                found = await self._open(name, stored)
            await self._reconfigure(found, configuration)
            return found.queue

    async def get_queue(self, name: str) -> MessageQueue:
        """The queue of this name, with its stored configuration.

        Raises:
            QueueNotFoundError: there is none.
            CorruptDataError: its stored configuration is damaged.
        """
        checked_queue_name(name)
        queues = self._queues
        async with queues.changing:
            return (await self._find(name)).queue

    async def delete_queue(self, name: str) -> None:
        """Delete a queue with everything in it, and give its space back in small steps.

        Whoever waits for its messages gets `QueueDeletedError`. Cancelled: it is deleted, or not;
        once it is, what is left of it is removed when a queue is next opened.

        Raises:
            QueueNotFoundError: there is none.
        """
        checked_queue_name(name)
        queues = self._queues
        async with queues.changing:
            found = await self._find(name)
            core = found.core

            def settled(committed: bool) -> None:
                # Told also where whoever asked for it was cancelled meanwhile.
                if committed and queues.open.get(name) is found:
                    core.close(QueueDeletedError(f"queue {name!r} was deleted"))
                    del queues.open[name]
                    queues.keeper.forget(core)
                    queues.left_over.add(found.stored.incarnation)

            await queues.stores.mark_deleted(name, found.stored, settled)
            await queues.keeper.pause()
            await core.storage.remove_everything(list(core.state.lanes))
            queues.left_over.discard(found.stored.incarnation)

    async def queue_names(self) -> list[str]:
        """The names of all queues, in order."""
        return await self._queues.stores.names()

    # --- opening ---

    async def _find(self, name: str) -> _Open:
        if (found := self._queues.open.get(name)) is not None:
            return found
        if (stored := await self._queues.stores.find(name)) is None:
            raise QueueNotFoundError(f"there is no queue {name!r}")
        return await self._open(name, stored)

    async def _open(self, name: str, stored: StoredQueue) -> _Open:
        queues = self._queues
        if queues.left_over or not queues.tidied:
            queues.left_over.clear()
            await self._remove_deleted()
            queues.tidied = True
        configuration = QueueConfiguration.from_mapping(stored.configuration)
        storage = QueueStorage(queues.stores, name, stored.incarnation)
        restored = await restore(storage, configuration, self._registry.clock.wall())
        core = QueueCore(
            self._registry,
            storage,
            restored.state,
            queues.bodies,
            await self._id_maker(),
            queues.keeper.alarm,
            events_end=restored.events_end,
            changes=restored.changes,
        )
        queues.keeper.add(core, restored.saved)
        core.reconcile()
        queues.open[name] = found = _Open(stored, core, MessageQueue(core))
        return found

    async def _reconfigure(self, found: _Open, configuration: QueueConfiguration | None) -> None:
        core = found.core
        if configuration is None or configuration == core.configuration:
            return
        configuration.check_change(core.configuration)
        stored = StoredQueue(found.stored.incarnation, configuration.encode())
        await self._queues.stores.put(core.name, stored)
        found.stored = stored
        core.configure(configuration)
        await core.measure()

    async def _remove_deleted(self) -> None:
        """Finish deletions that were interrupted."""
        stores = self._queues.stores
        await self._queues.keeper.pause()
        deleted = [entry async for entry in stores.deleted.scan(on_damaged=lambda _: None)]
        for entry in deleted:
            storage = QueueStorage(stores, decode_name(entry.value), str(entry.key))
            restored = await restore(storage, QueueConfiguration(), self._registry.clock.wall())
            await storage.remove_everything(list(restored.state.lanes))

    async def _id_maker(self) -> Callable[[], str]:
        """Ids that no other process gives: each has a generation of its own."""
        if self._queues.make_id is None:
            generation = (await self._registry.stats()).generation
            numbers = itertools.count()
            self._queues.make_id = lambda: f"{generation:x}-{next(numbers):x}"
        return self._queues.make_id

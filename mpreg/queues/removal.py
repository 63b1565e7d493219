"""Giving back the space of queues that were deleted."""

from __future__ import annotations

import anyio
from attrs import define, field

from mpreg.errors import CorruptDataError, MpregError
from mpreg.persistence import LogStore
from mpreg.queues.configuration import QueueConfiguration
from mpreg.queues.core import log as logger
from mpreg.queues.restoring import restore
from mpreg.queues.storage import QueueStorage, SharedStores
from mpreg.queues.upkeep import ENDING

__all__ = ["Removal"]

#: Records removed in one transaction, so that nobody's write waits long behind it.
REMOVED_PER_BATCH = 2_048


@define(eq=False)
class Removal:
    """Everything goes in small steps, and one queue after the other. What is interrupted goes on
    where it was: the queue's incarnation stays marked as deleted until nothing of it is left."""

    _stores: SharedStores
    _removing: anyio.Lock = field(factory=anyio.Lock)

    async def remove(self, storage: QueueStorage) -> None:
        """Remove all that a deleted queue has, if it was not done meanwhile."""
        async with self._removing:
            if not await self._stores.is_deleted(storage.incarnation):
                return
            restored = await restore(storage, QueueConfiguration(), 0.0)
            for number in restored.state.lanes:
                await _remove_log(storage.lane(number))
            await storage.remove_keys()
            # These late: they tell which lanes there are. Snapshots without events do, too.
            await _remove_log(storage.events)
            for snapshot in storage.snapshots():
                await snapshot.delete()
            await self._stores.forget_deleted(storage.incarnation)

    async def remove_left_over(self) -> None:
        """Finish deletions that were interrupted, here or in a process before.

        One that fails does not keep the others from being finished. Raises what the stores raise,
        to be tried again; what is damaged is logged, and waits for the next start.
        """
        failure: MpregError | None = None
        for name, incarnation in await self._stores.deleted_queues():
            try:
                await self.remove(QueueStorage(self._stores, name, incarnation))
            except ENDING:
                raise
            except MpregError as error:
                logger.error("queue %r was deleted; its space is not free yet: %s", name, error)
                if not isinstance(error, CorruptDataError):
                    failure = error
        if failure is not None:
            raise failure


async def _remove_log(log: LogStore) -> None:
    first, end = await log.bounds()
    while end - first > REMOVED_PER_BATCH:
        first = await log.truncate_before(first + REMOVED_PER_BATCH)
    await log.delete()

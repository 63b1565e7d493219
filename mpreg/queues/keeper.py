"""The two tasks that all queues of a registry share: one keeps time, one does the upkeep.

They run in the registry's nursery, and end before its writer does. While nothing is due and
nothing to be done, both sleep: an idle queue costs nothing.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Iterator
from contextlib import suppress

import anyio
from attrs import define, field

from mpreg.errors import (
    CommitUnknownError,
    MpregError,
    QueueDeletedError,
    ReaderStoppedError,
    WriterStoppedError,
)
from mpreg.persistence import PersistenceRegistry
from mpreg.queues.core import QueueCore
from mpreg.queues.core import log as logger
from mpreg.queues.upkeep import Saved, keep_up, next_due, save

__all__ = ["Keeper"]

#: At close: changes that make a snapshot worth it, and how long all of them may take.
SAVED_AT_CLOSE_MIN = 256
SAVE_SECONDS_MAX = 1.0

#: Before upkeep that failed is tried again.
RETRY_SECONDS = 1.0


@define(eq=False)
class _Kept:
    core: QueueCore
    saved: Saved


@define(eq=False)
class Keeper:
    _registry: PersistenceRegistry
    _queues: dict[QueueCore, _Kept] = field(factory=dict)
    _alarms: list[tuple[float, int, _Kept]] = field(factory=list)
    _numbers: Iterator[int] = field(factory=itertools.count)
    _earlier: anyio.Event = field(factory=anyio.Event)
    """Set when an alarm is due before those that were there."""
    _dirty: dict[QueueCore, None] = field(factory=dict)
    """Queues with upkeep to be done, in the order in which they asked."""
    _asked: anyio.Event = field(factory=anyio.Event)
    _working: anyio.Lock = field(factory=anyio.Lock)
    """Held while one queue's upkeep is done."""
    _started: bool = False

    def add(self, core: QueueCore, saved: Saved) -> None:
        """Raises `WriterStoppedError` where the registry is not open."""
        if not self._started:
            self._registry.start_soon(self._run)
            self._started = True
        self._queues[core] = _Kept(core, saved)
        self.alarm(core)

    def forget(self, core: QueueCore) -> None:
        """Nothing is begun for the queue any more."""
        self._queues.pop(core, None)
        self._dirty.pop(core, None)

    async def pause(self) -> None:
        """When this returns, what was begun for queues that were forgotten is over."""
        async with self._working:
            pass

    def alarm(self, core: QueueCore) -> None:
        """A queue's next time may have come nearer, or it may have upkeep to be done."""
        if (kept := self._queues.get(core)) is None:
            return
        if core.dirty and core not in self._dirty:
            self._dirty[core] = None
            self._asked.set()
        if (due := next_due(core)) < core.armed:
            self._arm(kept, due)

    def _arm(self, kept: _Kept, due: float) -> None:
        kept.core.armed = due
        if not self._alarms or due < self._alarms[0][0]:
            self._earlier.set()
        heapq.heappush(self._alarms, (due, next(self._numbers), kept))

    # --- the tasks ---

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._keep_time)
                await self._keep_up()
        finally:
            for core in self._queues:
                core.close(WriterStoppedError("the registry has closed, and its queues with it"))
            with anyio.move_on_after(SAVE_SECONDS_MAX, shield=True), suppress(MpregError):
                await self._save_all()

    async def _save_all(self) -> None:
        """So that the next start reads a snapshot, and no events. Nothing depends on it."""
        for kept in sorted(self._queues.values(), key=lambda kept: -kept.core.changes):
            if kept.core.changes >= SAVED_AT_CLOSE_MIN:
                await save(kept.core, kept.saved)

    async def _keep_time(self) -> None:
        while True:
            now = anyio.current_time()
            while self._alarms and self._alarms[0][0] <= now:
                due, _, kept = heapq.heappop(self._alarms)
                # An alarm that was overtaken by an earlier one has nothing to say any more.
                if due == kept.core.armed and kept.core in self._queues:
                    self._ring(kept, now)
            self._earlier = anyio.Event()
            with anyio.move_on_at(self._alarms[0][0] if self._alarms else math.inf):
                await self._earlier.wait()

    def _ring(self, kept: _Kept, now: float) -> None:
        kept.core.armed = math.inf
        kept.core.tick(now)
        if (due := next_due(kept.core)) < math.inf:
            self._arm(kept, max(due, now))

    async def _keep_up(self) -> None:
        while True:
            while self._dirty:
                async with self._working:
                    await self._keep_next_up()
            self._asked = anyio.Event()
            await self._asked.wait()

    async def _keep_next_up(self) -> None:
        if not self._dirty:
            return
        core = next(iter(self._dirty))
        del self._dirty[core]
        try:
            await keep_up(core, self._queues[core].saved)
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            # The registry is closing, and will cancel this task.
            await anyio.sleep_forever()
        except QueueDeletedError:
            pass
        except MpregError as error:
            logger.error("queue %r: upkeep failed, and is tried again: %s", core.name, error)
            core.retry_due = anyio.current_time() + RETRY_SECONDS
            self.alarm(core)

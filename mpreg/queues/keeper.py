"""The two tasks that all queues of a registry share: one keeps time, one does the upkeep.

They run in the registry's nursery, and end before its writer does: when the registry closes, they
are stopped, and what is only in memory is written. While nothing is due and nothing to be done,
both sleep: an idle queue costs nothing.
"""

from __future__ import annotations

import enum
import heapq
import itertools
import math
from collections.abc import Awaitable, Callable, Iterator
from functools import partial

import anyio
from attrs import define, field

from mpreg.errors import MpregError, QueueDeletedError, WriterStoppedError
from mpreg.persistence import PersistenceRegistry
from mpreg.queues.core import QueueCore
from mpreg.queues.core import log as logger
from mpreg.queues.upkeep import (
    ENDING,
    Saved,
    keep_up,
    next_due,
    save,
    write_passed,
    write_released,
)

__all__ = ["Keeper"]

#: Changes that make a snapshot worth it when it is asked for, and at close.
SAVED_AT_CLOSE_MIN = 256

#: Before upkeep that failed is tried again: twice as long each time.
RETRY_SECONDS = 1.0
RETRY_SECONDS_MAX = 60.0


#: Up to here, and twice the number of queues, alarms that were overtaken are just kept.
ALARMS_MIN = 64


class _State(enum.Enum):
    NEW = "new"
    """May be followed by RUNNING."""
    RUNNING = "running"
    """Followed by ENDED."""
    ENDED = "ended"


@define(eq=False)
class _Kept:
    core: QueueCore | None
    """None: forgotten. An alarm may be set for it all the same, for years."""
    saved: Saved
    retry_seconds: float = RETRY_SECONDS


@define(eq=False)
class Keeper:
    _registry: PersistenceRegistry
    _tidy: Callable[[], Awaitable[None]]
    """Removes what deleted queues have left."""
    _queues: dict[QueueCore, _Kept] = field(factory=dict)
    _alarms: list[tuple[float, int, _Kept]] = field(factory=list)
    _numbers: Iterator[int] = field(factory=itertools.count)
    _earlier: anyio.Event = field(factory=anyio.Event)
    """Set when an alarm is due before those that were there."""
    _dirty: dict[QueueCore, None] = field(factory=dict)
    """Queues with upkeep to be done, in the order in which they asked."""
    _untidy: bool = True
    """Whether something of deleted queues may be left: a process before may have ended in it."""
    _asked: anyio.Event = field(factory=anyio.Event)
    """Set when there is something dirty."""
    _asked_to_tidy: anyio.Event = field(factory=anyio.Event)
    _working: anyio.Lock = field(factory=anyio.Lock)
    """Held while one queue's upkeep is done, or its state saved."""
    _state: _State = _State.NEW
    _stop: anyio.Event = field(factory=anyio.Event)
    _stopped: anyio.Event = field(factory=anyio.Event)
    """Set when the tasks have ended."""

    def start(self) -> None:
        """Begin, unless it has begun.

        Raises:
            WriterStoppedError: the registry is not open (any more).
        """
        if self._state is _State.ENDED:
            raise _closed()
        if self._state is _State.NEW:
            self._registry.start_soon(self._run)
            self._state = _State.RUNNING

    def add(self, core: QueueCore, saved: Saved) -> None:
        """From now on it is looked after. Raises what `start` raises."""
        self.start()
        self._queues[core] = _Kept(core, saved)
        self.alarm(core)

    def forget(self, core: QueueCore) -> None:
        """Nothing is begun for the queue any more."""
        if (kept := self._queues.pop(core, None)) is not None:
            kept.core = None
        self._dirty.pop(core, None)

    async def pause(self) -> None:
        """When this returns, what was begun for queues that were forgotten is over."""
        async with self._working:
            pass

    def tidy_up(self) -> None:
        """Something of a deleted queue may be left."""
        self._untidy = True
        self._asked_to_tidy.set()

    def alarm(self, core: QueueCore) -> None:
        """A queue's next time may have come nearer, or it may have upkeep to be done."""
        if (kept := self._queues.get(core)) is None:
            return
        if core.dirty and core not in self._dirty:
            self._dirty[core] = None
            self._asked.set()
        if (due := next_due(core)) < core.armed:
            self._arm(core, kept, due)

    def _arm(self, core: QueueCore, kept: _Kept, due: float) -> None:
        core.armed = due
        if len(self._alarms) > ALARMS_MIN + 2 * len(self._queues):
            self._alarms = [one for one in self._alarms if _counts(one)]
            heapq.heapify(self._alarms)
        if not self._alarms or due < self._alarms[0][0]:
            self._earlier.set()
        heapq.heappush(self._alarms, (due, next(self._numbers), kept))

    # --- hooks of the registry ---

    async def save_snapshots(self) -> None:
        """Save the state of every queue of which enough has changed since it was last saved.

        Cancelled: the snapshot under way is as if it had not been begun. One that fails keeps no
        other from being saved; the first failure is raised when all were tried.
        """
        kept = [(core, kept.saved) for core, kept in self._queues.items() if _is_worth_it(core)]
        failures: list[MpregError] = []
        for core, saved in sorted(kept, key=lambda one: -one[0].changes):
            async with self._working:
                # Upkeep may have done so meanwhile.
                if core in self._queues and _is_worth_it(core):
                    try:
                        await save(core, saved)
                    except QueueDeletedError:
                        # Nobody will ask for it. If that is refused, upkeep is asked for.
                        continue
                    except MpregError as failure:
                        failures.append(failure)
        if failures:
            raise failures[0]

    async def before_close(self) -> None:
        """Stop the tasks, and write what was given back unseen, so that it does not count after the
        next start, and what was passed over. No promise depends on it."""
        if self._state is _State.NEW:
            self._state = _State.ENDED
            return
        self._stop.set()
        await self._stopped.wait()
        for core in list(self._queues):
            await _try_to_write(partial(_write_unseen, core))
        # What was written now is beyond the snapshots of a moment ago.
        await _try_to_write(self.save_snapshots)

    # --- the tasks ---

    async def _run(self) -> None:
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(self._keep_time)
                task_group.start_soon(self._keep_tidy)
                task_group.start_soon(self._keep_up)
                await self._stop.wait()
                task_group.cancel_scope.cancel()
        finally:
            self._state = _State.ENDED
            for core in self._queues:
                core.close(_closed())
            self._stopped.set()

    async def _keep_time(self) -> None:
        while True:
            now = anyio.current_time()
            while self._alarms and self._alarms[0][0] <= now:
                due, _, kept = heapq.heappop(self._alarms)
                # An alarm that was overtaken by an earlier one has nothing to say any more.
                if kept.core is not None and due == kept.core.armed:
                    self._ring(kept.core, kept, now)
            self._earlier = anyio.Event()
            with anyio.move_on_at(self._alarms[0][0] if self._alarms else math.inf):
                await self._earlier.wait()

    def _ring(self, core: QueueCore, kept: _Kept, now: float) -> None:
        core.armed = math.inf
        core.tick(now)
        if (due := next_due(core)) < math.inf:
            self._arm(core, kept, max(due, now))

    async def _keep_up(self) -> None:
        while True:
            while self._dirty:
                async with self._working:
                    await self._keep_next_up()
            self._asked = anyio.Event()
            await self._asked.wait()

    async def _keep_tidy(self) -> None:
        seconds = RETRY_SECONDS
        while True:
            self._asked_to_tidy = anyio.Event()
            if not self._untidy:
                await self._asked_to_tidy.wait()
            self._untidy = False
            try:
                await self.pause()
                await self._tidy()
            except ENDING:
                await anyio.sleep_forever()
            except MpregError as error:
                logger.error(
                    "what deleted queues have left is removed in %.0f s: %s", seconds, error
                )
                self._untidy = True
                await anyio.sleep(seconds)
                seconds = min(2 * seconds, RETRY_SECONDS_MAX)
            else:
                seconds = RETRY_SECONDS

    async def _keep_next_up(self) -> None:
        if not self._dirty:
            return
        core = next(iter(self._dirty))
        del self._dirty[core]
        kept = self._queues[core]
        try:
            failures = await keep_up(core, kept.saved)
        except QueueDeletedError:
            return
        except ENDING:
            # The registry is closing, and will cancel this task.
            await anyio.sleep_forever()
        if not failures:
            kept.retry_seconds = RETRY_SECONDS
            return
        seconds = kept.retry_seconds
        for error in failures:
            logger.error(
                "queue %r: upkeep failed, and is tried again in %.0f s: %s",
                core.name,
                seconds,
                error,
            )
        core.upkeep_due = anyio.current_time() + seconds
        kept.retry_seconds = min(2 * seconds, RETRY_SECONDS_MAX)
        self.alarm(core)


async def _write_unseen(core: QueueCore) -> None:
    core.inbox.empty()
    if core.stored:
        core.hand_outs.forgive_ahead()
        await write_released(core)
        await write_passed(core)


async def _try_to_write(write: Callable[[], Awaitable[None]]) -> None:
    """The last notes of a queue: where that fails, the others are to be written all the same."""
    try:
        await write()
    except ENDING:
        # There is nothing more to be written.
        return
    except MpregError as error:
        logger.warning(
            "a queue's last notes could not be written, so what nobody has seen may count as "
            "delivered after the next start: %s",
            error,
        )


def _is_worth_it(core: QueueCore) -> bool:
    return core.changes >= SAVED_AT_CLOSE_MIN


def _counts(alarm: tuple[float, int, _Kept]) -> bool:
    due, _, kept = alarm
    return kept.core is not None and due == kept.core.armed


def _closed() -> WriterStoppedError:
    return WriterStoppedError("the registry has closed, and its queues with it")

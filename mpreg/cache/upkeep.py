"""What a cache does at leisure: remove what was invalidated, keep its bounds, note what is hot.

One task for each cache. Where there is nothing to do it sleeps: an idle cache costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from itertools import islice
from typing import Final, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache.core import CacheCore, log
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import decode_key
from mpreg.cache.restoring import Restoring, save_heat
from mpreg.cache.writes import Change, OvertakenError, Write
from mpreg.errors import (
    CommitUnknownError,
    MpregError,
    ReaderStoppedError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import Durability

__all__ = ["Upkeep"]

#: Entries removed in one batch, so that nobody's write waits long behind it.
REMOVED_PER_BATCH: Final = 256

#: Keys looked through in one turn of the event loop.
KEYS_PER_TURN: Final = 1_024

#: Between two times that what has expired is removed, at least.
EXPIRED_PAUSE_SECONDS: Final = 1.0

#: Before what failed is tried again.
RETRY_SECONDS: Final = 5.0

T = TypeVar("T")


@define(eq=False)
class Upkeep:
    _core: CacheCore
    restoring: Restoring = field(init=False)
    _asked: anyio.Event = field(factory=anyio.Event)

    def __attrs_post_init__(self) -> None:
        self.restoring = Restoring(self._core)
        self._core.ask_for_upkeep = self.ask
        self._core.until_counted = self.restoring.until_counted

    def ask(self) -> None:
        self._asked.set()

    async def run(self) -> None:
        """Until it is cancelled, or the stores have stopped."""
        try:
            await self.restoring.run()
            heat_due = math.inf
            while True:
                retry = not await self._try_once()
                now = anyio.current_time()
                if self._core.is_heat_old:
                    heat_due = min(heat_due, now + self._core.configuration.heat_interval_seconds)
                await self._wait(heat_due, retry=retry)
                if heat_due <= anyio.current_time():
                    heat_due = math.inf
                    await self._try_saving_heat()
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            # The registry is ending, and says why.
            return
        finally:
            self.restoring.stop()

    async def _wait(self, heat_due: float, *, retry: bool) -> None:
        now = anyio.current_time()
        index = self._core.index
        expires_in = index.next_expiry - self._core.wall() if index.is_complete else math.inf
        due = min(heat_due, now + max(expires_in, EXPIRED_PAUSE_SECONDS))
        if retry:
            due = min(due, now + RETRY_SECONDS)
        with anyio.move_on_at(due):
            await self._asked.wait()

    async def _try_once(self) -> bool:
        """Whether all is done that is to be done now."""
        self._asked = anyio.Event()
        if not self._core.index.is_complete:
            # A barrier would go though what it has invalidated is still there.
            return True
        try:
            await self.tidy_up()
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            raise
        except MpregError as error:
            log.warning("upkeep of a cache failed, and is tried again: %s", error)
            return False
        return not self._core.barriers.standing() and not self._core.index.is_over

    async def _try_saving_heat(self) -> None:
        try:
            await self.save_heat()
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            raise
        except MpregError as error:
            log.warning("the most used keys of a cache were not written down: %s", error)

    async def save_heat(self) -> None:
        """Where it is worth it: an L1 that is not warm yet knows less than what is written."""
        if self._core.is_heat_old and self.restoring.is_warm:
            self._core.is_heat_old = False
            try:
                await save_heat(self._core)
            except BaseException:
                self._core.is_heat_old = True
                raise

    # --- removing ---

    async def tidy_up(self) -> None:
        """Raises what writes raise; what was removed is removed."""
        if standing := self._core.barriers.standing():
            await self._remove(standing)
        await self._remove_expired()
        await self._forget_dependencies()
        await self._fit()

    async def _remove(self, standing: list[tuple[Target, int]]) -> None:
        """What is dead, and the barriers behind which nothing is left then. All of them together:
        however many there are, the index is gone through twice."""
        for dead in _batches(await self._dead(standing), REMOVED_PER_BATCH):
            await self._delete(dead)
        left = await self._dead(standing)
        lowered = [one for one in standing if not self._is_anything_behind(one, left)]
        self._core.is_anything_left = len(lowered) < len(standing)
        for barriers in _batches(lowered, REMOVED_PER_BATCH):
            await self._lower(barriers)

    async def _dead(self, standing: list[tuple[Target, int]]) -> list[tuple[bytes, int]]:
        """Keys, each with the version that is dead."""
        index, dead = self._core.index, dict[bytes, int]()
        for target, barrier in standing:
            if not isinstance(target, Prefix):
                dead.update(index.linked(target, barrier))
        if kills := self._core.barriers.killer():
            for keys in _batches(index.keys(), KEYS_PER_TURN):
                dead.update(index.killed(keys, kills))
                await anyio.lowlevel.checkpoint()
        return list(dead.items())

    def _is_anything_behind(
        self, barrier: tuple[Target, int], left: list[tuple[bytes, int]]
    ) -> bool:
        target, raised_by = barrier
        if isinstance(target, Prefix):
            return any(
                key.startswith(target.encoded) and version < raised_by for key, version in left
            )
        return bool(self._core.index.linked(target, raised_by))

    async def _remove_expired(self) -> None:
        index, now, expired = self._core.index, self._core.wall(), dict[bytes, None]()
        try:
            while index.next_expiry <= now:
                expired.update(dict.fromkeys(index.take_expired(now, KEYS_PER_TURN)))
                await anyio.lowlevel.checkpoint()
            for keys in _batches(list(expired), REMOVED_PER_BATCH):
                await self._delete([(key, 0) for key in keys])
        finally:
            # Those that are still there: they were put again, or a clock was set back.
            index.expect_again(expired)

    async def _delete(self, keys: list[tuple[bytes, int]]) -> None:
        """Those that are still of this version; 0: that the store sees no more. A key that was put
        again meanwhile keeps that, and costs the batch."""
        dead = [one for one in keys if not self._core.in_flight.is_written(one[0])]
        try:
            await self._send_deletions(dead)
        except VersionConflictError:
            for key, version in dead:
                # As it was looked at, or expired since; else it was put again.
                with suppress(VersionConflictError):
                    await self._send_deletions([(key, version)])
                    continue
                with suppress(VersionConflictError):
                    await self._send_deletions([(key, 0)])

    async def _send_deletions(self, dead: list[tuple[bytes, int]]) -> None:
        if not dead:
            return
        core = self._core
        write = Write(
            changes=[Change(decode_key(key), key, None, 0) for key, _ in dead],
            own=[core.storage.delete(key, version) for key, version in dead],
            is_tidying=True,
        )
        await core.send(write, Durability.RELAXED)
        await write.acks[0]

    async def _lower(self, barriers: list[tuple[Target, int]]) -> None:
        """They go: nothing is left behind them, on disk or in memory."""
        core, sent = self._core, list[Write]()
        for target, version in barriers:
            write = Write(own=[core.storage.lower(target, version)], is_tidying=True)
            await core.send(write, Durability.RELAXED)
            sent.append(write)
        for (target, version), write in zip(barriers, sent, strict=True):
            try:
                await write.acks[0]
            except VersionConflictError as conflict:
                if conflict.found_version:
                    # It was raised again.
                    continue
            core.barriers.lower(target, version)

    async def _forget_dependencies(self) -> None:
        """Keys that nothing depends on any more."""
        core = self._core
        for dependency in list(core.barriers.depended_on):
            if not core.dependents.is_not_in_use(dependency):
                continue
            write = Write(
                own=[core.storage.no_longer_depend(dependency)],
                is_wanted=partial(core.dependents.is_not_in_use, dependency),
                is_tidying=True,
            )
            try:
                await core.send(write, Durability.RELAXED)
            except OvertakenError:
                continue
            # From here on, who depends on it says so anew, in a batch that comes later.
            core.barriers.depended_on.discard(dependency)
            await write.acks[0]

    async def _fit(self) -> None:
        """After the bounds were lowered, or were overrun while nothing was known of L2."""
        core = self._core
        while core.index.is_over:
            write = Write()
            await core.send(write, Durability.RELAXED)
            if not write.victims:
                return
            await write.acks[0]


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch

"""What a cache does at leisure: remove what was invalidated, keep its bounds, note what is hot.

One task for each cache. Where there is nothing to do it sleeps: an idle cache costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import suppress
from itertools import islice
from typing import Final, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache.core import CacheCore, log
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import decode_key
from mpreg.cache.restoring import RETRY_SECONDS, Restoring, save_heat
from mpreg.cache.writes import Change, OvertakenError, Write
from mpreg.errors import (
    CommitUnknownError,
    MpregError,
    ReaderStoppedError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import Durability
from mpreg.persistence.batch import OPERATION_OVERHEAD_BYTES

__all__ = ["Upkeep"]

#: Entries removed in one batch, so that nobody's write waits long behind it.
REMOVED_PER_BATCH: Final = 256

#: Keys looked through in one turn of the event loop.
KEYS_PER_TURN: Final = 1_024

#: Between two times that what has expired is removed, at least.
EXPIRED_PAUSE_SECONDS: Final = 1.0

T = TypeVar("T")


@define(eq=False)
class Upkeep:
    _core: CacheCore
    restoring: Restoring = field(init=False)
    _asked: anyio.Event = field(factory=anyio.Event)
    _are_dependencies_known: bool = False
    """Whether those that were noted before the start have been looked at."""

    def __attrs_post_init__(self) -> None:
        self.restoring = Restoring(self._core)
        self._core.ask_for_upkeep = self.ask
        self._core.until_counted = self.restoring.until_counted

    @property
    def _removed_per_batch(self) -> int:
        """As many as one batch holds, where that is small."""
        bytes_max = self._core.registry.config.batch_bytes_max
        return max(1, min(REMOVED_PER_BATCH, bytes_max // OPERATION_OVERHEAD_BYTES))

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
        for dead in _batches(await self._dead(standing), self._removed_per_batch):
            await self._delete(dead)
        left = await self._dead(standing)
        lowered = [one for one in standing if not self._is_anything_behind(one, left)]
        self._core.is_anything_left = len(lowered) < len(standing)
        for barriers in _batches(lowered, self._removed_per_batch):
            await self._lower(barriers)

    async def _dead(self, standing: list[tuple[Target, int]]) -> list[tuple[bytes, int]]:
        """Keys, each with the version that is dead."""
        index, barriers, dead = self._core.index, self._core.barriers, dict[bytes, int]()
        links = [target for target, _ in standing if not isinstance(target, Prefix)]
        # What a barrier over keys kills is anywhere, and so is what depends on these.
        concerned = [index.keys()] if barriers.are_keys_barred else map(index.linked, links)
        for some in concerned:
            for keys in _batches(some, KEYS_PER_TURN):
                dead.update(index.killed(keys, barriers.kills))
                await anyio.lowlevel.checkpoint()
        return list(dead.items())

    def _is_anything_behind(
        self, barrier: tuple[Target, int], left: list[tuple[bytes, int]]
    ) -> bool:
        target, raised_by = barrier
        index = self._core.index
        for key, version in left:
            if version < raised_by:
                links = index.links(key)
                if target in links or (isinstance(target, Prefix) and target.concerns(key, links)):
                    return True
        return False

    async def _remove_expired(self) -> None:
        index, now, left = self._core.index, self._core.wall(), list[bytes]()
        try:
            while index.next_expiry <= now:
                expired = index.take_expired(now, self._removed_per_batch)
                try:
                    await self._delete([(key, 0) for key in expired])
                finally:
                    left += filter(index.stored.__contains__, expired)
                await anyio.lowlevel.checkpoint()
        finally:
            # Those that are still there: they were put again, or a clock was set back.
            index.expect_again(left)

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
        """Keys that nothing depends on any more. Only those are looked at of which that was true at
        some time: any number of others may be depended on."""
        core = self._core
        deserted = core.index.deserted
        if not self._are_dependencies_known:
            # Of those that were noted before the start it is not known.
            for some in _batches(list(core.barriers.depended_on.keys), KEYS_PER_TURN):
                deserted.update(dict.fromkeys(filter(core.dependents.is_not_in_use, some)))
                await anyio.lowlevel.checkpoint()
            self._are_dependencies_known = True
        for some in _batches(list(deserted), self._removed_per_batch):
            _forget_all(deserted, [one for one in some if one in core.index.by_link])
            await self._forget([one for one in some if core.dependents.is_not_in_use(one)])
            await anyio.lowlevel.checkpoint()

    async def _forget(self, dependencies: list[bytes]) -> None:
        if not dependencies:
            return
        core = self._core
        write = Write(
            own=[core.storage.no_longer_depend(one) for one in dependencies],
            is_wanted=lambda: all(map(core.dependents.is_not_in_use, dependencies)),
            is_tidying=True,
        )
        try:
            await core.send(write, Durability.RELAXED)
        except OvertakenError:
            return
        # From here on, who depends on one of them says so anew, in a batch that comes later.
        core.barriers.depended_on.difference_update(dependencies)
        await write.acks[0]
        _forget_all(
            core.index.deserted,
            [one for one in dependencies if one not in core.barriers.depended_on],
        )

    async def _fit(self) -> None:
        """After the bounds were lowered, or were overrun while nothing was known of L2."""
        core = self._core
        while core.index.is_over:
            write = Write()
            await core.send(write, Durability.RELAXED)
            if not write.victims:
                return
            await write.acks[0]


def _forget_all(keys: dict[bytes, None], some: list[bytes]) -> None:
    for key in some:
        keys.pop(key, None)


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch

"""What a cache does at leisure: remove what was invalidated, keep its bounds, note what is hot.

One task for each cache. Where there is nothing to do it sleeps: an idle cache costs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Final, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache.core import CacheCore, log
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import decode_key
from mpreg.cache.restoring import Restoring, save_heat
from mpreg.cache.writes import Change, Write
from mpreg.errors import (
    CommitUnknownError,
    MpregError,
    ReaderStoppedError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import Ack, Durability

__all__ = ["Upkeep"]

#: Entries removed in one batch, so that nobody's write waits long behind it.
REMOVED_PER_BATCH: Final = 256

#: Keys looked through in one turn of the event loop.
KEYS_PER_TURN: Final = 1_024

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
                failed = not await self._try_once()
                now = anyio.current_time()
                if self._core.is_heat_old:
                    heat_due = min(heat_due, now + self._core.configuration.heat_interval_seconds)
                await self._wait(heat_due, retry=failed)
                if heat_due <= anyio.current_time():
                    heat_due = math.inf
                    await self._try_saving_heat()
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            # The registry is ending, and says why.
            return
        finally:
            self.restoring.stop()

    async def _wait(self, heat_due: float, *, retry: bool) -> None:
        deadline = anyio.current_time() + RETRY_SECONDS if retry else math.inf
        with anyio.move_on_at(min(heat_due, deadline)):
            await self._asked.wait()

    async def _try_once(self) -> bool:
        self._asked = anyio.Event()
        try:
            await self.tidy_up()
        except (WriterStoppedError, ReaderStoppedError, CommitUnknownError):
            raise
        except MpregError as error:
            log.warning("upkeep of a cache failed, and is tried again: %s", error)
            return False
        return True

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

    async def _delete(self, keys: list[tuple[bytes, int]]) -> None:
        """Those that are still of this version. A key that was put again meanwhile keeps that, and
        costs the batch."""
        core = self._core
        dead = [
            (key, version)
            for key, version in keys
            if (stored := core.index.stored.get(key)) is not None
            and stored.version == version
            and not core.is_written(key)
        ]
        try:
            await self._send_deletions(dead)
        except VersionConflictError:
            for one in dead:
                try:
                    await self._send_deletions([one])
                except VersionConflictError:
                    # It has expired, or was put again: what is on disk is not what was looked at.
                    if (now := core.index.stored.get(one[0])) and now.version == one[1]:
                        core.index.remove(one[0])
                        core.memory.discard(decode_key(one[0]))

    async def _send_deletions(self, dead: list[tuple[bytes, int]]) -> None:
        if not dead:
            return
        core = self._core
        write = Write(
            changes=[Change(decode_key(key), key, None, 0) for key, _ in dead],
            operations=[core.storage.delete(key, version) for key, version in dead],
            is_tidying=True,
        )
        await core.send(write, Durability.RELAXED)
        await write.acks[0]

    async def _lower(self, barriers: list[tuple[Target, int]]) -> None:
        """They go: nothing is left behind them, on disk or in memory."""
        core, sent = self._core, list[Ack[bool]]()
        for target, version in barriers:
            operation = core.storage.lower(target, version)
            sent += await core.storage.send([operation], _nothing, Durability.RELAXED)
        for (target, version), ack in zip(barriers, sent, strict=True):
            try:
                await ack
            except VersionConflictError as conflict:
                if conflict.found_version:
                    # It was raised again.
                    continue
            core.barriers.lower(target, version)

    async def _forget_dependencies(self) -> None:
        """Keys that nothing depends on any more."""
        core = self._core
        for dependency in list(core.barriers.depended_on):
            if core.index.by_link.get(dependency) or core.is_becoming_depended_on(dependency):
                continue
            # From here on, who depends on it says so anew, in a batch that comes later.
            core.barriers.depended_on.discard(dependency)
            operation = core.storage.no_longer_depend(dependency)
            acks = await core.storage.send([operation], _nothing, Durability.RELAXED)
            await acks[0]

    async def _fit(self) -> None:
        """After the bounds were lowered, or were overrun while nothing was known of L2."""
        core = self._core
        while core.index.is_over:
            write = Write()
            await core.send(write, Durability.RELAXED)
            if not write.victims:
                return
            await write.acks[0]


def _nothing(_results: object) -> None:
    """Nobody follows it."""


def _batches(items: list[T], size: int) -> Iterator[list[T]]:
    left = iter(items)
    while batch := list(islice(left, size)):
        yield batch

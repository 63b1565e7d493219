"""What is read back at start: the invalidations at once, the rest in the background.

L1 is warmed first, with the most used entries of the process before, hottest first. Then all of L2
is gone through once, so that it is known how much there is: only from then on its bounds can make
anything go, and a key that is not there is known without a look at the disk.

Reads work meanwhile, from L2.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache.core import CacheCore, log
from mpreg.cache.entry import CachedEntry
from mpreg.cache.index import ENTRY_OVERHEAD_BYTES, Stored
from mpreg.cache.keys import decode_key
from mpreg.cache.records import decode_record
from mpreg.cache.statistics import WarmUpState
from mpreg.errors import CorruptDataError, ReaderStoppedError, StorageIOError
from mpreg.persistence import Entry

__all__ = ["RETRY_SECONDS", "Restoring", "restore_invalidations"]

#: Keys read in one go: the reader's other callers wait as long.
KEYS_PER_READ = 512

#: Before what failed is tried again.
RETRY_SECONDS: Final = 5.0


async def restore_invalidations(core: CacheCore, report: Callable[[int], None]) -> None:
    """Before anything is read. They are few: one for each invalidation whose entries are not all
    removed yet, and one for each key that others depend on.

    Raises:
        CorruptDataError: what is invalid cannot be told any more; nothing is served.
    """
    count = 0
    async for entry in core.storage.invalidations.scan():
        assert isinstance(entry.key, bytes)
        try:
            core.barriers.restore(entry.key, entry.version)
        except ValueError as error:
            raise CorruptDataError(str(error), None, "the invalidations of a cache") from error
        count += 1
        report(count)


@define(eq=False)
class Restoring:
    """The part in the background, once."""

    _core: CacheCore
    state: WarmUpState = WarmUpState.NOT_BEGUN
    warmed: int = 0
    total: int | None = None
    warm_up_seconds: float | None = None
    counting_seconds: float | None = None
    warm: anyio.Event = field(factory=anyio.Event)
    """Set when L1 is warm."""
    counted: anyio.Event = field(factory=anyio.Event)
    """Set when it is known what L2 holds."""
    is_stopped: bool = False
    _unreadable: CorruptDataError | StorageIOError | None = None
    """Why L2 cannot be counted, where a page of its database is damaged; or could not be until now,
    where the system did not let it be read."""
    _bytes_max: int = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._bytes_max = self._core.configuration.memory_bytes_max

    @property
    def is_warm(self) -> bool:
        return self.state in (WarmUpState.COUNTING, WarmUpState.DONE)

    async def until_warm(self) -> None:
        """Raises `ReaderStoppedError` where it was stopped before, as `until_counted` does."""
        await self._until(self.warm)

    async def until_counted(self) -> None:
        """Raises `CorruptDataError` where that cannot be: what needs it is not done; and
        `StorageIOError` where it cannot be now."""
        await self._until(self.counted)
        if (error := self._unreadable) is not None:
            raise _not_counted(error) from error

    async def _until(self, done: anyio.Event) -> None:
        await done.wait()
        if self.is_stopped:
            raise ReaderStoppedError("the registry closed before the cache was read back")

    def stop(self) -> None:
        """It does not go on: nobody must wait for ever."""
        self.is_stopped = self.state is not WarmUpState.DONE
        self.warm.set()
        self.counted.set()

    async def run(self) -> None:
        """Raises what the reader raises where it has stopped. All else that cannot be read is told,
        and nobody else has to end for it."""
        began = anyio.current_time()
        self.state = WarmUpState.WARMING
        await self._put_in_order(await self._warm_up())
        self.warm_up_seconds = anyio.current_time() - began
        self.state = WarmUpState.COUNTING
        self.warm.set()
        began = anyio.current_time()
        try:
            await self._until_it_counted()
        except CorruptDataError as error:
            # The rest can be read, and is served. Bounds are not kept, and nothing is removed:
            # what would have to go is not known.
            self._unreadable = error
            self._core.reader.damaged(error)
            self.counted.set()
            return
        self.counting_seconds = anyio.current_time() - began
        self.state = WarmUpState.DONE
        log.info(
            "cache %r: %d entries in L1 after %.3f s, %d in L2 counted in %.3f s",
            self._core.configuration.name,
            self.warmed,
            self.warm_up_seconds,
            len(self._core.index),
            self.counting_seconds,
        )

    # --- L1 ---

    async def _warm_up(self) -> list[CachedEntry]:
        try:
            keys = await self._core.storage.load_heat()
        except CorruptDataError as error:
            log.error("L1 begins cold: %s", error)
            keys = []
        except StorageIOError as error:
            log.warning("L1 begins cold: %s", error)
            keys = []
        configuration = self._core.configuration
        if configuration.warm_up_bytes_max is not None:
            self._bytes_max = configuration.warm_up_bytes_max
        if (entries_max := configuration.warm_up_entries_max) is not None:
            keys = keys[:entries_max]
        del keys[configuration.memory_entries_max :]
        self.total = len(keys)
        taken: list[CachedEntry] = []
        try:
            for start in range(0, len(keys), KEYS_PER_READ):
                if not await self._read(keys[start : start + KEYS_PER_READ], taken):
                    break
        except StorageIOError as error:
            log.warning("L1 is not warmed any further: %s", error)
        return taken

    async def _read(self, keys: list[bytes], taken: list[CachedEntry]) -> bool:
        """False where the budget is used up."""
        core, offer, bytes_max = self._core, self._core.memory.offer, self._bytes_max
        with core.reads.noting_changes() as changed:
            found = await core.storage.read_many(keys, core.reader.damaged)
        for encoded, stored in zip(keys, found, strict=True):
            if stored is None or encoded in changed:
                continue
            entry = core.reader.decode(decode_key(encoded), encoded, stored)
            if entry is None or not core.reader.is_alive(entry):
                continue
            # Nothing is evicted for it: what is there is hotter.
            is_held = offer(entry, bytes_max)
            if is_held:
                taken.append(entry)
            elif is_held is False:
                self.warmed = len(taken)
                return False
        self.warmed = len(taken)
        return True

    async def _put_in_order(self, taken: list[CachedEntry]) -> None:
        """The hottest was read first, and is to be the last to go: as if they had been used in the
        opposite order."""
        peek, touch = self._core.memory.peek, self._core.memory.touch
        for number, entry in enumerate(reversed(taken)):
            key = entry.key
            if peek(key) is entry:
                touch(key)
            if number % KEYS_PER_READ == 0:
                await anyio.lowlevel.checkpoint()

    # --- L2 ---

    async def _until_it_counted(self) -> None:
        """Again where the system did not let it be read: it had no file left to open, say."""
        while True:
            try:
                return await self._count()
            except StorageIOError as error:
                log.warning("a cache could not be counted, and that is tried again: %s", error)
                self._unreadable = error
                self.counted.set()
            await anyio.sleep(RETRY_SECONDS)

    async def _count(self) -> None:
        core = self._core
        async for stored in core.storage.scan(core.reader.damaged):
            self._found(stored)
        core.index.complete()
        self._unreadable = None
        self.counted.set()

    def _found(self, stored: Entry) -> None:
        index, encoded = self._core.index, stored.key
        assert isinstance(encoded, bytes)
        try:
            record = decode_record(stored.value)
        except ValueError as error:
            self._core.reader.damaged(
                CorruptDataError(f"not a cached value: {error}", None, repr(encoded))
            )
            return
        size = len(encoded) + len(stored.value) + ENTRY_OVERHEAD_BYTES
        expires_at = float("inf") if stored.expires_at is None else stored.expires_at
        # Also those whose note was damaged and set aside.
        self._core.barriers.depended_on.update(record.dependencies)
        index.found(encoded, Stored(stored.version, size, expires_at, record.links))


def _not_counted(error: CorruptDataError | StorageIOError) -> Exception:
    what = "what the cache holds cannot be counted"
    if isinstance(error, CorruptDataError):
        return CorruptDataError(f"{what}: {error.message}", error.path, error.where)
    return StorageIOError(f"{what}: {error.args[0]}", error.path)


async def save_heat(core: CacheCore) -> None:
    """Write down the keys that L1 holds, as they are to be read by the next process. Raises what
    `SnapshotStore.save` raises."""
    memory, hottest_first = core.memory, list[bytes]()
    for number, key in enumerate(reversed(list(memory.coldest_first()))):
        # Those that leave meanwhile are not among the hottest.
        if (entry := memory.peek(key)) is not None and entry.version:
            hottest_first.append(entry.encoded)
        if number % KEYS_PER_READ == 0:
            await anyio.lowlevel.checkpoint()
    await core.storage.save_heat(hottest_first)

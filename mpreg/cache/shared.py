"""What all managers of one cache share: its state must exist once in a registry."""

from __future__ import annotations

from functools import partial

import anyio
from attrs import define, field

from mpreg.actors.parking import loop_clock
from mpreg.cache.computing import Computation, Computations
from mpreg.cache.configuration import CacheConfiguration
from mpreg.cache.core import CacheCore
from mpreg.cache.counting import Counting, Increment
from mpreg.cache.entry import CachedEntry
from mpreg.cache.keys import GlobalCacheKey, encode_key
from mpreg.cache.memory import EvictionCause
from mpreg.cache.physical import is_as_it_was, physical
from mpreg.cache.requests import Details, durability_of, is_behind, prepare_put
from mpreg.cache.restoring import restore_invalidations
from mpreg.cache.statistics import CacheStatistics, NamespaceStatistics
from mpreg.cache.upkeep import Upkeep
from mpreg.cache.writes import Change
from mpreg.errors import ConfigurationError
from mpreg.persistence import (
    Durability,
    Participant,
    PersistenceRegistry,
    ReportProgress,
    RestoreOrder,
)
from mpreg.persistence.operations import Operation

__all__ = ["SharedCache"]


@define(eq=False)
class SharedCache:
    registry: PersistenceRegistry
    configuration: CacheConfiguration
    core: CacheCore = field(init=False)
    computations: Computations = field(init=False)
    counting: Counting = field(init=False)
    upkeep: Upkeep = field(init=False)
    is_ready: bool = False
    """Whether its invalidations are known: nothing is read from L2 before."""
    _opening: anyio.Lock = field(factory=anyio.Lock)

    @classmethod
    def of(cls, registry: PersistenceRegistry, configuration: CacheConfiguration) -> SharedCache:
        """The one of this name. Raises `ConfigurationError` where it has another configuration."""
        name = f"cache {configuration.name}"
        shared = registry.subsystem(name, lambda: cls(registry, configuration))
        if shared.configuration != configuration:
            raise ConfigurationError(
                f"cache {configuration.name!r} is there already, with another configuration"
            )
        return shared

    def __attrs_post_init__(self) -> None:
        self.core = CacheCore(self.registry, self.configuration)
        self.computations = Computations(self.core, self._store)
        self.counting = Counting(self.registry, self._read_number, self._write_number)
        self.upkeep = Upkeep(self.core)
        self.registry.register(
            Participant(
                name=f"cache {self.configuration.name}",
                order=RestoreOrder.CACHE,
                restore=None if self.registry.opening_has_begun else self._restore,
                snapshot=self.upkeep.save_heat,
                before_close=self._before_close,
            )
        )

    async def open(self) -> None:
        """Before L2 is used. Cancelled, the next caller does it.

        Raises:
            RuntimeError: this is another thread than that of the event loop.
            CorruptDataError: what is invalid cannot be told any more: nothing is served.
            ReaderStoppedError, WriterStoppedError: not open (any more).
        """
        self.check_thread()
        if self.is_ready:
            return
        async with self._opening:
            if not self.is_ready:
                await restore_invalidations(self.core, lambda _: None)
                self._start()

    def check_thread(self) -> None:
        """Raises `RuntimeError` in another thread than that of the event loop."""
        self.registry.check_thread("a cache")

    async def _restore(self, report: ReportProgress) -> None:
        await restore_invalidations(self.core, lambda done: report(done, unit="invalidations"))
        self._start()

    def _start(self) -> None:
        self.registry.start_soon(self.upkeep.run)
        self.core.reader.loop_time = loop_clock()
        self.is_ready = True

    async def _before_close(self) -> None:
        self.core.watchers.end()

    # --- what is written in tasks of the registry's ---

    async def _store(
        self, computation: Computation, value: object, details: Details | None
    ) -> None:
        recipe, key = computation.recipe, computation.key
        change: Change
        operation: Operation
        if details is None:
            change = Change(key, computation.encoded, None, 0)
            operation = self.core.storage.delete(computation.encoded)
        else:
            change, operation = prepare_put(
                self.core, key, value, details, inherited=computation.inherited
            )
        await self.core.write(
            [change],
            [operation],
            durability_of(self.configuration, recipe.mode, recipe.durability),
            is_behind=is_behind(self.configuration, recipe.mode),
            origin=computation,
            is_wanted=lambda: not computation.is_outdated,
        )

    async def _read_number(
        self, key: GlobalCacheKey, afresh: bool
    ) -> tuple[CachedEntry | None, int]:
        return await physical(self.core, key, encode_key(key), afresh=afresh)

    async def _write_number(
        self,
        key: GlobalCacheKey,
        number: int,
        expected_version: int,
        entry: CachedEntry | None,
        first: Increment,
        durability: Durability,
    ) -> None:
        details = Details(
            ttl_seconds=first.ttl_seconds,
            expected_version=expected_version,
            given_at=first.given_at,
        )
        change, put = prepare_put(self.core, key, number, details, like=entry)
        await self.core.write(
            [change],
            [put],
            durability,
            is_wanted=partial(is_as_it_was, self.core, key, change.encoded, entry),
        )

    # --- statistics ---

    def statistics(self) -> CacheStatistics:
        core, counters, restoring = self.core, self.core.counters, self.upkeep.restoring
        barriers, spaces = core.barriers, core.barriers.spaces.values()
        return CacheStatistics(
            memory_entries=len(core.memory),
            memory_bytes=core.memory.size_bytes,
            disk_entries=len(core.index),
            disk_bytes=core.index.size_bytes,
            writing_behind=len(core.in_flight.behind),
            memory_hits=sum(one.memory_hits for one in spaces) + barriers.memory_hits_elsewhere,
            disk_hits=sum(one.disk_hits for one in spaces) + barriers.disk_hits_elsewhere,
            misses=sum(one.misses for one in spaces) + barriers.misses_elsewhere,
            namespaces={
                one.name: NamespaceStatistics(
                    memory_hits=one.memory_hits, disk_hits=one.disk_hits, misses=one.misses
                )
                for one in spaces
            },
            puts=counters.puts,
            deletions=counters.deletions,
            invalidations=counters.invalidations,
            barriers=len(barriers.standing()),
            evicted_from_memory={
                cause: counters.evicted_from_memory[cause] for cause in EvictionCause
            },
            evicted_from_disk=counters.evicted_from_disk,
            damaged=counters.damaged,
            failed_behind=counters.failed_behind,
            computations=counters.computations,
            computations_failed=counters.computations_failed,
            computing_seconds=counters.computing_seconds,
            stampedes_avoided=counters.stampedes_avoided,
            served_stale=counters.served_stale,
            disk_reads=counters.disk_reads,
            disk_read_seconds=counters.disk_read_seconds,
            warm_up=restoring.state,
            warmed_entries=restoring.warmed,
            to_be_warmed=restoring.total,
            warm_up_seconds=restoring.warm_up_seconds,
            counting_seconds=restoring.counting_seconds,
        )

"""`GlobalCacheManager`: what users call."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import partial
from math import inf
from typing import Any

import anyio.lowlevel
from msgspec.structs import replace

from mpreg.cache.computing import Computation, Compute, Recipe
from mpreg.cache.configuration import CacheConfiguration, WriteMode
from mpreg.cache.counting import Increment
from mpreg.cache.entry import CachedEntry, Found
from mpreg.cache.keys import GlobalCacheKey, KeyPart, check_key, encode_key
from mpreg.cache.physical import is_as_it_was, physical
from mpreg.cache.requests import (
    Details,
    check_choices,
    check_compute,
    check_increment,
    check_negative_ttl,
    checked_beginning,
    checked_target,
    checked_version,
    durability_of,
    is_behind,
    prepare_put,
)
from mpreg.cache.shared import SharedCache
from mpreg.cache.statistics import CacheStatistics
from mpreg.cache.watching import Watch
from mpreg.cache.writes import Change, OvertakenError, Write
from mpreg.errors import InvalidArgumentError, VersionConflictError
from mpreg.persistence import Ack, Durability, PersistenceRegistry
from mpreg.persistence.operations import Operation

__all__ = ["GlobalCacheManager"]


class GlobalCacheManager:
    """A cache: memory in front (L1), the stores of a registry behind (L2). Costs nothing; any
    number of managers of one registry and name are the same.

    Made before the registry is opened, it takes part in the restore; made later, it is opened by
    the first call that needs L2.

    Every awaiting write returns when its change is as durable as its mode asks, and raises:

    - `InvalidArgumentError`, `ValueTooLargeError`: nothing was sent.
    - `StorageFullError`, `CommitFailedError`: rolled back; L1 and L2 are as before, but for entries
      that made room in a batch before it.
    - `CommitUnknownError`: it cannot be told, and the writer is gone.
    - `WriterStoppedError`: not open (any more); not written. `ReaderStoppedError`: not open yet, or
      it closed before it was known on what its dependencies depend: a put that has some waits for
      that after an opening.
    - `CorruptDataError`: that cannot be known, since the database is damaged; not written.
      `StorageIOError`: it cannot be read now; not written.

    Cancelled, it may still happen, as a whole; cancelled while it waits for room in the mailbox,
    nothing was sent. A read raises `ReaderStoppedError` where the registry is not open and the key
    is not in L1; cancelled, it leaves nothing behind.
    """

    def __init__(
        self, registry: PersistenceRegistry, configuration: CacheConfiguration | None = None
    ) -> None:
        """Raises `ConfigurationError` where a cache of this name is there with another one."""
        self.configuration = configuration or CacheConfiguration()
        self._shared = SharedCache.of(registry, self.configuration)
        self._core = self._shared.core
        # For the fast way, which is nearly all that most callers ever need.
        self._peek, self._touch = self._core.memory.peek, self._core.memory.touch
        self._behind, self._barriers = self._core.in_flight.behind, self._core.barriers
        self._wall = self._core.wall

    # --- reading ---

    async def get(self, key: GlobalCacheKey) -> Found | None:
        """The value of a key; None where there is none, or it is not fresh any more.

        Where it is in L1 nothing is awaited: it is no checkpoint then.
        """
        if type(key) is not GlobalCacheKey:
            check_key(key)
        entry = self._peek(key)
        if (
            entry is not None
            and entry.checked_at == self._barriers.raised
            and not self._behind
            and (entry.fresh_until == inf or self._wall() < entry.fresh_until)
        ):
            self._touch(key)
            entry.space.memory_hits += 1
            return entry.found or entry.give()
        if entry is not None or self._behind:
            now = self._wall()
            entry = self._core.reader.look(key, now)
            if entry is not None and now < entry.fresh_until:
                self._barriers.found_in_memory(entry.space)
                return entry.give()
        return await self._get_from_disk(key)

    async def _get_from_disk(self, key: GlobalCacheKey) -> Found | None:
        encoded = encode_key(key)
        self._shared.check_thread()
        if not self._shared.is_ready:
            await self._shared.open()
        return self._given(key, await self._core.reader.find(key, encoded))

    def _given(self, key: GlobalCacheKey, entry: CachedEntry | None) -> Found | None:
        if entry is None or entry.fresh_until <= self._wall():
            self._barriers.missed(key.namespace)
            return None
        self._barriers.found_on_disk(entry.space)
        return entry.give("L2")

    async def get_many(self, keys: Iterable[GlobalCacheKey]) -> dict[GlobalCacheKey, Found]:
        """Those that are there. What is not in L1 is read from L2 together."""
        self._shared.check_thread()
        found: dict[GlobalCacheKey, Found] = {}
        missing: dict[GlobalCacheKey, bytes] = {}
        now = self._core.wall()
        asked = tuple(keys)
        for kind in set(map(type, asked)):
            if kind is not GlobalCacheKey:
                check_key(next(key for key in asked if type(key) is kind))
        for key in dict.fromkeys(asked):
            entry = self._core.reader.look(key, now)
            if entry is not None and now < entry.fresh_until:
                self._barriers.found_in_memory(entry.space)
                found[key] = entry.give()
            else:
                missing[key] = encode_key(key)
        if missing:
            await self._shared.open()
            for key, one in (await self._core.reader.find_many(missing)).items():
                if (given := self._given(key, one)) is not None:
                    found[key] = given
        else:
            await anyio.lowlevel.checkpoint()
        return found

    # --- writing ---

    async def put(
        self,
        key: GlobalCacheKey,
        value: object,
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
        mode: WriteMode | None = None,
        durability: Durability | None = None,
    ) -> Ack[int]:
        """Cache a value. The ack gives its version; it is answered already, unless the value is
        written behind.

        ``ttl_seconds`` from now, by the wall clock, it is not there any more; `math.inf`: until it
        is evicted. ``tags`` are names to invalidate it by. ``dependencies`` are keys: when one of
        them is put, deleted or invalidated, this entry is invalidated with it. ``cost`` is what
        computing it costs, in any unit, for the policy that looks at it.
        """
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        change, put = prepare_put(self._core, key, value, details)
        if details.checked_dependencies and not self._core.index.is_complete:
            await self._until_counted()
            change, put = self._core.inherit(change, put)
        return (await self._write([change], [put], mode, durability))[-1]

    async def put_many(
        self,
        values: Mapping[GlobalCacheKey, object],
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
        mode: WriteMode | None = None,
        durability: Durability | None = None,
    ) -> Ack[int] | None:
        """`put` of several, all or nothing. The ack is that of the last; None where there is none.

        They are put at one moment: one that depends on another of them is not invalidated by it.

        Raises:
            ValueTooLargeError: they are more than one batch holds (``batch_bytes_max``), or than L2
                does.
        """
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        prepared = [prepare_put(self._core, key, one, details) for key, one in values.items()]
        if details.checked_dependencies and not self._core.index.is_complete:
            await self._until_counted()
            prepared = [self._core.inherit(change, put) for change, put in prepared]
        self._core.check_together([change for change, _ in prepared])
        if not prepared:
            await anyio.lowlevel.checkpoint()
            return None
        changes, puts = zip(*prepared, strict=True)
        return (await self._write(changes, puts, mode, durability))[-1]

    async def delete(
        self,
        key: GlobalCacheKey,
        *,
        mode: WriteMode | None = None,
        durability: Durability | None = None,
    ) -> bool:
        """Remove a key. True if it was there when that began."""
        encoded = encode_key(key)
        await self._shared.open()
        core = self._core
        entry = await core.reader.find(key, encoded)
        was_there = entry is not None and self._wall() < entry.fresh_until
        if entry is None and core.index.is_complete and not self._is_of_interest(encoded):
            return False
        change = Change(key, encoded, None, 0)
        await self._write([change], [core.storage.delete(encoded)], mode, durability)
        return was_there

    def _is_of_interest(self, encoded: bytes) -> bool:
        """Whether anything would be changed by its deletion, on disk or elsewhere."""
        core = self._core
        return (
            core.in_flight.is_known(encoded)
            or core.dependents.is_depended_on(encoded)
            or self._shared.computations.involve(encoded)
        )

    async def compare_and_set(
        self,
        key: GlobalCacheKey,
        value: object,
        *,
        expected_version: int,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
        durability: Durability | None = None,
    ) -> int:
        """Cache a value if the key has this version now (`Found.version`); 0: if it is not there.
        Returns the new version.

        Raises:
            VersionConflictError: it has another one; nothing was written.
        """
        checked_version(expected_version)
        check_choices(None, durability)
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        change, put = prepare_put(self._core, key, value, details)
        encoded = change.encoded
        await self._shared.open()
        if details.checked_dependencies and not self._core.index.is_complete:
            await self._until_counted()
            change, put = self._core.inherit(change, put)
        damaged_version, is_afresh = 0, False
        while True:
            entry, version = await physical(self._core, key, encoded, afresh=is_afresh)
            visible = 0 if entry is None else version
            if visible != expected_version:
                raise VersionConflictError(key.namespace, repr(key), expected_version, visible)
            try:
                (ack,) = await self._core.write(
                    [change],
                    [replace(put, expected_version=version or damaged_version)],
                    durability_of(self.configuration, None, durability),
                    is_wanted=partial(is_as_it_was, self._core, key, encoded, entry),
                )
            except OvertakenError:
                continue
            except VersionConflictError as conflict:
                # It was changed meanwhile: what it has now decides. Or it cannot be read.
                damaged_version, is_afresh = conflict.found_version, True
                continue
            assert isinstance(ack.value, int)
            return ack.value

    async def increment(
        self,
        key: GlobalCacheKey,
        by: int = 1,
        *,
        initial: int = 0,
        ttl_seconds: float | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Add to a number and return the sum, atomically; ``initial`` is what a missing one counts
        as, and ``ttl_seconds`` its time to live. That of one that is there stays as it is.

        Calls for one key that wait at the same time are written as one, as durable as any of them
        asks. The sum is that of a commit, so it is waited for in every mode: one that could be
        taken back would be given to two callers.

        Raises:
            InvalidArgumentError: what is there is no `int`, or the sum has more than 64 bits.
            CommitUnknownError: also where the registry closed while it was being written.
        """
        check_increment(by, initial, ttl_seconds)
        check_choices(None, durability)
        encode_key(key)
        increment = Increment(
            by,
            initial,
            ttl_seconds,
            self._wall(),
            durability_of(self.configuration, None, durability),
        )
        await self._shared.open()
        self._shared.counting.add(key, increment)
        return await increment.ack

    async def invalidate(
        self,
        *,
        namespace: str | None = None,
        prefix: KeyPart | tuple[KeyPart, ...] | None = None,
        tag: str | None = None,
        dependency: GlobalCacheKey | None = None,
        durability: Durability = Durability.DURABLE,
    ) -> int:
        """Make entries invisible, all at once, and return the version of that: those of a
        namespace; of it, those whose first part begins with ``prefix`` (or whose first parts are
        those of a tuple); those with a tag; or those that depend on a key. What depends on them is
        invalidated with them.

        It costs one small write, however many they are, also for those that are only in L2. What is
        put after it is not concerned; what is being computed when it begins is not cached.

        Raises:
            InvalidArgumentError: not exactly one of ``namespace``, ``tag`` and ``dependency``.
        """
        target = checked_target(namespace, prefix, tag, dependency)
        if not isinstance(durability, Durability):
            raise InvalidArgumentError(f"durability is a Durability, not {durability!r:.80}")
        await self._shared.open()
        write = Write(targets=[target])
        await self._core.send(write, durability)
        version: int = await write.acks[0]
        return version

    # --- computing ---

    async def get_or_compute(
        self,
        key: GlobalCacheKey,
        compute: Compute,
        *,
        ttl_seconds: float | None = None,
        stale_seconds: float = 0.0,
        negative_ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float | None = None,
        mode: WriteMode | None = None,
        durability: Durability | None = None,
    ) -> Any:
        """The value of a key; where there is none, what ``compute()`` gives, which is cached.

        However many callers ask at the same time, one computation runs. It goes on where some of
        them are cancelled, and is cancelled with the last. What it raises is raised to all, and
        nothing is cached. If the key, or what it depends on, is changed or invalidated while it
        runs, its callers get the result, and it is not cached. Where it cannot be written, they get
        it all the same.

        ``stale_seconds`` after its time to live, a value may still be given, at once, while a new
        one is computed in the background. ``negative_ttl_seconds`` is the time to live of the
        result None; 0: it is not cached, and ends a stale value; None: it is a value as every
        other. ``cost``: None: the seconds that it took.

        Raises:
            RuntimeError: the computation awaited something that somebody else has cancelled; or it
                asks, in its own task, for what is being computed from it, or for its own key.
            WriterStoppedError: the registry has closed meanwhile.
        """
        check_choices(mode, durability)
        check_compute(compute)
        recipe = Recipe(
            compute=compute,
            details=Details(
                ttl_seconds=ttl_seconds,
                stale_seconds=stale_seconds,
                tags=tags,
                dependencies=dependencies,
                cost=0.0 if cost is None else cost,
            ),
            negative_ttl_seconds=negative_ttl_seconds,
            cost=cost,
            mode=mode,
            durability=durability,
        )
        check_negative_ttl(negative_ttl_seconds)
        encoded = encode_key(key)
        await self._shared.open()
        now = self._wall()
        entry = self._core.reader.look(key, now)
        if entry is not None and now < entry.fresh_until:
            self._barriers.found_in_memory(entry.space)
            return entry.give().value
        entry = await self._core.reader.find(key, encoded)
        # What is written behind may have expired before it was on disk.
        if entry is None or entry.expires_at <= (now := self._wall()):
            return await self._compute(key, encoded, recipe)
        if now < entry.fresh_until:
            self._barriers.found_on_disk(entry.space)
        else:
            computations = self._shared.computations
            if computations.running(key) is None:
                computations.start(Computation(key, encoded, recipe, is_refresh=True))
            self._core.counters.served_stale += 1
        return entry.give().value

    async def _compute(self, key: GlobalCacheKey, encoded: bytes, recipe: Recipe) -> object:
        self._core.barriers.missed(key.namespace)
        computations = self._shared.computations
        running = computations.running(key)
        if running is None:
            running = Computation(key, encoded, recipe)
            computations.start(running)
        else:
            self._core.counters.stampedes_avoided += 1
        return await computations.wait(running)

    # --- the rest ---

    def watch(
        self,
        *,
        namespace: str | None = None,
        prefix: KeyPart | tuple[KeyPart, ...] | None = None,
    ) -> Watch:
        """The changes of all keys, of those of a namespace, or of those of it that begin with
        ``prefix``, in the order in which they were committed:
        ``async with cache.watch() as changes``.

        Raises:
            InvalidArgumentError: ``prefix`` without ``namespace``.
        """
        return self._core.watchers.watch(checked_beginning(namespace, prefix))

    def statistics(self) -> CacheStatistics:
        self._shared.check_thread()
        return self._shared.statistics()

    async def wait_until_warm(self) -> None:
        """Until the most used entries of the process before are in L1. Reads need not wait.

        Raises:
            ReaderStoppedError, WriterStoppedError: not open (any more).
        """
        await self._shared.open()
        await self._shared.upkeep.restoring.until_warm()

    def __repr__(self) -> str:
        return f"<GlobalCacheManager {self.configuration.name!r}>"

    async def _until_counted(self) -> None:
        """What a key that is depended on depends on itself is known when all of L2 is."""
        await self._shared.open()
        await self._core.until_counted()

    async def _write(
        self,
        changes: Sequence[Change],
        operations: Sequence[Operation],
        mode: WriteMode | None,
        durability: Durability | None,
    ) -> Sequence[Ack[int]]:
        check_choices(mode, durability)
        self._shared.check_thread()
        if not self._shared.is_ready:
            await self._shared.open()
        return await self._core.write(
            changes,
            operations,
            durability_of(self.configuration, mode, durability),
            is_behind=is_behind(self.configuration, mode),
        )

"""One seed's story of a cache: several processes, one after the other, on one simulated disk.

In each, callers read, write, compute, count and invalidate at the same time, all bounds are tiny,
the disk fails, clocks jump, and in the end it is killed or loses its power at any step of any
task. Every answer is held against the order of the commits at once, and all the rest when nothing
is under way any more.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from functools import partial
from random import Random
from typing import Any, Final

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.cache import (
    CacheChange,
    CacheConfiguration,
    ChangeKind,
    EvictionPolicyName,
    GlobalCacheKey,
    GlobalCacheManager,
    WriteMode,
)
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import decode_key, encode_key
from mpreg.cache.records import Link
from mpreg.codec import decode_key as decode_row
from mpreg.errors import (
    CommitFailedError,
    CommitUnknownError,
    ParticipantFailedError,
    ReaderStoppedError,
    StorageIOError,
    ValueTooLargeError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.testing import Fault, FaultInjector, FaultPlan, SimulatedDisk, Simulation
from tests.simulation.cache.ledger import Ledger, Look, WatchedBackend
from tests.simulation.cache.model import Event, Value, token_of
from tests.simulation.scenario import cancellable

__all__ = ["CacheStory"]

PROCESSES_MAX: Final = 3
CALLERS: Final = 5
CALLS_PER_CALLER: Final = 25
#: Ten times what a long story takes: who runs in a circle is found soon.
STEPS_MAX: Final = 200_000

FAULTS = FaultPlan(
    probabilities={
        Fault.COMMIT_LOST: 0.01,
        Fault.COMMIT_UNTOLD: 0.01,
        Fault.ROLLED_BACK: 0.03,
        Fault.DISK_FULL: 0.01,
        Fault.SLOW_COMMIT: 0.02,
        Fault.OPEN_FAILS: 0.05,
        Fault.READ_FAILS: 0.01,
        Fault.CLOSE_FAILS: 0.05,
    },
    commit_seconds_max=0.02,
    slow_seconds_max=2.0,
    full_seconds_max=1.0,
)

#: What a caller may be told while the process goes on.
Refused = (CommitFailedError, VersionConflictError)

#: What a caller is told when it ends.
Ended = (WriterStoppedError, ReaderStoppedError, CommitUnknownError)

KEYS: Final = [
    GlobalCacheKey(namespace, *parts)
    for namespace in ("a", "b")
    for parts in (("x1",), ("x2",), ("x", 1), (7,), (b"y",))
]
NUMBERS: Final = [GlobalCacheKey("n", number) for number in range(2)]
TAGS: Final = ("red", "blue")


class _NoValueError(Exception):
    """A computation has failed."""


@define(eq=False)
class _Computation:
    key: GlobalCacheKey
    tags: tuple[str, ...]
    dependencies: tuple[GlobalCacheKey, ...]
    began: int
    """Events that had been told then."""
    parts: list[int] = field(factory=list)
    """The tokens of what it was computed from."""


@define(eq=False)
class CacheStory:
    """Made for a seed, told once by `tell`."""

    seed: int
    plan: FaultPlan = FAULTS
    simulation: Simulation = field(init=False)
    disk: SimulatedDisk = field(init=False)
    faults: FaultInjector = field(init=False)
    random: Random = field(init=False)
    configuration: CacheConfiguration = field(init=False)
    ledger: Ledger = field(init=False)
    counts: Counter[str] = field(factory=Counter, init=False)
    scopes: list[anyio.CancelScope] = field(factory=list, init=False)
    tokens: Any = field(factory=lambda: itertools.count(1), init=False)
    computed: dict[int, _Computation] = field(factory=dict, init=False)
    may_expire: bool = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.simulation = Simulation(self.seed, steps_max=STEPS_MAX)
        self.disk = SimulatedDisk(self.simulation.stream("disk"))
        self.faults = FaultInjector(
            self.plan, self.simulation.stream("faults"), self.simulation.record
        )
        self.random = self.simulation.stream("cache")
        self.configuration = self._configure()
        self.may_expire = self.random.random() < 0.6
        self.ledger = Ledger(
            self.simulation,
            self.disk,
            self.configuration,
            made_from=self._made_from,
            check_stored=self._check_stored,
        )

    def _configure(self) -> CacheConfiguration:
        pick = self.random.choice
        return CacheConfiguration(
            memory_entries_max=pick([1, 3, 5, 100]),
            memory_bytes_max=pick([700, 1_500, 100_000]),
            disk_entries_max=pick([1, 3, 6, 100]),
            disk_bytes_max=pick([400, 900, 100_000]),
            policy=pick(list(EvictionPolicyName)),
            write_mode=pick(list(WriteMode)),
            heat_interval_seconds=pick([0.2, 5.0]),
            warm_up_entries_max=pick([None, None, 1]),
        )

    # --- what was computed from what ---

    def _made_from(self, payload: object) -> list[Link]:
        """The links of all that a value was computed from, stored or not."""
        computation = self._computation(payload)
        if computation is None:
            return []
        links: list[Link] = [*computation.tags, *map(encode_key, computation.dependencies)]
        for part in computation.parts:
            value = self.ledger.model.by_token.get(part)
            if value is not None:
                links += [*value.tags, *value.dependencies]
            links += self._made_from([part])
        return links

    def _check_stored(self, value: Value) -> None:
        """Nothing has changed from which it was computed, since that was begun."""
        if (
            computation := self._computation(value.payload)
        ) is None or value.key != computation.key:
            return
        # Not all that it is stored with: what came to that from others that were begun beside it
        # invalidates it from then on, and what happened before is no news to it.
        self._check_not_outdated(value, computation, self._made_from(value.payload))
        left = list(computation.parts)
        while left:
            part = left.pop()
            nested = self._computation([part])
            if nested is not None and part not in self.ledger.model.by_token:
                self._check_not_outdated(value, nested, self._made_from([part]))
                left += nested.parts

    def _check_not_outdated(
        self, value: Value, computation: _Computation, links: list[Link]
    ) -> None:
        number = self.ledger.concerned(
            computation.began,
            self.ledger.batch_began,
            computation.key,
            [one for one in links if isinstance(one, str)],
            [decode_key(one) for one in links if isinstance(one, bytes)],
        )
        if number is not None:
            self.ledger._violated(f"{value} was stored, and outdated by event {number}")

    def _computation(self, payload: object) -> _Computation | None:
        token = token_of(payload)
        return None if token is None else self.computed.get(token)

    def tell(self) -> CacheStory:
        for _ in range(self.random.randint(1, PROCESSES_MAX)):
            self._live()
        self.faults.heal()
        self.simulation.record("the last process: everything works")
        self.ledger.begin_life()
        self.simulation.run(self._process, self._finish)
        assert not self.simulation.crashed
        assert self.disk.complaints == []
        return self

    def count(self, what: str) -> None:
        self.counts[what] += 1

    @property
    def may_evict(self) -> bool:
        bounds = self.configuration
        return bounds.disk_entries_max < 100 or bounds.disk_bytes_max < 10_000

    @property
    def crashed(self) -> bool:
        """From then on nothing that anybody is told is of account."""
        return self.simulation.crashed

    # --- processes ---

    def _live(self) -> None:
        self.ledger.begin_life()
        crash_at_step = None
        on_crash = self._kill
        if self.random.random() < 0.7:
            crash_at_step = int(math.exp(self.random.uniform(math.log(20), math.log(4_000))))
            if self.random.random() < 0.6:
                on_crash = self._cut_power
        self.simulation.run(
            self._process, self._work, crash_at_step=crash_at_step, on_crash=on_crash
        )
        assert not self.ledger.violations, self.ledger.violations[0]
        self.count("crashes" if self.crashed else "processes that ended by themselves")

    def _kill(self) -> None:
        self.disk.kill_process()
        assert self.disk.sequence >= self.ledger.committed, "what was committed is lost"

    def _cut_power(self) -> None:
        self.disk.cut_power()
        self.count("power cuts")

    async def _process(self, work: Callable[[_Process], Awaitable[None]]) -> None:
        slow_seconds = self.random.choice([0.0, 0.02, 0.2])
        registry = PersistenceRegistry(
            self._config(),
            backend=WatchedBackend(self.ledger, self.faults, slow_seconds),
            clock=self.simulation.clock,
        )
        is_last = work == self._finish
        try:
            cache = None
            if self.random.random() < 0.7:
                cache = GlobalCacheManager(registry, self.configuration)
            async with registry:
                if cache is None:
                    cache = GlobalCacheManager(registry, self.configuration)
                await work(_Process(self, registry, cache))
        # The reader may give up while the cache is restored.
        except* (StorageIOError, ParticipantFailedError, *Ended) as group:
            assert not is_last, "it failed, though nothing is broken any more"
            self.simulation.record(f"process ended by {group.exceptions[0]!r}")
            self.count("processes ended by the disk")

    def _config(self) -> PersistenceConfig:
        pick = self.random.choice
        batch_bytes_max = pick([450, 100_000, 100_000])
        return PersistenceConfig(
            backend="memory",
            switch_interval_seconds=None,
            batch_bytes_max=batch_bytes_max,
            value_bytes_max=batch_bytes_max,
            mailbox_batches_max=pick([1, 2, 1_000]),
            group_batches_max=pick([1, 3, 1_000]),
            grace_seconds=pick([0.0, 0.02, 20.0]),
            restarts_max=pick([1, 6]),
            upkeep_interval_seconds=pick([None, 0.1]),
        )

    async def _work(self, process: _Process) -> None:
        with anyio.move_on_after(self.random.uniform(0.5, 30)):
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(process.meddle)
                tasks.start_soon(process.watch)
                async with anyio.create_task_group() as callers:
                    for _ in range(CALLERS):
                        callers.start_soon(_Caller(process).call)
                if not self.crashed and self.random.random() < 0.7:
                    await process.settle_down()
                tasks.cancel_scope.cancel()

    async def _finish(self, process: _Process) -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(process.watch)
            await anyio.lowlevel.checkpoint()
            for key in [*KEYS, *NUMBERS]:
                await process.read(key)
            await _Caller(process).call()
            await process.settle_down()
            tasks.cancel_scope.cancel()
        assert not self.ledger.violations, self.ledger.violations[0]


@define(eq=False)
class _Process:
    """What the callers of one process share."""

    story: CacheStory
    registry: PersistenceRegistry
    cache: GlobalCacheManager
    told: list[CacheChange] = field(factory=list)
    watched_from: int | None = None

    def __attrs_post_init__(self) -> None:
        ledger, core = self.story.ledger, self.core
        core.on_changing.append(ledger.began)
        ledger.entries_name = core.storage.entries._name
        ledger.invalidations_name = core.storage.invalidations._name

    @property
    def core(self) -> Any:
        return self.cache._core

    # --- what goes on beside the callers ---

    async def meddle(self) -> None:
        story = self.story
        while True:
            await anyio.sleep(story.random.expovariate(20))
            if story.scopes and story.random.random() < 0.6:
                story.random.choice(story.scopes).cancel()
                story.count("cancellations")
            elif story.random.random() < 0.2:
                story.simulation.clock.jump(story.random.choice([-20, -3, 3, 20]))
                story.count("jumps of the clock")
            self.check_at_any_time()

    async def watch(self) -> None:
        async with self.cache.watch() as changes:
            self.watched_from = self.story.ledger.settled
            try:
                async for change in changes:
                    self.told.append(change)
            except Ended:
                pass

    # --- reading ---

    async def read(self, key: GlobalCacheKey) -> None:
        look = self.story.ledger.look(key)
        found = await self.cache.get(key)
        self.saw(look, found)

    def saw(self, look: Look, found: Any) -> None:
        story = self.story
        if story.crashed:
            return
        story.count("hits" if found is not None else "misses")
        if found is not None and found.version is None:
            story.count("hits of what is written behind")
        story.ledger.saw(look, found)

    # --- checks ---

    def check_at_any_time(self) -> None:
        core, bounds = self.core, self.story.configuration
        assert len(core.memory) <= bounds.memory_entries_max
        assert core.memory.size_bytes <= bounds.memory_bytes_max
        entries = list(core.memory._entries.values())
        assert core.memory.size_bytes == sum(entry.size_bytes for entry in entries)
        assert not self.story.ledger.violations, self.story.ledger.violations[0]
        is_settled = core.in_flight.count == 0
        if core.index.is_complete and is_settled and not core.index.is_over:
            self.story.ledger.checks_bounds = True
        self.check_watch()

    def check_watch(self) -> None:
        story = self.story
        if self.watched_from is None or story.crashed:
            return
        events = story.ledger.model.events[self.watched_from : story.ledger.settled]
        expected = [event for event in events if event.kind is not None]
        for change, event in zip(self.told, expected, strict=False):
            assert _is_told(change, event), f"{change} is not {event}"

    async def settle_down(self) -> None:
        """Wait until nothing is under way, and look at everything."""
        story, core = self.story, self.core
        await self.cache.wait_until_warm()
        await self.cache._shared.upkeep.restoring.until_counted()
        core.ask_for_upkeep()
        await anyio.sleep(60)
        if story.crashed:
            return
        self.check_at_any_time()
        ledger = story.ledger
        ledger.check_overtaken()
        assert story.ledger.checks_bounds, "L2 is over its bounds for ever"
        self.check_leaks()
        self.check_index()
        for entry in list(core.memory._entries.values()):
            value = ledger.model.alive.get(entry.key)
            if core.reader.is_alive(entry) and entry.expires_at > ledger.latest:
                assert value is not None, f"L1 has {entry}"
                assert value.version == entry.version
        for key in [*KEYS, *NUMBERS]:
            look = ledger.look(key)
            value = look.born
            found = await self.cache.get(key)
            self.saw(look, found)
            if value is not None:
                assert found is not None
                assert found.version == value.version
            else:
                alive = ledger.model.alive.get(key)
                assert found is None or (alive is not None and found.version == alive.version)
        events = ledger.model.events[self.watched_from : ledger.settled]
        expected = [event for event in events if event.kind is not None]
        if self.watched_from is not None:
            assert len(self.told) == len(expected), (len(self.told), len(expected))
        story.count("times that all was looked at")

    def check_leaks(self) -> None:
        core, shared = self.core, self.cache._shared
        left = {
            "writing": core.in_flight._writing,
            "evicting": core.in_flight._evicting,
            "coming": core.index._coming,
            "tidying": core.in_flight._tidying,
            "linking": core.in_flight.linking,
            "reading": core.reads._reading,
            "noting": core.reads._noting,
            "behind": core.in_flight.behind,
            "invalidating": core.in_flight.invalidating,
            "computing": shared.computations._running,
            "counting": shared.counting._waiting,
            "leaving": core.index._leaving,
        }
        assert {name: what for name, what in left.items() if what} == {}
        index = core.index
        assert (index._coming_entries, index._coming_bytes, index._leaving_bytes) == (0, 0, 0)
        assert core.in_flight.count == 0

    def check_index(self) -> None:
        core, ledger = self.core, self.story.ledger
        index, latest = core.index, ledger.latest
        assert index.size_bytes == sum(one.size_bytes for one in index.stored.values())
        known = {
            decode_key(key): (one.version, one.size_bytes)
            for key, one in index.stored.items()
            if one.expires_at > latest
        }
        assert known == ledger.rows()
        links: dict[Any, set[bytes]] = {}
        for key, one in index.stored.items():
            for link in one.links:
                links.setdefault(link, set()).add(key)
        assert {link: set(keys) for link, keys in index.by_link.items()} == links
        standing = core.barriers.standing()
        assert standing == []
        state = self.story.disk.state
        rows = {decode_row(key) for key, *_ in state.entries(ledger.invalidations_name)}
        depended_on = {link for link in links if isinstance(link, bytes)}
        assert set(core.barriers.depended_on.keys) == depended_on
        assert index.deserted == {}
        assert rows == {b"r" + one for one in depended_on}
        for key in ledger.rows():
            assert key in ledger.model.alive, f"{key} is dead, and still there"


def _is_told(change: CacheChange, event: Event) -> bool:
    if change.kind is not event.kind or change.version != event.version:
        return False
    if change.kind is not ChangeKind.INVALIDATED:
        return change.key == event.key
    target: Target
    if change.namespace is not None:
        target = Prefix.of(change.namespace, change.prefix)
        return isinstance(event.target, Prefix) and event.target.encoded == target.encoded
    if change.tag is not None:
        return event.target == change.tag
    assert change.dependency is not None
    return event.target == encode_key(change.dependency)


# --- callers ---


@define(eq=False)
class _Caller:
    process: _Process

    @property
    def story(self) -> CacheStory:
        return self.process.story

    @property
    def cache(self) -> GlobalCacheManager:
        return self.process.cache

    @property
    def random(self) -> Random:
        return self.story.random

    async def call(self) -> None:
        kinds: list[tuple[Callable[[], Awaitable[None]], int]] = [
            (self._get, 8),
            (self._get_many, 3),
            (self._put, 8),
            (self._put_many, 2),
            (self._delete, 2),
            (self._compare_and_set, 3),
            (self._increment, 3),
            (self._compute, 6),
            (self._compute_in_turn, 4),
            (self._invalidate, 3),
        ]
        calls, weights = [kind for kind, _ in kinds], [weight for _, weight in kinds]
        for _ in range(CALLS_PER_CALLER):
            if self.random.random() < 0.5:
                await anyio.sleep(self.random.expovariate(10))
            (call,) = self.random.choices(calls, weights)
            self.story.count(call.__name__)
            try:
                with cancellable(self.process.story.scopes):
                    await call()
            except Refused as error:
                self.story.count(f"refused: {type(error).__name__}")
            except ValueTooLargeError:
                self.story.count("refused: too large")
            except Ended:
                self.story.count("callers that were told of the end")
                return

    # --- what they ask for ---

    def _key(self) -> GlobalCacheKey:
        return self.random.choice(KEYS)

    def _value(self) -> list[Any]:
        token = next(self.story.tokens) * 1_000
        return [token, "x" * self.random.choice([0, 0, 50, 300])]

    def _tags(self) -> tuple[str, ...]:
        return tuple(tag for tag in TAGS if self.random.random() < 0.15)

    def _dependencies(self, *without: GlobalCacheKey) -> tuple[GlobalCacheKey, ...]:
        if self.random.random() < 0.6:
            return ()
        picked = dict.fromkeys(self._key() for _ in range(self.random.randint(1, 2)))
        return tuple(key for key in picked if key not in without)

    def _ttl(self) -> float | None:
        if not self.story.may_expire:
            return None
        return self.random.choice([None, None, 0.1, 2.0, 10.0])

    def _options(self, *keys: GlobalCacheKey) -> dict[str, Any]:
        return {
            "ttl_seconds": self._ttl(),
            "tags": self._tags(),
            "dependencies": self._dependencies(*keys),
            "cost": self.random.choice([0.0, 1.0, 5.0]),
        }

    def _mode(self) -> WriteMode | None:
        modes: list[WriteMode | None] = [None, None, *WriteMode]
        return self.random.choice(modes)

    def _acked(self, version: int | None, mode: WriteMode | None) -> None:
        """It was told that this is on disk."""
        story, ledger = self.story, self.story.ledger
        if story.crashed or version is None:
            return
        mode = mode or story.configuration.write_mode
        event = next(one for one in ledger.model.events if one.version == version)
        ledger.committed = max(ledger.committed, event.sequence)
        if mode is not WriteMode.RELAXED:
            ledger.durable = max(ledger.durable, event.sequence)
        story.count(f"acked: {mode.value}")

    # --- calls ---

    async def _get(self) -> None:
        await self.process.read(self.random.choice([*KEYS, *NUMBERS]))

    async def _get_many(self) -> None:
        keys = self.random.sample([*KEYS, *NUMBERS], 5)
        looks = [self.story.ledger.look(key) for key in keys]
        found = await self.cache.get_many(keys)
        for look in looks:
            self.process.saw(look, found.get(look.key))

    async def _put(self) -> None:
        key, mode = self._key(), self._mode()
        ack = await self.cache.put(key, self._value(), mode=mode, **self._options(key))
        self._acked(await ack, mode)

    async def _put_many(self) -> None:
        keys, mode = self.random.sample(KEYS, self.random.randint(1, 4)), self._mode()
        values = {key: self._value() for key in keys}
        ack = await self.cache.put_many(values, mode=mode, **self._options(*keys))
        assert ack is not None
        self._acked(await ack, mode)

    async def _delete(self) -> None:
        await self.cache.delete(self.random.choice([*KEYS, *NUMBERS]), mode=self._mode())

    async def _compare_and_set(self) -> None:
        key, ledger = self._key(), self.story.ledger
        look = ledger.look(key)
        found = await self.cache.get(key)
        self.process.saw(look, found)
        if found is not None and found.version is None:
            return
        expected = 0 if found is None else found.version
        assert expected is not None
        if self.random.random() < 0.5:
            await anyio.sleep(self.random.expovariate(10))
        look = ledger.look(key)
        try:
            version = await self.cache.compare_and_set(
                key, self._value(), expected_version=expected, **self._options(key)
            )
        except VersionConflictError:
            steady = look.born is not None and look.born.died == math.inf
            if not self.story.crashed and steady and not self.story.may_evict:
                assert look.born is not None
                assert expected != look.born.version or look.born.fresh_until <= ledger.latest
            raise
        if self.story.crashed:
            return
        before = ledger.model.by_version[version].before
        if expected == 0:
            assert before is None or before.fresh_until <= ledger.latest, f"{key}: {before}"
        else:
            assert before is not None, (
                f"{key}: not there any more: {ledger.model.by_version[expected]}"
            )
            assert before.version == expected
        self._acked(version, None)

    async def _increment(self) -> None:
        key, ledger = self.random.choice(NUMBERS), self.story.ledger
        born = ledger.settled
        sum = await self.cache.increment(key, ttl_seconds=self._ttl())
        if self.story.crashed:
            return
        for event in ledger.model.events[born:]:
            if event.key == key and event.kind is ChangeKind.PUT:
                assert event.version is not None
                value = ledger.model.by_version[event.version]
                before = value.before
                # Where it has expired nobody knows whether it counted: a clock may be set back.
                counted = before is not None and before.fresh_until > ledger.latest
                assert isinstance(value.payload, int)
                low = before.payload if before is not None and counted else 0
                assert isinstance(low, int)
                if low < sum <= value.payload and sum not in value.claimed:
                    value.claimed.add(sum)
                    return
        raise AssertionError(f"{key} was never counted to {sum}")

    async def _invalidate(self) -> None:
        target: dict[str, Any] = self.random.choice(
            [
                {"namespace": "a"},
                {"namespace": "n"},
                {"namespace": "b", "prefix": "x"},
                {"namespace": "a", "prefix": ("x",)},
                {"tag": self.random.choice(TAGS)},
                {"tag": self.random.choice(TAGS)},
                {"dependency": self._key()},
            ]
        )
        version = await self.cache.invalidate(**target)
        self._acked(version, WriteMode.WRITE_THROUGH)

    async def _compute(self) -> None:
        key, story = self._key(), self.story
        look = story.ledger.look(key)
        try:
            value = await self._ask(key)
        except _NoValueError:
            return
        if not story.crashed:
            self._got(look, value)

    async def _compute_in_turn(self) -> None:
        """A top of a middle of a source, while the source is changed."""
        story, keys = self.story, sorted(self.random.sample(KEYS, 3), key=KEYS.index)

        async def change() -> None:
            await anyio.sleep(self.random.choice([0.0, 0.005, 0.1, 0.5]))
            with suppress(*Refused, ValueTooLargeError, *Ended):
                await self.cache.put(keys[2], self._value())

        look = story.ledger.look(keys[0])
        try:
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(change)
                with suppress(_NoValueError, ValueTooLargeError, *Ended):
                    value = await self._ask(keys[0], keys[1:])
                    if not story.crashed:
                        self._got(look, value)
        finally:
            story.count("computations in turn")

    async def _ask(self, key: GlobalCacheKey, inner: Sequence[GlobalCacheKey] = ()) -> object:
        """``inner``: what it depends on, and what that depends on in turn."""
        options = self._options(key)
        if inner:
            options["dependencies"] = tuple(inner[:1])
        options["stale_seconds"] = self.random.choice([0.0, 5.0])
        compute = partial(
            self._make,
            key,
            options,
            self.random.choice([0.0, 0.01, 0.3]),
            fails=self.random.random() < 0.1,
            inner=inner[1:],
        )
        return await self.cache.get_or_compute(key, compute, mode=self._mode(), **options)

    async def _make(
        self,
        key: GlobalCacheKey,
        options: dict[str, Any],
        seconds: float,
        *,
        fails: bool,
        inner: Sequence[GlobalCacheKey],
    ) -> object:
        """A value, perhaps of those on which it depends."""
        story, value = self.story, self._value()
        computation = _Computation(
            key, options["tags"], options["dependencies"], story.ledger.settled
        )
        story.computed[value[0]] = computation
        story.count("computations")
        for dependency in computation.dependencies:
            if (token := await self._part(key, dependency, inner)) is not None:
                computation.parts.append(token)
        await anyio.sleep(seconds)
        if fails:
            raise _NoValueError("none")
        return value

    async def _part(
        self, key: GlobalCacheKey, dependency: GlobalCacheKey, inner: Sequence[GlobalCacheKey]
    ) -> int | None:
        """What it is computed from: read, or computed as well. In one order only: those that ask
        for each other would wait for ever."""
        if (inner or self.random.random() < 0.5) and KEYS.index(dependency) > KEYS.index(key):
            self.story.count("computations of what is computed")
            return token_of(await self._ask(dependency, inner))
        found = await self.cache.get(dependency)
        return None if found is None else token_of(found.value)

    def _got(self, look: Look, payload: object) -> None:
        story, ledger = self.story, self.story.ledger
        token = token_of(payload)
        assert token is not None
        value, computation = ledger.model.by_token.get(token), story.computed.get(token)
        # What was removed since it had expired: see `Ledger._was_there`.
        is_there = value is not None and (
            value.died >= look.settled or value.why in ("swept", "expired")
        )
        if value is not None and value.key == look.key and is_there:
            assert value.expires_at > story.simulation.clock.wall() or computation is not None
            return
        if value is None and ledger.is_on_its_way(look.key):
            return
        assert computation is not None, f"{look.key}: where does {payload} come from, {value}?"
        assert computation.key == look.key
        number = ledger.concerned(
            computation.began,
            look.settled,
            look.key,
            computation.tags,
            computation.dependencies,
            computation,
        )
        assert number is None, f"{look.key}: what is computed was outdated by event {number}"

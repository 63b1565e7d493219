"""One computation for all who ask for a key at the same time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from contextlib import suppress
from functools import partial
from types import TracebackType
from typing import Final, TypeAlias

import anyio
from attrs import define, evolve, field, frozen

from mpreg.actors.elsewhere import failing_with_what_it_awaited
from mpreg.cache.circles import Waiting
from mpreg.cache.configuration import WriteMode
from mpreg.cache.core import CacheCore, log
from mpreg.cache.invalidation import Prefix
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.records import Link
from mpreg.cache.requests import Details
from mpreg.cache.writes import OvertakenError, Write
from mpreg.codec import encode_value
from mpreg.errors import InvalidArgumentError, MpregError, WriterStoppedError
from mpreg.persistence import Ack, Durability

__all__ = [
    "Computation",
    "Computations",
    "Compute",
    "Recipe",
    "checked_awaitable",
    "copied",
]

Compute: TypeAlias = Callable[[], Awaitable[object]]


@frozen(kw_only=True)
class Recipe:
    """How a missing value is computed, and cached then."""

    compute: Compute
    details: Details
    negative_ttl_seconds: float | None
    """Time to live of None; 0: it is not cached; None: it is a value as every other."""
    cost: float | None
    """None: the seconds that it took."""
    mode: WriteMode | None
    durability: Durability | None

    def details_for(self, value: object, seconds: float) -> Details | None:
        """None: it is not cached."""
        details = self.details
        if self.cost is None:
            details = evolve(details, cost=seconds)
        if value is None and self.negative_ttl_seconds is not None:
            if self.negative_ttl_seconds == 0:
                return None
            details = evolve(details, ttl_seconds=self.negative_ttl_seconds)
        return details


@define(eq=False)
class Computation:
    key: GlobalCacheKey
    encoded: bytes
    recipe: Recipe
    is_refresh: bool = False
    """It goes on without callers."""
    has_begun: bool = False
    """It waits until it is known what it depends on."""
    is_outdated: bool = False
    """What it is computed from was changed meanwhile, or the key itself: it is not stored."""
    inherited: tuple[Link, ...] = ()
    """What invalidates that on which it depends: the entries, as they were when it began, and what
    is being computed for them."""
    waiting: int = 0
    """Callers; where the last one is cancelled, so is this."""
    answer: Ack[object] = field(factory=Ack)
    raised_at: TracebackType | None = None
    """Where its error was raised: every caller is told."""
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)

    @property
    def keys(self) -> tuple[bytes, ...]:
        """What it stores, and what that depends on."""
        inherited = (one for one in self.inherited if isinstance(one, bytes))
        return (self.encoded, *self.recipe.details.checked_dependencies, *inherited)

    @property
    def links(self) -> tuple[Link, ...]:
        """Whatever concerns it names one of these, or is a prefix."""
        return (*self.keys, *self.recipe.details.checked_tags, *self.inherited)

    def is_concerned_by(self, write: Write) -> bool:
        if write.origin is self or write.is_tidying:
            return False
        details, keys = self.recipe.details, self.keys
        if any(change.encoded in keys for change in write.changes):
            return True
        for target in write.raised:
            if isinstance(target, Prefix):
                if any(key.startswith(target.encoded) for key in keys):
                    return True
            elif target in (*details.checked_tags, *self.inherited, *keys[1:]):
                return True
        return False


Store: TypeAlias = Callable[[Computation, object, Details | None], Awaitable[None]]
"""Without details: what is there is removed."""

_NONE: Final[frozenset[Computation]] = frozenset()


@define(eq=False)
class Computations:
    """Those of one cache, each in a task of its own: the registry's, and not that of a caller who
    may be cancelled."""

    _core: CacheCore
    store: Store
    _running: dict[GlobalCacheKey, Computation] = field(factory=dict)
    """Those that whoever comes now may wait for."""
    _by_link: dict[Link, set[Computation]] = field(factory=dict)
    """The same: thousands may run, and each write asks whom it concerns."""
    _by_encoded: dict[bytes, Computation] = field(factory=dict)
    _tasks: Waiting[Computation] = field(init=False)
    """Those of all caches of the registry."""

    def __attrs_post_init__(self) -> None:
        self._tasks = self._core.registry.subsystem("cache computations", Waiting[Computation])
        self._core.on_changing.append(self._changing)

    def running(self, key: GlobalCacheKey) -> Computation | None:
        return self._running.get(key)

    def involve(self, encoded: bytes) -> bool:
        """Whether this key, or what depends on it, is being computed."""
        return encoded in self._by_link

    def start(self, computation: Computation) -> None:
        """Raises `WriterStoppedError` where the registry is not open (any more)."""
        self._core.registry.start_soon(partial(self._run, computation))
        self._running[computation.key] = self._by_encoded[computation.encoded] = computation
        self._link(computation, computation.links)
        if self._core.index.is_complete or not computation.recipe.details.checked_dependencies:
            self._begin(computation)

    async def _until_known(self, computation: Computation) -> None:
        """Until it is known what its dependencies depend on: when all of L2 is. Were they read
        before, they might be gone by then."""
        try:
            await self._core.until_counted()
        except MpregError as error:
            computation.is_outdated = True
            log.warning("%.200r is computed, and not cached: %s", computation.key, error)
        else:
            self._begin(computation)

    def _begin(self, computation: Computation) -> None:
        """Note what it will be computed from: nothing of that was read yet."""
        computation.has_begun = True
        dependencies = computation.recipe.details.checked_dependencies
        self._inherit(computation, self._core.dependents.inherited(dependencies))
        # It reads what is there before a change that is under way, and would be stored after it.
        computation.is_outdated |= self._is_changing(computation)
        for key in computation.keys[1:]:
            if (other := self._by_encoded.get(key)) is not None:
                self._inherit(computation, other.links)
                computation.is_outdated |= other.is_outdated
        for other in self._computed_from(computation):
            self._inherit(other, computation.links)
            if computation.is_outdated:
                self._outdate(other)

    async def wait(self, computation: Computation) -> object:
        """Its result, which is the caller's own. Cancelled: it goes on for the others, and ends
        with the last of them.

        Raises:
            RuntimeError: the caller is a computation for which this one waits.
        """
        return copied(await self._tasks.answer(computation, self._end_if_unwanted))

    def _end_if_unwanted(self, computation: Computation) -> None:
        if not (computation.waiting or computation.is_refresh or computation.answer.done):
            # From here on it is not told of changes: what is shielded may go on for a while.
            computation.is_outdated = True
            self._forget(computation)
            computation.scope.cancel()

    async def _run(self, computation: Computation) -> None:
        counters, answer = self._core.counters, computation.answer
        counters.computations += 1
        task_id = anyio.get_current_task().id
        self._tasks.by_task[task_id] = computation
        try:
            # What it awaits may be cancelled by others: that is no end of the registry's tasks.
            with failing_with_what_it_awaited(), computation.scope:
                if not computation.has_begun:
                    await self._until_known(computation)
                value, seconds = await self._compute(computation.recipe)
                if computation.is_outdated:
                    # Refused or not must not depend on what happened meanwhile.
                    encode_value(value, self._core.registry.config.value_bytes_max)
                else:
                    await self._store(computation, value, seconds)
                answer.resolve(value)
        except Exception as error:
            counters.computations_failed += 1
            if not computation.waiting:
                # Nobody else is told where it was raised.
                log.warning(
                    "%.200r could not be computed: %s", computation.key, error, exc_info=error
                )
            computation.raised_at = error.__traceback__
            answer.reject(error)
        finally:
            del self._tasks.by_task[task_id]
            self._forget(computation)
            if not answer.done:
                answer.reject(
                    WriterStoppedError(f"{computation.key!r}: the registry closed meanwhile")
                )

    async def _compute(self, recipe: Recipe) -> tuple[object, float]:
        began = anyio.current_time()
        try:
            value = await checked_awaitable(recipe.compute())
        finally:
            seconds = anyio.current_time() - began
            self._core.counters.computing_seconds += seconds
        # Whoever made it may go on changing it. What is nested without end is refused as a value.
        with suppress(RecursionError):
            value = copied(value)
        return value, seconds

    async def _store(self, computation: Computation, value: object, seconds: float) -> None:
        """Who asked gets the value also where the disk is full."""
        details = computation.recipe.details_for(value, seconds)
        if details is None and not computation.is_refresh:
            return
        try:
            await self.store(computation, value, details)
        except OvertakenError:
            return
        except InvalidArgumentError:
            raise
        except MpregError as error:
            log.warning("%.200r was computed, and is not cached: %s", computation.key, error)

    def _is_changing(self, computation: Computation) -> bool:
        core = self._core
        return any(map(core.in_flight.is_changing, computation.keys)) or any(
            map(computation.is_concerned_by, core.in_flight.invalidating)
        )

    def _changing(self, write: Write) -> None:
        """Both when it is sent and when it was committed: whoever began between these has read what
        was there before."""
        if self._running:
            for computation in self._perhaps_concerned_by(write):
                if computation.is_concerned_by(write):
                    self._outdate(computation)

    def _outdate(self, computation: Computation) -> None:
        """With those that are computed from it: it will not be stored, so no change of it would
        ever be told."""
        left = [computation]
        while left:
            one = left.pop()
            one.is_outdated = True
            if self._running.get(one.key) is one:
                left += self._computed_from(one)
                self._forget(one)

    def _inherit(self, computation: Computation, links: Iterable[Link]) -> None:
        """What invalidates that from which it is computed. Whatever is computed from it has that,
        too: it may be all that is left of it, where it is not stored."""
        left = [(computation, links)]
        while left:
            one, given = left.pop()
            known = set(one.links)
            new = tuple(link for link in dict.fromkeys(given) if link not in known)
            if new and self._running.get(one.key) is one:
                one.inherited += new
                self._link(one, new)
                left += [(other, new) for other in self._computed_from(one)]

    def _computed_from(self, computation: Computation) -> list[Computation]:
        found = self._by_link.get(computation.encoded, _NONE)
        return [one for one in found if one is not computation]

    def _perhaps_concerned_by(self, write: Write) -> set[Computation]:
        found: set[Computation] = set()
        for change in write.changes:
            found |= self._by_link.get(change.encoded, _NONE)
        for target in write.raised:
            if isinstance(target, Prefix):
                return set(self._running.values())
            found |= self._by_link.get(target, _NONE)
        return found

    def _link(self, computation: Computation, links: Iterable[Link]) -> None:
        for link in links:
            self._by_link.setdefault(link, set()).add(computation)

    def _forget(self, computation: Computation) -> None:
        """Whoever comes now does not get its result."""
        if self._running.get(computation.key) is not computation:
            return
        del self._running[computation.key], self._by_encoded[computation.encoded]
        for link in set(computation.links):
            self._by_link[link].discard(computation)
            if not self._by_link[link]:
                del self._by_link[link]


def checked_awaitable(result: Awaitable[object]) -> Awaitable[object]:
    """What a call of ``compute`` gave. Raises `InvalidArgumentError`."""
    if not isinstance(result, Awaitable):
        raise InvalidArgumentError(
            f"compute is an async function that takes nothing; its call gave {result!r:.80}"
        )
    return result


def copied(value: object) -> object:
    """What may be changed is given to each caller as a copy."""
    if isinstance(value, list):
        return [copied(item) for item in value]
    if isinstance(value, dict):
        return {key: copied(item) for key, item in value.items()}
    return value

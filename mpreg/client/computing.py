"""One computation of this process for all of its callers that ask for a key at the same time."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from functools import partial
from types import TracebackType
from typing import Any, TypeAlias

import anyio
from attrs import define, field, frozen

from mpreg.actors import Ack
from mpreg.actors.elsewhere import failing_with_what_it_awaited
from mpreg.cache import GlobalCacheKey
from mpreg.cache.circles import Waiting
from mpreg.cache.computing import Compute, checked_awaitable, copied
from mpreg.cache.invalidation import Prefix, Target
from mpreg.client.calls import SIZE_BYTES_MAX
from mpreg.codec import encode_value
from mpreg.errors import (
    InvalidArgumentError,
    MpregError,
    NodeUnreachableError,
    VersionConflictError,
)

__all__ = ["Change", "Computation", "Computations", "Recipe"]

log = logging.getLogger("mpreg.client")

StartSoon: TypeAlias = Callable[[Callable[[], Coroutine[Any, Any, None]]], None]


@frozen(kw_only=True)
class Change:
    """What is about to become of cached values, by this client."""

    keys: frozenset[bytes] = frozenset()
    target: Target | None = None
    """What is invalidated."""


@frozen(kw_only=True)
class Recipe:
    """How a value is looked up, computed where there is none, and stored."""

    look: Callable[[], Awaitable[tuple[bool, object]]]
    compute: Compute
    store: Callable[[object, float], Awaitable[None]]
    """Of a value and the seconds that it took."""
    keys: tuple[bytes, ...]
    """What it stores, and what that depends on."""
    tags: tuple[str, ...]


@define(eq=False)
class Computation:
    key: GlobalCacheKey
    recipe: Recipe
    is_outdated: bool = False
    """What it is computed from was changed by this client meanwhile: it is not stored."""
    waiting: int = 0
    answer: Ack[object] = field(factory=Ack)
    raised_at: TracebackType | None = None
    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    stored: anyio.Event = field(factory=anyio.Event)

    def is_concerned_by(self, change: Change) -> bool:
        keys, target = self.recipe.keys, change.target
        if target is None:
            return not change.keys.isdisjoint(keys)
        if len(keys) > 1:
            # Only the node knows the tags of what it depends on, and on what that depends.
            return True
        if isinstance(target, Prefix):
            return keys[0].startswith(target.encoded)
        return target in self.recipe.tags


@define(eq=False)
class Computations:
    """Of one client, each in a task of its own: not in that of a caller who may be cancelled."""

    _start_soon: StartSoon
    _running: dict[GlobalCacheKey, Computation] = field(factory=dict)
    """Those that whoever comes now may wait for."""
    _storing: set[Computation] = field(factory=set)
    _changes: list[Change] = field(factory=list)
    """Those that are on their way."""
    _tasks: Waiting[Computation] = field(factory=Waiting)

    async def get(self, key: GlobalCacheKey, recipe: Recipe) -> object:
        """Its result, which is the caller's own. Cancelled: it goes on for the others, and ends
        with the last of them.

        Raises:
            RuntimeError: the caller is a computation for which this one waits.
        """
        computation = self._running.get(key)
        if computation is None:
            computation = Computation(key, recipe)
            self._start_soon(partial(self._run, computation))
            self._running[key] = computation
        return copied(await self._tasks.answer(computation, self._end_if_unwanted))

    def _end_if_unwanted(self, computation: Computation) -> None:
        """Not what is being stored: given up, it could still come to the node, and behind what this
        client changes next."""
        is_wanted = computation.waiting or computation in self._storing
        if not is_wanted and not computation.answer.done:
            self._forget(computation)
            computation.scope.cancel()

    @asynccontextmanager
    async def changing(self, change: Change) -> AsyncIterator[None]:
        """Both before and behind it: whoever began in between has read what was there before.

        What is being stored comes first, and meanwhile nothing else is: sent at the same time, or
        again, it could come behind the change, and stay. Cancelled while it waits for that, nothing
        was changed.
        """
        self._changes.append(change)
        try:
            self._outdate(change)
            for computation in [one for one in self._storing if one.is_concerned_by(change)]:
                await computation.stored.wait()
            yield
        finally:
            self._changes.remove(change)
            self._outdate(change)

    def _outdate(self, change: Change) -> None:
        for computation in list(self._running.values()):
            if computation.is_concerned_by(change):
                computation.is_outdated = True
                self._forget(computation)

    async def _run(self, computation: Computation) -> None:
        answer, task_id = computation.answer, anyio.get_current_task().id
        self._tasks.by_task[task_id] = computation
        try:
            # What it awaits may be cancelled by others: that is no end of the client's tasks.
            with failing_with_what_it_awaited(), computation.scope:
                answer.resolve(await self._value(computation))
        except Exception as error:
            computation.raised_at = error.__traceback__
            answer.reject(error)
        finally:
            del self._tasks.by_task[task_id]
            self._forget(computation)
            if not answer.done:
                answer.reject(NodeUnreachableError("the client was closed meanwhile", False))

    async def _value(self, computation: Computation) -> object:
        recipe = computation.recipe
        is_there, value = await recipe.look()
        if is_there:
            return value
        began = anyio.current_time()
        value = await checked_awaitable(recipe.compute())
        seconds = anyio.current_time() - began
        # Whoever made it may go on changing it. What is nested without end is refused as a value.
        with suppress(RecursionError):
            value = copied(value)
        if computation.is_outdated or any(map(computation.is_concerned_by, self._changes)):
            # Refused or not must not depend on what happened meanwhile.
            encode_value(value, SIZE_BYTES_MAX)
        else:
            await self._store(computation, value, seconds)
        return value

    async def _store(self, computation: Computation, value: object, seconds: float) -> None:
        """Who asked gets the value also where it cannot be stored."""
        change = Change(keys=frozenset(computation.recipe.keys[:1]))
        self._storing.add(computation)
        self._outdate(change)
        try:
            await computation.recipe.store(value, seconds)
        except VersionConflictError:
            # Somebody else has put one meanwhile.
            return
        except InvalidArgumentError:
            raise
        except MpregError as error:
            log.warning("%.200r was computed, and is not cached: %s", computation.key, error)
        finally:
            self._storing.remove(computation)
            computation.stored.set()
            self._outdate(change)

    def _forget(self, computation: Computation) -> None:
        if self._running.get(computation.key) is computation:
            del self._running[computation.key]

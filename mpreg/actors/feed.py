"""What happens, told to somebody who takes it at their own pace: bounded, and never a wait."""

from __future__ import annotations

from abc import abstractmethod
from collections import deque
from types import TracebackType
from typing import Generic, Self, TypeVar

import anyio
import anyio.lowlevel
from attrs import define, field

from mpreg.errors import InvalidArgumentError, WatchLaggedError

__all__ = ["Feed"]

T = TypeVar("T")


@define(eq=False)
class Feed(Generic[T]):
    """An async iterator over what it is told, for one task. Who tells never waits: where more came
    than was taken, the feed ends, and says so.

    Cancelled while it waits, nothing was missed, and it may be gone on with.

    It is iterated inside its ``async with`` block: before and after it nobody tells it anything.

    Raises, while iterating, after all that was told before:
        InvalidArgumentError: it is not in its block, and would wait for ever.
        WatchLaggedError: it ended since too much had not been taken.
        Exception: what `end` was given.
    """

    items_max: int
    _is_told: bool = field(default=False, init=False)
    """From the beginning of its block to the end of it."""
    _items: deque[T] = field(factory=deque)
    _failure: Exception | None = None
    _arrived: anyio.Event = field(factory=anyio.Event)

    @property
    def has_ended(self) -> bool:
        return self._failure is not None

    def tell(self, item: T) -> None:
        if self._failure is not None:
            return
        if len(self._items) >= self.items_max:
            self.end(
                WatchLaggedError(
                    f"{self.items_max} changes were not taken in time: later ones are missing"
                )
            )
            return
        self._items.append(item)
        self._arrived.set()

    def end(self, failure: Exception) -> None:
        """Nothing more comes. The first reason stands."""
        self._failure = self._failure or failure
        self._arrived.set()

    @abstractmethod
    async def _enter(self) -> None:
        """See to it that it is told from now on. Where it raises, there is nothing to leave."""

    @abstractmethod
    async def _leave(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Nobody tells it anything any more."""

    async def __aenter__(self) -> Self:
        await self._enter()
        self._is_told = True
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._is_told = False
        await self._leave(exc_type, exc, traceback)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        await anyio.lowlevel.checkpoint_if_cancelled()
        while not self._items:
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if not self._is_told:
                raise InvalidArgumentError(
                    "nothing is told to this watch: use it inside `async with … as changes`"
                )
            self._arrived = anyio.Event()
            await self._arrived.wait()
        return self._items.popleft()

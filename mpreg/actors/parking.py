"""Where one task waits until it is woken, in its event loop's own way.

`anyio.Event.wait` does the same through an event inside an event, two coroutines and a queue. Of
all that a durable put costs the event loop's thread, that was a third; so this is one of the few
places that know asyncio and trio by name, with `parking_on_trio`.

Cancel scopes mean what they mean to `anyio.Event.wait`. A wait that begins in a cancelled scope
ends at once, also where nobody would ever wake it; one that is cancelled before it is woken raises;
one that is woken first returns, and the cancellation meets the task at its next wait.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any, Protocol, TypeAlias

import anyio
import sniffio

__all__ = [
    "CallSoon",
    "NewPlace",
    "Place",
    "call_soon_from_anywhere",
    "is_being_cancelled",
    "loop_clock",
    "new_place",
    "place_maker",
]


class Place(Protocol):
    """For one task to wait in, once: made and awaited in one go, woken by `set_result` or
    `set_exception`, whose argument it is given.

    It is what is used of an `asyncio.Future`, so that on asyncio it simply is one.
    """

    def __await__(self) -> Generator[Any, Any, Any]: ...

    def done(self) -> bool:
        """Whether its task was woken, or cancelled: it must not be woken then."""
        ...

    def set_result(self, result: Any, /) -> None:
        """Wake the task: it runs in the event loop's next turn."""
        ...

    def set_exception(self, error: Exception, /) -> None:
        """Wake the task with an error that nobody else raises."""
        ...


NewPlace: TypeAlias = Callable[[], Place]


def new_place() -> Place:
    """A place for the task that is running."""
    return _maker(sniffio.current_async_library())()


def place_maker() -> NewPlace:
    """What makes places in the running event loop: `new_place` without its look around.

    Where none is running, it is `new_place` itself.
    """
    try:
        return _maker(sniffio.current_async_library())
    except sniffio.AsyncLibraryNotFoundError:
        return new_place


def loop_clock() -> Callable[[], float]:
    """What tells the running event loop's time: `anyio.current_time` without its look around."""
    if sniffio.current_async_library() == "trio":
        from mpreg.actors.parking_on_trio import trio_clock

        return trio_clock
    return asyncio.get_running_loop().time


CallSoon: TypeAlias = Callable[[Callable[[], None]], None]


def call_soon_from_anywhere() -> CallSoon:
    """What has the running event loop call something in its next turn, from any thread, also in
    the middle of anything else. Does nothing when that loop has ended."""
    if sniffio.current_async_library() == "trio":
        from mpreg.actors.parking_on_trio import call_soon_on_trio

        return call_soon_on_trio()
    loop = asyncio.get_running_loop()

    def call_soon_on_asyncio(what: Callable[[], None]) -> None:
        if not loop.is_closed():
            # It may be closed by now all the same.
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(what)

    return call_soon_on_asyncio


def is_being_cancelled() -> bool:
    """Whether the task that is running was cancelled, natively too; False where none is."""
    try:
        if sniffio.current_async_library() == "asyncio":
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                return True
        return anyio.current_effective_deadline() == -math.inf
    except (AttributeError, RuntimeError, sniffio.AsyncLibraryNotFoundError):
        # AttributeError: what trio has to say of a task that has ended, whose finaliser runs.
        return False


def _maker(library: str) -> NewPlace:
    if library == "trio":
        from mpreg.actors.parking_on_trio import TrioPlace

        return TrioPlace
    return asyncio.get_running_loop().create_future

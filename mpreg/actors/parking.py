"""Where one task waits until it is woken, in its event loop's own way.

`anyio.Event.wait` does the same through an event inside an event, two coroutines and a queue. Of
all that a durable put costs the event loop's thread, that was a third; so this is one of the few
places that know asyncio and trio by name, and the only one in this package.

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
import trio

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
    """For one task to wait in, once: made and awaited in one go, woken by `set_result`.

    It is what is used of an `asyncio.Future`, so that on asyncio it simply is one.
    """

    def __await__(self) -> Generator[Any, Any, None]: ...

    def done(self) -> bool:
        """Whether its task was woken, or cancelled: it must not be woken then."""
        ...

    def set_result(self, result: None, /) -> None:
        """Wake the task: it runs in the event loop's next turn."""
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
        return trio.current_time
    return asyncio.get_running_loop().time


CallSoon: TypeAlias = Callable[[Callable[[], None]], None]


def call_soon_from_anywhere() -> CallSoon:
    """What has the running event loop call something in its next turn, from any thread, also in
    the middle of anything else. Does nothing when that loop has ended."""
    if sniffio.current_async_library() == "trio":
        run_sync_soon = trio.lowlevel.current_trio_token().run_sync_soon

        def call_soon_on_trio(what: Callable[[], None]) -> None:
            with suppress(trio.RunFinishedError):
                run_sync_soon(what)

        return call_soon_on_trio
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
    return _TrioPlace if library == "trio" else asyncio.get_running_loop().create_future


class _TrioPlace:
    """A task may be rescheduled once only: by whoever wakes it, or by its cancellation."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def __await__(self) -> Generator[Any, Any, None]:
        # Awaited by whoever awaits the place.
        return trio.lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105

    def done(self) -> bool:
        return self._task is None

    def set_result(self, _result: None, /) -> None:
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

"""The part of `mpreg.actors.parking` that is trio's.

It is imported where trio runs: a program on asyncio starts without loading trio.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import suppress
from typing import Any

import outcome
import trio

__all__ = ["TrioPlace", "call_soon_on_trio", "trio_clock"]

trio_clock = trio.current_time


def call_soon_on_trio() -> Callable[[Callable[[], None]], None]:
    """See `mpreg.actors.parking.call_soon_from_anywhere`."""
    run_sync_soon = trio.lowlevel.current_trio_token().run_sync_soon

    def call_soon(what: Callable[[], None]) -> None:
        with suppress(trio.RunFinishedError):
            run_sync_soon(what)

    return call_soon


class TrioPlace:
    """A task may be rescheduled once only: by whoever wakes it, or by its cancellation."""

    __slots__ = ("_task",)

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = trio.lowlevel.current_task()

    def __await__(self) -> Generator[Any, Any, Any]:
        # Awaited by whoever awaits the place.
        return trio.lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105

    def done(self) -> bool:
        return self._task is None

    def set_result(self, result: Any, /) -> None:
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task, outcome.Value(result))

    def set_exception(self, error: Exception, /) -> None:
        task, self._task = self._task, None
        assert task is not None
        trio.lowlevel.reschedule(task, outcome.Error(error))

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._task = None
        return trio.lowlevel.Abort.SUCCEEDED

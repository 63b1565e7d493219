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
    """A task may be rescheduled once only: by whoever wakes it, or by its cancellation.

    Before it waits here it is not: Ctrl-C can take it elsewhere between making the place and
    waiting in it, and there it must not be woken with what it does not wait for any more.
    """

    __slots__ = ("_answer", "_is_done", "_task")

    def __init__(self) -> None:
        self._task: trio.lowlevel.Task | None = None
        self._is_done = False
        self._answer: outcome.Outcome[Any] | None = None
        """What came before anybody waited for it."""

    def __await__(self) -> Generator[Any, Any, Any]:
        if self._answer is not None:
            return _answered(self._answer).__await__()
        self._task = trio.lowlevel.current_task()
        # Awaited by whoever awaits the place.
        return trio.lowlevel.wait_task_rescheduled(self._abort).__await__()  # noqa: ASYNC105

    def done(self) -> bool:
        return self._is_done

    def set_result(self, result: Any, /) -> None:
        self._wake(outcome.Value(result))

    def set_exception(self, error: Exception, /) -> None:
        self._wake(outcome.Error(error))

    def _wake(self, answer: outcome.Outcome[Any]) -> None:
        assert not self._is_done
        self._is_done = True
        task, self._task = self._task, None
        if task is None:
            self._answer = answer
        else:
            trio.lowlevel.reschedule(task, answer)

    def _abort(self, _raise_cancel: object) -> trio.lowlevel.Abort:
        self._is_done, self._task = True, None
        return trio.lowlevel.Abort.SUCCEEDED


async def _answered(answer: outcome.Outcome[Any]) -> Any:
    """Ends at once, as a wait for an `asyncio.Future` that is done."""
    return answer.unwrap()

"""Long work on a thread, which can be stopped at any step and says how far it is.

What examines or copies a store is plain blocking code. It runs as one function on a worker thread,
and asks its `Control` at every step whether it is still wanted. So a cancelled caller waits for one
step, never for the whole, and what the function holds open is closed by its own ``finally``.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import anyio.lowlevel
import anyio.to_thread
from attrs import define, field

from mpreg.progress import OnProgress, Progress

__all__ = ["Control", "run_stoppable"]

T = TypeVar("T")


class StoppedError(Exception):
    """Nobody wants the result any more. Never leaves this file."""


@define
class Control:
    """What the work asks at each step."""

    on_progress: OnProgress | None = None
    _stop: threading.Event = field(factory=threading.Event)

    @property
    def stopped(self) -> bool:
        return self._stop.is_set()

    def stop(self) -> None:
        self._stop.set()

    def step(self, task: str, done: int, total: int | None = None) -> None:
        """Between two steps: tell how far it is; does not return where nobody waits any more."""
        if self.stopped:
            raise StoppedError
        if self.on_progress is not None:
            self.on_progress(Progress(task, done, total))

    def pause(self, seconds: float) -> None:
        """Sleep, unless it is stopped meanwhile."""
        if self._stop.wait(seconds):
            raise StoppedError


async def run_stoppable(work: Callable[[Control], T], on_progress: OnProgress | None = None) -> T:
    """Run blocking work on a thread.

    Cancelled: the work is stopped at its next step, and has ended when this raises.
    """
    control = Control(on_progress)
    result: list[T] = []
    failure: list[BaseException] = []

    def on_thread() -> None:
        try:
            result.append(work(control))
        except BaseException as error:  # noqa: BLE001
            failure.append(error)

    async def stop_when_cancelled() -> None:
        try:
            await anyio.sleep_forever()
        finally:
            control.stop()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(stop_when_cancelled)
        await anyio.to_thread.run_sync(on_thread)
        task_group.cancel_scope.cancel()
    if failure:
        # Stopped by a cancellation that the thread was too late for: then it is raised here.
        await anyio.lowlevel.checkpoint_if_cancelled()
        raise failure[0]
    return result[0]

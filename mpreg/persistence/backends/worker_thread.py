"""A thread that owns one session of a backend and runs functions on it, on asyncio and on trio.

The unit of work is a whole function: one hop to the thread and back costs as much as dozens of
small steps. The thread is a daemon: whatever the program forgets to close, or crashes out of, the
process ends. That is safe at any moment, as `kill -9` is.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, TypeAlias, TypeVar

import anyio
import anyio.lowlevel
import outcome

from mpreg.actors.parking import CallSoon, call_soon_from_anywhere, new_place

__all__ = ["WorkerThread", "start_worker"]

T = TypeVar("T")

Call: TypeAlias = Callable[[], Any]


class _Job:
    """One call, and the task that waits for it.

    The thread has it in its hands until there is another one, which may be hours. So it keeps the
    call no longer than until it was made, and the result until it is taken: either may be large.
    """

    __slots__ = ("_call", "_call_soon", "_place", "_result")

    def __init__(self, call: Call, call_soon: CallSoon) -> None:
        self._call: Call | None = call
        self._call_soon = call_soon
        self._place = new_place()
        self._result: outcome.Outcome[Any] | None = None

    async def wait(self) -> Any:
        """The result. Cancelled: nobody waits for it any more."""
        await self._place
        # Not by a name of this frame: an error would keep itself alive, by its own traceback.
        return self._taken().unwrap()

    def _taken(self) -> outcome.Outcome[Any]:
        result, self._result = self._result, None
        assert result is not None
        return result

    def work(self) -> None:
        """Make the call and hand its result over. On the thread."""
        assert self._call is not None
        self._result = outcome.capture(self._call)
        self._call = None
        # Does nothing where the event loop is gone, and with it everyone who could want the result.
        self._call_soon(self._deliver)

    def _deliver(self) -> None:
        if not self._place.done():
            self._place.set_result(None)


class WorkerThread:
    """See `start_worker`. To be used from the event loop that started it."""

    def __init__(self, name: str) -> None:
        self._jobs: SimpleQueue[_Job | Call | None] = SimpleQueue()
        self._call_soon = call_soon_from_anywhere()
        self.abandoned = False
        """Whether a call was cancelled: what it began may still go on."""
        threading.Thread(target=self._work, name=name, daemon=True).start()

    async def run(self, function: Callable[..., T], *arguments: Any) -> T:
        """Run a function on the thread; its result or its exception.

        Cancelled: the function goes on, nobody waits for it, and the thread can only be closed.
        """
        job = _Job(lambda: function(*arguments), self._call_soon)
        self._jobs.put(job)
        try:
            result: T = await job.wait()
        except anyio.get_cancelled_exc_class():
            self.abandoned = True
            raise
        return result

    async def close(self, function: Callable[[], None]) -> None:
        """Run a last function, which closes the session, and end the thread.

        Where a call was cancelled, this waits for nothing: the thread does it when it gets there.
        """
        try:
            if not self.abandoned:
                await self.run(function)
        finally:
            # Again where a call was abandoned: closing twice does nothing.
            self._jobs.put(function)
            self._jobs.put(None)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            if isinstance(job, _Job):
                job.work()
            else:
                outcome.capture(job)


async def start_worker(name: str, open_session: Callable[[], T]) -> tuple[WorkerThread, T]:
    """Start a thread and make its session there. Where that raises, the thread has ended.

    Cancelled: only before anything was done, since a session opened for nobody would stay open.
    """
    await anyio.lowlevel.checkpoint_if_cancelled()
    with anyio.CancelScope(shield=True):
        thread = WorkerThread(name)
        try:
            session = await thread.run(open_session)
        except BaseException:
            await thread.close(lambda: None)
            raise
    return thread, session

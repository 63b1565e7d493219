"""A blocking function on a thread, awaited from either event loop; and on a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any, TypeAlias, TypeVar

import outcome

from mpreg.actors.parking import CallSoon, call_soon_from_anywhere, new_place

__all__ = ["Call", "Job", "run_in_own_thread"]

T = TypeVar("T")

Call: TypeAlias = Callable[[], Any]


class Job:
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


async def run_in_own_thread(function: Callable[[], T]) -> T:
    """The function's result, or its exception. The thread ends with it.

    Not `anyio.to_thread`: its threads stay for a while, and one that a device holds up would keep
    the process from exiting. This one is a daemon.

    Cancelled: the function goes on, and nobody waits for it.
    """
    job = Job(function, call_soon_from_anywhere())
    threading.Thread(target=job.work, name="mpreg", daemon=True).start()
    result: T = await job.wait()
    return result

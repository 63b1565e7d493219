"""A blocking function on a thread of its own, awaited from either event loop."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import outcome
import sniffio
import trio

__all__ = ["run_in_own_thread"]

T = TypeVar("T")


async def run_in_own_thread(function: Callable[[], T]) -> T:
    """The function's result, or its exception. The thread ends with it.

    Not `anyio.to_thread`: its threads stay for a while, and one that a device holds up would keep
    the process from exiting. This one is a daemon.

    Cancelled: the function goes on, and nobody waits for it.
    """
    done = anyio.Event()
    results: list[outcome.Outcome[T]] = []
    wake = _waker(done.set)

    def work() -> None:
        results.append(outcome.capture(function))
        try:
            wake()
        except (RuntimeError, trio.RunFinishedError):
            # The event loop is gone, and with it everyone who could want the result.
            return

    threading.Thread(target=work, name="mpreg", daemon=True).start()
    await done.wait()
    return results[0].unwrap()


def _waker(call: Callable[[], None]) -> Callable[[], object]:
    """What has the running event loop make the call, from any thread."""
    if sniffio.current_async_library() == "trio":
        token = trio.lowlevel.current_trio_token()
        return lambda: token.run_sync_soon(call)
    loop = asyncio.get_running_loop()
    return lambda: loop.call_soon_threadsafe(call)

"""A blocking function on a thread of its own, awaited from either event loop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import TypeVar

import anyio
import outcome

from mpreg.actors.parking import call_soon_from_anywhere

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
    call_soon = call_soon_from_anywhere()

    def work() -> None:
        results.append(outcome.capture(function))
        # Does nothing where the event loop is gone, and with it everyone who could want the result.
        call_soon(done.set)

    threading.Thread(target=work, name="mpreg", daemon=True).start()
    await done.wait()
    return results[0].unwrap()

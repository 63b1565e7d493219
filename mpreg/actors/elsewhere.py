"""Cancellations that are not the running task's own.

On asyncio, whoever awaits a task that somebody else has cancelled is raised the same
`CancelledError` as one who is cancelled. A task group takes that for the end of the task that it
was raised in, and ends all the others. So where code of others runs in a task that is not theirs,
the two are told apart.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import anyio

from mpreg.actors.parking import is_being_cancelled

__all__ = ["failing_with_what_it_awaited"]


@contextmanager
def failing_with_what_it_awaited() -> Iterator[None]:
    """Raises `RuntimeError` where the block ends with a cancellation and the task that is running
    was not cancelled: ``__cause__`` is what it was raised."""
    try:
        yield
    except anyio.get_cancelled_exc_class() as error:
        if is_being_cancelled():
            raise
        raise RuntimeError("what it waited for was cancelled, and not by who waits") from error

"""Work that does not say by itself how far it is, looked at from time to time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import Final, TypeVar

import anyio

from mpreg.actors import run_beside
from mpreg.cli.output import Output
from mpreg.progress import OnProgress, Progress

__all__ = ["watched"]

T = TypeVar("T")

LOOK_SECONDS: Final = 0.2


async def watched(
    output: Output,
    what: str,
    total: int | None,
    done: Callable[[], Awaitable[int]],
    work: Callable[[], Awaitable[T]],
) -> T:
    """Do the work, and show on a terminal how far ``done`` says it is."""
    with output.progress(what) as on_progress:
        if on_progress is None:
            return await work()
        return await run_beside(partial(_tell, on_progress, what, total, done), work)


async def _tell(
    on_progress: OnProgress, what: str, total: int | None, done: Callable[[], Awaitable[int]]
) -> None:
    while True:
        on_progress(Progress(what, await done(), total))
        await anyio.sleep(LOOK_SECONDS)

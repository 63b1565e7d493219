"""Work that something is done beside, for as long as it takes."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TypeVar

import anyio

__all__ = ["run_beside"]

T = TypeVar("T")


async def run_beside(watch: Callable[[], Awaitable[object]], work: Callable[[], Awaitable[T]]) -> T:
    """The result of ``work``; ``watch`` runs beside it and is cancelled at its end. Where
    ``watch`` raises, the work is cancelled.

    What either of them raises is raised by itself and not in an exception group; of both, what came
    first.

    Cancelled: both are.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def watch_on() -> None:
        try:
            await watch()
        except Exception as error:  # noqa: BLE001
            failures.append(error)
            task_group.cancel_scope.cancel()

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(watch_on)
        try:
            results.append(await work())
        except Exception as error:  # noqa: BLE001
            failures.append(error)
        task_group.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return results[0]

"""A command ends where a server would wait: for room on the disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from mpreg.actors import BackingOff
from mpreg.errors import StorageFullError
from mpreg.persistence.registry import PersistenceRegistry

__all__ = ["run_unless_full"]

T = TypeVar("T")

LOOK_SECONDS: Final = 0.2


async def run_unless_full(registry: PersistenceRegistry, work: Callable[[], Awaitable[T]]) -> T:
    """Do something with an open registry; cancelled where its writer waits for room on the disk.

    Raises:
        StorageFullError: there is no room. What was acknowledged until then is written.
    """
    results: list[T] = []
    failures: list[Exception] = []

    async def watch() -> None:
        while True:
            state = (await registry.stats()).writer
            if isinstance(state, BackingOff) and isinstance(state.cause, StorageFullError):
                failures.append(state.cause)
                task_group.cancel_scope.cancel()
                return
            await anyio.sleep(LOOK_SECONDS)

    async with anyio.create_task_group() as task_group:
        task_group.start_soon(watch)
        try:
            results.append(await work())
        except Exception as error:  # noqa: BLE001
            # Out of the task group by itself, not in an exception group.
            failures.append(error)
        task_group.cancel_scope.cancel()
    if failures:
        raise failures[0]
    return results[0]

"""A command ends where a server would wait: for room on the disk."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, TypeVar

import anyio

from mpreg.actors import BackingOff, run_beside
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

    async def watch() -> None:
        while True:
            state = (await registry.stats()).writer
            if isinstance(state, BackingOff) and isinstance(state.cause, StorageFullError):
                raise state.cause
            await anyio.sleep(LOOK_SECONDS)

    return await run_beside(watch, work)

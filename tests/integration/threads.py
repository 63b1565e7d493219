"""What the tests of calls in another thread share."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial

import anyio
import anyio.to_thread
import pytest

__all__ = ["LIBRARIES", "refused_elsewhere"]

#: Longer than anything here takes: it only tells a standstill from an answer.
PATIENCE_SECONDS = 60.0

LIBRARIES = pytest.mark.parametrize("library", ["asyncio", "trio"])


async def refused_elsewhere(call: Callable[[], Awaitable[object]], library: str) -> None:
    """In the event loop of another thread it says so, and does not wait for anything."""

    async def called() -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            await call()

    with pytest.raises(RuntimeError, match="in another thread than its event loop's"):
        await anyio.to_thread.run_sync(partial(anyio.run, called, backend=library))

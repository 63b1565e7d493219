"""The event loops that async tests run on."""

from __future__ import annotations

import os
from typing import Any, Final

import anyio
import anyio.lowlevel
import pytest

_ASYNCIO: Final = pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio")
_UVLOOP: Final = pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop")
_TRIO: Final = pytest.param(("trio", {}), id="trio")

ALL: Final = [_ASYNCIO, _UVLOOP, _TRIO]

#: uvloop behaves as asyncio does but where a driver meets it: most tests leave it out, unless they
#: are asked not to.
USUAL: Final = ALL if os.environ.get("MPREG_LOOPS") == "all" else [_ASYNCIO, _TRIO]


@pytest.fixture(params=ALL)
def on_all_loops(request: pytest.FixtureRequest) -> Any:
    """Stands in a module as its ``anyio_backend``."""
    return request.param


async def await_what_others_cancelled() -> None:
    """Ends with a cancellation that is none of the task's that is running."""
    cancelled: BaseException | None = None
    with anyio.CancelScope() as scope:
        scope.cancel()
        try:
            await anyio.lowlevel.checkpoint()
        except anyio.get_cancelled_exc_class() as error:
            cancelled = error
            raise
    assert cancelled is not None
    # As asyncio raises it to who awaits a cancelled task: it tells of no scope.
    cancelled.args = ()
    raise cancelled

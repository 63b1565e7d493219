"""Every async test runs on asyncio and on trio; some, or all where they are asked to, on uvloop."""

from __future__ import annotations

import gc
import signal
from typing import Any

import pytest

from tests.in_memory import tmp_path
from tests.loops import USUAL

__all__ = ["anyio_backend", "tmp_path"]


@pytest.fixture(params=USUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param


def pytest_configure() -> None:
    # Of all that is collected nothing is garbage: to look for some takes a fifth of the time.
    gc.disable()
    # A shell without a terminal starts what it does not wait for with SIGINT ignored, and the
    # processes of the tests would inherit that: none of them could be interrupted.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """What pytest knows of thousands of tests stays until the end: no collection of garbage walks
    it, of those that tests ask for and those that come by themselves. Each took 0.2 s."""
    gc.collect()
    gc.freeze()
    gc.enable()


@pytest.hookimpl(tryfirst=True)
def pytest_sessionfinish() -> None:
    # Hypothesis may be imported only now, for its summary, and then asks who refers to what.
    gc.unfreeze()

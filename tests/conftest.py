"""Every async test runs on asyncio and on trio; some, or all where they are asked to, on uvloop."""

from __future__ import annotations

from typing import Any

import pytest

from tests.loops import USUAL


@pytest.fixture(params=USUAL)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param

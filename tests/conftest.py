"""Every async test runs on asyncio, on asyncio with uvloop, and on trio."""

from __future__ import annotations

import os
from typing import Any

import pytest
from hypothesis import settings

# The same examples each time: what fails, fails for everyone. MPREG_HYPOTHESIS=random looks further.
settings.register_profile("seeded", derandomize=True)
settings.register_profile("random", derandomize=False)
settings.load_profile(os.environ.get("MPREG_HYPOTHESIS", "seeded"))

BACKENDS = [
    pytest.param(("asyncio", {"use_uvloop": False}), id="asyncio"),
    pytest.param(("asyncio", {"use_uvloop": True}), id="uvloop"),
    pytest.param(("trio", {}), id="trio"),
]


@pytest.fixture(params=BACKENDS)
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    return request.param

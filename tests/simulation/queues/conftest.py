"""Everything here is told of something small."""

from __future__ import annotations

import pytest

from tests.simulation.queues.small import make_small


@pytest.fixture(autouse=True)
def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    make_small(monkeypatch)

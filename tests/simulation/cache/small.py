"""What happens to a cache after thousands of entries happens here after a few."""

from __future__ import annotations

import pytest

from mpreg.cache import core, index, restoring, upkeep
from mpreg.persistence.backends import state

__all__ = ["make_small"]


def make_small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(index, "PASSED_OVER_MAX", 4)
    monkeypatch.setattr(core, "VICTIMS_MAX", 4)
    monkeypatch.setattr(restoring, "KEYS_PER_READ", 2)
    monkeypatch.setattr(upkeep, "REMOVED_PER_BATCH", 2)
    monkeypatch.setattr(upkeep, "KEYS_PER_TURN", 3)
    monkeypatch.setattr(state, "PAGE_ITEMS_MAX", 2)

"""Tells a few stories of each kind, and prints what happened in them, in short."""

from __future__ import annotations

import hashlib
import logging
from typing import TYPE_CHECKING, Final

import pytest

from tests.simulation.cache.small import make_small as make_caches_small
from tests.simulation.cache.story import CacheStory
from tests.simulation.fabric.story import FabricStory
from tests.simulation.queues.small import make_small as make_queues_small
from tests.simulation.queues.story import QueueStory
from tests.simulation.story import Story

if TYPE_CHECKING:
    from mpreg.testing import Simulation

#: Of the cache, those in whose stories much is invalidated together.
CACHE_SEEDS: Final = (5, 22, 247)


def _tell() -> dict[str, Simulation]:
    return {
        **{f"cache {seed}": CacheStory(seed).tell().simulation for seed in CACHE_SEEDS},
        "fabric": FabricStory.of(3).tell().simulation,
        "queues": QueueStory(2).tell().simulation,
        "storage": Story(0).tell().simulation,
    }


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    with pytest.MonkeyPatch.context() as monkeypatch:
        make_caches_small(monkeypatch)
        make_queues_small(monkeypatch)
        told = _tell()
    for name, simulation in told.items():
        trace = "\n".join(simulation.trace).encode()
        print(name, simulation.steps, hashlib.sha256(trace).hexdigest())

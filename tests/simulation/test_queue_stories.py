"""Queues over thousands of seeds: nothing acknowledged is lost, nothing finished comes back.

``MPREG_SIMULATION_SEEDS=5000`` tells more stories, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from mpreg.queues import core, truncation, upkeep
from tests.simulation.queue_story import QueueStory

SEEDS = "24"
SEEDS_PER_TEST = 6


def _seeds() -> list[range]:
    if one := os.environ.get("MPREG_SIMULATION_SEED"):
        return [range(int(one), int(one) + 1)]
    seeds = int(os.environ.get("MPREG_SIMULATION_SEEDS", SEEDS))
    return [
        range(start, min(start + SEEDS_PER_TEST, seeds))
        for start in range(0, seeds, SEEDS_PER_TEST)
    ]


@pytest.fixture(autouse=True)
def small_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Snapshots and truncations every few messages, and not every few thousand."""
    monkeypatch.setattr(core, "SNAPSHOT_AFTER_CHANGES", 12)
    monkeypatch.setattr(upkeep, "SNAPSHOT_AFTER_CHANGES", 12)
    monkeypatch.setattr(truncation, "FINISHED_MIN", 4)
    monkeypatch.setattr(truncation, "FINISHED_PER_COPY", 2)


@pytest.mark.parametrize("seeds", _seeds(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_queues_keep_their_promises(seeds: range) -> None:
    for seed in seeds:
        try:
            QueueStory(seed).tell()
        except BaseException as error:
            error.add_note(f"replay it with MPREG_SIMULATION_SEED={seed}")
            raise


def test_the_stories_leave_nothing_out() -> None:
    """Where a kind of trouble never happens, all those seeds say nothing about it."""
    counts: Counter[str] = Counter()
    for seed in range(12):
        counts += QueueStory(seed).tell().counts
    assert set(counts) >= {
        "acks",
        "cancellations",
        "crashes",
        "effects",
        "ends in peace",
        "failed sends",
        "failed deliveries",
        "lost leases",
        "nacks",
        "sends",
    }

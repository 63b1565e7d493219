"""Thousands of stories: whatever happens, *acked ⊆ restored ⊆ sent*, in order, nothing torn.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.seeds import name_of, replayable, seeds_in_parts
from tests.simulation.story import Story

SEEDS = 100
SEEDS_PER_TEST = 25


@pytest.mark.parametrize("seeds", seeds_in_parts(SEEDS, per_test=SEEDS_PER_TEST), ids=name_of)
def test_what_was_acked_is_restored_and_nothing_else(seeds: range) -> None:
    for seed in seeds:
        with replayable(seed):
            Story(seed).tell()


def test_the_stories_leave_nothing_out() -> None:
    """Where a kind of trouble never happens, all those seeds say nothing about it."""
    expected = {
        "durable acks",
        "relaxed acks",
        "rejected",
        "unknown",
        "mailbox full",
        "writer stopped",
        "StorageFullError",
        "CommitFailedError",
        "cancellations",
        "crashes",
        "power cuts",
        "processes ended by the disk",
        "processes that ended by themselves",
        "writer restarts",
        "reader restarts",
    }
    counts: Counter[str] = Counter()
    for seed in range(120):
        counts += Story(seed).tell().counts
        if set(counts) >= expected:
            return
    assert expected - set(counts) == set()

"""Thousands of stories: whatever happens, *acked ⊆ restored ⊆ sent*, in order, nothing torn.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

import os
from collections import Counter

import pytest

from tests.simulation.story import Story

SEEDS = "300"
SEEDS_PER_TEST = 25


def _seeds() -> list[range]:
    if one := os.environ.get("MPREG_SIMULATION_SEED"):
        return [range(int(one), int(one) + 1)]
    seeds = int(os.environ.get("MPREG_SIMULATION_SEEDS", SEEDS))
    return [
        range(start, min(start + SEEDS_PER_TEST, seeds))
        for start in range(0, seeds, SEEDS_PER_TEST)
    ]


@pytest.mark.parametrize("seeds", _seeds(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_what_was_acked_is_restored_and_nothing_else(seeds: range) -> None:
    for seed in seeds:
        try:
            Story(seed).tell()
        except BaseException as error:
            error.add_note(f"replay it with MPREG_SIMULATION_SEED={seed}")
            raise


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

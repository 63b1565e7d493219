"""Catalogs whose exchanges get lost, doubled and reordered agree when there is quiet.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.fabric.story import FabricStory
from tests.simulation.seeds import name_of, replayable, seeds_in_parts

SEEDS = 12
SEEDS_PER_TEST = 6


@pytest.mark.parametrize("seeds", seeds_in_parts(SEEDS, per_test=SEEDS_PER_TEST), ids=name_of)
def test_catalogs_agree_when_there_is_quiet(seeds: range) -> None:
    for seed in seeds:
        with replayable(seed):
            FabricStory.of(seed).tell()


def test_the_stories_leave_nothing_out() -> None:
    counts: Counter[str] = Counter()
    for seed in range(10_000, 10_006):
        counts += FabricStory.of(seed).tell().counts
    expected = {
        *("news", "known", "old", "own"),
        *("lost", "late", "twice"),
        *("closed", "killed", "remembered", "clock jumps", "queues made or deleted"),
    }
    assert expected - set(counts) == set()


def test_one_seed_is_one_story() -> None:
    first, again = (FabricStory.of(3).tell() for _ in range(2))
    assert first.counts == again.counts
    assert first.simulation.steps == again.simulation.steps

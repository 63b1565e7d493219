"""Thousands of stories of a cache: nothing old, dead or unheard of is ever served.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

import gc
import weakref
from collections import Counter

import pytest

from tests.simulation.cache.story import CacheStory
from tests.simulation.seeds import name_of, replayable, seeds_in_parts

SEEDS = 20
SEEDS_PER_TEST = 10


@pytest.mark.parametrize("seeds", seeds_in_parts(SEEDS, per_test=SEEDS_PER_TEST), ids=name_of)
def test_a_cache_keeps_what_it_promised(seeds: range) -> None:
    for seed in seeds:
        with replayable(seed):
            CacheStory(seed).tell()


def test_the_stories_leave_nothing_out() -> None:
    """Where a kind of trouble never happens, all those seeds say nothing about it."""
    expected = {
        "acked: relaxed",
        "acked: write_behind",
        "acked: write_through",
        "callers that were told of the end",
        "cancellations",
        "computations",
        "crashes",
        "hits",
        "hits of what is written behind",
        "jumps of the clock",
        "misses",
        "power cuts",
        "processes ended by the disk",
        "processes that ended by themselves",
        "refused: CommitFailedError",
        "refused: StorageFullError",
        "refused: VersionConflictError",
        "refused: too large",
        "times that all was looked at",
    }
    counts: Counter[str] = Counter()
    for seed in range(10_000, 10_045):
        counts += CacheStory(seed).tell().counts
        if set(counts) >= expected:
            return
    assert expected - set(counts) == set()


def test_one_seed_is_one_story() -> None:
    for seed in range(2):
        traces = [CacheStory(seed).tell().simulation.trace for _ in range(2)]
        assert traces[0] == traces[1]


def test_a_story_that_was_told_leaves_nothing_in_memory() -> None:
    """What the garbage collector does not follow must not be part of a circle: in its processes
    writes fail, are refused, and are under way when the power goes."""
    stories = [CacheStory(seed).tell() for seed in range(4)]
    told = [weakref.ref(story.disk) for story in stories]
    del stories
    gc.collect()
    assert [one() for one in told] == [None] * len(told)

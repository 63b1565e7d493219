"""Thousands of stories of a queue: what was acknowledged stands, and nothing is lost or doubled.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

from collections import Counter

import pytest

from tests.simulation.queues.story import QueueStory
from tests.simulation.seeds import name_of, replayable, seeds_in_parts

SEEDS = 20
SEEDS_PER_TEST = 10


@pytest.mark.parametrize("seeds", seeds_in_parts(SEEDS, per_test=SEEDS_PER_TEST), ids=name_of)
def test_a_queue_keeps_what_it_promised(seeds: range) -> None:
    for seed in seeds:
        with replayable(seed):
            QueueStory(seed).tell()


def test_the_stories_leave_nothing_out() -> None:
    """Where a kind of trouble never happens, all those seeds say nothing about it."""
    expected = {
        "acks",
        "cancellations",
        "consumers that were told of the end",
        "crashes",
        "deliveries",
        "effects",
        "events truncated",
        "logs truncated",
        "loops closed while they waited",
        "messages left",
        "nacks",
        "power cuts",
        "processes ended by the disk",
        "processes that ended by themselves",
        "producers that were told of the end",
        "receives refused: CommitFailedError",
        "receives refused: StorageFullError",
        "redeliveries",
        "sends acked",
        "sends refused: CommitFailedError",
        "sends refused: QueueFullError",
        "sends refused: StorageFullError",
        "sends refused: VersionConflictError",
        "sends refused: WriterStoppedError",
        "settling refused: LeaseLostError",
        "settling refused: StorageFullError",
        "subscriptions deleted",
        "transactions",
    }
    counts: Counter[str] = Counter()
    for seed in range(10_000, 10_045):
        counts += QueueStory(seed).tell().counts
        if set(counts) >= expected:
            return
    assert expected - set(counts) == set()


def test_one_seed_is_one_story() -> None:
    for seed in range(2):
        traces = [QueueStory(seed).tell().simulation.trace for _ in range(2)]
        assert traces[0] == traces[1]

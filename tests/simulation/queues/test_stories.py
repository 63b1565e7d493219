"""Thousands of stories of a queue: what was acknowledged stands, and nothing is lost or doubled.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

import os

import pytest

from tests.simulation.queues.story import QueueStory

SEEDS = "80"
SEEDS_PER_TEST = 10


def _seeds() -> list[range]:
    if one := os.environ.get("MPREG_SIMULATION_SEED"):
        return [range(int(one), int(one) + 1)]
    seeds = int(os.environ.get("MPREG_SIMULATION_SEEDS", SEEDS))
    return [
        range(start, min(start + SEEDS_PER_TEST, seeds))
        for start in range(0, seeds, SEEDS_PER_TEST)
    ]


@pytest.mark.parametrize("seeds", _seeds(), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_a_queue_keeps_what_it_promised(seeds: range) -> None:
    for seed in seeds:
        try:
            QueueStory(seed).tell()
        except BaseException as error:
            error.add_note(f"replay it with MPREG_SIMULATION_SEED={seed}")
            raise

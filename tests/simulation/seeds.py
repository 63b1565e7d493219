"""Which stories are told, and how one of them is told again.

``MPREG_SIMULATION_SEEDS=5000`` tells more of them, ``MPREG_SIMULATION_SEED=123`` one again.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["name_of", "ordinarily", "replayable", "seeds_in_parts"]


def ordinarily(few: int, *, of: int) -> int:
    """``few`` of something, or all of it where the environment asks for more than the usual."""
    return of if "MPREG_SIMULATION_SEEDS" in os.environ else few


def seeds_in_parts(seeds: int, *, per_test: int) -> list[range]:
    """The seeds of each test: ``seeds`` in all, where the environment does not say otherwise."""
    if one := os.environ.get("MPREG_SIMULATION_SEED"):
        return [range(int(one), int(one) + 1)]
    seeds = int(os.environ.get("MPREG_SIMULATION_SEEDS", seeds))
    return [range(start, min(start + per_test, seeds)) for start in range(0, seeds, per_test)]


def name_of(part: range) -> str:
    return f"{part.start}-{part.stop - 1}"


@contextmanager
def replayable(seed: int) -> Iterator[None]:
    """An error says how it is had again."""
    try:
        yield
    except BaseException as error:
        error.add_note(f"replay it with MPREG_SIMULATION_SEED={seed}")
        raise

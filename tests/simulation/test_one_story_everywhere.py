"""What failed in one process is had again in another: a seed tells the same story in both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).parents[2]


def test_a_seed_is_the_same_story_whatever_the_order_of_sets() -> None:
    """The hashes of strings, and so the order of a set of keys, are others in each process."""
    first, second = (_told(hash_seed) for hash_seed in (1, 2))
    assert first == second
    assert len(first) > 3


def _told(hash_seed: int) -> list[str]:
    told = subprocess.run(
        [sys.executable, "-m", "tests.simulation.retold"],
        cwd=ROOT,
        env={**os.environ, "PYTHONHASHSEED": str(hash_seed)},
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    return told.stdout.splitlines()

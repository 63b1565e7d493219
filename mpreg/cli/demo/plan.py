"""When the worker is killed."""

from __future__ import annotations

import random

from attrs import frozen

__all__ = ["KillPoint", "plan_kills"]

#: About as long as a chunk of files takes to be parsed: a kill may meet any part of the work.
DELAY_SECONDS_MAX = 0.2


@frozen
class KillPoint:
    after_done: int
    """Kill once this many jobs are known to be done,"""
    delay_seconds: float
    """and this much later."""


def plan_kills(jobs: int, kills: int, rng: random.Random) -> list[KillPoint]:
    """Points at random over the whole job, the earliest first.

    None in the last twentieth: the worker would often have ended before its kill. Short delays
    are more frequent, because acks come in bursts of a few milliseconds: there the commits are.
    """
    last = jobs * 95 // 100
    return [
        KillPoint(after_done, DELAY_SECONDS_MAX * rng.random() ** 4)
        for after_done in sorted(rng.randint(0, last) for _ in range(kills))
    ]

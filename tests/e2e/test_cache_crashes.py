"""A process with a cache, killed by SIGKILL again and again, on one directory."""

from __future__ import annotations

import itertools
import os
import random
import signal
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import anyio

from mpreg.cache import GlobalCacheManager, WriteMode
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.e2e.programs.cache import CONFIGURATION, COUNT, PIPELINE, key_of, value_of
from tests.e2e.support import Program, on_both_loops

#: On each loop; `make crash` sets more. Another seed gives other moments.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "2"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))

LINES_MAX = 1_500

Told = dict[str, list[int]]
"""By kind, the numbers of one life."""


def note(lines: Iterable[str], told: Told, lines_max: int | None = None) -> None:
    if lines_max == 0:
        return
    for count, line in enumerate(lines, 1):
        kind, number = line.split(" ")
        told[kind].append(int(number))
        if count == lines_max:
            return


async def check(data_dir: Path, lives: list[Told]) -> None:
    registry = PersistenceRegistry(PersistenceConfig(data_dir=data_dir))
    cache = GlobalCacheManager(registry, CONFIGURATION)
    async with registry:
        # While it is still read back, and when it is.
        await check_lives(cache, lives[-1:], first_life=len(lives))
        await cache.wait_until_warm()
        await check_lives(cache, lives, first_life=1)
        counted = await cache.get(COUNT)
        last = max((number for told in lives for number in told["count"]), default=0)
        # Those that have told of no count later; each may have committed one, and not told of it.
        silent = len(list(itertools.takewhile(lambda told: not told["count"], reversed(lives))))
        found = 0 if counted is None else counted.value
        assert isinstance(found, int)
        assert last <= found <= last + 1 + silent


async def check_lives(cache: GlobalCacheManager, lives: list[Told], *, first_life: int) -> None:
    for life, told in enumerate(lives, first_life):
        for mode in WriteMode:
            numbers = told[mode.value]
            acked = {key_of(mode.value, life, number) for number in numbers}
            ahead = range(max(numbers, default=0) + 1, max(numbers, default=0) + PIPELINE + 1)
            found = await cache.get_many(
                [*acked, *(key_of(mode.value, life, number) for number in ahead)]
            )
            assert acked <= set(found), f"{mode}: acknowledged, and not there"
            for key, one in found.items():
                assert one.value == value_of(life, key.parts[1]), key  # type: ignore[arg-type]
        for kind in ("by_tag", "by_dependency", "by_prefix"):
            found = await cache.get_many([key_of(kind, life, number) for number in told[kind]])
            assert not found, f"{kind}: invalidated, and there again"


@on_both_loops
def test_what_was_acked_is_there_and_what_was_invalidated_is_not_over_many_kills(
    loop: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED} {loop}")
    data_dir, lives = tmp_path / "data", []
    for life in range(1, KILLS + 1):
        told: Told = defaultdict(list)
        lives.append(told)
        with Program("cache", loop, data_dir, life) as program:
            assert program.line() == "starting"
            # None at all, one time in eight: that kill meets the opening.
            note(program.lines(), told, rng.choice([0, *[1] * 7]) * rng.randint(1, LINES_MAX))
            program.send(signal.SIGKILL)
            # What is in the pipe was told before the kill, and counts.
            note(program.lines(), told)
            assert program.wait() == -signal.SIGKILL, program.errors
        anyio.run(check, data_dir, lives, backend=loop)
    count = sum(len(numbers) for told in lives for numbers in told.values())
    print(f"{KILLS} kills, {count:,} acks told, seed {SEED}")  # shown by pytest -rP

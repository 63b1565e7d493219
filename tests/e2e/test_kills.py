"""A process is killed by SIGKILL at chosen calls to the system: while it opens, commits, saves,
checkpoints, ends a segment, compacts or closes."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from tests.e2e.support import Program, on_both_backends
from tests.integration.life import SOON, Content, Life, found_in
from tests.integration.refusing_system import RefusingSystem, refusing
from tests.integration.support import left_over

#: For each backend; `make crash` sets more. Another seed gives other calls.
KILLS = int(os.environ.get("MPREG_CRASH_KILLS", "2"))
SEED = int(os.environ.get("MPREG_CRASH_SEED", "0"))


def whole_life(data_dir: Path, backend: str) -> tuple[int, list[Content]]:
    """How many calls a life makes, and what there is after so many things that it has done."""
    contents: list[Content] = []
    life = Life(data_dir, backend)
    # Told of each before it counts.
    life.on_done = lambda: contents.append(_lasting(life.content))
    system = RefusingSystem(data_dir, "anything", first=1 << 30)
    with refusing(system):
        anyio.run(life.live)
    return len(system.asked), [*contents, _lasting(life.content)]


def _lasting(content: Content) -> Content:
    """Without what has expired by the time that it is found."""
    entries, records, image = content
    return {key: value for key, value in entries.items() if key != SOON}, records, image


async def _find(data_dir: Path, backend: str) -> Content:
    config = PersistenceConfig(data_dir=data_dir, backend=backend)
    async with PersistenceRegistry(config) as registry:
        found = await found_in(registry)
        await registry.compact()
        assert await found_in(registry) == found
    return found


@on_both_backends
def test_killed_at_any_call_what_was_done_is_found_and_nothing_is_left_over(
    backend: str, tmp_path: Path
) -> None:
    rng = random.Random(f"{SEED} {backend}")
    calls, contents = whole_life(tmp_path / "whole", backend)
    for call in sorted(rng.sample(range(calls), min(KILLS, calls))):
        data_dir, loop = tmp_path / str(call), rng.choice(["asyncio", "trio"])
        with Program("lives", loop, data_dir, backend, call) as program:
            done = list(program.lines())
            if program.wait() != -signal.SIGKILL:
                assert done[-1] == "lived", program.errors
                continue
        found = anyio.run(_find, data_dir, backend, backend=loop)
        assert found in contents[len(done) : len(done) + 2], f"killed at call {call}"
        assert left_over(data_dir, backend) == []

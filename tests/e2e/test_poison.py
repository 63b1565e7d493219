"""A message that kills every process that works on it, over HTTP: those behind it do not die."""

from __future__ import annotations

import signal
from pathlib import Path

import anyio
import anyio.to_thread
import pytest

from mpreg.client import MPREGClient
from tests.e2e.programs.poisoned import POISON
from tests.e2e.support import GUARD_SECONDS, Program, loops
from tests.e2e.test_serve import Served

DELIVERIES = 2
MESSAGES = 5
SETTINGS = f"""
[mpreg.persistence]
data_dir = "data"
[mpreg.queues.jobs]
max_deliveries = {DELIVERIES}
lease_seconds = 5.0
"""


@pytest.mark.parametrize("loop", loops("trio"))
def test_a_message_that_kills_its_consumers_dies_alone(tmp_path: Path, loop: str) -> None:
    async def story() -> None:
        with Served(tmp_path, loop, text=SETTINGS) as node:
            url = await anyio.to_thread.run_sync(node.url)
            async with MPREGClient(url) as client:
                jobs = await client.message_queues.get_queue("jobs")
                await jobs.send_many([POISON, *range(MESSAGES)])
                for _ in range(DELIVERIES):
                    with Program("poisoned", loop, url, MESSAGES) as program:
                        code = await anyio.to_thread.run_sync(program.wait)
                        assert code == -signal.SIGKILL, program.errors
                with Program("poisoned", loop, url, MESSAGES) as program:
                    seen = await anyio.to_thread.run_sync(lambda: list(program.lines()))
                    assert program.wait() == 0, program.errors
                assert sorted(seen) == [str(number) for number in range(MESSAGES)]
                while (await jobs.statistics()).size:
                    await anyio.sleep(0.01)
                [letter] = await jobs.dead_letters()
                assert letter.payload == POISON
                assert letter.last_error == "its lease ran out"

    async def guarded() -> None:
        with anyio.fail_after(GUARD_SECONDS):
            await story()

    anyio.run(guarded, backend=loop)

"""Killing a worker that may have ended in the meantime."""

from __future__ import annotations

import signal
import subprocess
import sys

import anyio
import pytest
from anyio.abc import Process

from mpreg.cli.demo.campaign import kill


async def _start(program: str) -> Process:
    return await anyio.open_process(
        [sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


@pytest.mark.anyio
async def test_a_worker_at_work_is_killed() -> None:
    async with await _start("input()") as process:
        kill(process)
        await process.wait()
    assert process.returncode == -signal.SIGKILL


@pytest.mark.anyio
async def test_a_worker_that_ended_by_itself_is_left_alone() -> None:
    async with await _start("") as process:
        await process.wait()
        kill(process)
    assert process.returncode == 0


@pytest.mark.anyio
async def test_a_worker_whose_end_was_not_heard_of_yet_keeps_its_exit_code() -> None:
    """Its output has ended, so it has; the event loop learns of it a moment later."""
    async with await _start("") as process:
        assert process.stdout is not None
        with pytest.raises(anyio.EndOfStream):
            await process.stdout.receive()
        kill(process)
        await process.wait()
    assert process.returncode in (0, -signal.SIGKILL)

"""Killing a worker that may have ended in the meantime."""

from __future__ import annotations

import io
import signal
import subprocess
import sys
from pathlib import Path

import anyio
import pytest
from anyio.abc import Process
from rich.console import Console

from mpreg.cli.demo.campaign import Campaign, kill
from mpreg.cli.demo.display import Display
from mpreg.cli.demo.messages import Acked, Restored
from mpreg.cli.demo.report import Life


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


def test_what_an_earlier_campaign_has_done_is_not_told_as_done_without_a_word() -> None:
    said = io.StringIO()
    display = Display(Console(file=said, width=200))
    campaign = Campaign(Path(), 1, "asyncio", 9, (), display)
    for pid, completed in enumerate(((1, 2), (1, 2, 3, 4))):
        campaign.lives.append(life := Life(pid))
        campaign._note(
            Restored(
                seconds=0.0,
                completed=completed,
                returned=0,
                attempt_max=1,
                commit_sequence=1,
                fsyncs=1,
            ),
            life,
        )
        campaign._note(Acked(job=3, seconds=0.0), life)
    assert "4 completions in 0 ms: 2 of before, all 1 acked ones, and 1 whose" in said.getvalue()

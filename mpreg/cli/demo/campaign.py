"""The process that starts the worker, kills it, and starts it again until the job is done."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import anyio
from anyio.abc import Process
from attrs import define, field

from mpreg.cli.demo.display import Display
from mpreg.cli.demo.messages import Acked, Finished, LineSplitter, Message, Restored
from mpreg.cli.demo.plan import KillPoint
from mpreg.cli.demo.report import Life

__all__ = ["Campaign", "DemoFailedError", "kill"]


class DemoFailedError(Exception):
    """What the demo is there to show is not so."""


@define
class Campaign:
    """Everything that is known without opening the store: only what the workers told."""

    data_dir: Path
    processes: int
    loop: str
    files: int
    kill_points: Sequence[KillPoint]
    display: Display

    acked: set[int] = field(factory=set)
    """Every job that any worker told to be acked."""
    done: set[int] = field(factory=set)
    """Those, and the ones that a restore found to be committed without a word."""
    ack_seconds: list[float] = field(factory=list)
    lives: list[Life] = field(factory=list)
    _before: frozenset[int] = frozenset()
    """What was committed in a directory that an earlier campaign left."""
    kills: int = 0

    async def run(self) -> None:
        """Run workers until one comes to the end of the job.

        Cancelled: the worker is killed and waited for.

        Raises:
            DemoFailedError: a worker ended that was not killed, or restored less than was acked.
        """
        while not await self._live_once():
            pass

    async def _live_once(self) -> bool:
        """Whether the job is finished."""
        process = await self._start()
        life = Life(process.pid)
        self.lives.append(life)
        try:
            killed = await self._follow(process, life)
        except BaseException:
            kill(process)
            raise
        finally:
            # Leave no process behind that nobody has waited for.
            with anyio.CancelScope(shield=True):
                await process.aclose()
        if isinstance(life.latest, Finished):
            return True
        if not killed:
            raise DemoFailedError(
                f"worker {life.pid} ended by itself, with exit code {process.returncode}"
            )
        self.kills += 1
        self.display.line(
            f"kill {self.kills}    worker {life.pid} killed with SIGKILL after it had told "
            f"{len(life.acked):,} acks; told in all: {len(self.acked):,} of {self.files:,}",
            style="red",
        )
        self._show_progress()
        return False

    async def _start(self) -> Process:
        return await anyio.open_process(
            [
                *(sys.executable, "-m", "mpreg.cli", "demo-worker"),
                *("--data-dir", str(self.data_dir)),
                *("--processes", str(self.processes)),
                *("--loop", self.loop),
            ],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=None,
            # Ctrl-C is for this process, which then ends the worker in its own way.
            start_new_session=True,
        )

    async def _follow(self, process: Process, life: Life) -> bool:
        """Read all that the worker tells, until it has ended. Whether it was killed."""
        assert process.stdout is not None
        splitter = LineSplitter()
        killed = False
        async for data in process.stdout:
            for message in splitter.feed(data):
                self._note(message, life)
            self._show_progress()
            if not killed and self._kill_is_due(life):
                # What comes out of the pipe after this was told before the kill, and counts.
                await anyio.sleep(self.kill_points[self.kills].delay_seconds)
                kill(process)
                killed = True
        return killed

    def _kill_is_due(self, life: Life) -> bool:
        return (
            life.restored is not None
            and self.kills < len(self.kill_points)
            and len(self.done) >= self.kill_points[self.kills].after_done
        )

    def _note(self, message: Message, life: Life) -> None:
        if isinstance(message, Acked):
            life.acked.add(message.job)
            self.acked.add(message.job)
            self.done.add(message.job)
            self.ack_seconds.append(message.seconds)
            return
        life.latest = message
        if isinstance(message, Restored):
            life.restored = message
            self._check_restored(message, life.pid)

    def _check_restored(self, message: Restored, pid: int) -> None:
        found = set(message.completed)
        if lost := self.acked - found:
            raise DemoFailedError(
                f"worker {pid} restored without {len(lost):,} jobs that were acked: "
                f"{', '.join(map(str, sorted(lost)[:10]))}"
            )
        self.done |= found
        what = f"{len(found):,} completions in {message.seconds * 1e3:.0f} ms"
        number = len(self.lives) - 1
        if not number:
            self._before = frozenset(found)
            self.display.line(f"start     worker {pid} found {what}", style="green")
            return
        earlier = f"{len(self._before):,} of before, " if self._before else ""
        untold = len(found - self.acked - self._before)
        self.display.line(
            f"restore {number} worker {pid} found {what}: {earlier}all {len(self.acked):,} acked "
            f"ones, and {untold:,} whose ack nobody lived to tell",
            style="green",
        )
        if message.returned or len(self.lives) > 1:
            attempts = " to ".join(map(str, sorted({2, message.attempt_max})))
            self.display.line(
                f"leases    messages that came back and are handed out again: {message.returned:,}"
                + (f", at attempt {attempts}" if message.returned else "")
            )

    def _show_progress(self) -> None:
        self.display.progress(len(self.done), self.files, self.kills)


def kill(process: Process) -> None:
    """Kill it where it has not ended by itself.

    Not with ``process.kill()``, which asyncio lets reap a process that has just ended: its own
    watcher then complains that it knows of no such child.
    """
    if process.returncode is None:
        with suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

"""``mpreg demo``, from its options to its exit code."""

from __future__ import annotations

import random
import shlex
import signal
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import anyio
import anyio.lowlevel
import click
from attrs import define, frozen

from mpreg.cli.demo.campaign import Campaign, DemoFailedError
from mpreg.cli.demo.closing import closing_rows, dead_lines
from mpreg.cli.demo.display import Display
from mpreg.cli.demo.job import OtherJobError, enqueue
from mpreg.cli.demo.plan import plan_kills
from mpreg.cli.demo.recount import (
    Measured,
    Stored,
    Verdict,
    measure,
    read_stored,
    recount,
)
from mpreg.cli.demo.sources import (
    SITE_DIRECTORIES,
    find_sources,
    interpreter_roots,
    sample_evenly,
)
from mpreg.cli.exits import OK, REFUSED, USAGE
from mpreg.cli.loops import run
from mpreg.persistence import DataDirectoryError, MpregError, PersistenceConfig, PersistenceRegistry

__all__ = ["DemoOptions", "run_demo"]

EXIT_FAILED: Final = REFUSED
EXIT_SIGNAL_BASE: Final = 128
"""As shells count: 130 for Ctrl-C."""

#: In the data directory, where nobody puts files: the one that cannot be read, on purpose.
NO_FILE: Final = "no-such-file.py"


@frozen(kw_only=True)
class DemoOptions:
    seed: int
    kills: int
    roots: tuple[Path, ...]
    """Empty: the running interpreter's own."""
    files_max: int
    data_dir: Path | None
    """None: a temporary directory."""
    processes: int
    loop: str


def run_demo(options: DemoOptions, display: Display | None = None) -> int:
    """Run the demo and return its exit code."""
    display = display or Display()
    rng = random.Random(options.seed)
    try:
        paths = _choose_files(options, rng, display)
        with _data_directory(options.data_dir) as data_dir:
            demo = _Demo(options, paths, data_dir, display, rng)
            code = run(options.loop, demo.run)
    except KeyboardInterrupt:
        code = EXIT_SIGNAL_BASE + signal.SIGINT
    except OtherJobError as error:
        display.line(f"{options.data_dir}: {error}", style="red")
        return REFUSED
    except DataDirectoryError as error:
        display.line(str(error), style="red")
        return REFUSED
    except (MpregError, DemoFailedError) as error:
        display.line(f"FAILED: {error}", style="bold red")
        code = EXIT_FAILED
    except click.UsageError as error:
        display.line(error.message, style="red")
        return USAGE
    if code >= EXIT_SIGNAL_BASE:
        display.line("interrupted; the worker was stopped", style="yellow")
    display.line(_where_the_data_is(options.data_dir, code))
    return code


def _choose_files(options: DemoOptions, rng: random.Random, display: Display) -> list[str]:
    if options.roots:
        roots, found = options.roots, find_sources(options.roots)
    else:
        roots = interpreter_roots()
        found = find_sources(roots, skipped_directories=SITE_DIRECTORIES)
    paths = sample_evenly(found, options.files_max, rng)
    what = f"{len(found):,} Python files below {', '.join(map(str, roots))}"
    if len(paths) < len(found):
        what = f"{len(paths):,} of {what} (an even sample; --files-max for more)"
    display.line(f"files     {what}")
    if not paths:
        raise click.UsageError("there is nothing to index")
    return paths


@contextmanager
def _data_directory(wanted: Path | None) -> Iterator[Path]:
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="mpreg-demo-") as made:
            yield Path(made) / "data"
        return
    if wanted.is_dir() and any(wanted.iterdir()) and not (wanted / "mpreg.db").exists():
        raise DataDirectoryError(wanted, "not empty, and not a data directory of mpreg")
    yield wanted


def _where_the_data_is(wanted: Path | None, code: int) -> str:
    if wanted is None:
        return "data      in a temporary directory, removed"
    if code >= EXIT_SIGNAL_BASE:
        return f"data      kept in {wanted}; the same command goes on from there"
    return f"data      kept in {wanted}"


@define
class _Demo:
    options: DemoOptions
    paths: Sequence[str]
    data_dir: Path
    display: Display
    rng: random.Random

    async def run(self) -> int:
        """Work until done, or until a signal asks to stop; the exit code."""
        received: list[int] = []
        code = EXIT_FAILED
        failure: Exception | None = None
        async with anyio.create_task_group() as task_group:
            await task_group.start(_stop_on_signal, task_group.cancel_scope, received)
            try:
                code = await self._prove()
            except (MpregError, DemoFailedError) as error:
                # Out of the task group by itself, not in an exception group.
                failure = error
            task_group.cancel_scope.cancel()
        if received:
            return EXIT_SIGNAL_BASE + received[0]
        if failure is not None:
            raise failure
        return code

    async def _prove(self) -> int:
        started = time.perf_counter()
        async with self._registry() as registry:
            await enqueue(
                registry, self.paths, str(self.data_dir.absolute() / NO_FILE), self.options.kills
            )
        campaign = await self._run_campaign()
        async with self._registry() as registry:
            stored = await read_stored(registry)
        measured = await _measure_all(self.paths)
        verdict = recount(self.paths, measured, stored, campaign.acked)
        self._show(campaign, stored, verdict, time.perf_counter() - started)
        return EXIT_FAILED if verdict.problems else OK

    def _registry(self) -> PersistenceRegistry:
        return PersistenceRegistry(PersistenceConfig(data_dir=self.data_dir))

    async def _run_campaign(self) -> Campaign:
        files = len(self.paths)
        campaign = Campaign(
            data_dir=self.data_dir,
            processes=self.options.processes,
            loop=self.options.loop,
            files=files,
            kill_points=plan_kills(files, self.options.kills, self.rng),
            display=self.display,
        )
        with self.display.bars(files, self.options.kills):
            await campaign.run()
        return campaign

    def _show(self, campaign: Campaign, stored: Stored, verdict: Verdict, seconds: float) -> None:
        self.display.table(
            f"mpreg demo on {_platform(self.options.loop)}",
            closing_rows(campaign, stored, verdict, seconds),
        )
        for line in dead_lines(stored.dead, len(self.paths)):
            self.display.line(line, style="yellow")
        for problem in verdict.problems:
            self.display.line(f"FAILED: {problem}", style="bold red")
        if verdict.problems:
            return
        planned = self.options.kills
        if campaign.kills < planned:
            self.display.line(
                f"note      {planned} kills were planned; the job was done after {campaign.kills}"
            )
        unreadable = len(stored.dead) - 1
        but = f" but {unreadable:,}, which cannot be read," if unreadable else ""
        self.display.line(
            f"proved    by recount: every file{but} was indexed exactly once, "
            "nothing acked was lost",
            style="bold green",
        )
        repeat = shlex.join(["mpreg", "demo", "--seed", str(self.options.seed)])
        self.display.line(f"seed      {self.options.seed} ({repeat})")


async def _measure_all(paths: Sequence[str]) -> list[Measured]:
    measured = []
    for path in paths:
        measured.append(measure(path))
        # So that Ctrl-C is heard in between.
        await anyio.lowlevel.checkpoint()
    return measured


async def _stop_on_signal(
    scope: anyio.CancelScope,
    received: list[int],
    *,
    task_status: anyio.abc.TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    with anyio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            received.append(number)
            scope.cancel()
            return


def _platform(loop: str) -> str:
    version = ".".join(map(str, sys.version_info[:3]))
    return f"Python {version}, {loop}"

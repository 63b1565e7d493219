"""``mpreg demo``, and the process that it kills."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import click

from mpreg.cli.loops import loop_option

__all__ = ["demo", "demo_worker"]


@click.command()
@click.option("--seed", type=int, default=0, show_default=True, help="Decides sample and kills.")
@click.option(
    "--kills",
    type=click.IntRange(min=0),
    default=5,
    show_default=True,
    help="How often the worker is killed with SIGKILL.",
)
@click.option(
    "--path",
    "roots",
    type=click.Path(exists=True, path_type=Path),
    multiple=True,
    help="Index the Python files below this instead; may be given several times.  "
    "[default: the standard library and site-packages of this interpreter]",
)
@click.option(
    "--files-max",
    type=click.IntRange(min=1),
    default=6_000,
    show_default=True,
    help="Where there are more files, index an even sample of this many.",
)
@click.option(
    "--data-dir",
    type=click.Path(file_okay=False, path_type=Path),
    default=None,
    help="Keep the data here, and go on from it.  [default: a temporary directory, removed]",
)
@click.option(
    "--processes",
    type=click.IntRange(min=1),
    default=lambda: os.cpu_count() or 1,
    show_default="the number of cores",
    help="Processes that parse.",
)
@loop_option
def demo(
    seed: int,
    kills: int,
    roots: tuple[Path, ...],
    files_max: int,
    data_dir: Path | None,
    processes: int,
    loop: str,
) -> None:
    """Index thousands of Python files while the indexer is killed again and again.

    Each file is a message of a durable queue. A worker process parses the files and writes the
    facts of each in one transaction with the acknowledgment of its message. This command kills the
    worker with SIGKILL at random moments and starts it again: what it had in flight comes back.
    One file cannot be read, on purpose, and ends as a dead letter. At the end it proves by recount
    that every other file was indexed exactly once and that nothing acknowledged was lost.

    The exit code is 0 when that is so, and 1 when it is not.
    """
    from mpreg.cli.demo.command import DemoOptions, run_demo

    options = DemoOptions(
        seed=seed,
        kills=kills,
        roots=roots,
        files_max=files_max,
        data_dir=data_dir,
        processes=processes,
        loop=loop,
    )
    sys.exit(run_demo(options))


@click.command("demo-worker", hidden=True)
@click.option("--data-dir", type=click.Path(path_type=Path), required=True)
@click.option("--processes", type=int, required=True)
@loop_option
def demo_worker(data_dir: Path, processes: int, loop: str) -> None:
    """The process that ``demo`` kills. Reports to its standard output."""
    from mpreg.cli.demo.worker import run_worker

    sys.exit(run_worker(data_dir, processes, loop))

"""``python -m benchmarks.queues.measure``: one measurement; its result as JSON.

Each branch imports what it measures and nothing else: memory is compared, too.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import anyio
import attrs
import click

from benchmarks.queues.channel import OpenChannel, time_cycles, time_latency
from benchmarks.queues.workload import BARE, LOOPING, MANY, OURS, PIPELINED, CycleResult

T = TypeVar("T")

directory_argument = click.argument("directory", type=click.Path(path_type=Path))


@click.group()
def main() -> None:
    """One measurement of a queue."""


@main.command("cycles")
@click.argument("contender")
@directory_argument
@click.argument("workers", type=int)
@click.argument("count", type=int)
def measure_cycles(contender: str, directory: Path, workers: int, count: int) -> None:
    """Life cycles of messages."""
    if contender in {BARE, PIPELINED}:
        _print(_bare(contender, directory, workers, count))
    else:
        _print(_run(contender, time_cycles, _opener(contender), directory, workers, count))


@main.command("latency")
@click.argument("contender")
@directory_argument
@click.argument("messages", type=int)
def measure_latency(contender: str, directory: Path, messages: int) -> None:
    """From ack to idle consumer."""
    _print(_run(contender, time_latency, _opener(contender), directory, messages))


@main.command("fill")
@directory_argument
@click.argument("messages", type=int)
@click.option("--killed", is_flag=True)
def fill_queue(directory: Path, messages: int, *, killed: bool) -> None:
    """Pending messages for a restart."""
    from benchmarks.queues import ours

    async def fill() -> None:
        await ours.fill(directory, messages, killed=killed)

    anyio.run(fill)


@main.command("restart")
@click.argument("contender")
@directory_argument
@click.option("--pending", is_flag=True)
def measure_restart(contender: str, directory: Path, *, pending: bool) -> None:
    """Opening, and the first message."""
    from benchmarks.queues import ours

    async def restart() -> None:
        _print(await ours.restart(directory, pending=pending))

    _run(contender, restart)


@main.command("backlog")
@directory_argument
@click.argument("messages", type=int)
def measure_backlog(directory: Path, messages: int) -> None:
    """Many messages beside one that stays."""
    from benchmarks.queues.passing_by import pass_by

    _print(anyio.run(pass_by, directory, messages))


def _bare(contender: str, directory: Path, workers: int, count: int) -> CycleResult:
    from benchmarks.queues.bare import one_commit, three_commits, time_bare_cycles

    group = three_commits if contender == BARE else one_commit
    return time_bare_cycles(group, directory, workers, count)


def _opener(contender: str) -> OpenChannel:
    if contender in OURS:
        from benchmarks.queues import ours

        return partial(ours.opened, many=contender in MANY, looping=contender in LOOPING)
    from benchmarks.queues import peers

    return peers.opener(contender)


def _run(contender: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
    """On the event loop that the contender's name ends with; a peer's is asyncio."""
    loop = contender.rpartition(" ")[2] if contender in OURS else "asyncio"
    return anyio.run(
        function,
        *arguments,
        backend="trio" if loop == "trio" else "asyncio",
        backend_options={"use_uvloop": True} if loop == "uvloop" else {},
    )


def _print(result: Any) -> None:
    click.echo(json.dumps(attrs.asdict(result)))


if __name__ == "__main__":
    main()

"""``python -m benchmarks.cache.measure``: one measurement; its result as JSON.

Each branch imports what it measures and nothing else: memory is compared, too.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, TypeVar

import anyio
import attrs
import click

T = TypeVar("T")

directory_argument = click.argument("directory", type=click.Path(path_type=Path))


@click.group()
def main() -> None:
    """One measurement of a cache."""


@main.command("hits")
@click.argument("contender")
@click.argument("entries", type=int)
@click.argument("scale", type=float)
def measure_hits(contender: str, entries: int, scale: float) -> None:
    """Hit ratios on the trace."""
    from benchmarks.cache.counting import count_hits

    _print(count_hits(contender, entries, scale))


@main.command("lookups")
@click.argument("loop")
@click.argument("policy")
@click.argument("passes", type=int)
def measure_lookups(loop: str, policy: str, passes: int) -> None:
    """Hits in memory."""
    from benchmarks.cache.lookup_times import time_lookups

    _print(_run(loop, time_lookups, policy, passes))


@main.command("prepare")
@click.argument("contender")
@directory_argument
@click.argument("entries", type=int)
def prepare(contender: str, directory: Path, entries: int) -> None:
    """The most wanted keys on disk, for a mixed load."""
    if contender.startswith("mpreg"):
        from benchmarks.cache import ours

        anyio.run(ours.prepare, directory, entries)
    else:
        from benchmarks.cache import peers

        peers.prepare(contender, directory, entries)


@main.command("mixed")
@click.argument("contender")
@directory_argument
@click.argument("workers", type=int)
@click.argument("count", type=int)
def measure_mixed(contender: str, directory: Path, workers: int, count: int) -> None:
    """Reads, writes, and misses that are filled."""
    from benchmarks.cache.load import drive, drive_directly

    if contender.startswith("mpreg"):
        from benchmarks.cache import ours

        opened, loop = ours.opener(contender), contender.rpartition(" ")[2]
        _print(_run(loop, drive, opened, directory, workers, count))
    else:
        from benchmarks.cache import peers

        if contender.endswith("direct"):
            _print(drive_directly(peers.direct_opener(contender), directory, count))
        else:
            _print(_run("asyncio", drive, peers.opener(contender), directory, workers, count))


@main.command("fsync")
@directory_argument
def measure_fsync(directory: Path) -> None:
    """What a commit waits for."""
    from benchmarks.cache.fsync import time_fsync

    _print(time_fsync(directory))


@main.command("fill")
@directory_argument
@click.argument("entries", type=int)
def fill(directory: Path, entries: int) -> None:
    """Entries for a restart."""
    from benchmarks.cache import restarting

    anyio.run(restarting.fill, directory, entries)


@main.command("restart")
@click.argument("loop")
@directory_argument
@click.argument("entries", type=int)
def measure_restart(loop: str, directory: Path, entries: int) -> None:
    """Until memory is warm."""
    from benchmarks.cache import restarting

    _print(_run(loop, restarting.restart, directory, entries))


@main.command("bare")
@directory_argument
@click.argument("entries", type=int)
def measure_bare(directory: Path, entries: int) -> None:
    """The same rows by sqlite3."""
    from benchmarks.cache import restarting

    _print(restarting.read_bare(directory, entries))


def _run(loop: str, function: Callable[..., Awaitable[T]], *arguments: Any) -> T:
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

"""One measurement: a server, its clients, and what came of the phases."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, Any

import click
from attrs import frozen

from benchmarks.figures import percentile
from benchmarks.http.servers import Server, running
from benchmarks.http.workload import (
    CYCLES,
    PHASES,
    SENDS,
    WARM_UP,
    LoadResult,
    PhaseResult,
    generators,
)
from benchmarks.processes import Measurer

_GENERATOR = Measurer("benchmarks.http.generate")


def prepare(contender: str, server: Server) -> None:
    """Make the queues of a server."""
    _GENERATOR.run("prepare", contender, server.port)


def measure(contender: str, directory: Path, connections: int, seconds: float) -> LoadResult:
    """Both phases, one after the other, each after a part of it to warm up."""
    with running(contender, directory) as server, ExitStack() as stack:
        if server is not None:
            prepare(contender, server)
        count = generators(contender, connections)
        clients = [
            stack.enter_context(generator(contender, server, directory, connections // count))
            for _ in range(count)
        ]
        results: dict[str, PhaseResult] = {}
        for phase in PHASES:
            _run_phase(phase, seconds / WARM_UP, clients, server)
            results[phase] = _run_phase(phase, seconds, clients, server)
        return LoadResult(sends=results[SENDS], cycles=results[CYCLES])


@frozen
class Generator:
    """One process of clients."""

    _process: subprocess.Popen[str]
    _contender: str

    def begin(self, phase: str, seconds: float) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(f"{phase} {seconds}\n")
        self._process.stdin.flush()

    def line(self) -> str:
        """The next one that it prints. Raises what has ended it."""
        assert self._process.stdout is not None
        if line := self._process.stdout.readline():
            return line
        raise click.ClickException(f"a client of {self._contender} has failed")


@contextmanager
def generator(
    contender: str, server: Server | None, directory: Path, connections: int
) -> Iterator[Generator]:
    """A process with so many connections, all of them open."""
    place = directory / "data" if server is None else server.port
    command = [*(sys.executable, "-m", "benchmarks.http.generate", "run"), contender, str(place)]
    # What it has to complain of is for the reader's eyes.
    with subprocess.Popen(
        [*command, str(connections)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        found = Generator(process, contender)
        try:
            assert found.line() == "open\n"
            yield found
            _close(process.stdin)
            process.wait()
        finally:
            # Where all went well, it has ended.
            process.kill()


def _close(stream: IO[str] | None) -> None:
    assert stream is not None
    stream.close()


def _run_phase(
    phase: str, seconds: float, clients: list[Generator], server: Server | None
) -> PhaseResult:
    cpu = server.cpu_seconds() if server else None
    for client in clients:
        client.begin(phase, seconds)
    found: list[dict[str, Any]] = [json.loads(client.line()) for client in clients]
    taken = None
    if server and cpu is not None and (later := server.cpu_seconds()) is not None:
        taken = later - cpu
    operations = sum(one["operations"] for one in found)
    span = max(one["ended"] for one in found) - min(one["began"] for one in found)
    latencies = [latency for one in found for latency in one["latencies"]]
    return PhaseResult(
        per_second=operations / span,
        p50=percentile(latencies, 50),
        p99=percentile(latencies, 99),
        server_ms=None if taken is None else 1_000 * taken / operations,
        client_ms=1_000 * sum(one["cpu_seconds"] for one in found) / operations,
    )

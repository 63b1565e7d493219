"""``python -m benchmarks.http.generate``: some of the connections, in a process of their own.

It says when they are open. Then it reads a line for each phase, its name and its seconds, runs it,
and prints what came of it as JSON; it ends with its input.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from functools import partial
from typing import Any

import anyio
import click

from benchmarks.http.clients import Worker, open_workers, prepare
from benchmarks.http.workload import CYCLES, EMBEDDED, loop_of
from benchmarks.queues.channel import SAMPLED


@click.group()
def main() -> None:
    """Load on a server."""


@main.command("prepare")
@click.argument("contender")
@click.argument("port", type=int)
def make_queues(contender: str, port: int) -> None:
    """Make its queues."""
    anyio.run(prepare, contender, port)


@main.command("run")
@click.argument("contender")
@click.argument("place")
@click.argument("connections", type=int)
def run_phases(contender: str, place: str, connections: int) -> None:
    """Open connections, and use them as told."""
    # The loop of an embedded queue is its own; clients are all on asyncio.
    backend = loop_of(contender) if contender in EMBEDDED else "asyncio"
    anyio.run(_run_phases, contender, place, connections, backend=backend)


async def _run_phases(contender: str, place: str, connections: int) -> None:
    async with open_workers(contender, place, connections) as workers:
        print("open", flush=True)
        while line := await anyio.to_thread.run_sync(sys.stdin.readline):
            phase, seconds = line.split()
            print(json.dumps(await _run_phase(workers, phase, float(seconds))), flush=True)


async def _run_phase(workers: list[Worker], phase: str, seconds: float) -> dict[str, Any]:
    latencies: list[float] = []
    operations = 0
    cpu = _cpu_seconds()
    began = time.monotonic()

    async def work(worker: Worker, *, is_sampled: bool) -> None:
        """At least once, however slow."""
        nonlocal operations
        operate = partial(_cycle, worker) if phase == CYCLES else partial(worker.send, phase)
        last, is_over = time.monotonic(), False
        while not is_over:
            await operate()
            operations += 1
            now = time.monotonic()
            if is_sampled:
                latencies.append(now - last)
            last, is_over = now, now - began >= seconds

    async with anyio.create_task_group() as task_group:
        for number, worker in enumerate(workers):
            task_group.start_soon(partial(work, worker, is_sampled=number % SAMPLED == 0))
    return {
        "operations": operations,
        "began": began,
        "ended": time.monotonic(),
        "latencies": latencies,
        "cpu_seconds": _cpu_seconds() - cpu,
    }


async def _cycle(worker: Worker) -> None:
    """Whose message it takes through the rest of its life is not said."""
    await worker.send(CYCLES)
    await worker.acknowledge(await worker.receive())


def _cpu_seconds() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main()

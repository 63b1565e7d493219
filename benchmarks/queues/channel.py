"""A contender as the driver sees it, and the driver: producers and consumers all at once."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import Any

import anyio
from attrs import frozen

from benchmarks.figures import peak_mib, percentile
from benchmarks.queues.commits import count_commits
from benchmarks.queues.workload import CycleResult, LatencyResult

#: One producer in so many measures its latencies: measuring all would itself be felt.
SAMPLED = 16

#: Messages that a consumer takes at most where it takes many.
AT_ONCE = 16

#: The part of the life cycles that is run beforehand, untimed.
WARM_UP = 4


@frozen
class Channel:
    """One queue of a contender. Each call returns when what it did is on disk."""

    send: Callable[[], Awaitable[object]]
    receive: Callable[[], Awaitable[Any]]
    """Waits for a message; what it returns is given to ``acknowledge``."""
    acknowledge: Callable[[Any], Awaitable[object]]
    receive_many: Callable[[int], Awaitable[list[Any]]] | None = None
    """Up to so many at once; what it returns is given to ``acknowledge`` as a whole."""
    consume: Callable[[], AsyncIterator[Any]] | None = None
    """A loop over messages without end; each is given to ``acknowledge``."""


OpenChannel = Callable[[Path], AbstractAsyncContextManager[Channel]]


async def time_cycles(
    open_channel: OpenChannel, directory: Path, workers: int, cycles: int
) -> CycleResult:
    """All life cycles, after a part of as many to warm up."""
    latencies: list[float] = []
    async with open_channel(directory) as channel:
        await _run_phase(channel, workers, max(1, cycles // workers // WARM_UP), [])
        before = count_commits(directory)
        seconds = await _run_phase(channel, workers, cycles // workers, latencies)
        commits = count_commits(directory) - before
    return CycleResult(
        per_second=cycles / seconds,
        send_p50=percentile(latencies, 50),
        send_p99=percentile(latencies, 99),
        peak_mib=peak_mib(),
        fsyncs_per_cycle=commits / cycles,
    )


async def _run_phase(channel: Channel, workers: int, each: int, latencies: list[float]) -> float:
    go = anyio.Event()

    async def produce() -> None:
        await go.wait()
        for _ in range(each):
            await channel.send()

    async def produce_sampled() -> None:
        await go.wait()
        for _ in range(each):
            began = time.perf_counter()
            await channel.send()
            latencies.append(time.perf_counter() - began)

    async def consume() -> None:
        await go.wait()
        for _ in range(each):
            await channel.acknowledge(await channel.receive())

    async def consume_many() -> None:
        assert channel.receive_many is not None
        await go.wait()
        left = each
        while left:
            messages = await channel.receive_many(min(left, AT_ONCE))
            await channel.acknowledge(messages)
            left -= len(messages)

    left_in_loops = each * workers

    async def consume_in_loop() -> None:
        nonlocal left_in_loops
        assert channel.consume is not None
        await go.wait()
        async for message in channel.consume():
            await channel.acknowledge(message)
            left_in_loops -= 1
            if not left_in_loops:
                task_group.cancel_scope.cancel()

    consumer = consume
    if channel.receive_many:
        consumer = consume_many
    elif channel.consume:
        consumer = consume_in_loop
    async with anyio.create_task_group() as task_group:
        for number in range(workers):
            task_group.start_soon(produce if number % SAMPLED else produce_sampled)
            task_group.start_soon(consumer)
        await anyio.wait_all_tasks_blocked()
        began = time.perf_counter()
        go.set()
    return time.perf_counter() - began


async def time_latency(
    open_channel: OpenChannel, directory: Path, messages: int, idle_seconds: float = 0.003
) -> LatencyResult:
    """One message after the other, each sent while the one consumer waits and nothing else runs."""
    acked: list[float] = []
    received: list[float] = []
    async with open_channel(directory) as channel, anyio.create_task_group() as task_group:
        done = anyio.Event()

        async def consume() -> None:
            for _ in range(messages):
                handle = await channel.receive()
                received.append(time.perf_counter())
                await channel.acknowledge(handle)
                done.set()

        task_group.start_soon(consume)
        for _ in range(messages):
            await anyio.sleep(idle_seconds)
            await channel.send()
            acked.append(time.perf_counter())
            await done.wait()
            done = anyio.Event()
    return _latency([had - sent for sent, had in zip(acked, received, strict=True)])


def _latency(seconds: list[float]) -> LatencyResult:
    # The first ones open files and fill caches.
    settled = seconds[len(seconds) // 10 :]
    p50, p99 = percentile(settled, 50), percentile(settled, 99)
    assert p50 is not None
    assert p99 is not None
    return LatencyResult(p50, p99, max(settled))

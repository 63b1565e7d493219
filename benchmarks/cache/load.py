"""A contender as the driver sees it, and the driver: many workers at once, one trace."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import AbstractAsyncContextManager, AbstractContextManager
from itertools import islice
from pathlib import Path

import anyio
from attrs import field, frozen

from benchmarks.cache.trace import Shape, Values, key_of_rank, make_trace
from benchmarks.cache.workload import KEYS, MEMORY_ENTRIES, PREFILLED, SEED, MixedResult
from benchmarks.figures import peak_mib

#: The part of the requests that is made beforehand, untimed.
WARM_UP = 4

Level = str | None
"""``"L1"``: from memory. ``"L2"``: from the disk. None: a miss."""


@frozen
class Contender:
    """An open cache. Keys are numbers; each contender makes of them what suits it."""

    get: Callable[[int], Awaitable[Level]]
    put: Callable[[int, bytes], Awaitable[object]]
    fill: Callable[[int, bytes], Awaitable[object]] | None = None
    """`put` after a miss, where that is another."""
    settle: Callable[[], Awaitable[object]] | None = None
    """Waits until all that was put is as durable as it will be."""
    fsyncs: Callable[[], Awaitable[int]] | None = None
    """So far, where the contender counts them."""


@frozen
class DirectContender:
    """The same, blocking."""

    get: Callable[[int], Level]
    put: Callable[[int, bytes], object]


Opened = Callable[[Path], AbstractAsyncContextManager[Contender]]
DirectOpened = Callable[[Path], AbstractContextManager[DirectContender]]


@frozen
class _Requests:
    """What is to come, and what has become of it."""

    waiting: Iterator[int]
    values: Values = field(factory=lambda: Values(SEED))
    served: Counter[Level] = field(factory=Counter)

    def result(self, count: int, seconds: float, fsyncs: int = 0) -> MixedResult:
        reads = self.served.total()
        puts = self.served[None] + count - reads
        return MixedResult(
            per_second=count / seconds,
            memory_ratio=self.served["L1"] / reads,
            hit_ratio=1 - self.served[None] / reads,
            put_share=puts / count,
            peak_mib=peak_mib(),
            puts_per_fsync=puts / fsyncs if fsyncs else None,
        )


async def drive(opened: Opened, directory: Path, workers: int, count: int) -> MixedResult:
    """So many requests by so many workers, after a part of as many to warm up."""
    requests = _make_requests(count)
    warm_up = _Requests(iter(requests[: count // WARM_UP]))
    timed = _Requests(iter(requests[count // WARM_UP :]))
    async with opened(directory) as contender:
        for key in _recently_used():
            await contender.get(key)
        await _run_phase(contender, workers, warm_up)
        before = await contender.fsyncs() if contender.fsyncs else 0
        seconds = await _run_phase(contender, workers, timed)
        fsyncs = await contender.fsyncs() - before if contender.fsyncs else 0
    return timed.result(count, seconds, fsyncs)


async def _run_phase(contender: Contender, workers: int, requests: _Requests) -> float:
    go = anyio.Event()
    get, put, values = contender.get, contender.put, requests.values
    fill = contender.fill or put

    async def work() -> None:
        await go.wait()
        for request in requests.waiting:
            key = request >> 1
            if request & 1:
                await put(key, values.of(key))
                continue
            level = await get(key)
            requests.served[level] += 1
            if level is None:
                await fill(key, values.of(key))

    async with anyio.create_task_group() as task_group:
        for _ in range(workers):
            task_group.start_soon(work)
        await anyio.wait_all_tasks_blocked()
        began = time.perf_counter()
        go.set()
    if contender.settle is not None:
        await contender.settle()
    return time.perf_counter() - began


def drive_directly(opened: DirectOpened, directory: Path, count: int) -> MixedResult:
    """The same requests, one after the other."""
    requests = _make_requests(count)
    with opened(directory) as contender:
        for key in _recently_used():
            contender.get(key)
        _run_directly(contender, _Requests(iter(requests[: count // WARM_UP])))
        timed = _Requests(iter(requests[count // WARM_UP :]))
        seconds = _run_directly(contender, timed)
    return timed.result(count, seconds)


def _run_directly(contender: DirectContender, requests: _Requests) -> float:
    get, put, values = contender.get, contender.put, requests.values
    began = time.perf_counter()
    for request in requests.waiting:
        key = request >> 1
        if request & 1:
            put(key, values.of(key))
            continue
        level = get(key)
        requests.served[level] += 1
        if level is None:
            put(key, values.of(key))
    return time.perf_counter() - began


def _make_requests(count: int) -> Sequence[int]:
    shape = Shape(before_requests=count // WARM_UP + count, scan_keys=0, after_requests=0)
    return make_trace(SEED, shape).requests


def _recently_used() -> list[int]:
    """Keys on disk as an LRU memory long in use has them, the one used longest ago first.

    Got in this order, they make any memory one that is long in use.
    """
    on_disk = {key_of_rank(rank, KEYS) for rank in range(1, PREFILLED + 1)}
    shape = Shape(before_requests=10 * MEMORY_ENTRIES, scan_keys=0, after_requests=0)
    keys = [request >> 1 for request in make_trace(SEED + 1, shape).requests]
    latest_first = dict.fromkeys(key for key in reversed(keys) if key in on_disk)
    return list(islice(latest_first, MEMORY_ENTRIES))[::-1]

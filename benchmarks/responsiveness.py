"""How mpreg behaves beside a busy event loop, and what it costs while nothing happens."""

from __future__ import annotations

import resource
import time
from pathlib import Path

import anyio
import anyio.lowlevel
from attrs import frozen

from benchmarks.workload import NAMESPACE, VALUE
from mpreg.persistence import PersistenceConfig, PersistenceRegistry


@frozen
class Saturation:
    backend: str
    turn_seconds: float
    """How long each turn of the loop is kept busy; the loop is never idle."""
    switch_interval_seconds: float | None
    puts: int
    directory: Path


@frozen
class Idleness:
    wake_ups: int
    """Voluntary context switches of all threads while the loop slept once."""
    cpu_seconds: float
    seconds: float


async def latencies_under_load(case: Saturation) -> list[float]:
    """Seconds from put to ack, one put after the other, while the loop is saturated."""
    config = PersistenceConfig(
        data_dir=case.directory, switch_interval_seconds=case.switch_interval_seconds
    )
    latencies: list[float] = []
    async with (
        PersistenceRegistry(config) as registry,
        anyio.create_task_group() as task_group,
    ):
        task_group.start_soon(_saturate, case.turn_seconds)
        store = registry.key_value_store(NAMESPACE)
        for number in range(case.puts):
            began = time.perf_counter()
            await store.put(f"key{number:07}", VALUE)
            latencies.append(time.perf_counter() - began)
        task_group.cancel_scope.cancel()
    return latencies


async def _saturate(turn_seconds: float) -> None:
    while True:
        until = time.perf_counter() + turn_seconds
        while time.perf_counter() < until:
            pass
        await anyio.lowlevel.checkpoint()


async def idleness(directory: Path, seconds: float) -> Idleness:
    """What an open registry does while nobody asks anything of it."""
    config = PersistenceConfig(
        data_dir=directory, upkeep_interval_seconds=0.1, accounting_interval_seconds=0.1
    )
    async with PersistenceRegistry(config) as registry:
        store = registry.key_value_store(NAMESPACE)
        await store.put("key0000000", VALUE, ttl_seconds=86_400.0)
        await store.get("key0000000")
        # What follows a write by itself is over then.
        await anyio.sleep(1.5)
        before = resource.getrusage(resource.RUSAGE_SELF)
        await anyio.sleep(seconds)
        after = resource.getrusage(resource.RUSAGE_SELF)
    # One is the sleep of this function itself.
    wake_ups = after.ru_nvcsw - before.ru_nvcsw - 1
    cpu = (after.ru_utime + after.ru_stime) - (before.ru_utime + before.ru_stime)
    return Idleness(wake_ups, cpu, seconds)

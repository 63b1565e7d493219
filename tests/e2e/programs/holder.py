"""Holds a data directory with a queue in it, and goes on writing until its input ends."""

from __future__ import annotations

import sys
from pathlib import Path

import anyio

from mpreg.cli.loops import run
from mpreg.persistence import Durability, PersistenceConfig, PersistenceRegistry
from mpreg.queues import MessageQueueManager


async def main(data_dir: Path, backend: str = "sqlite", keys: str = "100000") -> None:
    config = PersistenceConfig(data_dir=data_dir, backend=backend, journal_segment_bytes=64 << 10)
    async with PersistenceRegistry(config) as registry:
        jobs = await MessageQueueManager(registry).create_queue("jobs")
        await jobs.send_many(range(10))
        await jobs.receive()
        store = registry.key_value_store("numbers")
        for start in range(0, int(keys), 5_000):
            async with registry.transaction(durability=Durability.RELAXED) as transaction:
                for number in range(start, start + 5_000):
                    store.put_nowait(f"{number:06}", b"x" * 100, transaction=transaction)
        print("ready", flush=True)
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_write, registry)
            await anyio.to_thread.run_sync(sys.stdin.read, abandon_on_cancel=True)
            task_group.cancel_scope.cancel()


async def _write(registry: PersistenceRegistry) -> None:
    number = 0
    while True:
        number = await registry.log_store("beats").append(b"%d" % number)
        await anyio.sleep(0.01)


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), *sys.argv[3:])

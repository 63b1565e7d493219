"""A registry in a server's own nursery: what was accepted before the server stops is committed."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import anyio
from anyio.abc import TaskGroup

from mpreg.persistence import Durability, PersistenceConfig, PersistenceRegistry


async def count_visits(registry: PersistenceRegistry, page: str, visits: int) -> None:
    """Statistics may be relaxed: they survive a crash of the program, not always a power cut."""
    counters = registry.key_value_store("visits")
    for visit in range(1, visits + 1):
        await counters.put(page, b"%d" % visit, durability=Durability.RELAXED)


async def serve(task_group: TaskGroup, data_dir: Path) -> None:
    # Returns when the store is open. If its disk fails for good, this nursery is cancelled with it.
    registry = await task_group.start(
        PersistenceRegistry(PersistenceConfig(data_dir=data_dir)).serve
    )
    async with anyio.create_task_group() as visitors:
        for page in ("index", "about", "news"):
            visitors.start_soon(count_visits, registry, page, 100)

    audit = registry.log_store("audit")
    acks = [audit.append_nowait(b"shutting down, part %d" % part) for part in range(3)]
    stats = await registry.stats()
    print(f"{stats.operations} writes in {stats.commits} commit groups, {stats.fsyncs} fsyncs")

    task_group.cancel_scope.cancel()  # stop the server; the three appends are still under way
    with anyio.CancelScope(shield=True):
        print("offsets after the stop:", [await ack for ack in acks])


async def main(data_dir: Path) -> None:
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(serve, task_group, data_dir)


if __name__ == "__main__":
    with TemporaryDirectory() as directory:
        anyio.run(main, Path(directory))

"""What the tests of maintenance share: a store with one of everything, and how it is read whole."""

from __future__ import annotations

import random
from pathlib import Path

from mpreg.persistence import PersistenceRegistry
from mpreg.queues import MessageQueueManager, QueueConfiguration
from tests.integration.made_once import made_once
from tests.integration.support import config

__all__ = ["fill", "filled", "read_all"]


async def fill(registry: PersistenceRegistry, *, entries: int = 60, seed: int = 0) -> None:
    """Entries of both kinds of keys, logs (one truncated, one emptied, one of large records),
    snapshots, a queue, and a large value."""
    rng = random.Random(seed)
    shelf = registry.key_value_store("shelf")
    for number in range(entries):
        await shelf.put(f"key {number}", rng.randbytes(rng.randrange(400)))
    await shelf.put(b"\xff\x00", b"", ttl_seconds=1e9)
    await shelf.put("caf\u00e9 \udc80", "text \u2713".encode())
    await registry.key_value_store("other \u00e9").put("key", b"value", ttl_seconds=3600.0)
    audit = registry.log_store("audit")
    await audit.append_many([rng.randbytes(100) for _ in range(40)])
    await audit.truncate_before(7)
    # Not of `rng`: what comes after it stays the same.
    await registry.log_store("large").append_many(
        [random.Random(seed).randbytes(1_000 + number) for number in range(4)]
    )
    emptied = registry.log_store("emptied")
    await emptied.append_many([b"a", b"b", b"c"])
    await emptied.truncate_before(3)
    image = registry.snapshot_store("image")
    await image.save(rng.randbytes(300_000))
    await image.save(rng.randbytes(600_000))
    await registry.snapshot_store("empty").save(b"")
    await fill_queue(registry)
    await shelf.put("large", random.Random(seed).randbytes(3_000))
    await shelf.put("largest", random.Random(seed).randbytes(150_000))


async def fill_queue(registry: PersistenceRegistry) -> None:
    """One message pending, one dead, one done; one id that is not to be sent again."""
    # The store is made once for many tests, and none of them is to find the id out of its window.
    settings = QueueConfiguration(max_deliveries=1, deduplication_window_seconds=86_400.0)
    jobs = await MessageQueueManager(registry).create_queue("jobs", settings)
    await jobs.send({"is": "dead"})
    await jobs.send({"is": "done"})
    await jobs.send({"is": "pending"}, deduplication_id="once")
    dead = await jobs.receive(wait_seconds=5.0)
    assert dead is not None
    await dead.nack(reason="on purpose")
    done = await jobs.receive(wait_seconds=5.0)
    assert done is not None
    await done.ack()


@made_once
async def filled(data_dir: Path, *, entries: int = 60, seed: int = 0) -> None:
    """A store with one of everything, closed."""
    async with PersistenceRegistry(config(data_dir)) as opened:
        await fill(opened, entries=entries, seed=seed)


async def read_all(data_dir: Path) -> dict[str, object]:
    """Everything that a user can read, by the calls that users make."""
    found: dict[str, object] = {}
    async with PersistenceRegistry(config(data_dir)) as opened:
        for name in ("shelf", "other \u00e9"):
            async for entry in opened.key_value_store(name).scan():
                found[f"{name} {entry.key!r}"] = (entry.value, entry.expires_at)
                again = await opened.key_value_store(name).get(entry.key)
                assert again == entry
        for name in ("audit", "emptied", "large"):
            log = opened.log_store(name)
            found[f"{name} bounds"] = (await log.first_offset(), await log.next_offset())
            async for record in log.read_range():
                found[f"{name} {record.offset}"] = record.data
        for name in ("image", "empty"):
            snapshot = await opened.snapshot_store(name).load()
            found[f"snapshot {name}"] = None if snapshot is None else snapshot.data
        manager = MessageQueueManager(opened)
        for queue_name in await manager.queue_names():
            queue = await manager.get_queue(queue_name)
            figures = queue.statistics()
            found[f"queue {queue_name}"] = (figures.pending, figures.dead)
            dead = [letter.payload for letter in await queue.dead_letters()]
            found[f"queue {queue_name}, dead letters"] = dead
    return found

"""Makes the stores that are kept of the current version of each backend::

    python -m tests.data.schemas.make_kept_database

To be run once for each version, when it is about to be released, and its result committed. It
refuses to make anew what is there: a store kept of a released version is never changed.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from pathlib import Path

import anyio

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.acked_file import AckedFile
from mpreg.queues import MessageQueueManager, QueueConfiguration, QueueType
from tests.data.schemas.kept import (
    CONTENTS,
    NEWEST,
    QUEUE,
    directory_of,
    read_contents,
    receive_messages,
)

#: The same time for all who read it: 2100.
WALL = 4_102_444_800.0
NOT_KEPT = ("LOCK", "mpreg.db-shm")


class _Clock:
    def wall(self) -> float:
        return WALL


def config(data_dir: Path, backend: str) -> PersistenceConfig:
    # Small, so that what is kept is small; a journal of several segments, and a snapshot.
    return PersistenceConfig(
        data_dir=data_dir,
        backend=backend,
        wal_checkpoint_pages=16,
        journal_segment_bytes=4_096,
        upkeep_interval_seconds=None,
        accounting_interval_seconds=0.01,
    )


async def _write(registry: PersistenceRegistry) -> None:
    things = registry.key_value_store("things")
    for number in range(5):
        await things.put(f"key {number}", b"value %d" % number)
    await things.put(b"\x00\xff", b"")
    await things.put("ключ", "значение".encode())
    await things.put("large", bytes(range(256)) * 20)
    await things.put("with a TTL", b"", ttl_seconds=1e9)
    await things.put("expired", b"", ttl_seconds=1.0)
    await things.put("deleted", b"")
    await things.delete("deleted")
    await registry.key_value_store("häuser").put("b", b"another namespace")
    await registry.log_store("audit").append_many([b"one", b"", b"three", bytes(range(256)) * 8])
    truncated = registry.log_store("truncated")
    await truncated.append_many([b"%d" % number for number in range(10)])
    await truncated.truncate_before(7)
    deleted = registry.log_store("deleted")
    await deleted.append(b"gone")
    await deleted.delete()
    image = registry.snapshot_store("image")
    await image.save(b"the first")
    # More than stands in a database: the SQLite backend has it in a file.
    await image.save(b"".join(b"%08d" % number for number in range(33_000)))


async def _write_queue(registry: PersistenceRegistry) -> None:
    jobs = await MessageQueueManager(registry).create_queue(
        QUEUE, QueueConfiguration(queue_type=QueueType.PRIORITY, max_deliveries=1)
    )
    await jobs.send("dies")
    await jobs.send({"list": [1, None, 2.5]}, priority=2, headers={"a": "b"})
    await jobs.send_many(["acked", "pending", b"pending"])
    await jobs.send("later", delay_seconds=1e6)
    await jobs.send("once", deduplication_id="once")
    for _ in range(3):
        message = await jobs.receive()
        assert message is not None
        await (message.nack() if message.payload == "dies" else message.ack())
    while not jobs.statistics().dead:
        await anyio.sleep(0.01)


async def make(there: Path, backend: str) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        data_dir = Path(temporary)
        async with PersistenceRegistry(config(data_dir, backend), clock=_Clock()) as registry:
            await _write(registry)
            await _write_queue(registry)
        async with PersistenceRegistry(config(data_dir, backend), clock=_Clock()) as registry:
            last = registry.key_value_store("only in the WAL")
            for number in range(3):
                await last.put(f"{number}", b"x")
            await _noted(registry, data_dir)
            _keep(data_dir, there / "killed")
        _keep(data_dir, there / "closed")
        async with PersistenceRegistry(config(data_dir, backend), clock=_Clock()) as registry:
            contents = await read_contents(registry)
            contents["messages"] = await receive_messages(registry)
        text = json.dumps(contents, indent=1, ensure_ascii=False)
        (there / CONTENTS).write_text(f"{text}\n", encoding="utf-8")


async def _noted(registry: PersistenceRegistry, data_dir: Path) -> None:
    """Return when it is written down what was acknowledged."""
    sequence = (await registry.stats()).commit_sequence
    while (record := AckedFile(data_dir / "ACKED").read()) is None or record.sequence < sequence:
        await anyio.sleep(0.01)


def _keep(data_dir: Path, there: Path) -> None:
    there.mkdir(parents=True)
    for path in data_dir.iterdir():
        if path.is_dir():
            shutil.copytree(path, there / path.name, copy_function=shutil.copyfile)
        elif path.name not in NOT_KEPT and path.stat().st_size:
            shutil.copyfile(path, there / path.name)


def main() -> int:
    made = False
    for backend, version in NEWEST.items():
        there = directory_of(backend, version)
        if there.exists():
            print(f"{there}: is kept already, and stays as it is", file=sys.stderr)
        else:
            anyio.run(make, there, backend)
            made = True
    return 0 if made else 1


if __name__ == "__main__":
    sys.exit(main())

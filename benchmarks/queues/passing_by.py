"""Many messages go by while the first stays unacknowledged: what is left on the disk?"""

from __future__ import annotations

import contextlib
import sqlite3
import time
from pathlib import Path

from benchmarks.queues.ours import CHUNK, registry_at
from benchmarks.queues.workload import BODY, QUEUE, BacklogResult
from mpreg.queues import MessageQueueManager, QueueConfiguration

#: Longer than any run: the first message must stay with its consumer.
LEASE_SECONDS = 24 * 3600.0


async def pass_by(directory: Path, messages: int) -> BacklogResult:
    """All but the first of so many messages are sent, received and acknowledged in chunks."""
    peak = 0
    began = time.perf_counter()
    async with registry_at(directory) as registry:
        queues = MessageQueueManager(registry)
        configuration = QueueConfiguration(lease_seconds=LEASE_SECONDS)
        jobs = await queues.create_queue(QUEUE, configuration)
        await jobs.send(BODY)
        assert await jobs.receive() is not None
        async with jobs.consume(prefetch=CHUNK) as incoming:
            for start in range(1, messages, CHUNK):
                count = min(CHUNK, messages - start)
                await jobs.send_many([BODY] * count)
                await jobs.ack([await anext(incoming) for _ in range(count)])
                peak = max(peak, sum(_sizes(directory)))
        seconds = time.perf_counter() - began
        database_bytes, wal_bytes = _sizes(directory)
    return BacklogResult(
        seconds=seconds,
        sent_bytes=messages * len(BODY),
        live_bytes=len(BODY),
        database_bytes=database_bytes,
        wal_bytes=wal_bytes,
        peak_bytes=peak,
        closed_bytes=sum(_sizes(directory)),
        free_bytes=_free(directory),
        left=await _left(directory),
    )


def _sizes(directory: Path) -> tuple[int, int]:
    database = sum(path.stat().st_size for path in directory.glob("*.db"))
    wal = sum(path.stat().st_size for path in directory.glob("*.db-wal"))
    return database, wal


def _free(directory: Path) -> int:
    with contextlib.closing(sqlite3.connect(directory / "mpreg.db")) as connection:
        pages = connection.execute("PRAGMA freelist_count").fetchone()[0]
        page_bytes = connection.execute("PRAGMA page_size").fetchone()[0]
    return int(pages * page_bytes)


async def _left(directory: Path) -> int:
    async with registry_at(directory) as registry:
        return (await MessageQueueManager(registry).get_queue(QUEUE)).statistics().size

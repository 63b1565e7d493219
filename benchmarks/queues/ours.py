"""mpreg's queues: life cycles, what a restart costs, and the room that messages leave behind."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

from benchmarks.figures import peak_mib
from benchmarks.queues.channel import AT_ONCE, Channel
from benchmarks.queues.workload import BODY, QUEUE, RestartResult
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.queues import Message, MessageQueueManager, QueueConfiguration

#: Messages sent by one call where many are.
CHUNK = 1_000


def registry_at(directory: Path) -> PersistenceRegistry:
    return PersistenceRegistry(PersistenceConfig(data_dir=directory))


@asynccontextmanager
async def opened(
    directory: Path, *, many: bool = False, looping: bool = False
) -> AsyncIterator[Channel]:
    """A queue as its users have it: nothing of its configuration is changed.

    ``many``: its consumers take, and acknowledge, several messages at a time. ``looping``: they are
    loops, which take several at a time and acknowledge one after the other.
    """
    async with registry_at(directory) as registry:
        jobs = await MessageQueueManager(registry).create_queue(QUEUE, QueueConfiguration())

        async def receive() -> Message:
            message = await jobs.receive()
            assert message is not None
            return message

        yield Channel(
            send=partial(jobs.send, BODY),
            receive=receive,
            acknowledge=jobs.ack if many else lambda message: message.ack(),
            receive_many=jobs.receive_many if many else None,
            consume=partial(jobs.consume, AT_ONCE) if looping else None,
        )


async def fill(directory: Path, messages: int, *, killed: bool) -> None:
    """Send many. ``killed``: end without closing anything, as `kill -9` does."""
    async with registry_at(directory) as registry:
        jobs = await MessageQueueManager(registry).create_queue(QUEUE, QueueConfiguration())
        for start in range(0, messages, CHUNK):
            await jobs.send_many([BODY] * min(CHUNK, messages - start))
        if killed:
            os._exit(0)


async def restart(directory: Path, *, pending: bool) -> RestartResult:
    """Open what is there; where messages are, take the first one through."""
    began = time.perf_counter()
    async with registry_at(directory) as registry:
        jobs = await MessageQueueManager(registry).get_queue(QUEUE)
        opened_seconds = time.perf_counter() - began
        received_seconds: float | None = None
        first_seconds: float | None = None
        if pending:
            message = await jobs.receive(wait_seconds=30.0)
            received_seconds = time.perf_counter() - began
            assert message is not None, "nothing is pending"
            await message.ack()
            first_seconds = time.perf_counter() - began
        return RestartResult(opened_seconds, received_seconds, first_seconds, peak_mib())

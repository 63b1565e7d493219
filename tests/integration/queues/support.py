"""What the tests of queues share: queues on a directory, a gate before the disk, virtual time."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel

from mpreg.clock import Clock
from mpreg.codec import encode_reserved_name
from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backend import StorageBackend
from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.queues import (
    DeadLetter,
    Message,
    MessageQueue,
    MessageQueueManager,
    QueueConfiguration,
    Subscription,
)
from mpreg.testing import FaultInjector, SimulatedBackend, SimulatedDisk, Simulation
from tests.integration.support import OpenBackend, TurnedClock, config, database, tamper

__all__ = [
    "Durability",
    "GatedBackend",
    "TurnedClock",
    "copied_while_open",
    "count_rows",
    "database",
    "finished",
    "log_named",
    "open_queue",
    "open_queues",
    "open_simulated",
    "payloads",
    "rows",
    "take",
    "tamper",
    "tamper_log",
    "until",
    "virtual",
]

#: Longer than anything here takes: it only tells a standstill from an answer.
PATIENCE_SECONDS = 60.0


@asynccontextmanager
async def open_queues(
    data_dir: Path,
    *,
    clock: Clock | None = None,
    backend: OpenBackend | None = None,
    **settings: Any,
) -> AsyncIterator[tuple[PersistenceRegistry, MessageQueueManager]]:
    registry = PersistenceRegistry(config(data_dir, **settings), clock=clock, backend=backend)
    async with registry:
        yield registry, MessageQueueManager(registry)


@asynccontextmanager
async def open_queue(
    data_dir: Path,
    configuration: QueueConfiguration | None = None,
    *,
    clock: Clock | None = None,
    backend: OpenBackend | None = None,
    **settings: Any,
) -> AsyncIterator[MessageQueue]:
    """The queue "jobs" in a registry of its own; without configuration it has the stored one."""
    async with open_queues(data_dir, clock=clock, backend=backend, **settings) as (_, queues):
        yield await queues.create_queue("jobs", configuration)


@asynccontextmanager
async def open_simulated(
    disk: SimulatedDisk, faults: FaultInjector
) -> AsyncIterator[tuple[PersistenceRegistry, MessageQueueManager]]:
    """Queues on a disk that fails on demand."""
    settings = PersistenceConfig(backend="memory", backoff_initial_seconds=0.001)
    async with PersistenceRegistry(settings, backend=SimulatedBackend(disk, faults)) as registry:
        yield registry, MessageQueueManager(registry)


def virtual(
    story: Callable[[PersistenceRegistry, MessageQueueManager, Simulation], Awaitable[None]],
    backend: StorageBackend | None = None,
    seed: int = 0,
) -> None:
    """Run a story on the memory backend, or on another one without threads, in virtual time: nobody
    waits for hours to go by, and nobody has to be faster than a lease."""
    simulation = Simulation(seed)

    async def run() -> None:
        settings = PersistenceConfig(backend="memory")
        async with PersistenceRegistry(
            settings, clock=simulation.clock, backend=backend
        ) as registry:
            await story(registry, MessageQueueManager(registry), simulation)

    simulation.run(run)


class GatedBackend(OpenBackend):
    """The real one, whose commits can be held up before they begin."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self._gate: anyio.Event | None = None
        self._reached = anyio.Event()

    def close_gate(self) -> None:
        self._gate, self._reached = anyio.Event(), anyio.Event()

    async def reached(self) -> None:
        """Return when a commit waits at the gate."""
        with anyio.fail_after(PATIENCE_SECONDS):
            await self._reached.wait()

    def open_gate(self) -> None:
        assert self._gate is not None
        self._gate.set()
        self._gate = None

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        if self._gate is not None:
            self._reached.set()
            await self._gate.wait()
        return await super().commit(group)

    async def fill_up(self) -> None:
        """From now on there is no room for more than what fits in the pages there are."""
        (pages,) = await self.on_writer("PRAGMA page_count")
        await self.on_writer(f"PRAGMA max_page_count = {pages}")

    async def make_room(self) -> None:
        await self.on_writer("PRAGMA max_page_count = 1000000")


# --- messages ---


async def take(
    source: MessageQueue | Subscription, wait_seconds: float | None = PATIENCE_SECONDS
) -> Message:
    """A message that must be there, or come soon."""
    message = await source.receive(wait_seconds)
    assert message is not None
    return message


async def finished(source: MessageQueue | Subscription, count: int) -> list[Any]:
    """Receive and acknowledge so many, and return their payloads."""
    payloads = []
    for _ in range(count):
        message = await take(source)
        payloads.append(message.payload)
        await message.ack()
    return payloads


def payloads(found: Iterable[Message | DeadLetter]) -> list[Any]:
    return [one.payload for one in found]


async def until(condition: Callable[[], bool]) -> None:
    """Return when the condition holds, which nobody tells us of."""
    with anyio.fail_after(PATIENCE_SECONDS):
        while not condition():
            await anyio.sleep(0.002)


# --- the files ---


def copied_while_open(data_dir: Path) -> Path:
    """The directory as a process killed at this moment would leave it."""
    copy = data_dir.with_name(f"{data_dir.name} copied")
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    # The database last would be a newer one than its log.
    for name in ("mpreg.db", "mpreg.db-wal"):
        if (data_dir / name).exists():
            shutil.copy(data_dir / name, copy / name)
    return copy


def rows(data_dir: Path, statement: str, parameters: Sequence[object] = ()) -> list[Any]:
    with closing(sqlite3.connect(database(data_dir))) as connection:
        return connection.execute(statement, parameters).fetchall()


def count_rows(data_dir: Path, table: str) -> int:
    ((count,),) = rows(data_dir, f"SELECT count(*) FROM {table}")
    assert isinstance(count, int)
    return count


def log_named(data_dir: Path, ending: str) -> int:
    """The id of the one log of queues whose name ends so."""
    prefix = encode_reserved_name("queues", "x")[:-1]
    found = [
        identity
        for identity, name in rows(data_dir, "SELECT id, name FROM logs")
        if name.startswith(prefix) and name.endswith(ending.encode())
    ]
    assert len(found) == 1, found
    assert isinstance(found[0], int)
    return found[0]


def tamper_log(data_dir: Path, ending: str, offset: int) -> None:
    """Change a byte of a record of a log of queues."""
    tamper(
        data_dir,
        "UPDATE records SET data = CAST(x'ff' || data AS BLOB) WHERE log_id = ? AND offset = ?",
        (log_named(data_dir, ending), offset),
    )

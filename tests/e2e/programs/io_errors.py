"""A disk that fails below a real store: ``io_errors SCENARIO LOOP DATA_DIR BACKEND``.

The limit on the size of files is set to nothing: then the system refuses every write to a file
(EFBIG), as a broken device would, while reads and pipes go on.
"""

from __future__ import annotations

import logging
import resource
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path

import anyio

from mpreg.persistence import (
    CommitUnknownError,
    PersistenceConfig,
    PersistenceRegistry,
    StorageIOError,
    WriterStoppedError,
)
from tests.e2e.programs.shared import run, say

UNLIMITED = resource.getrlimit(resource.RLIMIT_FSIZE)[0]


def set_writable(writable: bool) -> None:
    hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (UNLIMITED if writable else 0, hard))


class FailureBell(logging.Handler):
    """Rings when the supervisor has told of so many failures: what is waited for, not time."""

    def __init__(self, failures: int) -> None:
        super().__init__()
        self.rang = anyio.Event()
        self.errors: list[object] = []
        self._failures = failures

    def emit(self, record: logging.LogRecord) -> None:
        self.errors.append(record.exc_info and record.exc_info[1])
        if len(self.errors) == self._failures:
            self.rang.set()


def listen(failures: int) -> FailureBell:
    bell = FailureBell(failures)
    logger = logging.getLogger("mpreg.persistence")
    logger.addHandler(bell)
    logger.propagate = False
    return bell


async def put_all(registry: PersistenceRegistry, value: bytes, acked: list[int]) -> None:
    """Ten callers; each adds its number when its write is acked."""
    store = registry.key_value_store("things")

    async def put(number: int) -> None:
        await store.put(f"{number}", value)
        acked.append(number)

    async with anyio.create_task_group() as task_group:
        for number in range(10):
            task_group.start_soon(put, number)


async def mended(data_dir: Path, backend: str) -> None:
    """Callers whose write met the failure see nothing of it but the delay."""
    config = PersistenceConfig(
        data_dir=data_dir,
        backend=backend,
        backoff_initial_seconds=0.01,
        backoff_max_seconds=0.01,
        restarts_max=1000,
    )
    bell = listen(failures=3)
    async with PersistenceRegistry(config) as registry:
        store = registry.key_value_store("things")
        acked: list[int] = []
        await put_all(registry, b"before", acked)
        set_writable(False)
        async with anyio.create_task_group() as task_group:
            acked.clear()
            task_group.start_soon(put_all, registry, b"after", acked)
            await bell.rang.wait()
            assert acked == [], "acked while nothing could be written"
            entry = await store.get("3")
            assert entry is not None, "reads stopped"
            assert entry.value == b"before", "written without an ack, or lost"
            set_writable(True)
        assert sorted(acked) == list(range(10))
        stats = await registry.stats()
        assert stats.writer_restarts >= 1
        assert stats.commit_sequence >= 2
    assert all(isinstance(error, StorageIOError) for error in bell.errors), bell.errors
    say(f"acked after {len(bell.errors)} failures")


async def never_mended(data_dir: Path, backend: str) -> None:
    """The supervisor gives up: each caller learns it, with the cause, and so does the nursery."""
    config = PersistenceConfig(
        data_dir=data_dir,
        backend=backend,
        backoff_initial_seconds=0.01,
        backoff_max_seconds=0.01,
        restarts_max=3,
    )
    listen(failures=1)
    told: list[Exception] = []

    async def put(registry: PersistenceRegistry, number: int) -> None:
        try:
            # Answered before the nursery is cancelled, but cancelled before it runs again.
            with anyio.CancelScope(shield=True):
                await registry.key_value_store("things").put(f"{number}", b"after")
        except (WriterStoppedError, CommitUnknownError) as error:
            told.append(error)

    cancelled = False
    try:
        async with anyio.create_task_group() as task_group:
            registry = await task_group.start(PersistenceRegistry(config).serve)
            await put_all(registry, b"before", [])
            set_writable(False)
            for number in range(10):
                task_group.start_soon(put, registry, number)
            try:
                await anyio.sleep_forever()
            finally:
                cancelled = True
    except* StorageIOError as group:
        set_writable(True)
        causes = group.exceptions
        assert len(causes) == 1, causes
    else:
        raise AssertionError("the nursery was not told")
    assert cancelled
    assert len(told) == 10, told
    assert all(error.__cause__ is not None for error in told), told
    say("given up")
    await read_back(data_dir, backend)


async def read_back(data_dir: Path, backend: str) -> None:
    """Once the disk is well again, everything acked is there."""
    async with PersistenceRegistry(
        PersistenceConfig(data_dir=data_dir, backend=backend)
    ) as registry:
        entries = [entry async for entry in registry.key_value_store("things").scan()]
    assert {entry.key for entry in entries} == {str(number) for number in range(10)}
    say("all there")


SCENARIOS: dict[str, Callable[[Path, str], Awaitable[None]]] = {
    "mended": mended,
    "never_mended": never_mended,
}

if __name__ == "__main__":
    run(sys.argv[2], SCENARIOS[sys.argv[1]], Path(sys.argv[3]), sys.argv[4])

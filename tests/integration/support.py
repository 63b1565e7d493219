"""What the integration tests share: a clock to turn, a registry on a directory, a way to tamper."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import AsyncIterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any, TypeVar

from attrs import define

from mpreg.persistence import PersistenceConfig, PersistenceRegistry
from mpreg.persistence.backend import OpenedState, ReadQuery, ReadResult
from mpreg.persistence.backends.sqlite import SqliteBackend, SqliteOptions, SqliteReader
from mpreg.persistence.backends.sqlite.connection import ConnectionThread
from mpreg.persistence.backends.sqlite.write_session import WriteSession

T = TypeVar("T")


@define
class TurnedClock:
    """A wall clock that stands still until it is turned, also backwards."""

    now: float = 1_000.0

    def wall(self) -> float:
        return self.now


def config(data_dir: Path, **settings: Any) -> PersistenceConfig:
    # Locks are taken at once or not at all here, failures are told without long waits, and nothing
    # happens by itself; what was accepted is committed at the end however slow the machine is.
    defaults = {
        "busy_timeout_seconds": 0.02,
        "backoff_initial_seconds": 0.001,
        "restarts_max": 2,
        "upkeep_interval_seconds": None,
        "grace_seconds": 60.0,
    }
    return PersistenceConfig(data_dir=data_dir, **(defaults | settings))


def registry(
    data_dir: Path, *, clock: TurnedClock | None = None, **settings: Any
) -> PersistenceRegistry:
    return PersistenceRegistry(config(data_dir, **settings), clock=clock)


def database(data_dir: Path) -> Path:
    return data_dir / "mpreg.db"


def tamper(data_dir: Path, statement: str, parameters: Sequence[object] = ()) -> None:
    """Change the database behind mpreg's back, as a fault of the device would."""
    with closing(sqlite3.connect(database(data_dir))) as connection, connection:
        assert connection.execute(statement, parameters).rowcount != 0


def left_over(data_dir: Path, backend: str) -> list[str]:
    """The names in a directory that do not belong to a store that was closed."""
    numbered = ("journal-", "snapshot-") if backend == "file" else ()
    own = {"ACKED", "LOCK", {"sqlite": "mpreg.db", "file": "mpreg.journal"}[backend]}
    names = sorted(path.name for path in data_dir.iterdir())
    snapshots = [name for name in names if name.startswith("snapshot-")]
    if backend == "sqlite":
        own.add("values")
    left = [name for name in names if name not in own and not _is_numbered(name, numbered)]
    if "values" in names:
        left += [f"values/{name}" for name in _unnamed_values(data_dir)]
    # The newest stands for all before it.
    return left + snapshots[:-1]


def _unnamed_values(data_dir: Path) -> list[str]:
    """The files of values that no row names."""
    with closing(sqlite3.connect(database(data_dir))) as connection:
        rows = connection.execute("SELECT number FROM value_files WHERE live >= 0")
        named = {f"{number:016x}" for (number,) in rows}
    return sorted({path.name for path in (data_dir / "values").iterdir()} - named)


def _is_numbered(name: str, kinds: tuple[str, ...]) -> bool:
    return any(name.removeprefix(kind).isdigit() for kind in kinds if name.startswith(kind))


async def listed(items: AsyncIterable[T]) -> list[T]:
    return [item async for item in items]


class OpenBackend(SqliteBackend):
    """The real one, with its insides within reach of a test."""

    def __init__(self, data_dir: Path) -> None:
        data_dir.mkdir(exist_ok=True)
        options = SqliteOptions(
            cache_bytes=1 << 20, wal_checkpoint_pages=1_000, busy_timeout_seconds=0.02
        )
        super().__init__(database(data_dir), options)
        self.queries: list[ReadQuery] = []
        self.results: list[object] = []

    @property
    def session(self) -> WriteSession:
        assert self._session is not None
        return self._session

    @property
    def thread(self) -> ConnectionThread:
        assert self._thread is not None
        return self._thread

    async def on_writer(self, statement: str) -> Any:
        """Run a statement on the writer's own connection."""
        return await self.thread.run(lambda: self.session.connection.execute(statement).fetchone())

    def reader(self) -> SqliteReader:
        return _CountedReader(self)


class _CountedReader(SqliteReader):
    def __init__(self, backend: OpenBackend) -> None:
        super().__init__(backend._path, backend._options)
        self._backend = backend

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | Any]:
        results = await super().read(queries)
        self._backend.queries.extend(queries)
        self._backend.results.extend(results)
        return results


__all__ = [
    "OpenBackend",
    "OpenedState",
    "TurnedClock",
    "config",
    "database",
    "left_over",
    "listed",
    "registry",
    "tamper",
    "threads_that_stay",
]


def threads_that_stay(before: Sequence[threading.Thread]) -> list[threading.Thread]:
    """The threads started since ``before`` that do not end; those about to end are waited for."""
    started = [
        thread
        for thread in threading.enumerate()
        # Trio keeps idle threads of its own for a while, to use them again.
        if thread not in before and not thread.name.lower().startswith("trio")
    ]
    for thread in started:
        thread.join(timeout=60)
    return [thread for thread in started if thread.is_alive()]

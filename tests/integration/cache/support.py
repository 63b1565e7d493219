"""What the tests of caches share: a cache on a directory, and a gate before what it reads."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio

from mpreg.cache import CacheConfiguration, GlobalCacheKey, GlobalCacheManager, WarmUpState
from mpreg.clock import Clock
from mpreg.codec import encode_reserved_name
from mpreg.persistence import PersistenceRegistry
from mpreg.persistence.backend import ReadQuery, ReadResult, ScanEntries
from mpreg.persistence.backends.sqlite import SqliteReader
from tests.integration.queues.support import PATIENCE_SECONDS, GatedBackend, rows, until
from tests.integration.support import OpenBackend, config, tamper

__all__ = [
    "PATIENCE_SECONDS",
    "GatedReader",
    "ReadGateBackend",
    "both",
    "counts_entries",
    "count_stored",
    "damage",
    "get_value",
    "heat_saved",
    "open_cache",
    "read_back",
    "tidied",
    "until",
    "user",
]

Both = tuple[PersistenceRegistry, GlobalCacheManager]


def user(*parts: str | bytes | int) -> GlobalCacheKey:
    return GlobalCacheKey("users", *parts)


@asynccontextmanager
async def both(
    data_dir: Path,
    *,
    clock: Clock | None = None,
    backend: OpenBackend | None = None,
    is_early: bool = True,
    store: dict[str, Any] | None = None,
    **settings: Any,
) -> AsyncIterator[Both]:
    """A registry and a cache in it, made before it is opened or after."""
    registry = PersistenceRegistry(config(data_dir, **(store or {})), clock=clock, backend=backend)
    configuration = CacheConfiguration(**settings)
    early = GlobalCacheManager(registry, configuration) if is_early else None
    async with registry:
        yield registry, early or GlobalCacheManager(registry, configuration)


@asynccontextmanager
async def open_cache(data_dir: Path, **settings: Any) -> AsyncIterator[GlobalCacheManager]:
    async with both(data_dir, **settings) as (_, cache):
        yield cache


async def get_value(cache: GlobalCacheManager, key: GlobalCacheKey) -> Any:
    found = await cache.get(key)
    return None if found is None else found.value


async def read_back(cache: GlobalCacheManager) -> None:
    """Return when all that was there before is counted."""
    await cache.wait_until_warm()
    await until(lambda: cache.statistics().warm_up is WarmUpState.DONE)


async def tidied(cache: GlobalCacheManager) -> None:
    """Return when nothing that was invalidated is left, nor a note that others depend on a key that
    nothing depends on: what is committed after this is no work of upkeep."""
    core = cache._core
    if core.index.deserted:
        # What is evicted leaves that to the next time.
        core.ask_for_upkeep()
    await until(lambda: cache.statistics().barriers == 0 and not core.index.deserted)


async def heat_saved(cache: GlobalCacheManager) -> None:
    """Return when it is written down which entries are the most used. At its close a cache does so,
    too, if it is warm by then, and has seconds for it: too few on a machine that is very busy."""
    await cache.wait_until_warm()
    await cache._shared.upkeep.save_heat()


class ReadGateBackend(GatedBackend):
    """One whose reads can be held up as well, before they begin or when they have their answer."""

    def __init__(self, data_dir: Path) -> None:
        super().__init__(data_dir)
        self.held: Callable[[ReadQuery], bool] = lambda query: False
        self.holds_answers = False
        self.held_reads = anyio.Event()
        self._read_gate = anyio.Event()

    def hold_reads(self, held: Callable[[ReadQuery], bool], *, answers: bool = False) -> None:
        self.held, self.holds_answers = held, answers
        self.held_reads, self._read_gate = anyio.Event(), anyio.Event()

    def let_reads_go(self) -> None:
        self.held = lambda query: False
        self._read_gate.set()

    async def read_is_held(self) -> None:
        with anyio.fail_after(PATIENCE_SECONDS):
            await self.held_reads.wait()

    def open_gate_once(self) -> None:
        """Let the commit go that waits at the gate, and hold the next one."""
        gate = self._gate
        assert gate is not None
        self.close_gate()
        gate.set()

    async def pass_gate(self, queries: Sequence[ReadQuery]) -> None:
        if any(map(self.held, queries)):
            self.held_reads.set()
            await self._read_gate.wait()

    def reader(self) -> SqliteReader:
        return GatedReader(self)


class GatedReader(SqliteReader):
    def __init__(self, backend: ReadGateBackend) -> None:
        super().__init__(backend._path, backend._options)
        self._backend = backend

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult | Any]:
        if not self._backend.holds_answers:
            await self._backend.pass_gate(queries)
        answers = await super().read(queries)
        if self._backend.holds_answers:
            await self._backend.pass_gate(queries)
        return answers


def counts_entries(query: ReadQuery) -> bool:
    """Whether it is asked to count what L2 holds."""
    return isinstance(query, ScanEntries) and query.namespace.endswith(b"/entries")


# --- the file ---


def _store(data_dir: Path, ending: str, name: str) -> int:
    """The id of a store of a cache; 0 where there is none."""
    wanted = encode_reserved_name("cache", f"{name}/{ending}")
    found = [
        id for id, stored in rows(data_dir, "SELECT id, name FROM namespaces") if stored == wanted
    ]
    return found[0] if found else 0


def count_stored(data_dir: Path, ending: str, name: str = "default") -> int:
    """The rows of a store of a cache: its "entries", or "invalidations"."""
    statement = "SELECT count(*) FROM entries WHERE namespace_id = ?"
    ((count,),) = rows(data_dir, statement, (_store(data_dir, ending, name),))
    assert isinstance(count, int)
    return count


def damage(data_dir: Path, ending: str, part: bytes, change: str, name: str = "default") -> None:
    """Change rows of a store of a cache whose keys contain ``part``."""
    tamper(
        data_dir,
        f"UPDATE entries SET {change} WHERE namespace_id = ? AND instr(key, ?)",
        (_store(data_dir, ending, name), part),
    )

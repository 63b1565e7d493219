"""A disk that is full, or fails a sync, at any call of a store's whole life: real files, and the
registry with all that is in it.

A life opens, writes, reads, saves snapshots, lets entries expire, compacts and closes. Each time
another call is refused. `make faults` refuses every one of them, `make test` some.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import anyio
import pytest
from attrs import define, field

from mpreg.persistence import (
    CommitFailedError,
    DataDirectoryError,
    Durability,
    PersistenceRegistry,
    SnapshotRetention,
    StorageFullError,
    StorageIOError,
)
from tests.integration.refusing_system import RefusingSystem, refusing
from tests.integration.support import TurnedClock, listed, registry

#: Each so many calls one is refused.
STRIDE = int(os.environ.get("MPREG_FAULT_STRIDE", "17"))

#: Checkpoints, segments and snapshots of the journal come every few commits, and what is saved has
#: several chunks.
SETTINGS: dict[str, Any] = {
    "wal_checkpoint_pages": 8,
    "journal_segment_bytes": 4_096,
    "value_bytes_max": 2_048,
    "accounting_interval_seconds": 0.01,
    "free_bytes_max": 0,
}

on_both_backends = pytest.mark.parametrize("backend", ["sqlite", "file"])


@define
class Life:
    """One opening of a store after the other, and what must be in it."""

    data_dir: Path
    backend: str
    entries: dict[str, bytes] = field(factory=dict)
    expired: set[str] = field(factory=set)
    records: list[bytes] = field(factory=list)
    image: bytes | None = None
    refusals: int = 0
    clock: TurnedClock = field(factory=TurnedClock)

    def registry(self) -> PersistenceRegistry:
        return registry(self.data_dir, clock=self.clock, backend=self.backend, **SETTINGS)

    async def live(self) -> None:
        """From opening to closing; what cannot be done for want of room is not done."""
        async with self.registry() as opened:
            for number in range(6):
                await self._put(opened, f"k{number}", bytes([number]) * 900)
                await self._append(opened, b"r%d" % number)
            await self._put(opened, "soon", b"expires", ttl_seconds=1.0)
            await self._save(opened, bytes(5_000))
            await self._put(opened, "k0", b"changed", durability=Durability.RELAXED)
            await self._together(opened)
            self.clock.now += 5.0
            self._expire()
            await self._compact(opened)
            await self._save(opened, b"x" * 3_000)
            for number in range(6, 9):
                await self._put(opened, f"k{number}", bytes(1_500))
            await self.check(opened)

    async def check(self, opened: PersistenceRegistry) -> None:
        """What was acked is there, and what was refused is not."""
        found = {entry.key: entry.value async for entry in opened.key_value_store("s").scan()}
        assert found == self.entries
        assert [one.data for one in await listed(opened.log_store("l").read_range())] == (
            self.records
        )
        image = await opened.snapshot_store("i").load()
        assert (None if image is None else image.data) == self.image

    async def open_again(self) -> None:
        async with self.registry() as opened:
            await self.check(opened)
            await opened.compact()
            await opened.key_value_store("s").put("last", b"")
            self.entries["last"] = b""
        names = {path.name for path in self.data_dir.iterdir()}
        assert {name for name in names if not self._belongs(name)} == set()

    def _belongs(self, name: str) -> bool:
        if self.backend == "sqlite":
            return name in ("ACKED", "LOCK", "mpreg.db")
        numbered = name.startswith(("journal-", "snapshot-")) and not name.endswith(".new")
        return numbered or name in ("ACKED", "LOCK", "mpreg.journal")

    async def _done(self, opened: PersistenceRegistry, what: Awaitable[object]) -> bool:
        try:
            await what
        except CommitFailedError:
            self.refusals += 1
            # Whatever has no room: reads go on.
            await self.check(opened)
            return False
        return True

    def _expire(self) -> None:
        for key in self.expired:
            self.entries.pop(key, None)

    async def _put(
        self, opened: PersistenceRegistry, key: str, value: bytes, **options: Any
    ) -> None:
        if await self._done(opened, opened.key_value_store("s").put(key, value, **options)):
            self.entries[key] = value
            if "ttl_seconds" in options:
                self.expired.add(key)

    async def _append(self, opened: PersistenceRegistry, record: bytes) -> None:
        if await self._done(opened, opened.log_store("l").append(record)):
            self.records.append(record)

    async def _save(self, opened: PersistenceRegistry, data: bytes) -> None:
        images = opened.snapshot_store("i", retention=SnapshotRetention(versions_max=1))

        async def pieces() -> AsyncIterator[bytes]:
            yield data[:1_000]
            yield data[1_000:]

        if await self._done(opened, images.save(pieces())):
            self.image = data

    async def _together(self, opened: PersistenceRegistry) -> None:
        async def transact() -> None:
            async with opened.transaction() as transaction:
                opened.key_value_store("s").delete_nowait("k1", transaction=transaction)
                opened.log_store("l").append_nowait(b"deleted k1", transaction=transaction)

        if await self._done(opened, transact()):
            self.entries.pop("k1", None)
            self.records.append(b"deleted k1")

    async def _compact(self, opened: PersistenceRegistry) -> None:
        await self._done(opened, opened.compact())


async def until_opened(live: Callable[[], Awaitable[None]], tries: int) -> None:
    """What an opening that finds no room says, it says as such."""
    for _ in range(tries):
        try:
            await live()
        except (StorageFullError, DataDirectoryError):
            continue
        return
    raise AssertionError("it does not open")


def calls_of_a_life(tmp_path: Path, backend: str, asks_for: str) -> int:
    life = Life(tmp_path / "whole", backend)
    system = RefusingSystem(life.data_dir, asks_for, first=1 << 30)
    with refusing(system):
        anyio.run(life.live)
    assert life.refusals == 0
    return len(system.asked)


def lives(
    tmp_path: Path, backend: str, asks_for: str, *, lasts: bool = False
) -> Iterator[tuple[Life, RefusingSystem, Callable[..., Any]]]:
    """A life for each call that is to be refused, and what runs it."""
    for first in range(0, calls_of_a_life(tmp_path, backend, asks_for), STRIDE):
        life = Life(tmp_path / str(first), backend)
        system = RefusingSystem(life.data_dir, asks_for, first, lasts)
        loop = ["asyncio", "trio"][first % 2]
        with refusing(system):
            yield life, system, partial(anyio.run, backend=loop)
        if not system.refused:
            # How often it is written down what was acked depends on time.
            return
        anyio.run(life.open_again, backend=loop)


@on_both_backends
def test_a_disk_that_is_full_for_one_call_costs_only_what_it_says(
    backend: str, tmp_path: Path
) -> None:
    refusals = 0
    for life, _, run in lives(tmp_path, backend, "room"):
        run(until_opened, life.live, 2)
        refusals += life.refusals
    assert refusals > 0


@on_both_backends
def test_a_disk_that_is_full_from_some_call_on_is_waited_out(backend: str, tmp_path: Path) -> None:
    for life, system, run in lives(tmp_path, backend, "room", lasts=True):
        try:
            run(life.live)
        except (StorageFullError, DataDirectoryError):
            assert not life.entries, "once it is open it stays so"
        system.mended = True
        run(life.open_again)


@on_both_backends
def test_a_sync_that_fails_once_costs_no_caller_more_than_time(
    backend: str, tmp_path: Path
) -> None:
    for life, _, run in lives(tmp_path, backend, "sync"):
        try:
            run(life.live)
        except StorageIOError:
            # At its beginning, or at its end.
            run(life.open_again)

"""A short life of a store: all that it can do, once each, and what must be in it after that."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, TypeAlias

from attrs import define, field

from mpreg.persistence import (
    CommitFailedError,
    Durability,
    PersistenceRegistry,
    SnapshotRetention,
)
from tests.integration.support import TurnedClock, left_over, listed, registry

__all__ = ["SOON", "Content", "Life", "found_in"]

SOON = "soon"
"""The key that expires."""

Content: TypeAlias = tuple[dict[str | bytes, bytes], list[bytes], bytes | None]
"""Entries, the records of a log, and a snapshot."""

#: Checkpoints, segments and snapshots of the journal come every few commits, and what is saved has
#: several chunks.
#: The SQLite backend has such values in files.
IN_A_FILE = 140_000

SETTINGS: dict[str, Any] = {
    "wal_checkpoint_pages": 8,
    "journal_segment_bytes": 4_096,
    # And so the size of a snapshot's chunks.
    "value_bytes_max": IN_A_FILE,
    "accounting_interval_seconds": 0.01,
    "free_bytes_max": 0,
}


async def found_in(opened: PersistenceRegistry) -> Content:
    entries = {entry.key: entry.value async for entry in opened.key_value_store("s").scan()}
    records = [one.data for one in await listed(opened.log_store("l").read_range())]
    image = await opened.snapshot_store("i").load()
    return entries, records, None if image is None else image.data


@define
class Life:
    """One opening of a store after the other, and what must be in it."""

    data_dir: Path
    backend: str
    entries: dict[str | bytes, bytes] = field(factory=dict)
    expired: set[str] = field(factory=set)
    records: list[bytes] = field(factory=list)
    image: bytes | None = None
    refusals: int = 0
    on_done: Callable[[], None] = lambda: None
    """Told after each call that has come to its end."""
    clock: TurnedClock = field(factory=TurnedClock)

    def registry(self) -> PersistenceRegistry:
        return registry(self.data_dir, clock=self.clock, backend=self.backend, **SETTINGS)

    async def live(self) -> None:
        """From opening to closing; what cannot be done for want of room is not done."""
        async with self.registry() as opened:
            for number in range(6):
                await self._put(opened, f"k{number}", bytes([number]) * 900)
                await self._append(opened, b"r%d" % number)
            await self._put(opened, SOON, b"expires", ttl_seconds=1.0)
            await self._save(opened, bytes(2 * IN_A_FILE + 1))
            await self._put(opened, "large", b"a" * IN_A_FILE)
            await self._put(opened, "large", b"b" * IN_A_FILE)
            await self._put(opened, "k3", b"c" * IN_A_FILE, durability=Durability.RELAXED)
            await self._put(opened, "k0", b"changed", durability=Durability.RELAXED)
            await self._together(opened)
            self.clock.now += 5.0
            self._expire()
            await self._compact(opened)
            await self._save(opened, b"x" * (IN_A_FILE + 1))
            await self._put(opened, "large", b"small")
            for number in range(6, 9):
                await self._put(opened, f"k{number}", bytes(1_500))
            await self.check(opened)

    async def check(self, opened: PersistenceRegistry) -> None:
        """What was acked is there, and what was refused is not."""
        assert await found_in(opened) == self.content

    @property
    def content(self) -> Content:
        return (dict(self.entries), list(self.records), self.image)

    async def open_again(self) -> None:
        async with self.registry() as opened:
            await self.check(opened)
            await opened.compact()
            await opened.key_value_store("s").put("last", b"")
            self.entries["last"] = b""
        assert left_over(self.data_dir, self.backend) == []

    async def _done(self, opened: PersistenceRegistry, what: Awaitable[object]) -> bool:
        try:
            await what
        except CommitFailedError:
            self.refusals += 1
            # Whatever has no room: reads go on.
            await self.check(opened)
            return False
        self.on_done()
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

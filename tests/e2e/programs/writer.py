"""Many callers that write as fast as they can, and tell each ack after it came.

``writer LOOP DATA_DIR BACKEND``. Each line is ``KIND CALLER NUMBER PLACE``; the place is the
version or the offset that the write got. Every caller goes on from what it finds in the store, so
that the numbers of a caller count on over all lives of the process.
"""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator
from pathlib import Path

import anyio
from attrs import frozen

from mpreg.persistence import (
    Ack,
    Durability,
    KeyValueStore,
    LogStore,
    PersistenceConfig,
    PersistenceRegistry,
    VersionConflictError,
)
from tests.e2e.programs.shared import run, say

CALLERS = 4
"""Of each kind."""
PIPELINE = 8
"""Appends that a pipelining caller has under way."""

THINGS = "things"
COUNTS = "counts"
AUDIT = "audit"
HISTORY = "history"
PIPED = "piped"
SHARED = "shared"


def value_of(kind: str, caller: int, number: int) -> bytes:
    """Tells what it is and is of many lengths, so that a mix-up and a torn value both show."""
    text = f"{kind} {caller} {number} ".encode()
    return text + text * (number * 37 % 83)


def number_in(value: bytes) -> int:
    return int(value.split(b" ", 3)[2])


@frozen
class Writer:
    registry: PersistenceRegistry
    things: KeyValueStore
    counts: KeyValueStore
    audit: LogStore
    history: LogStore
    piped: LogStore

    async def run(self) -> None:
        async with anyio.create_task_group() as task_group:
            for caller in range(CALLERS):
                task_group.start_soon(self.put, "put", caller, Durability.DURABLE)
                task_group.start_soon(self.put, "relaxed", caller, Durability.RELAXED)
                task_group.start_soon(self.flip, caller)
                task_group.start_soon(self.transact, caller)
                task_group.start_soon(self.compete, caller)
                task_group.start_soon(self.pipeline, caller)
            while True:
                await self.registry.compact()

    async def put(self, kind: str, caller: int, durability: Durability) -> None:
        key = f"{kind}-{caller}"
        async for number in self._numbers(self.things, key):
            value = value_of(kind, caller, number)
            version = await self.things.put(key, value, durability=durability)
            say(f"{kind} {caller} {number} {version}")

    async def flip(self, caller: int) -> None:
        """Put on odd numbers, delete on even ones; the count is kept beside it, in one batch."""
        key = f"flip-{caller}"
        async for number in self._numbers(self.counts, key):
            value = value_of("flip", caller, number)
            async with self.registry.transaction() as transaction:
                count = self.counts.put_nowait(key, value, transaction=transaction)
                if number % 2:
                    self.things.put_nowait(key, value, transaction=transaction)
                else:
                    self.things.delete_nowait(key, transaction=transaction)
            say(f"flip {caller} {number} {await count}")

    async def transact(self, caller: int) -> None:
        """Two keys of two namespaces and two records, in one batch."""
        key = f"tx-{caller}"
        async for number in self._numbers(self.things, key):
            value = value_of("tx", caller, number)
            async with self.registry.transaction() as transaction:
                self.things.put_nowait(key, value, transaction=transaction)
                first = self.audit.append_nowait(value, transaction=transaction)
                self.counts.put_nowait(key, value, transaction=transaction)
                self.audit.append_nowait(value, transaction=transaction)
            say(f"tx {caller} {number} {await first}")

    async def compete(self, caller: int) -> None:
        """Count one shared key up, with all others of its kind, by compare-and-set."""
        while True:
            entry = await self.counts.get(SHARED)
            number = 1 if entry is None else number_in(entry.value) + 1
            value = value_of("compete", 0, number)
            expected = 0 if entry is None else entry.version
            try:
                async with self.registry.transaction() as transaction:
                    version = self.counts.put_nowait(
                        SHARED, value, expected_version=expected, transaction=transaction
                    )
                    self.history.append_nowait(value, transaction=transaction)
            except VersionConflictError:
                continue
            say(f"compete {caller} {number} {await version}")

    async def pipeline(self, caller: int) -> None:
        """Appends that do not wait for one another; told in the order in which they were sent."""
        number = 0
        async for record in self.piped.read_range():
            if record.data.startswith(b"pipe %d " % caller):
                number = number_in(record.data)
        under_way: list[tuple[int, Ack[int]]] = []
        while True:
            while len(under_way) < PIPELINE:
                number += 1
                ack = self.piped.append_nowait(value_of("pipe", caller, number))
                under_way.append((number, ack))
            sent, ack = under_way.pop(0)
            say(f"pipe {caller} {sent} {await ack}")

    async def _numbers(self, store: KeyValueStore, key: str) -> AsyncIterator[int]:
        entry = await store.get(key)
        number = 0 if entry is None else number_in(entry.value)
        while True:
            number += 1
            yield number


async def main(data_dir: Path, backend: str) -> None:
    say("starting")
    # A grace time longer than any guard: where an exit waits for it, that is seen. Upkeep without a
    # pause, checkpoints all the time, snapshots every few hundred commits: kills are to meet them.
    config = PersistenceConfig(
        data_dir=data_dir,
        backend=backend,
        grace_seconds=600.0,
        wal_checkpoint_pages=256,
        journal_segment_bytes=32 << 10,
        upkeep_interval_seconds=0.01,
        accounting_interval_seconds=0.01,
        free_bytes_max=0,
    )
    async with PersistenceRegistry(config) as registry:
        await Writer(
            registry,
            registry.key_value_store(THINGS),
            registry.key_value_store(COUNTS),
            registry.log_store(AUDIT),
            registry.log_store(HISTORY),
            registry.log_store(PIPED),
        ).run()


if __name__ == "__main__":
    run(sys.argv[1], main, Path(sys.argv[2]), sys.argv[3])

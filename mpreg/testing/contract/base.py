"""An open store as the tests use it, and how they come to one."""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import anyio
import pytest
from attrs import define

from mpreg.actors import Ack
from mpreg.errors import CorruptDataError, StorageIOError
from mpreg.persistence.backend import (
    GetEntry,
    GetLogBounds,
    OpenedState,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StorageBackend,
    StorageReader,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.batch import Durability, WriteBatch, operation_bytes
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.persistence.operations import Operation, Put

__all__ = ["NASTY_KEYS", "BackendContract", "ContractStore", "make_batch"]

#: Bytes that trip up whoever treats keys as text, patterns or C strings.
NASTY_KEYS = (
    b"",
    b"\x00",
    b"\x00\x00",
    b"\x00\xff",
    b"%",
    b"%%",
    b"*",
    b"A",
    b"A%",
    b"A_",
    b"AB",
    b"_",
    b"a",
    b"a\x00b",
    b"ab",
    b"\xc3\xa9",
    b"\xed\xb2\x80",
    b"\xff",
    b"\xff\x00",
    b"\xff\xff",
)


def make_batch(*operations: Operation, durability: Durability = Durability.DURABLE) -> WriteBatch:
    """A batch as the writer would hand it to a backend."""
    size = sum(map(operation_bytes, operations))
    return WriteBatch(operations, tuple(Ack[object]() for _ in operations), durability, size)


@define(eq=False)
class ContractStore:
    """A backend and a reader, both open, and the numbers that a writer keeps."""

    backend: StorageBackend
    reader: StorageReader
    opened: OpenedState
    sequence: int
    now: float = 1_000.0

    async def commit(self, *batches: WriteBatch) -> Sequence[BatchOutcome]:
        """One group; the sequence goes on if anything of it stands."""
        outcomes = await self.backend.commit(CommitGroup(self.sequence + 1, self.now, batches))
        assert len(outcomes) == len(batches)
        if any(isinstance(outcome, tuple) for outcome in outcomes):
            self.sequence += 1
        return outcomes

    async def do(self, *operations: Operation) -> BatchOutcome:
        """One batch in a group of its own."""
        return (await self.commit(make_batch(*operations)))[0]

    async def put(
        self,
        key: bytes,
        value: bytes = b"value",
        *,
        namespace: bytes = b"n",
        expires_at: float | None = None,
    ) -> int:
        outcome = await self.do(Put(namespace, key, value, expires_at))
        assert isinstance(outcome, tuple)
        return outcome[0]

    async def ask(self, query: ReadQuery) -> ReadResult:
        (answer,) = await self.reader.read([query])
        assert not isinstance(answer, CorruptDataError | StorageIOError)
        return answer

    async def get(self, key: bytes, namespace: bytes = b"n") -> StoredEntry | None:
        entry = await self.ask(GetEntry(namespace, key))
        assert entry is None or isinstance(entry, StoredEntry)
        return entry

    async def value(self, key: bytes, namespace: bytes = b"n") -> bytes | None:
        entry = await self.get(key, namespace)
        return None if entry is None else entry.value

    async def scan_pages(
        self, start: bytes = b"", stop: bytes | None = None, namespace: bytes = b"n"
    ) -> list[list[StoredEntry]]:
        pages = []
        following: bytes | None = start
        while following is not None:
            page = await self.ask(ScanEntries(namespace, following, stop))
            assert isinstance(page, ScanPage)
            pages.append([entry for entry in page.entries if isinstance(entry, StoredEntry)])
            following = page.next_start
        return pages

    async def keys(
        self, start: bytes = b"", stop: bytes | None = None, namespace: bytes = b"n"
    ) -> list[bytes]:
        pages = await self.scan_pages(start, stop, namespace)
        return [entry.key for page in pages for entry in page]

    async def record_pages(
        self, start: int = 0, stop: int | None = None, log: bytes = b"log"
    ) -> list[list[StoredRecord]]:
        pages = []
        following: int | None = start
        while following is not None:
            page = await self.ask(ReadRecords(log, following, stop))
            assert isinstance(page, RecordsPage)
            pages.append([record for record in page.records if isinstance(record, StoredRecord)])
            following = page.next_start
        return pages

    async def records(
        self, start: int = 0, stop: int | None = None, log: bytes = b"log"
    ) -> list[tuple[int, bytes]]:
        pages = await self.record_pages(start, stop, log)
        return [(record.offset, record.data) for page in pages for record in page]

    async def bounds(self, log: bytes = b"log") -> ReadResult:
        return await self.ask(GetLogBounds(log))


class BackendContract:
    """Derive from it, name the class ``Test…``, and say how the backend is made."""

    pytestmark = pytest.mark.anyio

    value_bytes_max = 16 << 20
    """The largest value that the backend takes."""

    def make_backend(self, directory: Path) -> StorageBackend:
        """A backend, not open, on a new store in an empty directory."""
        raise NotImplementedError

    def make_another(self, backend: StorageBackend, directory: Path) -> StorageBackend:
        """A backend for the same store, as another process would make it.

        The default is the same object, for backends whose store does not outlive them; what needs
        two of them is left out then.
        """
        return backend

    @asynccontextmanager
    async def opened(
        self, directory: Path, again: StorageBackend | None = None
    ) -> AsyncGenerator[ContractStore, None]:
        """An open store; with ``again``, that backend's store as another process finds it."""
        if again is None:
            backend = self.make_backend(directory)
        else:
            backend = self.make_another(again, directory)
        state = await backend.open()
        reader = backend.reader()
        try:
            await reader.open()
            yield ContractStore(backend, reader, state, state.commit_sequence)
        finally:
            with anyio.CancelScope(shield=True):
                await reader.close()
                await backend.close()

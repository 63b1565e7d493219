"""Reading a version chunk by chunk."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Final, Self

from attrs import define, field

from mpreg.errors import CorruptDataError, InvalidArgumentError
from mpreg.persistence.backend import GetEntry
from mpreg.persistence.reader import ReadRequest
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.persistence.snapshots.layout import Manifest, chunk_key

__all__ = ["CHUNKS_AHEAD", "SnapshotReader"]

#: Chunks asked for before they are needed, so that the disk need not wait for who takes them.
CHUNKS_AHEAD: Final = 4


@define(eq=False, repr=False)
class SnapshotReader:
    """One version, open to be read once: an async iterator of bytes. See `SnapshotStore.open`.

    It holds a few chunks at a time. For one task; cancelled between two chunks, it can go on.
    """

    version: int
    size_bytes: int
    """Of the whole."""
    saved_at: float
    """Wall clock, in seconds."""
    _entries: SnapshotEntries
    _manifest: Manifest
    _ahead: deque[ReadRequest] = field(factory=deque)
    _asked: int = 0
    _given: int = 0
    _given_bytes: int = 0
    _checksum: int = 0
    _damage: CorruptDataError | None = None
    _closed: bool = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next chunk, which matches its checksum.

        Raises:
            StopAsyncIteration: that was all, and the whole matches its checksum.
            CorruptDataError: the next chunk is damaged or missing, or the whole is not what was
                saved. Asked again, it says so again.
            ReaderStoppedError: the registry is not open (any more).
            InvalidArgumentError: after the end of its block.
        """
        if self._closed:
            raise InvalidArgumentError("the snapshot was closed at the end of its block")
        if self._damage is not None:
            raise self._damage.with_traceback(None)
        try:
            if self._given == self._manifest.chunks:
                self._check_whole()
                raise StopAsyncIteration
            return await self._next()
        except CorruptDataError as damage:
            self._damage = damage
            raise

    async def _next(self) -> bytes:
        while len(self._ahead) < CHUNKS_AHEAD and self._asked < self._manifest.chunks:
            await self._ask(self._asked)
        try:
            # Only taken once it is answered: who is cancelled here gets it the next time.
            entry = await self._ahead[0].ack.wait()
        except CorruptDataError as error:
            raise self._corrupt(error.message, error) from error
        if entry is None:
            raise self._corrupt("the chunk is missing")
        self._ahead.popleft()
        chunk: bytes = entry.value
        self._given += 1
        self._given_bytes += len(chunk)
        self._checksum = zlib.crc32(chunk, self._checksum)
        return chunk

    async def _ask(self, index: int) -> None:
        reads = self._entries.gateway.reads
        query = GetEntry(self._entries.namespace, chunk_key(self._manifest.save, index))
        request = ReadRequest(query, reads.new_ack())
        await reads.send(request)
        self._asked += 1
        self._ahead.append(request)

    def _check_whole(self) -> None:
        manifest = self._manifest
        if (self._given_bytes, self._checksum) != (manifest.size_bytes, manifest.checksum):
            raise self._entries.corrupt(
                "the whole does not match its checksum", version=self.version
            )

    def _corrupt(self, message: str, cause: CorruptDataError | None = None) -> CorruptDataError:
        return self._entries.corrupt(message, version=self.version, chunk=self._given, cause=cause)

    def __repr__(self) -> str:
        return f"<SnapshotReader of {self._entries.name!r}, version {self.version}>"

    def _close(self) -> None:
        """Called at the end of the block: nothing more is read."""
        self._closed = True
        for request in self._ahead:
            request.wanted = False
        self._ahead.clear()

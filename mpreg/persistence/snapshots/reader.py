"""Reading a version chunk by chunk."""

from __future__ import annotations

import zlib
from collections import deque
from typing import Final, Self

from anyio.lowlevel import checkpoint
from attrs import define, field

from mpreg.errors import CorruptDataError, InvalidArgumentError
from mpreg.persistence.backend import PAGE_BYTES_MAX, ScanEntries, ScanPage, StoredEntry
from mpreg.persistence.reader import ReadRequest
from mpreg.persistence.snapshots.chunks import CHUNK_BYTES
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.persistence.snapshots.layout import Manifest, chunk_key

__all__ = ["CHUNKS_PER_PAGE", "PAGES_AHEAD", "SnapshotReader"]

#: Chunks asked for at once. To find a row, SQLite compares keys with a dozen others, and it reads
#: each of these as a whole, value and all; the rows after it cost no more than themselves.
CHUNKS_PER_PAGE: Final = PAGE_BYTES_MAX // CHUNK_BYTES

#: Pages asked for before they are needed, so that the disk need not wait for who takes them.
PAGES_AHEAD: Final = 2


@define(eq=False, repr=False)
class SnapshotReader:
    """One version, open to be read once: an async iterator of bytes. See `SnapshotStore.open`.

    It holds a few chunks at a time. For one task; cancelled between two chunks, it can go on.

    With `seek` it begins later: each chunk is verified all the same, but not the whole, which is
    for whoever has what was read before.
    """

    version: int
    size_bytes: int
    """Of the whole."""
    saved_at: float
    """Wall clock, in seconds."""
    _entries: SnapshotEntries
    _manifest: Manifest
    _ahead: deque[ReadRequest] = field(factory=deque)
    """Pages that were asked for."""
    _asked: int = 0
    """Chunks in them and in those before."""
    _found: deque[StoredEntry] = field(factory=deque)
    """Chunks that come next."""
    _looked: int = 0
    """Chunks in the pages that were answered."""
    _given: int = 0
    _given_bytes: int = 0
    _checksum: int = 0
    _skipped: int = 0
    """Bytes of its next chunk that are left out."""
    _is_part: bool = False
    _damage: CorruptDataError | None = None
    _closed: bool = False

    @property
    def checksum(self) -> int:
        """CRC-32 of the whole, as `zlib.crc32` gives it."""
        return self._manifest.checksum

    def __aiter__(self) -> Self:
        return self

    async def seek(self, offset: int) -> None:
        """Begin at this byte; before the first chunk was taken. Cancelled, it is to be given up.

        Raises:
            InvalidArgumentError: it is no byte of this version, nor its end.
            CorruptDataError, ReaderStoppedError: as taking a chunk does.
        """
        if self._asked or not 0 <= offset <= self.size_bytes:
            raise InvalidArgumentError(f"there is no byte {offset} to begin at in {self!r}")
        if not offset:
            return
        # All chunks but the last have the size of the first.
        await self._look_for_one()
        chunk = self._found.popleft().value
        index, self._skipped = divmod(offset, len(chunk))
        if offset == self.size_bytes:
            index, self._skipped = self._manifest.chunks, 0
        self._asked = self._looked = self._given = index
        self._given_bytes, self._is_part = offset - self._skipped, True

    async def __anext__(self) -> bytes:
        """The next chunk, which matches its checksum.

        Raises:
            StopAsyncIteration: that was all, and the whole matches its checksum.
            CorruptDataError: the next chunk is damaged or missing, or the whole is not what was
                saved. Asked again, it says so again.
            ReaderStoppedError: the registry is not open (any more).
            InvalidArgumentError: after the end of its block.
        """
        self._entries.gateway.check_thread("a snapshot")
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
        if self._found:
            await checkpoint()
        elif self._given == self._looked:
            await self._turn_page()
        else:
            # What a page has not, or not as it should be, is asked for by itself.
            await self._look_for_one()
        chunk = self._found.popleft().value
        self._given += 1
        self._given_bytes += len(chunk)
        if self._is_part:
            skipped, self._skipped = self._skipped, 0
            return chunk[skipped:]
        self._checksum = zlib.crc32(chunk, self._checksum)
        return chunk

    async def _turn_page(self) -> None:
        while len(self._ahead) < PAGES_AHEAD and self._asked < self._manifest.chunks:
            await self._ask()
        try:
            # Only taken once it is answered: who is cancelled here gets it the next time.
            page: ScanPage = await self._ahead[0].ack.wait()
        except CorruptDataError:
            page = ScanPage((), None)
        self._ahead.popleft()
        for entry in page.entries:
            if not isinstance(entry, StoredEntry) or entry.key != self._key(self._looked):
                break
            self._found.append(entry)
            self._looked += 1
        self._looked = min(self._given + CHUNKS_PER_PAGE, self._manifest.chunks)
        if not self._found:
            await self._look_for_one()

    async def _look_for_one(self) -> None:
        try:
            entry = await self._entries.get(self._key(self._given))
        except CorruptDataError as error:
            raise self._corrupt(error.message, error) from error
        if entry is None:
            raise self._corrupt("the chunk is missing")
        self._found.append(entry)

    async def _ask(self) -> None:
        reads = self._entries.gateway.reads
        stop = min(self._asked + CHUNKS_PER_PAGE, self._manifest.chunks)
        query = ScanEntries(self._entries.namespace, self._key(self._asked), self._key(stop))
        request = ReadRequest(query, reads.new_ack())
        await reads.send(request)
        self._asked = stop
        self._ahead.append(request)

    def _key(self, index: int) -> bytes:
        return chunk_key(self._manifest.save, index)

    def _check_whole(self) -> None:
        manifest = self._manifest
        checksum = manifest.checksum if self._is_part else self._checksum
        if (self._given_bytes, checksum) != (manifest.size_bytes, manifest.checksum):
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
        self._found.clear()

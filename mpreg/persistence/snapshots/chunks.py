"""Cutting what is saved into chunks, and writing them."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

from attrs import define, field

from mpreg.actors import Ack
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Put
from mpreg.persistence.snapshots.layout import chunk_key

__all__ = ["CHUNKS_IN_FLIGHT_MAX", "CHUNK_BYTES", "ChunkCutter", "ChunkWriter"]

#: Large enough that most of the time goes into the bytes: chunks of half the size take a third more
#: of it. Behind larger ones the writes of others would wait longer.
CHUNK_BYTES: Final = 512 << 10

#: Chunks sent and not yet acked. With more, others wait longer and the save is no faster; with one
#: the writer would wait for the next.
CHUNKS_IN_FLIGHT_MAX: Final = 2


@define
class ChunkCutter:
    """Cuts pieces of any size into chunks of one size, and counts and sums up what it has cut."""

    _chunk_bytes: int
    chunks: int = 0
    size_bytes: int = 0
    checksum: int = 0
    _rest: bytearray = field(factory=bytearray)

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """The chunks that are full with this piece. The iterator must be used up."""
        left = memoryview(piece)
        while len(self._rest) + len(left) >= self._chunk_bytes:
            taken = self._chunk_bytes - len(self._rest)
            chunk = b"".join((self._rest, left[:taken]))
            left = left[taken:]
            self._rest.clear()
            yield self._counted(chunk)
        self._rest += left

    def cut_rest(self) -> Iterator[bytes]:
        """The last chunk, if it is not empty."""
        if self._rest:
            yield self._counted(bytes(self._rest))

    def _counted(self, chunk: bytes) -> bytes:
        self.chunks += 1
        self.size_bytes += len(chunk)
        self.checksum = zlib.crc32(chunk, self.checksum)
        return chunk


@define(eq=False)
class ChunkWriter:
    """Writes the chunks of one save, a few of them at a time."""

    _gateway: StoreGateway
    _namespace: bytes
    _save: int
    _written: int = 0
    _in_flight: deque[Ack[Any]] = field(factory=deque)

    async def write_all(self, chunks: Iterator[bytes]) -> None:
        """Send them, waiting for those before them where too many are in flight."""
        for chunk in chunks:
            if len(self._in_flight) == CHUNKS_IN_FLIGHT_MAX:
                await self._in_flight.popleft()
            ack: Ack[Any] = Ack()
            put = Put(self._namespace, chunk_key(self._save, self._written), chunk)
            # Relaxed, so that nobody waits for an fsync: the one of the publication covers all.
            await self._gateway.write_batch([put], [ack], Durability.RELAXED)
            self._written += 1
            self._in_flight.append(ack)

    async def finish(self) -> None:
        """Return when all are written."""
        while self._in_flight:
            await self._in_flight.popleft()

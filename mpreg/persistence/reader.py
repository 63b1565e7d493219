"""The reader: joins the reads that are waiting into one thread hop, as the writer joins writes."""

from __future__ import annotations

import anyio
from attrs import define

from mpreg.actors import Ack, Mailbox
from mpreg.errors import CorruptDataError, ReaderStoppedError
from mpreg.persistence.backend import ReadQuery, StorageReader

__all__ = ["READS_PER_HOP_MAX", "ReadRequest", "Reader"]

READS_PER_HOP_MAX = 512


class ReadRequest:
    """One query and its ack: the message that the reader's mailbox carries."""

    __slots__ = ("ack", "query", "size_bytes")

    def __init__(self, query: ReadQuery, ack: Ack[object]) -> None:
        self.query = query
        self.ack = ack
        self.size_bytes = 1

    def fail(self, error: Exception) -> None:
        self.ack.reject(error)


@define(eq=False)
class Reader:
    """An `mpreg.actors.Actor`. Reading changes nothing, so what a failure interrupted is simply
    read again by the next incarnation."""

    _mailbox: Mailbox[ReadRequest]
    _storage: StorageReader
    _unanswered: list[ReadRequest] | None = None

    async def start(self) -> None:
        await self._storage.open()

    async def run(self) -> None:
        while True:
            if self._unanswered is None:
                try:
                    self._unanswered = await self._mailbox.receive_many(
                        messages_max=READS_PER_HOP_MAX, bytes_max=READS_PER_HOP_MAX
                    )
                except anyio.EndOfStream:
                    return
            requests = self._unanswered
            results = await self._storage.read([request.query for request in requests])
            self._unanswered = None
            for request, result in zip(requests, results, strict=True):
                if isinstance(result, CorruptDataError):
                    request.ack.reject(result)
                else:
                    request.ack.resolve(result)

    async def close(self) -> None:
        await self._storage.close()

    def abandon(self, cause: Exception | None) -> None:
        requests, self._unanswered = self._unanswered or [], None
        for request in requests:
            error = ReaderStoppedError("the reader stopped before it could read this")
            error.__cause__ = cause
            request.fail(error)

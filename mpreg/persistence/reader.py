"""The reader: joins the reads that are waiting into one thread hop, as the writer joins writes."""

from __future__ import annotations

from typing import Any

import anyio
import msgspec
from attrs import define, field

from mpreg.actors import Ack, Mailbox
from mpreg.errors import CorruptDataError, ReaderStoppedError, StorageIOError
from mpreg.persistence.backend import (
    FoundEntries,
    ReadQuery,
    RecordsPage,
    ScanPage,
    StorageReader,
)

__all__ = ["READS_PER_HOP_MAX", "ReadRequest", "Reader"]

READS_PER_HOP_MAX = 512

_PAGES = (FoundEntries, ScanPage, RecordsPage)


class ReadRequest(msgspec.Struct, eq=False):
    """One query and its ack: the message that the reader's mailbox carries."""

    query: ReadQuery
    ack: Ack[Any]
    size_bytes: int = 1
    wanted: bool = True
    """False once its caller was cancelled: it is not read then."""

    def fail(self, error: Exception) -> None:
        self.ack.reject(error)


@define(eq=False)
class Reader:
    """An `mpreg.actors.Actor`. Reading changes nothing, so what a failure interrupted is simply
    read again by the next incarnation."""

    _mailbox: Mailbox[ReadRequest]
    _storage: StorageReader
    damaged: int = 0
    """Damaged items that were met."""
    _unanswered: list[ReadRequest] = field(factory=list)

    async def start(self) -> None:
        await self._storage.open()

    async def run(self) -> None:
        while True:
            if not self._unanswered:
                try:
                    self._unanswered = await self._mailbox.receive_many(
                        messages_max=READS_PER_HOP_MAX, bytes_max=READS_PER_HOP_MAX
                    )
                except anyio.EndOfStream:
                    return
            await self._read_some()

    async def _read_some(self) -> None:
        requests = [request for request in self._unanswered if request.wanted]
        answers = (
            await self._storage.read([request.query for request in requests]) if requests else ()
        )
        # The storage may have answered only the first of them.
        self._unanswered = requests[len(answers) :]
        for request, answer in zip(requests, answers, strict=False):
            if isinstance(answer, CorruptDataError):
                self.damaged += 1
                request.ack.reject(answer)
                continue
            if isinstance(answer, StorageIOError):
                request.ack.reject(answer)
                continue
            if isinstance(answer, _PAGES):
                self.damaged += _damaged_in(answer)
            request.ack.resolve(answer)

    async def close(self) -> None:
        await self._storage.close()

    def abandon(self, cause: Exception | None) -> None:
        requests, self._unanswered = self._unanswered, []
        for request in requests:
            error = ReaderStoppedError("the reader stopped before it could read this")
            error.__cause__ = cause
            request.fail(error)


def _damaged_in(page: FoundEntries | ScanPage | RecordsPage) -> int:
    # By exact type, all in C: nearly always there is none, among up to a thousand.
    items = page.records if isinstance(page, RecordsPage) else page.entries
    return list(map(type, items)).count(CorruptDataError)

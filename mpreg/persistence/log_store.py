"""Append-only logs."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from typing import Self

import anyio
from attrs import frozen

from mpreg.actors import Ack
from mpreg.codec import encode_bytes, encode_name
from mpreg.errors import InvalidArgumentError, OffsetOutOfRangeError
from mpreg.persistence.backend import GetLogBounds, ReadRecords, RecordsPage, StoredRecord
from mpreg.persistence.batch import Durability, MakeRecord, Settled
from mpreg.persistence.commit_group import LogBounds
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.growing import GrowingAppend
from mpreg.persistence.operations import Append, DeleteLog, TruncateBefore
from mpreg.persistence.paging import OnDamaged, Page, Paged
from mpreg.persistence.transaction import Transaction, send_nowait

__all__ = ["LogFollow", "LogRecord", "LogStore", "checked_offset"]


@frozen
class LogRecord:
    offset: int
    data: bytes


class LogStore:
    """One append-only log. Made by `PersistenceRegistry.log_store`; costs nothing.

    The first record has offset 0; offsets have no gaps and are never used again, unless the whole
    log is deleted. A record is bytes, at most ``value_bytes_max``. Errors and cancellation are
    those of `KeyValueStore`.
    """

    def __init__(self, gateway: StoreGateway, name: str, encoded: bytes | None = None) -> None:
        """``encoded`` is the name on disk where it is not that of a user's log."""
        self.name = name
        self._name = encode_name(name) if encoded is None else encoded
        self._gateway = gateway

    async def append(self, data: bytes, *, durability: Durability = Durability.DURABLE) -> int:
        """Add a record and return its offset."""
        return await self._gateway.append(self._append([data]), durability)

    def append_followed(self, records: Sequence[bytes], settled: Settled) -> Awaitable[int]:
        """`append_many` for whoever keeps something in memory that must follow the log.

        ``settled`` is told what became of the records, exactly once: also where they could not be
        sent, and where the caller is cancelled. Awaited at once, it gives the first offset.
        """
        try:
            operation = self._append(records)
        except BaseException:
            settled(None)
            raise
        return self._gateway.append(operation, Durability.DURABLE, settled)

    def append_growing(
        self,
        records: Sequence[bytes],
        settled: Settled,
        *,
        make: MakeRecord | None = None,
        size_bytes: int = 0,
    ) -> GrowingAppend | None:
        """`append_followed`, sent at once, for many callers together: what it returns may be added
        to until the writer takes it. None: there is no room in the mailbox, and nothing was sent.

        ``settled`` is told once for all of them; not where it returns None.

        With ``make``, ``records`` is one that only stands for it: ``make`` makes the record when
        the writer takes it, of at most ``size_bytes`` and what it was grown by. It must not raise.
        """
        try:
            operation = self._append(records)
        except BaseException:
            settled(None)
            raise
        return self._gateway.append_growing(operation, settled, make, size_bytes)

    def append_nowait(
        self,
        data: bytes,
        *,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[int]:
        """`append`, sent at once; the ack gives the offset."""
        return send_nowait(self._gateway, self._append([data]), durability, transaction)

    async def append_many(
        self, records: Iterable[bytes], *, durability: Durability = Durability.DURABLE
    ) -> int:
        """Add records side by side, all or none, and return the offset of the first.

        Raises:
            InvalidArgumentError: there are none.
        """
        return await self._gateway.append(self._append(records), durability)

    def append_many_nowait(
        self,
        records: Iterable[bytes],
        *,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[int]:
        """`append_many`, sent at once."""
        return send_nowait(self._gateway, self._append(records), durability, transaction)

    def read_range(
        self, start: int = 0, stop: int | None = None, *, on_damaged: OnDamaged | None = None
    ) -> AsyncIterator[LogRecord]:
        """The records with ``start <= offset < stop``, in order; those that are there.

        ``stop=None`` is the end of the log as it is when reading begins. Read page by page.

        A damaged record raises `CorruptDataError`; with ``on_damaged`` it is given to that and
        passed over, and the rest is read.
        """
        end = None if stop is None else checked_offset(stop, "stop")

        async def read_page(start: int) -> Page[StoredRecord, int]:
            nonlocal end
            if end is None:
                end = await self.next_offset()
            page: RecordsPage = await self._gateway.read(ReadRecords(self._name, start, end))
            return page.records, page.next_start

        return Paged(read_page, checked_offset(start, "start"), _record, on_damaged)

    def follow(self, start: int | None = None, *, on_damaged: OnDamaged | None = None) -> LogFollow:
        """The records from ``start`` on, those that are there and then those that come, for ever:
        ``async with log.follow(0) as records``, and ``async for record in records``.

        ``start`` None: only those that come after the block was entered. Records that were
        truncated away before they were read are passed over; a log that is deleted meanwhile is
        followed from its new beginning. A damaged record raises `CorruptDataError`; with
        ``on_damaged`` it is given to that and passed over.

        Raises, when the block is entered:
            OffsetOutOfRangeError: ``start`` is beyond the end of the log: what its caller has seen
                is not there. Its end itself is none beyond it.
        """
        if start is not None:
            checked_offset(start, "start")
        return LogFollow(self, self._gateway, self._name, start, on_damaged)

    async def truncate_before(
        self, offset: int, *, durability: Durability = Durability.DURABLE
    ) -> int:
        """Drop the records below ``offset``; return the log's first offset afterwards.

        Below the first offset it changes nothing.

        Raises:
            OffsetOutOfRangeError: ``offset`` is beyond the end of the log; nothing was changed.
        """
        first: int = await self._gateway.write(self._truncate(offset), durability)
        return first

    def truncate_before_nowait(
        self,
        offset: int,
        *,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[int]:
        """`truncate_before`, sent at once."""
        return send_nowait(self._gateway, self._truncate(offset), durability, transaction)

    async def delete(self, *, durability: Durability = Durability.DURABLE) -> int:
        """Remove the log as if it had never been written; return how many records it held.

        Offsets begin anew: the next record appended gets offset 0. So this is only for a log of
        which nobody remembers an offset any more. All records go in one transaction, and everyone
        else's writes wait for that: of a large log drop them in steps first, by `truncate_before`.

        Raises:
            CorruptDataError: the log's stored offsets are damaged; nothing was changed.
        """
        held: int = await self._gateway.write(DeleteLog(self._name), durability)
        return held

    def delete_nowait(
        self,
        *,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[int]:
        """`delete`, sent at once; the ack gives the number of records."""
        return send_nowait(self._gateway, DeleteLog(self._name), durability, transaction)

    async def first_offset(self) -> int:
        """The lowest offset that can still be read; the next offset where the log is empty."""
        return (await self.bounds())[0]

    async def next_offset(self) -> int:
        """The offset that the next record will get."""
        return (await self.bounds())[1]

    async def bounds(self) -> tuple[int, int]:
        """``first_offset`` and ``next_offset``, both at one moment."""
        bounds: LogBounds = await self._gateway.read(GetLogBounds(self._name))
        return bounds

    def _append(self, records: Iterable[bytes]) -> Append:
        limit = self._gateway.config.value_bytes_max
        encoded = list(records)
        for index, record in enumerate(encoded):
            if type(record) is not bytes or len(record) > limit:
                encoded[index] = encode_bytes(record, limit)
        if not encoded:
            raise InvalidArgumentError("there is no record to append")
        return Append(self._name, encoded)

    def _truncate(self, offset: int) -> TruncateBefore:
        return TruncateBefore(self._name, checked_offset(offset, "offset"))

    def __repr__(self) -> str:
        return f"<LogStore {self.name!r}>"


def _record(stored: StoredRecord) -> LogRecord:
    return LogRecord(stored.offset, stored.data)


def checked_offset(offset: object, name: str) -> int:
    if isinstance(offset, bool) or not isinstance(offset, int) or not 0 <= offset < 2**63:
        raise InvalidArgumentError(f"{name} is an offset, 0 or above, not {offset!r}")
    return offset


class LogFollow:
    """An async iterator over the records of a log that does not end. Made by `LogStore.follow`.

    Cancelled, it has passed over nothing, and may be gone on with.

    Raises, while iterating:
        WriterStoppedError, ReaderStoppedError: the registry has closed.
        CorruptDataError: a stored record is damaged.
    """

    def __init__(
        self,
        log: LogStore,
        gateway: StoreGateway,
        name: bytes,
        start: int | None,
        on_damaged: OnDamaged | None,
    ) -> None:
        self._log, self._gateway, self._name = log, gateway, name
        self._followers = gateway.followers
        self._next, self._on_damaged = start, on_damaged
        self._grown = anyio.Event()
        self._failure: Exception | None = None
        self._page: AsyncIterator[LogRecord] | None = None
        self._page_end = 0

    async def __aenter__(self) -> Self:
        self._gateway.check_thread("a log")
        self._followers.logs.setdefault(self._name, {})[self._wake] = None
        self._followers.ends[self._end] = None
        try:
            end = await self._log.next_offset()
            if self._next is None:
                self._next = end
            if self._next > end:
                raise OffsetOutOfRangeError(self._log.name, self._next, end)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        del self._followers.ends[self._end]
        found = self._followers.logs[self._name]
        del found[self._wake]
        if not found:
            del self._followers.logs[self._name]

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord:
        while True:
            if self._page is not None:
                async for record in self._page:
                    self._next = record.offset + 1
                    return record
                # Also past damaged ones, of which only somebody else was told.
                self._page, self._next = None, self._page_end
            if self._failure is not None:
                raise self._failure.with_traceback(None)
            if not await self._is_longer():
                await self._grown.wait()
                continue
            assert self._next is not None
            self._page = self._log.read_range(
                self._next, self._page_end, on_damaged=self._on_damaged
            )

    async def _is_longer(self) -> bool:
        # Anew before looking: what comes in between wakes.
        self._grown = anyio.Event()
        end = await self._log.next_offset()
        assert self._next is not None
        if end < self._next:
            # It was deleted, and began anew.
            self._next = await self._log.first_offset()
        self._page_end = end
        return self._next < end

    def _wake(self) -> None:
        self._grown.set()

    def _end(self, failure: Exception) -> None:
        self._failure = failure
        self._wake()

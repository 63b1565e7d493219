"""The logs of a node, with the names and signatures of those in the same process."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Iterable
from typing import Final, Self

from attrs import define, field

from mpreg.client.calls import SIZE_BYTES_MAX, Calls, value_of
from mpreg.client.following import RemoteLogFollow, corrupt
from mpreg.client.names import as_name
from mpreg.codec import encode_bytes
from mpreg.errors import (
    CorruptDataError,
    InvalidArgumentError,
    NodeUnreachableError,
    OffsetOutOfRangeError,
)
from mpreg.persistence import LogRecord
from mpreg.persistence.log_store import checked_offset

__all__ = ["RemoteLogStore"]

READ_RECORDS: Final = 1_000


@define(eq=False)
class RemoteLogStore:
    """A log of a node: `mpreg.persistence.LogStore`, asked over HTTP.

    What is appended is durable when it returns, and there once, however often it was tried. It
    raises what its embedded form raises, what the node tells of itself (`mpreg.errors.NodeError`),
    and `NodeUnreachableError`.
    """

    _calls: Calls
    name: str
    _path: str = field(init=False)
    _end: int = 0
    """It was so long, or longer, when it was last heard of."""

    def __attrs_post_init__(self) -> None:
        self._path = f"/v1/logs/{as_name('log', self.name)}"

    # --- writing ---

    async def append(self, data: bytes) -> int:
        """Add a record and return its offset. Cancelled, it may still happen."""
        return await self.append_many([data])

    async def append_many(self, records: Iterable[bytes]) -> int:
        """Add records side by side, all or none, and return the offset of the first.

        Raises:
            InvalidArgumentError: there are none.
            NodeUnreachableError: no answer came in time. Also where the records are there, once,
                but the node was killed before it had noted their offset, and it cannot be found
                since others like them were appended.
        """
        encoded = [encode_bytes(record, SIZE_BYTES_MAX) for record in records]
        if not encoded:
            raise InvalidArgumentError("there is no record to append")
        end = self._end
        body = {"records": encoded}
        answer = value_of(await self._calls.write("POST", f"{self._path}/records", body=body))
        first: int | None = answer["first_offset"]
        if first is None:
            return await self._find(encoded, end)
        self._end = max(self._end, answer["next_offset"])
        return first

    async def truncate_before(self, offset: int) -> int:
        """Drop the records below ``offset``; return the log's first offset afterwards.

        Raises:
            OffsetOutOfRangeError: ``offset`` is beyond the end of the log; nothing was changed.
        """
        body = {"before": checked_offset(offset, "offset")}
        try:
            answer = await self._calls.write("POST", f"{self._path}/truncate", body=body)
        except OffsetOutOfRangeError as error:
            raise OffsetOutOfRangeError(self.name, offset, error.next_offset) from None
        first: int = value_of(answer)["first_offset"]
        return first

    async def delete(self) -> int:
        """Remove the log as if it had never been written; return how many records it held.
        `mpreg.persistence.LogStore.delete`."""
        held: int = value_of(await self._calls.write("DELETE", self._path))["deleted"]
        self._end = 0
        return held

    # --- reading ---

    def read_range(self, start: int = 0, stop: int | None = None) -> AsyncIterator[LogRecord]:
        """The records with ``start <= offset < stop``, in order; those that are there.

        ``stop=None`` is the end of the log as it is when reading begins. Read page by page;
        stopping early costs nothing. A damaged record raises `CorruptDataError`, after all that are
        before it.
        """
        checked_offset(start, "start")
        if stop is not None:
            checked_offset(stop, "stop")
        return _Range(self, start, stop)

    def follow(self, start: int | None = None) -> RemoteLogFollow:
        """The records from ``start`` on, those that are there and then those that come, for ever,
        also over restarts of the node: ``async with log.follow(0) as records``.

        As `mpreg.persistence.LogStore.follow`: ``start`` None is the end of the log when the block
        is entered, and `OffsetOutOfRangeError` tells of one beyond it.
        """
        if start is not None:
            checked_offset(start, "start")
        return RemoteLogFollow(self._calls, self.name, self._path, self.next_offset, start)

    async def first_offset(self) -> int:
        """The lowest offset that can still be read; the next offset where the log is empty."""
        return (await self.bounds())[0]

    async def next_offset(self) -> int:
        """The offset that the next record will get."""
        return (await self.bounds())[1]

    async def bounds(self) -> tuple[int, int]:
        """``first_offset`` and ``next_offset``, both at one moment."""
        found = value_of(await self._calls.read(self._path))
        self._end = found["next_offset"]
        return found["first_offset"], found["next_offset"]

    async def _read_page(self, start: int, stop: int) -> tuple[list[LogRecord], int | None]:
        params = {"start": str(start), "stop": str(stop), "limit": str(READ_RECORDS)}
        try:
            page = value_of(await self._calls.read(f"{self._path}/records", params=params))
        except CorruptDataError as error:
            raise corrupt(self.name, start, error) from error
        return [LogRecord(**record) for record in page["records"]], page["next"]

    async def _find(self, records: list[bytes], start: int) -> int:
        """They were appended behind ``start``, once; the node has forgotten where."""
        last: deque[bytes] = deque(maxlen=len(records))
        found: list[int] = []
        async for record in self.read_range(start):
            last.append(record.data)
            if list(last) == records:
                found.append(record.offset - len(records) + 1)
        if len(found) != 1:
            raise NodeUnreachableError(
                f"log {self.name!r}: the records were appended, once, but the node was killed "
                f"before it had noted where, and there are {len(found)} such from offset {start}",
                True,
            )
        return found[0]

    def __repr__(self) -> str:
        return f"<RemoteLogStore {self.name!r}>"


@define(eq=False)
class _Range:
    _log: RemoteLogStore
    _next: int | None
    _stop: int | None
    _page: deque[LogRecord] = field(factory=deque)

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord:
        if self._stop is None:
            self._stop = await self._log.next_offset()
        while not self._page:
            if self._next is None or self._next >= self._stop:
                raise StopAsyncIteration
            records, self._next = await self._log._read_page(self._next, self._stop)
            self._page.extend(records)
        return self._page.popleft()

"""A body that is sent in pieces, and from its beginning again where the node went away."""

from __future__ import annotations

import math
import os
import sys
import tempfile
from collections.abc import AsyncIterable, AsyncIterator
from typing import IO, Final, Self

import anyio
import httpx
from anyio import to_thread
from anyio.lowlevel import checkpoint_if_cancelled
from attrs import define, field

from mpreg.codec import encode_bytes

__all__ = ["PIECE_BYTES", "Upload"]

#: Sent at once, and held in memory of what an iterable gives.
PIECE_BYTES: Final = 256 << 10


@define(eq=False)
class Upload:
    """What is given is bytes, which are there to be sent again, or an iterable, which gives them
    once: what it gave is kept in a temporary file, as far as that is no more than ``kept_max``.

    Used as ``async with``.
    """

    _data: bytes | None
    """None: they come from the source."""
    _source: AsyncIterator[bytes] | None
    _kept_max: int
    failure: BaseException | None = None
    """What the source has raised: nothing more comes."""
    furthest: int = 0
    """Bytes that were taken by the attempt that came furthest."""
    was_sent: bool = False
    """Whether some attempt may have sent all of it: what became of that may be unknown."""
    _file: IO[bytes] | None = None
    _tail: bytearray = field(factory=bytearray)
    """The last bytes of the source, which are not in the file."""
    _tail_at: int = 0
    _keeps: bool = True
    _has_ended: bool = False

    @classmethod
    def of(cls, data: bytes | AsyncIterable[bytes], kept_max: int) -> Self:
        if isinstance(data, bytes):
            return cls(data, None, kept_max)
        return cls(None, aiter(data), kept_max)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._keep_no_more()

    @property
    def headers(self) -> dict[str, str]:
        if self._data is None:
            return {"transfer-encoding": "chunked"}
        return {"content-length": str(len(self._data))}

    @property
    def may_begin_again(self) -> bool:
        """Whether all that came from the source is still there."""
        return self._keeps or not self._tail_at

    def attempt(self, scope: anyio.CancelScope, seconds: float) -> httpx.AsyncByteStream:
        """All of it, for one attempt. Its ``scope`` has ``seconds`` for each piece to be taken, and
        behind the last one for the answer; the source may take any time."""
        self._has_given(0)
        return _Attempt(self, scope, seconds)

    async def next(self, offset: int) -> bytes:
        """Empty: that was all. Raises what the source raises."""
        self.furthest = max(self.furthest, offset)
        if self._data is not None:
            piece = self._data[offset : offset + PIECE_BYTES]
            self._has_given(offset + len(piece))
            return piece
        if offset < self._tail_at:
            size = min(PIECE_BYTES, self._tail_at - offset)
            return await to_thread.run_sync(_read, self._file, offset, size)
        while offset == self._tail_at + len(self._tail) and not self._has_ended:
            await self._take()
        begin = offset - self._tail_at
        return bytes(self._tail[begin : begin + PIECE_BYTES])

    def _has_given(self, end: int) -> None:
        """Of bytes. Where the length was announced, the last one is the end: it may have come there
        also where sending it broke off."""
        self.was_sent |= self._data is not None and end == len(self._data)

    async def _take(self) -> None:
        assert self._source is not None
        if len(self._tail) >= PIECE_BYTES:
            await self._put_away()
        try:
            self._tail += encode_bytes(await anext(self._source), sys.maxsize)
        except StopAsyncIteration:
            self._has_ended = True
        except BaseException as error:
            self.failure = error
            raise

    async def _put_away(self) -> None:
        """All that is held was sent once."""
        end = self._tail_at + len(self._tail)
        if self._keeps:
            try:
                if end > self._kept_max:
                    await self._keep_no_more()
                else:
                    write = to_thread.run_sync(_write, self._file, self._tail_at, self._tail)
                    self._file = await write
            except OSError:
                # There is no room for it. It is sent all the same, only not a second time.
                await self._keep_no_more()
        self._tail_at = end
        self._tail.clear()

    async def _keep_no_more(self) -> None:
        self._keeps = False
        if self._file is not None:
            file, self._file = self._file, None
            with anyio.CancelScope(shield=True):
                await to_thread.run_sync(file.close)


def _write(file: IO[bytes] | None, offset: int, data: bytearray) -> IO[bytes]:
    file = tempfile.TemporaryFile(buffering=0) if file is None else file  # noqa: SIM115
    left = memoryview(bytes(data))
    while left:
        written = os.pwrite(file.fileno(), left, offset)
        left, offset = left[written:], offset + written
    return file


def _read(file: IO[bytes] | None, offset: int, size: int) -> bytes:
    assert file is not None
    return os.pread(file.fileno(), size, offset)


@define(eq=False)
class _Attempt(httpx.AsyncByteStream, AsyncIterator[bytes]):
    """An iterator that needs no end: a generator would be left where a connection breaks."""

    _upload: Upload
    _scope: anyio.CancelScope
    _seconds: float
    _offset: int = 0

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        self._scope.deadline = math.inf
        # Where that came too late, the source is not asked: cancelled, it would have ended.
        await checkpoint_if_cancelled()
        piece = await self._upload.next(self._offset)
        self._scope.deadline = anyio.current_time() + self._seconds
        if not piece:
            self._upload.was_sent = True
            raise StopAsyncIteration
        self._offset += len(piece)
        return piece

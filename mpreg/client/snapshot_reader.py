"""One version of a snapshot of a node, read in pieces over all connections that this takes."""

from __future__ import annotations

import zlib
from contextlib import suppress
from typing import Self

from attrs import define

from mpreg.client.calls import Calls, Tries
from mpreg.client.streams import Stream
from mpreg.errors import (
    CorruptDataError,
    InvalidArgumentError,
    NodeUnreachableError,
    SnapshotNotFoundError,
)

__all__ = ["RemoteSnapshotReader", "corrupt"]


@define(eq=False, repr=False)
class RemoteSnapshotReader:
    """One version, open to be read once: an async iterator of bytes. Made by
    `RemoteSnapshotStore.open`.

    Where the connection is lost it goes on behind the last byte, of the same version, also at a
    node that was started again. For one task; cancelled between two pieces, it can go on.
    """

    version: int
    size_bytes: int
    """Of the whole."""
    saved_at: float
    """Wall clock, in seconds."""
    _checksum: int
    """CRC-32 of the whole, as it was saved."""
    _calls: Calls
    _name: str
    _path: str
    _stream: Stream | None
    _tries: Tries
    _given: int = 0
    _found: int = 0
    """The checksum of what was given."""
    _skipped: int = 0
    """Bytes to come that were given before."""
    _failure: Exception | None = None
    _closed: bool = False

    @classmethod
    def of(cls, stream: Stream, calls: Calls, name: str, path: str) -> Self:
        headers = stream.answer.headers
        return cls(
            version=int(headers["etag"].strip('"')),
            size_bytes=int(headers["x-mpreg-size"]),
            saved_at=float(headers["x-mpreg-saved-at"]),
            checksum=int(headers["x-mpreg-crc32"], 16),
            calls=calls,
            name=name,
            path=path,
            stream=stream,
            tries=calls.new_tries(),
        )

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> bytes:
        """The next piece.

        Raises:
            StopAsyncIteration: that was all, and the whole matches its checksum.
            CorruptDataError: the next piece is damaged at the node, or the whole is not what was
                saved. Asked again, it says so again.
            SnapshotNotFoundError: the connection was lost, and the version is not kept any more.
            NodeUnreachableError: the node was away for longer than the client is patient. It may be
                gone on with.
            InvalidArgumentError: after the end of its block.
        """
        if self._closed:
            raise InvalidArgumentError("the snapshot was closed at the end of its block")
        if self._failure is not None:
            raise self._failure.with_traceback(None)
        if self._given >= self.size_bytes:
            self._check_whole()
            await self._end()
            raise StopAsyncIteration
        try:
            return await self._next()
        except CorruptDataError as damage:
            self._failure = damage
            raise

    async def _next(self) -> bytes:
        while True:
            stream = self._stream or await self._resume()
            try:
                piece = await stream.next()
                if not piece:
                    raise NodeUnreachableError("the connection was lost: it ended early", False)
            except NodeUnreachableError as lost:
                await self._leave()
                await self._tries.pause(lost)
            except BaseException:
                await self._leave()
                raise
            else:
                skipped = min(self._skipped, len(piece))
                self._skipped -= skipped
                if piece := piece[skipped:]:
                    self._tries.got_further()
                    self._given += len(piece)
                    self._found = zlib.crc32(piece, self._found)
                    return piece

    async def _resume(self) -> Stream:
        headers = {"range": f"bytes={self._given}-", "if-range": f'"{self.version}"'}
        try:
            stream = await self._calls.stream(self._path, {"version": str(self.version)}, headers)
        except SnapshotNotFoundError:
            raise SnapshotNotFoundError(self._name, self.version) from None
        except CorruptDataError as error:
            raise corrupt(self._name, self.version, error.message) from error
        self._stream = stream
        # What stands between need not know of parts, and gives all of it then.
        self._skipped = 0 if stream.answer.status_code == 206 else self._given
        return stream

    async def _end(self) -> None:
        """Its connection can be used again where its end was heard."""
        if self._stream is not None:
            with suppress(NodeUnreachableError):
                await self._stream.next()
            await self._leave()

    def _check_whole(self) -> None:
        if self._found != self._checksum:
            message = "what has come does not match the checksum of the whole"
            self._failure = corrupt(self._name, self.version, message)
            raise self._failure

    async def _close(self) -> None:
        self._closed = True
        await self._leave()

    async def _leave(self) -> None:
        if self._stream is not None:
            stream, self._stream = self._stream, None
            await stream.leave()

    def __repr__(self) -> str:
        return f"<RemoteSnapshotReader of {self._name!r}, version {self.version}>"


def corrupt(name: str, version: int | None, message: str) -> CorruptDataError:
    which = "" if version is None else f", version {version}"
    return CorruptDataError(message, where=f"snapshot {name!r}{which}")

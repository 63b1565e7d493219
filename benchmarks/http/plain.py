"""HTTP/1.1 as cheap as it can be had in Python: one connection, one request after the other."""

from __future__ import annotations

import asyncio
import itertools
import os
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec
from attrs import define, field

_MEDIA_TYPE: Final = "application/msgpack"


@define(eq=False)
class PlainConnection:
    """A connection of its own."""

    _reader: asyncio.StreamReader
    _writer: asyncio.StreamWriter
    _keys: Iterator[int] = field(factory=itertools.count)
    _prefix: str = field(factory=lambda: os.urandom(8).hex())

    @classmethod
    @asynccontextmanager
    async def open(cls, port: int) -> AsyncIterator[PlainConnection]:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        yield cls(reader, writer)
        writer.close()

    async def post(self, path: str, body: bytes, *, is_keyed: bool = False) -> Any:
        """The body of the answer, which is a success."""
        key = f"idempotency-key: {self._prefix}{next(self._keys):016x}\r\n" if is_keyed else ""
        self._writer.write(
            f"POST {path} HTTP/1.1\r\nhost: 127.0.0.1\r\naccept: {_MEDIA_TYPE}\r\n"
            f"content-type: {_MEDIA_TYPE}\r\ncontent-length: {len(body)}\r\n{key}\r\n".encode()
            + body
        )
        head = (await self._reader.readuntil(b"\r\n\r\n")).lower()
        _, _, rest = head.partition(b"content-length:")
        answer = await self._reader.readexactly(int(rest.partition(b"\r\n")[0]))
        assert head.split(b" ", 2)[1] in (b"200", b"201"), head + answer
        return msgspec.msgpack.decode(answer)

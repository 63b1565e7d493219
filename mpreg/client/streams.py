"""An answer that is read as it comes, and left anywhere in the middle."""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import suppress
from typing import Any, Final

import anyio
import httpx
import msgspec
from attrs import define, field, frozen

from mpreg.errors import NodeUnreachableError

__all__ = ["Event", "Events", "Stream"]

#: A node says something every 15 seconds.
SILENCE_SECONDS_MAX: Final = 45.0


@define(eq=False)
class Stream:
    """By whatever task wants the next part; one at a time."""

    answer: httpx.Response
    _parts: AsyncIterator[bytes]

    @classmethod
    def of(cls, answer: httpx.Response) -> Stream:
        return cls(answer, answer.aiter_bytes())

    async def next(self) -> bytes:
        """The next part; empty: it has ended.

        Cancelled, the stream is over.

        Raises:
            NodeUnreachableError: it was cut, or nothing has come for too long.
        """
        with anyio.move_on_after(SILENCE_SECONDS_MAX):
            try:
                return await anext(self._parts, b"")
            except (httpx.TransportError, httpx.StreamError) as error:
                raise NodeUnreachableError(f"the connection was lost: {error!r}", False) from error
        raise NodeUnreachableError("the node has fallen silent", False)

    async def leave(self) -> None:
        """Close its connection, unless it is over."""
        with anyio.CancelScope(shield=True):
            # Inside of the wait for the next part all generators of httpx end; left anywhere else,
            # they would be closed later by nobody knows whom, which trio complains of.
            with anyio.CancelScope() as scope, suppress(httpx.TransportError, httpx.StreamError):
                scope.cancel()
                async for _ in self._parts:
                    pass
            await self.answer.aclose()


@frozen
class Event:
    """One server-sent event of a node."""

    kind: str
    data: Any


@define(eq=False)
class Events:
    """Those of a stream."""

    stream: Stream
    _whole: deque[bytes] = field(factory=deque)
    _begun: list[bytes] = field(factory=list)
    """Of a line whose end has not come."""
    _kind: str = ""

    async def next(self) -> Event | None:
        """None: nothing has happened, as the node says at the beginning and then from time to time.

        Raises:
            NodeUnreachableError: the stream has ended, was cut, or has fallen silent.
        """
        while True:
            line = await self._next_line()
            name, _, text = line.partition(b": ")
            if line[:1] == b":":
                return None
            if name == b"event":
                self._kind = text.decode()
            elif name == b"data":
                return Event(self._kind, msgspec.json.decode(text))

    async def _next_line(self) -> bytes:
        """Ended by line feeds alone: texts may have what else ends a line of `str`."""
        while not self._whole:
            part = await self.stream.next()
            if not part:
                raise NodeUnreachableError("the node has ended the stream: it stops", False)
            head, *others = part.split(b"\n")
            self._begun.append(head)
            if others:
                *whole, rest = others
                self._whole += [b"".join(self._begun), *whole]
                self._begun = [rest]
        return self._whole.popleft()

"""The connections of a client: as many as it has requests at once."""

from __future__ import annotations

import ssl
from collections import deque
from collections.abc import AsyncIterator
from typing import Final

import anyio
import httpx
from attrs import define, field

__all__ = ["Connections"]

#: A connection that was idle for so long is closed when another one becomes idle.
IDLE_SECONDS_MAX: Final = 5.0


@define(eq=False)
class Connections(httpx.AsyncBaseTransport):
    """Each request has a connection to itself: of those that are idle, the one used last.

    A pool of httpx looks through all that it has for each request, and through all again for each
    idle one: with sixty-four requests at once that takes longer than the requests. So here each
    connection is a pool of one, and the idle ones are a stack.
    """

    _tls: ssl.SSLContext
    _idle_seconds_max: float = IDLE_SECONDS_MAX
    _all: set[httpx.AsyncHTTPTransport] = field(factory=set)
    _idle: deque[tuple[httpx.AsyncHTTPTransport, float]] = field(factory=deque)
    """With the time since when; the longest first."""

    @classmethod
    def of(cls, verify: ssl.SSLContext | bool) -> Connections:
        return cls(httpx.create_ssl_context(verify=verify, trust_env=False))

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        connection = self._idle.pop()[0] if self._idle else self._make()
        try:
            answer = await connection.handle_async_request(request)
        except BaseException:
            # What broke is closed; the next request opens it anew.
            self._idle.append((connection, anyio.current_time()))
            raise
        assert isinstance(answer.stream, httpx.AsyncByteStream)
        answer.stream = _Answer(answer.stream, connection, self)
        return answer

    async def give_back(self, connection: httpx.AsyncHTTPTransport) -> None:
        """It has no request any more."""
        now = anyio.current_time()
        self._idle.append((connection, now))
        old: list[httpx.AsyncHTTPTransport] = []
        # All of them before the first is closed: meanwhile others take from here.
        while self._idle[0][1] + self._idle_seconds_max < now:
            old.append(self._idle.popleft()[0])
        for one in old:
            self._all.discard(one)
            await one.aclose()

    async def aclose(self) -> None:
        """Close all, also those in use."""
        self._idle.clear()
        while self._all:
            await self._all.pop().aclose()

    def _make(self) -> httpx.AsyncHTTPTransport:
        limits = httpx.Limits(keepalive_expiry=self._idle_seconds_max)
        connection = httpx.AsyncHTTPTransport(self._tls, trust_env=False, limits=limits)
        self._all.add(connection)
        return connection


@define(eq=False)
class _Answer(httpx.AsyncByteStream):
    """The body of an answer, whose connection is free when it is closed."""

    _body: httpx.AsyncByteStream
    _connection: httpx.AsyncHTTPTransport
    _connections: Connections
    _is_closed: bool = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._body.__aiter__()

    async def aclose(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        with anyio.CancelScope(shield=True):
            try:
                await self._body.aclose()
            finally:
                await self._connections.give_back(self._connection)

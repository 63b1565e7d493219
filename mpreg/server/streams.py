"""Requests that last: a wait with its client, and a stream of events to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar

import anyio
from attrs import define, field, frozen
from starlette.types import Receive, Scope, Send

from mpreg.errors import MpregError
from mpreg.persistence.engine import collapsed_groups
from mpreg.server.negotiation import JSON, encode
from mpreg.server.problems import problem_of
from mpreg.server.state import NodeState

__all__ = ["Download", "Event", "EventStream", "Opened", "wait_with_client"]

T = TypeVar("T")

#: Proxies give up on a connection that is silent for a minute, and a client wants to know.
HEARTBEAT_SECONDS: Final = 15.0


async def wait_with_client(
    state: NodeState, receive: Receive, work: Callable[[], Awaitable[T]]
) -> T | None:
    """What ``work`` comes to, as long as somebody wants to know; None where its client has gone,
    or the node begins to stop: it is cancelled then.

    Raises:
        TooManyRequestsError: as many wait as may.
    """
    found: T | None = None
    with collapsed_groups(), state.wait() as scope:
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(_cancel_when_gone, receive, scope)
            found = await work()
            task_group.cancel_scope.cancel()
    return found


async def _cancel_when_gone(receive: Receive, scope: anyio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()


@frozen
class Opened:
    """What is sent in pieces, and the head of it."""

    status: int
    headers: Mapping[str, str]
    """With the ``Content-Length`` of the pieces: where fewer come, it tells the client so."""
    pieces: AsyncIterator[bytes] | None


@frozen
class Download:
    """An answer of many pieces, sent as fast as its client takes them; for ``HEAD`` only its head.

    It ends when its client has gone; where the node stops, it has the grace time. What opening
    raises is told as of every request; what a piece raises cuts the connection.
    """

    opened: Callable[[], AbstractAsyncContextManager[Opened]]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with collapsed_groups():
            async with self.opened() as found, anyio.create_task_group() as task_group:
                task_group.start_soon(_cancel_when_gone, receive, task_group.cancel_scope)
                raw = [(name.encode(), value.encode()) for name, value in found.headers.items()]
                await send({"type": "http.response.start", "status": found.status, "headers": raw})
                if found.pieces is not None and scope["method"] != "HEAD":
                    async for piece in found.pieces:
                        await _send(send, piece)
                await send({"type": "http.response.body", "body": b"", "more_body": False})
                task_group.cancel_scope.cancel()


@frozen(kw_only=True)
class Event:
    """One of a stream."""

    data: Any
    id: str | None = None
    kind: str | None = None

    def encoded(self) -> bytes:
        """As server-sent events have it; JSON has no line breaks."""
        lines = [] if self.kind is None else [f"event: {self.kind}"]
        if self.id is not None:
            lines.append(f"id: {self.id}")
        head = "".join(f"{line}\n" for line in lines).encode()
        return head + b"data: " + encode(self.data, JSON) + b"\n\n"


_END: Final = Event(data=None)


@define(eq=False)
class EventStream:
    """An answer without end: what ``events`` gives, and a comment whenever nothing comes.

    It ends when its client has gone, when the node begins to stop, or with an event ``error``.
    ``events`` gives a block with an iterator, whose ``__anext__`` may be cancelled without missing
    anything.
    """

    state: NodeState
    events: Callable[[], AbstractAsyncContextManager[AsyncIterator[Event]]]
    headers: Mapping[str, str] = field(factory=dict)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = {"content-type": "text/event-stream; charset=utf-8", **self.headers}
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if scope["method"] == "HEAD":
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            await send({"type": "http.response.body", "body": b""})
            return
        with collapsed_groups(), self.state.wait() as ending:
            await send({"type": "http.response.start", "status": 200, "headers": raw})
            async with anyio.create_task_group() as task_group:
                task_group.start_soon(_cancel_when_gone, receive, ending)
                await self._send_all(send)
                task_group.cancel_scope.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _send_all(self, send: Send) -> None:
        try:
            async with self.events() as events:
                # Something at once, so that the client knows that it misses nothing from here on.
                await _send(send, b": mpreg\n\n")
                await _send_each(events, send)
        except MpregError as error:
            await _send(send, Event(kind="error", data=problem_of(error).value).encoded())


async def _send_each(events: AsyncIterator[Event], send: Send) -> None:
    while True:
        event: Event | None = None
        with anyio.move_on_after(HEARTBEAT_SECONDS):
            event = await anext(events, _END)
        if event is _END:
            return
        await _send(send, b":\n\n" if event is None else event.encoded())


async def _send(send: Send, data: bytes) -> None:
    await send({"type": "http.response.body", "body": data, "more_body": True})

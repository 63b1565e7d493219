"""One request, as a route sees it; and what a route is."""

from __future__ import annotations

import inspect
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import aclosing
from typing import Any, Final, TypeAlias, TypeVar

import anyio
from attrs import define, field, frozen
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Receive

from mpreg.errors import InvalidArgumentError, MpregError, RequestRefusedError
from mpreg.persistence import Transaction
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.idempotency import Claim
from mpreg.server.limits import Pace, read_body
from mpreg.server.names import checked_name
from mpreg.server.negotiation import as_type, decode, media_type
from mpreg.server.state import NodeState
from mpreg.server.streams import wait_with_client

__all__ = ["Call", "Effect", "Endpoint", "Handler", "pace_of", "receive_body"]

T = TypeVar("T")

#: A body that does not come on for so long is not waited for, nor one that is late by so much.
BODY_SECONDS_MAX: Final = 30.0

#: What a flag of a query may have as its value, or not be there.
_SET: Final = ("", "true", "1")
_UNSET: Final = (None, "false", "0")

Effect: TypeAlias = Callable[[Transaction | None], Awaitable[Answer]]


def pace_of(state: NodeState) -> Pace:
    """How fast the body of a new request has to come."""
    return Pace(state.settings.server.body_bytes_per_second_min, BODY_SECONDS_MAX)


async def receive_body(receive: Receive, pace: Pace) -> tuple[bytes, bool]:
    """The next piece of a body, and whether there is more. Only the wait for its client counts, not
    what is done with what has come.

    Raises:
        RequestRefusedError: it does not come on, or too slowly.
        ClientDisconnect: its client has gone.
    """
    began = anyio.current_time()
    with anyio.move_on_after(pace.seconds_left) as scope:
        message = await receive()
    if scope.cancelled_caught:
        raise RequestRefusedError(
            f"the body does not come on, or with less than {pace.rate:g} bytes a second "
            "(body_bytes_per_second_min)",
            408,
        )
    if message["type"] == "http.disconnect":
        raise ClientDisconnect
    piece: bytes = message.get("body", b"")
    pace.came(len(piece), anyio.current_time() - began)
    return piece, message.get("more_body", False)


@define(eq=False)
class Call:
    """One request that may be made: its sender is known, and the node is ready for it."""

    state: NodeState
    request: Request
    role: Role
    endpoints: tuple[Endpoint, ...]
    """All that may be asked of this node."""
    claim: Claim | None = None
    """Where it came with an ``Idempotency-Key``."""
    _body: bytes | None = None

    # --- what was asked ---

    def name(self, what: str) -> str:
        """The part of the path of this name. Raises `InvalidArgumentError`."""
        return checked_name(what, self.request.path_params[what])

    def query(self, name: str) -> str | None:
        return self.request.query_params.get(name)

    def number(self, name: str, default: int, *, minimum: int = 0, maximum: int) -> int:
        """A whole number of the query; above ``maximum`` it is that. Raises
        `InvalidArgumentError`."""
        text = self.query(name)
        if text is None:
            return default
        if not text.isdecimal() or not text.isascii() or len(text) > 20 or int(text) < minimum:
            raise InvalidArgumentError(f"{name} is a whole number from {minimum}, not {text!r:.80}")
        return min(int(text), maximum)

    def seconds(self, name: str) -> float | None:
        """A number of the query. Raises `InvalidArgumentError`."""
        text = self.query(name)
        try:
            return None if text is None else float(text)
        except ValueError:
            raise InvalidArgumentError(f"{name} is a number, not {text!r:.80}") from None

    def flag(self, name: str) -> bool:
        """Whether the query has it: alone, or with a value that says so. Raises
        `InvalidArgumentError`."""
        text = self.query(name)
        if text in _UNSET:
            return False
        if text not in _SET:
            raise InvalidArgumentError(
                f"{name} is true, 1, false, 0, or stands alone, which is true; not {text!r:.80}"
            )
        return True

    async def body(self) -> bytes:
        """All of it, as it came.

        Raises:
            ValueTooLargeError: it is over ``body_bytes_max``.
            RequestRefusedError: it does not come, or too slowly.
        """
        if self._body is None:
            limit = self.state.settings.server.body_bytes_max
            announced = self.request.headers.get("content-length")
            async with aclosing(self.chunks()) as chunks:
                self._body = await read_body(chunks, limit, announced)
        return self._body

    async def chunks(self) -> AsyncGenerator[bytes, None]:
        """The body, as it comes: for what is larger than memory. To be closed (`aclosing`).

        Raises:
            RequestRefusedError: it does not come on, or too slowly.
            ClientDisconnect: its client has gone.
        """
        pace, is_more = pace_of(self.state), True
        while is_more:
            chunk, is_more = await receive_body(self.request.receive, pace)
            if chunk:
                yield chunk

    @property
    def is_structured(self) -> bool:
        """Whether the body says that it is JSON or MessagePack."""
        kind = media_type(self.request.headers.get("content-type", ""))
        return kind in ("application/json", "application/msgpack")

    async def read(self, kind: type[T]) -> T:
        """The body, as JSON or MessagePack, in this shape. An empty one is an empty object.

        Raises:
            InvalidArgumentError: it has another shape.
            RequestRefusedError: it is neither of the two.
        """
        body = await self.body()
        value: Any = {}
        if body:
            value = decode(body, self.request.headers.get("content-type"))
        return as_type(value, kind)

    # --- what is done ---

    async def write(self, effect: Effect, *, is_one: bool = True) -> Answer:
        """Make a write that takes a transaction, together with its answer where that is kept.

        ``is_one``: without a transaction of its own it is still one write, and needs none.
        """
        if self.claim is None and is_one:
            return await effect(None)
        async with self.state.registry.transaction() as transaction:
            answer = await effect(transaction)
            if self.claim is not None:
                self.claim.keep(answer, transaction)
        return answer

    async def write_once(self, effect: Callable[[], Awaitable[Answer]]) -> Answer:
        """Make a write that takes no transaction and would be another one if it was made again:
        with a key it is begun once at most."""
        if self.claim is None:
            return await effect()
        await self.claim.begin()
        try:
            return await effect()
        except MpregError as error:
            if error.data_state != "unknown":
                await self.claim.withdraw()
            raise

    async def drain(self) -> None:
        """Take the body, and drop it."""
        async with aclosing(self.chunks()) as chunks:
            async for _ in chunks:
                pass

    async def wait(self, work: Callable[[], Awaitable[T]]) -> T | None:
        """`wait_with_client`: None also where the node begins to stop."""
        await self.body()
        return await wait_with_client(self.state, self.request.receive, work)


Handler: TypeAlias = Callable[[Call], Awaitable[Answer | ASGIApp]]


@frozen(kw_only=True)
class Endpoint:
    """One route: what it is called by, who may, and what it does."""

    method: str
    path: str
    """As Starlette has it, ``{queue}`` for a part."""
    handler: Handler = field(repr=False)
    role: Role | None
    """Who may call it at least; None: whoever can reach the node, also before it is ready."""
    summary: str
    """One line, for the documentation."""
    takes_key: bool = False
    """Whether an ``Idempotency-Key`` means something. Its body is read before it is called, unless
    it streams."""
    streams_body: bool = False
    """Its body may be larger than memory."""
    makes_queue: bool = False
    """It makes the queue of its path where there is none."""
    waits: bool = False
    """It may wait for something to happen. Forwarded, it ends when the node begins to stop."""

    @property
    def name(self) -> str:
        """Names the operation."""
        return self.handler.__name__

    @property
    def is_of_queue(self) -> bool:
        """Whether it is about one queue, which may be at another node."""
        return "{queue}" in self.path

    @property
    def description(self) -> str:
        return inspect.getdoc(self.handler) or self.summary

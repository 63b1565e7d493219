"""The ASGI application: from a request to the route that answers it, and from an error to what is
told of it.

What every request passes, from outside to inside: security headers, the rate of its address, its
path, the phase of the node, the route, the token, the ``Idempotency-Key``, the handler.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from typing import Final

import anyio
from attrs import define, field
from starlette.datastructures import Headers
from starlette.requests import ClientDisconnect, Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from mpreg.errors import (
    CommitUnknownError,
    ForwardingLoopError,
    MpregError,
    NodeUnreachableError,
    RequestRefusedError,
    UnexpectedError,
)
from mpreg.server.answers import BODY_FOLLOWS, Answer
from mpreg.server.auth import Role, check, lowered
from mpreg.server.calls import Call, Endpoint
from mpreg.server.forwarding import INCARNATION, ROLE, TO, elsewhere, is_here
from mpreg.server.idempotency import IdempotencyKeys, fingerprint
from mpreg.server.names import check_query, checked_path
from mpreg.server.negotiation import JSON, accepted, encode
from mpreg.server.observing import NO_ANSWER, observed
from mpreg.server.problems import problem_of, unexpected
from mpreg.server.routes import ENDPOINTS
from mpreg.server.routing import Router
from mpreg.server.state import NodeState

__all__ = ["SECURITY_HEADERS", "App"]

log = logging.getLogger("mpreg.server")

#: What a browser may do with an answer: nothing, unless the answer itself says otherwise.
SECURITY_HEADERS: Final[Mapping[str, str]] = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cross-origin-resource-policy": "same-origin",
    "cache-control": "no-store",
}

HTTP_VERSIONS: Final = ("1.0", "1.1")

#: All answers have it: so a client knows that it was a node that answered. Its value changes where
#: an older client would take an answer for something else.
API_HEADER: Final = ("x-mpreg-api", "1")

_GIVEN_TO_ALL: Final = [
    (name.encode(), value.encode()) for name, value in (API_HEADER, *SECURITY_HEADERS.items())
]

_INCARNATION: Final = INCARNATION.encode()

#: A client that goes on sending a body that was refused is listened to for so long, so that it can
#: read why.
LINGER_SECONDS: Final = 2.0


@define(eq=False)
class App:
    """Of one node."""

    state: NodeState
    endpoints: tuple[Endpoint, ...] = ENDPOINTS
    _router: Router = field(init=False)
    _given: list[tuple[bytes, bytes]] = field(factory=lambda: list(_GIVEN_TO_ALL))
    """The headers of all answers."""
    _keys: IdempotencyKeys = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._router = Router.of(self.endpoints)
        window = self.state.settings.server.idempotency_window_seconds
        self._keys = IdempotencyKeys.of(self.state.registry, window)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await _refuse_other(scope, receive, send)
            return
        self._learn_incarnation()
        exchange = _Exchange(receive, send, scope.get("state", {}).get(BODY_FOLLOWS), self._given)
        with observed(self.state, scope, exchange), self.state.request() as under_way:
            try:
                answer = await self._answer(scope, exchange)
                if isinstance(answer, Answer):
                    await exchange.answer(answer, accepted(Headers(scope=scope).get("accept")))
                else:
                    await answer(scope, exchange.receive, exchange.send)
            except ClientDisconnect:
                # Nobody is there to be told.
                return
            except MpregError as error:
                await self._tell(error, exchange)
            except Exception as error:  # noqa: BLE001
                await self._tell_unexpected(error, scope, exchange)
        if under_way.cancelled_caught and not exchange.has_begun:
            exchange.lingers = False
            # It may be on its way to the disk, and is not waited for any more.
            cut_short = CommitUnknownError("the node has stopped while this was under way")
            with anyio.move_on_after(LINGER_SECONDS):
                await exchange.answer(problem_of(cut_short), JSON)

    def _learn_incarnation(self) -> None:
        """It is known when the node has restored what it knows of others."""
        fabric = self.state.fabric
        if len(self._given) == len(_GIVEN_TO_ALL) and fabric.is_open:
            value = f"{fabric.identity}-{fabric.incarnation}"
            self._given.append((_INCARNATION, value.encode()))

    async def _answer(self, scope: Scope, exchange: _Exchange) -> Answer | ASGIApp:
        state = self.state
        if {b"content-length", b"transfer-encoding"} <= {name for name, _ in scope["headers"]}:
            # Whoever stands between may have taken the other one for the end of its body.
            exchange.is_last = True
            raise RequestRefusedError("a body has Content-Length or Transfer-Encoding, not both")
        if scope["http_version"] not in HTTP_VERSIONS:
            # What looks like a request is how a client of HTTP/2 begins.
            exchange.is_last = True
            raise RequestRefusedError("this node speaks HTTP/1.1")
        if state.rates is not None and (client := scope.get("client")) is not None:
            state.rates.take(client[0], anyio.current_time())
        raw_path = scope.get("raw_path")
        if raw_path is not None:
            scope["path"] = checked_path(raw_path)
        if query_string := scope["query_string"]:
            check_query(query_string)
        endpoint, scope["path_params"] = self._router.find(scope["method"], scope["path"])
        exchange.route = endpoint.path
        request = Request(scope, exchange.receive)
        if endpoint.role is None:
            return await endpoint.handler(Call(state, request, Role.READ, self.endpoints))
        role = lowered(state.access.role(request.headers), request.headers.get(ROLE))
        check(role, endpoint.role)
        state.check_ready()
        call = Call(state, request, role, self.endpoints)
        key = request.headers.get("idempotency-key") if endpoint.takes_key else None
        if endpoint.is_of_queue and not await self._was_made_here(call, key):
            forward = await elsewhere(call, endpoint)
            if forward is not None:
                return forward
        if key is None:
            return await endpoint.handler(call)
        return await self._answer_once(endpoint, call, key)

    async def _was_made_here(self, call: Call, key: str | None) -> bool:
        """Also where it was the deletion of the queue, which may be elsewhere now."""
        if key is None or TO in call.request.headers:
            return False
        state, queue = self.state, call.name("queue")
        is_known_elsewhere = state.fabric.holder(queue) is not None
        if not is_known_elsewhere and (not state.peers.unheard() or await is_here(state, queue)):
            # It goes nowhere else, and who makes it looks: a disk need not be read twice.
            return False
        return await self._keys.knows(call.role.name, key)

    async def _answer_once(self, endpoint: Endpoint, call: Call, key: str) -> Answer | ASGIApp:
        request = call.request
        # Not of its URL, which leaves out some characters.
        target = request.scope["path"].encode() + b"?" + request.scope["query_string"]
        # A body that is larger than memory is known by its size alone.
        body = request.headers.get("content-length", "").encode()
        if not endpoint.streams_body:
            body = await call.body()
        asked = fingerprint(request.method, target, request.headers, body)
        async with self._keys.claim(call.role.name, key, asked) as claim:
            if (before := await claim.find()) is not None:
                if endpoint.streams_body:
                    # To its end, or the answer would cross with it.
                    await call.drain()
                return before
            call.claim = claim
            answer = await endpoint.handler(call)
            if isinstance(answer, Answer) and answer.status < 300 and not claim.is_kept:
                await claim.keep_alone(answer)
            return answer

    async def _tell(self, error: MpregError, exchange: _Exchange) -> None:
        if exchange.has_begun:
            # The connection is cut, so that nobody takes what was sent for all of it.
            log.error("an answer was cut short: %s: %s", type(error).__name__, error)
            raise error
        answer = problem_of(error)
        # Of other nodes, what forwards to them has told it, once.
        is_of_other = isinstance(error, NodeUnreachableError | ForwardingLoopError)
        if answer.status >= 500 and answer.status != 503 and not is_of_other:
            log.error("%s: %s", type(error).__name__, error)
        await exchange.answer(answer, JSON)

    async def _tell_unexpected(self, error: Exception, scope: Scope, exchange: _Exchange) -> None:
        incident = self.state.make_token()[:12]
        log.error("incident %s: %s %r", incident, scope["method"], scope["path"], exc_info=error)
        if exchange.has_begun:
            # The connection is cut, so that nobody takes what was sent for all of it.
            raise UnexpectedError(incident) from error
        await exchange.answer(unexpected(incident), JSON)


@define(eq=False)
class _Exchange:
    """The two ends of a request, and how far it has come."""

    _receive: Receive
    _send: Send
    _say_body_follows: Callable[[], None] | None
    """To the connection, where it can make use of it."""
    _given: list[tuple[bytes, bytes]]
    """Headers that are not the answer's own."""
    lingers: bool = True
    """Whether a client that still sends is given time to."""
    is_last: bool = False
    """Whether its connection takes no other one."""
    has_begun: bool = False
    """Whether something of the answer was sent."""
    route: str | None = None
    """The pattern that its path was matched by."""
    status: int = NO_ANSWER
    _read: anyio.Event = field(factory=anyio.Event)
    """Set when all of the request has come, or its client has gone."""

    async def receive(self) -> Message:
        message = await self._receive()
        if message["type"] == "http.disconnect" or not message.get("more_body", False):
            self._read.set()
        return message

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.has_begun = True
            self.status = message["status"]
            message = {**message, "headers": self._with_given(message["headers"])}
        is_last = message["type"] == "http.response.body" and not message.get("more_body", False)
        if is_last and not self._read.is_set():
            await self._send_while_listening(message)
        else:
            await self._send(message)

    async def answer(self, answer: Answer, kind: str) -> None:
        headers = dict(answer.headers)
        body = answer.value if answer.is_raw else encode(answer.value, kind)
        headers.setdefault("content-type", kind)
        if answer.status in (204, 304):
            body = b""
            del headers["content-type"]
        headers["content-length"] = str(len(body))
        if self.is_last:
            headers["connection"] = "close"
        raw = [(name.encode(), value.encode()) for name, value in headers.items()]
        if self._read.is_set() and self._say_body_follows is not None:
            self._say_body_follows()
        await self.send({"type": "http.response.start", "status": answer.status, "headers": raw})
        await self.send({"type": "http.response.body", "body": body})

    def _with_given(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        own = {name.lower() for name, _ in headers}
        return [*headers, *(pair for pair in self._given if pair[0] not in own)]

    async def _send_while_listening(self, message: Message) -> None:
        """The end of an answer, where the request has not ended: it has a moment to, since a server
        that hangs up on a client that still sends has its answer lost on the way. What comes
        is taken until the end, or the connection would wait for it for ever."""
        async with anyio.create_task_group() as task_group:
            task_group.start_soon(self._listen)
            with anyio.move_on_after(LINGER_SECONDS if self.lingers else 0.0):
                await self._read.wait()
            await self._send(message)
            task_group.cancel_scope.cancel()

    async def _listen(self) -> None:
        while not self._read.is_set():
            await self.receive()


async def _refuse_other(scope: Scope, receive: Receive, send: Send) -> None:
    """What is no HTTP request: web sockets are closed, and nothing is to be done at the start."""
    if scope["type"] == "websocket":
        await send({"type": "websocket.close", "code": 1008})

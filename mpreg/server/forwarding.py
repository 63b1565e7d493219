"""Requests for a queue that is at another node.

The caller's role is looked at here. The request goes on with the token of the peer, and with the
role of the caller, beyond which it may do nothing there; its ``Idempotency-Key`` counts where the
queue is. The first node chooses where to; the request takes the shortest way there that the
catalogs on it know, each time through a peer of the settings.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final
from urllib.parse import quote

import anyio
import httpx
from attrs import define, field, frozen
from starlette.types import Receive, Scope, Send

from mpreg.errors import (
    ForbiddenError,
    ForwardingLoopError,
    MpregError,
    NotReadyError,
    PeersUnheardError,
    PeerUnreachableError,
    QueueNotFoundError,
    ValueTooLargeError,
)
from mpreg.fabric import HOPS_MAX, Belief
from mpreg.persistence.engine import collapsed_groups
from mpreg.server.calls import Call, Endpoint, pace_of, receive_body
from mpreg.server.limits import Pace
from mpreg.server.peer import Peer
from mpreg.server.peers import NO_BODY, pieces_of
from mpreg.server.seen import long
from mpreg.server.state import NodeState

__all__ = ["Forward", "elsewhere", "is_here"]

log = logging.getLogger("mpreg.server.forwarding")

#: From when a request was sent to when its answer begins, beside what it asked to wait.
ANSWER_SECONDS_MAX: Final = 30.0

#: Names the nodes that a request has come through, by their identities.
PASSED: Final = "x-mpreg-forwarded"
#: The identity of the node that is meant.
TO: Final = "x-mpreg-to"
ROLE: Final = "x-mpreg-role"
ANSWERED_BY: Final = "x-mpreg-node"
#: Of all answers of a node: its identity, and which of its processes has answered.
INCARNATION: Final = "x-mpreg-incarnation"
#: The same: what stands before it has its own.
API_HEADER: Final = "x-mpreg-api"

#: All else is between two neighbours, or about who asks.
REQUEST_HEADERS: Final = frozenset(
    {
        *(b"accept", b"content-type", b"content-length", b"idempotency-key"),
        *(b"if-match", b"if-none-match", b"traceparent", b"tracestate", b"user-agent"),
    }
)
ANSWER_HEADERS: Final = frozenset(
    {
        *(b"content-type", b"content-length", b"etag", b"retry-after", b"allow"),
        *(b"idempotency-replayed", b"x-mpreg-version", ANSWERED_BY.encode()),
        INCARNATION.encode(),
    }
)


async def elsewhere(call: Call, endpoint: Endpoint) -> Forward | None:
    """What asks the node that has the queue of a request; None where it is here, or nowhere.

    Raises:
        InvalidArgumentError: the name is impossible, or ``here`` has another value than it may.
        CorruptDataError: it is here, and damaged.
        PeersUnheardError: it is not here, and a peer that may have it was not heard of yet.
        QueueNotFoundError: the same, and that peer was given up.
        PeerUnreachableError: its node is away.
        ForwardingLoopError: the request was here before, or has come too far.
    """
    state, queue = call.state, call.name("queue")
    forwarded = state.peers.forwarded
    found = state.fabric.holder(queue)
    if (to := call.request.headers.get(TO)) is not None:
        # Chosen before: those on the way may have a queue of that name as well.
        if to == state.fabric.identity:
            return None
        found = state.fabric.catalog.get(to)
        if found is None:
            forwarded["away"] += 1
            raise PeerUnreachableError(
                f"queue {queue!r} is at node {to!r:.80}, of which nothing is known here", False
            )
    elif endpoint.makes_queue and call.flag("here"):
        return None
    elif found is None:
        await _check_heard(state, endpoint, queue)
        return None
    elif await is_here(state, queue):
        return None
    passed = [one for one in call.request.headers.get(PASSED, "").split(",") if one]
    if state.fabric.identity in passed or len(passed) >= HOPS_MAX:
        forwarded["loop"] += 1
        why = (
            f"queue {queue!r} is at node {found.announcement.name!r}, and the request has come "
            f"through {len(passed)} nodes already"
        )
        state.peers.failed(found, why)
        raise ForwardingLoopError(why)
    route = found.route(anyio.current_time())
    if route is None or not state.fabric.is_alive(found):
        forwarded["away"] += 1
        state.peers.failed(found, why := _away(endpoint, queue, found))
        raise PeerUnreachableError(why, False)
    headers = [
        (name, value) for name, value in call.request.scope["headers"] if name in REQUEST_HEADERS
    ]
    headers += [
        (TO.encode(), found.announcement.node.encode()),
        (ROLE.encode(), call.role.name.lower().encode()),
        (PASSED.encode(), ",".join([*passed, state.fabric.identity]).encode()),
        (b"accept-encoding", b"identity"),
    ]
    peer = state.peers.all[route.via]
    target = peer.target(_path(call, endpoint), _query(call))
    return Forward(state, peer, endpoint, found, queue, target, headers)


async def _check_heard(state: NodeState, endpoint: Endpoint, queue: str) -> None:
    """Of a queue that nobody is known to have: whether all were heard who may have it.

    Raises what `elsewhere` raises.
    """
    if (unheard := state.peers.unheard()) is None or await is_here(state, queue):
        return
    if not unheard.is_given_up:
        state.peers.forwarded["unheard"] += 1
        raise PeersUnheardError(f"queue {queue!r} is not at this node, and {unheard.told}")
    if not endpoint.makes_queue:
        raise QueueNotFoundError(f"there is no queue {queue!r} here, and {unheard.told}")
    log.warning(
        "queue %r is made here, though %s: one of them may have a queue of that name as well",
        queue,
        unheard.told,
    )


async def is_here(state: NodeState, queue: str) -> bool:
    """Whether this node has the queue. Raises `CorruptDataError` where it is damaged."""
    try:
        await state.queues.get_queue(queue)
    except QueueNotFoundError:
        return False
    return True


def _away(endpoint: Endpoint, queue: str, found: Belief) -> str:
    seconds = max(0.0, anyio.current_time() - found.expires_at)
    name = found.announcement.name
    instead = "; with ?here one is made at this node" if endpoint.makes_queue else ""
    return (
        f"queue {queue!r} is at node {name!r}, which is away: what it said last ran out "
        f"{long(seconds)} ago{instead}"
    )


def _path(call: Call, endpoint: Endpoint) -> str:
    """Made anew, so that the peer finds the route that was found here."""
    path = endpoint.path
    for part, name in call.request.path_params.items():
        quoted = quote(name, safe="")
        if not quoted.strip("."):
            # A path has no such parts, whoever reads it.
            quoted = quoted.replace(".", "%2E")
        path = path.replace(f"{{{part}}}", quoted)
    return path


def _query(call: Call) -> str:
    return quote(call.request.scope["query_string"], safe="%=&+-._~!$'()*,;:@/?")


@frozen(eq=False)
class Forward:
    """One request, on its way, as an ASGI application: both bodies go on as they come.

    It ends when its client has gone. When the node begins to stop, one that only waits ends with
    `NotReadyError`; others have the grace time.
    """

    state: NodeState
    peer: Peer
    endpoint: Endpoint
    holder: Belief
    queue: str
    target: httpx.URL
    headers: list[tuple[bytes, bytes]] = field(repr=False)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """
        Raises:
            PeerUnreachableError: no answer came, or it broke off.
            ForbiddenError: the peer lets this node do less than the caller may.
            NotReadyError: the node stops.
            ValueTooLargeError: the body is over ``body_bytes_max``.
        """
        result = "left"
        try:
            with collapsed_groups():
                async with anyio.create_task_group() as task_group:
                    body = _Body.of(scope, receive, self.state)
                    task_group.start_soon(_cancel_when_left, body, receive, task_group.cancel_scope)
                    await self._relay(scope, body, send)
                    result = "answered"
                    task_group.cancel_scope.cancel()
                if result == "answered":
                    # When nobody watches any more: its end may be that of the connection.
                    await send({"type": "http.response.body", "body": b""})
        except PeerUnreachableError as error:
            result = "unreachable"
            self.state.peers.failed(self.holder, str(error.args[0]))
            raise
        except NotReadyError:
            result = "stopped"
            raise
        except MpregError:
            result = "refused"
            raise
        finally:
            self.state.peers.forwarded[result] += 1

    async def _relay(self, scope: Scope, body: _Body | None, send: Send) -> None:
        """All of the answer but its end."""
        pace = pace_of(self.state)
        answer = await self._ask(scope["method"], body)
        try:
            self._check(answer)
            self.state.peers.worked(self.holder)
            headers = [
                (name.lower(), value)
                for name, value in answer.headers.raw
                if name.lower() in ANSWER_HEADERS
            ]
            if not any(name == ANSWERED_BY.encode() for name, _ in headers):
                headers.append((ANSWERED_BY.encode(), self.holder.announcement.name.encode()))
            head: dict[str, Any] = {"type": "http.response.start", "status": answer.status_code}
            await send({**head, "headers": headers})
            async with pieces_of(answer) as pieces:
                while piece := await self._next(pieces, pace):
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except httpx.TransportError as error:
            raise self._unreachable(
                f"its answer broke off: {type(error).__name__}", True
            ) from error
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def _next(self, pieces: AsyncIterator[bytes], pace: Pace) -> bytes:
        """The next piece of the answer; none at its end. Only the wait for the peer counts, not
        that for who takes it."""
        began, piece = anyio.current_time(), b""
        with anyio.move_on_after(pace.seconds_left) as scope:
            async for piece in pieces:
                if piece:
                    break
            else:
                return b""
        if scope.cancelled_caught:
            raise self._unreachable("its answer does not come on, or too slowly", True)
        pace.came(len(piece), anyio.current_time() - began)
        return piece

    async def _ask(self, method: str, body: _Body | None) -> httpx.Response:
        seconds, headers = ANSWER_SECONDS_MAX, self.headers
        waiting: AbstractContextManager[Any] = nullcontext()
        if self.endpoint.waits:
            seconds += self.state.settings.server.long_poll_seconds_max
            waiting = self.state.wait()
        if body is not None and body.is_chunked:
            headers = [*headers, (b"transfer-encoding", b"chunked")]
        with waiting:
            try:
                return await self.state.peers.ask(
                    self.peer, method, self.target, headers, body or NO_BODY, seconds
                )
            except PeerUnreachableError as error:
                said, may_have_been_made = error.args
                raise self._unreachable(said, may_have_been_made) from error
        raise NotReadyError("the node is stopping")

    def _check(self, answer: httpx.Response) -> None:
        """What the peer says of this node is not what it says of the caller; and what it has not
        said itself is not told as the answer of a node."""
        if API_HEADER not in answer.headers and answer.status_code not in (401, 403):
            raise self._unreachable(
                f"something else answers there ({answer.status_code}), and not as a node does", True
            )
        if answer.status_code == 401:
            raise self._unreachable(
                "it does not take the token of this node (token_file of the peer)", False
            )
        if answer.status_code == 403:
            name = self.holder.announcement.name
            raise ForbiddenError(
                f"queue {self.queue!r} is at node {name!r}, and the token that this node has for "
                "its peer (token_file) may not do this"
            )

    def _unreachable(self, why: str, may_have_been_made: bool) -> PeerUnreachableError:
        name = self.holder.announcement.name
        return PeerUnreachableError(
            f"queue {self.queue!r} is at node {name!r}, which gave no answer: {why}",
            may_have_been_made and self.endpoint.method != "GET",
        )


@define(eq=False)
class _Body(httpx.AsyncByteStream):
    """Of a request, piece by piece as its client sends it."""

    _receive: Receive
    _pace: Pace
    _bytes_left: int
    _bytes_max: int
    is_chunked: bool
    """Its length is not told before."""
    read: anyio.Event = field(factory=anyio.Event)
    """Set at its end."""

    @classmethod
    def of(cls, scope: Scope, receive: Receive, state: NodeState) -> _Body | None:
        """None where there is none.

        Raises:
            ValueTooLargeError: it says that it is over ``body_bytes_max``.
        """
        headers, bytes_max = dict(scope["headers"]), state.settings.server.body_bytes_max
        length = headers.get(b"content-length")
        is_chunked = b"transfer-encoding" in headers
        if not is_chunked and (length is None or not int(length[:20])):
            return None
        if length is not None and int(length[:20]) > bytes_max:
            raise _too_large(bytes_max)
        return cls(receive, pace_of(state), bytes_max, bytes_max, is_chunked)

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        while not self.read.is_set():
            piece, is_more = await receive_body(self._receive, self._pace)
            if not is_more:
                self.read.set()
            self._bytes_left -= len(piece)
            if self._bytes_left < 0:
                raise _too_large(self._bytes_max)
            if piece:
                return piece
        raise StopAsyncIteration


def _too_large(bytes_max: int) -> ValueTooLargeError:
    return ValueTooLargeError(f"a body of more than {bytes_max} bytes (body_bytes_max)")


async def _cancel_when_left(body: _Body | None, receive: Receive, scope: anyio.CancelScope) -> None:
    if body is not None:
        await body.read.wait()
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()

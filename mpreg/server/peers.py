"""The other nodes that the settings name, and the way to them.

This is the only place from which a node asks another one. It asks the URLs of its own settings,
each with that one's own token, and no other: where somebody announces to be is never followed.
"""

from __future__ import annotations

import logging
import math
import ssl
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from typing import Any, Final
from urllib.parse import quote

import anyio
import httpx
import msgspec
from attrs import define, field

from mpreg.errors import MpregError, PeerUnreachableError, PersistenceError
from mpreg.fabric import NODES_MAX, Belief, Fabric, Heard
from mpreg.monitoring import FabricObserved
from mpreg.reasons import reason
from mpreg.server.auth import read_token
from mpreg.server.limits import read_body
from mpreg.server.negotiation import MESSAGEPACK
from mpreg.server.peer import Peer, PeerState, Troubles, Unheard, unheard
from mpreg.server.seen import nodes_seen
from mpreg.settings import PeerSettings

__all__ = ["NO_BODY", "Peers", "pieces_of"]

log = logging.getLogger("mpreg.server.peers")

CONNECT_SECONDS_MAX: Final = 5.0
#: Beyond what a peer was asked to wait.
ANSWER_SECONDS_MAX: Final = 10.0
ANSWER_BYTES_MAX: Final = 32 << 20
#: How long a peer is asked to wait for news, whatever the TTL: nobody on the way gives up on it.
WAIT_SECONDS_MAX: Final = 20.0
#: Between two questions: so seldom also where there is news all the time.
PACE_SECONDS: Final = 0.1

_NOT_SENT: Final = (
    httpx.ConnectError,
    httpx.ConnectTimeout,
    httpx.PoolTimeout,
    httpx.UnsupportedProtocol,
)

_NO_TOKEN: Final = "it does not take the token of this node: see token_file of this peer"  # noqa: S105
_REFUSALS: Final[Mapping[int, str]] = {
    401: _NO_TOKEN,
    403: _NO_TOKEN,
    404: "there is no node, or one that is older, and tells nothing of itself",
}


class _News(msgspec.Struct):
    """What is read of the answer of ``/v1/fabric``; the rest is for people."""

    revision: str
    nodes: list[dict[str, Any]]


@define(eq=False)
class Peers:
    """Of one node. `run` has to be under way before one of them is asked."""

    fabric: Fabric
    _chance: Callable[[], float]
    all: Mapping[str, Peer]
    """By their URLs, in the order of the settings."""
    counts: Counter[str] = field(factory=Counter)
    """Announcements by what became of them: `mpreg.fabric.Outcome`, or "refused"."""
    forwarded: Counter[str] = field(factory=Counter)
    """Requests by what became of them."""
    troubles: Troubles = field(factory=Troubles)
    transport: httpx.AsyncBaseTransport | None = None
    """The network; whoever takes another one closes it."""
    _wall: Callable[[], float] = field(kw_only=True)
    _patience_seconds: float = field(kw_only=True, default=0.0)

    @classmethod
    def of(
        cls,
        settings: Sequence[PeerSettings],
        fabric: Fabric,
        *,
        wall: Callable[[], float],
        chance: Callable[[], float],
        patience_seconds: float | None,
    ) -> Peers:
        """Reads the files of tokens. ``patience_seconds``: None is for ever.

        Raises:
            ConfigurationError: a file cannot be read, others may read it, or it holds no token.
        """
        found = {}
        for number, one in enumerate(settings):
            name = f"mpreg.peers[{number}].token_file"
            token = None if one.token_file is None else read_token(name, one.token_file)
            found[one.url] = Peer(one, token)
        patience = math.inf if patience_seconds is None else patience_seconds
        return cls(fabric, chance, found, wall=wall, patience_seconds=patience)

    def observed(self) -> FabricObserved:
        """For metrics, and for people."""
        if not self.all or not self.fabric.is_open:
            return FabricObserved()
        peers = Counter(dict.fromkeys(PeerState.ALL, 0))
        peers.update(peer.state for peer in self.all.values())
        return FabricObserved(
            peers=peers,
            nodes=self.fabric.count_nodes(),
            announcements=dict(self.counts),
            forwarded=dict(self.forwarded),
            shared_queues=self.fabric.shared_queues(),
            seen=nodes_seen(self.fabric, self.all, anyio.current_time(), self._wall()),
        )

    def unheard(self) -> Unheard | None:
        """Those that perhaps have queues that are not known here; None where there is none."""
        return unheard(self.all.values(), self._patience_seconds, anyio.current_time())

    # --- requests for what they have ---

    def failed(self, holder: Belief, why: str) -> None:
        """A request for a queue of this node has not come to it: told where it is the first one."""
        if self.troubles.failed(holder.announcement.node):
            log.warning("node %r: a request cannot be forwarded: %s", holder.announcement.name, why)

    def worked(self, holder: Belief) -> None:
        """One has come to it."""
        if failed := self.troubles.ended(holder.announcement.node):
            name = holder.announcement.name
            log.info("node %r: requests are forwarded again, after %s that were not", name, failed)

    # --- asking one ---

    async def ask(
        self,
        peer: Peer,
        method: str,
        target: httpx.URL,
        headers: Iterable[tuple[bytes, bytes]],
        body: httpx.AsyncByteStream,
        seconds: float,
    ) -> httpx.Response:
        """The head of its answer, whatever that is; who gets it closes it.

        ``seconds`` count from the end of the body, or of what has come of it; how long that takes
        to come is not its fault.

        Raises:
            PeerUnreachableError: there is none in time.
        """
        assert self.transport is not None, "the peers are not run"
        scope = anyio.CancelScope(deadline=anyio.current_time() + seconds)
        request = httpx.Request(
            method,
            target,
            headers=[(b"host", target.netloc), *headers, *peer.authorization],
            stream=_Sending(aiter(body), scope, seconds),
            extensions={"timeout": httpx.Timeout(None, connect=CONNECT_SECONDS_MAX).as_dict()},
        )
        may_have_been_made = method not in ("GET", "HEAD")
        with scope:
            try:
                return await self.transport.handle_async_request(request)
            except httpx.TransportError as error:
                if isinstance(error, _NOT_SENT):
                    may_have_been_made = False
                raise PeerUnreachableError(reason(error), may_have_been_made) from error
        raise PeerUnreachableError(f"no answer in {seconds:.1f} s", may_have_been_made)

    # --- following all ---

    async def run(self, *, task_status: Any = anyio.TASK_STATUS_IGNORED) -> None:
        """Ask all of them for what they know, until cancelled. No peer can end this."""
        if not self.all:
            task_status.started()
            return
        transport = self.transport
        if transport is None:
            # The certificates of the machine: a fabric may have an authority of its own.
            verify = ssl.create_default_context()
            transport = httpx.AsyncHTTPTransport(
                verify=verify,
                trust_env=False,
                limits=httpx.Limits(max_connections=None, max_keepalive_connections=100),
            )
        async with transport:
            self.transport = transport
            task_status.started()
            async with anyio.create_task_group() as task_group:
                for peer in self.all.values():
                    task_group.start_soon(self._follow, peer)

    async def _follow(self, peer: Peer) -> None:
        revision, failures, every = "", 0, _wait_seconds(self.fabric.ttl_seconds)
        peer.quiet_since, peer.error = anyio.current_time(), "it was asked, and has not answered"
        while True:
            asked_at, pause = anyio.current_time(), PACE_SECONDS
            try:
                news = await self._news(peer, revision, every)
                # Who is away there is told to people.
                told = [one for one in news.nodes if one.get("state") != "away"]
                heard = self.fabric.hear(told[: NODES_MAX + 1], peer.url)
                every = _wait_seconds(self._note(peer, heard))
                await self._keep()
                seconds_left = asked_at + every - anyio.current_time()
                if news.revision == revision and seconds_left > every / 2:
                    # It had no room for one who waits.
                    pause = max(pause, seconds_left)
                revision, failures = news.revision, 0
            except MpregError as error:
                self._lost(peer, str(error.args[0]))
                pause = min(PACE_SECONDS * 2.0 ** min(failures, 16), every)
                revision, failures = "", failures + 1
            except Exception as error:
                # Whatever it is, the next question may be answered.
                if peer.error != (why := type(error).__name__):
                    log.exception("peer %s: what it answers cannot be dealt with", peer.url)
                self._lost(peer, why)
                pause, revision = every, ""
            await anyio.sleep(pause * (0.5 + self._chance() / 2))

    async def _news(self, peer: Peer, revision: str, every: float) -> _News:
        """What it knows, as soon as that is not what it was; what it was after a while.

        Raises:
            PeerUnreachableError: it cannot be asked.
        """
        query = f"revision={quote(revision, safe='')}&wait_seconds={every:.3f}"
        target = peer.target("/v1/fabric", query)
        headers = [(b"accept", MESSAGEPACK.encode())]
        # Who is asked for the first time has no reason to wait.
        seconds = (every if revision else 0.0) + ANSWER_SECONDS_MAX
        with anyio.move_on_after(seconds):
            answer = await self.ask(peer, "GET", target, headers, NO_BODY, seconds)
            try:
                if answer.status_code != 200:
                    status = answer.status_code
                    why = _REFUSALS.get(status, f"it answers {status}")
                    raise PeerUnreachableError(why, False)
                async with pieces_of(answer) as chunks:
                    body = await read_body(chunks, ANSWER_BYTES_MAX)
                return msgspec.msgpack.decode(body, type=_News)
            except (msgspec.MsgspecError, UnicodeDecodeError, httpx.TransportError) as error:
                raise PeerUnreachableError("what it answers is not what a node does", False) from (
                    error
                )
            finally:
                with anyio.CancelScope(shield=True):
                    await answer.aclose()
        raise PeerUnreachableError(f"no answer in {seconds:.1f} s", False)

    def _note(self, peer: Peer, heard: Heard) -> float:
        """The shorter of its TTL and our own.

        Raises:
            PeerUnreachableError: it is no other node.
        """
        self.counts.update(outcome.value for outcome in heard.outcomes)
        if heard.refused:
            self.counts["refused"] += len(heard.refused)
        teller = heard.teller
        if teller is None:
            why = str(heard.refused[0]) if heard.refused else "it does not tell of itself"
            raise PeerUnreachableError(why, False)
        peer.is_self = teller.node == self.fabric.identity
        if peer.is_self:
            raise PeerUnreachableError(
                "this is the node itself, or one whose directory is a copy of its own", False
            )
        problem = str(heard.refused[0]) if heard.refused else ""
        if teller.name == self.fabric.name:
            problem = f"it has the name of this node, {teller.name!r}: give each its own"
        if peer.state != PeerState.ALIVE or peer.name != teller.name:
            log.info("peer %s: heard of, it is node %r", peer.url, teller.name)
        if problem and problem != peer.error:
            log.warning("peer %s: %s", peer.url, problem)
        self._become(peer, PeerState.ALIVE, problem)
        peer.name = teller.name
        return min(teller.ttl_seconds, self.fabric.ttl_seconds)

    def _lost(self, peer: Peer, why: str) -> None:
        if peer.state != PeerState.AWAY or why != peer.error:
            log.warning("peer %s: cannot be asked, and is asked again: %s", peer.url, why)
        self._become(peer, PeerState.AWAY, why)

    def _become(self, peer: Peer, state: str, error: str) -> None:
        if peer.state != state:
            peer.since = self._wall()
        if peer.state == PeerState.ALIVE != state:
            peer.quiet_since = anyio.current_time()
        peer.state, peer.error = state, error

    async def _keep(self) -> None:
        # It is there to be asked again after a restart; nothing else depends on it.
        with suppress(PersistenceError):
            await self.fabric.keep()


def _wait_seconds(ttl_seconds: float) -> float:
    return min(ttl_seconds / 3, WAIT_SECONDS_MAX)


@asynccontextmanager
async def pieces_of(answer: httpx.Response) -> AsyncGenerator[AsyncIterator[bytes], None]:
    """The body of an answer, as it comes. Closes it."""
    pieces = answer.aiter_raw()
    try:
        yield pieces
    finally:
        with anyio.CancelScope(shield=True):
            await answer.aclose()
            # Below it are generators that nobody else ends: from a closed connection they read no
            # more than what has come already.
            with suppress(httpx.StreamError, httpx.TransportError):
                async for _ in pieces:
                    pass


@define(eq=False)
class _Sending(httpx.AsyncByteStream):
    """A body on its way to a peer, which has time for each piece, and none runs meanwhile."""

    _pieces: AsyncIterator[bytes]
    _scope: anyio.CancelScope
    _seconds: float

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self

    async def __anext__(self) -> bytes:
        self._scope.deadline = math.inf
        try:
            return await anext(self._pieces)
        finally:
            self._scope.deadline = anyio.current_time() + self._seconds


class _NoBody(httpx.AsyncByteStream):
    def __aiter__(self) -> _NoBody:
        return self

    async def __anext__(self) -> bytes:
        raise StopAsyncIteration


NO_BODY: Final = _NoBody()

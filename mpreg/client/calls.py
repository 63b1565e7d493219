"""One request, made until it is answered: the node may be away, starting or busy meanwhile."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Any, Final, TypeAlias

import anyio
import httpx
import msgspec
from attrs import define, field

from mpreg import errors
from mpreg.client.problems import error_of, is_of_a_node
from mpreg.client.streams import Stream
from mpreg.client.uploads import Upload
from mpreg.errors import InvalidArgumentError, MpregError, NodeUnreachableError
from mpreg.reasons import reason

__all__ = ["MESSAGEPACK", "SIZE_BYTES_MAX", "Calls", "Tries", "pauses", "value_of"]

PAUSE_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 2.0

MESSAGEPACK: Final = "application/msgpack"

#: Of one value or record. What a node takes is its own matter; this only keeps lengths within 32
#: bits.
SIZE_BYTES_MAX: Final = 2**31 - 1

#: Of the answers of a node: its identity, and which of its processes it is.
INCARNATION: Final = "x-mpreg-incarnation"

#: Whose processes are told apart; it is a guard against what is no node.
NODES_MAX: Final = 1_000

Params: TypeAlias = Mapping[str, str] | list[tuple[str, str | int | float | bool | None]]

#: It passes by itself, and nothing was made of it, or the same key tells.
AWAY: Final = (
    NodeUnreachableError,
    errors.NotReadyError,
    errors.TooManyRequestsError,
    errors.MailboxFullError,
    errors.MailboxClosedError,
    errors.WriterStoppedError,
    errors.ReaderStoppedError,
    errors.CommitUnknownError,
)

#: Told before it was looked whether the write was made by an earlier attempt.
_TOLD_AT_ONCE: Final = (
    errors.UnauthorizedError,
    errors.ForbiddenError,
    errors.RequestRefusedError,
)


def pauses(chance: random.Random) -> Iterator[float]:
    """Seconds between attempts: longer each time, and not the same for all who wait."""
    for attempt in itertools.count():
        longest = min(PAUSE_SECONDS * 2.0 ** min(attempt, 16), PAUSE_SECONDS_MAX)
        yield longest * chance.uniform(0.5, 1.0)


@define(eq=False)
class _Body(httpx.AsyncByteStream):
    """Of a request, as an iterator that needs no end: httpx has a generator, which trio complains
    of where a connection breaks while it is sent."""

    _content: bytes | None

    def __aiter__(self) -> AsyncIterator[bytes]:
        return _Once(self._content)


@define(eq=False)
class _Once(AsyncIterator[bytes]):
    _content: bytes | None

    async def __anext__(self) -> bytes:
        content, self._content = self._content, None
        if not content:
            raise StopAsyncIteration
        return content


@define(eq=False)
class Tries:
    """At something that breaks off: again as long as it gets further, and for as long as the client
    is patient where it does not."""

    _patience_seconds: float
    _chance: random.Random
    _pauses: Iterator[float] | None = None
    """Since it broke off first and got no further."""
    _deadline: float = math.inf

    def got_further(self) -> None:
        self._pauses = None

    async def pause(self, failure: MpregError) -> None:
        """Before the next try; raises ``failure`` where there is none."""
        if self._pauses is None:
            self._pauses = pauses(self._chance)
            self._deadline = anyio.current_time() + self._patience_seconds
        seconds = next(self._pauses)
        if anyio.current_time() + seconds >= self._deadline:
            raise failure
        await anyio.sleep(seconds)


@define(eq=False)
class _Fate:
    """Of one request, while it is made again and again."""

    _patience_seconds: float
    _wait_seconds: float
    _upload: Upload | None
    _is_read: bool = field(kw_only=True)
    may_have_been_made: bool = False
    _was_away: bool = False
    _furthest: int = 0
    _deadline: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._deadline = anyio.current_time() + self._patience_seconds + self._wait_seconds

    @property
    def seconds_left(self) -> float:
        return self._deadline - anyio.current_time()

    def attempt_seconds(self, longest: float) -> float:
        """Of the next attempt, which has ``longest`` beside its wait: a node that is there again
        may keep it waiting for as long as one that was never away."""
        left = self.seconds_left
        if not self._was_away:
            left -= self._wait_seconds
        return min(left, longest) + self._wait_seconds

    def is_away(self, failure: MpregError) -> None:
        """From now on it does not wait for something to happen, but for the node."""
        self._was_away = True
        upload, again = self._upload, anyio.current_time() + self._patience_seconds
        self._deadline = min(self._deadline, again)
        if upload is not None and upload.furthest > self._furthest:
            self._furthest, self._deadline = upload.furthest, again
        # Of a body that has not come to its end nothing is made.
        if not self._is_read and (upload is None or upload.was_sent):
            self.may_have_been_made |= failure.data_state == "unknown"


@define(eq=False)
class Calls:
    """Of one client."""

    _http: httpx.AsyncClient
    _chance: random.Random
    _patience_seconds: float | None
    _attempt_seconds: float
    failures: int = 0
    """Counts the attempts without an answer of the node that is meant, or with one that it starts
    or stops, and those in which a node was found to be another process: where it has changed, the
    node may be a new one."""
    _lives: dict[str, str] = field(factory=dict)
    """By the identities of nodes, the processes whose answers were the last."""

    def new_pauses(self) -> Iterator[float]:
        return pauses(self._chance)

    def new_tries(self) -> Tries:
        return Tries(self._patience, self._chance)

    @property
    def _patience(self) -> float:
        return math.inf if self._patience_seconds is None else self._patience_seconds

    async def read(self, path: str, **options: Any) -> httpx.Response:
        return await self.ask("GET", path, **options)

    async def write(self, method: str, path: str, **options: Any) -> httpx.Response:
        """With a key of its own, so that it is made once however often it is sent."""
        headers = {**options.pop("headers", {}), "idempotency-key": self._new_key()}
        return await self.ask(method, path, headers=headers, **options)

    async def stream(
        self, path: str, params: Mapping[str, str], headers: Mapping[str, str] | None = None
    ) -> Stream:
        """An answer of which only the head has come; to be left. Raises what `ask` raises."""
        answer = await self.ask("GET", path, params=params, headers=headers, is_stream=True)
        return Stream.of(answer)

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Params | None = None,
        wait_seconds: float = 0.0,
        made_if: type[MpregError] | None = None,
        perhaps_if: type[MpregError] | None = None,
        is_read: bool = False,
        is_stream: bool = False,
        is_made_once: bool = True,
        upload: Upload | None = None,
    ) -> httpx.Response:
        """The answer, which is a success; of ``made_if`` as well, where an earlier attempt may have
        been what brought that about; of ``perhaps_if`` it is not known then.

        ``wait_seconds``: for so long the node may keep it waiting. ``is_made_once``: however often
        it is sent; else it is not sent again where it may have been made.

        Raises:
            InvalidArgumentError: a name or key is too long to be sent.
            NodeUnreachableError: there was none in time.
            MpregError: what the node has told.
        """
        given = dict(headers or {})
        if body is not None:
            content, given["content-type"] = msgspec.msgpack.encode(body), MESSAGEPACK
        try:
            request = self._http.build_request(
                method, path, content=content, headers=given, params=params
            )
        except httpx.InvalidURL as error:
            raise InvalidArgumentError(f"over HTTP this cannot be asked for: {error}") from error
        request.stream = _Body(content)
        fate = _Fate(self._patience, wait_seconds, upload, is_read=is_read or method == "GET")
        for pause in self.new_pauses():
            seconds = fate.attempt_seconds(self._attempt_seconds)
            answer: httpx.Response | None = None
            failure: MpregError
            try:
                answer = await self._attempt(request, seconds, is_stream, upload)
            except NodeUnreachableError as error:
                if upload is not None and error is upload.failure:
                    # Of another node, which the source has asked.
                    raise
                failure = error
            else:
                if answer.is_success and is_of_a_node(answer):
                    return answer
                failure = error_of(answer)
                if isinstance(failure, NodeUnreachableError | errors.NotReadyError):
                    # Who answered is there; the node that it stands before may have been away.
                    self.failures += 1
            if not isinstance(failure, AWAY):
                if not fate.may_have_been_made:
                    raise failure
                if made_if and answer and isinstance(failure, made_if):
                    return answer
                tells = not isinstance(failure, _TOLD_AT_ONCE)
                if tells and not (perhaps_if and isinstance(failure, perhaps_if)):
                    raise failure
                raise NodeUnreachableError(str(failure), True) from failure
            fate.is_away(failure)
            seconds = _pause(pause, failure, answer)
            if seconds >= fate.seconds_left or (fate.may_have_been_made and not is_made_once):
                break
            if upload is not None and not upload.may_begin_again:
                told = f"{failure.args[0]}; more has gone than is kept to be sent again"
                raise NodeUnreachableError(told, fate.may_have_been_made) from failure
            await anyio.sleep(seconds)
        if isinstance(failure, NodeUnreachableError) or fate.may_have_been_made:
            message = str(failure.args[0])
            raise NodeUnreachableError(message, fate.may_have_been_made) from failure
        raise failure

    async def _attempt(
        self, request: httpx.Request, seconds: float, is_stream: bool, upload: Upload | None
    ) -> httpx.Response:
        """
        Raises:
            NodeUnreachableError: no answer came.
            BaseException: what the source of an upload has raised.
        """
        where = f"{request.method} {request.url.copy_with(query=None)}"
        with anyio.move_on_after(seconds) as scope:
            if upload is not None:
                request.stream = upload.attempt(scope, self._attempt_seconds)
            try:
                answer = await self._http.send(request, stream=is_stream)
                self._note_life(answer)
                if is_stream and not answer.is_success:
                    try:
                        await answer.aread()
                    finally:
                        await answer.aclose()
                elif is_stream and not is_of_a_node(answer):
                    await answer.aclose()
                if upload is None or upload.failure is None:
                    return answer
                raise upload.failure
            except httpx.TransportError as error:
                if upload is not None and upload.failure is not None:
                    raise upload.failure from None
                self.failures += 1
                was_heard = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                raise NodeUnreachableError(f"{where}: {reason(error)}", was_heard) from error
        self.failures += 1
        raise NodeUnreachableError(f"{where}: no answer in {seconds:.1f} s", True)

    def _note_life(self, answer: httpx.Response) -> None:
        """A node may have been started again without that a request failed."""
        node, _, life = answer.headers.get(INCARNATION, "").rpartition("-")
        if not node:
            return
        if len(self._lives) >= NODES_MAX:
            self._lives.clear()
        if self._lives.setdefault(node, life) != life:
            self._lives[node] = life
            self.failures += 1

    def _new_key(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"


def _pause(seconds: float, failure: MpregError, answer: httpx.Response | None) -> float:
    if answer is None or not isinstance(failure, errors.TooManyRequestsError):
        return seconds
    asked = answer.headers.get("retry-after", "")
    return max(seconds, float(asked)) if asked.isdecimal() else seconds


def value_of(answer: httpx.Response) -> dict[str, Any]:
    """What a node tells in its answer."""
    return msgspec.msgpack.decode(answer.content, type=dict[str, Any])

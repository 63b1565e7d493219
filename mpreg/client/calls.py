"""One request, made until it is answered: the node may be away, starting or busy meanwhile."""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import httpx
import msgspec
from attrs import define

from mpreg import errors
from mpreg.client.problems import error_of
from mpreg.errors import InvalidArgumentError, MpregError, NodeUnreachableError

__all__ = ["Calls", "pauses"]

PAUSE_SECONDS: Final = 0.05
PAUSE_SECONDS_MAX: Final = 2.0

MESSAGEPACK: Final = "application/msgpack"

#: It passes by itself, and nothing was made of it, or the same key tells.
_AWAY: Final = (
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
class Calls:
    """Of one client."""

    _http: httpx.AsyncClient
    _chance: random.Random
    _patience_seconds: float | None
    _attempt_seconds: float
    failures: int = 0
    """Counts the attempts without an answer: where it has changed, the node may be a new one."""

    def new_pauses(self) -> Iterator[float]:
        return pauses(self._chance)

    async def read(self, path: str, **options: Any) -> httpx.Response:
        return await self.ask("GET", path, **options)

    async def write(self, method: str, path: str, **options: Any) -> httpx.Response:
        """With a key of its own, so that it is made once however often it is sent."""
        headers = {**options.pop("headers", {}), "idempotency-key": self._new_key()}
        return await self.ask(method, path, headers=headers, **options)

    @asynccontextmanager
    async def stream(self, path: str, params: Mapping[str, str]) -> AsyncIterator[httpx.Response]:
        """The head of an answer without end. Raises what `ask` raises."""
        answer = await self.ask("GET", path, params=params, is_stream=True)
        try:
            yield answer
        finally:
            with anyio.CancelScope(shield=True):
                await answer.aclose()

    async def ask(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        content: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        params: Mapping[str, str] | None = None,
        wait_seconds: float = 0.0,
        made_if: type[MpregError] | None = None,
        is_stream: bool = False,
    ) -> httpx.Response:
        """The answer, which is a success; of ``made_if`` as well, where an earlier attempt may have
        been what brought that about.

        ``wait_seconds``: for so long the node may keep it waiting.

        Raises:
            InvalidArgumentError: a name or key is too long to be sent.
            NodeUnreachableError: there was none in time.
            MpregError: what the node has told.
        """
        given = dict(headers or {})
        if body is not None:
            content, given["content-type"] = msgspec.msgpack.encode(body), MESSAGEPACK
        patience = math.inf if self._patience_seconds is None else self._patience_seconds
        deadline = anyio.current_time() + patience + wait_seconds
        try:
            request = self._http.build_request(
                method, path, content=content, headers=given, params=params
            )
        except httpx.InvalidURL as error:
            raise InvalidArgumentError(f"over HTTP this cannot be asked for: {error}") from error
        request.stream = _Body(content)
        may_have_been_made = False
        for pause in self.new_pauses():
            seconds = min(deadline - anyio.current_time(), self._attempt_seconds + wait_seconds)
            answer: httpx.Response | None = None
            failure: MpregError
            try:
                answer = await self._attempt(request, seconds, is_stream=is_stream)
            except NodeUnreachableError as error:
                failure = error
            else:
                if answer.is_success:
                    return answer
                failure = error_of(answer)
            if not isinstance(failure, _AWAY):
                if may_have_been_made and made_if and answer and isinstance(failure, made_if):
                    return answer
                if may_have_been_made and isinstance(failure, _TOLD_AT_ONCE):
                    raise NodeUnreachableError(str(failure), True) from failure
                raise failure
            # From now on it does not wait for something to happen, but for the node.
            deadline = min(deadline, anyio.current_time() + patience)
            may_have_been_made |= method != "GET" and failure.data_state == "unknown"
            seconds = _pause(pause, failure, answer)
            if anyio.current_time() + seconds >= deadline:
                break
            await anyio.sleep(seconds)
        if isinstance(failure, NodeUnreachableError) or may_have_been_made:
            message = str(failure.args[0])
            raise NodeUnreachableError(message, may_have_been_made) from failure
        raise failure

    async def _attempt(
        self, request: httpx.Request, seconds: float, *, is_stream: bool
    ) -> httpx.Response:
        """
        Raises:
            NodeUnreachableError: no answer came.
        """
        where = f"{request.method} {request.url.copy_with(query=None)}"
        with anyio.move_on_after(seconds):
            try:
                answer = await self._http.send(request, stream=is_stream)
                if not answer.is_success:
                    await answer.aread()
                return answer
            except httpx.TransportError as error:
                self.failures += 1
                was_heard = not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
                said = f"{type(error).__name__} {error}".strip()
                raise NodeUnreachableError(f"{where}: {said}", was_heard) from error
        self.failures += 1
        raise NodeUnreachableError(f"{where}: no answer in {seconds:.1f} s", True)

    def _new_key(self) -> str:
        return f"{self._chance.getrandbits(128):032x}"


def _pause(seconds: float, failure: MpregError, answer: httpx.Response | None) -> float:
    if answer is None or not isinstance(failure, errors.TooManyRequestsError):
        return seconds
    asked = answer.headers.get("retry-after", "")
    return max(seconds, float(asked)) if asked.isdecimal() else seconds

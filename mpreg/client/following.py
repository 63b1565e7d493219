"""The records of a log as they come, over restarts of its node."""

from __future__ import annotations

import base64
from collections.abc import Awaitable, Callable
from typing import Self

from attrs import define, field

from mpreg.client.calls import AWAY, Calls, Tries
from mpreg.client.problems import error_in
from mpreg.client.streams import Event, Events
from mpreg.errors import (
    CorruptDataError,
    MpregError,
    NodeUnreachableError,
    OffsetOutOfRangeError,
)
from mpreg.persistence import LogRecord

__all__ = ["RemoteLogFollow", "corrupt"]


@define(eq=False)
class RemoteLogFollow:
    """An async iterator over the records of a log, that does not end: made by
    `RemoteLogStore.follow`. Each record comes once and none is left out; where the connection is
    lost, it goes on behind the last one. What was truncated away meanwhile is passed over.

    For one task. Cancelled, it has passed over nothing, and may be gone on with.
    """

    _calls: Calls
    _name: str
    _path: str
    _end_now: Callable[[], Awaitable[int]]
    _next: int | None
    _events: Events | None = None
    _is_greeted: bool = False
    """Whether the connection has come further than every connection does."""
    _tries: Tries = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._tries = self._calls.new_tries()

    async def __aenter__(self) -> Self:
        """Raises what a read raises, and `OffsetOutOfRangeError`."""
        if self._next is None:
            self._next = await self._end_now()
        await self._connect()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._leave()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> LogRecord:
        """The next record.

        Raises:
            OffsetOutOfRangeError: the log is shorter than what was seen of it: it was deleted while
                the connection was lost, or an older copy was put in its place. Follow it anew.
            CorruptDataError: the next record is damaged.
            NodeUnreachableError: the node was away for longer than the client is patient. It may be
                gone on with.
        """
        while True:
            try:
                event = await (self._events or await self._connect()).next()
            except NodeUnreachableError as lost:
                is_new = self._events is None
                await self._leave()
                if is_new:
                    raise
                await self._tries.pause(lost)
            except BaseException:
                await self._leave()
                raise
            else:
                if event is None:
                    self._hear_nothing()
                elif event.kind == "record":
                    return self._record(event)
                else:
                    await self._end(event)

    async def _connect(self) -> Events:
        params = {"follow": "", "start": str(self._next)}
        try:
            stream = await self._calls.stream(f"{self._path}/records", params)
        except OffsetOutOfRangeError as error:
            raise self._out_of_range(error) from None
        self._events, self._is_greeted = Events(stream), False
        return self._events

    def _hear_nothing(self) -> None:
        if self._is_greeted:
            self._tries.got_further()
        self._is_greeted = True

    def _record(self, event: Event) -> LogRecord:
        data = base64.b64decode(event.data["data"]["$base64"])
        record = LogRecord(event.data["offset"], data)
        self._next = record.offset + 1
        self._tries.got_further()
        return record

    async def _end(self, event: Event) -> None:
        """Of a stream, by an error of the node: raised, unless it passes."""
        assert self._events is not None
        error: MpregError = error_in(event.data, self._events.stream.answer)
        await self._leave()
        # Of what is beyond its end the node tells more when it is asked again.
        if isinstance(error, CorruptDataError):
            raise corrupt(self._name, self._next, error) from error
        if not isinstance(error, (*AWAY, OffsetOutOfRangeError)):
            raise error
        await self._tries.pause(error)

    def _out_of_range(self, error: OffsetOutOfRangeError) -> OffsetOutOfRangeError:
        assert self._next is not None
        return OffsetOutOfRangeError(self._name, self._next, error.next_offset)

    async def _leave(self) -> None:
        if self._events is not None:
            events, self._events = self._events, None
            await events.stream.leave()


def corrupt(log: str, offset: int | None, told: CorruptDataError) -> CorruptDataError:
    """A node does not say where; the client knows what it has asked for."""
    where = f"log {log!r}, the first record from offset {offset} on"
    return CorruptDataError(told.message, where=where)

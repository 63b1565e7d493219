"""Logs: records appended, read in pages, followed as they come, and truncated."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

import msgspec
from attrs import define
from starlette.types import ASGIApp

from mpreg.errors import CorruptDataError, InvalidArgumentError, OffsetOutOfRangeError
from mpreg.persistence import LogFollow, LogStore
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.idempotency import Claim
from mpreg.server.streams import Event, EventStream

__all__ = ["ENDPOINTS"]

READ_RECORDS_MAX: Final = 1_000
#: Records of one page together; the last one may go beyond.
READ_BYTES_MAX: Final = 4 << 20

OFFSET_MAX: Final = 2**63 - 1


class AppendRequest(msgspec.Struct, forbid_unknown_fields=True):
    records: list[Any]


class TruncateRequest(msgspec.Struct, forbid_unknown_fields=True):
    before: int


async def get_log(call: Call) -> Answer:
    """Where a log begins and ends. One that has no records yet has no offsets either: 0 and 0."""
    log = _log(call)
    first, end = await log.bounds()
    return Answer(value={"name": log.name, "first_offset": first, "next_offset": end})


async def append(call: Call) -> Answer:
    """Append the records of the body, all or none, side by side; 201 when they are durable. A body
    that is neither JSON nor MessagePack is one record, whatever its bytes are."""
    records: list[Any] = [await call.body()]
    if call.is_structured:
        records = (await call.read(AppendRequest)).records
    log = _log(call)
    if call.claim is not None:
        return await _append_once(call, call.claim, log, records)
    return _appended(await log.append_many(records), len(records))


async def read_records(call: Call) -> Answer | ASGIApp:
    """The records from ``start`` on and before ``stop``, at most ``limit``; ``next`` is the
    ``start`` of the next page. With ``follow``: those from ``start`` on and then those that come,
    as server-sent events; without ``start`` only those that come. Following from beyond the end of
    the log: 416."""
    log = _log(call)
    if call.flag("follow"):
        return await _follow(call, log)
    limit = call.number("limit", 100, minimum=1, maximum=READ_RECORDS_MAX)
    stop = None if call.query("stop") is None else call.number("stop", 0, maximum=OFFSET_MAX)
    start = call.number("start", 0, maximum=OFFSET_MAX)
    records: list[dict[str, Any]] = []
    size = 0
    try:
        async for record in log.read_range(start, stop):
            if len(records) == limit or size > READ_BYTES_MAX:
                return Answer(value={"records": records, "next": record.offset})
            records.append({"offset": record.offset, "data": record.data})
            size += len(record.data)
    except CorruptDataError:
        # Those before it are intact; the next page begins with it.
        if not records:
            raise
        return Answer(value={"records": records, "next": records[-1]["offset"] + 1})
    return Answer(value={"records": records, "next": None})


async def truncate(call: Call) -> Answer:
    """Drop the records below the offset ``before``; below the first one that changes nothing."""
    what = await call.read(TruncateRequest)
    return Answer(value={"first_offset": await _log(call).truncate_before(what.before)})


async def delete_log(call: Call) -> Answer:
    """Remove a log as if it had never been written: the next record gets offset 0. ``deleted``: how
    many records it held."""
    log = _log(call)
    if call.claim is None:
        return Answer(value={"deleted": await log.delete()})
    first, end = await log.bounds()
    async with call.state.registry.transaction() as transaction:
        ack = log.delete_nowait(transaction=transaction)
        # Known better when it is done, and noted then.
        call.claim.keep(Answer(value={"deleted": end - first}), transaction)
    answer = Answer(value={"deleted": await ack})
    await call.claim.complete(answer)
    return answer


# --- writes ---


async def _append_once(call: Call, claim: Claim, log: LogStore, records: list[Any]) -> Answer:
    """The offset is known when it is committed: until it is written down as well, a replay knows
    only that the records are there."""
    async with call.state.registry.transaction() as transaction:
        ack = log.append_many_nowait(records, transaction=transaction)
        claim.keep(_appended(None, len(records)), transaction)
    answer = _appended(await ack, len(records))
    await claim.complete(answer)
    return answer


def _appended(first: int | None, count: int) -> Answer:
    end = None if first is None else first + count
    return Answer(value={"first_offset": first, "next_offset": end}, status=201)


# --- following ---


async def _follow(call: Call, log: LogStore) -> EventStream:
    start = None if call.query("start") is None else call.number("start", 0, maximum=OFFSET_MAX)
    seen = call.request.headers.get("last-event-id")
    if seen is not None:
        if not (seen.isascii() and seen.isdecimal() and len(seen) < 19):
            raise InvalidArgumentError(f"Last-Event-ID is an offset, not {seen!r:.80}")
        start = int(seen) + 1
    if start is not None and start > (end := await log.next_offset()):
        # Before the stream begins: who gets an error there comes back again and again.
        raise OffsetOutOfRangeError(log.name, start, end)

    @asynccontextmanager
    async def events() -> AsyncIterator[AsyncIterator[Event]]:
        async with log.follow(start) as records:
            yield _Records(records)

    return EventStream(call.state, events)


@define(eq=False)
class _Records:
    """The records of a log as events."""

    _records: LogFollow

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        record = await anext(self._records)
        data = {"offset": record.offset, "data": record.data}
        return Event(kind="record", data=data, id=str(record.offset))


def _log(call: Call) -> LogStore:
    return call.state.registry.log_store(call.name("log"))


ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/logs/{log}",
        handler=get_log,
        role=Role.READ,
        summary="Where a log begins and ends",
    ),
    Endpoint(
        method="POST",
        path="/v1/logs/{log}/records",
        handler=append,
        role=Role.WRITE,
        summary="Append records",
        takes_key=True,
    ),
    Endpoint(
        method="GET",
        path="/v1/logs/{log}/records",
        handler=read_records,
        role=Role.READ,
        summary="Records of a log, or those that come",
    ),
    Endpoint(
        method="POST",
        path="/v1/logs/{log}/truncate",
        handler=truncate,
        role=Role.WRITE,
        summary="Drop the oldest records",
        takes_key=True,
    ),
    Endpoint(
        method="DELETE",
        path="/v1/logs/{log}",
        handler=delete_log,
        role=Role.WRITE,
        summary="Remove a log",
        takes_key=True,
    ),
)

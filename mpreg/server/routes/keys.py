"""Keys with versions: raw bytes under a name, conditions on their versions, and their changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Self

from attrs import define
from starlette.types import ASGIApp

from mpreg.errors import InvalidArgumentError, NotFoundError, VersionConflictError
from mpreg.persistence import Entry, KeyChange, KeyValueStore, KeyWatch
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.idempotency import Claim, versioned
from mpreg.server.routes.conditions import Condition, condition_of, etag, is_unchanged
from mpreg.server.streams import Event, EventStream

__all__ = ["ENDPOINTS"]

SCAN_ENTRIES_MAX: Final = 1_000
#: Values of one page together; the last one may go beyond.
SCAN_BYTES_MAX: Final = 4 << 20

RAW: Final = "application/octet-stream"


async def get_key(call: Call) -> Answer:
    """The value as it was put. ``ETag`` is its version; ``If-None-Match`` with that: 304."""
    entry = await _store(call).get(_key(call))
    if entry is None:
        raise NotFoundError(f"no key {_key(call)!r:.200} in namespace {call.name('namespace')!r}")
    headers = {"etag": etag(entry.version)}
    if entry.expires_at is not None:
        headers["x-mpreg-expires-at"] = repr(entry.expires_at)
    if is_unchanged(call.request.headers, entry.version):
        return Answer(status=304, value=b"", is_raw=True, headers=headers)
    headers["content-type"] = RAW
    return Answer(value=entry.value, is_raw=True, headers=headers)


async def put_key(call: Call) -> Answer:
    """Set a key to the bytes of the body, whatever they are. ``ttl_seconds`` from now it is gone.
    ``If-Match`` and ``If-None-Match: *`` make it depend on the version that is there: 412."""
    store, key, value = _store(call), _key(call), await call.body()
    ttl_seconds = call.seconds("ttl_seconds")
    condition = condition_of(call.request.headers)
    while True:
        expected, is_final = await _expected(store, key, condition)
        try:
            if call.claim is None:
                version = await store.put(
                    key, value, ttl_seconds=ttl_seconds, expected_version=expected
                )
            else:
                version = await _put_once(call, call.claim, key, value, ttl_seconds, expected)
        except VersionConflictError:
            if is_final:
                raise
        else:
            return versioned(Answer(value={}), version)


async def delete_key(call: Call) -> Answer:
    """Remove a key, and say whether it was there. ``If-Match`` as for a put."""
    store, key = _store(call), _key(call)
    condition = condition_of(call.request.headers)
    while True:
        expected, is_final = await _expected(store, key, condition)
        try:
            if call.claim is None:
                was_there = await store.delete(key, expected_version=expected)
            else:
                was_there = await _delete_once(call, call.claim, key, expected)
        except VersionConflictError:
            if is_final and not (call.claim is not None and expected is None):
                raise
        else:
            return Answer(value={"deleted": was_there})


async def list_keys(call: Call) -> Answer | ASGIApp:
    """Entries by the order of their keys: those that start with ``prefix`` and come after
    ``after``, at most ``limit``; ``next`` is the ``after`` of the next page. With ``watch``: their
    changes from now on, as server-sent events."""
    store, prefix = _store(call), call.query("prefix") or ""
    if call.flag("watch"):
        return _watch(call, store, prefix)
    limit = call.number("limit", 100, minimum=1, maximum=SCAN_ENTRIES_MAX)
    entries: list[dict[str, Any]] = []
    size = 0
    async for entry in store.scan(prefix, after=call.query("after")):
        if len(entries) == limit or size > SCAN_BYTES_MAX:
            return Answer(value={"entries": entries, "next": entries[-1]["key"]})
        entries.append(_shown(entry))
        size += len(entry.value)
    return Answer(value={"entries": entries, "next": None})


# --- writes ---


async def _expected(
    store: KeyValueStore, key: str, condition: Condition
) -> tuple[int | None, bool]:
    """The version to write over, and whether it is what was asked for and not only what was
    found."""
    if not condition.exists:
        return condition.expected_version, True
    if (entry := await store.get(key)) is None:
        # It expects any, and there is none.
        raise VersionConflictError(store.namespace, key, -1, 0)
    return entry.version, False


async def _put_once(
    call: Call,
    claim: Claim,
    key: str,
    value: bytes,
    ttl_seconds: float | None,
    expected_version: int | None,
) -> int:
    store = _store(call)
    async with call.state.registry.transaction() as transaction:
        ack = store.put_nowait(
            key,
            value,
            ttl_seconds=ttl_seconds,
            expected_version=expected_version,
            transaction=transaction,
        )
        claim.keep(Answer(value={}), transaction, is_versioned=True)
    return await ack


async def _delete_once(call: Call, claim: Claim, key: str, expected_version: int | None) -> bool:
    """Whether it was there must be known before it is written down, so it is made a condition."""
    store = _store(call)
    entry = await store.get(key)
    found = 0 if entry is None else entry.version
    if expected_version is not None and expected_version != found:
        raise VersionConflictError(store.namespace, key, expected_version, found)
    async with call.state.registry.transaction() as transaction:
        store.delete_nowait(key, expected_version=found, transaction=transaction)
        claim.keep(Answer(value={"deleted": found != 0}), transaction)
    return found != 0


# --- watching ---


def _watch(call: Call, store: KeyValueStore, prefix: str) -> EventStream:
    seen = call.request.headers.get("last-event-id")
    if seen is not None and not (seen.isascii() and seen.isdecimal() and len(seen) < 20):
        raise InvalidArgumentError(f"Last-Event-ID is a version, not {seen!r:.80}")

    @asynccontextmanager
    async def events() -> AsyncIterator[AsyncIterator[Event]]:
        async with store.watch(prefix) as changes:
            yield _Changes(changes, None if seen is None else store.scan(prefix), int(seen or 0))

    return EventStream(call.state, events)


@define(eq=False)
class _Changes:
    """The changes of keys as events.

    Resumed, it begins with what has changed since, as far as it is there to be seen: what was
    deleted meanwhile is not. These have no ids, so that a stream that breaks off among them begins
    with all of them again. What changes while they are told may be told twice, also a value between
    two others; the last word on each key is right.
    """

    _changes: KeyWatch
    _scan: AsyncIterator[Entry] | None
    _seen: int

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        while self._scan is not None:
            entry = await anext(self._scan, None)
            if entry is None:
                self._scan = None
                return Event(kind="resumed", data={"deletions": "unknown"})
            if entry.version > self._seen:
                return Event(kind="put", data=_change(entry.key, entry.version, entry.value))
        return _event(await anext(self._changes))


def _event(change: KeyChange) -> Event:
    if change.version is None:
        return Event(kind="delete", data={"key": change.key})
    data = _change(change.key, change.version, change.value)
    return Event(kind="put", data=data, id=str(change.version))


def _change(key: str | bytes, version: int, value: bytes | None) -> dict[str, Any]:
    return {"key": key, "version": version, "value": value}


# --- shapes ---


def _store(call: Call) -> KeyValueStore:
    return call.state.registry.key_value_store(call.name("namespace"))


def _key(call: Call) -> str:
    key: str = call.request.path_params["key"]
    return key


def _shown(entry: Entry) -> dict[str, Any]:
    return {
        "key": entry.key,
        "value": entry.value,
        "version": entry.version,
        "expires_at": entry.expires_at,
    }


_ONE: Final = "/v1/keys/{namespace}/{key:path}"

ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/keys/{namespace}",
        handler=list_keys,
        role=Role.READ,
        summary="Entries of a namespace, or their changes",
    ),
    Endpoint(
        method="GET", path=_ONE, handler=get_key, role=Role.READ, summary="The value of a key"
    ),
    Endpoint(
        method="PUT",
        path=_ONE,
        handler=put_key,
        role=Role.WRITE,
        summary="Set a key",
        takes_key=True,
    ),
    Endpoint(
        method="DELETE",
        path=_ONE,
        handler=delete_key,
        role=Role.WRITE,
        summary="Remove a key",
        takes_key=True,
    ),
)

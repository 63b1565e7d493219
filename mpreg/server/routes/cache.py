"""Cached values: any JSON or MessagePack, with a time to live and tags; numbers; invalidations; and
what changes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, Literal, Self

import msgspec
from attrs import define
from starlette.types import ASGIApp

from mpreg.cache import (
    CacheChange,
    Found,
    GlobalCacheKey,
    KeyPart,
    NamespaceStatistics,
    Watch,
    WriteMode,
)
from mpreg.errors import InvalidArgumentError, NotFoundError, RequestRefusedError
from mpreg.persistence import Durability
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.idempotency import versioned
from mpreg.server.names import checked_name
from mpreg.server.negotiation import JSON, decode
from mpreg.server.routes.conditions import condition_of, etag, is_unchanged
from mpreg.server.streams import Event, EventStream

__all__ = ["ENDPOINTS"]

#: Of the values of one answer together; the last one may go beyond.
ANSWER_BYTES_MAX: Final = 4 << 20
#: Looked up at once: so many values are in memory at once.
KEYS_AT_ONCE: Final = 16

_NEVER_READ: Final = NamespaceStatistics(memory_hits=0, disk_hits=0, misses=0)


class IncrementRequest(msgspec.Struct, forbid_unknown_fields=True):
    by: int = 1
    initial: int = 0
    ttl_seconds: float | None = None
    durability: Literal["durable", "relaxed"] | None = None


class InvalidateRequest(msgspec.Struct, forbid_unknown_fields=True):
    namespace: str | None = None
    prefix: Any = None
    tag: str | None = None
    dependency: list[Any] | None = None


class GetManyRequest(msgspec.Struct, forbid_unknown_fields=True):
    keys: list[list[Any]]


class OneEntry(msgspec.Struct, forbid_unknown_fields=True):
    key: list[Any]
    value: Any


class PutManyRequest(msgspec.Struct, forbid_unknown_fields=True):
    entries: list[OneEntry]
    ttl_seconds: float | None = None
    tags: list[str] = []
    dependencies: list[list[Any]] = []
    cost: float = 1.0


# --- values ---


async def get_cached(call: Call) -> Answer:
    """The value of a key. ``ETag`` is its version; ``If-None-Match`` with that: 304."""
    key = _key(call)
    found = await call.state.cache.get(key)
    if found is None:
        raise NotFoundError(f"{key!r:.200} is not cached")
    headers = _headers(found)
    if found.version is not None and is_unchanged(call.request.headers, found.version):
        return Answer(status=304, value=b"", is_raw=True, headers=headers)
    return Answer(value=found.value, headers=headers)


async def put_cached(call: Call) -> Answer:
    """Cache the value of the body. ``ttl_seconds`` from now it is gone; each ``tags`` is a name to
    invalidate it by, each ``dependencies`` a key that invalidates it when it changes; ``cost`` is
    what it took to compute. ``If-Match`` and ``If-None-Match: *`` make it depend on the version
    that is there: 412."""
    key = _key(call)
    value = decode(await call.body(), call.request.headers.get("content-type"))
    query, cost = call.request.query_params, call.seconds("cost")
    details: dict[str, Any] = {
        "ttl_seconds": call.seconds("ttl_seconds"),
        "tags": query.getlist("tags"),
        "dependencies": [
            _key_of(_parts("dependencies", one)) for one in query.getlist("dependencies")
        ],
        "cost": 1.0 if cost is None else cost,
        "durability": Durability.DURABLE,
    }
    condition = condition_of(call.request.headers)
    if condition.exists:
        raise InvalidArgumentError('If-Match of a cached value is one ETag, as "7"')
    cache = call.state.cache
    if condition.expected_version is None:
        version = await (await cache.put(key, value, mode=WriteMode.WRITE_THROUGH, **details))
    else:
        expected = condition.expected_version
        version = await cache.compare_and_set(key, value, expected_version=expected, **details)
    return versioned(Answer(value={}), version)


async def delete_cached(call: Call) -> Answer:
    """Remove a key, and say whether it was there."""
    if any(name in call.request.headers for name in ("if-match", "if-none-match")):
        raise InvalidArgumentError("the removal of a cached value takes no condition")
    was_there = await call.state.cache.delete(
        _key(call), mode=WriteMode.WRITE_THROUGH, durability=Durability.DURABLE
    )
    return Answer(value={"deleted": was_there})


async def get_many_cached(call: Call) -> Answer:
    """The values of several keys, of those that are there; about 4 MiB of them. ``next``: so many
    keys were looked up, and the others are to be asked for again."""
    keys = [_key_of(parts) for parts in (await call.read(GetManyRequest)).keys]
    shown: list[dict[str, Any]] = []
    size = 0
    for start in range(0, len(keys), KEYS_AT_ONCE):
        some = keys[start : start + KEYS_AT_ONCE]
        found = await call.state.cache.get_many(some)
        for number, key in enumerate(some, start):
            if size >= ANSWER_BYTES_MAX:
                return Answer(value={"found": shown, "next": number})
            if (one := found.pop(key, None)) is not None:
                shown.append(_shown_value(key, one))
                size += len(msgspec.msgpack.encode(one.value))
    return Answer(value={"found": shown, "next": None})


def _shown_value(key: GlobalCacheKey, found: Found) -> dict[str, Any]:
    return {
        "key": list(key),
        "value": found.value,
        "level": found.level,
        "version": found.version,
        "expires_at": found.expires_at,
    }


async def put_many_cached(call: Call) -> Answer:
    """Cache several values, all or none; the ``version`` is that of the last one."""
    what = await call.read(PutManyRequest)
    ack = await call.state.cache.put_many(
        {_key_of(one.key): one.value for one in what.entries},
        ttl_seconds=what.ttl_seconds,
        tags=what.tags,
        dependencies=[_key_of(parts) for parts in what.dependencies],
        cost=what.cost,
        mode=WriteMode.WRITE_THROUGH,
        durability=Durability.DURABLE,
    )
    return Answer(value={"version": None if ack is None else await ack})


async def increment(call: Call) -> Answer:
    """Add to a number, atomically; one that is not there begins at ``initial``. As
    ``durability`` asks; without it, as durable as the ``write_mode`` of the cache says."""
    what = await call.read(IncrementRequest)
    value = await call.state.cache.increment(
        _key(call),
        what.by,
        initial=what.initial,
        ttl_seconds=what.ttl_seconds,
        durability=None if what.durability is None else Durability(what.durability),
    )
    return Answer(value={"value": value})


async def invalidate(call: Call) -> Answer:
    """Make entries invisible, all at once: those of a ``namespace``, or of it those that begin with
    ``prefix``; those with a ``tag``; those that depend on a key."""
    what = await call.read(InvalidateRequest)
    version = await call.state.cache.invalidate(
        namespace=None if what.namespace is None else checked_name("namespace", what.namespace),
        prefix=tuple(what.prefix) if isinstance(what.prefix, list) else what.prefix,
        tag=what.tag,
        dependency=None if what.dependency is None else _key_of(what.dependency),
    )
    return Answer(value={"version": version})


# --- all of it, and a namespace ---


async def get_cache(call: Call) -> Answer | ASGIApp:
    """How much is cached, and how it is used, since the start of the node. With ``watch``: all
    changes from now on, as server-sent events."""
    if call.flag("watch"):
        return _watch(call, None, None)
    return Answer(value=msgspec.to_builtins(call.state.cache.statistics()))


async def get_namespace(call: Call) -> Answer | ASGIApp:
    """How reads of a namespace went since the start of the node. With ``watch``: its changes from
    now on, of keys that begin with ``prefix``, or with ``parts``, as server-sent events."""
    namespace = call.name("namespace")
    if call.flag("watch"):
        return _watch(call, namespace, _prefix(call))
    statistics = call.state.cache.statistics().namespaces.get(namespace, _NEVER_READ)
    return Answer(
        value={
            "namespace": namespace,
            "memory_hits": statistics.memory_hits,
            "disk_hits": statistics.disk_hits,
            "misses": statistics.misses,
        }
    )


def _prefix(call: Call) -> KeyPart | tuple[KeyPart, ...] | None:
    prefix, parts = call.query("prefix"), call.query("parts")
    if prefix is not None and parts is not None:
        raise InvalidArgumentError("prefix or parts, not both")
    return prefix if parts is None else tuple(_parts("parts", parts))


def _watch(
    call: Call, namespace: str | None, prefix: KeyPart | tuple[KeyPart, ...] | None
) -> EventStream:
    @asynccontextmanager
    async def events() -> AsyncIterator[AsyncIterator[Event]]:
        cache = call.state.cache
        async with cache.watch(namespace=namespace, prefix=prefix) as changes:
            yield _Changes(changes)

    return EventStream(call.state, events)


@define(eq=False)
class _Changes:
    """The changes of a cache as events. They have no ids: what was missed cannot be told."""

    _changes: Watch

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Event:
        change = await anext(self._changes)
        return Event(kind=change.kind.value, data=_shown(change))


# --- shapes ---


def _shown(change: CacheChange) -> dict[str, Any]:
    shown = {
        "version": change.version,
        "key": change.key,
        "namespace": change.namespace,
        "prefix": change.prefix,
        "tag": change.tag,
        "dependency": change.dependency,
    }
    # As lists: a key is a tuple.
    return {
        name: list(one) if isinstance(one, tuple) else one
        for name, one in shown.items()
        if one is not None
    }


def _headers(found: Found) -> dict[str, str]:
    headers: dict[str, str] = {"x-mpreg-cache-level": found.level}
    if found.version is not None:
        headers["etag"] = etag(found.version)
    if found.expires_at is not None:
        headers["x-mpreg-expires-at"] = repr(found.expires_at)
    return headers


def _key(call: Call) -> GlobalCacheKey:
    """The rest of the path is its one part; ``parts`` are several, or of other types."""
    namespace, rest = call.name("namespace"), call.request.path_params["key"]
    parts = call.query("parts")
    if parts is None:
        return GlobalCacheKey(namespace, rest)
    if rest:
        raise InvalidArgumentError("a key is what stands in the path, or parts, not both")
    return _key_of([namespace, *_parts("parts", parts)])


def _key_of(parts: list[Any]) -> GlobalCacheKey:
    if not parts:
        raise InvalidArgumentError("a key is a namespace and one part or more")
    return GlobalCacheKey(*parts)


def _parts(name: str, text: str) -> list[Any]:
    try:
        parts = decode(text.encode(), JSON)
    except (RequestRefusedError, UnicodeEncodeError):
        parts = None
    if not isinstance(parts, list):
        raise InvalidArgumentError(f"{name} is a list in JSON, not {text!r:.80}")
    return parts


_ONE: Final = "/v1/cache/{namespace}/{key:path}"

ENDPOINTS: Final = (
    Endpoint(
        method="GET",
        path="/v1/cache",
        handler=get_cache,
        role=Role.READ,
        summary="How the cache is used, or all its changes",
    ),
    Endpoint(
        method="GET",
        path="/v1/cache/{namespace}",
        handler=get_namespace,
        role=Role.READ,
        summary="How a namespace of the cache is read, or its changes",
    ),
    Endpoint(method="GET", path=_ONE, handler=get_cached, role=Role.READ, summary="A cached value"),
    Endpoint(
        method="PUT",
        path=_ONE,
        handler=put_cached,
        role=Role.WRITE,
        summary="Cache a value",
        takes_key=True,
    ),
    Endpoint(
        method="DELETE",
        path=_ONE,
        handler=delete_cached,
        role=Role.WRITE,
        summary="Remove a cached value",
        takes_key=True,
    ),
    Endpoint(
        method="POST",
        path=f"{_ONE}/increment",
        handler=increment,
        role=Role.WRITE,
        summary="Add to a cached number",
    ),
    Endpoint(
        method="POST",
        path="/v1/cache/get-many",
        handler=get_many_cached,
        role=Role.READ,
        summary="Cached values of several keys",
    ),
    Endpoint(
        method="POST",
        path="/v1/cache/put-many",
        handler=put_many_cached,
        role=Role.WRITE,
        summary="Cache several values",
        takes_key=True,
    ),
    Endpoint(
        method="POST",
        path="/v1/cache/invalidate",
        handler=invalidate,
        role=Role.WRITE,
        summary="Make cached values invisible",
        takes_key=True,
    ),
)

"""The cache of a node, with the names and signatures of the one in the same process."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Any, Final

import httpx
import msgspec
from attrs import define

from mpreg.actors import Ack
from mpreg.cache import (
    CacheChange,
    CacheLevel,
    CacheStatistics,
    ChangeKind,
    Found,
    GlobalCacheKey,
    KeyPart,
)
from mpreg.cache.computing import Compute
from mpreg.cache.keys import check_key, encode_key
from mpreg.cache.requests import (
    Details,
    check_choices,
    check_compute,
    check_increment,
    check_negative_ttl,
    checked_beginning,
    checked_target,
    checked_version,
)
from mpreg.client.cache_shapes import as_parts, change_in, details_in_body, details_in_query
from mpreg.client.calls import MESSAGEPACK, SIZE_BYTES_MAX, Calls, value_of
from mpreg.client.computing import Change, Computations, Recipe
from mpreg.client.names import as_name
from mpreg.client.watching import RemoteWatch
from mpreg.codec import encode_value
from mpreg.errors import (
    InvalidArgumentError,
    NotFoundError,
    VersionConflictError,
)
from mpreg.persistence import Durability

__all__ = ["RemoteCacheManager", "RemoteCacheWatch"]

#: Kept for who does not take them.
WATCHED_CHANGES_MAX: Final = 10_000


@define(eq=False)
class RemoteCacheManager:
    """The cache of a node: `mpreg.cache.GlobalCacheManager`, asked over HTTP. Nothing is kept here:
    each read asks the node.

    Every write is durable when it returns; but for `increment` it is made once, however often it
    was tried. It raises what its embedded form raises, what the node tells of itself
    (`mpreg.errors.NodeError`), and `NodeUnreachableError`.
    """

    _calls: Calls
    _computations: Computations

    # --- reading ---

    async def get(self, key: GlobalCacheKey) -> Found | None:
        """The value of a key; None where there is none, or it is not fresh any more."""
        encode_key(key)
        path, params = _where(key)
        try:
            answer = await self._calls.read(path, params=params)
        except NotFoundError:
            return None
        return _found(answer)

    async def get_many(self, keys: Iterable[GlobalCacheKey]) -> dict[GlobalCacheKey, Found]:
        """Those that are there."""
        wanted = list(dict.fromkeys(keys))
        for key in wanted:
            encode_key(key)
        found: dict[GlobalCacheKey, Found] = {}
        while wanted:
            body = {"keys": [list(key) for key in wanted]}
            answer = await self._calls.ask("POST", "/v1/cache/get-many", body=body, is_read=True)
            page = value_of(answer)
            found |= {GlobalCacheKey(*one.pop("key")): Found(**one) for one in page["found"]}
            # What has no room in one answer comes with the next.
            wanted = wanted[page["next"] :] if page.get("next") else []
        return found

    # --- writing ---

    async def put(
        self,
        key: GlobalCacheKey,
        value: object,
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
    ) -> Ack[int]:
        """Cache a value. The ack gives its version, and is answered.
        `mpreg.cache.GlobalCacheManager.put`."""
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        async with self._changing(key):
            return _answered(await self._put(key, value, details))

    async def put_many(
        self,
        values: Mapping[GlobalCacheKey, object],
        *,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
    ) -> Ack[int] | None:
        """`put` of several, all or nothing. The ack is that of the last; None: there is none."""
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        encoded = [encode_key(key) for key in values]
        entries = [
            {"key": list(key), "value": msgspec.Raw(encode_value(value, SIZE_BYTES_MAX))}
            for key, value in values.items()
        ]
        if not entries:
            return None
        body = {"entries": entries, **details_in_body(details)}
        async with self._computations.changing(Change(keys=frozenset(encoded))):
            answer = await self._calls.write("POST", "/v1/cache/put-many", body=body)
        return _answered(value_of(answer)["version"])

    async def delete(self, key: GlobalCacheKey) -> bool:
        """Remove a key. True if it was there when that began; where it was tried again over a kill
        of the node, perhaps False all the same."""
        async with self._changing(key):
            path, params = _where(key)
            answer = await self._calls.write("DELETE", path, params=params)
        was_there: bool = value_of(answer)["deleted"]
        return was_there

    async def compare_and_set(
        self,
        key: GlobalCacheKey,
        value: object,
        *,
        expected_version: int,
        ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float = 1.0,
    ) -> int:
        """Cache a value if the key has this version now (`Found.version`); 0: if it is not there.
        Returns the new version.

        Raises:
            VersionConflictError: it has another one; nothing was written.
            NodeUnreachableError: also where it has another one now, and an attempt before, whose
                answer was lost, may have brought that about.
        """
        checked_version(expected_version)
        details = Details(ttl_seconds=ttl_seconds, tags=tags, dependencies=dependencies, cost=cost)
        async with self._changing(key):
            return await self._put(key, value, details, expected_version)

    def _changing(self, key: GlobalCacheKey) -> AbstractAsyncContextManager[None]:
        return self._computations.changing(Change(keys=frozenset((encode_key(key),))))

    async def _put(
        self,
        key: GlobalCacheKey,
        value: object,
        details: Details,
        expected_version: int | None = None,
    ) -> int:
        path, params = _where(key)
        headers = {"content-type": MESSAGEPACK}
        if expected_version is not None:
            name = "if-match" if expected_version else "if-none-match"
            headers[name] = f'"{expected_version}"' if expected_version else "*"
        try:
            answer = await self._calls.write(
                "PUT",
                path,
                content=encode_value(value, SIZE_BYTES_MAX),
                params=[*params.items(), *details_in_query(details)],
                headers=headers,
                perhaps_if=VersionConflictError,
            )
        except VersionConflictError as conflict:
            assert expected_version is not None
            found = conflict.found_version
            raise VersionConflictError(key.namespace, repr(key), expected_version, found) from None
        version: int = value_of(answer)["version"]
        return version

    async def increment(
        self,
        key: GlobalCacheKey,
        by: int = 1,
        *,
        initial: int = 0,
        ttl_seconds: float | None = None,
        durability: Durability | None = None,
    ) -> int:
        """Add to a number and return the sum, atomically. `mpreg.cache.GlobalCacheManager`. Without
        ``durability`` it is as durable as the ``write_mode`` of the node's cache says.

        Raises:
            InvalidArgumentError: what is there is no `int`, or the sum has more than 64 bits. An
                older node, which knows no ``durability``, refuses that, too.
            NodeUnreachableError: an answer was lost. It is not tried again then, as every other
                write is: it could be counted twice.
        """
        check_increment(by, initial, ttl_seconds)
        check_choices(None, durability)
        path, params = _where(key)
        body: dict[str, Any] = {"by": by, "initial": initial, "ttl_seconds": ttl_seconds}
        if durability is not None:
            # Else not at all: an older node refuses what it does not know.
            body["durability"] = durability.value
        async with self._changing(key):
            answer = await self._calls.ask(
                "POST", f"{path}/increment", body=body, params=params, is_made_once=False
            )
        sum: int = value_of(answer)["value"]
        return sum

    async def invalidate(
        self,
        *,
        namespace: str | None = None,
        prefix: KeyPart | tuple[KeyPart, ...] | None = None,
        tag: str | None = None,
        dependency: GlobalCacheKey | None = None,
    ) -> int:
        """Make entries invisible, all at once, and return the version of that: of a namespace (and
        a prefix), with a tag, or that depend on a key. `mpreg.cache.GlobalCacheManager.invalidate`.

        Raises:
            InvalidArgumentError: not exactly one of ``namespace``, ``tag`` and ``dependency``.
        """
        change = Change(target=checked_target(namespace, prefix, tag, dependency))
        body = {
            "namespace": namespace,
            "prefix": list(prefix) if isinstance(prefix, tuple) else prefix,
            "tag": tag,
            "dependency": None if dependency is None else list(dependency),
        }
        async with self._computations.changing(change):
            answer = await self._calls.write("POST", "/v1/cache/invalidate", body=body)
        version: int = value_of(answer)["version"]
        return version

    # --- computing ---

    async def get_or_compute(
        self,
        key: GlobalCacheKey,
        compute: Compute,
        *,
        ttl_seconds: float | None = None,
        negative_ttl_seconds: float | None = None,
        tags: Iterable[str] = (),
        dependencies: Iterable[GlobalCacheKey] = (),
        cost: float | None = None,
    ) -> Any:
        """The value of a key; where there is none, what ``compute()`` gives, which is cached.

        However many callers of this client ask at the same time, one computation runs, and goes on
        where some of them are cancelled; other processes compute for themselves, and the first
        result that comes is the one that is cached. What is changed or invalidated by this client
        meanwhile is not cached. An invalidation by somebody else is not noticed, nor a change of
        what its dependencies depend on in turn: what was computed from what was there before it is
        cached, and stays until its time to live ends.

        All else as `mpreg.cache.GlobalCacheManager.get_or_compute`, without ``stale_seconds``.
        """
        check_compute(compute)
        given = {"tags": tags, "dependencies": dependencies, "cost": 0.0 if cost is None else cost}
        details = Details(ttl_seconds=ttl_seconds, **given)  # type: ignore[arg-type]
        check_negative_ttl(negative_ttl_seconds)
        recipe = Recipe(
            look=partial(self._look, key),
            compute=compute,
            store=partial(self._store, key, details, negative_ttl_seconds, cost),
            keys=(encode_key(key), *details.checked_dependencies),
            tags=details.checked_tags,
        )
        return await self._computations.get(key, recipe)

    async def _look(self, key: GlobalCacheKey) -> tuple[bool, object]:
        found = await self.get(key)
        return (False, None) if found is None else (True, found.value)

    async def _store(
        self,
        key: GlobalCacheKey,
        details: Details,
        negative_ttl_seconds: float | None,
        cost: float | None,
        value: object,
        seconds: float,
    ) -> None:
        ttl_seconds = details.ttl_seconds
        if value is None and negative_ttl_seconds is not None:
            if negative_ttl_seconds == 0:
                return
            ttl_seconds = negative_ttl_seconds
        details = Details(
            ttl_seconds=ttl_seconds,
            tags=details.checked_tags,
            dependencies=details.dependencies,
            cost=seconds if cost is None else cost,
        )
        await self._put(key, value, details, expected_version=0)

    # --- the rest ---

    def watch(
        self,
        *,
        namespace: str | None = None,
        prefix: KeyPart | tuple[KeyPart, ...] | None = None,
    ) -> RemoteCacheWatch:
        """The changes of all keys, of those of a namespace, or of those of it that begin with
        ``prefix``, from now on: ``async with cache.watch() as changes``.

        Raises:
            InvalidArgumentError: ``prefix`` without ``namespace``; or it is bytes, alone.
        """
        path, params = "/v1/cache", {"watch": ""}
        checked_beginning(namespace, prefix)
        if namespace is not None:
            path = f"{path}/{as_name('namespace', namespace)}"
        if isinstance(prefix, bytes):
            raise InvalidArgumentError(f"over HTTP a prefix of one part is text: {prefix!r:.80}")
        if isinstance(prefix, str):
            params["prefix"] = prefix
        elif prefix is not None:
            params["parts"] = as_parts(prefix if isinstance(prefix, tuple) else (prefix,))
        return RemoteCacheWatch(WATCHED_CHANGES_MAX, calls=self._calls, path=path, params=params)

    async def statistics(self) -> CacheStatistics:
        """Counts as they are now. It asks the node, so it is awaited here."""
        return msgspec.convert(value_of(await self._calls.read("/v1/cache")), CacheStatistics)

    def __repr__(self) -> str:
        return "<RemoteCacheManager>"


@define(eq=False)
class RemoteCacheWatch(RemoteWatch[CacheChange]):
    """An async iterator over the changes of a cache from the moment its block was entered:
    `mpreg.cache.Watch`, over HTTP. Made by `RemoteCacheManager.watch`.

    Raises, while iterating:
        WatchLaggedError: some changes are missing from here on: more came than were taken, or the
            connection to the node was lost. Throw away what is held, and watch again.
    """

    def _change(self, kind: str, data: dict[str, Any]) -> CacheChange | None:
        known = {one.value for one in ChangeKind}
        return change_in(ChangeKind(kind), data) if kind in known else None


def _where(key: GlobalCacheKey) -> tuple[str, dict[str, str]]:
    check_key(key)
    return f"/v1/cache/{as_name('namespace', key.namespace)}/", {"parts": as_parts(key.parts)}


def _found(answer: httpx.Response) -> Found:
    headers = answer.headers
    version, expires_at = headers.get("etag"), headers.get("x-mpreg-expires-at")
    level: CacheLevel = "L1" if headers.get("x-mpreg-cache-level") == "L1" else "L2"
    return Found(
        value=msgspec.msgpack.decode(answer.content),
        level=level,
        version=None if version is None else int(version.strip('"')),
        expires_at=None if expires_at is None else float(expires_at),
    )


def _answered(version: int) -> Ack[int]:
    ack: Ack[int] = Ack()
    ack.resolve(version)
    return ack

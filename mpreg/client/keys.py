"""The keys of a node, with the names and signatures of those in the same process."""

from __future__ import annotations

import base64
from collections import deque
from collections.abc import AsyncIterator
from typing import Any, Final, Self

import httpx
from attrs import define, field

from mpreg.client.calls import SIZE_BYTES_MAX, Calls, value_of
from mpreg.client.names import as_key, as_name
from mpreg.client.watching import RemoteWatch
from mpreg.codec import encode_bytes
from mpreg.errors import (
    InvalidArgumentError,
    NotFoundError,
    VersionConflictError,
)
from mpreg.persistence import Entry, KeyChange
from mpreg.persistence.kv_store import WATCHED_CHANGES_MAX

__all__ = ["RemoteKeyValueStore", "RemoteKeyWatch"]

SCAN_ENTRIES: Final = 1_000


@define(eq=False)
class RemoteKeyValueStore:
    """The keys of one namespace of a node: `mpreg.persistence.KeyValueStore`, asked over HTTP.

    Keys are `str` here. Every write is durable when it returns, and made once, however often it was
    tried. It raises what its embedded form raises, what the node tells of itself
    (`mpreg.errors.NodeError`), and `NodeUnreachableError`.
    """

    _calls: Calls
    namespace: str
    _path: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._path = f"/v1/keys/{as_name('namespace', self.namespace)}"

    async def put(
        self,
        key: str | bytes,
        value: bytes,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
    ) -> int:
        """Set a key and return its new version. ``expected_version``: the version that the key must
        have now; 0: it must not exist.

        Raises:
            VersionConflictError: it has another one; not written.
        """
        content = encode_bytes(value, SIZE_BYTES_MAX)
        params = {} if ttl_seconds is None else {"ttl_seconds": _number(ttl_seconds)}
        answer = await self._write("PUT", key, expected_version, content=content, params=params)
        version: int = value_of(answer)["version"]
        return version

    async def delete(self, key: str | bytes, *, expected_version: int | None = None) -> bool:
        """Remove a key. True if it was there (and had not expired).

        Raises:
            VersionConflictError: it has another version; not written.
        """
        answer = await self._write("DELETE", key, expected_version)
        was_there: bool = value_of(answer)["deleted"]
        return was_there

    async def _write(
        self, method: str, key: str | bytes, expected_version: int | None, **options: Any
    ) -> httpx.Response:
        path = self._path_of(key)
        headers = _condition(expected_version)
        try:
            return await self._calls.write(method, path, headers=headers, **options)
        except VersionConflictError as conflict:
            found = conflict.found_version
            expected = -1 if expected_version is None else expected_version
            raise VersionConflictError(self.namespace, key, expected, found) from None

    async def get(self, key: str | bytes) -> Entry | None:
        """The entry of a key; None where there is none, or it has expired."""
        try:
            answer = await self._calls.read(self._path_of(key))
        except NotFoundError:
            return None
        expires_at = answer.headers.get("x-mpreg-expires-at")
        return Entry(
            key=key,
            value=answer.content,
            version=int(answer.headers["etag"].strip('"')),
            expires_at=None if expires_at is None else float(expires_at),
        )

    def scan(
        self, prefix: str | bytes | None = None, *, after: str | bytes | None = None
    ) -> AsyncIterator[Entry]:
        """The entries whose keys start with ``prefix``, in order of their keys; with ``after``,
        those that come after that key. Read page by page; stopping early costs nothing."""
        params = {"limit": str(SCAN_ENTRIES)}
        for name, key in ("prefix", prefix), ("after", after):
            if key is not None:
                as_key(key)
                params[name] = str(key)
        return _Scan(self._calls, self._path, params)

    def watch(
        self, prefix: str | bytes | None = None, *, changes_max: int = WATCHED_CHANGES_MAX
    ) -> RemoteKeyWatch:
        """The changes of all keys, or of those that start with ``prefix``, from now on:
        ``async with store.watch() as changes``, and ``async for change in changes``.

        ``changes_max`` are kept for who does not take them; with more, the watch ends.
        """
        params = {"watch": ""}
        if prefix is not None:
            as_key(prefix)
            params["prefix"] = str(prefix)
        return RemoteKeyWatch(changes_max, calls=self._calls, path=self._path, params=params)

    def _path_of(self, key: str | bytes) -> str:
        return f"{self._path}/{as_key(key)}"

    def __repr__(self) -> str:
        return f"<RemoteKeyValueStore {self.namespace!r}>"


@define(eq=False)
class _Scan:
    _calls: Calls
    _path: str
    _params: dict[str, str]
    _page: deque[Entry] = field(factory=deque)
    _has_more: bool = True

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Entry:
        while not self._page:
            if not self._has_more:
                raise StopAsyncIteration
            found = value_of(await self._calls.read(self._path, params=self._params))
            self._page.extend(Entry(**entry) for entry in found["entries"])
            self._has_more = found["next"] is not None
            if self._has_more:
                self._params["after"] = found["next"]
        return self._page.popleft()


@define(eq=False)
class RemoteKeyWatch(RemoteWatch[KeyChange]):
    """An async iterator over the changes of keys, in the order in which they were committed, from
    the moment its block was entered: `mpreg.persistence.KeyWatch`, over HTTP. Made by
    `RemoteKeyValueStore.watch`.

    One task iterates; cancelled while it waits, it has missed nothing and may go on.

    Raises, while iterating:
        WatchLaggedError: some changes are missing from here on: more came than were taken, or the
            connection to the node was lost. Watch again, and read what matters anew.
    """

    def _change(self, kind: str, data: dict[str, Any]) -> KeyChange | None:
        if kind == "put":
            value = base64.b64decode(data["value"]["$base64"])
            return KeyChange(data["key"], value, data["version"])
        return KeyChange(data["key"], None, None) if kind == "delete" else None


def _condition(expected_version: object) -> dict[str, str]:
    if expected_version is None:
        return {}
    if (
        isinstance(expected_version, bool)
        or not isinstance(expected_version, int)
        or expected_version < 0
    ):
        raise InvalidArgumentError(f"expected_version is a version or 0, not {expected_version!r}")
    if expected_version == 0:
        return {"if-none-match": "*"}
    return {"if-match": f'"{expected_version}"'}


def _number(seconds: object) -> str:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgumentError(f"ttl_seconds is a number of seconds, not {seconds!r}")
    return repr(float(seconds))

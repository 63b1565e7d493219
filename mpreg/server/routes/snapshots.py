"""Snapshots: complete states of any size, up and down in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from attrs import define
from starlette.types import ASGIApp

from mpreg.persistence import SnapshotReader, SnapshotRetention, SnapshotStore, Transaction
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.routes.conditions import etag, is_unchanged
from mpreg.server.routes.ranges import range_of
from mpreg.server.streams import Download, Opened

__all__ = ["ENDPOINTS"]

NUMBER_MAX: Final = 2**63 - 1


async def put_snapshot(call: Call) -> Answer:
    """Save the body, of any size and any bytes, as a new version: durable and visible when all of
    it is there, and not at all before. ``versions_max`` and ``seconds_max`` say what is kept from
    now on: the newest so many, those that are younger; without both it stays as it is."""
    retention = _retention(call)
    claim = call.claim

    def published(version: int, transaction: Transaction) -> None:
        if claim is not None:
            claim.keep(_saved(version), transaction)

    store = _store(call, retention)
    return _saved(await store.save(call.chunks(), published=published))


def _saved(version: int) -> Answer:
    return Answer(value={"version": version}, headers={"etag": etag(version)})


async def get_snapshot(call: Call) -> ASGIApp:
    """A version as it was saved, the newest unless ``version`` is given. ``ETag`` is its number;
    ``If-None-Match`` with that: 304. Each piece is verified before it is sent, and the connection
    is cut where one is damaged. ``Range: bytes=100-`` is the rest of it from there: 206; with
    ``If-Range`` only of that version. ``X-MPREG-Size`` and ``X-MPREG-CRC32`` are those of the
    whole."""
    store, version = _store(call), _version(call)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Opened]:
        async with store.open(version) as reader:
            headers = {
                "etag": etag(reader.version),
                "x-mpreg-saved-at": repr(reader.saved_at),
                "x-mpreg-crc32": f"{reader.checksum:08x}",
                "x-mpreg-size": str(reader.size_bytes),
                "accept-ranges": "bytes",
            }
            if is_unchanged(call.request.headers, reader.version):
                yield Opened(304, headers, None)
                return
            wanted = range_of(call.request.headers, reader.version, reader.size_bytes)
            headers["content-type"] = "application/octet-stream"
            start, stop = wanted or (0, reader.size_bytes)
            headers["content-length"] = str(stop - start)
            if wanted is not None:
                headers["content-range"] = f"bytes {start}-{stop - 1}/{reader.size_bytes}"
                await reader.seek(start)
            # Before the head is sent: where this is damaged, it can still be told in words.
            # Held by nothing else, so that it goes when it was sent.
            part = _Part(reader, await anext(reader, b""), stop - start, stop == reader.size_bytes)
            yield Opened(200 if wanted is None else 206, headers, part)

    return Download(opened)


@define(eq=False)
class _Part(AsyncIterator[bytes]):
    """So many bytes of a reader, of which the first piece has been read."""

    _reader: SnapshotReader
    _first: bytes
    _left: int
    _is_to_the_end: bool
    """There the reader looks at the whole."""

    async def __anext__(self) -> bytes:
        if not (self._left or self._is_to_the_end):
            raise StopAsyncIteration
        piece, self._first = self._first, b""
        piece = (piece or await anext(self._reader))[: self._left]
        self._left -= len(piece)
        return piece


async def list_versions(call: Call) -> Answer:
    """The versions that are kept, from the oldest to the newest."""
    versions = await _store(call).versions()
    return Answer(
        value={
            "versions": [
                {"version": one.version, "size_bytes": one.size_bytes, "saved_at": one.saved_at}
                for one in versions
            ]
        }
    )


async def delete_snapshot(call: Call) -> Answer:
    """Remove the version ``version``, or without it all of them; ``deleted``: whether there was
    any. Who is reading one reads it to its end."""
    store, version = _store(call), _version(call)

    async def effect() -> Answer:
        return Answer(value={"deleted": await store.delete(version)})

    # One version is never another one, and may be removed again.
    return await (call.write_once(effect) if version is None else effect())


def _store(call: Call, retention: SnapshotRetention | None = None) -> SnapshotStore:
    return call.state.registry.snapshot_store(call.name("snapshot"), retention=retention)


def _version(call: Call) -> int | None:
    if call.query("version") is None:
        return None
    return call.number("version", 1, minimum=1, maximum=NUMBER_MAX)


def _retention(call: Call) -> SnapshotRetention | None:
    seconds = call.seconds("seconds_max")
    if call.query("versions_max") is not None:
        versions = call.number("versions_max", 1, minimum=1, maximum=NUMBER_MAX)
        return SnapshotRetention(versions_max=versions, seconds_max=seconds)
    if seconds is not None:
        return SnapshotRetention(versions_max=None, seconds_max=seconds)
    return None


_ONE: Final = "/v1/snapshots/{snapshot}"

ENDPOINTS: Final = (
    Endpoint(
        method="PUT",
        path=_ONE,
        handler=put_snapshot,
        role=Role.WRITE,
        summary="Save a new version",
        takes_key=True,
        streams_body=True,
    ),
    Endpoint(
        method="GET",
        path=_ONE,
        handler=get_snapshot,
        role=Role.READ,
        summary="A version, as it was saved",
    ),
    Endpoint(
        method="GET",
        path=f"{_ONE}/versions",
        handler=list_versions,
        role=Role.READ,
        summary="The versions that are kept",
    ),
    Endpoint(
        method="DELETE",
        path=_ONE,
        handler=delete_snapshot,
        role=Role.WRITE,
        summary="Remove one version, or all",
        takes_key=True,
    ),
)

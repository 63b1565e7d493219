"""Snapshots: complete states of any size, up and down in pieces."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from starlette.types import ASGIApp

from mpreg.persistence import SnapshotRetention, SnapshotStore
from mpreg.server.answers import Answer
from mpreg.server.auth import Role
from mpreg.server.calls import Call, Endpoint
from mpreg.server.routes.conditions import etag, is_unchanged
from mpreg.server.streams import Download, Opened

__all__ = ["ENDPOINTS"]

NUMBER_MAX: Final = 2**63 - 1


async def put_snapshot(call: Call) -> Answer:
    """Save the body, of any size and any bytes, as a new version: durable and visible when all of
    it is there, and not at all before. ``versions_max`` and ``seconds_max`` say what is kept from
    now on: the newest so many, those that are younger; without both it stays as it is."""
    retention = _retention(call)
    version = await _store(call, retention).save(call.chunks())
    return Answer(value={"version": version}, headers={"etag": etag(version)})


async def get_snapshot(call: Call) -> ASGIApp:
    """A version as it was saved, the newest unless ``version`` is given. ``ETag`` is its number;
    ``If-None-Match`` with that: 304. Each piece is verified before it is sent, and the connection
    is cut where one is damaged."""
    store, version = _store(call), _version(call)

    @asynccontextmanager
    async def opened() -> AsyncIterator[Opened]:
        async with store.open(version) as reader:
            headers = {
                "etag": etag(reader.version),
                "x-mpreg-saved-at": repr(reader.saved_at),
            }
            if is_unchanged(call.request.headers, reader.version):
                yield Opened(304, headers, None)
            else:
                headers["content-type"] = "application/octet-stream"
                headers["content-length"] = str(reader.size_bytes)
                yield Opened(200, headers, reader)

    return Download(opened)


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
    return Answer(value={"deleted": await _store(call).delete(_version(call))})


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

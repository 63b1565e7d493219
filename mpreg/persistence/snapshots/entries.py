"""The entries of one snapshot: how they are read, and what is said where they are damaged."""

from __future__ import annotations

from typing import TypeVar

import anyio
import msgspec
from attrs import frozen

from mpreg.codec import encode_key, prefix_end
from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import GetEntry, ScanEntries, ScanPage, StoredEntry
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Put
from mpreg.persistence.snapshots.layout import (
    ANY_VERSION,
    VERSION,
    VERSIONS_KEY,
    Manifest,
    VersionList,
    number_in,
    numbered_key,
)
from mpreg.persistence.snapshots.retention import SnapshotRetention
from mpreg.persistence.snapshots.sharing import SnapshotSharing

__all__ = ["SnapshotEntries"]

T = TypeVar("T")


@frozen(eq=False)
class SnapshotEntries:
    gateway: StoreGateway
    sharing: SnapshotSharing
    name: str
    namespace: bytes

    async def get(self, key: bytes) -> StoredEntry | None:
        entry: StoredEntry | None = await self.gateway.read(GetEntry(self.namespace, key))
        return entry

    async def scan(self, start: bytes) -> list[StoredEntry | CorruptDataError]:
        """All entries whose encoded keys begin like this. For entries that are few and small."""
        found: list[StoredEntry | CorruptDataError] = []
        stop = prefix_end(start)
        following: bytes | None = start
        while following is not None:
            page: ScanPage = await self.gateway.read(ScanEntries(self.namespace, following, stop))
            found += page.entries
            following = page.next_start
        return found

    async def numbered(self, prefix: str) -> list[StoredEntry | CorruptDataError]:
        return await self.scan(encode_key(prefix))

    def put(self, key: bytes, value: msgspec.Struct, expected_version: int | None = None) -> Put:
        return Put(self.namespace, key, msgspec.msgpack.encode(value), None, expected_version)

    # --- the list of versions ---

    async def versions(self) -> tuple[int, VersionList]:
        """The list, and the version that it must have to be changed.

        Raises:
            CorruptDataError: it is damaged, or missing while there are versions.
        """
        try:
            entry = await self.get(VERSIONS_KEY)
            if entry is None and (found := await self.scan(ANY_VERSION)):
                # One page shows one state: either it was made just now, or it is gone.
                entry = found[-1] if isinstance(found[-1], StoredEntry) else None
                if entry is None or entry.key != VERSIONS_KEY:
                    raise CorruptDataError("it is missing")
            if entry is None:
                return 0, VersionList()
            return entry.version, msgspec.msgpack.decode(entry.value, type=VersionList)
        except (CorruptDataError, msgspec.MsgspecError) as error:
            raise self.corrupt("the list of versions is damaged", cause=error) from error

    async def versions_to_change(self) -> tuple[int, VersionList]:
        """`versions`, made anew from what is intact where it is damaged.

        A new version is what helps then, and it is not to be refused.
        """
        try:
            return await self.versions()
        except CorruptDataError:
            async with self.sharing.repairing:
                await self._repair()
            return await self.versions()

    async def _repair(self) -> None:
        try:
            await self.versions()
        except CorruptDataError:
            versions = []
            for entry in await self.numbered(VERSION):
                if isinstance(entry, StoredEntry):
                    manifest = self._decode(entry, Manifest)
                    if manifest is not None:
                        versions.append(manifest.listed(number_in(VERSION, entry.key)))
            # Nobody may be left to say how many are kept: as many as there are.
            retention = self.sharing.retention(self.namespace) or SnapshotRetention(
                versions_max=max(1, len(versions))
            )
            anew = VersionList().changed(0, tuple(versions), retention)
            # On its way it must not be left behind: it would go over what others write after it.
            with anyio.CancelScope(shield=True):
                await self.gateway.write(self.put(VERSIONS_KEY, anew), Durability.RELAXED)

    def retention(self, listed: VersionList) -> SnapshotRetention:
        return self.sharing.retention(self.namespace) or listed.retention

    # --- manifests ---

    async def manifest(self, number: int) -> tuple[int, Manifest] | None:
        """The manifest of a version, and the version of its entry.

        Raises:
            CorruptDataError: it is damaged.
        """
        try:
            entry = await self.get(numbered_key(VERSION, number))
            if entry is None:
                return None
            return entry.version, msgspec.msgpack.decode(entry.value, type=Manifest)
        except (CorruptDataError, msgspec.MsgspecError) as error:
            raise self.corrupt("the manifest is damaged", version=number, cause=error) from error

    def _decode(self, entry: StoredEntry, type: type[T]) -> T | None:
        try:
            return msgspec.msgpack.decode(entry.value, type=type)
        except msgspec.MsgspecError:
            return None

    # --- errors ---

    def corrupt(
        self,
        message: str,
        *,
        version: int | None = None,
        chunk: int | None = None,
        cause: Exception | None = None,
    ) -> CorruptDataError:
        path = cause.path if isinstance(cause, CorruptDataError) else None
        where = f"snapshot {self.name!r}"
        if version is not None:
            where += f", version {version}"
        if chunk is not None:
            where += f", chunk {chunk}"
        return CorruptDataError(message, path, where)

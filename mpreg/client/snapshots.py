"""The snapshots of a node, with the names and signatures of those in the same process."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterable
from contextlib import asynccontextmanager
from typing import Final

from attrs import define, field

from mpreg.client.calls import Calls, value_of
from mpreg.client.names import as_name
from mpreg.client.snapshot_reader import RemoteSnapshotReader, corrupt
from mpreg.client.uploads import Upload
from mpreg.errors import CorruptDataError, InvalidArgumentError, SnapshotNotFoundError
from mpreg.persistence import Snapshot, SnapshotRetention, SnapshotVersion
from mpreg.persistence.snapshots.store import checked_data, checked_version, closing

__all__ = ["RemoteSnapshotStore"]

#: As a number that is never reached: any number of versions is kept.
ANY_NUMBER: Final = 2**63 - 1


@define(eq=False)
class RemoteSnapshotStore:
    """A snapshot of a node: `mpreg.persistence.SnapshotStore`, asked over HTTP. Any size, both ways
    in pieces.

    It raises what its embedded form raises, what the node tells of itself
    (`mpreg.errors.NodeError`), and `NodeUnreachableError`.
    """

    _calls: Calls
    name: str
    _kept_max: int
    _retention: SnapshotRetention | None = None
    _path: str = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._path = f"/v1/snapshots/{as_name('snapshot', self.name)}"
        if self._retention is not None:
            self.keep(self._retention)

    def keep(self, retention: SnapshotRetention) -> None:
        """Keep this much from the next save on; it is said with each save of this object.

        Raises:
            InvalidArgumentError: it is no `SnapshotRetention`.
        """
        if not isinstance(retention, SnapshotRetention):
            raise InvalidArgumentError(f"a SnapshotRetention is expected, not {retention!r}")
        self._retention = retention

    async def save(self, data: bytes | AsyncIterable[bytes]) -> int:
        """Save a new version, once, and return its number when it is durable.

        Where the node goes away meanwhile, it is sent again from its beginning. What an iterable
        has given is kept for that in a temporary file, of at most ``resend_bytes_max`` of the
        client; it is asked only once. One that is too slow the node gives up,
        with a `RequestRefusedError` of status 408. An async generator given is closed.

        Cancelled, or where the iterable fails: nothing is left of it; cancelled at its very end it
        may still take effect, as a whole.

        Raises:
            InvalidArgumentError: the data, or a piece of it, is not bytes.
            NodeUnreachableError: the node went away, and did not come back in time, or more was
                sent than is kept to be sent again: not saved, where ``may_have_been_made`` is
                false.
        """
        pieces = checked_data(data)
        if isinstance(pieces, bytes):
            return await self._save(pieces)
        async with closing(pieces):
            return await self._save(pieces)

    async def _save(self, pieces: bytes | AsyncIterable[bytes]) -> int:
        async with Upload.of(pieces, self._kept_max) as upload:
            answer = await self._calls.write(
                "PUT", self._path, params=self._kept(), headers=upload.headers, upload=upload
            )
        version: int = value_of(answer)["version"]
        return version

    def _kept(self) -> dict[str, str]:
        if (retention := self._retention) is None:
            return {}
        params = {}
        if retention.seconds_max is not None:
            params["seconds_max"] = repr(float(retention.seconds_max))
        if retention.versions_max is not None:
            params["versions_max"] = str(retention.versions_max)
        return params or {"versions_max": str(ANY_NUMBER)}

    async def load(self, version: int | None = None) -> Snapshot | None:
        """A version as a whole; None where there is none. Without ``version`` the newest. Raises
        what `open` and its reader raise; `open` reads a large one in pieces."""
        try:
            async with self.open(version) as reader:
                pieces = [piece async for piece in reader]
        except SnapshotNotFoundError:
            return None
        return Snapshot(reader.version, b"".join(pieces))

    @asynccontextmanager
    async def open(self, version: int | None = None) -> AsyncGenerator[RemoteSnapshotReader, None]:
        """A version to be read in pieces: ``async with images.open() as reader`` and then
        ``async for piece in reader``. Without ``version`` the newest.

        As long as the connection lasts, it can be read whatever is saved or deleted meanwhile.

        Raises:
            SnapshotNotFoundError: there is no such version.
            CorruptDataError: the list of versions or the manifest is damaged.
        """
        params = {} if version is None else {"version": str(checked_version(version))}
        try:
            stream = await self._calls.stream(self._path, params)
        except SnapshotNotFoundError:
            raise SnapshotNotFoundError(self.name, version) from None
        except CorruptDataError as error:
            raise corrupt(self.name, version, error.message) from error
        reader = RemoteSnapshotReader.of(stream, self._calls, self.name, self._path)
        try:
            yield reader
        finally:
            await reader._close()

    async def versions(self) -> list[SnapshotVersion]:
        """The versions that are kept, from the oldest to the newest."""
        found = value_of(await self._calls.read(f"{self._path}/versions"))
        return [SnapshotVersion(**one) for one in found["versions"]]

    async def delete(self, version: int | None = None) -> bool:
        """Remove one version, or without ``version`` all of them; whether there was any. Durable
        when it returns. Cancelled: it may still happen.

        Raises:
            WriteInterruptedError: the node ended while it removed all: some are left, or none, and
                those that were saved since.
        """
        params = {} if version is None else {"version": str(checked_version(version))}
        found = value_of(await self._calls.write("DELETE", self._path, params=params))
        was_there: bool = found["deleted"]
        return was_there

    def __repr__(self) -> str:
        return f"<RemoteSnapshotStore {self.name!r}>"

"""`SnapshotStore`: what users see of snapshots."""

from __future__ import annotations

import math
import sys
from collections.abc import AsyncGenerator, AsyncIterable, Callable, Iterator
from contextlib import (
    AbstractAsyncContextManager,
    aclosing,
    asynccontextmanager,
    contextmanager,
    nullcontext,
    suppress,
)
from typing import Final, TypeAlias

import anyio
from attrs import field, frozen

from mpreg.codec import encode_bytes, encode_reserved_name
from mpreg.errors import (
    InvalidArgumentError,
    PersistenceError,
    ReaderStoppedError,
    SnapshotNotFoundError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Delete, Put
from mpreg.persistence.snapshots.chunks import CHUNK_BYTES, ChunkCutter, ChunkWriter
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.persistence.snapshots.layout import (
    SAVING,
    VERSION,
    VERSIONS_KEY,
    Manifest,
    numbered_key,
)
from mpreg.persistence.snapshots.reader import SnapshotReader
from mpreg.persistence.snapshots.removal import Remover, Tidied
from mpreg.persistence.snapshots.retention import SnapshotRetention
from mpreg.persistence.snapshots.sharing import SnapshotSharing
from mpreg.persistence.transaction import Transaction

__all__ = [
    "CLEAN_UP_SECONDS",
    "Snapshot",
    "SnapshotStore",
    "SnapshotVersion",
    "checked_data",
    "checked_version",
    "closing",
]

Published: TypeAlias = Callable[[int, Transaction], None]

#: For how long a save or load that was cancelled, or failed, holds up its caller to clean up.
CLEAN_UP_SECONDS: Final = 1.0


@frozen
class Snapshot:
    version: int
    """Given by the save; above that of every earlier save of this snapshot."""
    data: bytes = field(repr=lambda data: f"<{len(data)} bytes>")


@frozen
class SnapshotVersion:
    """One of the versions that are kept."""

    version: int
    size_bytes: int
    saved_at: float
    """Wall clock, in seconds: when it became visible."""


class SnapshotStore:
    """One snapshot: the last complete states that were saved under a name.

    Made by `PersistenceRegistry.snapshot_store`; costs nothing. `save` takes any size in pieces and
    `open` gives it back in pieces; each holds a few MiB at a time. Other writes go on meanwhile,
    between the chunks.

    **Versions** are numbers. Each save that becomes visible gets the one after the last, in the
    order in which they become visible; so they follow from the saves alone, neither from time nor
    from chance, and what else is written does not change them. The first is the store's own count
    of writes when that save began, which is 1 in a new store: so no number is used again, not even
    after `delete`. Where the list of versions was damaged, numbers go on in the same way.

    **How many are kept** is the `SnapshotRetention` that the registry was given with the name.
    """

    def __init__(
        self,
        gateway: StoreGateway,
        sharing: SnapshotSharing,
        name: str,
        encoded: bytes | None = None,
    ) -> None:
        """``encoded`` is the name on disk where it is not that of a user's snapshot."""
        self.name = name
        self._namespace = encode_reserved_name("snapshot", name) if encoded is None else encoded
        self._gateway = gateway
        self._sharing = sharing
        self._entries = SnapshotEntries(gateway, sharing, name, self._namespace)
        self._remover = Remover(self._entries)

    def keep(self, retention: SnapshotRetention) -> None:
        """Keep this much from now on, whatever was before; written down with the next save.

        Raises:
            InvalidArgumentError: it is no `SnapshotRetention`.
        """
        if not isinstance(retention, SnapshotRetention):
            raise InvalidArgumentError(f"a SnapshotRetention is expected, not {retention!r}")
        self._sharing.keep(self._namespace, retention)

    # --- saving ---

    async def save(
        self, data: bytes | AsyncIterable[bytes], *, published: Published | None = None
    ) -> int:
        """Save a new version, and return its number when it is durable.

        Until then `load` gives the one before. Of several saves at the same time each is complete;
        the last one to end is the newest. Versions beyond the retention are dropped with it.

        Cancelled, or failed, whether by the store or by the iterable given: nothing is visible of
        it, and what was written is removed, for which it holds up its caller for at most a second;
        what is left then, or after a crash, the next save or upkeep removes. Cancelled at its very
        end it may still take effect, as a whole. An async generator given is closed.

        ``published(version, transaction)`` is called before the version is written, perhaps several
        times: what it adds to the transaction is written with the version, or not at all.

        Raises:
            InvalidArgumentError: the data, or a piece of it, is not bytes.
            StorageFullError, CommitFailedError: not saved; it may be tried again.
            CommitUnknownError: it cannot be told, and the writer is gone.
            WriterStoppedError: not open (any more); not saved.
            CorruptDataError: its own note of the save was damaged meanwhile; not saved.
        """
        self._gateway.check_thread("a snapshot")
        pieces = checked_data(data)
        slot = self._sharing.first_free_slot(self._namespace)
        async with self._cleaned_up():
            with self._sharing.hold(self._namespace, slot):
                return await self._save(slot, pieces, published)

    async def _save(
        self, slot: int, pieces: bytes | AsyncIterable[bytes], published: Published | None
    ) -> int:
        with _not_done("the snapshot was not saved"):
            save = await self._reserve(slot)
        cutter = ChunkCutter(self._chunk_bytes)
        chunks = ChunkWriter(self._gateway, self._namespace, save)
        if isinstance(pieces, bytes):
            await chunks.write_all(cutter.cut(pieces))
        else:
            async with closing(pieces):
                async for piece in pieces:
                    await chunks.write_all(cutter.cut(encode_bytes(piece, sys.maxsize)))
        await chunks.write_all(cutter.cut_rest())
        await chunks.finish()
        with _not_done("the snapshot was not saved"):
            return await self._publish(slot, save, cutter, published)

    @property
    def _chunk_bytes(self) -> int:
        config = self._gateway.config
        return max(1, min(CHUNK_BYTES, config.value_bytes_max, config.batch_bytes_max // 2))

    async def _reserve(self, slot: int) -> int:
        """Put the saving entry, once there is none; return the id of the save."""
        put = Put(self._namespace, numbered_key(SAVING, slot), b"", expected_version=0)
        while True:
            try:
                save: int = await self._gateway.write(put, Durability.RELAXED)
            except VersionConflictError:
                # Held here by nobody but us: somebody has left it.
                await self._remover.abandon(slot)
            else:
                return save

    async def _publish(
        self, slot: int, save: int, cutter: ChunkCutter, published: Published | None
    ) -> int:
        now = self._gateway.clock.wall()
        manifest = Manifest(save, cutter.chunks, cutter.size_bytes, cutter.checksum, now)
        while True:
            expected, listed = await self._entries.versions_to_change()
            number = listed.next_number(save)
            versions = (*listed.versions, manifest.listed(number))
            changed = listed.changed(number, versions, self._entries.retention(listed))
            try:
                # Durable, and with it every commit before it: those of the chunks as well.
                async with Transaction(self._gateway, Durability.DURABLE) as transaction:
                    transaction.add(self._entries.put(VERSIONS_KEY, changed, expected))
                    transaction.add(self._entries.put(numbered_key(VERSION, number), manifest))
                    transaction.add(Delete(self._namespace, numbered_key(SAVING, slot), save))
                    if published is not None:
                        published(number, transaction)
            except VersionConflictError as error:
                if error.key != "versions":
                    raise self._entries.corrupt(
                        "the entry of a save under way was changed"
                    ) from error
                # Another save has published in between.
            else:
                return number

    @asynccontextmanager
    async def _cleaned_up(self) -> AsyncGenerator[None, None]:
        """Clean up after a block that changes something, whatever becomes of it."""
        try:
            yield
            await self._clean_up()
        except BaseException:
            with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                await self._clean_up()
            # What was on its way to the disk meanwhile may have been overlooked.
            self._sharing.be_due(self._namespace, -math.inf)
            raise

    async def _clean_up(self) -> None:
        """Finish what this save, and any before it, has left to do, as far as possible.

        What fails here is done by the next save, or by upkeep; this one has its own outcome.
        """
        with suppress(PersistenceError):
            await self._remover.tidy(Tidied())

    # --- loading ---

    async def load(self, version: int | None = None) -> Snapshot | None:
        """A version as a whole; None where there is none. Without ``version`` the newest.

        It stays readable while it is read, also where it is dropped meanwhile. Takes twice its
        size in memory for a moment; `open` reads a large one in pieces.

        Raises:
            CorruptDataError: the list of versions, the manifest or a chunk is damaged or missing.
                ``where`` names it. Other versions can still be loaded by their numbers.
            ReaderStoppedError: not open (any more).
        """
        try:
            async with self.open(version) as reader:
                chunks = [chunk async for chunk in reader]
        except SnapshotNotFoundError:
            return None
        return Snapshot(reader.version, b"".join(chunks))

    @asynccontextmanager
    async def open(self, version: int | None = None) -> AsyncGenerator[SnapshotReader, None]:
        """A version to be read in pieces: ``async with images.open() as reader`` and then
        ``async for chunk in reader``. Without ``version`` the newest.

        Each chunk has been checked when it is given, and the whole when the iteration ends: what
        was read counts only then. Until the end of the block the version can be read, whatever is
        saved, dropped or deleted meanwhile; what was, is removed when the last reader is done, for
        which that one is held up for at most a second, also where it is cancelled.

        Raises:
            SnapshotNotFoundError: there is no such version.
            CorruptDataError: the list of versions or the manifest is damaged; for chunks see
                `SnapshotReader`.
            ReaderStoppedError: not open (any more).
        """
        number, manifest = await self._begin_read(version)
        reader = SnapshotReader(
            number, manifest.size_bytes, manifest.saved_at, self._entries, manifest
        )
        try:
            yield reader
        finally:
            reader._close()
            if self._sharing.end_read(self._namespace, manifest.save):
                await self._remove_read(manifest.save)

    async def _begin_read(self, version: int | None) -> tuple[int, Manifest]:
        """Find a version and keep its chunks from being removed."""
        while True:
            number = await self._newest() if version is None else checked_version(version)
            removals = self._sharing.removals_begun
            found = await self._entries.manifest(number)
            if found is None:
                await self._check_missing(number)
                if version is None:
                    continue
                raise self._not_found(number)
            manifest = found[1]
            self._sharing.begin_read(self._namespace, manifest.save)
            if self._sharing.removals_begun == removals:
                return number, manifest
            try:
                # Dropped before anybody could know that it is read?
                if await self._entries.manifest(number) == found:
                    return number, manifest
            except BaseException:
                self._sharing.end_read(self._namespace, manifest.save)
                raise
            if self._sharing.end_read(self._namespace, manifest.save):
                await self._remove_read(manifest.save)

    async def _newest(self) -> int:
        _, listed = await self._entries.versions()
        if listed.newest is None:
            raise self._not_found(None)
        return listed.newest.number

    async def _check_missing(self, number: int) -> None:
        """Raises `CorruptDataError` where a manifest is not there though its version is."""
        _, listed = await self._entries.versions()
        if (
            any(one.number == number for one in listed.versions)
            and await self._entries.manifest(number) is None
            and (await self._entries.versions())[1] == listed
        ):
            raise self._entries.corrupt("the manifest is missing", version=number)

    async def _remove_read(self, save: int) -> None:
        with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True), suppress(PersistenceError):
            await self._remover.finish(save, Tidied())

    def _not_found(self, version: int | None) -> SnapshotNotFoundError:
        return SnapshotNotFoundError(self.name, version)

    # --- versions ---

    async def versions(self) -> list[SnapshotVersion]:
        """The versions that are kept, from the oldest to the newest.

        Raises:
            CorruptDataError: the list of versions is damaged. The next save makes it anew from
                what is intact.
            ReaderStoppedError: not open (any more).
        """
        _, listed = await self._entries.versions()
        return [SnapshotVersion(v.number, v.size_bytes, v.saved_at) for v in listed.versions]

    async def delete(self, version: int | None = None) -> bool:
        """Remove one version, or without ``version`` all of them; whether there was any.

        Durable when it returns; with very many versions in several transactions, the oldest first.
        The chunks are removed with it, or, where that is cancelled or fails, by the next save or
        upkeep; those that are being read, when that is done. A save under way is not concerned.
        Cancelled: it may still happen. Raises what `save` raises.
        """
        self._gateway.check_thread("a snapshot")
        number = None if version is None else checked_version(version)
        async with self._cleaned_up():
            with _not_done("it may not have been deleted"):
                return await self._delete(number)

    async def _delete(self, number: int | None) -> bool:
        deleted = False
        while True:
            expected, listed = await self._entries.versions_to_change()
            some = [one for one in listed.versions if number is None or one.number == number]
            if not some:
                return deleted
            with suppress(VersionConflictError):
                await self._remover.drop(expected, listed, some, Durability.DURABLE)
                deleted = True

    def __repr__(self) -> str:
        return f"<SnapshotStore {self.name!r}>"


def checked_data(data: object) -> bytes | AsyncIterable[bytes]:
    if isinstance(data, AsyncIterable):
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise InvalidArgumentError(
        f"a snapshot is bytes or an async iterable of bytes, not {type(data).__name__}"
    )


def checked_version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or not 0 < version < 2**63:
        raise InvalidArgumentError(f"version is a number that a save has given, not {version!r}")
    return version


def closing(pieces: AsyncIterable[bytes]) -> AbstractAsyncContextManager[object]:
    """A generator left at an item would be closed some time later, or with a warning on trio."""
    return aclosing(pieces) if isinstance(pieces, AsyncGenerator) else nullcontext()


@contextmanager
def _not_done(what: str) -> Iterator[None]:
    """Who saves asks what became of that, not which half of the registry was the first to stop."""
    try:
        yield
    except ReaderStoppedError as error:
        raise WriterStoppedError(f"the registry has stopped; {what}") from error

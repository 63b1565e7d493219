"""Complete states of any size, saved beside everything else that is written.

A snapshot is kept in entries of a namespace of its own, which no user's name can reach::

    "manifest"       the save that is visible: its id, its chunks, size and checksum
    "unfinished/0"   a save under way, or what is still to be removed
    (save, index)    a chunk

A save goes through four steps, each of them small, so that no other write waits long behind it:

1. It puts an *unfinished* entry. Its version, which no other write ever has, is the id of the save.
2. It writes the chunks.
3. It publishes: one transaction sets the manifest, and turns the unfinished entry into a note that
   the chunks of the save it replaces are to be removed.
4. It removes those, a few at a time, and last the entry.

Publishing and removing are both conditional on the version of the unfinished entry, and both change
it: of two that meet, one is refused. So chunks that are visible are never removed, whatever is
cancelled or comes late; and wherever a crash falls, an unfinished entry says what is left to do.
The next save of the snapshot does it.
"""

from __future__ import annotations

import itertools
import struct
import sys
import zlib
from collections import deque
from collections.abc import AsyncGenerator, AsyncIterable, Iterator
from contextlib import AbstractAsyncContextManager, aclosing, contextmanager, nullcontext, suppress
from typing import Any, Final

import anyio
import msgspec
from attrs import define, field, frozen

from mpreg.actors import Ack
from mpreg.codec import decode_key, encode_bytes, encode_key, encode_reserved_name, prefix_end
from mpreg.errors import (
    CorruptDataError,
    InvalidArgumentError,
    PersistenceError,
    ReaderStoppedError,
    VersionConflictError,
    WriterStoppedError,
)
from mpreg.persistence.backend import GetEntry, ScanEntries, ScanPage, StoredEntry
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Delete, Put
from mpreg.persistence.transaction import Transaction

__all__ = ["CHUNK_BYTES", "ChunkCutter", "SaveSlots", "Snapshot", "SnapshotStore"]

#: Large enough that most of the time goes into the bytes. Chunks of 1 MiB make a save no faster,
#: and the writes of others wait several times as long between them.
CHUNK_BYTES: Final = 256 << 10

#: Chunks sent and not yet acked. More would make others wait, and hold more memory; with fewer the
#: writer would wait for the next chunk.
CHUNKS_IN_FLIGHT_MAX: Final = 4

#: Chunks removed in one batch: it should take the writer no longer than a few chunks written.
REMOVED_PER_BATCH: Final = 8

#: For how long a save that was cancelled, or failed, holds up its caller to clean up after itself.
CLEAN_UP_SECONDS: Final = 1.0

_MANIFEST: Final = "manifest"
_UNFINISHED: Final = "unfinished/"
_CHUNK_KEY: Final = struct.Struct(">QQ")


@frozen
class Snapshot:
    version: int
    """Given by the save; above that of every earlier save of this snapshot."""
    data: bytes = field(repr=lambda data: f"<{len(data)} bytes>")


class _Manifest(msgspec.Struct, frozen=True):
    """What makes the chunks of a save a snapshot."""

    save: int
    chunks: int
    size_bytes: int
    checksum: int
    """CRC-32 of the whole: a chunk can be right in itself and still not belong here."""


class _Leftover(msgspec.Struct, frozen=True):
    """Chunks to be removed: those of a save, from an index on."""

    save: int
    index: int


@define(eq=False)
class SaveSlots:
    """The saves under way in one registry: each holds the number of its unfinished entry.

    Whether an unfinished entry found on disk is a save's under way cannot be told by looking at
    it. As only one registry is open at a time, it can be told here.
    """

    _held: set[tuple[bytes, int]] = field(factory=set)

    def first_free(self, namespace: bytes) -> int:
        return next(slot for slot in itertools.count() if self.is_free(namespace, slot))

    def is_free(self, namespace: bytes, slot: int) -> bool:
        return (namespace, slot) not in self._held

    @contextmanager
    def hold(self, namespace: bytes, slot: int) -> Iterator[None]:
        """Hold a free slot."""
        self._held.add((namespace, slot))
        try:
            yield
        finally:
            self._held.remove((namespace, slot))


@define
class ChunkCutter:
    """Cuts pieces of any size into chunks of one size, and counts and sums up what it has cut."""

    _chunk_bytes: int
    chunks: int = 0
    size_bytes: int = 0
    checksum: int = 0
    _rest: bytearray = field(factory=bytearray)

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """The chunks that are full with this piece. The iterator must be used up."""
        left = memoryview(piece)
        while len(self._rest) + len(left) >= self._chunk_bytes:
            taken = self._chunk_bytes - len(self._rest)
            chunk = b"".join((self._rest, left[:taken]))
            left = left[taken:]
            self._rest.clear()
            yield self._counted(chunk)
        self._rest += left

    def cut_rest(self) -> Iterator[bytes]:
        """The last chunk, if it is not empty."""
        if self._rest:
            yield self._counted(bytes(self._rest))

    def _counted(self, chunk: bytes) -> bytes:
        self.chunks += 1
        self.size_bytes += len(chunk)
        self.checksum = zlib.crc32(chunk, self.checksum)
        return chunk


class SnapshotStore:
    """One snapshot: the last complete state that was saved under a name.

    Made by `PersistenceRegistry.snapshot_store`; costs nothing. A snapshot may have any size that
    memory allows at `load`; `save` takes it in pieces and holds a few MiB of it at a time. Other
    writes go on meanwhile, between its chunks.
    """

    def __init__(
        self, gateway: StoreGateway, slots: SaveSlots, name: str, encoded: bytes | None = None
    ) -> None:
        """``encoded`` is the name on disk where it is not that of a user's snapshot."""
        self.name = name
        self._namespace = encode_reserved_name("snapshot", name) if encoded is None else encoded
        self._gateway = gateway
        self._slots = slots

    async def save(self, data: bytes | AsyncIterable[bytes]) -> int:
        """Replace the snapshot, and return its new version when that is durable.

        Until then `load` gives the one before. Of several saves at the same time each is complete;
        the last one to end stays.

        Cancelled, or failed, whether by the store or by the iterable given: the one before stays,
        and what was written of the new one is removed, for which it holds up its caller for at
        most a second; what is left then, or after a crash, the next save removes. Cancelled at its
        very end it may still take effect, as a whole. An async generator given is closed.

        Raises:
            InvalidArgumentError: the data, or a piece of it, is not bytes.
            StorageFullError, CommitFailedError: not saved; it may be tried again.
            CommitUnknownError: it cannot be told, and the writer is gone.
            WriterStoppedError: not open (any more); not saved.
            CorruptDataError: its own note of the save was damaged meanwhile; not saved.
        """
        pieces = _checked(data)
        slot = self._slots.first_free(self._namespace)
        with self._slots.hold(self._namespace, slot):
            try:
                version = await self._save(slot, pieces)
                await self._clean_up(slot)
                return version
            except BaseException:
                with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await self._clean_up(slot)
                raise

    async def load(self) -> Snapshot | None:
        """The last snapshot saved; None where there is none.

        One that is replaced while it is read is left, and the newer one read instead.

        Raises:
            CorruptDataError: the manifest or a chunk is damaged or missing. ``where`` names it.
            ReaderStoppedError: not open (any more).
        """
        found = await self._read_manifest()
        while found is not None:
            version, manifest = found
            try:
                return Snapshot(version, await self._read_chunks(manifest))
            except CorruptDataError:
                # Chunks are only removed once a newer manifest is there: that tells the two apart.
                found = await self._read_manifest()
                if found is not None and found[0] == version:
                    raise
        return None

    async def delete(self) -> bool:
        """Remove the snapshot; whether there was one.

        Durable when it returns. Its chunks are removed with it, or, where that is cancelled or
        fails, by the next save or deletion. Raises what `save` raises.
        """
        slot = self._slots.first_free(self._namespace)
        with self._slots.hold(self._namespace, slot):
            try:
                with _not_saved():
                    found = await self._unpublish(slot, await self._reserve(slot))
                await self._clean_up(slot)
                return found
            except BaseException:
                with anyio.move_on_after(CLEAN_UP_SECONDS, shield=True):
                    await self._clean_up(slot)
                raise

    async def remove_leftovers(self) -> int:
        """Remove what saves that were cut short have left behind; return the number of chunks.

        The next save does that too, but for chunks whose save nothing names any more. Chunks of
        saves under way stay. So do those that nothing names while the manifest, or an entry of a
        save, is damaged, and those that are newer than the snapshot: they may be all that is left
        of it. Raises what `save` raises.
        """
        saves = await self._saves_with_chunks()
        removed = 0
        for slot in await self._unfinished():
            removed += await self._finish_free(slot)
        for save in await self._orphans(saves):
            slot = self._slots.first_free(self._namespace)
            with self._slots.hold(self._namespace, slot):
                note = self._put_leftover(slot, _Leftover(save, 0), 0)
                with suppress(VersionConflictError):
                    await self._gateway.write(note, Durability.RELAXED)
                    removed += await self._finish(slot)
        return removed

    async def _saves_with_chunks(self) -> set[int]:
        """The saves of which there are chunks, found by leaping from one to the next."""
        saves: set[int] = set()
        start: bytes | None = encode_key(b"")
        while start is not None:
            page: ScanPage = await self._gateway.read(
                ScanEntries(self._namespace, start, prefix_end(encode_key(b"")))
            )
            if not page.entries:
                break
            first = page.entries[0]
            if isinstance(first, CorruptDataError):
                # Its key may be damaged, so nothing can be said of what is behind it.
                break
            save, _ = _CHUNK_KEY.unpack(first.key[1:])
            saves.add(save)
            start = _chunk_key(save + 1, 0)
        return saves

    async def _orphans(self, saves: set[int]) -> set[int]:
        """Those that nothing names and that the snapshot has left behind; none where it cannot be
        told.

        First the entries are read, then the manifest: a save goes from there to here, never back.
        """
        start = encode_key(_UNFINISHED)
        page: ScanPage = await self._gateway.read(
            ScanEntries(self._namespace, start, prefix_end(start))
        )
        named = set()
        try:
            found = await self._read_manifest()
            for entry in page.entries:
                if isinstance(entry, CorruptDataError):
                    raise entry
                named.add(_leftover(entry).save)
        except (CorruptDataError, msgspec.MsgspecError):
            return set()
        if found is None:
            return set()
        return {save for save in saves - named if save < found[1].save}

    # --- saving ---

    async def _save(self, slot: int, pieces: bytes | AsyncIterable[bytes]) -> int:
        with _not_saved():
            save = await self._reserve(slot)
        cutter = ChunkCutter(self._chunk_bytes)
        chunks = _ChunkWriter(self._gateway, self._namespace, save)
        if isinstance(pieces, bytes):
            await chunks.write_all(cutter.cut(pieces))
        else:
            async with _closing(pieces):
                async for piece in pieces:
                    await chunks.write_all(cutter.cut(encode_bytes(piece, sys.maxsize)))
        await chunks.write_all(cutter.cut_rest())
        await chunks.finish()
        manifest = _Manifest(save, cutter.chunks, cutter.size_bytes, cutter.checksum)
        with _not_saved():
            return await self._publish(slot, manifest)

    @property
    def _chunk_bytes(self) -> int:
        config = self._gateway.config
        return max(1, min(CHUNK_BYTES, config.value_bytes_max, config.batch_bytes_max // 2))

    async def _reserve(self, slot: int) -> int:
        """Put the unfinished entry, once there is none; return the id of the save."""
        put = Put(self._namespace, _slot_key(slot), b"", expected_version=0)
        while True:
            try:
                save: int = await self._gateway.write(put, Durability.RELAXED)
            except VersionConflictError:
                # Held here by nobody but us: somebody has left it.
                await self._finish(slot)
            else:
                return save

    async def _publish(self, slot: int, manifest: _Manifest) -> int:
        encoded = msgspec.msgpack.encode(manifest)
        while True:
            expected, replaced = await self._replaced()
            try:
                # Durable, and with it every commit before it: those of the chunks as well.
                async with Transaction(self._gateway, Durability.DURABLE) as transaction:
                    published = transaction.add(
                        Put(self._namespace, encode_key(_MANIFEST), encoded, None, expected)
                    )
                    transaction.add(self._turn(slot, manifest.save, replaced))
                version: int = await published
            except VersionConflictError as error:
                if error.key != _MANIFEST:
                    raise self._corrupt("the entry of a save under way was changed") from error
                # Another save has published in between: it is the one to be replaced.
            else:
                return version

    async def _unpublish(self, slot: int, save: int) -> bool:
        """Remove the manifest; the slot's entry then names the chunks to be removed."""
        while True:
            expected, replaced = await self._replaced()
            if expected == 0:
                return False
            try:
                async with Transaction(self._gateway, Durability.DURABLE) as transaction:
                    transaction.add(Delete(self._namespace, encode_key(_MANIFEST), expected))
                    transaction.add(self._turn(slot, save, replaced))
            except VersionConflictError as error:
                if error.key != _MANIFEST:
                    raise self._corrupt("the entry of a deletion was changed") from error
            else:
                return True

    async def _replaced(self) -> tuple[int | None, _Manifest | None]:
        """The version that the manifest must have when it is replaced, and what it says."""
        try:
            found = await self._read_manifest()
        except CorruptDataError:
            # Its chunks cannot be named any more and stay behind; but a new snapshot is what
            # helps now, and it is not to be refused.
            return None, None
        return (0, None) if found is None else found

    def _turn(self, slot: int, save: int, replaced: _Manifest | None) -> Put | Delete:
        """From "this save is under way" into what is to be done once it is published."""
        if replaced is None:
            return Delete(self._namespace, _slot_key(slot), save)
        return self._put_leftover(slot, _Leftover(replaced.save, 0), save)

    # --- removing ---

    async def _clean_up(self, own: int) -> None:
        """Finish what this save, and any save before it, has left to do, as far as possible.

        What fails here is done by the next save; this one has its own outcome already.
        """
        with suppress(PersistenceError):
            await self._finish(own)
            for slot in await self._unfinished():
                await self._finish_free(slot)

    async def _finish_free(self, slot: int) -> int:
        """`_finish` for a slot that no save under way holds."""
        if not self._slots.is_free(self._namespace, slot):
            return 0
        with self._slots.hold(self._namespace, slot):
            return await self._finish(slot)

    async def _unfinished(self) -> list[int]:
        start = encode_key(_UNFINISHED)
        page: ScanPage = await self._gateway.read(
            ScanEntries(self._namespace, start, prefix_end(start))
        )
        return [_slot(entry) for entry in page.entries if isinstance(entry, StoredEntry)]

    async def _finish(self, slot: int) -> int:
        """Do what an unfinished entry leaves to do, until it is gone. The slot must be held.

        Returns the number of chunks removed.
        """
        removed = 0
        while True:
            try:
                entry = await self._get(_slot_key(slot))
                if entry is None:
                    return removed
                leftover = _leftover(entry)
            except (CorruptDataError, msgspec.MsgspecError):
                # What it said is lost: chunks that nobody can name any more stay behind.
                delete = Delete(self._namespace, _slot_key(slot))
                await self._gateway.write(delete, Durability.RELAXED)
                return removed
            # Refused where a save, cancelled while it published, was published all the same: then
            # the entry says something else now.
            with suppress(VersionConflictError):
                removed += await self._remove(slot, entry.version, leftover)

    async def _remove(self, slot: int, version: int, leftover: _Leftover) -> int:
        count = 0
        # Relaxed: what a power cut undoes, the entry says again.
        more = True
        while more:
            following = _Leftover(leftover.save, leftover.index + REMOVED_PER_BATCH)
            async with Transaction(self._gateway, Durability.RELAXED) as transaction:
                turned = transaction.add(self._put_leftover(slot, following, version))
                removed = [
                    transaction.add(Delete(self._namespace, _chunk_key(leftover.save, index)))
                    for index in range(leftover.index, following.index)
                ]
            version = await turned
            # Where a chunk was not written, only those in flight with it can be behind it.
            found = [await ack for ack in removed]
            count += sum(found)
            more = any(found[-CHUNKS_IN_FLIGHT_MAX:])
            leftover = following
        delete = Delete(self._namespace, _slot_key(slot), version)
        await self._gateway.write(delete, Durability.RELAXED)
        return count

    def _put_leftover(self, slot: int, leftover: _Leftover, expected_version: int) -> Put:
        encoded = msgspec.msgpack.encode(leftover)
        return Put(self._namespace, _slot_key(slot), encoded, None, expected_version)

    # --- reading ---

    async def _get(self, key: bytes) -> StoredEntry | None:
        entry: StoredEntry | None = await self._gateway.read(GetEntry(self._namespace, key))
        return entry

    async def _read_manifest(self) -> tuple[int, _Manifest] | None:
        try:
            entry = await self._get(encode_key(_MANIFEST))
            if entry is None:
                return None
            return entry.version, msgspec.msgpack.decode(entry.value, type=_Manifest)
        except (CorruptDataError, msgspec.MsgspecError) as error:
            raise self._corrupt("the manifest is damaged", cause=error) from error

    async def _read_chunks(self, manifest: _Manifest) -> bytes:
        chunks = []
        checksum = 0
        for index in range(manifest.chunks):
            chunk = await self._read_chunk(manifest.save, index)
            checksum = zlib.crc32(chunk, checksum)
            chunks.append(chunk)
        data = b"".join(chunks)
        if (len(data), checksum) != (manifest.size_bytes, manifest.checksum):
            raise self._corrupt("the whole does not match its checksum")
        return data

    async def _read_chunk(self, save: int, index: int) -> bytes:
        try:
            entry = await self._get(_chunk_key(save, index))
        except CorruptDataError as error:
            raise self._corrupt(error.message, f", chunk {index}", cause=error) from error
        if entry is None:
            raise self._corrupt("the chunk is missing", f", chunk {index}")
        return entry.value

    def _corrupt(
        self, message: str, part: str = "", *, cause: Exception | None = None
    ) -> CorruptDataError:
        path = cause.path if isinstance(cause, CorruptDataError) else None
        return CorruptDataError(message, path, f"snapshot {self.name!r}{part}")

    def __repr__(self) -> str:
        return f"<SnapshotStore {self.name!r}>"


@define(eq=False)
class _ChunkWriter:
    """Writes the chunks of one save, a few of them at a time."""

    _gateway: StoreGateway
    _namespace: bytes
    _save: int
    _written: int = 0
    _in_flight: deque[Ack[Any]] = field(factory=deque)

    async def write_all(self, chunks: Iterator[bytes]) -> None:
        """Send them, waiting for those before them where too many are in flight."""
        for chunk in chunks:
            if len(self._in_flight) == CHUNKS_IN_FLIGHT_MAX:
                await self._in_flight.popleft()
            ack: Ack[Any] = Ack()
            put = Put(self._namespace, _chunk_key(self._save, self._written), chunk)
            # Relaxed, so that nobody waits for an fsync: the one of the publication covers all.
            await self._gateway.write_batch([put], [ack], Durability.RELAXED)
            self._written += 1
            self._in_flight.append(ack)

    async def finish(self) -> None:
        """Return when all are written."""
        while self._in_flight:
            await self._in_flight.popleft()


def _checked(data: object) -> bytes | AsyncIterable[bytes]:
    if isinstance(data, AsyncIterable):
        return data
    if isinstance(data, bytes | bytearray | memoryview):
        return bytes(data)
    raise InvalidArgumentError(
        f"a snapshot is bytes or an async iterable of bytes, not {type(data).__name__}"
    )


def _closing(pieces: AsyncIterable[bytes]) -> AbstractAsyncContextManager[object]:
    """A generator left at an item would be closed some time later, or with a warning on trio."""
    return aclosing(pieces) if isinstance(pieces, AsyncGenerator) else nullcontext()


@contextmanager
def _not_saved() -> Iterator[None]:
    """Who saves asks what became of that, not which half of the registry was the first to stop."""
    try:
        yield
    except ReaderStoppedError as error:
        raise WriterStoppedError("the registry has stopped; the snapshot was not saved") from error


def _chunk_key(save: int, index: int) -> bytes:
    return encode_key(_CHUNK_KEY.pack(save, index))


def _slot_key(slot: int) -> bytes:
    return encode_key(f"{_UNFINISHED}{slot}")


def _slot(entry: StoredEntry) -> int:
    return int(str(decode_key(entry.key)).removeprefix(_UNFINISHED))


def _leftover(entry: StoredEntry) -> _Leftover:
    """What an unfinished entry leaves to do: all of a save under way, or what it says."""
    if not entry.value:
        return _Leftover(entry.version, 0)
    return msgspec.msgpack.decode(entry.value, type=_Leftover)

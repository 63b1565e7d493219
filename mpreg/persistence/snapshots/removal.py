"""What goes: versions beyond the retention, and chunks that no version names any more."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from typing import Final, TypeAlias

import msgspec
from attrs import define, frozen

from mpreg.codec import prefix_end
from mpreg.errors import CorruptDataError, VersionConflictError
from mpreg.persistence.backend import ScanEntries, ScanPage, StoredEntry
from mpreg.persistence.batch import OPERATION_OVERHEAD_BYTES, Durability, operation_bytes
from mpreg.persistence.operations import Delete, Operation
from mpreg.persistence.snapshots.chunks import CHUNKS_IN_FLIGHT_MAX
from mpreg.persistence.snapshots.entries import SnapshotEntries
from mpreg.persistence.snapshots.layout import (
    CHUNKS,
    REMOVING,
    SAVING,
    VERSION,
    VERSIONS_KEY,
    Listed,
    Manifest,
    Removal,
    VersionList,
    chunk_key,
    number_in,
    numbered_key,
    save_of_chunk,
)
from mpreg.persistence.snapshots.retention import next_due, surplus
from mpreg.persistence.transaction import Transaction

__all__ = ["REMOVED_PER_BATCH", "Pace", "Remover", "Tidied"]

#: Chunks removed in one batch: it should take the writer no longer than a few chunks written.
REMOVED_PER_BATCH: Final = 32

#: Versions dropped in one batch.
DROPPED_PER_BATCH: Final = 64

Pace: TypeAlias = Callable[[Awaitable[int]], Awaitable[int]]
"""Awaits one step, and may rest after it."""


@define
class Tidied:
    """What was removed of one snapshot, or of several."""

    versions: int = 0
    version_bytes: int = 0
    chunks: int = 0


async def _at_once(step: Awaitable[int]) -> int:
    return await step


@frozen(eq=False)
class Remover:
    """Removes what nobody can ask for any more of one snapshot, in small steps.

    Cut off anywhere, what was done is done, and entries say what is left. All of it is relaxed,
    unless told otherwise: what a power cut undoes, the entries say again.
    """

    _entries: SnapshotEntries

    async def tidy(self, tidied: Tidied, pace: Pace = _at_once) -> None:
        """Drop the versions beyond the retention, and remove all chunks that entries name as left.

        What is damaged stays. Adds to ``tidied`` as it goes.
        """
        entries, sharing = self._entries, self._entries.sharing
        try:
            # First: it finds out what became of a save that was cancelled while it published.
            for slot in await self._numbers(SAVING):
                if sharing.is_free(entries.namespace, slot):
                    with sharing.hold(entries.namespace, slot):
                        await self.abandon(slot)
            await self._retire(tidied, pace)
            for save in await self._numbers(REMOVING):
                await self.finish(save, tidied, pace)
        except BaseException:
            sharing.be_due(entries.namespace, -math.inf)
            raise

    async def tidy_all(self, tidied: Tidied, pace: Pace = _at_once) -> None:
        """`tidy`, and chunks that nothing names any more, which only damage leaves behind.

        They stay while a manifest, or an entry of a save, is damaged, and where they are newer
        than the newest version: they may be all that is left of it.
        """
        saves = await self._saves_with_chunks()
        await self.tidy(tidied, pace)
        for save in await self._orphans(saves):
            note = self._entries.put(numbered_key(REMOVING, save), Removal(), 0)
            with suppress(VersionConflictError):
                await self._entries.gateway.write(note, Durability.RELAXED)
            await self.finish(save, tidied, pace)

    # --- versions ---

    async def _retire(self, tidied: Tidied, pace: Pace) -> None:
        entries = self._entries
        while True:
            try:
                expected, listed = await entries.versions()
            except CorruptDataError:
                entries.sharing.be_due(entries.namespace, math.inf)
                return
            retention = entries.retention(listed)
            beyond = surplus(retention, listed.versions, entries.gateway.clock.wall())
            if not beyond and (listed.versions or not expected):
                due = next_due(retention, listed.versions)
                entries.sharing.be_due(entries.namespace, due)
                return
            if not beyond and entries.sharing.is_saving(entries.namespace):
                entries.sharing.be_due(entries.namespace, math.inf)
                return
            with suppress(VersionConflictError):
                dropped = await pace(self.drop(expected, listed, beyond, Durability.RELAXED))
                some = beyond[:dropped]
                tidied.versions += len(some)
                tidied.version_bytes += sum(one.size_bytes for one in some)

    async def drop(
        self, expected: int, listed: VersionList, surplus: Sequence[Listed], durability: Durability
    ) -> int:
        """Take the first of these versions from the list, as many as one transaction holds; return
        their number.

        Their chunks are noted to be removed.

        Raises:
            VersionConflictError: the list was changed meanwhile.
            ValueTooLargeError: not even one fits: the limit is below that of the last save.
        """
        dropped = surplus[:DROPPED_PER_BATCH]
        operations = self._dropping(expected, listed, dropped)
        while len(dropped) > 1 and not self._fits(operations):
            dropped = dropped[: len(dropped) // 2]
            operations = self._dropping(expected, listed, dropped)
        async with Transaction(self._entries.gateway, durability) as transaction:
            for operation in operations:
                transaction.add(operation)
        return len(dropped)

    def _dropping(
        self, expected: int, listed: VersionList, dropped: Sequence[Listed]
    ) -> list[Operation]:
        entries = self._entries
        rest = tuple(one for one in listed.versions if one not in dropped)
        operations: list[Operation] = []
        if rest or entries.sharing.is_saving(entries.namespace):
            changed = listed.changed(listed.last, rest, entries.retention(listed))
            operations.append(entries.put(VERSIONS_KEY, changed, expected))
        else:
            # A save that begins after this gets an id above all numbers given so far.
            operations.append(Delete(entries.namespace, VERSIONS_KEY, expected))
        for one in dropped:
            operations.append(Delete(entries.namespace, numbered_key(VERSION, one.number)))
            removal = Removal(0, one.chunks)
            operations.append(entries.put(numbered_key(REMOVING, one.save), removal))
        return operations

    def _fits(self, operations: Sequence[Operation]) -> bool:
        """Whether one batch holds them."""
        bytes_max = self._entries.gateway.config.batch_bytes_max
        return sum(map(operation_bytes, operations)) <= bytes_max

    # --- chunks ---

    async def abandon(self, slot: int) -> None:
        """Turn the entry of a save that will not be published, if it is there, into a note that
        its chunks are to be removed. The slot must be held."""
        entries = self._entries
        key = numbered_key(SAVING, slot)
        try:
            entry = await entries.get(key)
        except CorruptDataError:
            # What it said is lost; its chunks are found by `tidy_all`.
            await entries.gateway.write(Delete(entries.namespace, key), Durability.RELAXED)
            return
        if entry is None:
            return
        # Refused where a save, cancelled while it published, was published all the same.
        with suppress(VersionConflictError):
            async with Transaction(entries.gateway, Durability.RELAXED) as transaction:
                transaction.add(Delete(entries.namespace, key, entry.version))
                transaction.add(entries.put(numbered_key(REMOVING, entry.version), Removal()))

    async def finish(self, save: int, tidied: Tidied, pace: Pace = _at_once) -> None:
        """Remove the chunks of a save that are noted to be removed.

        Not while somebody reads them: who reads them last does it. Nor where it is being done.
        """
        entries, sharing = self._entries, self._entries.sharing
        with sharing.removal(entries.namespace, save) as alone:
            while alone:
                if sharing.is_read(entries.namespace, save):
                    sharing.leave_to_reads(entries.namespace, save)
                    return
                entry = await self._note(save)
                if entry is None:
                    return
                tidied.chunks += await pace(self._remove_some(save, *entry))

    async def _note(self, save: int) -> tuple[int, Removal] | None:
        entries = self._entries
        key = numbered_key(REMOVING, save)
        try:
            entry = await entries.get(key)
            if entry is None:
                return None
            return entry.version, msgspec.msgpack.decode(entry.value, type=Removal)
        except (CorruptDataError, msgspec.MsgspecError):
            # Its key says which chunks they are; it is begun anew.
            await entries.gateway.write(entries.put(key, Removal()), Durability.RELAXED)
            return await self._note(save)

    async def _remove_some(self, save: int, version: int, removal: Removal) -> int:
        """Some chunks, and the note with the last."""
        entries = self._entries
        key = numbered_key(REMOVING, save)
        stop = removal.index + self._removed_at_once(key, removal)
        is_last = 0 < removal.chunks <= stop
        note: Operation = (
            Delete(entries.namespace, key, version)
            if is_last
            else entries.put(key, Removal(stop, removal.chunks), version)
        )
        chunks: list[Operation] = [
            Delete(entries.namespace, chunk_key(save, index))
            for index in range(removal.index, removal.chunks if is_last else stop)
        ]
        found, turned = await self._remove_together(chunks, note)
        # Where a chunk was not written, only those in flight with it can be behind it.
        if not removal.chunks and not any(found[-CHUNKS_IN_FLIGHT_MAX:]):
            done = Delete(entries.namespace, key, turned)
            await entries.gateway.write(done, Durability.RELAXED)
        return sum(found)

    def _removed_at_once(self, key: bytes, removal: Removal) -> int:
        """As many chunks as one batch holds with the note, where that is small. Never fewer than
        can be in flight: it is by these that the end is known."""
        note = self._entries.put(key, Removal(removal.index + REMOVED_PER_BATCH, removal.chunks))
        left = self._entries.gateway.config.batch_bytes_max - operation_bytes(note)
        fitting = left // OPERATION_OVERHEAD_BYTES
        return max(CHUNKS_IN_FLIGHT_MAX, min(REMOVED_PER_BATCH, fitting))

    async def _remove_together(
        self, chunks: Sequence[Operation], note: Operation
    ) -> tuple[list[bool], int]:
        """Whether each chunk was there, and what the note's write has given."""
        gateway = self._entries.gateway
        if not self._fits([note, *chunks]):
            # A batch has hardly room for anything. The note last: it must not say too much.
            found = [await gateway.write(one, Durability.RELAXED) for one in chunks]
            return found, await gateway.write(note, Durability.RELAXED)
        async with Transaction(gateway, Durability.RELAXED) as transaction:
            turned = transaction.add(note)
            acks = [transaction.add(one) for one in chunks]
        return [await ack for ack in acks], await turned

    # --- what there is ---

    async def _numbers(self, prefix: str) -> list[int]:
        found = await self._entries.numbered(prefix)
        return [number_in(prefix, entry.key) for entry in found if isinstance(entry, StoredEntry)]

    async def _saves_with_chunks(self) -> set[int]:
        """The saves of which there are chunks, found by leaping from one to the next."""
        entries = self._entries
        saves: set[int] = set()
        start: bytes | None = CHUNKS
        while start is not None:
            page: ScanPage = await entries.gateway.read(
                ScanEntries(entries.namespace, start, prefix_end(CHUNKS))
            )
            if not page.entries:
                break
            first = page.entries[0]
            if isinstance(first, CorruptDataError):
                # Its key may be damaged, so nothing can be said of what is behind it.
                break
            save = save_of_chunk(first.key)
            saves.add(save)
            start = chunk_key(save + 1, 0)
        return saves

    async def _orphans(self, saves: set[int]) -> set[int]:
        """Those that nothing names and that the newest version has left behind; none where it
        cannot be told.

        First the chunks were read, then the saves, then the versions: a save goes from there to
        here, never back.
        """
        under_way = await self._entries.numbered(SAVING)
        manifests = await self._entries.numbered(VERSION)
        newest = 0
        try:
            _, listed = await self._entries.versions()
            named = {one.save for one in listed.versions}
            for entry in (*under_way, *manifests):
                if isinstance(entry, CorruptDataError):
                    raise entry
                manifest = _manifest(entry)
                named.add(entry.version if manifest is None else manifest.save)
                newest = max(newest, 0 if manifest is None else manifest.save)
        except (CorruptDataError, msgspec.MsgspecError):
            return set()
        return {save for save in saves - named if save < newest}


def _manifest(entry: StoredEntry) -> Manifest | None:
    """What an entry says that is not one of a save under way, which says nothing."""
    return msgspec.msgpack.decode(entry.value, type=Manifest) if entry.value else None

"""What is wrong with a snapshot: its versions, chunk by chunk, in little memory."""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import Final, TypeVar

import msgspec
from attrs import define, field, frozen

from mpreg.codec import encode_key
from mpreg.persistence.maintenance.checks import check_entry, shown_name
from mpreg.persistence.maintenance.findings import Finding, FindingKind
from mpreg.persistence.maintenance.rows import EntryRow, Source
from mpreg.persistence.snapshots.layout import (
    REMOVING,
    SAVING,
    VERSION,
    VERSIONS_KEY,
    Manifest,
    VersionList,
    chunk_place,
    number_in,
)

__all__ = [
    "KeptVersion",
    "SnapshotCheck",
    "SnapshotEntriesFound",
    "find_entries",
    "read_versions",
]

T = TypeVar("T")


@frozen
class KeptVersion:
    number: int
    manifest: Manifest


@define
class SnapshotEntriesFound:
    """All that is in a snapshot's namespace beside the chunks: few and small entries."""

    list_row: EntryRow | None = None
    listed: VersionList | None = None
    """None where there is no list, or a damaged one."""
    versions: list[KeptVersion] = field(factory=list)
    """Those with an intact manifest."""
    damaged: list[EntryRow] = field(factory=list)
    """Entries that match their checksum and make no sense."""
    accounted: set[int] = field(factory=set)
    """Saves under way, or being removed: their chunks are nobody's fault."""


def find_entries(source: Source, id: int, name: bytes) -> SnapshotEntriesFound:
    found = SnapshotEntriesFound()
    found.list_row = source.entry(id, VERSIONS_KEY)
    if found.list_row is not None and check_entry(name, found.list_row) is None:
        found.listed = _decoded(found.list_row, VersionList, found)
    for number, row in _numbered(source, id, name, VERSION, found):
        manifest = _decoded(row, Manifest, found)
        if manifest is not None:
            found.versions.append(KeptVersion(number, manifest))
    found.accounted |= {row.version for _, row in _numbered(source, id, name, SAVING, found)}
    found.accounted |= {save for save, _ in _numbered(source, id, name, REMOVING, found)}
    return found


def read_versions(source: Source, id: int, name: bytes) -> Iterator[KeptVersion | Finding]:
    """What a snapshot keeps, from the oldest to the newest, or what is wrong with it."""
    found = find_entries(source, id, name)
    for row in (found.list_row, *source.entries_with(id, encode_key(VERSION)), *found.damaged):
        if row is not None and (finding := check_entry(name, row)) is not None:
            yield finding
    yield from SnapshotCheck(name, found).listed()
    yield from found.versions


def _numbered(
    source: Source, id: int, name: bytes, prefix: str, found: SnapshotEntriesFound
) -> Iterator[tuple[int, EntryRow]]:
    for row in source.entries_with(id, encode_key(prefix)):
        if check_entry(name, row) is not None:
            continue
        try:
            number = number_in(prefix, row.key)
        except ValueError:
            found.damaged.append(row)
        else:
            yield number, row


def _decoded(row: EntryRow, type: type[T], found: SnapshotEntriesFound) -> T | None:
    try:
        return msgspec.msgpack.decode(row.value, type=type)
    except msgspec.MsgspecError:
        found.damaged.append(row)
        return None


@define
class _Whole:
    """A version, as far as its chunks were seen."""

    kept: KeptVersion
    next_index: int = 0
    size_bytes: int = 0
    checksum: int = 0
    broken: bool = False


#: Findings about one snapshot that name chunks of no version.
_NOBODYS: Final = "chunks that no version names"


@define
class SnapshotCheck:
    """Follows the chunks of one snapshot, in the order of their keys."""

    name: bytes
    found: SnapshotEntriesFound
    _wholes: dict[int, _Whole] = field(init=False)
    """By the ids of the saves."""
    _lost: dict[int, int] = field(factory=dict)

    def __attrs_post_init__(self) -> None:
        self._wholes = {kept.manifest.save: _Whole(kept) for kept in self.found.versions}

    @property
    def broken(self) -> list[KeptVersion]:
        """Versions that cannot be loaded."""
        return [whole.kept for whole in self._wholes.values() if whole.broken]

    def list_anew(self) -> VersionList | None:
        """The list without the versions that are `broken`; None where it is right, or none is left.

        What was not followed cannot be known to be broken.
        """
        broken = {kept.number for kept in self.broken}
        whole = [kept for kept in self.found.versions if kept.number not in broken]
        if not whole or not (broken or self.found.listed is None or any(self.listed())):
            return None
        # Where nobody can say how many are kept: as many as there are.
        before = self.found.listed or VersionList(versions_max=len(whole))
        versions = tuple(kept.manifest.listed(kept.number) for kept in whole)
        return before.changed(before.last, versions, before.retention)

    def listed(self) -> Iterator[Finding]:
        """The list of versions against the manifests."""
        for row in self.found.damaged:
            yield self._finding(f"the entry {row.key!r} is damaged")
        if self.found.listed is None:
            if self.found.list_row is None and self.found.versions:
                yield self._finding("the list of versions is missing")
            return
        listed = {one.number: one.save for one in self.found.listed.versions}
        kept = {one.number: one.manifest.save for one in self.found.versions}
        for number in sorted(listed.keys() - kept.keys()):
            yield self._finding("the manifest is missing or damaged", number)
        for number in sorted(kept.keys() - listed.keys()):
            yield self._finding("the list of versions does not name it", number)
        for number in sorted(listed.keys() & kept.keys()):
            if listed[number] != kept[number]:
                yield self._finding("the list of versions and its manifest differ", number)

    def is_nobodys(self, key: object) -> bool:
        """Whether it is the key of a chunk that no version names. Of a save that a power cut has
        ended, some may be named and not be there."""
        place = chunk_place(key)
        return place is not None and place[0] not in self._wholes

    def follow(self, key: bytes, value: object, *, intact: bool) -> Iterator[Finding]:
        """The next entry of the namespace, and whether it matches its checksum."""
        place = chunk_place(key)
        if place is None:
            return
        save, index = place
        whole = self._wholes.get(save)
        if whole is None:
            if save not in self.found.accounted:
                self._lost[save] = self._lost.get(save, 0) + 1
            return
        if index >= whole.kept.manifest.chunks:
            return
        yield from self._skip_to(whole, index)
        whole.next_index = index + 1
        if intact and isinstance(value, bytes):
            whole.size_bytes += len(value)
            whole.checksum = zlib.crc32(value, whole.checksum)
        else:
            whole.broken = True

    def finish(self) -> Iterator[Finding]:
        """When all entries were seen."""
        for whole in self._wholes.values():
            manifest = whole.kept.manifest
            yield from self._skip_to(whole, manifest.chunks)
            seen = (whole.size_bytes, whole.checksum)
            if not whole.broken and seen != (
                manifest.size_bytes,
                manifest.checksum,
            ):
                whole.broken = True
                yield self._finding("the whole does not match its checksum", whole.kept.number)
        for save, chunks in self._lost.items():
            where = f"snapshot {shown_name(self.name)}, save {save}"
            yield Finding(FindingKind.LEFTOVER, where, f"{chunks} {_NOBODYS}")

    def _skip_to(self, whole: _Whole, index: int) -> Iterator[Finding]:
        missing = index - whole.next_index
        if missing > 0:
            whole.broken = True
            yield self._finding(
                f"{missing} of {whole.kept.manifest.chunks} chunks are missing, "
                f"the first is chunk {whole.next_index}",
                whole.kept.number,
            )

    def _finding(self, message: str, number: int | None = None) -> Finding:
        where = f"snapshot {shown_name(self.name)}"
        if number is not None:
            where += f", version {number}"
        return Finding(FindingKind.SNAPSHOT, where, message)

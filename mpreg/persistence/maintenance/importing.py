"""JSON Lines into a new store of any backend, through a registry like any other writer."""

from __future__ import annotations

import hashlib
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator
from contextlib import ExitStack
from typing import Any, Final

import anyio.to_thread
from attrs import define, evolve, field, frozen

from mpreg.errors import (
    ConfigurationError,
    DataDirectoryError,
    InvalidArgumentError,
    StorageFullError,
)
from mpreg.persistence.batch import operation_bytes
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.maintenance.checks import shown_name
from mpreg.persistence.maintenance.findings import FINDINGS_KEPT_MAX, Finding
from mpreg.persistence.maintenance.full_disk import run_unless_full
from mpreg.persistence.maintenance.gaps import Gaps, gaps_in, no_gaps
from mpreg.persistence.maintenance.lines import (
    FORMAT_VERSION,
    data_of,
    key_of,
    line_bytes_max,
    load_line,
    number_of,
    parts_of_name,
    seconds_of,
    store_name_of,
)
from mpreg.persistence.maintenance.restore import held_place
from mpreg.persistence.maintenance.staging import Staging, file_errors, no_room, staged
from mpreg.persistence.maintenance.staging_inside import StagingInside
from mpreg.persistence.operations import Append, Operation, Put, TruncateBefore
from mpreg.persistence.registry import PersistenceRegistry
from mpreg.persistence.snapshots import SnapshotRetention, SnapshotStore, is_snapshot_namespace

__all__ = ["ImportReport", "import_into", "import_lines"]

#: Written in one transaction.
BATCH_OPERATIONS: Final = 256
BATCH_BYTES: Final = 1 << 20


@frozen(kw_only=True)
class ImportReport:
    """What was imported."""

    entries: int
    records: int
    snapshots: int
    commit_sequence: int
    """That of the store that was exported; the new store counts its own."""
    missing: int = 0
    """Records that the export says were missing from their logs."""
    gaps: tuple[Finding, ...] = ()
    """Where, and what was done about it: at most 10,000 of them."""

    def as_mapping(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "entries": self.entries,
            "records": self.records,
            "snapshots": self.snapshots,
            "commit_sequence": self.commit_sequence,
            "missing": self.missing,
            "gaps": [finding.as_mapping() for finding in self.gaps],
        }


async def import_lines(lines: AsyncIterable[bytes], config: PersistenceConfig) -> ImportReport:
    """Make ``config.data_dir`` of an export, with the backend that ``config`` names.

    The store is made beside its place and renamed when it is complete and synced, so that half an
    import is never taken for a store. Entries keep their keys, values and times of expiry, logs
    their offsets, also where they were truncated. Versions are given anew: whoever remembers one
    must read it again. Nothing is merged: the directory must be missing or empty.

    Where records were missing from a log, a database has the same gap, and its quarantine says so.
    A journal can have none: its log begins behind the last gap, and the records before it are in
    the quarantine of the new store.

    No line may be longer than `line_bytes_max`: whoever reads them from where they may have no end
    may cut them behind that.

    Cancelled, or failed: nothing is left of it. Killed: the next one removes what is left.

    Raises:
        InvalidArgumentError: a line cannot be read, or the export was cut off; says which line.
        DataDirectoryError: there is something in the directory.
        DataDirectoryLockedError: a process holds it.
        StorageFullError, StorageIOError: not imported.
    """
    if config.data_dir is None:
        raise InvalidArgumentError("an import needs a data directory")
    with ExitStack() as stack:
        staging: Staging = stack.enter_context(staged(config.data_dir, inside=StagingInside))
        if not stack.enter_context(held_place(staging.place, staging)):
            raise DataDirectoryError(
                staging.place, "it is not empty; nothing was changed: import into a new directory"
            )
        # All is awaited: what is still under way at the end is only there where there is no room.
        # And where the disk fails, nothing is won by opening half a store again.
        settings = evolve(config, data_dir=staging.path, grace_seconds=0.0, restarts_max=0)
        try:
            async with PersistenceRegistry(settings) as registry:
                gaps = gaps_in(staging.path, settings.backend, registry)
                work = _Import(registry, _Lines.of(lines, config), gaps)
                report = await run_unless_full(registry, work.run)
        except StorageFullError as error:
            # It says what a server would do, and names a file that is removed.
            raise no_room(
                staging.place, "; nothing was imported: make room and run it again"
            ) from error
        await anyio.to_thread.run_sync(gaps.finish)
        with file_errors(staging.place):
            await anyio.to_thread.run_sync(staging.publish)
    return report


async def import_into(registry: PersistenceRegistry, lines: AsyncIterable[bytes]) -> ImportReport:
    """Write an export into an open registry that has nothing in it; the caller sees to that.

    What was written when it fails, or is cancelled, stays.

    Raises:
        InvalidArgumentError: a line cannot be read, or the export was cut off; or records are
            missing from a log of it.
    """
    return await _Import(registry, _Lines.of(lines, registry.config), no_gaps).run()


@define
class _Lines:
    """The lines with their numbers, so that an error can say which one it is."""

    _lines: AsyncIterator[bytes]
    _bytes_max: int
    number: int = 0
    digest: str = ""
    """SHA-256 of all lines before the last one that was read."""
    _hash: hashlib._Hash = field(factory=hashlib.sha256)

    @classmethod
    def of(cls, lines: AsyncIterable[bytes], config: PersistenceConfig) -> _Lines:
        return cls(aiter(lines), line_bytes_max(config.value_bytes_max))

    async def following(self) -> dict[str, Any] | None:
        line = await anext(self._lines, None)
        if line is None:
            return None
        self.number += 1
        if len(line) > self._bytes_max:
            raise InvalidArgumentError(
                f"it is longer than {self._bytes_max} bytes, and no line of an export is, unless "
                "value_bytes_max was above what it is here"
            )
        self.digest = self._hash.hexdigest()
        self._hash.update(line)
        return load_line(line)


@define
class _Log:
    """The log that is being read."""

    name: bytes
    next_offset: int
    end_offset: int
    """Where its line says that it ends."""


@define
class _Import:
    registry: PersistenceRegistry
    lines: _Lines
    gaps: Gaps
    _operations: list[Operation] = field(factory=list)
    _size: int = 0
    _entries: int = 0
    _records: int = 0
    _snapshots: int = 0
    _missing: int = 0
    _left: list[Finding] = field(factory=list)
    _log: _Log | None = None
    _logs: set[bytes] = field(factory=set)
    """Those that were begun. Records of a second one would get offsets behind those of the first,
    and not the ones that stand in their lines."""

    async def run(self) -> ImportReport:
        try:
            return await self._run()
        except InvalidArgumentError as error:
            raise InvalidArgumentError(f"line {self.lines.number}: {error}") from error

    async def _run(self) -> ImportReport:
        first = await self.lines.following()
        _check_first(first)
        while (item := await self.lines.following()) is not None:
            if item["type"] == "end":
                return await self._finish(first, item)
            await self._take(item)
        raise InvalidArgumentError("the export ends here, without its last line: it was cut off")

    async def _finish(self, first: Any, end: dict[str, Any]) -> ImportReport:
        if number_of(end, "lines") != self.lines.number - 1:
            raise InvalidArgumentError("lines are missing before the last one")
        if end.get("sha256", self.lines.digest) != self.lines.digest:
            raise InvalidArgumentError(
                "the lines before this one are not those that were exported; where they were "
                "changed on purpose, take sha256 out of this line"
            )
        if await self.lines.following() is not None:
            raise InvalidArgumentError("there is more after the last line")
        self._check_log_ended()
        await self._flush()
        return ImportReport(
            entries=self._entries,
            records=self._records,
            snapshots=self._snapshots,
            commit_sequence=number_of(first, "commit_sequence"),
            missing=self._missing,
            gaps=tuple(self._left),
        )

    async def _take(self, item: dict[str, Any]) -> None:
        match item["type"]:
            case "entry":
                self._entries += 1
                await self._add(_put(item))
            case "log":
                await self._begin_log(item)
            case "record":
                await self._record(item)
            case "gap":
                await self._gap(item)
            case "snapshot":
                self._snapshots += 1
                await self._save(item)
            case other:
                raise InvalidArgumentError(f"a line of type {other!r} has no place here")

    # --- entries and logs ---

    async def _begin_log(self, item: dict[str, Any]) -> None:
        self._check_log_ended()
        name, first = store_name_of(item), number_of(item, "first_offset")
        if name in self._logs:
            raise InvalidArgumentError(f"the log {shown_name(name)} was begun by an earlier line")
        self._logs.add(name)
        self._log = _Log(name, first, number_of(item, "next_offset"))
        if first:
            await self._add(TruncateBefore(name, first, beyond_end=True))

    def _check_log_ended(self) -> None:
        log = self._log
        if log is not None and log.next_offset != log.end_offset:
            raise InvalidArgumentError(
                f"the log before this line was to end at offset {log.end_offset}, but its "
                f"records end at {log.next_offset}"
            )

    async def _record(self, item: dict[str, Any]) -> None:
        name, offset = store_name_of(item), number_of(item, "offset")
        log = self._log
        if log is None or (log.name, log.next_offset) != (name, offset):
            raise InvalidArgumentError(f"offset {offset} does not follow the one before it")
        log.next_offset += 1
        self._records += 1
        await self._add(Append(name, [data_of(item, "data")]))

    async def _gap(self, item: dict[str, Any]) -> None:
        name, start = store_name_of(item), number_of(item, "offset")
        stop, log = number_of(item, "next_offset"), self._log
        if log is None or (log.name, log.next_offset) != (name, start):
            raise InvalidArgumentError(f"a gap at offset {start} does not follow what is before it")
        # Without a record behind it there would be nothing to tell the log's end by.
        if not start < stop < log.end_offset:
            raise InvalidArgumentError(f"next_offset: {stop} is no end of a gap in this log")
        await self._flush()
        left = await self.gaps.leave(name, start, stop)
        log.next_offset = stop
        self._missing += stop - start
        if len(self._left) < FINDINGS_KEPT_MAX:
            self._left.append(left)

    async def _add(self, operation: Operation) -> None:
        size = operation_bytes(operation)
        if self._size + size > BATCH_BYTES or len(self._operations) >= BATCH_OPERATIONS:
            await self._flush()
        self._operations.append(operation)
        self._size += size

    async def _flush(self) -> None:
        operations, self._operations, self._size = self._operations, [], 0
        async with self.registry.transaction() as transaction:
            for operation in operations:
                transaction.add(operation)

    # --- snapshots ---

    async def _save(self, item: dict[str, Any]) -> None:
        store = self._store(item)
        store.keep(_retention(item))
        await store.save(self._chunks(number_of(item, "chunks")))

    async def _chunks(self, count: int) -> AsyncGenerator[bytes, None]:
        for _ in range(count):
            item = await self.lines.following()
            if item is None or item["type"] != "chunk":
                raise InvalidArgumentError("a chunk of the snapshot is expected here")
            yield data_of(item, "data")

    def _store(self, item: dict[str, Any]) -> SnapshotStore:
        kind, name = parts_of_name(store_name_of(item))
        if kind == "snapshot":
            return self.registry.snapshot_store(name)
        if kind is None or not kind.endswith(".snapshot"):
            raise InvalidArgumentError(f"{name!r} is no name of a snapshot")
        return self.registry.reserved(kind.removesuffix(".snapshot")).snapshot_store(name)


def _retention(item: dict[str, Any]) -> SnapshotRetention:
    try:
        return SnapshotRetention(
            versions_max=item.get("versions_max", 1), seconds_max=seconds_of(item, "seconds_max")
        )
    except ConfigurationError as error:
        raise InvalidArgumentError(str(error)) from error


def _put(item: dict[str, Any]) -> Put:
    store = store_name_of(item)
    if is_snapshot_namespace(store):
        raise InvalidArgumentError("an entry cannot be put into a snapshot")
    return Put(store, key_of(item), data_of(item, "value"), seconds_of(item, "expires_at"))


def _check_first(item: dict[str, Any] | None) -> None:
    if item is None:
        raise InvalidArgumentError("there is nothing to import: the input is empty")
    if item["type"] != "mpreg-export":
        raise InvalidArgumentError("not an export: the first line must be of type 'mpreg-export'")
    if number_of(item, "format_version") > FORMAT_VERSION:
        raise InvalidArgumentError(
            f"exported in format {item['format_version']}, newer than {FORMAT_VERSION}, the newest "
            "this mpreg can read; upgrade mpreg"
        )

"""The reference backend: the same decisions, a dict for a disk.

Nothing survives the process. `MemoryState` is also what a backend with a journal keeps in memory.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence

import anyio.lowlevel
from attrs import define, field
from sortedcontainers import SortedDict, SortedSet

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    PAGE_ITEMS_MAX,
    BackendStatistics,
    CheckFound,
    FoundState,
    GetEntry,
    GetLogBounds,
    ListNamespaces,
    NamespaceExpiry,
    NamespacesPage,
    OpenedState,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StoredEntry,
    StoredRecord,
    UpkeepResult,
    UpkeepStep,
    check_nothing,
)
from mpreg.persistence.commit_group import (
    BatchOutcome,
    CommitGroup,
    CommitPlan,
    Expired,
    LogBounds,
    NewEntry,
    plan_group,
)
from mpreg.persistence.operations import EntryKey

__all__ = ["MemoryBackend", "MemoryReader", "MemoryState"]


@define(eq=False)
class _Log:
    first_offset: int = 0
    records: list[bytes] = field(factory=list)

    @property
    def next_offset(self) -> int:
        return self.first_offset + len(self.records)


@define(eq=False)
class MemoryState:
    """Entries and logs in memory: takes plans, answers queries."""

    last_version: int = 0
    _namespaces: dict[bytes, SortedDict[bytes, NewEntry]] = field(factory=dict)
    _expiries: dict[bytes, SortedSet[Expired]] = field(factory=dict)
    """Of the entries that have an expiry, in each namespace."""
    _logs: dict[bytes, _Log] = field(factory=dict)

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        namespace = self._namespaces.get(key[0])
        entry = None if namespace is None else namespace.get(key[1])
        return None if entry is None else entry[:2]

    def expired_entries(
        self, namespace: bytes, now: float, count: int, *, without: Container[EntryKey]
    ) -> list[Expired]:
        found: list[Expired] = []
        for expires_at, key in self._expiries.get(namespace, ()):
            if expires_at > now or len(found) == count:
                break
            if (namespace, key) not in without:
                found.append((expires_at, key))
        return found

    def log_bounds(self, log: bytes) -> LogBounds:
        found = self._logs.get(log)
        return (0, 0) if found is None else (found.first_offset, found.next_offset)

    def carry_out(self, plan: CommitPlan) -> None:
        self.last_version = plan.last_version
        for key, entry in plan.entries.items():
            self._set(key, entry)
        for log in plan.deleted:
            self._logs.pop(log, None)
        for log, _offset, data in plan.records:
            self._logs.setdefault(log, _Log()).records.append(data)
        for log, first_offset in plan.truncated.items():
            found = self._logs[log]
            del found.records[: first_offset - found.first_offset]
            found.first_offset = first_offset

    def _set(self, entry_key: EntryKey, entry: NewEntry | None) -> None:
        namespace, key = entry_key
        entries = self._namespaces.setdefault(namespace, SortedDict())
        expiries = self._expiries.setdefault(namespace, SortedSet())
        before = entries.get(key)
        if before is not None and before[1] is not None:
            expiries.discard((before[1], key))
        if entry is None:
            entries.pop(key, None)
            return
        entries[key] = entry
        if entry[1] is not None:
            expiries.add((entry[1], key))

    def read(self, query: ReadQuery) -> ReadResult:
        match query:
            case GetEntry():
                entry = self._namespaces.get(query.namespace, {}).get(query.key)
                return None if entry is None else StoredEntry(query.key, *entry)
            case ScanEntries():
                return self._scan(query)
            case ReadRecords():
                return self._read_records(query)
            case GetLogBounds():
                return self.log_bounds(query.log)
            case ListNamespaces():
                return self._list_namespaces(query)

    def _list_namespaces(self, query: ListNamespaces) -> NamespacesPage:
        page: list[NamespaceExpiry] = []
        for name in sorted(name for name in self._namespaces if name >= query.start):
            if len(page) == PAGE_ITEMS_MAX:
                return NamespacesPage(tuple(page), name)
            expiries = self._expiries[name]
            index = expiries.bisect_left((math.nextafter(query.after, math.inf), b""))
            later = expiries[index][0] if index < len(expiries) else None
            page.append(NamespaceExpiry(name, later))
        return NamespacesPage(tuple(page), None)

    def _scan(self, query: ScanEntries) -> ScanPage:
        found = self._namespaces.get(query.namespace, SortedDict())
        page: list[StoredEntry | CorruptDataError] = []
        size = 0
        for key in found.irange(query.start, query.stop, inclusive=(True, False)):
            if len(page) >= PAGE_ITEMS_MAX or size >= PAGE_BYTES_MAX:
                return ScanPage(tuple(page), key)
            entry = StoredEntry(key, *found[key])
            page.append(entry)
            size += len(entry.value)
        return ScanPage(tuple(page), None)

    def _read_records(self, query: ReadRecords) -> RecordsPage:
        log = self._logs.get(query.log, _Log())
        start = max(query.start, log.first_offset)
        stop = log.next_offset if query.stop is None else min(query.stop, log.next_offset)
        page: list[StoredRecord | CorruptDataError] = []
        size = 0
        for offset in range(start, stop):
            if len(page) >= PAGE_ITEMS_MAX or size >= PAGE_BYTES_MAX:
                return RecordsPage(tuple(page), offset)
            data = log.records[offset - log.first_offset]
            page.append(StoredRecord(offset, data))
            size += len(data)
        return RecordsPage(tuple(page), None)


class MemoryBackend:
    """A `StorageBackend` that keeps its state while the object lives, also over close and open."""

    def __init__(self) -> None:
        self._state = MemoryState()
        self._sequence = 0
        self._generation = 0

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        await anyio.lowlevel.checkpoint()
        found = FoundState(self._sequence, self._generation) if self._generation else None
        self._generation = max(self._generation, check(found)) + 1
        return OpenedState(self._sequence, self._generation)

    async def commit(self, group: CommitGroup) -> Sequence[BatchOutcome]:
        await anyio.lowlevel.checkpoint()
        plan = plan_group(group, self._state)
        if plan.accepted:
            self._state.carry_out(plan)
            self._sequence = group.sequence
        return plan.outcomes

    def upkeep_due(self) -> UpkeepStep | None:
        return None

    async def upkeep(self, step: UpkeepStep) -> UpkeepResult:
        await anyio.lowlevel.checkpoint()
        return UpkeepResult()

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

    def reader(self) -> MemoryReader:
        return MemoryReader(self._state)

    def statistics(self) -> BackendStatistics:
        return BackendStatistics()


class MemoryReader:
    def __init__(self, state: MemoryState) -> None:
        self._state = state

    async def open(self) -> None:
        await anyio.lowlevel.checkpoint()

    async def read(self, queries: Sequence[ReadQuery]) -> Sequence[ReadResult]:
        await anyio.lowlevel.checkpoint()
        return [self._state.read(query) for query in queries]

    async def close(self) -> None:
        await anyio.lowlevel.checkpoint()

"""Entries and logs in memory: what the memory backend is, and what one with a journal keeps.

An entry is one bytes object: its version, its expiry where it has one, and its value. A tuple of
the three would take a third more memory, and the garbage collector would have to look at it.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from itertools import islice, takewhile
from typing import Final, Protocol

from attrs import define, field, frozen

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import (
    PAGE_BYTES_MAX,
    PAGE_ITEMS_MAX,
    FoundEntries,
    GetEntries,
    GetEntry,
    GetLogBounds,
    ListNamespaces,
    NamespaceExpiry,
    NamespacesPage,
    ReadQuery,
    ReadRecords,
    ReadResult,
    RecordsPage,
    ScanEntries,
    ScanPage,
    StoredEntry,
    StoredRecord,
)
from mpreg.persistence.backends.sorted_blocks import SortedBlocks
from mpreg.persistence.commit_group import Expired, LogBounds, NewEntry, NewRecord
from mpreg.persistence.operations import EntryKey

__all__ = ["ITEM_BYTES", "Changes", "FrozenState", "MemoryState", "pack_entry", "unpack_entry"]

ITEM_BYTES: Final = 32
"""What an entry or a record counts for beside its key and its value."""

_BLOCK_RECORDS: Final = 1_024
_NUMBER: Final = struct.Struct("<Q")
_NUMBER_AND_EXPIRY: Final = struct.Struct("<Qd")


class Changes(Protocol):
    """What a `CommitPlan` changes: see there. A journal's frame holds the same."""

    @property
    def last_version(self) -> int: ...
    @property
    def entries(self) -> Mapping[EntryKey, NewEntry | None]: ...
    @property
    def records(self) -> Sequence[NewRecord]: ...
    @property
    def truncated(self) -> Mapping[bytes, int]: ...
    @property
    def deleted(self) -> Iterable[bytes]: ...


def pack_entry(version: int, expires_at: float | None, value: bytes) -> bytes:
    """An entry as it is kept. The number's lowest bit tells whether an expiry follows it."""
    if expires_at is None:
        return (version << 1).to_bytes(8, "little") + value
    return _NUMBER_AND_EXPIRY.pack(version << 1 | 1, expires_at) + value


def unpack_entry(packed: bytes) -> NewEntry:
    version, expires_at = _unpack_head(packed)
    return version, expires_at, packed[8 if expires_at is None else 16 :]


def _unpack_head(packed: bytes) -> tuple[int, float | None]:
    if packed[0] & 1:
        number, expires_at = _NUMBER_AND_EXPIRY.unpack_from(packed)
        return number >> 1, expires_at
    return _NUMBER.unpack_from(packed)[0] >> 1, None


# --- entries ---


class _Namespace:
    """The entries of one namespace, their keys in order, and the expiries of those that have one.

    The order is kept as keys come and go, so that a scan never has to sort: only the first time,
    when a whole namespace was loaded, `sort_keys` does.
    """

    __slots__ = ("entries", "expiries", "keys", "live_bytes")

    def __init__(self, *, loading: bool = False) -> None:
        self.entries: dict[bytes, bytes] = {}
        self.keys: SortedBlocks[bytes] | None = None if loading else SortedBlocks()
        self.expiries: SortedBlocks[Expired] = SortedBlocks()
        self.live_bytes = 0

    def sort_keys(self) -> SortedBlocks[bytes]:
        if self.keys is None:
            self.keys = SortedBlocks(self.entries)
        return self.keys

    def put(self, key: bytes, entry: NewEntry, before: bytes | None) -> None:
        """Set a key; ``before`` is what it has now."""
        version, expires_at, value = entry
        self.entries[key] = packed = pack_entry(version, expires_at, value)
        if before is None:
            self.live_bytes += len(key) + len(packed) + ITEM_BYTES
            if self.keys is not None:
                self.keys.add(key)
        else:
            self.live_bytes += len(packed) - len(before)
            if before[0] & 1:
                self._forget_expiry(key, before)
        if expires_at is not None:
            self.expiries.add((expires_at, key))

    def remove(self, key: bytes, before: bytes | None) -> None:
        if before is None:
            return
        del self.entries[key]
        self.live_bytes -= len(key) + len(before) + ITEM_BYTES
        if self.keys is not None:
            self.keys.remove(key)
        if before[0] & 1:
            self._forget_expiry(key, before)

    def _forget_expiry(self, key: bytes, packed: bytes) -> None:
        self.expiries.remove((_NUMBER_AND_EXPIRY.unpack_from(packed)[1], key))

    def from_key(self, start: bytes, stop: bytes | None = None) -> Iterator[bytes]:
        """Its keys in order. Not to be gone on with once the namespace has changed."""
        keys = self.sort_keys().from_item(start)
        return keys if stop is None else takewhile(lambda key: key < stop, keys)


# --- logs ---


class _Log:
    """Records in blocks: dropping the first of many costs little, and so does keeping a view."""

    __slots__ = ("_base", "_blocks", "_last", "first_offset", "live_bytes", "next_offset")

    def __init__(self, first_offset: int = 0) -> None:
        self.first_offset = self.next_offset = self._base = first_offset
        self._blocks: list[list[bytes] | tuple[bytes, ...]] = []
        """All but the last are full, and tuples: see `SortedBlocks` for why."""
        self._last: list[bytes] = []
        self.live_bytes = ITEM_BYTES

    def append(self, offset: int, data: bytes) -> None:
        if offset != self.next_offset:
            raise ValueError(f"a record at offset {offset}, where {self.next_offset} comes next")
        if not (offset - self._base) % _BLOCK_RECORDS:
            if self._blocks:
                self._blocks[-1] = tuple(self._last)
            self._last = []
            self._blocks.append(self._last)
        self._last.append(data)
        self.next_offset += 1
        self.live_bytes += len(data) + ITEM_BYTES

    def truncate(self, first_offset: int) -> None:
        if first_offset <= self.first_offset:
            return
        if first_offset >= self.next_offset:
            self._go_on_at(first_offset)
            return
        gone = self.view().records(self.first_offset, first_offset)
        self.live_bytes -= sum(len(data) + ITEM_BYTES for data in gone)
        self.first_offset = first_offset
        blocks, rest = divmod(first_offset - self._base, _BLOCK_RECORDS)
        del self._blocks[:blocks]
        self._base += blocks * _BLOCK_RECORDS
        if rest and self._blocks:
            # A new block: views go on with the old one.
            left = [b""] * rest + list(self._blocks[0][rest:])
            if len(self._blocks) == 1:
                self._blocks[0] = self._last = left
            else:
                self._blocks[0] = tuple(left)

    def _go_on_at(self, offset: int) -> None:
        """Empty, and the next record has this offset."""
        self.first_offset = self.next_offset = self._base = offset
        self._blocks, self._last = [], []
        self.live_bytes = ITEM_BYTES

    def view(self) -> _LogView:
        """The log as it is now. Later appends and truncations do not show in it."""
        return _LogView(self.first_offset, self.next_offset, self._base, tuple(self._blocks))


@frozen
class _LogView:
    first_offset: int
    next_offset: int
    _base: int
    _blocks: tuple[list[bytes] | tuple[bytes, ...], ...]

    def records(self, start: int, stop: int) -> Iterator[bytes]:
        for offset in range(start, stop):
            block, index = divmod(offset - self._base, _BLOCK_RECORDS)
            yield self._blocks[block][index]


# --- the whole ---


@define(eq=False)
class MemoryState:
    """Takes changes, answers queries, and can be looked at as it was while it changes."""

    last_version: int = 0
    _namespaces: dict[bytes, _Namespace] = field(factory=dict)
    _logs: dict[bytes, _Log] = field(factory=dict)
    _frozen: FrozenState | None = None
    _loading: bool = False

    @classmethod
    def to_be_loaded(cls) -> MemoryState:
        """An empty one that is about to get much: it can be read after `loaded`."""
        return cls(loading=True)

    def loaded(self) -> None:
        for namespace in self._namespaces.values():
            namespace.sort_keys()
        self._loading = False

    @property
    def live_bytes(self) -> int:
        """About what a snapshot of it would take: there each item has its namespace's or log's name
        beside it."""
        entries = sum(
            one.live_bytes + len(name) * len(one.entries) for name, one in self._namespaces.items()
        )
        records = sum(
            one.live_bytes + len(name) * (one.next_offset - one.first_offset)
            for name, one in self._logs.items()
        )
        return entries + records

    # --- what `plan_group` asks ---

    def entry_version(self, key: EntryKey) -> tuple[int, float | None] | None:
        namespace = self._namespaces.get(key[0])
        packed = None if namespace is None else namespace.entries.get(key[1])
        return None if packed is None else _unpack_head(packed)

    def expired_entries(
        self, namespace: bytes, now: float, count: int, *, without: Container[EntryKey]
    ) -> list[Expired]:
        found: list[Expired] = []
        known = self._namespaces.get(namespace)
        for expires_at, key in () if known is None else known.expiries:
            if expires_at > now or len(found) == count:
                break
            if (namespace, key) not in without:
                found.append((expires_at, key))
        return found

    def log_bounds(self, log: bytes) -> LogBounds:
        found = self._logs.get(log)
        return (0, 0) if found is None else (found.first_offset, found.next_offset)

    # --- changes ---

    def carry_out(self, plan: Changes) -> None:
        self.last_version = plan.last_version
        namespaces, frozen_state = self._namespaces, self._frozen
        for (name, key), entry in plan.entries.items():
            try:
                namespace = namespaces[name]
            except KeyError:
                namespace = namespaces[name] = _Namespace(loading=self._loading)
            before = namespace.entries.get(key)
            if frozen_state is not None:
                frozen_state.keep(name, key, before)
            if entry is None:
                namespace.remove(key, before)
            else:
                namespace.put(key, entry, before)
        if plan.records or plan.truncated or plan.deleted:
            self._change_logs(plan)

    def _change_logs(self, plan: Changes) -> None:
        for log in plan.deleted:
            self._logs.pop(log, None)
        # First, since a log may go on beyond where it ended: its new records follow that.
        for log, first_offset in plan.truncated.items():
            self._log(log).truncate(first_offset)
        for log, offset, data in plan.records:
            found = self._log(log)
            if offset >= found.first_offset:
                found.append(offset, data)

    def _log(self, name: bytes) -> _Log:
        found = self._logs.get(name)
        if found is None:
            found = self._logs[name] = _Log()
        return found

    def start_log(self, log: bytes, first_offset: int) -> None:
        """Make a log that begins at an offset, as one does that was truncated."""
        self._logs[log] = _Log(first_offset)

    # --- looking at it while it changes ---

    def freeze(self) -> FrozenState:
        """The state as it is now, to be taken away piece by piece until `thaw`. One at a time.

        Costs a step for each namespace and log, none for entries and records.
        """
        logs = [(name, log.view()) for name, log in self._logs.items()]
        self._frozen = FrozenState(self.last_version, dict(self._namespaces), logs)
        return self._frozen

    def thaw(self) -> None:
        self._frozen = None

    # --- what there is ---

    def namespaces(self) -> list[bytes]:
        """Their names, in order. One that has become empty is among them."""
        return sorted(self._namespaces)

    def logs(self) -> list[bytes]:
        """Their names, in order."""
        return sorted(self._logs)

    def entries(
        self, namespace: bytes, start: bytes = b""
    ) -> Iterator[tuple[bytes, int, float | None, bytes]]:
        """(key, version, expiry, value) from a key on, in order, while nothing changes."""
        found = self._namespaces.get(namespace)
        if found is not None:
            for key in found.from_key(start):
                yield (key, *unpack_entry(found.entries[key]))

    def entry_sizes(self, namespace: bytes, start: bytes) -> Iterator[tuple[bytes, int]]:
        """(key, bytes of key and value) from a key on, in order, while nothing changes."""
        found = self._namespaces.get(namespace)
        if found is not None:
            for key in found.from_key(start):
                packed = found.entries[key]
                yield key, len(key) + len(packed) - (16 if packed[0] & 1 else 8)

    def records(self, log: bytes) -> Iterator[tuple[int, bytes]]:
        """(offset, data) of each, in order; later changes do not show."""
        found = self._logs.get(log)
        if found is not None:
            view = found.view()
            span = (view.first_offset, view.next_offset)
            yield from enumerate(view.records(*span), view.first_offset)

    # --- queries ---

    def read(self, query: ReadQuery) -> ReadResult:
        match query:
            case GetEntry():
                return self._get(query.namespace, query.key)
            case GetEntries():
                return self._get_many(query)
            case ScanEntries():
                return self._scan(query)
            case ReadRecords():
                return self._read_records(query)
            case GetLogBounds():
                return self.log_bounds(query.log)
            case ListNamespaces():
                return self._list_namespaces(query)

    def _get(self, namespace: bytes, key: bytes) -> StoredEntry | None:
        found = self._namespaces.get(namespace)
        packed = None if found is None else found.entries.get(key)
        return None if packed is None else StoredEntry(key, *unpack_entry(packed))

    def _get_many(self, query: GetEntries) -> FoundEntries:
        found: list[StoredEntry | CorruptDataError | None] = []
        size = 0
        for key in query.keys:
            found.append(entry := self._get(query.namespace, key))
            size += 0 if entry is None else len(entry.value)
            if size >= PAGE_BYTES_MAX:
                break
        return FoundEntries(tuple(found))

    def _list_namespaces(self, query: ListNamespaces) -> NamespacesPage:
        page: list[NamespaceExpiry] = []
        later = (math.nextafter(query.after, math.inf), b"")
        for name in sorted(name for name in self._namespaces if name >= query.start):
            if len(page) == PAGE_ITEMS_MAX:
                return NamespacesPage(tuple(page), name)
            expiry = next(self._namespaces[name].expiries.from_item(later), None)
            page.append(NamespaceExpiry(name, None if expiry is None else expiry[0]))
        return NamespacesPage(tuple(page), None)

    def _scan(self, query: ScanEntries) -> ScanPage:
        found = self._namespaces.get(query.namespace)
        if found is None:
            return ScanPage((), None)
        page: list[StoredEntry | CorruptDataError] = []
        size = 0
        for key in found.from_key(query.start, query.stop):
            if len(page) >= PAGE_ITEMS_MAX or size >= PAGE_BYTES_MAX:
                return ScanPage(tuple(page), key)
            entry = StoredEntry(key, *unpack_entry(found.entries[key]))
            page.append(entry)
            size += len(entry.value)
        return ScanPage(tuple(page), None)

    def _read_records(self, query: ReadRecords) -> RecordsPage:
        log = self._logs.get(query.log)
        if log is None:
            return RecordsPage((), None)
        start = max(query.start, log.first_offset)
        stop = log.next_offset if query.stop is None else min(query.stop, log.next_offset)
        page: list[StoredRecord | CorruptDataError] = []
        size = 0
        for offset, data in enumerate(log.view().records(start, stop), start):
            if len(page) >= PAGE_ITEMS_MAX or size >= PAGE_BYTES_MAX:
                return RecordsPage(tuple(page), offset)
            page.append(StoredRecord(offset, data))
            size += len(data)
        return RecordsPage(tuple(page), None)


class FrozenState:
    """A state as it was when it was frozen, taken away piece by piece while it changes.

    Entries go in the order of their keys. What changes before its turn has come is kept as it was:
    `keep` is told of every change first. So what is kept beside the state is at most what changes
    meanwhile. Logs are views, and their blocks are shared with the state.
    """

    def __init__(
        self,
        last_version: int,
        namespaces: dict[bytes, _Namespace],
        logs: list[tuple[bytes, _LogView]],
    ) -> None:
        self.last_version = last_version
        self._left = namespaces
        """Those that are not taken yet, the first of them perhaps in part."""
        self._next_key = b""
        self._kept: list[tuple[EntryKey, bytes]] = []
        self._settled: dict[bytes, set[bytes]] = {name: set() for name in namespaces}
        """Of each namespace that is left: keys whose state was kept, or that were not there."""
        self._logs = logs
        self._log_offset: int | None = None
        """Of the last of ``_logs``; None: not begun."""

    def keep(self, name: bytes, key: bytes, before: bytes | None) -> None:
        """A key is about to change."""
        settled = self._settled.get(name)
        if settled is None or key in settled:
            return
        if name == next(iter(self._left)) and key < self._next_key:
            return
        settled.add(key)
        if before is not None:
            self._kept.append(((name, key), before))

    def take_entries(self, bytes_max: int) -> list[tuple[EntryKey, bytes]]:
        """Some entries, packed; none where all were taken. About ``bytes_max`` of them."""
        taken: list[tuple[EntryKey, bytes]] = []
        size = 0
        while self._kept and size < bytes_max:
            taken.append(self._kept.pop())
            size += len(taken[-1][1]) + ITEM_BYTES
        while self._left and size < bytes_max:
            name, namespace = next(iter(self._left.items()))
            settled = self._settled[name]
            keys = list(islice(namespace.from_key(self._next_key), PAGE_ITEMS_MAX))
            for index, key in enumerate(keys):
                if size >= bytes_max:
                    self._next_key = key
                    del keys[index:]
                    break
                if key not in settled:
                    packed = namespace.entries[key]
                    taken.append(((name, key), packed))
                    size += len(key) + len(packed) + ITEM_BYTES
            else:
                self._go_on(name, keys)
        return taken

    def _go_on(self, name: bytes, taken: list[bytes]) -> None:
        if len(taken) == PAGE_ITEMS_MAX:
            # The least key above the last one.
            self._next_key = taken[-1] + b"\x00"
            return
        del self._left[name], self._settled[name]
        self._next_key = b""

    def take_records(self, bytes_max: int) -> tuple[dict[bytes, int], list[NewRecord]]:
        """Logs that begin, with their first offsets, and records; both empty at the end."""
        begun: dict[bytes, int] = {}
        records: list[NewRecord] = []
        size = 0
        while self._logs and size < bytes_max:
            log, view = self._logs[-1]
            if self._log_offset is None:
                begun[log] = self._log_offset = view.first_offset
                size += len(log) + ITEM_BYTES
            for data in view.records(self._log_offset, view.next_offset):
                if size >= bytes_max:
                    break
                records.append((log, self._log_offset, data))
                self._log_offset += 1
                size += len(log) + len(data) + ITEM_BYTES
            else:
                self._logs.pop()
                self._log_offset = None
        return begun, records

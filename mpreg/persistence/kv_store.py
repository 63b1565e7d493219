"""Versioned keys with a time to live."""

from __future__ import annotations

import sys
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Final

import anyio.lowlevel
import msgspec
from attrs import define, field, frozen

from mpreg.actors import Ack, Feed
from mpreg.codec import (
    decode_key,
    encode_bytes,
    encode_key,
    encode_keys,
    encode_name,
    prefix_end,
)
from mpreg.errors import CorruptDataError, InvalidArgumentError, WatchLaggedError
from mpreg.persistence.backend import (
    KEYS_PER_QUERY_MAX,
    FoundEntries,
    GetEntries,
    GetEntry,
    ScanEntries,
    ScanPage,
    StoredEntry,
)
from mpreg.persistence.batch import Durability
from mpreg.persistence.gateway import StoreGateway
from mpreg.persistence.operations import Delete, Put, SweepExpired
from mpreg.persistence.paging import OnDamaged, Page, Paged
from mpreg.persistence.transaction import Transaction, send_nowait

__all__ = ["SWEEP_ENTRIES_MAX", "Entry", "KeyChange", "KeyValueStore", "KeyWatch"]

#: Changes kept for one who watches and does not take them.
WATCHED_CHANGES_MAX: Final = 4_096
#: Their values together; one that is larger is kept where it is the only one.
WATCHED_BYTES_MAX: Final = 64 << 20

#: Every other write waits while a sweep is made.
SWEEP_ENTRIES_MAX: Final = 10_000


@frozen
class KeyChange:
    """One change of a key that was committed. That an entry expires is no change."""

    key: str | bytes
    value: bytes | None
    """None: it was deleted."""
    version: int | None
    """None: it was deleted."""


@define(eq=False)
class KeyWatch(Feed[KeyChange]):
    """An async iterator over the changes of keys, in the order in which they were committed, from
    the moment its block was entered. Made by `KeyValueStore.watch`.

    One task iterates; cancelled while it waits, it has missed nothing and may go on.

    Raises, while iterating:
        InvalidArgumentError: it is not inside its block.
        WatchLaggedError: more changes came than were taken: some are missing from here on.
        WriterStoppedError: the registry has closed; there will be no more.
    """

    _gateway: StoreGateway = field(kw_only=True)
    _namespace: bytes = field(kw_only=True)
    _prefix: bytes = field(kw_only=True)
    """As keys are encoded; empty: all."""
    _kept_bytes: int = field(default=0, init=False)

    def changed(self, key: bytes, value: bytes | None, version: int | None) -> None:
        if not key.startswith(self._prefix) or self.has_ended:
            return
        kept_bytes = self._kept_bytes + len(value or b"")
        if self._kept_bytes and kept_bytes > WATCHED_BYTES_MAX:
            self.end(WatchLaggedError("values were not taken in time: later ones are missing"))
            return
        self._kept_bytes = kept_bytes
        self.tell(KeyChange(decode_key(key), value, version))

    async def __anext__(self) -> KeyChange:
        self._gateway.check_thread("a watch")
        change = await super().__anext__()
        self._kept_bytes -= len(change.value or b"")
        return change

    async def _enter(self) -> None:
        self._gateway.check_thread("a watch")
        await anyio.lowlevel.checkpoint()
        self._gateway.followers.keys.setdefault(self._namespace, {})[self] = None

    async def _leave(self, *_: object) -> None:
        followers = self._gateway.followers.keys
        found = followers[self._namespace]
        del found[self]
        if not found:
            del followers[self._namespace]


class Entry(msgspec.Struct, frozen=True, gc=False):
    # One is made for every entry that is read: see `mpreg.persistence.operations`.
    key: str | bytes
    """Of the same type as it was put."""
    value: bytes
    version: int
    """Given by the write; above that of every earlier write to any key of the registry."""
    expires_at: float | None
    """Wall clock, in seconds since 1970; None: never."""


class KeyValueStore:
    """The keys of one namespace. Made by `PersistenceRegistry.key_value_store`; costs nothing.

    Keys are `str` or `bytes` (``"a"`` and ``b"a"`` are two keys), at most 64 KiB; values are bytes,
    at most ``value_bytes_max``.

    Every awaiting write returns when its change is as durable as asked, and raises:

    - `InvalidArgumentError`, `ValueTooLargeError`: nothing was sent.
    - `VersionConflictError`: ``expected_version`` did not match; not written.
    - `StorageFullError`, `CommitFailedError`: rolled back; it may be tried again.
    - `CommitUnknownError`: it cannot be told, and the writer is gone.
    - `WriterStoppedError`: not open (any more); not written.

    Cancelled, it may still happen, as a whole. The ``*_nowait`` forms send at once and return the
    ack, or raise `MailboxFullError`; with ``transaction=`` they only add to the transaction.
    """

    def __init__(self, gateway: StoreGateway, namespace: str, encoded: bytes | None = None) -> None:
        """``encoded`` is the name on disk where it is not that of a user's namespace."""
        self.namespace = namespace
        self._name = encode_name(namespace) if encoded is None else encoded
        self._gateway = gateway

    async def put(
        self,
        key: str | bytes,
        value: bytes,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
        durability: Durability = Durability.DURABLE,
    ) -> int:
        """Set a key and return its new version.

        ``ttl_seconds`` from now, by the wall clock, the entry is invisible.
        ``expected_version``: the version that the key must have now; 0: it must not exist.
        """
        expires_at = None if ttl_seconds is None else self._expiry(ttl_seconds)
        put = self.put_operation(
            key, value, expires_at=expires_at, expected_version=expected_version
        )
        version: int = await self._gateway.write(put, durability)
        return version

    def put_nowait(
        self,
        key: str | bytes,
        value: bytes,
        *,
        ttl_seconds: float | None = None,
        expected_version: int | None = None,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[int]:
        """`put`, sent at once; the ack gives the version. A transaction has its own durability."""
        expires_at = None if ttl_seconds is None else self._expiry(ttl_seconds)
        put = self.put_operation(
            key, value, expires_at=expires_at, expected_version=expected_version
        )
        return send_nowait(self._gateway, put, durability, transaction)

    async def delete(
        self,
        key: str | bytes,
        *,
        expected_version: int | None = None,
        durability: Durability = Durability.DURABLE,
    ) -> bool:
        """Remove a key. True if it was there (and had not expired)."""
        delete = self.delete_operation(key, expected_version)
        was_there: bool = await self._gateway.write(delete, durability)
        return was_there

    def delete_nowait(
        self,
        key: str | bytes,
        *,
        expected_version: int | None = None,
        durability: Durability = Durability.DURABLE,
        transaction: Transaction | None = None,
    ) -> Ack[bool]:
        """`delete`, sent at once."""
        return send_nowait(
            self._gateway, self.delete_operation(key, expected_version), durability, transaction
        )

    async def sweep_expired(self, entries_max: int = 256) -> int:
        """Remove at most ``entries_max`` expired entries and return how many were removed.

        The longest expired go first; a result below ``entries_max`` says that there are no
        more. An expired entry is invisible anyway: this makes room. Their values are read, to see
        that they are intact; a damaged entry stays. It is acked as `Durability.RELAXED`: what a
        power cut undoes, the next sweep does again.

        Raises:
            InvalidArgumentError: ``entries_max`` is not from 1 to 10,000.
        """
        sweep = self._sweep(entries_max)
        removed: int = await self._gateway.write(sweep, Durability.RELAXED)
        return removed

    def sweep_expired_nowait(
        self, entries_max: int = 256, *, transaction: Transaction | None = None
    ) -> Ack[int]:
        """`sweep_expired`, sent at once; the ack gives the number of entries."""
        sweep = self._sweep(entries_max)
        return send_nowait(self._gateway, sweep, Durability.RELAXED, transaction)

    async def get(self, key: str | bytes) -> Entry | None:
        """The committed entry of a key; None where there is none, or it has expired.

        It never changes anything: an expired entry stays where it is, for `sweep_expired`.

        Raises:
            CorruptDataError: the stored entry is damaged.
            ReaderStoppedError: not open (any more).
        """
        found: StoredEntry | None = await self._gateway.read(GetEntry(self._name, encode_key(key)))
        return None if found is None else self._visible(found)

    async def get_many(
        self, keys: Sequence[str | bytes], *, on_damaged: OnDamaged | None = None
    ) -> list[Entry | None]:
        """The committed entries of many keys, in the order of the keys; None as `get` has it.

        One hop to the reader for each 512 keys, or MiB of values, and not for each key; each of
        these is one consistent state, and other readers are served between them. A damaged entry
        raises `CorruptDataError`; with ``on_damaged`` it is given to that, and None stands in its
        place.

        Raises:
            CorruptDataError: a stored entry is damaged.
            ReaderStoppedError: not open (any more).
        """
        found: list[Entry | None] = []
        encoded = encode_keys(keys)
        while (start := len(found)) < len(encoded):
            stop = start + KEYS_PER_QUERY_MAX
            query = GetEntries(self._name, encoded[start:stop])
            answer: FoundEntries = await self._gateway.read(query)
            now = self._gateway.clock.wall()
            for key, entry in zip(keys[start:stop], answer.entries, strict=False):
                if type(entry) is StoredEntry:
                    expires_at = entry.expires_at
                    if expires_at is None or expires_at > now:
                        found.append(Entry(key, entry.value, entry.version, expires_at))
                        continue
                elif isinstance(entry, CorruptDataError):
                    if on_damaged is None:
                        raise entry
                    on_damaged(entry)
                found.append(None)
        return found

    def scan(
        self,
        prefix: str | bytes | None = None,
        *,
        after: str | bytes | None = None,
        on_damaged: OnDamaged | None = None,
    ) -> AsyncIterator[Entry]:
        """The entries whose keys start with ``prefix``, in order of their keys; with ``after``,
        those that come after that key.

        A `str` prefix meets the `str` keys (ordered by code point), a `bytes` prefix the `bytes`
        keys; None meets all, `bytes` keys first. Read page by page: each page is one consistent
        state, a later page may show a later one. Stopping early costs nothing.

        A damaged entry raises `CorruptDataError`; with ``on_damaged`` it is given to that and
        passed over, and the rest is read.
        """
        return self._scan_after(prefix, after, on_damaged)

    def scan_stored(self, *, on_damaged: OnDamaged | None = None) -> AsyncIterator[Entry]:
        """`scan` of all that is on disk: also what has expired and is not removed yet."""
        return self._scan_after(None, None, on_damaged, _as_stored)

    def watch(
        self, prefix: str | bytes | None = None, *, changes_max: int = WATCHED_CHANGES_MAX
    ) -> KeyWatch:
        """The changes of all keys, or of those that start with ``prefix``, from now on:
        ``async with store.watch() as changes``, and ``async for change in changes``.

        ``changes_max`` are kept for who does not take them, of values of 64 MiB together; with
        more, the watch ends.
        """
        return KeyWatch(
            changes_max,
            gateway=self._gateway,
            namespace=self._name,
            prefix=b"" if prefix is None else encode_key(prefix),
        )

    def _scan_after(
        self,
        prefix: str | bytes | None,
        after: str | bytes | None,
        on_damaged: OnDamaged | None,
        make_entry: Callable[[StoredEntry], Entry | None] | None = None,
    ) -> AsyncIterator[Entry]:
        start = b"" if prefix is None else encode_key(prefix)
        stop = prefix_end(start)
        if after is not None:
            # The first of all keys that are above it.
            start = max(start, encode_key(after) + b"\x00")

        async def read_page(start: bytes) -> Page[StoredEntry, bytes]:
            page: ScanPage = await self._gateway.read(ScanEntries(self._name, start, stop))
            return page.entries, page.next_start

        return Paged(read_page, start, make_entry or self._visible, on_damaged)

    def put_operation(
        self,
        key: str | bytes,
        value: bytes,
        *,
        expires_at: float | None = None,
        expected_version: int | None = None,
    ) -> Put:
        """A `put` not sent yet: for `ReservedStores.send_nowait`. ``expires_at`` is wall clock."""
        if expires_at is not None and expires_at < self._gateway.earliest_expiry:
            self._gateway.earliest_expiry = expires_at
        return Put(
            self._name,
            encode_key(key),
            encode_bytes(value, self._gateway.config.value_bytes_max),
            expires_at,
            None if expected_version is None else _checked_version(expected_version),
        )

    def _expiry(self, ttl_seconds: float) -> float:
        return self._gateway.clock.wall() + _checked_ttl(ttl_seconds)

    def delete_operation(self, key: str | bytes, expected_version: int | None = None) -> Delete:
        """A `delete` that is not sent yet: for `ReservedStores.send_nowait`."""
        return Delete(
            self._name,
            encode_key(key),
            None if expected_version is None else _checked_version(expected_version),
        )

    def _sweep(self, entries_max: int) -> SweepExpired:
        return SweepExpired(self._name, _checked_entries_max(entries_max))

    def _visible(self, stored: StoredEntry) -> Entry | None:
        expires_at = stored.expires_at
        if expires_at is not None and expires_at <= self._gateway.clock.wall():
            return None
        return _as_stored(stored)

    def __repr__(self) -> str:
        return f"<KeyValueStore {self.namespace!r}>"


def _as_stored(stored: StoredEntry) -> Entry:
    return Entry(decode_key(stored.key), stored.value, stored.version, stored.expires_at)


def _checked_ttl(seconds: object) -> float:
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise InvalidArgumentError(f"ttl_seconds is a number of seconds, not {seconds!r}")
    if not 0 < seconds <= sys.float_info.max:
        raise InvalidArgumentError(f"ttl_seconds must be above 0 and finite, not {seconds!r}")
    return seconds


def _checked_entries_max(count: object) -> int:
    if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= SWEEP_ENTRIES_MAX:
        raise InvalidArgumentError(
            f"entries_max is a number from 1 to {SWEEP_ENTRIES_MAX}, not {count!r}"
        )
    return count


def _checked_version(version: object) -> int:
    if isinstance(version, bool) or not isinstance(version, int) or version < 0:
        raise InvalidArgumentError(f"expected_version is a version or 0, not {version!r}")
    return version

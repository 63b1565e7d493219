"""Where a cache keeps what. The only file that knows the names on disk.

::

    keys "NAME/entries"         a key's bytes → `CachedRecord`; the store's own expiry is the end of
                                its use, stale use too
    keys "NAME/invalidations"   see `mpreg.cache.invalidation`
    snapshots "NAME/heat"       the keys that L1 had, the most used first

All of them are reserved names: no user's namespace can be one of them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import msgspec
from attrs import define, field

from mpreg.cache.invalidation import Target, dependency_row, target_row
from mpreg.errors import CorruptDataError
from mpreg.persistence import (
    Ack,
    Durability,
    Entry,
    KeyValueStore,
    PersistenceRegistry,
    SnapshotStore,
)
from mpreg.persistence.batch import Settled
from mpreg.persistence.operations import Delete, Operation, Put
from mpreg.persistence.paging import OnDamaged
from mpreg.persistence.registry import ReservedStores

__all__ = ["CacheStorage"]

_KIND: Final = "cache"


@define(eq=False)
class CacheStorage:
    _registry: PersistenceRegistry
    _name: str
    stores: ReservedStores = field(init=False)
    entries: KeyValueStore = field(init=False)
    invalidations: KeyValueStore = field(init=False)
    heat: SnapshotStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stores = self._registry.reserved(_KIND)
        self.entries = self.stores.key_value_store(f"{self._name}/entries")
        self.invalidations = self.stores.key_value_store(f"{self._name}/invalidations")
        self.heat = self.stores.snapshot_store(f"{self._name}/heat")

    # --- operations ---

    def put(
        self, key: bytes, record: bytes, expires_at: float | None, expected_version: int | None
    ) -> Put:
        """``expected_version`` may be that of a damaged entry, as a conflict has told it."""
        put = self.entries.put_operation(key, record, expires_at=expires_at)
        if expected_version is None:
            return put
        return msgspec.structs.replace(put, expected_version=expected_version)

    def delete(self, key: bytes, expected_version: int | None = None) -> Delete:
        return self.entries.delete_operation(key, expected_version)

    def invalidate(self, target: Target) -> Put:
        return self.invalidations.put_operation(target_row(target), b"")

    def lower(self, target: Target, version: int) -> Delete:
        """Only what was looked at: it may have been invalidated again."""
        return self.invalidations.delete_operation(target_row(target), version)

    def depend(self, dependency: bytes) -> Put:
        return self.invalidations.put_operation(dependency_row(dependency), b"")

    def no_longer_depend(self, dependency: bytes) -> Delete:
        return self.invalidations.delete_operation(dependency_row(dependency))

    def reserve_nowait(self, size_bytes: int) -> bool:
        """See `ReservedStores.reserve_nowait`, and so on."""
        return self.stores.reserve_nowait(size_bytes)

    async def reserve(self, size_bytes: int) -> None:
        await self.stores.reserve(size_bytes)

    def send_reserved(
        self,
        operations: Sequence[Operation],
        settled: Settled,
        size_bytes: int,
        durability: Durability,
    ) -> Sequence[Ack[Any]]:
        return self.stores.send_reserved(operations, settled, size_bytes, durability=durability)

    def give_back(self, size_bytes: int) -> None:
        self.stores.give_back(size_bytes)

    # --- reading ---

    async def read_many(
        self, keys: Sequence[bytes], on_damaged: OnDamaged
    ) -> Sequence[Entry | None]:
        return await self.entries.get_many(keys, on_damaged=on_damaged)

    def scan(self, on_damaged: OnDamaged) -> AsyncIterator[Entry]:
        """Also of what has expired."""
        return self.entries.scan_stored(on_damaged=on_damaged)

    # --- the most used keys ---

    async def save_heat(self, keys: list[bytes]) -> None:
        """The most used first."""
        await self.heat.save(msgspec.msgpack.encode(keys))

    async def load_heat(self) -> list[bytes]:
        """None where there is no list. Raises `CorruptDataError`."""
        snapshot = await self.heat.load()
        if snapshot is None:
            return []
        try:
            return msgspec.msgpack.decode(snapshot.data, type=list[bytes])
        except msgspec.MsgspecError as error:
            raise CorruptDataError(
                f"not a list of keys: {error}", None, f"the most used keys of cache {self._name!r}"
            ) from error

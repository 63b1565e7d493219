"""Who is told of changes, in the order in which they were committed."""

from __future__ import annotations

import enum
from collections.abc import Callable

import anyio.lowlevel
from attrs import define, field, frozen

from mpreg.actors import Feed
from mpreg.cache.invalidation import Prefix, Target
from mpreg.cache.keys import GlobalCacheKey, KeyPart, decode_key
from mpreg.errors import WriterStoppedError

__all__ = ["CacheChange", "ChangeKind", "Watch", "Watchers"]


class ChangeKind(enum.Enum):
    PUT = "put"
    DELETED = "deleted"
    INVALIDATED = "invalidated"
    """A namespace, a part of it, a tag, or what depends on a key: the change says which."""
    EVICTED = "evicted"
    """It had to make room in L2."""


@frozen
class CacheChange:
    """One change that was committed. That an entry expires is no change: it is known before."""

    kind: ChangeKind
    version: int | None = None
    """Of what was put, or of the invalidation."""
    key: GlobalCacheKey | None = None
    """None where it is `ChangeKind.INVALIDATED`."""
    namespace: str | None = None
    """Invalidated, as a whole or the part that ``prefix`` names."""
    prefix: KeyPart | tuple[KeyPart, ...] | None = None
    tag: str | None = None
    """Entries with it were invalidated."""
    dependency: GlobalCacheKey | None = None
    """What depends on it was invalidated."""


@define(eq=False)
class Watch(Feed[CacheChange]):
    """An async iterator over the changes of a cache from the moment its block was entered.

    Made by `GlobalCacheManager.watch`. See `mpreg.actors.Feed`; it also raises `WriterStoppedError`
    where the registry has closed.
    """

    _watchers: Watchers = field(kw_only=True)
    _prefix: bytes = field(kw_only=True)
    """Of the keys that concern it; empty: all."""

    def note(self, change: CacheChange, encoded: bytes) -> None:
        """``encoded``: the key, or what all keys that are concerned begin with; empty: any key."""
        if encoded.startswith(self._prefix) or (
            change.key is None and self._prefix.startswith(encoded)
        ):
            self.tell(change)

    async def __anext__(self) -> CacheChange:
        self._watchers.check_thread("a watch")
        return await super().__anext__()

    def end(self, failure: Exception) -> None:
        self._watchers.remove(self)
        super().end(failure)

    async def _enter(self) -> None:
        self._watchers.check_thread("a watch")
        await anyio.lowlevel.checkpoint()
        self._watchers.add(self)

    async def _leave(self, *_: object) -> None:
        self._watchers.remove(self)


@define(eq=False)
class Watchers:
    _changes_max: int
    check_thread: Callable[[str], None]
    """See `mpreg.persistence.PersistenceRegistry.check_thread`."""
    _all: dict[Watch, None] = field(factory=dict)
    _have_ended: bool = False

    def watch(self, prefix: bytes) -> Watch:
        return Watch(self._changes_max, watchers=self, prefix=prefix)

    def add(self, watch: Watch) -> None:
        self._all[watch] = None
        if self._have_ended:
            watch.end(_closed())

    def remove(self, watch: Watch) -> None:
        self._all.pop(watch, None)

    def tell(
        self, kind: ChangeKind, key: GlobalCacheKey, encoded: bytes, version: int | None = None
    ) -> None:
        if self._all:
            self._tell(CacheChange(kind, version, key), encoded)

    def tell_invalidated(
        self, target: Target, version: int, *, has_dependents: bool = False
    ) -> None:
        """``has_dependents``: others may depend on keys that are concerned."""
        if not self._all:
            return
        kind = ChangeKind.INVALIDATED
        match target:
            case Prefix():
                change = CacheChange(
                    kind, version, namespace=target.namespace, prefix=target.prefix
                )
                self._tell(change, b"" if has_dependents else target.encoded)
            case str():
                self._tell(CacheChange(kind, version, tag=target), b"")
            case bytes():
                self._tell(CacheChange(kind, version, dependency=decode_key(target)), b"")

    def _tell(self, change: CacheChange, encoded: bytes) -> None:
        for watch in list(self._all):
            watch.note(change, encoded)

    def end(self) -> None:
        """There are no more changes: neither for those who watch, nor for those who begin to."""
        self._have_ended = True
        for watch in list(self._all):
            watch.end(_closed())


def _closed() -> Exception:
    return WriterStoppedError("the registry has closed; there are no more changes")

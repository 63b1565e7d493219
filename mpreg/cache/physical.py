"""What is on disk for a key, dead or not: what a condition of the store is held against."""

from __future__ import annotations

import anyio

from mpreg.cache.core import CacheCore
from mpreg.cache.entry import CachedEntry
from mpreg.cache.keys import GlobalCacheKey
from mpreg.cache.writes import Write

__all__ = ["is_as_it_was", "physical"]


async def physical(
    core: CacheCore, key: GlobalCacheKey, encoded: bytes, *, afresh: bool = False
) -> tuple[CachedEntry | None, int]:
    """The entry that readers see (None: none) and the version that the store has (0: none).

    What is on its way and concerns the key is waited for first. ``afresh``: the disk is asked,
    whatever is known: what has expired may be alive again where a clock was set back, and what was
    swept meanwhile is not. A damaged entry counts as none: the conflict of a write tells its
    version. Raises as `CacheCore.find` does.
    """
    while True:
        if (write := core.in_flight.on_its_way(key, encoded)) is not None:
            await _settled(write)
            continue
        if not afresh:
            now = core.wall()
            entry = core.memory.peek(key)
            if entry is not None:
                if entry.expires_at <= now:
                    return None, 0
                visible = core.reader.is_alive(entry) and now < entry.fresh_until
                return (entry if visible else None), entry.version
            if core.index.is_complete and encoded not in core.index.stored:
                return None, 0
        with core.reads.reading(encoded) as reading:
            (stored,) = await core.storage.read_many([encoded], core.reader.damaged)
            if reading.is_overtaken or core.in_flight.on_its_way(key, encoded) is not None:
                continue
            if stored is None:
                core.memory.discard(key)
                return None, 0
            entry = core.reader.take_in(key, encoded, stored)
            visible = entry is not None and core.wall() < entry.fresh_until
            return (entry if visible else None), stored.version


def is_as_it_was(
    core: CacheCore, key: GlobalCacheKey, encoded: bytes, entry: CachedEntry | None
) -> bool:
    """Whether readers still see what `physical` gave, as long as the store has that version."""
    if core.in_flight.on_its_way(key, encoded) is not None:
        return False
    return entry is None or (core.reader.is_alive(entry) and core.wall() < entry.fresh_until)


async def _settled(write: Write) -> None:
    if write.settled is None:
        write.settled = anyio.Event()
    await write.settled.wait()

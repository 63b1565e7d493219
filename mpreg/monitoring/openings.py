"""Which openings a store has seen: kept in it, so that a node can tell of its own restarts.

One small write when all is restored, and one at the end. An opening without an end was cut short,
by a kill or a power cut.
"""

from __future__ import annotations

from typing import Any, Final

import msgspec
from attrs import define, field

from mpreg.errors import CorruptDataError
from mpreg.persistence import (
    KeyValueStore,
    Participant,
    PersistenceRegistry,
    ReportProgress,
    RestoreOrder,
)

__all__ = ["OPENINGS", "OPENINGS_MAX", "Opening", "Openings"]

OPENINGS_MAX: Final = 32

#: Names the participant.
OPENINGS: Final = "openings"

_KEY: Final = "openings"


class Opening(msgspec.Struct, frozen=True, array_like=True):
    generation: int
    opened_at: float
    """Wall clock."""
    opening_seconds: float
    restore_seconds: float
    closed_at: float | None = None

    def told(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in self.__struct_fields__}


@define(eq=False)
class Openings:
    """Of one registry. To be made before it is opened."""

    _registry: PersistenceRegistry
    known: list[Opening] = field(factory=list)
    """The newest first, which is the one that lasts."""
    _store: KeyValueStore = field(init=False)

    def __attrs_post_init__(self) -> None:
        self._store = self._registry.reserved("monitoring").key_value_store("openings")
        self._registry.register(
            Participant(
                name=OPENINGS,
                # What it notes is how long the others took.
                order=RestoreOrder.LATER * 1_000,
                restore=self._restore,
                before_close=self._close,
                # A node that cannot tell of its past can do all the rest.
                required=False,
            )
        )

    async def _restore(self, report: ReportProgress) -> None:
        self.known = await self._read()
        report(len(self.known), len(self.known), "openings")
        stats = await self._registry.stats()
        took = sum(one.restore_seconds or 0.0 for one in stats.participants)
        self.known.insert(
            0, Opening(stats.generation, stats.opened_at, stats.opening_seconds, took)
        )
        await self._write()

    async def _read(self) -> list[Opening]:
        try:
            entry = await self._store.get(_KEY)
            return [] if entry is None else msgspec.msgpack.decode(entry.value, type=list[Opening])
        except (CorruptDataError, msgspec.MsgspecError):
            # It is about the past only, and is begun anew.
            return []

    async def _close(self) -> None:
        if self.known:
            closed_at = self._registry.clock.wall()
            self.known[0] = msgspec.structs.replace(self.known[0], closed_at=closed_at)
            await self._write()

    async def _write(self) -> None:
        value = msgspec.msgpack.encode(self.known[:OPENINGS_MAX])
        await self._store.put(_KEY, value)

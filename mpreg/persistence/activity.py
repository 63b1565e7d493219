"""Whether something was written, for whoever looks after the store and sleeps meanwhile."""

from __future__ import annotations

import anyio
from attrs import define, field

__all__ = ["Activity"]


@define(eq=False)
class Activity:
    """Noted for every commit group, so that costs next to nothing; belongs to one event loop."""

    _noted: bool = False
    _event: anyio.Event = field(factory=anyio.Event)

    def note(self) -> None:
        if not self._noted:
            self._noted = True
            self._event.set()

    async def wait(self) -> None:
        """Return once something was noted that was not taken. Cancelled: it stays noted."""
        await self._event.wait()

    def take(self) -> bool:
        """Whether something was noted since the last time."""
        noted = self._noted
        if noted:
            self._noted, self._event = False, anyio.Event()
        return noted

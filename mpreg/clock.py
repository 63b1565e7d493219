"""Wall time. Monotonic time is `anyio.current_time`, which a test's virtual clock also drives."""

from __future__ import annotations

import time
from typing import Protocol

__all__ = ["Clock", "SystemClock"]


class Clock(Protocol):
    """Where a registry takes the time of day from. May jump, also backwards."""

    def wall(self) -> float:
        """Seconds since 1970-01-01 00:00 UTC."""
        ...


class SystemClock:
    """The machine's clock: the one place below the edge that reads it."""

    def wall(self) -> float:
        return time.time()

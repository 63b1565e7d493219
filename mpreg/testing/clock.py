"""A wall clock that follows virtual time and can be set wrong."""

from __future__ import annotations

from collections.abc import Callable

__all__ = ["VirtualClock"]


class VirtualClock:
    """A `mpreg.clock.Clock` for simulations.

    It goes on with the simulation's monotonic time, and may be made to jump, also backwards, as a
    machine's clock does when somebody or some daemon sets it. Between two runs of one simulation
    it stands still.
    """

    def __init__(self, start: float = 1_700_000_000.0) -> None:
        self._base = start
        self._monotonic: Callable[[], float] | None = None

    def wall(self) -> float:
        return self._base + (0.0 if self._monotonic is None else self._monotonic())

    def jump(self, seconds: float) -> None:
        """Set the clock forward, or back by a negative number. Monotonic time does not notice."""
        self._base += seconds

    def follow(self, monotonic: Callable[[], float]) -> None:
        """Go on with this monotonic time, which starts at 0."""
        self._monotonic = monotonic

    def pause(self) -> None:
        """Stand still at the time that it shows now."""
        self._base = self.wall()
        self._monotonic = None

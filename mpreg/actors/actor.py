"""What a supervisor runs, and the modes it can be in."""

from __future__ import annotations

from typing import Protocol, TypeAlias

from attrs import frozen

__all__ = ["Actor", "ActorState", "BackingOff", "NotStarted", "Running", "Starting", "Stopped"]


class Actor(Protocol):
    """Something that reads one mailbox until the mailbox is closed and empty.

    A supervisor calls ``start, run, close`` in this order, once for each incarnation, never two at
    a time, and `abandon` once at the end of all. Between incarnations the object lives on: what is
    not finished (a message taken and not answered) it keeps for its next `run`.
    """

    async def start(self) -> None:
        """Acquire what `run` needs. Where it raises, it has let go of everything again."""
        ...

    async def run(self) -> None:
        """Work. Returns when the mailbox is closed and everything in it is answered.

        An exception means: this incarnation is broken for good.
        """
        ...

    async def close(self) -> None:
        """Let go of what `start` acquired. Called once after each `start` that returned.

        Called shielded where `run` failed or was cancelled: it must not wait then for what may
        never end.
        """
        ...

    def abandon(self, cause: Exception | None) -> None:
        """Answer what was taken from the mailbox and will never be finished."""
        ...


@frozen
class NotStarted:
    """May be followed by `Starting`."""


@frozen
class Starting:
    """May be followed by `Running`, `BackingOff` or `Stopped`."""

    generation: int


@frozen
class Running:
    """May be followed by `BackingOff` or `Stopped`."""

    generation: int


@frozen
class BackingOff:
    """Failed and waiting to start again. May be followed by `Starting` or `Stopped`."""

    generation: int
    cause: Exception
    until: float
    """On `anyio.current_time`, in seconds."""


@frozen
class Stopped:
    """The end. ``cause`` is the first failure of the series that led here, None after a stop."""

    cause: Exception | None


ActorState: TypeAlias = NotStarted | Starting | Running | BackingOff | Stopped

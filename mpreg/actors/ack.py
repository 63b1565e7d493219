"""The one answer to one message."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, Generic, TypeVar, cast

import anyio
import anyio.lowlevel

from mpreg.errors import AckAlreadyResolvedError

__all__ = ["Ack", "WakeUp"]

T = TypeVar("T")

_PENDING: Final = object()


class WakeUp:
    """An event that many acks share, and that can be used again.

    An actor answers hundreds of messages in one go. With an event for each, most of the time would
    go into making and setting events; with one for all, a whole group costs a single `set`.
    Whoever wakes looks at its own ack again, so an early call of `fire` does no harm.
    """

    __slots__ = ("_event",)

    def __init__(self) -> None:
        self._event: anyio.Event | None = None

    @property
    def event(self) -> anyio.Event:
        """The event that the next `fire` sets."""
        if self._event is None:
            self._event = anyio.Event()
        return self._event

    def fire(self) -> None:
        """Wake everyone who waits now."""
        if (event := self._event) is not None:
            self._event = None
            event.set()


class Ack(Generic[T]):
    """The answer to a message: awaitable by any number of tasks, any number of times.

    It is resolved or rejected exactly once, by the actor; a second answer is a bug and raises
    `AckAlreadyResolvedError`. Awaiting it returns the value or raises the error, at once where the
    answer is there already.

    Cancelled while awaiting: the message is not taken back, whatever it asks for may still happen,
    and the ack may be awaited again.

    An ack belongs to one event loop; it is not thread-safe.
    """

    __slots__ = ("_error", "_value", "_wake_up")

    def __init__(self, wake_up: WakeUp | None = None) -> None:
        self._wake_up = WakeUp() if wake_up is None else wake_up
        self._value: object = _PENDING
        self._error: Exception | None = None

    @property
    def done(self) -> bool:
        """Whether the answer is there."""
        return self._value is not _PENDING

    @property
    def error(self) -> Exception | None:
        """What awaiting it raises; None while there is no answer, and where it is a value."""
        return self._error

    @property
    def value(self) -> T | None:
        """What awaiting it returns; None while there is no answer, and where it is an error."""
        return None if self._value is _PENDING else cast(T, self._value)

    def resolve(self, value: T) -> None:
        if self._value is not _PENDING:
            raise AckAlreadyResolvedError(f"{self!r} is answered already")
        self._value = value
        # Looked up here, too: most acks of a group find their wake-up fired by the first.
        if self._wake_up._event is not None:
            self._wake_up.fire()

    def reject(self, error: Exception) -> None:
        self.resolve(cast(T, None))
        self._error = error

    async def wait(self) -> T:
        """The value, or the error raised. The same as ``await ack``; always a checkpoint."""
        if self._value is not _PENDING:
            await anyio.lowlevel.checkpoint()
        while self._value is _PENDING:
            await self._wake_up.event.wait()
        if self._error is not None:
            # A traceback of its own for each await, not one that grows with every task.
            raise self._error.with_traceback(None)
        return cast(T, self._value)

    def __await__(self) -> Generator[Any, Any, T]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        if self._value is _PENDING:
            return "<Ack pending>"
        if self._error is not None:
            return f"<Ack rejected: {self._error!r}>"
        return f"<Ack resolved: {self._value!r:.60}>"

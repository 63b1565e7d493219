"""The one answer to one message."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, Final, Generic, TypeVar, cast

import anyio.lowlevel
import msgspec

from mpreg.actors.parking import NewPlace, Place, new_place
from mpreg.errors import AckAlreadyResolvedError

__all__ = ["Ack"]

T = TypeVar("T")

_PENDING: Final = object()


class Ack(msgspec.Struct, Generic[T], eq=False):
    """The answer to a message: awaitable by any number of tasks, any number of times.

    It is resolved or rejected exactly once, by the actor; a second answer is a bug and raises
    `AckAlreadyResolvedError`. Awaiting it returns the value or raises the error, at once where the
    answer is there already.

    Cancelled while awaiting: the message is not taken back, whatever it asks for may still happen,
    and the ack may be awaited again.

    An ack belongs to one event loop; it is not thread-safe. It is a msgspec struct because one is
    made for every message.
    """

    _new_place: NewPlace = new_place
    """What `place_maker` gave to whoever makes many acks in one event loop."""
    _place: Place | None = None
    """Where the first task waits; None where there is none. Mostly it is the only one."""
    _later: list[Place] | None = None
    """Where those wait that came after it, in their order."""
    _value: object = _PENDING
    _error: Exception | None = None

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
        place = self._place
        if place is not None:
            if not place.done():
                place.set_result(None)
            if self._later is not None:
                self._wake(self._later)

    def reject(self, error: Exception) -> None:
        self.resolve(cast(T, None))
        self._error = error

    async def wait(self) -> T:
        """The value, or the error raised. The same as ``await ack``; always a checkpoint."""
        if self._value is not _PENDING:
            await anyio.lowlevel.checkpoint()
        else:
            place = self._new_place()
            if self._place is None:
                self._place = place
            else:
                self._wait_later(place)
            try:
                await place
            except BaseException:
                self._leave(place)
                raise
        if self._error is not None:
            raise self._raised(self._error)
        # Not `cast`: it would be called for every write.
        return self._value  # type: ignore[return-value]

    def _wait_later(self, place: Place) -> None:
        if self._later is None:
            self._later = []
        self._later.append(place)

    def _leave(self, place: Place) -> None:
        if place is not self._place:
            assert self._later is not None
            self._later.remove(place)
        else:
            self._place = self._later.pop(0) if self._later else None

    def _wake(self, places: list[Place]) -> None:
        for place in places:
            if not place.done():
                place.set_result(None)

    def _raised(self, error: Exception) -> Exception:
        # A traceback of its own for each await, not one that grows with every task.
        return error.with_traceback(None)

    def __await__(self) -> Generator[Any, Any, T]:
        return self.wait().__await__()

    def __repr__(self) -> str:
        if self._value is _PENDING:
            return "<Ack pending>"
        if self._error is not None:
            return f"<Ack rejected: {self._error!r}>"
        return f"<Ack resolved: {self._value!r:.60}>"

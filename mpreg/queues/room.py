"""How much a queue may hold, and the line of those who wait to put something in."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import anyio
from attrs import define, field

from mpreg.errors import QueueFullError
from mpreg.queues.state import QueueState

__all__ = ["Room"]


@define(eq=False)
class _Waiter:
    """Somebody in line. ``granted`` may only follow False by True."""

    count: int
    size: int
    event: anyio.Event = field(factory=anyio.Event)
    granted: bool = False


@define(eq=False)
class Room:
    """What is on its way into the queue counts as being in it: so its bounds hold at any time."""

    _name: str
    _state: QueueState
    _failure: Callable[[], Exception | None]
    """What is raised to those who wait when nothing is taken any more."""
    _count: int = 0
    _size: int = 0
    _line: OrderedDict[_Waiter, None] = field(factory=OrderedDict)

    def take_nowait(self, count: int, size: int) -> bool:
        """`take` where there is room, and nobody waits for it."""
        if self._line or not self._fits(count, size):
            return False
        self._count += count
        self._size += size
        return True

    async def take(self, count: int, size: int, wait_seconds: float | None) -> None:
        """Take room, to be given back with `give_back` when it is known what became of it.

        Cancelled while waiting: nothing was taken.

        Raises:
            QueueFullError: there was none for ``wait_seconds`` (None: for ever), or there will
                never be.
        """
        if self.take_nowait(count, size):
            return
        if not self._could_fit(count, size) or wait_seconds == 0:
            raise self._full(count, size)
        waiter = _Waiter(count, size)
        self._line[waiter] = None
        try:
            with anyio.move_on_after(wait_seconds):
                await waiter.event.wait()
        except BaseException:
            self._leave(waiter)
            raise
        if (failure := self._failure()) is not None:
            self._leave(waiter)
            raise type(failure)(*failure.args) from failure.__cause__
        if not waiter.granted:
            self._leave(waiter)
            raise self._full(count, size)

    def give_back(self, count: int, size: int) -> None:
        """What was taken is in the queue now, or will not come."""
        self._count -= count
        self._size -= size
        if self._line:
            self.admit()

    def admit(self) -> None:
        """Let in those in line for whom there is room, first come, first served."""
        while self._line:
            waiter = next(iter(self._line))
            # A bound may have been lowered meanwhile below what this one asks for.
            if self._could_fit(waiter.count, waiter.size):
                if not self._fits(waiter.count, waiter.size):
                    return
                self._add(waiter.count, waiter.size)
                waiter.granted = True
            del self._line[waiter]
            waiter.event.set()

    def wake_all(self) -> None:
        """Nothing is taken any more."""
        for waiter in self._line:
            waiter.event.set()
        self._line.clear()

    def _leave(self, waiter: _Waiter) -> None:
        self._line.pop(waiter, None)
        if waiter.granted:
            self.give_back(waiter.count, waiter.size)
        else:
            self.admit()

    def _add(self, count: int, size: int) -> None:
        self._count += count
        self._size += size

    def _fits(self, count: int, size: int) -> bool:
        limits = self._state.configuration
        if limits.messages_max is not None:
            count += self._state.size + self._count
            if count > limits.messages_max:
                return False
        if limits.max_bytes is not None:
            size += self._state.bytes + self._size
            return size <= limits.max_bytes
        return True

    def _could_fit(self, count: int, size: int) -> bool:
        limits = self._state.configuration
        return _within(limits.messages_max, count) and _within(limits.max_bytes, size)

    def _full(self, count: int, size: int) -> QueueFullError:
        limits = self._state.configuration
        return QueueFullError(
            f"queue {self._name!r} has no room for {count} messages of {size} bytes: it holds "
            f"{self._state.size} messages (max_size {limits.messages_max}) and {self._state.bytes} "
            f"bytes (max_bytes {limits.max_bytes}); nothing was sent: "
            + (
                "send it later, or wait for room with wait_seconds"
                if self._could_fit(count, size)
                else "it is more than the bounds ever let in"
            )
        )


def _within(limit: int | None, value: int) -> bool:
    return limit is None or value <= limit

"""A bounded FIFO that one actor reads.

It bounds a count and bytes, serves waiting senders in the order in which they came, and belongs to
the supervisor, so that it outlives the actor that reads it. Not an anyio memory stream: with one
each message costs half as much again, and what it has handed to a reader that is cancelled natively
is lost.

A sender that finds no room waits for a *reservation*, not for its message to be taken: the reader
hands out room as it takes messages, and the sender, once woken, puts its own message in. So a
sender cancelled at any moment has either sent or has sent nothing, and gives its reservation back.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Any, Generic, Protocol, TypeVar

import anyio
from attrs import define, field, frozen

from mpreg.actors.ack import Ack
from mpreg.actors.parking import Place, place_maker
from mpreg.errors import MailboxClosedError, MailboxFullError

__all__ = ["Mailbox", "MailboxStatistics", "Message"]


class Message(Protocol):
    """What a mailbox carries."""

    @property
    def size_bytes(self) -> int:
        """What it counts against the mailbox's bound in bytes. Only `Mailbox.grow` lets it grow."""
        ...

    def fail(self, error: Exception) -> None:
        """Answer it with an error: its actor will not come to it any more."""
        ...


M = TypeVar("M", bound=Message)


@frozen(kw_only=True)
class MailboxStatistics:
    depth: int
    """Messages sent and not yet taken, and places kept for senders just woken."""
    bytes: int
    """Their sizes together."""
    waiting_senders: int
    """Tasks that wait for room."""
    sent: int
    """Messages sent since the mailbox was made."""


@define(eq=False)
class _Waiter:
    """A sender in line. ``granted`` may only follow False by True, set by the reader."""

    size_bytes: int
    event: anyio.Event = field(factory=anyio.Event)
    granted: bool = False


class Mailbox(Generic[M]):
    """At most ``messages_max`` messages of at most ``bytes_max`` bytes together.

    A single message larger than ``bytes_max`` is let in when the mailbox is empty: it could never
    be sent otherwise. Belongs to one event loop; not thread-safe.
    """

    def __init__(self, *, messages_max: int, bytes_max: int) -> None:
        self._messages_max = messages_max
        self._bytes_max = bytes_max
        self._messages: deque[M] = deque()
        self._reader: Place | None = None
        """Where the actor waits for a message."""
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._depth = 0
        self._bytes = 0
        self._sent = 0
        self.last: M | None = None
        """The message that was sent last, where it may `grow`."""
        self._clock: Callable[[], float] | None = None
        self._waiting_since: float | None = None
        self._closed_by: Callable[[], Exception] | None = None
        self.new_place = place_maker()
        """Makes places for those who wait for what was sent."""

    def new_ack(self) -> Ack[Any]:
        """An ack for a message about to be sent."""
        return Ack(self.new_place)

    def note_waiting(self, clock: Callable[[], float]) -> None:
        """From now on `take_waiting_since` tells."""
        self._clock = clock

    def take_waiting_since(self) -> float | None:
        """When the first of the messages was sent that were taken since this was asked last; None
        where it was not noted. Of those that were left then, it is when the others were taken."""
        since, self._waiting_since = self._waiting_since, None
        if self._depth and self._clock is not None:
            self._waiting_since = self._clock()
        return since

    # --- the sender's end ---

    def send_nowait(self, message: M) -> None:
        """Send at once.

        Raises:
            MailboxFullError: there is no room, or others wait for it. Nothing was sent.
            MailboxClosedError: or what `close` was given. Nothing was sent.
        """
        if self._closed_by is not None:
            raise self._closed_by()
        if self._waiters or not self._reserve(message.size_bytes):
            raise MailboxFullError(
                f"the mailbox holds {self._depth} of {self._messages_max} messages and "
                f"{self._bytes} of {self._bytes_max} bytes; nothing was sent"
            )
        self._put(message)

    async def send(self, message: M) -> None:
        """Send, waiting for room where there is none. Not a checkpoint where there is room.

        Cancelled while waiting: nothing was sent.

        Raises:
            MailboxClosedError: or what `close` was given, also to those who wait. Nothing was sent.
        """
        if self._closed_by is not None:
            raise self._closed_by()
        size = message.size_bytes
        if self._waiters or not self._reserve(size):
            await self._wait_for_room(size)
        self._put(message)

    async def reserve(self, size_bytes: int) -> None:
        """Take room for a message that is made only when there is some: then `send_reserved` it,
        or `give_back` the room. Not a checkpoint where there is room.

        Cancelled while waiting: nothing was taken.

        Raises:
            MailboxClosedError: or what `close` was given. Nothing was taken.
        """
        if not self.reserve_nowait(size_bytes):
            await self._wait_for_room(size_bytes)

    def reserve_nowait(self, size_bytes: int) -> bool:
        """`reserve` where there is room at once. False where there is none, or others wait for it:
        then nothing was taken.

        Raises:
            MailboxClosedError: or what `close` was given. Nothing was taken.
        """
        if self._closed_by is not None:
            raise self._closed_by()
        return not self._waiters and self._reserve(size_bytes)

    def send_reserved(self, message: M, size_bytes: int) -> None:
        """Send at once, into the room that was taken. A message that has become larger than that
        is let in, and so may go over the bound.

        Raises:
            MailboxClosedError: or what `close` was given. Nothing was sent; the room is still to
                be given back.
        """
        if self._closed_by is not None:
            raise self._closed_by()
        self._bytes += message.size_bytes - size_bytes
        self._put(message)

    def give_back(self, size_bytes: int) -> None:
        """Room that was taken and is not needed."""
        self._release(size_bytes)

    @property
    def is_closed(self) -> bool:
        return self._closed_by is not None

    def grow(self, message: M, size_bytes: int) -> bool:
        """Take room for more in the message that was sent last, so that what is added to it is
        where a message of its own would be. False where it was taken, where there is no room, and
        where others wait for it: then nothing may be added.
        """
        if message is not self.last or self._bytes + size_bytes > self._bytes_max:
            return False
        self._bytes += size_bytes
        return True

    async def _wait_for_room(self, size: int) -> None:
        """Return with the room reserved, or raise with nothing reserved."""
        waiter = _Waiter(size)
        self._waiters[waiter] = None
        # What is added to it now would overtake the one that waits.
        self.last = None
        try:
            await waiter.event.wait()
        except BaseException:
            self._leave_line(waiter)
            raise
        if self._closed_by is not None:
            self._leave_line(waiter)
            raise self._closed_by()

    def _leave_line(self, waiter: _Waiter) -> None:
        self._waiters.pop(waiter, None)
        if waiter.granted:
            self._release(waiter.size_bytes)
        else:
            # The one that left may have been too large for room that suits those behind it.
            self._admit()

    def _put(self, message: M) -> None:
        self._sent += 1
        self.last = None if self._waiters else message
        if self._clock is not None and self._waiting_since is None:
            self._waiting_since = self._clock()
        self._messages.append(message)
        if self._reader is not None:
            self._wake_reader()

    def _reserve(self, size: int) -> bool:
        """Take room for a message; False where there is none."""
        depth, total = self._depth, self._bytes + size
        if depth and (depth >= self._messages_max or total > self._bytes_max):
            return False
        self._depth, self._bytes = depth + 1, total
        return True

    def _release(self, size: int, *, messages: int = 1) -> None:
        self._depth -= messages
        self._bytes -= size
        if self._waiters:
            self._admit()

    def _admit(self) -> None:
        """Reserve room for those who wait, first come, first served."""
        while self._waiters and self._closed_by is None:
            waiter = next(iter(self._waiters))
            if not self._reserve(waiter.size_bytes):
                return
            del self._waiters[waiter]
            waiter.granted = True
            waiter.event.set()

    # --- the reader's end ---

    async def receive(self) -> M:
        """The next message, waiting for one.

        Cancelled while waiting: no message was taken.

        Raises:
            anyio.EndOfStream: the mailbox is closed and everything in it was taken.
        """
        (message,) = await self.receive_many(messages_max=1, bytes_max=1)
        return message

    def receive_nowait(self) -> M | None:
        """The next message if there is one."""
        if not self._messages:
            return None
        message = self._messages.popleft()
        if not self._messages:
            self.last = None
        self._release(message.size_bytes)
        return message

    async def receive_many(self, *, messages_max: int, bytes_max: int) -> list[M]:
        """Wait for one message, then take the rest that is there, up to the limits.

        The last one taken may go over ``bytes_max``. Cancelled while waiting: nothing was taken.

        Raises:
            anyio.EndOfStream: the mailbox is closed and everything in it was taken.
        """
        while not self._messages:
            await self._wait_for_message()
        messages: list[M] = []
        take = self._messages.popleft
        size = 0
        for _ in range(min(len(self._messages), messages_max)):
            message = take()
            messages.append(message)
            size += message.size_bytes
            if size >= bytes_max:
                break
        if not self._messages:
            self.last = None
        self._release(size, messages=len(messages))
        return messages

    async def _wait_for_message(self) -> None:
        """Return when there may be one. What is sent stays inside until the reader takes it, so
        that none is lost with a reader that is cancelled when it comes."""
        if self._closed_by is not None:
            raise anyio.EndOfStream
        self._reader = place = self.new_place()
        try:
            await place
        finally:
            if self._reader is place:
                self._reader = None

    def _wake_reader(self) -> None:
        place, self._reader = self._reader, None
        if place is not None and not place.done():
            place.set_result(None)

    # --- the owner's end ---

    def close(self, make_error: Callable[[], Exception] | None = None) -> None:
        """Take no more messages. Those inside can still be received; closing again does nothing.

        Senders, those waiting too, get ``make_error()`` (default `MailboxClosedError`).
        """
        if self._closed_by is not None:
            return
        self._closed_by = make_error or _mailbox_closed
        self.last = None
        self._wake_reader()
        for waiter in self._waiters:
            waiter.event.set()
        self._waiters.clear()

    def drain(self) -> list[M]:
        """Everything inside, taken out."""
        messages = []
        while (message := self.receive_nowait()) is not None:
            messages.append(message)
        return messages

    def statistics(self) -> MailboxStatistics:
        return MailboxStatistics(
            depth=self._depth,
            bytes=self._bytes,
            waiting_senders=len(self._waiters),
            sent=self._sent,
        )


def _mailbox_closed() -> MailboxClosedError:
    return MailboxClosedError("the mailbox is closed; nothing was sent")

"""What the stores of a registry share: the ends of the two mailboxes, the clock, the limits."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Sequence
from threading import get_ident
from typing import Any

from attrs import define, field

from mpreg.actors import Ack, Mailbox
from mpreg.actors.parking import loop_clock
from mpreg.clock import Clock
from mpreg.errors import (
    InvalidArgumentError,
    MailboxFullError,
    ReaderStoppedError,
    ValueTooLargeError,
    WriterStoppedError,
)
from mpreg.persistence.backend import ReadQuery, UpkeepResult, UpkeepStep
from mpreg.persistence.batch import (
    AppendBatch,
    AwaitedWrite,
    Durability,
    MakeRecord,
    Settled,
    SharedAck,
    WriteBatch,
    operation_bytes,
)
from mpreg.persistence.config import PersistenceConfig
from mpreg.persistence.following import Followers
from mpreg.persistence.growing import GrowingAppend
from mpreg.persistence.operations import Append, Operation
from mpreg.persistence.reader import ReadRequest
from mpreg.persistence.upkeep_command import UpkeepCommand, WriterMessage

__all__ = ["READS_WAITING_MAX", "StoreGateway"]

READS_WAITING_MAX = 8_192


@define(eq=False)
class StoreGateway:
    """The way from the stores to the writer and the reader.

    Before the registry is open, and after it is closed, its mailboxes are closed ones, so that a
    call at the wrong time gets an error and does not wait for ever.
    """

    config: PersistenceConfig
    clock: Clock
    writes: Mailbox[WriterMessage] = field(init=False)
    reads: Mailbox[ReadRequest] = field(init=False)
    followers: Followers = field(factory=Followers)
    earliest_expiry: float = math.inf
    """Nothing that upkeep does not know of expires before (wall clock)."""
    thread: int | None = None
    """That of the event loop; None until there is one."""

    def __attrs_post_init__(self) -> None:
        self.new_mailboxes()
        self.writes.close(_writer_not_open)
        self.reads.close(_reader_not_open)

    def new_mailboxes(self) -> None:
        self.writes = Mailbox(
            messages_max=self.config.mailbox_batches_max, bytes_max=self.config.mailbox_bytes_max
        )
        self.reads = Mailbox(messages_max=READS_WAITING_MAX, bytes_max=READS_WAITING_MAX)
        if self.followers.observers:
            self.writes.note_waiting(loop_clock())

    def check_thread(self, user: str = "a store", settled: Settled | None = None) -> None:
        """For what is changed before anything is sent; ``user`` is what was called. ``settled`` is
        told where this raises.

        Raises:
            RuntimeError: this is another thread than that of the event loop.
        """
        if get_ident() != self.thread and self.thread is not None:
            if settled is not None:
                settled(None)
            raise _another_thread(user)

    def note_waiting(self) -> None:
        """An observer wants to know how long the batches wait."""
        if not self.writes.is_closed:
            self.writes.note_waiting(loop_clock())

    def write(
        self, operation: Operation, durability: Durability, settled: Settled | None = None
    ) -> Awaitable[Any]:
        """Send one operation; awaited at once, by the same task, it gives the answer.

        Not a coroutine itself: it would be resumed once more for each write, only to hand the
        answer on. Cancellation: see `Mailbox.send` and `Ack`. ``settled`` is told also where the
        operation cannot be sent.
        """
        try:
            if get_ident() != self.thread:
                self.check_thread()
            size = operation_bytes(operation)
            if size > self.config.batch_bytes_max:
                self._checked(size)
            place = self.writes.new_place()
            self.writes.send_nowait(
                AwaitedWrite(
                    operations=(operation,),
                    durability=durability,
                    size_bytes=size,
                    settled=settled,
                    place=place,
                )
            )
        except MailboxFullError:
            return self._write_waiting_for_room(operation, durability, settled)
        except BaseException:
            if settled is not None:
                settled(None)
            raise
        return place

    def _append_alone(
        self, append: Append, durability: Durability, settled: Settled | None
    ) -> Awaitable[int]:
        """So that others may join it."""
        try:
            size = self._checked(operation_bytes(append))
            ack: Ack[int] = self.writes.new_ack()
            self.writes.send_nowait(AppendBatch.begin(append, size, durability, ack, settled))
        except MailboxFullError:
            return self._write_waiting_for_room(append, durability, settled)
        except BaseException:
            if settled is not None:
                settled(None)
            raise
        return ack.wait()

    async def _write_waiting_for_room(
        self, operation: Operation, durability: Durability, settled: Settled | None
    ) -> Any:
        ack = self.writes.new_ack()
        try:
            await self.write_batch((operation,), (ack,), durability, settled)
        except BaseException:
            if settled is not None:
                settled(None)
            raise
        return await ack.wait()

    def write_nowait(
        self, operation: Operation, durability: Durability, settled: Settled | None = None
    ) -> Ack[Any]:
        """Send one operation at once, or raise what `Mailbox.send_nowait` raises.

        ``settled`` is told where it was sent.
        """
        if get_ident() != self.thread:
            self.check_thread()
        ack = self.writes.new_ack()
        batch = WriteBatch(
            (operation,), (ack,), durability, self._checked(operation_bytes(operation)), settled
        )
        self.writes.send_nowait(batch)
        return ack

    def send_nowait(
        self,
        operations: Sequence[Operation],
        durability: Durability,
        settled: Settled | None = None,
    ) -> Sequence[Ack[Any]]:
        """Send several operations at once as one batch, or raise what `Mailbox.send_nowait` raises.

        ``settled`` is told where it was sent.
        """
        if get_ident() != self.thread:
            self.check_thread()
        acks = tuple([self.writes.new_ack() for _ in operations])
        batch = WriteBatch.of(tuple(operations), acks, durability, settled)
        self._checked(batch.size_bytes)
        self.writes.send_nowait(batch)
        return acks

    def append(
        self, append: Append, durability: Durability, settled: Settled | None = None
    ) -> Awaitable[int]:
        """`write` for an append: together with those of others where it comes right after them."""
        if get_ident() != self.thread:
            self.check_thread("a log", settled)
        batch, writes = self.writes.last, self.writes
        if type(batch) is AppendBatch and batch.takes(append, durability):
            size = operation_bytes(append)
            fits = batch.size_bytes + size <= self.config.batch_bytes_max
            if fits and writes.grow(batch, size):
                ack: Ack[int] = writes.new_ack()
                batch.join(append, size, ack, settled)
                return ack.wait()
        return self._append_alone(append, durability, settled)

    def reserve_nowait(self, size_bytes: int) -> bool:
        """See `Mailbox.reserve_nowait`."""
        if get_ident() != self.thread:
            self.check_thread()
        return self.writes.reserve_nowait(size_bytes)

    async def reserve(self, size_bytes: int) -> None:
        """See `Mailbox.reserve`."""
        self.check_thread()
        await self.writes.reserve(size_bytes)

    def send_reserved(
        self,
        operations: Sequence[Operation],
        durability: Durability,
        settled: Settled,
        size_bytes: int,
    ) -> Sequence[Ack[Any]]:
        """Send several operations as one batch into room that was taken: see `Mailbox`."""
        acks = tuple([self.writes.new_ack() for _ in operations])
        batch = WriteBatch.of(tuple(operations), acks, durability, settled)
        self._checked(batch.size_bytes)
        self.writes.send_reserved(batch, size_bytes)
        return acks

    def give_back(self, size_bytes: int) -> None:
        self.writes.give_back(size_bytes)

    def append_growing(
        self, append: Append, settled: Settled, make: MakeRecord | None, size_bytes: int
    ) -> GrowingAppend | None:
        """See `LogStore.append_growing`."""
        if get_ident() != self.thread:
            self.check_thread("a log", settled)
        ack, batch, writes = SharedAck(self.writes.new_place), self.writes.last, self.writes
        try:
            size = self._checked(operation_bytes(append) + size_bytes)
            if (
                type(batch) is AppendBatch
                and batch.takes(append, Durability.DURABLE)
                and batch.size_bytes + size <= self.config.batch_bytes_max
                and writes.grow(batch, size)
            ):
                batch.join(append, size, ack, settled)
            else:
                batch = AppendBatch.begin(append, size, Durability.DURABLE, ack, settled)
                writes.send_nowait(batch)
        except MailboxFullError:
            return None
        except BaseException:
            settled(None)
            raise
        if make is not None:
            batch.unmade.append((batch.firsts[-1], make))
        return GrowingAppend(writes, self.config.batch_bytes_max, batch, ack)

    async def write_batch(
        self,
        operations: Sequence[Operation],
        acks: Sequence[Ack[Any]],
        durability: Durability,
        settled: Settled | None = None,
    ) -> None:
        """Send several operations as one batch; waits for room and not for the acks.

        ``settled`` is told where it was sent.
        """
        if get_ident() != self.thread:
            self.check_thread()
        batch = WriteBatch.of(tuple(operations), tuple(acks), durability, settled)
        self._checked(batch.size_bytes)
        await self.writes.send(batch)

    async def keep_up(self, step: UpkeepStep) -> UpkeepResult:
        """Have the writer do one step of housekeeping, and await it.

        Raises:
            CommitFailedError: not done, for a reason that may pass.
            WriterStoppedError: not done.
        """
        command = UpkeepCommand(step, self.writes.new_ack())
        await self.writes.send(command)
        return await command.ack.wait()

    async def read(self, query: ReadQuery) -> Any:
        """Ask and await the answer. Cancelled: nothing is left behind."""
        if get_ident() != self.thread:
            self.check_thread()
        request = ReadRequest(query, self.reads.new_ack())
        try:
            try:
                self.reads.send_nowait(request)
            except MailboxFullError:
                await self.reads.send(request)
            return await request.ack.wait()
        except BaseException:
            request.wanted = False
            raise

    def _checked(self, size: int) -> int:
        if not size:
            # The writer would break at it, and again after each restart.
            raise InvalidArgumentError("a batch without operations: there is nothing to be sent")
        if size > self.config.batch_bytes_max:
            raise ValueTooLargeError(
                f"a batch of {size} bytes; at most {self.config.batch_bytes_max} "
                "(batch_bytes_max); write it in several"
            )
        return size


def _another_thread(user: str) -> RuntimeError:
    return RuntimeError(
        f"{user} was used in another thread than its event loop's; nothing was done: use "
        "anyio.from_thread.run, or a portal, to have it done there"
    )


def _writer_not_open() -> Exception:
    return WriterStoppedError("the registry is not open; not written")


def _reader_not_open() -> Exception:
    return ReaderStoppedError("the registry is not open")

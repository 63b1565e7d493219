"""One caller's operations, all or nothing, and the acks that answer them."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from mpreg.actors import Ack
from mpreg.actors.parking import Place
from mpreg.errors import AckAlreadyResolvedError
from mpreg.persistence.operations import Append, Operation, OperationResult, Put

_log = logging.getLogger("mpreg.persistence")

__all__ = [
    "AppendBatch",
    "AwaitedWrite",
    "Durability",
    "MakeRecord",
    "Settled",
    "SharedAck",
    "WriteBatch",
    "copied",
    "operation_bytes",
]

Settled: TypeAlias = Callable[[Sequence[OperationResult] | None], None]
"""Told the results of a batch that was committed, or None where it was not: exactly once, in the
order of the commits, and before any task can see them. So what is kept in memory can follow what is
on disk. None also where it cannot be told (`CommitUnknownError`): the writer is gone then. It must
not raise."""

MakeRecord: TypeAlias = Callable[[], bytes]
"""Makes a record once nothing is added to it any more. It must not raise."""

#: What an operation counts for beside its payload: rows, indexes and the objects in memory.
OPERATION_OVERHEAD_BYTES = 64


class Durability(enum.Enum):
    DURABLE = "durable"
    """Acked when it would survive a power cut: after fsync."""
    RELAXED = "relaxed"
    """Acked when it would survive the process: after commit, before fsync. The next durable
    commit makes it durable too."""


#: Records that callers join into one batch: enough that the cost of the batch is not felt.
RECORDS_JOINED_MAX = 256


def _tell(settled: Settled | None, results: Sequence[OperationResult] | None) -> None:
    if settled is None:
        return
    try:
        settled(results)
    except Exception:  # noqa: BLE001
        # A bug of a listener. It must not stop the writer, which would commit the group again.
        _log.exception("what follows a commit has failed")


def copied(error: Exception) -> Exception:
    """An error of its own for one more task: those that raise the same share its traceback."""
    try:
        own = type(error)(*error.args)
    except TypeError:
        # It is made of something else than its text.
        return error
    own.__cause__ = error.__cause__
    return own


def operation_bytes(operation: Operation) -> int:
    """What an operation counts against every bound in bytes."""
    if type(operation) is Put:
        return OPERATION_OVERHEAD_BYTES + len(operation.key) + len(operation.value)
    size = OPERATION_OVERHEAD_BYTES
    if isinstance(operation, Append):
        size += sum(map(len, operation.records))
        size += OPERATION_OVERHEAD_BYTES * len(operation.records)
    return size


class WriteBatch(msgspec.Struct, eq=False):
    """One caller's operations, all or nothing: the message that the writer's mailbox carries.

    Each operation has its own ack; all are answered together.
    """

    operations: tuple[Operation, ...]
    acks: Sequence[Ack[Any]]
    durability: Durability
    size_bytes: int
    """The sum of `operation_bytes`."""
    settled: Settled | None = None
    """Told what became of the batch, once its acks are answered and before any other task runs."""
    callers: int = 1
    """How many have asked for it."""
    room: int = 0
    """Of ``size_bytes``, what nothing fills yet: see `GrowingAppend`."""

    @classmethod
    def of(
        cls,
        operations: tuple[Operation, ...],
        acks: tuple[Ack[Any], ...],
        durability: Durability = Durability.DURABLE,
        settled: Settled | None = None,
    ) -> WriteBatch:
        """A batch whose size is counted here."""
        return cls(operations, acks, durability, sum(map(operation_bytes, operations)), settled)

    @property
    def filled_bytes(self) -> int:
        """Its size, without room that was taken in the mailbox and nothing came to fill."""
        return self.size_bytes - self.room

    @property
    def is_answered(self) -> bool:
        """Whether `succeed` or `fail` has been called."""
        return self.acks[0].done

    def succeed(self, results: tuple[OperationResult, ...]) -> None:
        """Answer each operation with its own result."""
        if len(results) == 1:
            self.acks[0].resolve(results[0])
        else:
            for ack, result in zip(self.acks, results, strict=True):
                ack.resolve(result)
        if self.settled is not None:
            _tell(self.settled, results)

    def fail(self, error: Exception) -> None:
        """Answer every operation with the error."""
        for ack in self.acks:
            ack.reject(error)
        _tell(self.settled, None)

    def __repr__(self) -> str:
        return (
            f"<WriteBatch of {len(self.operations)} operations, {self.size_bytes} bytes, "
            f"{self.durability.value}>"
        )


class AwaitedWrite(WriteBatch, kw_only=True):
    """One operation of one caller, who awaits its result at once and does nothing else with it.

    That is what most writes are, so they have no ack: their task is woken with the result itself.
    Cancelled, it is not taken back, as with an ack.
    """

    acks: Sequence[Ack[Any]] = ()
    place: Place
    """Where the caller waits. To be awaited once, by the task that made it."""
    answered: bool = False

    @property
    def is_answered(self) -> bool:
        return self.answered

    def succeed(self, results: tuple[OperationResult, ...]) -> None:
        if self.answered:
            raise self._answered_twice()
        self.answered = True
        if not self.place.done():
            self.place.set_result(results[0])
        if self.settled is not None:
            _tell(self.settled, results)

    def fail(self, error: Exception) -> None:
        if self.answered:
            raise self._answered_twice()
        self.answered = True
        if not self.place.done():
            self.place.set_exception(error)
        _tell(self.settled, None)

    def _answered_twice(self) -> Exception:
        return AckAlreadyResolvedError(f"{self!r} is answered already")


class SharedAck(Ack[int]):
    """Awaited by many callers of one append: each gets its own copy of an error."""

    def _raised(self, error: Exception) -> Exception:
        return copied(error)


class AppendBatch(WriteBatch, kw_only=True):
    """Appends of many callers to one log, as one operation: far cheaper than one of each.

    It grows until the writer takes it, and only while it is the last one in the mailbox: so every
    record is where a batch of its own would have put it. Each caller gets the offset of its first
    record, or its own copy of the error. Who adds to an append counts as one more.
    """

    log: bytes
    records: list[bytes]
    acks: list[Ack[Any]]
    firsts: list[int]
    """By caller: the index of its first record."""
    listeners: list[Settled | None]
    unmade: list[tuple[int, MakeRecord]]
    """Indexes of records that still grow, and what makes them when the writer takes the batch."""

    @classmethod
    def begin(
        cls,
        append: Append,
        size_bytes: int,
        durability: Durability,
        ack: Ack[Any],
        settled: Settled | None,
    ) -> AppendBatch:
        records = list(append.records)
        return cls(
            operations=(Append(append.log, records),),
            durability=durability,
            size_bytes=size_bytes,
            log=append.log,
            records=records,
            acks=[ack],
            firsts=[0],
            listeners=[settled],
            unmade=[],
        )

    def takes(self, append: Append, durability: Durability) -> bool:
        return (
            append.log == self.log
            and durability is self.durability
            and len(self.records) < RECORDS_JOINED_MAX
        )

    def join(self, append: Append, size_bytes: int, ack: Ack[Any], settled: Settled | None) -> None:
        """One caller more, for whom there is room in the mailbox."""
        self.firsts.append(len(self.records))
        self.records.extend(append.records)
        self.size_bytes += size_bytes
        self.callers += 1
        self.acks.append(ack)
        self.listeners.append(settled)

    def make_records(self) -> None:
        """The writer takes it: nothing grows any more."""
        for index, make in self.unmade:
            self.records[index] = make()
        self.unmade.clear()

    def succeed(self, results: tuple[OperationResult, ...]) -> None:
        (offset,) = results
        for ack, first in zip(self.acks, self.firsts, strict=True):
            ack.resolve(offset + first)
        for settled, first in zip(self.listeners, self.firsts, strict=True):
            if settled is not None:
                _tell(settled, (offset + first,))

    def fail(self, error: Exception) -> None:
        for ack in self.acks:
            ack.reject(copied(error))
        for settled in self.listeners:
            _tell(settled, None)

"""One caller's operations, all or nothing, and the acks that answer them."""

from __future__ import annotations

import enum
import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import msgspec

from mpreg.actors import Ack
from mpreg.persistence.operations import Append, Operation, OperationResult, Put

_log = logging.getLogger("mpreg.persistence")

__all__ = ["Durability", "Settled", "WriteBatch", "operation_bytes"]

Settled: TypeAlias = Callable[[Sequence[OperationResult] | None], None]
"""Told the results of a batch that was committed, or None where it was not: exactly once, in the
order of the commits, and before any task can see them. So what is kept in memory can follow what is
on disk. None also where it cannot be told (`CommitUnknownError`): the writer is gone then. It must
not raise."""

#: What an operation counts for beside its payload: rows, indexes and the objects in memory.
OPERATION_OVERHEAD_BYTES = 64


class Durability(enum.Enum):
    DURABLE = "durable"
    """Acked when it would survive a power cut: after fsync."""
    RELAXED = "relaxed"
    """Acked when it would survive the process: after commit, before fsync. The next durable
    commit makes it durable too."""


def operation_bytes(operation: Operation) -> int:
    """What an operation counts against every bound in bytes."""
    if type(operation) is Put:
        return OPERATION_OVERHEAD_BYTES + len(operation.key) + len(operation.value)
    size = OPERATION_OVERHEAD_BYTES
    if isinstance(operation, Append):
        size += sum(map(len, operation.records))
        size += OPERATION_OVERHEAD_BYTES * len(operation.records)
    return size


class WriteBatch(msgspec.Struct, frozen=True, eq=False):
    """One caller's operations, all or nothing: the message that the writer's mailbox carries.

    Each operation has its own ack; all are answered together.
    """

    operations: tuple[Operation, ...]
    acks: tuple[Ack[Any], ...]
    durability: Durability
    size_bytes: int
    """The sum of `operation_bytes`."""
    settled: Settled | None = None
    """Told what became of the batch, once its acks are answered and before any other task runs."""

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

    def succeed(self, results: tuple[OperationResult, ...]) -> None:
        """Answer each operation with its own result."""
        if len(results) == 1:
            self.acks[0].resolve(results[0])
        else:
            for ack, result in zip(self.acks, results, strict=True):
                ack.resolve(result)
        self._tell(results)

    def fail(self, error: Exception) -> None:
        """Answer every operation with the error."""
        for ack in self.acks:
            ack.reject(error)
        self._tell(None)

    def _tell(self, results: Sequence[OperationResult] | None) -> None:
        if self.settled is None:
            return
        try:
            self.settled(results)
        except Exception:  # noqa: BLE001
            # A bug of a listener. It must not stop the writer, which would commit the group again.
            _log.exception("what follows a commit has failed")

    def __repr__(self) -> str:
        return (
            f"<WriteBatch of {len(self.operations)} operations, {self.size_bytes} bytes, "
            f"{self.durability.value}>"
        )

"""Who is told what was committed: of keys, of logs, and of the commits themselves.

Where nobody follows, a commit costs a look at three empty dictionaries.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

from attrs import define, field, frozen

from mpreg.persistence.batch import Durability
from mpreg.persistence.commit_group import BatchOutcome, CommitGroup
from mpreg.persistence.operations import Append, Delete, DeleteLog, Operation, OperationResult, Put

__all__ = ["CommitObserved", "Followers", "KeyFollower", "Observer"]


@frozen(kw_only=True)
class CommitObserved:
    """One commit group that was committed, and what it took."""

    sequence: int
    batches: int
    """Callers; of appends that were joined, each."""
    operations: int
    size_bytes: int
    durability: Durability
    commit_seconds: float
    """In the backend, the hop to its thread included; with fsync where it is durable."""
    ack_seconds: float
    """From the sending of the batch that waited longest until all had their acks."""


class Observer(Protocol):
    """Told of every commit. It must not raise, and be quick: everybody waits for it."""

    def committed(self, commit: CommitObserved) -> None: ...


class KeyFollower(Protocol):
    """Told of each key of a namespace that was changed, in the order of the commits."""

    def changed(self, key: bytes, value: bytes | None, version: int | None) -> None:
        """``value`` and ``version`` None: it was deleted."""
        ...

    def end(self, failure: Exception) -> None: ...


@define(eq=False)
class Followers:
    """Of one registry."""

    observers: list[Observer] = field(factory=list)
    keys: dict[bytes, dict[KeyFollower, None]] = field(factory=dict)
    """By namespace."""
    logs: dict[bytes, dict[Callable[[], None], None]] = field(factory=dict)
    """By log: called where it may have become longer, or was deleted."""
    ends: dict[Callable[[Exception], None], None] = field(factory=dict)
    """Called when nothing more will be committed."""

    def tell(self, group: CommitGroup, outcomes: Sequence[BatchOutcome]) -> None:
        """Of the keys and logs in a group that was committed."""
        if not (self.keys or self.logs):
            return
        for batch, outcome in zip(group.batches, outcomes, strict=True):
            if isinstance(outcome, tuple):
                for operation, result in zip(batch.operations, outcome, strict=True):
                    self._tell(operation, result)

    def end(self, failure: Exception) -> None:
        for follower in [one for found in self.keys.values() for one in found]:
            follower.end(failure)
        for end in list(self.ends):
            end(failure)

    def _tell(self, operation: Operation, result: OperationResult) -> None:
        if isinstance(operation, Put):
            for follower in list(self.keys.get(operation.namespace, ())):
                follower.changed(operation.key, operation.value, result)
        elif isinstance(operation, Delete):
            if result:
                for follower in list(self.keys.get(operation.namespace, ())):
                    follower.changed(operation.key, None, None)
        elif isinstance(operation, Append | DeleteLog):
            for wake in list(self.logs.get(operation.log, ())):
                wake()

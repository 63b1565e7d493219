"""A step of housekeeping on its way to the writer."""

from __future__ import annotations

from typing import Final

from attrs import frozen

from mpreg.actors import Ack
from mpreg.persistence.backend import UpkeepResult, UpkeepStep
from mpreg.persistence.batch import WriteBatch

__all__ = ["UpkeepCommand", "WriterMessage"]


@frozen(eq=False)
class UpkeepCommand:
    """A message of the writer's mailbox, done after the group that was taken with it.

    Answered with `CommitFailedError` where it was not done and may be asked for again, also where
    the disk has failed in it; with `WriterStoppedError` where the writer is gone.
    """

    step: UpkeepStep
    ack: Ack[UpkeepResult]
    size_bytes: Final[int] = 0

    def fail(self, error: Exception) -> None:
        self.ack.reject(error)


WriterMessage = WriteBatch | UpkeepCommand

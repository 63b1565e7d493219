"""A disk that outlives the processes that write to it."""

from __future__ import annotations

from random import Random

from attrs import define, field, frozen

from mpreg.persistence.backends.memory import MemoryState
from mpreg.persistence.commit_group import CommitPlan

__all__ = ["SimulatedDisk"]


@frozen
class _Journaled:
    """A commit group on the disk."""

    sequence: int
    plan: CommitPlan


@define(eq=False)
class SimulatedDisk:
    """A journal of commit groups, and the state that follows from it.

    A group is *written* (the operating system has it: it survives the process), then *synced* (the
    device has it: it survives a power cut), then *published* (readers see it). A crash takes the
    disk away from every backend that uses it: whatever they still do has no effect. Backends made
    afterwards find what survived.

    It breaks nothing by itself but what a crash breaks: of the groups written and not synced, a
    power cut leaves some from the oldest on, perhaps none, perhaps all.
    """

    _random: Random = field(factory=lambda: Random(0))
    full: bool = False
    """No room: set it, and every commit fails with `StorageFullError` until it is reset."""
    generation: int = 0
    crashes: int = 0
    """A backend that was made before the last crash is a dead process's."""
    complaints: list[str] = field(factory=list, init=False)
    """What its backends' callers did against the contract. A supervisor may well have taken the
    `ContractBrokenError` for one more failure of the disk: assert at the end that there is none."""
    state: MemoryState = field(factory=MemoryState, init=False)
    """What readers see."""
    _journal: list[_Journaled] = field(factory=list, init=False)
    _published: int = field(default=0, init=False)
    _synced: int = field(default=0, init=False)

    @property
    def sequence(self) -> int:
        """Of the last group written."""
        return self._journal[-1].sequence if self._journal else 0

    @property
    def unsynced(self) -> int:
        """Groups that a power cut may take."""
        return len(self._journal) - self._synced

    def write(self, sequence: int, plan: CommitPlan) -> None:
        self._journal.append(_Journaled(sequence, plan))

    def sync(self) -> None:
        self._synced = len(self._journal)

    def publish(self) -> None:
        for journaled in self._journal[self._published :]:
            self.state.carry_out(journaled.plan)
        self._published = len(self._journal)

    # --- crashes ---

    def kill_process(self) -> None:
        """What `kill -9` does: all that was written stays."""
        self.crashes += 1

    def cut_power(self) -> None:
        """What a power cut does: of what was not synced, the newest part is lost."""
        self.crashes += 1
        survived = self._random.randint(self._synced, len(self._journal))
        del self._journal[survived:]
        self._synced = survived
        self._published = 0
        self.state = MemoryState()
        self.publish()

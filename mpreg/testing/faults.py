"""What can go wrong with a simulated disk, how often, and when by order."""

from __future__ import annotations

import enum
from collections import Counter
from collections.abc import Callable, Mapping
from random import Random

from attrs import field, frozen

__all__ = ["Fault", "FaultInjector", "FaultPlan"]


class Fault(enum.Enum):
    """The list of what a `SimulatedBackend` may break. What is not here it never breaks: it does
    not tear a group, reorder groups, lose a durable one, or change a byte."""

    COMMIT_LOST = "a commit fails before it took effect, and the handle is unusable"
    COMMIT_UNTOLD = "a commit fails after it took effect, and the handle is unusable"
    ROLLED_BACK = "a commit fails, is rolled back, and the next may work"
    DISK_FULL = "there is no room for a while"
    SLOW_COMMIT = "a commit takes long"
    OPEN_FAILS = "the disk fails while the store is opened"
    READ_FAILS = "the disk fails while it is read"
    UPKEEP_PUT_OFF = "a step of upkeep is not done, and the next may be"
    UPKEEP_FAILS = "the disk fails during upkeep, and the handle is unusable"
    CLOSE_FAILS = "the disk fails while the store is closed"


@frozen(kw_only=True)
class FaultPlan:
    """How often what goes wrong. Without arguments: nothing does, and nothing takes time."""

    probabilities: Mapping[Fault, float] = field(factory=dict)
    """Of each fault, at each occasion for it; 0 where it is not named."""
    commit_seconds_max: float = 0.0
    """What a commit that goes well takes: a random time up to this."""
    slow_seconds_max: float = 30.0
    """What a slow one takes."""
    full_seconds_max: float = 5.0
    """How long the disk stays full."""


class FaultInjector:
    """Decides at each occasion whether a fault strikes: by the seed, or by order."""

    def __init__(
        self,
        plan: FaultPlan | None = None,
        random: Random | None = None,
        record: Callable[[str], None] = lambda event: None,
    ) -> None:
        self._plan = FaultPlan() if plan is None else plan
        self._random = Random(0) if random is None else random
        self._record = record
        self._ordered: Counter[Fault] = Counter()

    def order(self, fault: Fault, times: int = 1) -> None:
        """Let a fault strike at the next occasion, or the next ``times`` of them."""
        self._ordered[fault] += times

    def heal(self) -> None:
        """Nothing fails from now on, and nothing takes time."""
        self._plan = FaultPlan()
        self._ordered.clear()

    def strikes(self, fault: Fault) -> bool:
        """Whether it strikes now. Asked once at each occasion."""
        if self._ordered[fault] > 0:
            self._ordered[fault] -= 1
        elif not self.chance(self._plan.probabilities.get(fault, 0.0)):
            return False
        self._record(f"fault: {fault.value}")
        return True

    def chance(self, probability: float) -> bool:
        """True with this probability; draws nothing where the answer is certain."""
        return probability > 0 and self._random.random() < probability

    def commit_seconds(self) -> float:
        if self.strikes(Fault.SLOW_COMMIT):
            return self._random.uniform(0, self._plan.slow_seconds_max)
        most = self._plan.commit_seconds_max
        return self._random.uniform(0, most) if most else 0.0

    def full_seconds(self) -> float:
        return self._random.uniform(0, self._plan.full_seconds_max)

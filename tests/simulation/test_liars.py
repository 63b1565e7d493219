"""Backends that break a promise are caught by the stories: otherwise the stories prove nothing."""

from __future__ import annotations

import msgspec
import pytest
from attrs import evolve

from mpreg.errors import CorruptDataError
from mpreg.persistence.backend import CheckFound, OpenedState, check_nothing
from mpreg.persistence.batch import Durability, WriteBatch
from mpreg.persistence.commit_group import CommitGroup, CommitPlan, LogBounds, NewRecord
from mpreg.persistence.operations import Delete, Operation, Put
from mpreg.testing import SimulatedBackend
from tests.simulation.seeds import ordinarily
from tests.simulation.story import BackendClass, Story

STORIES_MAX = 60


class AcksBeforeFsync(SimulatedBackend):
    """Reports a group as durable that only the operating system has."""

    def _finish(self, group: CommitGroup) -> None:
        self.disk.publish()


class ForgetsRelaxedGroups(SimulatedBackend):
    """Reports a relaxed group as committed, and keeps it to itself now and then."""

    def _write(self, group: CommitGroup, plan: CommitPlan) -> None:
        if group.durability is Durability.RELAXED and group.sequence % 3 == 0:
            plan = CommitPlan(outcomes=plan.outcomes, last_version=plan.last_version)
        super()._write(group, plan)


class TearsBatches(SimulatedBackend):
    """Writes the logs of a group, and loses an entry that belongs to the same batch."""

    def _write(self, group: CommitGroup, plan: CommitPlan) -> None:
        if group.sequence % 5 == 0 and plan.entries:
            plan = evolve(plan, entries=dict(list(plan.entries.items())[:-1]))
        super()._write(group, plan)


class ReordersRecords(SimulatedBackend):
    """Writes the records of a group from the last to the first."""

    def _write(self, group: CommitGroup, plan: CommitPlan) -> None:
        super()._write(group, evolve(plan, records=_turned_round(plan.records, plan.logs)))


class IgnoresConditions(SimulatedBackend):
    """Lets a change through, whatever version its caller expects."""

    def _plan(self, group: CommitGroup) -> CommitPlan:
        batches = tuple(
            WriteBatch(
                tuple(map(_unconditional, batch.operations)),
                batch.acks,
                batch.durability,
                batch.size_bytes,
            )
            for batch in group.batches
        )
        return super()._plan(CommitGroup(group.sequence, group.now, batches))


class CommitsTwice(SimulatedBackend):
    """Has a group on disk, and says after opening that it has not."""

    async def open(self, check: CheckFound = check_nothing) -> OpenedState:
        opened = await super().open(check)
        if opened.generation % 3 == 0 and opened.commit_sequence > 0:
            return evolve(opened, commit_sequence=opened.commit_sequence - 1)
        return opened

    def _hold_to_contract(self, group: CommitGroup) -> None:
        """It cannot hold others to what it does not keep itself."""


def _unconditional(operation: Operation) -> Operation:
    if isinstance(operation, Put | Delete):
        return msgspec.structs.replace(operation, expected_version=None)
    return operation


def _turned_round(records: list[NewRecord], logs: dict[bytes, LogBounds]) -> list[NewRecord]:
    turned: list[NewRecord] = []
    for log in logs:
        of_log = [record for record in records if record[0] == log]
        turned += [
            (log, offset, data)
            for (_, offset, _), (_, _, data) in zip(of_log, reversed(of_log), strict=True)
        ]
    return turned


LIARS: list[BackendClass] = [
    AcksBeforeFsync,
    ForgetsRelaxedGroups,
    TearsBatches,
    ReordersRecords,
    IgnoresConditions,
    CommitsTwice,
]


@pytest.mark.parametrize("liar", LIARS, ids=lambda liar: liar.__name__)
def test_a_backend_that_breaks_its_promise_is_caught(liar: BackendClass) -> None:
    assert any(_accuses(seed, liar) for seed in range(STORIES_MAX)), "it got away with it"


def test_an_honest_backend_is_not_accused() -> None:
    assert not any(
        _accuses(seed, SimulatedBackend) for seed in range(ordinarily(20, of=STORIES_MAX))
    )


def _accuses(seed: int, backend_class: BackendClass) -> bool:
    """Whether the story ends with a failed check, and not with some accident."""
    try:
        Story(seed, backend_class=backend_class).tell()
    except AssertionError:
        return True
    except CorruptDataError:
        # The writer itself has found out that acked groups are missing.
        return True
    except BaseExceptionGroup as group:
        if group.subgroup((AssertionError, CorruptDataError)) is None:
            raise
        return True
    return False

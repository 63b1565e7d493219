"""The one operation that its caller awaits at once: how its task is answered, and how often."""

from __future__ import annotations

from collections.abc import Sequence

import anyio
import pytest
from attrs import define, field

from mpreg.actors.parking import new_place
from mpreg.errors import AckAlreadyResolvedError, CommitFailedError
from mpreg.persistence.batch import AwaitedWrite, Durability
from mpreg.persistence.operations import OperationResult, Put
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


@define
class Caller:
    """A task with one write, and all that it is told."""

    scope: anyio.CancelScope = field(factory=anyio.CancelScope)
    write: AwaitedWrite = field(init=False)
    answers: list[object] = field(factory=list)
    settled: list[Sequence[OperationResult] | None] = field(factory=list)

    def is_answered(self) -> bool:
        return self.write.is_answered

    async def run(self) -> None:
        self.write = AwaitedWrite(
            operations=(Put(b"n", b"k", b"v"),),
            durability=Durability.DURABLE,
            size_bytes=1,
            settled=self.settled.append,
            place=new_place(),
        )
        with self.scope:
            try:
                self.answers.append(await self.write.place)
            except CommitFailedError as error:
                self.answers.append(error)


async def test_its_task_is_woken_with_the_result_itself() -> None:
    caller = Caller()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(caller.run)
        await anyio.wait_all_tasks_blocked()
        assert not caller.is_answered()
        caller.write.succeed((7,))
        assert caller.is_answered()
        # Before any other task runs, the caller's own as well.
        assert (caller.settled, caller.answers) == ([(7,)], [])
    assert caller.answers == [7]


async def test_an_error_is_raised_in_its_task() -> None:
    caller, error = Caller(), CommitFailedError("no room")
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(caller.run)
        await anyio.wait_all_tasks_blocked()
        caller.write.fail(error)
        assert caller.is_answered()
        assert caller.settled == [None]
    assert caller.answers == [error]


@pytest.mark.parametrize("error", [None, CommitFailedError("no room")])
async def test_what_follows_the_commit_is_told_though_nobody_waits_any_more(
    error: CommitFailedError | None,
) -> None:
    caller = Caller()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(caller.run)
        await anyio.wait_all_tasks_blocked()
        caller.scope.cancel()
        await anyio.wait_all_tasks_blocked()
        assert not caller.is_answered()
        if error is None:
            caller.write.succeed((7,))
        else:
            caller.write.fail(error)
    assert caller.scope.cancelled_caught
    assert caller.settled == [(7,) if error is None else None]
    assert caller.answers == []


async def test_a_second_answer_is_a_bug() -> None:
    caller = Caller()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(caller.run)
        await anyio.wait_all_tasks_blocked()
        caller.write.succeed((7,))
        with pytest.raises(AckAlreadyResolvedError):
            caller.write.succeed((8,))
        with pytest.raises(AckAlreadyResolvedError):
            caller.write.fail(CommitFailedError("no room"))
    assert caller.answers == [7]
    assert caller.settled == [(7,)]

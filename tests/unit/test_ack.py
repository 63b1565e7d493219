"""The one answer to one message."""

from __future__ import annotations

import traceback

import anyio
import pytest

from mpreg.actors import Ack
from mpreg.errors import AckAlreadyResolvedError
from tests.loops import on_all_loops

pytestmark = pytest.mark.anyio

anyio_backend = on_all_loops


async def test_a_resolved_ack_gives_its_value_again_and_again() -> None:
    ack: Ack[int] = Ack()
    ack.resolve(7)
    assert [await ack, await ack, await ack.wait()] == [7, 7, 7]


async def test_none_and_false_are_answers_too() -> None:
    for value in (None, False, 0, b""):
        ack: Ack[object] = Ack()
        ack.resolve(value)
        assert ack.done
        assert await ack is value


async def test_a_rejected_ack_raises_the_same_error_each_time() -> None:
    ack: Ack[int] = Ack()
    error = OSError("no")
    ack.reject(error)
    for _ in range(2):
        with pytest.raises(OSError, match="no") as caught:
            await ack
        assert caught.value is error
    assert ack.error is error


async def test_awaiting_an_error_many_times_does_not_grow_its_traceback() -> None:
    ack: Ack[int] = Ack()
    ack.reject(OSError("no"))
    depths = []
    for _ in range(50):
        with pytest.raises(OSError) as caught:
            await ack
        depths.append(len(traceback.extract_tb(caught.value.__traceback__)))
    assert len(set(depths)) == 1


@pytest.mark.parametrize("first", ["resolve", "reject"])
@pytest.mark.parametrize("second", ["resolve", "reject"])
async def test_a_second_answer_is_refused_and_the_first_one_stands(first: str, second: str) -> None:
    def answer(how: str, number: int) -> None:
        if how == "resolve":
            ack.resolve(number)
        else:
            ack.reject(OSError(str(number)))

    ack: Ack[int] = Ack()
    answer(first, 1)
    with pytest.raises(AckAlreadyResolvedError):
        answer(second, 2)
    if first == "resolve":
        assert await ack == 1
    else:
        with pytest.raises(OSError, match="1"):
            await ack


async def test_many_tasks_await_one_ack() -> None:
    ack: Ack[int] = Ack()
    got: list[int] = []

    async def wait() -> None:
        got.append(await ack)

    async with anyio.create_task_group() as task_group:
        for _ in range(20):
            task_group.start_soon(wait)
        await anyio.wait_all_tasks_blocked()
        assert got == []
        ack.resolve(5)
    assert got == [5] * 20


async def test_a_cancelled_wait_leaves_the_ack_as_it_was() -> None:
    ack: Ack[int] = Ack()
    with anyio.move_on_after(0):
        await ack
    assert not ack.done
    ack.resolve(3)
    assert await ack == 3


async def test_one_of_two_waiters_cancelled_does_not_disturb_the_other() -> None:
    ack: Ack[int] = Ack()
    got: list[int] = []

    async def wait(scope: anyio.CancelScope) -> None:
        with scope:
            got.append(await ack)

    first, second = anyio.CancelScope(), anyio.CancelScope()
    async with anyio.create_task_group() as task_group:
        task_group.start_soon(wait, first)
        task_group.start_soon(wait, second)
        await anyio.wait_all_tasks_blocked()
        first.cancel()
        await anyio.wait_all_tasks_blocked()
        ack.resolve(9)
    assert got == [9]


async def test_awaiting_an_answered_ack_is_a_checkpoint() -> None:
    ack: Ack[int] = Ack()
    ack.resolve(1)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await ack
    assert scope.cancelled_caught


def test_the_repr_tells_the_answer() -> None:
    pending: Ack[int] = Ack()
    resolved: Ack[int] = Ack()
    rejected: Ack[int] = Ack()
    resolved.resolve(12)
    rejected.reject(OSError("no"))
    assert [repr(pending), repr(resolved), repr(rejected)] == [
        "<Ack pending>",
        "<Ack resolved: 12>",
        "<Ack rejected: OSError('no')>",
    ]

"""Reads that do not wait for each other: the reader answers in one hop all that it is asked."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterable
from typing import TypeVar, cast

import anyio

from mpreg.errors import MpregError

__all__ = ["both", "together"]

T = TypeVar("T")
U = TypeVar("U")


async def both(
    first: Callable[[], Awaitable[T]], second: Callable[[], Awaitable[U]]
) -> tuple[T, U]:
    """`together`, of two that read different things."""
    reads: tuple[Callable[[], Awaitable[T | U]], ...] = (first, second)
    return cast(tuple[T, U], tuple(await together(reads)))


async def together(reads: Iterable[Callable[[], Awaitable[T]]]) -> list[T]:
    """The results, in the order of the reads. Cancelled: all of them are.

    Raises what the first one in that order raised, if it is an `MpregError`: as itself, and not in
    a group. The others are read to their end.
    """
    asked = list(reads)
    answers: list[T | MpregError | None] = [None] * len(asked)

    async def answer(index: int) -> None:
        try:
            answers[index] = await asked[index]()
        except MpregError as error:
            answers[index] = error

    async with anyio.create_task_group() as task_group:
        for index in range(len(asked)):
            task_group.start_soon(answer, index)
    for one in answers:
        if isinstance(one, MpregError):
            raise one
    return cast(list[T], answers)

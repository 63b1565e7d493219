"""Who waits for whom: whoever waited for itself, however indirectly, would wait for ever."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Protocol, TypeVar

import anyio
from attrs import define, field

from mpreg.actors import Ack

__all__ = ["Waiting", "circle_of", "told"]

T = TypeVar("T")


class Computed(Protocol):
    answer: Ack[object]
    waiting: int
    """How many wait for it."""
    raised_at: TracebackType | None

    @property
    def key(self) -> object: ...


C = TypeVar("C", bound=Computed)


@define(eq=False)
class Waiting(Generic[C]):
    """Those that run in a task of their own, each of which waits for one other at a time."""

    by_task: dict[int, C] = field(factory=dict)
    """By the id of the task."""
    waits_for: dict[C, C] = field(factory=dict)
    """What its own task waits for. What it has others wait for is not known."""

    async def answer(self, asked: C, end_if_unwanted: Callable[[C], None]) -> object:
        """That of one of them, for the running task, which may be one of theirs. It is ended by
        the last one that waits for it.

        Raises:
            RuntimeError: that one waits for it.
        """
        with self._noted(asked):
            asked.waiting += 1
            try:
                return await asked.answer.wait()
            except Exception as error:
                error.__traceback__ = asked.raised_at
                raise
            finally:
                asked.waiting -= 1
                end_if_unwanted(asked)

    @contextmanager
    def _noted(self, asked: C) -> Iterator[None]:
        asking = self.by_task.get(anyio.get_current_task().id)
        if asking is None:
            yield
            return
        if circle := circle_of(asking, asked, self.waits_for):
            raise RuntimeError(told([one.key for one in circle]))
        self.waits_for[asking] = asked
        try:
            yield
        finally:
            del self.waits_for[asking]


def circle_of(asking: T, asked: T, waits_for: Mapping[T, T]) -> list[T]:
    """Those of which each would wait for the next one, and the last for the first, if one waited
    for another; empty where they would not."""
    chain, one = [asking], asked
    while one is not asking:
        chain.append(one)
        if one not in waits_for:
            return []
        one = waits_for[one]
    return chain


def told(circle: list[object]) -> str:
    first, *others = (f"{one!r:.200}" for one in circle)
    if not others:
        return f"{first} is computed from itself: it would wait for ever"
    through = "".join(f"{other}, and that from " for other in others)
    return f"{first} is computed from {through}{first}: they would wait for each other for ever"

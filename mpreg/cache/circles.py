"""Who waits for whom: whoever waited for itself, however indirectly, would wait for ever."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Generic, Protocol, TypeVar

import anyio
from attrs import define, field

__all__ = ["Waiting", "circle_of", "told"]

T = TypeVar("T")


class Computed(Protocol):
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

    @contextmanager
    def waiting(self, asked: C) -> Iterator[None]:
        """While the running task, which may be one of theirs, waits for one of them.

        Raises:
            RuntimeError: that one waits for it.
        """
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

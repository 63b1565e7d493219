"""Reading page by page, one item at a time."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Sequence
from typing import Generic, Self, TypeAlias, TypeVar

from mpreg.errors import CorruptDataError

__all__ = ["OnDamaged", "Page", "Paged"]

P = TypeVar("P")
S = TypeVar("S")
T = TypeVar("T")

OnDamaged: TypeAlias = Callable[[CorruptDataError], None]

Page: TypeAlias = tuple[Sequence[S | CorruptDataError], P | None]
"""Items, a damaged one as its error, and where the next page starts if there is one."""


class Paged(Generic[P, S, T]):
    """An async iterator over items that are read when they are reached.

    Not an async generator: one that is left early would have to be closed, and the trio event loop
    warns where nobody does it. This one may be left at any item, and costs nothing then.
    """

    def __init__(
        self,
        read_page: Callable[[P], Awaitable[Page[S, P]]],
        start: P,
        make_item: Callable[[S], T | None],
        on_damaged: OnDamaged | None,
    ) -> None:
        """``make_item`` gives what is handed out for a stored item; None passes over it."""
        self._read_page = read_page
        self._next_start: P | None = start
        self._make_item = make_item
        self._on_damaged = on_damaged
        self._page: Iterator[S | CorruptDataError] = iter(())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> T:
        while True:
            for stored in self._page:
                if not isinstance(stored, CorruptDataError):
                    if (item := self._make_item(stored)) is not None:
                        return item
                elif self._on_damaged is None:
                    raise stored
                else:
                    self._on_damaged(stored)
            if self._next_start is None:
                raise StopAsyncIteration
            page, self._next_start = await self._read_page(self._next_start)
            self._page = iter(page)

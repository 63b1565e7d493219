"""What was handed out over HTTP, until it is settled or its lease is over."""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable
from typing import Final

from attrs import define, field

from mpreg.errors import LeaseLostError
from mpreg.queues.message import Receipt

__all__ = ["Leases"]

#: Ends of leases that are settled already, beyond which they are cleared away.
SETTLED_ENDS_MAX: Final = 1_024


@define
class _Held:
    receipt: Receipt
    queue: str
    until: float


@define(eq=False)
class Leases:
    """Deliveries by their tokens. Whether a lease still holds, the queue says; here it is only
    forgotten, so that memory follows what is with consumers, and not what ever was. What was sent
    is not held: of a delivery that is over little is left until the next one."""

    _make_token: Callable[[], str]
    _held: dict[str, _Held] = field(factory=dict)
    _ends: list[tuple[float, str]] = field(factory=list)
    """A heap. A lease that was made longer, or settled, is found out when it comes up."""

    def __len__(self) -> int:
        return len(self._held)

    def add(self, queue: str, receipt: Receipt, until: float, now: float) -> str:
        """A token for it, held at least ``until``."""
        self._forget_those_over(now)
        token = self._make_token()
        self._held[token] = _Held(receipt, queue, until)
        heapq.heappush(self._ends, (until, token))
        return token

    def find(self, queue: str, tokens: Iterable[str]) -> list[Receipt]:
        """
        Raises:
            LeaseLostError: one of them was never given for this queue, is settled, or over.
        """
        return [self._find(queue, token).receipt for token in tokens]

    def find_held(self, queue: str, tokens: Iterable[str]) -> list[Receipt]:
        """Those of them that are still out."""
        found = (self._held.get(token) for token in dict.fromkeys(tokens))
        return [held.receipt for held in found if held is not None and held.queue == queue]

    def _find(self, queue: str, token: str) -> _Held:
        found = self._held.get(token)
        if found is None or found.queue != queue:
            raise LeaseLostError(
                f"token {token!r:.80} is of no delivery of queue {queue!r:.200} that is out: it is "
                "settled, its lease ran out, or the node was started again; nothing was changed"
            )
        return found

    def extend(self, queue: str, token: str, until: float) -> None:
        self._find(queue, token).until = until

    def forget(self, tokens: Iterable[str]) -> None:
        for token in tokens:
            self._held.pop(token, None)

    def tokens_of(self, queue: str) -> list[str]:
        """Of all its deliveries that are out."""
        return [token for token, held in self._held.items() if held.queue == queue]

    def _forget_those_over(self, now: float) -> None:
        if len(self._ends) > 2 * len(self._held) + SETTLED_ENDS_MAX:
            self._ends = [(held.until, token) for token, held in self._held.items()]
            heapq.heapify(self._ends)
        while self._ends and self._ends[0][0] <= now:
            _, token = heapq.heappop(self._ends)
            if (held := self._held.get(token)) is None:
                continue
            if held.until <= now:
                del self._held[token]
            else:
                heapq.heappush(self._ends, (held.until, token))

"""What was sent, what was acked, what was found again: and what must be true of the three."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from attrs import define, field, frozen

__all__ = ["History", "InvariantError", "Mark", "Part", "check_restored", "find_violations"]


class InvariantError(AssertionError):
    """What came back is not what was promised. The message lists every violation."""


@frozen(order=True)
class Mark:
    """A batch: its caller, and its number among that caller's batches."""

    caller: int
    number: int


@frozen(order=True)
class Part:
    """One item (entry, record) that a batch writes: to be stored so that it can be recognised."""

    mark: Mark
    index: int


@define
class _Sent:
    parts: int
    sent_at: int
    acked_at: int | None = None
    durable: bool = False
    refused: bool = False


@define(eq=False)
class History:
    """The callers' side of a story: tell it of each batch before it is sent, and of each answer.

    An answer that comes after a crash is not to be told: nobody was there to hear it.
    """

    _batches: dict[Mark, _Sent] = field(factory=dict, init=False)
    _callers: Counter[int] = field(factory=Counter, init=False)
    _time: Iterator[int] = field(factory=itertools.count, init=False)

    def send(self, caller: int, parts: int = 1) -> Mark:
        """A batch of ``parts`` items is about to be sent."""
        mark = Mark(caller, self._callers[caller])
        self._callers[caller] += 1
        self._batches[mark] = _Sent(parts, next(self._time))
        return mark

    def ack(self, mark: Mark, *, durable: bool = True) -> None:
        """It was acked: as durable, or as relaxed."""
        batch = self._batches[mark]
        batch.acked_at = next(self._time)
        batch.durable = durable

    def refuse(self, mark: Mark) -> None:
        """It was answered with an error that says: certainly not written."""
        self._batches[mark].refused = True

    def settle(self, stores: Mapping[str, Sequence[Part]]) -> None:
        """A store was opened and these were found: from now on they stay, and the rest stays lost.

        What an open store shows is durable, and nothing of an earlier process can still arrive.
        """
        found = {part.mark for parts in stores.values() for part in parts}
        for mark, batch in self._batches.items():
            batch.durable = mark in found
            batch.refused = mark not in found
            if batch.durable and batch.acked_at is None:
                batch.acked_at = next(self._time)

    def __len__(self) -> int:
        return len(self._batches)

    @property
    def acked(self) -> int:
        """How many are acked or were found at `settle`, and not lost since."""
        return sum(sent.acked_at is not None and not sent.refused for sent in self.items())

    def items(self) -> Iterable[_Sent]:
        return self._batches.values()

    def get(self, mark: Mark) -> _Sent | None:
        return self._batches.get(mark)

    def marks(self) -> Iterable[tuple[Mark, _Sent]]:
        return self._batches.items()


def find_violations(
    history: History, stores: Mapping[str, Sequence[Part]], *, power_cut: bool
) -> list[str]:
    """What is wrong with the parts found in each store, given in the order of their commits.

    *acked ⊆ restored ⊆ sent*; what was refused is not there; no batch is there in part or twice;
    each caller's batches are in the order in which it sent them; what was acked before something
    else was sent stands before it. After a power cut relaxed batches may be missing, but only from
    a point on: none is missing that was acked before something was sent that is there.
    """
    counts = Counter(part for parts in stores.values() for part in parts)
    return [
        *_not_sent(history, counts),
        *_torn(history, counts),
        *_lost(history, {part.mark for part in counts}, power_cut=power_cut),
        *(found for name, parts in stores.items() for found in _reordered(history, name, parts)),
    ]


def check_restored(
    history: History, stores: Mapping[str, Sequence[Part]], *, power_cut: bool
) -> None:
    """Raise `InvariantError` with what `find_violations` finds, if it finds anything."""
    if violations := find_violations(history, stores, power_cut=power_cut):
        raise InvariantError("\n".join(violations))


def _not_sent(history: History, counts: Counter[Part]) -> Iterator[str]:
    for mark in sorted({part.mark for part in counts}):
        batch = history.get(mark)
        if batch is None:
            yield f"restored, but never sent: {mark}"
        elif batch.refused:
            yield f"restored, but refused or lost before: {mark}"


def _torn(history: History, counts: Counter[Part]) -> Iterator[str]:
    indexes: dict[Mark, list[int]] = {}
    for part in counts.elements():
        indexes.setdefault(part.mark, []).append(part.index)
    for mark, found in indexes.items():
        batch = history.get(mark)
        if batch is not None and sorted(found) != list(range(batch.parts)):
            yield f"torn or written twice: {mark} has parts {sorted(found)} of {batch.parts}"


def _lost(history: History, restored: set[Mark], *, power_cut: bool) -> Iterator[str]:
    # Commits are in order, and a crash leaves a prefix of them: whatever was acked before
    # something durable or restored was sent is in that prefix.
    prefix_end = max(
        (batch.sent_at for mark, batch in history.marks() if batch.durable or mark in restored),
        default=-1,
    )
    for mark, batch in history.marks():
        if mark in restored or batch.refused or batch.acked_at is None:
            continue
        if batch.durable or not power_cut or batch.acked_at < prefix_end:
            kind = "durable" if batch.durable else "relaxed"
            yield f"acked as {kind}, but lost: {mark}"


def _reordered(history: History, store: str, parts: Sequence[Part]) -> Iterator[str]:
    last_of_caller: dict[int, Part] = {}
    latest_sent = -1
    for part in parts:
        before = last_of_caller.get(part.mark.caller)
        if before is not None and part < before:
            yield f"out of its caller's order in {store}: {part} after {before}"
        last_of_caller[part.mark.caller] = part
        batch = history.get(part.mark)
        if batch is None:
            continue
        if batch.acked_at is not None and batch.acked_at < latest_sent:
            yield f"behind one that was sent after its ack, in {store}: {part}"
        latest_sent = max(latest_sent, batch.sent_at)

"""What the figures are held against: ratios within a round, and whether a target is met."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Final

from benchmarks.queues.workload import BARE, OURS, PEERS, CycleResult
from benchmarks.verdicts import Verdict, at_least, ratio

#: Workers → at least so many times the life cycles of the best peer. 1: no peer is faster.
OF_BEST_PEER: Final = {1: 1.0, 16: 10.0, 256: 20.0}

#: Workers → at least this part of the life cycles of bare sqlite3.
OF_BARE: Final = {256: 0.3}

#: Until a consumer has the first of a million messages, of the time to open an empty queue.
FIRST_MESSAGE_OF_EMPTY: Final = 1.5

#: What a million pending messages may add to the peak of an empty queue's process.
GROWTH_MIB: Final = 32.0

Rounds = Mapping[str, Sequence[CycleResult]]


def rates(rounds: Rounds, contender: str) -> list[float]:
    return [result.per_second for result in rounds[contender]]


def best_peer(rounds: Rounds) -> list[float]:
    """Whichever peer was fastest, round by round."""
    return [max(peers) for peers in zip(*(rates(rounds, peer) for peer in PEERS), strict=True)]


def judge_cycles(workers: int, rounds: Rounds) -> Iterator[Verdict]:
    for contender in OURS:
        own = rates(rounds, contender)
        if (least := OF_BEST_PEER.get(workers)) is not None:
            what = f"life cycles, {workers} + {workers}: of the best peer's"
            yield at_least(what, contender, ratio(own, best_peer(rounds)), least)
        if (least := OF_BARE.get(workers)) is not None:
            what = f"life cycles, {workers} + {workers}: of bare sqlite3's"
            yield at_least(what, contender, ratio(own, rates(rounds, BARE)), least)


def judge_restart(
    contender: str, pending: int, received: float, acknowledged: float, growth_mib: float
) -> Iterator[Verdict]:
    """``received``, ``acknowledged``: until then, of the time to open an empty queue."""
    for what, figure in (("received", received), ("acknowledged", acknowledged)):
        yield Verdict(
            f"first of {pending:,} messages {what}: of an empty start",
            contender,
            f"{figure:.2f}x",
            f"< {FIRST_MESSAGE_OF_EMPTY:g}x",
            figure < FIRST_MESSAGE_OF_EMPTY,
        )
    yield Verdict(
        f"memory for {pending:,} pending messages",
        contender,
        f"{growth_mib:.1f} MiB",
        f"< {GROWTH_MIB:g} MiB",
        growth_mib < GROWTH_MIB,
    )

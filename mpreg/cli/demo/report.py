"""The figures of the closing table."""

from __future__ import annotations

from collections.abc import Sequence

from attrs import define, field, frozen

from mpreg.cli.demo.messages import Finished, Progress, Restored

__all__ = ["Life", "Writes", "count_writes", "percentile"]


@define
class Life:
    """One worker process, as far as it could tell of itself."""

    pid: int
    restored: Restored | None = None
    latest: Restored | Progress | Finished | None = None
    """The last message with counts."""
    acked: set[int] = field(factory=set)


@frozen
class Writes:
    commit_groups: int
    fsyncs: int


def count_writes(lives: Sequence[Life], final_sequence: int) -> Writes:
    """Commit groups and fsyncs of all workers, the killed ones included.

    A killed process cannot say what it did last, but each commit group has the next sequence number
    on disk. So what came after its last report is the distance from there to where the next process
    found the sequence; and each of these groups was one fsync, since every write here is durable.
    A process that was killed before it said anything had written nothing, and is not counted.
    """
    told = [life for life in lives if life.restored is not None]
    if not told:
        return Writes(0, 0)
    starts = [life.restored.commit_sequence for life in told if life.restored is not None]
    ends = [*starts[1:], final_sequence]
    fsyncs = 0
    for life, end in zip(told, ends, strict=True):
        assert life.latest is not None
        fsyncs += life.latest.fsyncs + end - life.latest.commit_sequence
    return Writes(final_sequence - starts[0], fsyncs)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed; 0.0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, int(rank) - 1)]

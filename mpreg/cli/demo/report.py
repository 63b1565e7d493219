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


def count_writes(lives: Sequence[Life]) -> Writes:
    """Commit groups and fsyncs of all workers, the killed ones included.

    A killed process cannot say what it did last, but each commit group has the next sequence number
    on disk. So what came after its last report is the distance from there to where the next process
    found the sequence; and each of these groups was one fsync at most: every write here is durable,
    but for parts of a queue's snapshots. What a process wrote before it said anything counts with
    the one before.
    """
    starts = [life.restored.commit_sequence for life in lives if life.restored is not None]
    latest = [life.latest for life in lives if life.latest is not None]
    if not latest:
        return Writes(0, 0)
    ends = [*starts[1:], latest[-1].commit_sequence]
    after_last_report = sum(
        end - report.commit_sequence for report, end in zip(latest, ends, strict=True)
    )
    return Writes(ends[-1] - starts[0], sum(one.fsyncs for one in latest) + after_last_report)


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that at least ``share`` of them do not exceed; 0.0 of none."""
    ordered = sorted(values)
    if not ordered:
        return 0.0
    rank = -(-len(ordered) * share // 1)  # rounded up
    return ordered[max(0, int(rank) - 1)]

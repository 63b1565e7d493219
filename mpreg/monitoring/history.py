"""The last minutes of a node, for charts: a bounded ring of samples, and rates between them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise
from typing import Final

from attrs import define, field, frozen

from mpreg.monitoring.commits import CommitsObserved
from mpreg.monitoring.distribution import quantile

__all__ = ["HISTORY_SECONDS", "SAMPLES_MAX", "Depths", "History", "Point", "Sample"]

HISTORY_SECONDS: Final = 600.0
SAMPLES_MAX: Final = 360

#: Of two that come closer than this, the later one is left out: rates between them would be noise.
APART_SECONDS_MIN: Final = 0.8


@frozen(kw_only=True)
class Depths:
    """Of all queues together."""

    pending: int
    in_flight: int
    delayed: int
    dead: int


@frozen(kw_only=True)
class Sample:
    now: float
    """Monotonic."""
    wall: float
    commits: CommitsObserved
    mailbox_depth: int
    depths: Depths | None
    """None where nobody looked: they are not counted then."""


@frozen(kw_only=True)
class Point:
    """What happened between two samples; at the later one."""

    wall: float
    operations_per_second: float
    commits_per_second: float
    group_size: float | None
    """On average; None where nothing was committed, as in the next two."""
    ack_p50_seconds: float | None
    ack_p99_seconds: float | None
    mailbox_depth: int
    depths: Depths | None


@define(eq=False)
class History:
    _samples: deque[Sample] = field(factory=lambda: deque(maxlen=SAMPLES_MAX))

    def add(self, sample: Sample) -> None:
        samples = self._samples
        if samples and sample.now - samples[-1].now < APART_SECONDS_MIN:
            return
        samples.append(sample)
        while samples[0].now < sample.now - HISTORY_SECONDS:
            samples.popleft()

    def points(self) -> Iterator[Point]:
        for before, after in pairwise(self._samples):
            yield _point(before, after)

    def __len__(self) -> int:
        return len(self._samples)


def _point(before: Sample, after: Sample) -> Point:
    seconds = after.now - before.now
    commits = after.commits.commits - before.commits.commits
    acks = after.commits.ack_seconds.since(before.commits.ack_seconds)
    return Point(
        wall=after.wall,
        operations_per_second=(after.commits.operations - before.commits.operations) / seconds,
        commits_per_second=commits / seconds,
        group_size=(after.commits.batches - before.commits.batches) / commits if commits else None,
        ack_p50_seconds=quantile(0.5, acks.bounds, acks.counts),
        ack_p99_seconds=quantile(0.99, acks.bounds, acks.counts),
        mailbox_depth=after.mailbox_depth,
        depths=after.depths,
    )

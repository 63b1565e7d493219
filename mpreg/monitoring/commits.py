"""What the commits of a registry took, added up."""

from __future__ import annotations

from attrs import define, field, frozen

from mpreg.monitoring.distribution import GROUP_SIZES, SECONDS, Distribution, Spread
from mpreg.persistence.following import CommitObserved

__all__ = ["Commits", "CommitsObserved"]


@frozen(kw_only=True)
class CommitsObserved:
    """Since the registry was observed."""

    commits: int
    batches: int
    operations: int
    size_bytes: int
    group_sizes: Spread
    commit_seconds: Spread
    ack_seconds: Spread


@define(eq=False)
class Commits:
    """An `mpreg.persistence.following.Observer`: called for every commit, so it only counts."""

    batches: int = 0
    operations: int = 0
    size_bytes: int = 0
    group_sizes: Distribution = field(factory=lambda: Distribution(GROUP_SIZES))
    commit_seconds: Distribution = field(factory=lambda: Distribution(SECONDS))
    ack_seconds: Distribution = field(factory=lambda: Distribution(SECONDS))

    def committed(self, commit: CommitObserved) -> None:
        self.batches += commit.batches
        self.operations += commit.operations
        self.size_bytes += commit.size_bytes
        self.group_sizes.observe(commit.batches)
        self.commit_seconds.observe(commit.commit_seconds)
        self.ack_seconds.observe(commit.ack_seconds)

    def observed(self) -> CommitsObserved:
        sizes = self.group_sizes.spread()
        return CommitsObserved(
            commits=sizes.count,
            batches=self.batches,
            operations=self.operations,
            size_bytes=self.size_bytes,
            group_sizes=sizes,
            commit_seconds=self.commit_seconds.spread(),
            ack_seconds=self.ack_seconds.spread(),
        )

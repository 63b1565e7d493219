"""How values are spread: counts by size, of which quantiles can be told."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from typing import Final

from attrs import define, field, frozen

__all__ = ["GROUP_SIZES", "REQUEST_SECONDS", "SECONDS", "Distribution", "Spread", "quantile"]

#: Five in each decade, from 0.1 ms to 10 s: a quantile is right to about a quarter.
SECONDS: Final = (
    *(
        round(scale * step, 6)
        for scale in (0.0001, 0.001, 0.01, 0.1, 1.0)
        for step in (1.0, 1.6, 2.5, 4.0, 6.3)
    ),
    10.0,
)

#: Of requests, of which there is one spread for each route: less fine, and long polls fit in.
REQUEST_SECONDS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 60.0,
)  # fmt: skip

GROUP_SIZES: Final = tuple(float(1 << power) for power in range(14))


@frozen
class Spread:
    """A `Distribution` as it was at one moment."""

    bounds: tuple[float, ...]
    counts: tuple[int, ...]
    """One more than bounds: the last is of what is above all of them."""
    total: float
    """Of the values."""

    def since(self, before: Spread) -> Spread:
        """What came after an earlier moment."""
        counts = tuple(now - then for now, then in zip(self.counts, before.counts, strict=True))
        return Spread(self.bounds, counts, self.total - before.total)

    @property
    def count(self) -> int:
        return sum(self.counts)


@define(eq=False)
class Distribution:
    bounds: tuple[float, ...]
    """Upper ones, each in its part."""
    counts: list[int] = field(init=False)
    total: float = 0.0

    def __attrs_post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def spread(self) -> Spread:
        return Spread(self.bounds, tuple(self.counts), self.total)


def quantile(share: float, bounds: Sequence[float], counts: Sequence[int]) -> float | None:
    """The value below which ``share`` of all are, evenly spread within each part; None of none."""
    wanted = share * sum(counts)
    if not any(counts):
        return None
    below, lower = 0, 0.0
    for bound, count in zip(bounds, counts, strict=False):
        if count and below + count >= wanted:
            return lower + (bound - lower) * max(0.0, wanted - below) / count
        below, lower = below + count, bound
    return lower

"""Sets of offsets whose memory follows the number of gaps, not the number of offsets.

What a subscription has acknowledged is one long interval and a few late ones behind it: of a
million offsets there remain a handful of numbers.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from mpreg.errors import InvalidArgumentError

__all__ = ["IntervalSet", "are_runs", "covered_at_least", "runs"]


class IntervalSet:
    """A mutable set of offsets, 0 and above, as sorted half-open intervals that never touch.

    Equal sets have equal intervals, however they came about. Questions may be asked about any
    range; offsets below 0 are simply not part of it.
    """

    __slots__ = ("_count", "_starts", "_stops")

    def __init__(self, ranges: Iterable[tuple[int, int]] = ()) -> None:
        """``ranges`` are (start, stop), in any order; they may touch and overlap."""
        # Two lists of plain ints: bisect works on them without a key or a tuple for each step.
        self._starts: list[int] = []
        self._stops: list[int] = []
        self._count = 0
        for start, stop in ranges:
            self.add_range(start, stop)

    def add(self, offset: int) -> bool:
        """Whether it was not there. Raises `InvalidArgumentError` below 0."""
        starts, stops = self._starts, self._stops
        if stops and offset == stops[-1]:
            stops[-1] = offset + 1
            self._count += 1
            return True
        if offset < 0:
            raise _negative(offset)
        if not stops or offset > stops[-1]:
            starts.append(offset)
            stops.append(offset + 1)
            self._count += 1
            return True
        # Where all but a few come in order, it is most often the first gap that closes.
        after = 1 if offset == stops[0] else bisect_right(starts, offset)
        stop = stops[after - 1] if after else -1
        if offset < stop:
            return False
        precedes = after < len(starts) and offset + 1 == starts[after]
        if offset == stop:
            if precedes:
                del starts[after], stops[after - 1]
            else:
                stops[after - 1] = offset + 1
        elif precedes:
            starts[after] = offset
        else:
            starts.insert(after, offset)
            stops.insert(after, offset + 1)
        self._count += 1
        return True

    def add_range(self, start: int, stop: int) -> None:
        """Add all from ``start`` up to but not ``stop``; nothing where they are equal.

        Raises `InvalidArgumentError` where ``start`` is below 0 or above ``stop``.
        """
        if start < 0:
            raise _negative(start)
        if start > stop:
            raise InvalidArgumentError(f"a range of offsets from {start} back to {stop}")
        if start == stop:
            return
        starts, stops = self._starts, self._stops
        if not stops or start > stops[-1]:
            starts.append(start)
            stops.append(stop)
            self._count += stop - start
            return
        if start == stops[-1]:
            stops[-1] = stop
            self._count += stop - start
            return
        # All that the new one overlaps or touches becomes one with it.
        first = bisect_left(stops, start)
        after = bisect_right(starts, stop)
        if first < after:
            start = min(start, starts[first])
            stop = max(stop, stops[after - 1])
        merged = sum(stops[first:after]) - sum(starts[first:after])
        starts[first:after] = [start]
        stops[first:after] = [stop]
        self._count += stop - start - merged

    @property
    def end(self) -> int:
        """The offset after the last one; from there on all are missing."""
        return self._stops[-1] if self._stops else 0

    def __contains__(self, offset: int) -> bool:
        stops = self._stops
        if not stops or offset >= stops[-1]:
            # What is asked for most is what comes after all that is done.
            return False
        after = bisect_right(self._starts, offset)
        return after > 0 and offset < self._stops[after - 1]

    def first_missing(self, start: int = 0) -> int:
        """The lowest offset from ``start`` on that is not in the set."""
        stops = self._stops
        if start >= 0 and (not stops or start >= stops[-1]):
            # As in `__contains__`.
            return start
        start = max(start, 0)
        after = bisect_right(self._starts, start)
        # No interval touches the next, so what follows an interval is missing.
        return max(start, stops[after - 1]) if after else start

    def missing(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """The gaps within ``start`` and ``stop``, cut at these two, from the lowest up.

        The set may change meanwhile: each gap is looked up when it is asked for.
        """
        starts, stops = self._starts, self._stops
        start = max(start, 0)
        while True:
            after = bisect_right(starts, start)
            if after:
                start = max(start, stops[after - 1])
            if start >= stop:
                return
            end = min(stop, starts[after]) if after < len(starts) else stop
            yield start, end
            start = end

    def count(self, start: int = 0, stop: int | None = None) -> int:
        """How many offsets from ``start`` up to but not ``stop`` the set has.

        All of them are counted at once; a part takes time for each interval in it.
        """
        starts, stops = self._starts, self._stops
        if not starts or start >= stops[-1]:
            return 0
        if start <= starts[0] and (stop is None or stop >= stops[-1]):
            return self._count
        if stop is None:
            stop = stops[-1]
        if start >= stop:
            return 0
        first = bisect_right(stops, start)
        after = bisect_left(starts, stop)
        if first == after:
            return 0
        within = sum(stops[first:after]) - sum(starts[first:after])
        return within - max(start - starts[first], 0) - max(stops[after - 1] - stop, 0)

    def discard_below(self, offset: int) -> None:
        """Forget everything below: from then on it counts as missing."""
        starts, stops = self._starts, self._stops
        gone = bisect_right(stops, offset)
        if gone:
            self._count -= sum(stops[:gone]) - sum(starts[:gone])
            del starts[:gone], stops[:gone]
        if starts and starts[0] < offset:
            self._count -= offset - starts[0]
            starts[0] = offset

    def ranges(self) -> tuple[tuple[int, int], ...]:
        """The intervals as (start, stop), from the lowest up."""
        return tuple(zip(self._starts, self._stops, strict=True))

    def copy(self) -> IntervalSet:
        copied = IntervalSet()
        copied._starts = self._starts.copy()
        copied._stops = self._stops.copy()
        copied._count = self._count
        return copied

    def __len__(self) -> int:
        """The number of intervals. For the number of offsets ask `count`."""
        return len(self._starts)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, IntervalSet):
            return NotImplemented
        return self._starts == other._starts and self._stops == other._stops

    def __repr__(self) -> str:
        return f"IntervalSet({list(self.ranges())})"


def covered_at_least(times: int, sets: Sequence[IntervalSet]) -> IntervalSet:
    """The offsets that are in at least ``times`` of the sets; none where there are fewer sets.

    Raises `InvalidArgumentError` below 1: every offset there is would be the answer.
    """
    if times < 1:
        raise InvalidArgumentError(f"offsets covered at least {times} times; it must be 1 or more")
    covered = IntervalSet()
    if times > len(sets):
        return covered
    # How the number of sets changes at each offset where it does. One set's start and another's
    # stop at the same offset are one step, or an interval there would be empty or cut in two.
    steps: dict[int, int] = {}
    for each in sets:
        for start, stop in each.ranges():
            steps[start] = steps.get(start, 0) + 1
            steps[stop] = steps.get(stop, 0) - 1
    depth = began = 0
    for offset in sorted(steps):
        before, depth = depth, depth + steps[offset]
        if before < times <= depth:
            began = offset
        elif depth < times <= before:
            covered.add_range(began, offset)
    return covered


def are_runs(places: Sequence[tuple[int, int]]) -> bool:
    """Whether it pays to ask for their `runs`: by the first two of them."""
    return len(places) > 1 and places[1][1] == places[0][1] + 1


def runs(places: Iterable[tuple[int, int]]) -> Iterator[tuple[int, int, int]]:
    """Pairs of a number and an offset, in any order and perhaps named twice, as number, start and
    stop of what lies side by side; from the lowest up."""
    ordered = sorted(places)
    if not ordered:
        return
    number, start = ordered[0]
    stop = start
    for place in ordered:
        if place == (number, stop):
            stop += 1
        elif place != (number, stop - 1):
            yield number, start, stop
            number, start = place
            stop = start + 1
    yield number, start, stop


def _negative(offset: int) -> InvalidArgumentError:
    return InvalidArgumentError(f"an offset is 0 or more, not {offset}")

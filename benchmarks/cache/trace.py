"""Requests of the shape that caches see: few keys are most of the traffic, and a scan goes through.

Pure: a trace is a function of its shape and its seed.
"""

from __future__ import annotations

import random
from array import array
from collections.abc import Iterator, Sequence
from typing import Final

from attrs import frozen

#: Spreads the ranks over the keys, so that keys used alike are no neighbours on disk. A power of 3:
#: no common factor with a round number of keys.
SPREAD: Final = 3**18

#: Values are cut from here: making each by itself would cost more than to put it.
POOL_BYTES: Final = 1 << 16
VALUE_BYTES: Final = 200
VALUE_BYTES_SPREAD: Final = 100


def zipf(items: int, exponent: float, generator: random.Random) -> Iterator[int]:
    """Ranks from 1 to ``items``, without end: rank k as often as ``k ** -exponent`` is of all.

    Rejection-inversion: a point under the hat ``x ** -exponent`` is drawn by inverting the integral
    of the hat, and rounded to a rank; it is rejected where the hat stands above that rank's bar,
    which is seldom. No table: a rank costs as much among a million as among ten.

    W. Hörmann, G. Derflinger: Rejection-inversion to generate variates from monotone discrete
    distributions. ACM Transactions on Modeling and Computer Simulation 6 (1996), 169-184.

    Raises:
        ValueError: ``items`` is below 1, or ``exponent`` is not above 0, or is 1, whose integral is
            another.
    """
    if items < 1 or exponent <= 0 or exponent == 1:
        raise ValueError(f"no such distribution: {items} items, exponent {exponent}")
    draw, power, rest = generator.random, -exponent, 1 - exponent
    inverse = 1 / rest

    def integral(x: float) -> float:
        return float(x**rest) / rest

    # The first bar is as wide as it is high, so that the hat starts exactly where it must.
    low, high = integral(1.5) - 1, integral(items + 0.5)
    # So near to the upper end of its rank a point is surely under the bar, whichever rank it is.
    near = 2 - (rest * (integral(2.5) - 2.0**power)) ** inverse
    while True:
        height = high + draw() * (low - high)
        x = (rest * height) ** inverse
        rank = min(items, max(1, int(x + 0.5)))
        if rank - x <= near or height >= integral(rank + 0.5) - rank**power:
            yield rank


@frozen
class Shape:
    """What a trace looks like."""

    keys: int = 1_000_000
    exponent: float = 0.99
    write_share: float = 0.1
    before_requests: int = 1_000_000
    """By Zipf, until the scan begins."""
    scan_keys: int = 250_000
    """Keys that nobody has asked for before, nor will again, each read once, in order."""
    scan_share: float = 0.5
    """Of the requests during the scan; the others go on by Zipf."""
    after_requests: int = 500_000
    """By Zipf again."""


@frozen
class Phase:
    name: str
    start: int
    stop: int


@frozen
class Trace:
    """Requests, each a number: twice the key, and 1 more where it is a write.

    Keys from ``shape.keys`` upwards are those of the scan.
    """

    shape: Shape
    requests: Sequence[int]
    phases: tuple[Phase, ...]
    """Before, during and after the scan."""

    def is_zipf(self, request: int) -> bool:
        return request >> 1 < self.shape.keys


def make_trace(seed: int, shape: Shape) -> Trace:
    """The trace of this seed."""
    generator = random.Random(seed)
    popular = _popular(shape, generator)
    requests = array("I")
    marks = [0]
    for count, scan_keys in (
        (shape.before_requests, 0),
        (0, shape.scan_keys),
        (shape.after_requests, 0),
    ):
        requests.extend(next(popular) for _ in range(count))
        requests.extend(_scan(shape, scan_keys, popular, generator))
        marks.append(len(requests))
    names = ("before", "scan", "after")
    phases = (Phase(*ends) for ends in zip(names, marks[:-1], marks[1:], strict=True))
    return Trace(shape, requests, tuple(phases))


def key_of_rank(rank: int, keys: int) -> int:
    """The key that is the rank-th most wanted."""
    return rank * SPREAD % keys


def _popular(shape: Shape, generator: random.Random) -> Iterator[int]:
    draw = generator.random
    for rank in zipf(shape.keys, shape.exponent, generator):
        yield key_of_rank(rank, shape.keys) << 1 | (draw() < shape.write_share)


def _scan(
    shape: Shape, scan_keys: int, popular: Iterator[int], generator: random.Random
) -> Iterator[int]:
    for key in range(shape.keys, shape.keys + scan_keys):
        while generator.random() >= shape.scan_share:
            yield next(popular)
        yield key << 1


class Values:
    """The value of each key: always the same bytes, of sizes that differ."""

    def __init__(self, seed: int) -> None:
        self._pool = random.Random(seed).randbytes(POOL_BYTES + VALUE_BYTES + VALUE_BYTES_SPREAD)

    def of(self, key: int) -> bytes:
        """From 100 to 300 bytes, 200 on average."""
        start = _mixed(key) % POOL_BYTES
        return self._pool[start : start + size_of_value(key)]


def size_of_value(key: int) -> int:
    return VALUE_BYTES - VALUE_BYTES_SPREAD + (_mixed(key) >> 16) % (2 * VALUE_BYTES_SPREAD + 1)


def _mixed(key: int) -> int:
    """Multiplicative hashing: neighbours get numbers that have nothing to do with each other."""
    return key * 0x9E37_79B1 & 0xFFFF_FFFF

"""How much at once, and how fast: what only decides, and the reading of a body within its limit."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Final

from attrs import define, field

from mpreg.errors import TooManyRequestsError, ValueTooLargeError

__all__ = ["Counter", "Pace", "Rates", "TokenBucket", "read_body"]

#: Addresses whose rate is remembered; the one that asked least recently is forgotten.
ADDRESSES_MAX: Final = 10_000


@define
class TokenBucket:
    """Lets through ``rate`` a second on average, and ``burst`` at once after a rest."""

    rate: float
    burst: float
    _level: float
    _at: float

    @classmethod
    def full(cls, rate: float, now: float) -> TokenBucket:
        burst = max(1.0, rate)
        return cls(rate, burst, burst, now)

    def take(self, now: float) -> float:
        """0.0, and one is taken; or for how many seconds there is none."""
        self._level = min(self.burst, self._level + max(0.0, now - self._at) * self.rate)
        # Time that goes backwards gives nothing, and takes nothing away.
        self._at = max(self._at, now)
        if self._level >= 1.0:
            self._level -= 1.0
            return 0.0
        return (1.0 - self._level) / self.rate


@define(eq=False)
class Rates:
    """A bucket for each address."""

    _rate: float
    _buckets: OrderedDict[str, TokenBucket] = field(factory=OrderedDict)

    def take(self, address: str, now: float) -> None:
        """
        Raises:
            TooManyRequestsError: it asks faster than it may.
        """
        bucket = self._buckets.setdefault(address, TokenBucket.full(self._rate, now))
        self._buckets.move_to_end(address)
        if len(self._buckets) > ADDRESSES_MAX:
            self._buckets.popitem(last=False)
        if wait := bucket.take(now):
            raise TooManyRequestsError(
                f"more than {self._rate:g} requests a second from one address; the next one may "
                f"come in {wait:.2f} seconds"
            )


@define
class Pace:
    """How long somebody is still waited for who sends something: at most ``seconds_max``, and less
    where it comes more slowly than ``rate`` a second. All of it takes ``seconds_max`` beyond what
    it would at that rate, however it is spread."""

    rate: float
    seconds_max: float
    seconds_left: float = field(init=False)

    def __attrs_post_init__(self) -> None:
        self.seconds_left = self.seconds_max

    def came(self, size: int, waited_seconds: float) -> None:
        """So much has come after so long a wait."""
        left = max(0.0, self.seconds_left - waited_seconds) + size / self.rate
        self.seconds_left = min(left, self.seconds_max)


@define(eq=False)
class Counter:
    """How many there are at the same time, and how many there may be."""

    maximum: int
    what: str
    count: int = 0

    @contextmanager
    def one(self) -> Iterator[None]:
        """
        Raises:
            TooManyRequestsError: there are as many as there may be.
        """
        if self.count >= self.maximum:
            raise TooManyRequestsError(f"there are {self.count} {self.what} already, the most")
        self.count += 1
        try:
            yield
        finally:
            self.count -= 1


async def read_body(
    chunks: AsyncIterator[bytes], bytes_max: int, announced: str | None = None
) -> bytes:
    """All of it, as long as it is not over ``bytes_max``; no more than that is held.

    ``announced`` is the header ``Content-Length``.

    Raises:
        ValueTooLargeError: it is over.
    """
    too_large = ValueTooLargeError(f"a body of more than {bytes_max} bytes (body_bytes_max)")
    if announced is not None and announced.isdecimal() and int(announced[:20]) > bytes_max:
        raise too_large
    parts, size = [], 0
    async for chunk in chunks:
        size += len(chunk)
        if size > bytes_max:
            raise too_large
        parts.append(chunk)
    return b"".join(parts)

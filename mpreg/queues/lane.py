"""The messages of one priority: which there are, which are finished, how large they are."""

from __future__ import annotations

from attrs import define, field

from mpreg.queues.intervals import IntervalSet
from mpreg.queues.send_times import SendTimes

__all__ = ["Lane"]


@define(eq=False)
class Lane:
    """The messages of one priority: one log."""

    number: int
    first: int = 0
    """The first offset that is still in the log."""
    end: int = 0
    """The offset that the next message will get."""
    finished: IntervalSet = field(factory=IntervalSet)
    """Messages that nobody can ask for any more."""
    kept: set[int] = field(factory=set)
    """Offsets below ``first`` whose messages were copied out of the log."""
    send_times: SendTimes = field(factory=SendTimes)
    measured: int = 0
    """The bytes of the messages below ``measured_to`` that are not finished."""
    measured_to: int = 0
    _bytes_most: int = 0
    """What all of them have at most, while they are measured again."""

    @property
    def size(self) -> int:
        """Messages that are not finished."""
        return self.end - self.finished.count()

    @property
    def oldest_sent_at(self) -> float | None:
        """When the first message that is not finished was sent; None where there is none, and where
        nothing is known of it yet."""
        first = self.finished.first_missing()
        return self.send_times.of(first) if first < self.end else None

    @property
    def is_measured(self) -> bool:
        return self.measured_to >= self.end

    @property
    def bytes(self) -> int:
        """Of the messages that are not finished: never less than they have."""
        return self.measured if self.is_measured else max(self._bytes_most, self.measured)

    def append(self, count: int, size: int) -> None:
        """Messages were sent."""
        if self.is_measured:
            self.measured += size
            self.measured_to += count
        else:
            self._bytes_most += size
        self.end += count

    def finish(self, offset: int, size: int) -> None:
        if self.finished.add(offset):
            self._bytes_most -= size
            if offset < self.measured_to:
                self.measured -= size
                if not size:
                    # It is damaged, and nobody knows how much it counted for.
                    self.forget_bytes()

    def finish_run(self, start: int, stop: int, size: int) -> None:
        """`finish` of all from ``start`` up to ``stop``, which are of so many bytes together. None
        of them may be finished, and the lane is to be measured."""
        self.finished.add_range(start, stop)
        self._bytes_most -= size
        self.measured -= size

    def measure(self, offset: int, size: int) -> None:
        """Count one more message, in the order of the offsets; one that is counted is left."""
        if offset < self.measured_to:
            return
        self.measured_to = offset + 1
        if offset not in self.finished:
            self.measured += size

    def forget_bytes(self, measured_to: int = 0) -> None:
        """What is above is to be measured again; what is below is finished."""
        self._bytes_most = self.bytes
        self.measured = 0
        self.measured_to = measured_to

"""What the worker tells the process that kills it: one JSON object a line."""

from __future__ import annotations

import os
from collections.abc import Iterator

import msgspec

__all__ = ["Acked", "Finished", "LineSplitter", "Message", "Progress", "Reporter", "Restored"]


class Restored(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent once, before any work, when the first messages are received."""

    seconds: float
    """From opening the registry to knowing what is left."""
    completed: tuple[int, ...]
    """Jobs whose completion is in the log, in the log's order."""
    returned: int
    """Messages received that had been handed out before."""
    attempt_max: int
    """The highest attempt among the messages received."""
    commit_sequence: int
    fsyncs: int


class Acked(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent for each job, after its ack and not before."""

    job: int
    seconds: float
    """From sending the transaction to its ack."""


class Progress(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent every now and then."""

    commit_sequence: int
    fsyncs: int
    """Of this process."""


class Finished(msgspec.Struct, frozen=True, kw_only=True, tag=True):
    """Sent last, when nothing is left to do and the registry is closed."""

    commit_sequence: int
    fsyncs: int


Message = Restored | Acked | Progress | Finished

_decoder: msgspec.json.Decoder[Message] = msgspec.json.Decoder(Message)


class Reporter:
    """Writes messages to a pipe, at once: what stood in a buffer would die with the process."""

    def __init__(self, file: int) -> None:
        self._file = file

    def tell(self, message: Message) -> None:
        """Blocks while the pipe is full, which the reader sees to that it seldom is."""
        line = memoryview(msgspec.json.encode(message) + b"\n")
        while line:
            line = line[os.write(self._file, line) :]


class LineSplitter:
    """Bytes as they come, messages as they are complete."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> Iterator[Message]:
        """The messages that ``data`` completes. The last line of a killed process may be cut off;
        it is never completed, and so never counts."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        for line in lines:
            yield _decoder.decode(line)

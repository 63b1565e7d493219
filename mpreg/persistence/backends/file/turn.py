"""One at a time on the files of a directory, and only the newest. Within this process.

Other processes are kept away by the lock on the data directory. Within the process there can be an
older writer all the same: one whose commit was given up after the grace time, and whose thread is
still at it when the journal is opened again. It finishes first, and what it has written counts; or
it comes second, and finds that a newer generation has taken over.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final
from weakref import WeakValueDictionary

__all__ = ["Turn", "turn_in"]


class Turn:
    """Whose turn it is in one directory."""

    def __init__(self) -> None:
        self.generation = 0
        """Of the newest writer in this process: no other may write. Looked at while it is taken."""
        self._lock = threading.Lock()

    @contextmanager
    def taken(self, timeout_seconds: float = -1) -> Iterator[bool]:
        """Wait for the turn, and keep it while the block runs. False: the time has run out."""
        taken = self._lock.acquire(timeout=min(timeout_seconds, threading.TIMEOUT_MAX))
        try:
            yield taken
        finally:
            if taken:
                self._lock.release()


_turns: Final[WeakValueDictionary[Path, Turn]] = WeakValueDictionary()
_finding: Final = threading.Lock()


def turn_in(directory: Path) -> Turn:
    """The turn of a directory, the same for all who ask while one of them has it."""
    place = directory.resolve()
    with _finding:
        found = _turns.get(place)
        if found is None:
            found = _turns[place] = Turn()
        return found

"""What the device is waited for, on a thread of its own: beside the one that commits."""

from __future__ import annotations

import threading
from collections.abc import Callable

import outcome

__all__ = ["Aside"]


class Aside:
    """One function on a thread of its own, which ends with it.

    The thread is a daemon: whatever the program forgets to close, the process ends.

    Raises:
        OSError: there are too many threads. Nothing was begun.
    """

    def __init__(self, name: str, function: Callable[[], None]) -> None:
        self._function = function
        self._outcome: outcome.Outcome[None] | None = None
        self._thread = threading.Thread(target=self._work, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError as error:
            raise BlockingIOError(str(error)) from error

    def _work(self) -> None:
        self._outcome = outcome.capture(self._function)

    @property
    def has_ended(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        """Until it has ended. Raises what the function has raised."""
        self._thread.join()
        if self._outcome is not None:
            result, self._outcome = self._outcome, None
            result.unwrap()

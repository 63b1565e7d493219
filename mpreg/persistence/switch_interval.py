"""Keeping the commit's thread from starving beside a busy event loop.

A thread that wants the interpreter lock asks for it only after `sys.getswitchinterval` seconds in
which nobody else took it; an event loop takes and drops it with every ``select``, so under load the
thread's timer keeps starting anew. With a short interval it gets its turn. The setting belongs to
the process: the lowest wish of all open registries holds, and the last to close puts back what the
first one found.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["lowered_switch_interval"]

_lock = threading.Lock()
_wishes: list[float] = []
_before = 0.0


@contextmanager
def lowered_switch_interval(seconds: float | None) -> Iterator[None]:
    """Hold the process's switch interval at ``seconds`` or below; None does nothing."""
    if seconds is None:
        yield
        return
    _add(seconds)
    try:
        yield
    finally:
        _remove(seconds)


def _add(seconds: float) -> None:
    global _before
    with _lock:
        if not _wishes:
            _before = sys.getswitchinterval()
        _wishes.append(seconds)
        _apply()


def _remove(seconds: float) -> None:
    with _lock:
        _wishes.remove(seconds)
        _apply()


def _apply() -> None:
    sys.setswitchinterval(min([_before, *_wishes]))
